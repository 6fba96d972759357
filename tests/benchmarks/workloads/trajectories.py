"""The held-out losses of runs at flat rates, for every power of two: what the rules of a race can be tried on.

    python -m tests.benchmarks.workloads.trajectories FILE.json [--jobs FILE.py] [--names NAME ...] [--seeds 100 101]

Each run is a plain loop of torch with the running average of clrtool, read after so many iterations. A race of any rules
is then replayed from the file in milliseconds. Ten minutes a seed on one core; what the file has is kept.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clrtool.engine.rangetest.flat_run import WARM_UP
from clrtool.engine.training.average import RunningAverage, batch_norms, estimating
from clrtool.engine.training.trainer import ESTIMATED
from clrtool.files import write_whole
from tests.benchmarks.workloads.recommend import load

POWERS = range(-15, 5)
HORIZONS = (8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
HELDOUT = 500


def batches(job: Any, data: Any, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Epoch after epoch, shuffled, without the last and smaller batch."""
    x, y, *_ = data
    generator = torch.Generator().manual_seed(seed)
    whole = len(x) // job.batch_size * job.batch_size
    while True:
        for rows in torch.randperm(len(x), generator=generator)[:whole].split(job.batch_size):
            yield x[rows], y[rows]


def run(job: Any, data: Any, seed: int, lr: float) -> dict[str, Any]:
    """One run: how far it came, its first loss, and of the average after each horizon the held-out loss and the spread."""
    torch.manual_seed(seed)
    model = job.model()
    optimizer = job.optimizer(model, 1.0)
    ratios = [group["lr"] for group in optimizer.param_groups]
    average, losses, spreads, first = RunningAverage(model), dict[int, float](), dict[int, float](), math.nan
    untrained = spread(job, data, seed, model, average)
    model.train()
    for place, (inputs, targets) in enumerate(islice(batches(job, data, seed), HORIZONS[-1])):
        for group, ratio in zip(optimizer.param_groups, ratios, strict=True):
            group["lr"] = ratio * lr * min(1.0, (place + 1) / WARM_UP)
        optimizer.zero_grad(set_to_none=True)
        loss = job.loss(model(inputs), targets)
        first = float(loss.detach()) if place == 0 else first
        if not torch.isfinite(loss):
            return {"taken": place, "first": first, "losses": losses, "spreads": spreads}
        loss.backward()
        if job.clip:
            nn.utils.clip_grad_norm_(model.parameters(), job.clip)
        optimizer.step()
        average.update()
        if place + 1 in HORIZONS:
            losses[place + 1] = read(job, data, seed, model, average)
            spreads[place + 1] = spread(job, data, seed, model, average) / (untrained or math.nan)
    return {"taken": HORIZONS[-1], "first": first, "losses": losses, "spreads": spreads}


@torch.no_grad()
def read(job: Any, data: Any, seed: int, model: nn.Module, average: RunningAverage) -> float:
    """Held-out loss of the averaged weights, with statistics of batch norm that belong to them."""
    rows = torch.randperm(len(data[2]), generator=torch.Generator().manual_seed(7))[:HELDOUT]
    x, y = data[2][rows], data[3][rows]
    with average.in_place():
        with estimating(batch_norms(model)):
            for inputs, _ in islice(batches(job, data, seed), ESTIMATED):
                model(inputs)
        model.eval()
        value = float(job.loss(torch.cat([model(part) for part in x.split(HELDOUT)]), y))
        model.train()
    return value if math.isfinite(value) else math.inf


@torch.no_grad()
def spread(job: Any, data: Any, seed: int, model: nn.Module, average: RunningAverage) -> float:
    """How far the answers to the first batch differ from input to input."""
    (inputs, _), *_ = islice(batches(job, data, seed), 1)
    with average.in_place():
        model.eval()
        outputs = model(inputs)
        model.train()
    return float(torch.as_tensor(outputs).float().std(0, correction=0).mean())


def constant(targets: Tensor) -> float:
    """The cross-entropy of an answer with the frequencies of the classes: what a race compares with, not an accuracy."""
    shares = torch.bincount(targets).float() / len(targets)
    return float(torch.special.entr(shares).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--jobs", type=Path)
    parser.add_argument("--names", nargs="*")
    parser.add_argument("--seeds", nargs="*", type=int, default=[100, 101])
    asked = parser.parse_args()
    torch.set_num_threads(1)
    jobs = load(asked.jobs).WORKLOADS
    found = json.loads(asked.file.read_text()) if asked.file.exists() else {}
    for name in asked.names or jobs:
        job, data = jobs[name], jobs[name].data()
        known = found.setdefault(name, {"training": len(data[0]) // job.batch_size * job.epochs, "seeds": {}})
        if job.accuracy:
            known["constant"] = constant(data[3])
        for seed in asked.seeds:
            if str(seed) not in known["seeds"]:
                known["seeds"][str(seed)] = {str(power): run(job, data, seed, 2.0**power) for power in POWERS}
                write_whole(asked.file, json.dumps(found))
        write_whole(asked.file, json.dumps(found))
        print(name, flush=True)


if __name__ == "__main__":
    main()
