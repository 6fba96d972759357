"""Go on with a training at the rate that ``clrtool.range_test(..., keep_state=True)`` names, against a grid of rates.

    python -m tests.benchmarks.under_way measure [NAME ...]   the grid, the test, and going on, into under_way.json
    python -m tests.benchmarks.under_way report               write UNDER_WAY.md

Trainings are stopped where they stand. From weights, statistics and optimizer as they are then, plain PyTorch trains the
epochs that are left with every power of two as max_lr, 2 seeds of batches each, and so with the rate that was named, by
the plan's triangular2 from max_lr / 4. With L0 the held-out loss where it was stopped, or that of the frequencies of the
classes where that is lower, L the mean after the epochs left and L* the lowest of the grid, the loss of gain is
100 (L - L*) / (L0 - L*).
"""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from clrtool.words import count
from tests.benchmarks.regret.problems import Split, Transformer, digits, perceptron, table, waves
from tests.benchmarks.workloads import unseen
from tests.benchmarks.workloads.jobs import WORKLOADS, Workload, by
from tests.benchmarks.workloads.read_off import ORACLE, oracle_of
from tests.benchmarks.workloads.trajectories import constant

GRID_FILE, REPORT = (Path(__file__).with_name(name) for name in ("under_way.json", "UNDER_WAY.md"))
SEEDS, TESTED = (0, 1), (0, 1)
# Powers of two around the rate that a job was trained with so far.
BELOW, ABOVE = 5, 3
# A long one, and one that is on its plateau for a third of its epochs and more.
LEFT_OUT = ("long-cnn-sgd", "adding-lstm-rmsprop")


@dataclass(frozen=True)
class Problem:
    """A training that is stopped after ``before`` epochs, with ``left`` to go.

    Args:
        job: what is trained, as it was so far.
        lr: of the epochs before, along the first part of a cosine over all of them.
        grid: powers of two of max_lr, first and last.
        then: the data that it goes on with, where they are others.
    """

    what: str
    job: Workload
    before: int
    left: int
    lr: float
    grid: tuple[int, int]
    then: Callable[[], Split] | None = None

    def data(self) -> Split:
        """Training and held-out samples of the epochs that are left."""
        return (self.then or self.job.data)()


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


def of_jobs(jobs: Mapping[str, Workload], oracle: Path) -> dict[str, Problem]:
    """Jobs that are stopped after a third of their epochs, at the rate that trains them best by a cosine."""
    grids = json.loads(oracle.read_text())
    return {name: _of_job(job, grids[name]["cosine"]["grid"]) for name, job in jobs.items() if name not in LEFT_OUT}


