"""Go on with a training at the rate that ``clrtool.range_test(..., keep_state=True)`` names, against a grid of rates.

    python -m tests.benchmarks.under_way measure [NAME ...]   the grid, the test, and going on, into under_way.json
    python -m tests.benchmarks.under_way report               write UNDER_WAY.md

Three trainings are stopped where they stand. From weights, statistics and optimizer as they are then, plain PyTorch
trains the epochs that are left with every power of two as max_lr, 2 seeds of batches each, and so with the rate that
was named, by the plan's triangular2 from max_lr / 4. With L0 the held-out loss where it was stopped, or that of the best constant
answer where it is lower, L the mean after the epochs left and L* the lowest of the grid, the loss of gain is 100 (L - L*) / (L0 - L*).
"""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from tests.benchmarks.regret.problems import Split, Transformer, digits, perceptron, table, waves

GRID_FILE, REPORT = (Path(__file__).with_name(name) for name in ("under_way.json", "UNDER_WAY.md"))
SEEDS, TESTED, BATCH = (0, 1), (0,), 64


@dataclass(frozen=True)
class Problem:
    """A training that is stopped after ``before`` epochs, with ``left`` to go.

    Args:
        then: the data that it goes on with.
        lr: of the epochs before, along the first part of a cosine over all of them.
        grid: powers of two of max_lr, first and last.
    """

    what: str
    model: Callable[[], nn.Module]
    optimizer: Callable[..., torch.optim.Optimizer]
    data: Callable[[], Split]
    then: Callable[[], Split]
    before: int
    left: int
    lr: float
    grid: tuple[int, int]


def convnet() -> nn.Module:
    """Three convolutions with batch norm."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((1, 16), (16, 32), (32, 32)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 10))


@functools.cache
def noisy_digits() -> Split:
    """6,000 and 1,188 images: each of the handwritten digits four times, with other noise."""
    x, y, x_val, y_val = digits()
    g = torch.Generator().manual_seed(5)
    many, held = x.repeat(4, 1, 1, 1), x_val.repeat(4, 1, 1, 1)
    noisy = [each + 0.45 * torch.randn(each.shape, generator=g) for each in (many, held)]
    return noisy[0], y.repeat(4), noisy[1], y_val.repeat(4)


@functools.cache
def relabelled_table() -> Split:
    """The rows of the table with the labels of another network."""
    x, _, x_val, _ = table()
    g = torch.Generator().manual_seed(11)
    first, second = torch.randn(20, 32, generator=g) / 20**0.5, torch.randn(32, 5, generator=g)
    y, y_val = (
        (torch.tanh(2 * each @ first) @ second + 0.8 * torch.randn(len(each), 5, generator=g)).argmax(1)
        for each in (x, x_val)
    )
    return x, y, x_val, y_val


sgd = functools.partial(torch.optim.SGD, momentum=0.9, weight_decay=5e-4)
PROBLEMS = {
    "noisy-digits-convnet-sgd": Problem(
        "a convnet with batch norm, SGD with momentum, stopped at a third",
        convnet, sgd, noisy_digits, noisy_digits, 3, 6, 0.05, (-10, -4),
    ),
    "waves-transformer-adamw": Problem(
        "a transformer, AdamW, stopped at a third",
        lambda: Transformer(2, 24, 6), functools.partial(torch.optim.AdamW, weight_decay=0.05), waves, waves, 3, 6, 2e-3,
        (-11, -4),
    ),
    "other-labels-mlp-adam": Problem(
        "an MLP, Adam, trained to its end, and then the labels are others",
        lambda: perceptron(20, 5), torch.optim.Adam, table, relabelled_table, 8, 8, 3e-3, (-10, -3),
    ),
}  # fmt: skip


def epoch_orders(samples: int, seed: int, epochs: int) -> Any:
    """Rows of batch after batch; what does not fill one is left out."""
    order = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        yield from torch.randperm(samples, generator=order)[: samples // BATCH * BATCH].split(BATCH)


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    split: Split,
    epochs: int,
    seed: int,
    lr_at: Callable[..., float],
) -> float:
    """Train in place; the held-out loss at the end, infinite where it is not finite."""
    x, y, _, _ = split
    total = len(x) // BATCH * epochs
    torch.manual_seed(seed)
    model.train()
    for t, rows in enumerate(epoch_orders(len(x), seed, epochs)):
        for group in optimizer.param_groups:
            group["lr"] = lr_at(t, total)
        optimizer.zero_grad(set_to_none=True)
        functional.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
    return held_out(model, split)


@torch.no_grad()
def held_out(model: nn.Module, split: Split) -> float:
    model.eval()
    loss = float(functional.cross_entropy(model(split[2]), split[3]))
    model.train()
    return loss if math.isfinite(loss) else math.inf


@functools.cache
def _stopped(name: str) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Model and optimizer as they stand when the training is stopped."""
    problem = PROBLEMS[name]
    torch.set_num_threads(1)
    torch.manual_seed(100)
    model = problem.model()
    optimizer = problem.optimizer(model.parameters(), lr=problem.lr)
    share = problem.before / (problem.before + problem.left) if problem.data is problem.then else 1.0
    train(model, optimizer, problem.data(), problem.before, 100,
          lambda t, total: problem.lr * (0.5 + 0.5 * math.cos(math.pi * share * t / total)))  # fmt: skip
    return model, optimizer


