"""The truth: every value at powers of two of max_lr, trained to the end in plain PyTorch, as grids.json holds it.

    python -m tests.benchmarks.vary.grids [NAME ...]

Each value's grid grows on both sides of its best rate until a neighbour loses more than ``CLEARLY_WORSE`` per cent of
the gain over a constant answer. What the file has already is left as it is.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from clrtool.files import write_whole
from tests.benchmarks.vary.problems import DATA, MODELS, PROBLEMS, Problem
from tests.benchmarks.workloads.score import lr_at

GRIDS = Path(__file__).with_name("grids.json")
SEEDS, SCHEDULE = 2, "triangular2"
CLEARLY_WORSE = 15.0
LOWEST, HIGHEST = -20, 6
LOSSES = {"cross_entropy": functional.cross_entropy, "SmoothL1Loss": functional.smooth_l1_loss}
# max_lr where a grid begins, as a power of two.
BEGIN = {"SGD": -4, "Adam": -8, "AdamW": -9}


def train(config: Mapping[str, Any], power: float, seed: int, share: float = 1.0) -> float:
    """Held-out loss after triangular2 up to ``2**power`` from a quarter of it; infinite where a loss is not finite.

    Args:
        share: of the training after which it stops, on the same schedule.
    """
    torch.set_num_threads(1)
    x, y, x_held, y_held = DATA[config["data"]["args"]["name"]]()
    loss_of, batch, top = LOSSES[config["loss"]["name"]], config["data"]["batch_size"], 2.0**power
    torch.manual_seed(seed)
    model = MODELS[config["model"]["args"]["name"]]()
    kind, args = config["optimizer"]["name"], config["optimizer"]["args"]
    rated: dict[float, list[nn.Parameter]] = {}
    for each, ratio in ratios(model, config["optimizer"]):
        rated.setdefault(ratio, []).append(each)
    groups = [{"params": each, "ratio": ratio} for ratio, each in rated.items()]
    optimizer = getattr(torch.optim, kind)(groups, lr=top, **args)
    order, per_epoch = torch.Generator().manual_seed(seed), len(x) // batch
    total, step = round(config["plan"]["epochs"] * per_epoch), 0
    while step < share * total:
        for rows in torch.randperm(len(x), generator=order)[: per_epoch * batch].split(batch):
            if step >= share * total:
                break
            for group in optimizer.param_groups:
                group["lr"] = group["ratio"] * lr_at(SCHEDULE, step, total, top / 4, top)
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of(model(x[rows]), y[rows])
            if not torch.isfinite(loss):
                return math.inf
            loss.backward()
            optimizer.step()
            step += 1
    model.eval()
    with torch.no_grad():
        value = float(loss_of(torch.cat([model(part) for part in x_held.split(500)]), y_held))
    return value if math.isfinite(value) else math.inf


def ratios(model: nn.Module, wanted: Mapping[str, Any]) -> Iterator[tuple[nn.Parameter, float]]:
    """The parameters that train, each with the ratio of its rate to max_lr."""
    for name, each in model.named_parameters():
        if each.requires_grad:
            below = 0 if name.startswith(("head", "norm")) else 2 - int(name.split(".")[1]) if "blocks" in name else 3
            ratio = wanted.get("layer_decay", 1.0) ** below  # of an encoder, which alone has one here
            for group in wanted.get("groups", ()):
                ratio *= group["lr_ratio"] if any(fnmatch(name, pattern) for pattern in group["params"]) else 1.0
            yield each, ratio


def constant_answer(config: Mapping[str, Any]) -> float:
    """The held-out loss of the best constant answer."""
    _, _, _, y = DATA[config["data"]["args"]["name"]]()
    if config["loss"]["name"] == "cross_entropy":
        share = torch.bincount(y).float() / len(y)
        return float(-(share[share > 0] * share[share > 0].log()).sum())
    around: Tensor = y.median() + torch.linspace(-3, 3, 601)
    return float(min(functional.smooth_l1_loss(each.expand_as(y), y) for each in around))


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def grid_of(config: Mapping[str, Any], begin: int, constant: float) -> dict[int, list[float]]:
    """Losses by power of two, from ``begin`` outwards."""
    grid: dict[int, list[float]] = {}

    def add(power: int) -> None:
        grid[power] = [train(config, power, seed) for seed in range(SEEDS)]

    def is_worse(power: int) -> bool:
        best = min(map(mean, grid.values()))
        return 100 * (mean(grid[power]) - best) > CLEARLY_WORSE * (constant - best)

    add(begin)
    add(begin + 1)
    while True:
        best = min(grid, key=lambda power: mean(grid[power]))
        low, high = min(grid), max(grid)
        if high < HIGHEST and not (high > best and is_worse(high)):
            add(high + 1)
        elif low > LOWEST and not (low < best and is_worse(low)):
            add(low - 1)
        else:
            return dict(sorted(grid.items()))


def whole(name: str, problem: Problem) -> dict[str, Any]:
    """What grids.json holds of a problem."""
    constant, begin = constant_answer(problem.config), BEGIN[problem.config["optimizer"]["name"]]
    found: dict[str, Any] = {"key": problem.key, "constant": constant, "grids": {}}
    for value in problem.values:
        grid = grid_of(problem.with_value(value), begin, constant)
        begin = min(grid, key=lambda power: mean(grid[power]))
        found["grids"][str(value)] = {str(power): losses for power, losses in grid.items()}
        print(name, value, {power: round(mean(losses), 4) for power, losses in grid.items()}, flush=True)
    return found


def main() -> None:
    for name in sys.argv[1:] or PROBLEMS:
        known = json.loads(GRIDS.read_text()) if GRIDS.is_file() else {}
        if name not in known:
            entry = whole(name, PROBLEMS[name])
            known = json.loads(GRIDS.read_text()) if GRIDS.is_file() else {}  # another process may have added to it
            write_whole(GRIDS, json.dumps({**known, name: entry}, indent=1) + "\n")


if __name__ == "__main__":
    main()