def _of_job(job: Workload, grid: Mapping[str, Sequence[float]]) -> Problem:
    power = int((max if job.accuracy else min)(grid, key=lambda each: mean(grid[each])))
    before = max(1, job.epochs // 3)
    return Problem(f"of {job.epochs} epochs, stopped after {before}", job, before, job.epochs - before, 2.0**power,
                   (power - BELOW, power + ABOVE))  # fmt: skip


ce, sgd = functional.cross_entropy, by("SGD", momentum=0.9, weight_decay=5e-4)
IN_VIEW = ("noisy-digits-convnet-sgd", "waves-transformer-adamw", "other-labels-mlp-adam")
PROBLEMS = {
    "noisy-digits-convnet-sgd": Problem(
        "a convnet with batch norm, SGD with momentum, stopped at a third",
        Workload(convnet, noisy_digits, sgd, ce, 64, 9), 3, 6, 0.05, (-10, -4),
    ),
    "waves-transformer-adamw": Problem(
        "a transformer, AdamW, stopped at a third",
        Workload(lambda: Transformer(2, 24, 6), waves, by("AdamW", weight_decay=0.05), ce, 64, 9), 3, 6, 2e-3, (-11, -4),
    ),
    "other-labels-mlp-adam": Problem(
        "an MLP, Adam, trained to its end, and then the labels are others",
        Workload(lambda: perceptron(20, 5), table, by("Adam"), ce, 64, 8), 8, 8, 3e-3, (-10, -3), relabelled_table,
    ),
}  # fmt: skip
JOBS, UNSEEN = of_jobs(WORKLOADS, ORACLE), of_jobs(unseen.WORKLOADS, oracle_of(Path(unseen.__file__)))
PROBLEMS |= JOBS | UNSEEN


def epoch_orders(samples: int, batch: int, seed: int, epochs: int) -> Iterator[Tensor]:
    """Rows of batch after batch; what does not fill one is left out."""
    order = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        yield from torch.randperm(samples, generator=order)[: samples // batch * batch].split(batch)


def train(
    job: Workload,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    split: Split,
    epochs: int,
    seed: int,
    lr_at: Callable[..., float],
) -> float:
    """Train in place; the held-out loss at the end, infinite where it is not finite."""
    x, y, _, _ = split
    total = len(x) // job.batch_size * epochs
    torch.manual_seed(seed)
    model.train()
    for t, rows in enumerate(epoch_orders(len(x), job.batch_size, seed, epochs)):
        for group in optimizer.param_groups:
            group["lr"] = lr_at(t, total)
        optimizer.zero_grad(set_to_none=True)
        job.loss(model(x[rows]), y[rows]).backward()
        if job.clip:
            nn.utils.clip_grad_norm_(model.parameters(), job.clip)
        optimizer.step()
    return held_out(job, model, split)


@torch.no_grad()
def held_out(job: Workload, model: nn.Module, split: Split) -> float:
    model.eval()
    loss = float(job.loss(model(split[2]), split[3]))
    model.train()
    return loss if math.isfinite(loss) else math.inf


@functools.cache
def _stopped(name: str) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Model and optimizer as they stand when the training is stopped."""
    problem = PROBLEMS[name]
    torch.set_num_threads(1)
    torch.manual_seed(100)
    model = problem.job.model()
    optimizer = problem.job.optimizer(model, problem.lr)
    share = problem.before / (problem.before + problem.left) if problem.then is None else 1.0
    train(problem.job, model, optimizer, problem.job.data(), problem.before, 100,
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
        finals.append(train(problem.job, model, optimizer, problem.data(), problem.left, seed, triangular2(max_lr)))
    return mean(finals)


def measured() -> dict[str, Any]:
    """What is in the file."""
    return json.loads(GRID_FILE.read_text()) if GRID_FILE.exists() else {}


def measure(names: Sequence[str]) -> None:
    """The held-out loss of every power of two, what the tool says, and what became of that; nothing is repeated."""
    for name in names:
        problem, found = PROBLEMS[name], measured()
        known = found.setdefault(
            name, {"before": held_out(problem.job, stopped(name)[0], problem.data()), "grid": {}, "said": {}}
        )
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
    x, y, x_val, y_val = PROBLEMS[name].data()
    train_set, heldout = TensorDataset(x, y), TensorDataset(x_val, y_val)
    size = PROBLEMS[name].job.batch_size
    return DataLoader(train_set, batch_size=size, shuffle=True, drop_last=True), DataLoader(heldout, batch_size=500)


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

    problem, (model, optimizer) = PROBLEMS[name], stopped(name)
    before = bytes_of(model, optimizer), torch.get_rng_state()
    found = clrtool.range_test(model, optimizer, *loaders(name), loss=problem.job.loss, epochs=problem.left,
                               clip_norm=problem.job.clip, keep_state=True, seed=seed, progress=False)  # fmt: skip
    untouched = before[0] == bytes_of(model, optimizer) and torch.equal(before[1], torch.get_rng_state())
    way, training = found.record.going_on, problem.left * found.record.sweep.iterations_per_epoch
    return {"max_lr": found.max_lr, "verdict": found.verdict.word, "iterations": found.record.iterations / training,
            "warm_up": None if way is None or way.warm_up is None else way.warm_up.needed,
            "untouched": untouched}  # fmt: skip


def report() -> None:
    """Write the table."""
    rows, losses = list[str](), dict[str, list[float]]()
    for name, known in measured().items():
        if not known["said"]:
            continue
        problem, best = PROBLEMS[name], min(known["grid"], key=known["grid"].__getitem__)
        before, lowest = known["before"], known["grid"][best]
        floor = before if problem.then is None else min(before, constant(problem.data()[3]))
        for seed, said in known["said"].items():
            lost = 100 * (said["final"] - lowest) / (floor - lowest)
            if floor > lowest:  # else no rate of the grid gains anything
                losses.setdefault(name, []).append(max(0.0, lost))
            power = "none" if said["max_lr"] is None else f"2^{math.log2(said['max_lr']):.1f}"
            warm = {True: "needed", False: "not needed", None: "not tried"}[said["warm_up"]]
            cells = (name, seed, f"{before:.4f}", power, f"{said['final']:.4f}", f"{lowest:.4f} at 2^{best}",
                     f"{lost:.1f}" if floor > lowest else "nothing to gain", said["verdict"], warm, f"{said['iterations']:.0%}", "yes" if said["untouched"] else "no")  # fmt: skip
            rows.append(f"| {' | '.join(cells)} |")
    REPORT.write_text(_text(rows, losses))


def _text(rows: Sequence[str], losses: Mapping[str, Sequence[float]]) -> str:
    lines = ((name, problem.what, count(problem.left, "epoch")) for name, problem in PROBLEMS.items())
    what = "\n".join(f"- `{name}`: {told}; {left} left." for name, told, left in lines)
    head = ("problem", "seed", "loss before", "max_lr", "loss after", "best of the grid", "lost, %", "verdict",
            "re-warm-up", "cost", "left as it was")  # fmt: skip
    how = " ".join((__doc__ or "").partition("Trainings")[2].split())
    return f"""# A training under way

Written by `python -m tests.benchmarks.under_way report`, on a CPU.

Trainings {how}

{what}

Of the gain is lost, mean of the seeds:

- the first three, with which the rules were made: {_told(losses, IN_VIEW)};
- the project's jobs, in view of which the sweep lost its say where a training has learned: {_told(losses, [*JOBS])};
- jobs that were measured once that stood: {_told(losses, [*UNSEEN])}.

The cost is a share of the epochs left, which are short here: a test has at least 500 iterations. "Left as it was" compares
a hash of weights, statistics, optimizer and the global generator before and after the test.

| {" | ".join(head)} |
|{" --- |" * len(head)}
{chr(10).join(rows)}
"""


def _told(losses: Mapping[str, Sequence[float]], names: Sequence[str]) -> str:
    """Mean and worst of some problems."""
    of_each = [mean(losses[name]) for name in names if name in losses]
    return f"mean {mean(of_each):.1f} %, worst {max(of_each):.1f} %" if of_each else "not measured"


if __name__ == "__main__":
    report() if sys.argv[1] == "report" else measure(sys.argv[2:] or [*PROBLEMS])