def stopped(name: str) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A copy of both."""
    return copy.deepcopy(_stopped(name))


def triangular2(max_lr: float) -> Callable[[int, int], float]:
    """The rate of iteration t of all that are left: two cycles, the second half as high."""

    def lr_at(t: int, total: int) -> float:
        step = total / 4
        cycle = math.floor(1 + t / (2 * step))
        height = max(0.0, 1 - abs(t / step - 2 * cycle + 1)) / 2 ** (cycle - 1)
        return max_lr / 4 + 0.75 * max_lr * height

    return lr_at


def gone_on(name: str, max_lr: float) -> float:
    """Mean held-out loss of both seeds after the epochs left."""
    problem, finals = PROBLEMS[name], []
    for seed in SEEDS:
        model, optimizer = stopped(name)
        finals.append(train(model, optimizer, problem.then(), problem.left, seed, triangular2(max_lr)))
    return mean(finals)


def measured() -> dict[str, Any]:
    """What is in the file."""
    return json.loads(GRID_FILE.read_text()) if GRID_FILE.exists() else {}


def measure(names: Sequence[str]) -> None:
    """The held-out loss of every power of two, what the tool says, and what became of that; nothing is repeated."""
    for name in names:
        problem, found = PROBLEMS[name], measured()
        known = found.setdefault(name, {"before": held_out(stopped(name)[0], problem.then()), "grid": {}, "said": {}})
        for power in map(str, range(problem.grid[0], problem.grid[1] + 1)):
            if power not in known["grid"]:
                known["grid"][power] = gone_on(name, 2.0 ** int(power))
                GRID_FILE.write_text(json.dumps(found, indent=1) + "\n")
        for seed in TESTED:
            if str(seed) not in known["said"]:
                said = tested(name, seed)
                final = known["before"] if said["max_lr"] is None else gone_on(name, said["max_lr"])
                known["said"][str(seed)] = said | {"final": final}
                GRID_FILE.write_text(json.dumps(found, indent=1) + "\n")


def loaders(name: str) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """What the tool is given."""
    x, y, x_val, y_val = PROBLEMS[name].then()
    train_set, heldout = TensorDataset(x, y), TensorDataset(x_val, y_val)
    return DataLoader(train_set, batch_size=BATCH, shuffle=True, drop_last=True), DataLoader(heldout, batch_size=500)


def bytes_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> str:
    """Hash of weights, statistics and all that the optimizer holds."""
    content = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, Tensor):
            content.update(value.detach().contiguous().numpy().tobytes())
        elif isinstance(value, dict):
            for key in value:
                content.update(repr(key).encode())
                add(value[key])
        elif isinstance(value, list | tuple):
            for each in value:
                add(each)
        else:
            content.update(repr(value).encode())

    add(model.state_dict())
    add(optimizer.state_dict())
    return content.hexdigest()


def tested(name: str, seed: int) -> dict[str, Any]:
    """What the tool says of a training that is stopped there, and whether it left it as it was."""
    import clrtool

    model, optimizer = stopped(name)
    before = bytes_of(model, optimizer), torch.get_rng_state()
    found = clrtool.range_test(model, optimizer, *loaders(name), epochs=PROBLEMS[name].left, keep_state=True, seed=seed,
                               progress=False)  # fmt: skip
    untouched = before[0] == bytes_of(model, optimizer) and torch.equal(before[1], torch.get_rng_state())
    way, training = found.record.going_on, PROBLEMS[name].left * found.record.sweep.iterations_per_epoch
    return {"max_lr": found.max_lr, "verdict": found.verdict.word, "iterations": found.record.iterations / training,
            "warm_up": None if way is None or way.warm_up is None else way.warm_up.needed,
            "untouched": untouched}  # fmt: skip


def constant(split: Split) -> float:
    """The held-out loss of the frequencies of the classes."""
    shares = torch.bincount(split[3]).double() / len(split[3])
    return -float((shares * shares.clamp(min=1e-12).log()).sum())


def report() -> None:
    """Write the table."""
    rows, losses = list[str](), list[float]()
    for name, known in measured().items():
        if not known["said"]:
            continue
        best = min(known["grid"], key=known["grid"].__getitem__)
        before, lowest = known["before"], known["grid"][best]
        for seed, said in known["said"].items():
            lost = 100 * (said["final"] - lowest) / (min(before, constant(PROBLEMS[name].then())) - lowest)
            losses.append(max(0.0, lost))
            power = "none" if said["max_lr"] is None else f"2^{math.log2(said['max_lr']):.1f}"
            warm = {True: "needed", False: "not needed", None: "not tried"}[said["warm_up"]]
            cells = (name, seed, f"{before:.4f}", power, f"{said['final']:.4f}", f"{lowest:.4f} at 2^{best}", f"{lost:.1f}",
                     said["verdict"], warm, f"{said['iterations']:.0%}", "yes" if said["untouched"] else "no")  # fmt: skip
            rows.append(f"| {' | '.join(cells)} |")
    REPORT.write_text(_text(rows, losses))


def _text(rows: Sequence[str], losses: Sequence[float]) -> str:
    what = "\n".join(f"- `{name}`: {problem.what}; {problem.left} epochs left." for name, problem in PROBLEMS.items())
    head = ("problem", "seed", "loss before", "max_lr", "loss after", "best of the grid", "lost, %", "verdict",
            "re-warm-up", "cost", "left as it was")  # fmt: skip
    how = " ".join((__doc__ or "").partition("Three")[2].split())
    return f"""# A training under way

Written by `python -m tests.benchmarks.under_way report`, on a CPU.

Three {how}

{what}

Measured: {len(losses)} of {len(PROBLEMS) * len(TESTED)} tests. Mean {mean(losses):.1f} %, worst {max(losses):.1f} % of the gain lost. The cost is a share of the epochs left, which are short
here: a test has at least 500 iterations. "Left as it was" compares a hash of weights, statistics, optimizer and the global
generator before and after the test.

| {" | ".join(head)} |
|{" --- |" * len(head)}
{chr(10).join(rows)}
"""


if __name__ == "__main__":
    report() if sys.argv[1] == "report" else measure(sys.argv[2:] or [*PROBLEMS])
