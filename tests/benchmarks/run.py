"""Ratios on this machine, written to RESULTS.md: ``make bench``.

Each row pairs two ways to do the same work and runs them in turn, A B A B ..., so that a machine whose speed drifts
drifts for both. The figure is the median over the pairs of A / B.
"""

from __future__ import annotations

import datetime
import os
import platform
import statistics
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from clrtool.config import RangeTestConfig
from clrtool.core.plan import make_plan
from clrtool.core.policies import POLICIES
from clrtool.engine.build import build_problem
from clrtool.engine.learner import Learner
from clrtool.engine.plan_scheduler import PlanScheduler

RESULTS = Path(__file__).with_name("RESULTS.md")
Work = Callable[[], object]


def ratio(name: str, ours: Work, other: Work, pairs: int) -> str:
    """One row of the table: medians of both, and of their ratio."""
    times: list[tuple[float, float]] = []
    for _ in range(pairs + 1):
        begin = time.perf_counter()
        ours()
        middle = time.perf_counter()
        other()
        times.append((middle - begin, time.perf_counter() - middle))
    times = times[1:]  # the first pair warms up
    a, b = (statistics.median(column) for column in zip(*times, strict=True))
    ratios = sorted(first / second for first, second in times)
    middle = statistics.median(ratios)
    return (
        f"| {name} | {a * 1e3:,.1f} | {b * 1e3:,.1f} | {middle:.3g} | {ratios[0]:.3g} to {ratios[-1]:.3g} | {pairs} |"
    )


def command(*words: str) -> Work:
    return lambda: subprocess.run([sys.executable, *words], check=True, capture_output=True)


def start_up() -> list[str]:
    imports = command("-c", "import numpy, typer, rich, pydantic")
    numbers = ["plan", "--base-lr", "1e-3", "--max-lr", "1e-2", "--iterations-per-epoch", "100"]
    return [
        ratio(
            "`clrtool --help` / importing numpy, typer, rich, pydantic", command("-m", "clrtool", "--help"), imports, 15
        ),
        ratio("`clrtool plan` on numbers / the same imports", command("-m", "clrtool", *numbers), imports, 15),
    ]


def training(name: str, model: dict[str, object], batch_size: int, iterations: int) -> str:
    """The sweep's training loop against the loop that one would write by hand, on the same random images.

    Both index the training set in a shuffled order and set the learning rate of every iteration; the bare loop has
    its images as float32 in memory, so it is spared the conversion from uint8.
    """
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (5000, 32, 32, 3), dtype=np.uint8)
    path = RESULTS.with_name("random.npz")
    np.savez(path, x=images, y=np.arange(5000) % 10)
    try:
        data = {"name": "npz", "args": {"path": str(path), "heldout": 500}, "batch_size": batch_size}
        problem = build_problem(RangeTestConfig.model_validate({"model": model, "data": data}), device="cpu")
    finally:
        path.unlink()
    lrs = np.geomspace(1e-4, 1e-2, iterations).tolist()
    inputs, targets = problem.batch(problem.train, slice(None))

    def bare() -> None:
        torch.manual_seed(0)
        net = problem.make_model()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        per_epoch = len(targets) // batch_size
        for iteration in range(iterations):
            if iteration % per_epoch == 0:
                order = torch.randperm(len(targets))
            index = order[iteration % per_epoch * batch_size :][:batch_size]
            optimizer.param_groups[0]["lr"] = lrs[iteration]
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(inputs[index]), targets[index]).backward()
            optimizer.step()

    return ratio(name, lambda: Learner(problem, 0).train(0, lrs), bare, 9)


def stepping(
    scheduler: Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler], iterations: int
) -> Work:
    def work() -> None:
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
        stepped = scheduler(optimizer)
        optimizer.step()
        for _ in range(iterations):
            stepped.step()

    return work


def schedules() -> list[str]:
    """A schedule as a function against a schedule that is stepped; and one step of each."""
    many, few, stepsize = 10**6, 10**4, 2000
    plan = make_plan(0.001, 0.006, 500, epochs=4000, policy="triangular2", stepsize_epochs=4)

    def cyclic(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        return torch.optim.lr_scheduler.CyclicLR(
            optimizer, 0.001, 0.006, stepsize, mode="triangular2", cycle_momentum=False
        )

    name = "10^6 iterations of triangular2 / stepping torch's CyclicLR as often (scheduler.step() alone)"
    whole = ratio(name, lambda: plan.schedule(range(many)), stepping(cyclic, many), 3)
    step = ratio(
        "10^4 steps of PlanScheduler / of torch's CyclicLR",
        stepping(lambda optimizer: PlanScheduler(optimizer, plan), few),
        stepping(cyclic, few),
        9,
    )
    return [whole, step]


def long_schedules() -> list[str]:
    """10^7 iterations of every policy: seconds, and the peak of memory in arrays of 10^7 floats, result included."""
    iterations, rows = 10**7, []
    for name in sorted(set(POLICIES) - {"stages"}):
        schedule = make_plan(0.001, 0.006, 500, epochs=iterations / 500, policy=name).schedule
        times = []
        for _ in range(4):
            begin = time.perf_counter()
            schedule(range(iterations))
            times.append(time.perf_counter() - begin)
        tracemalloc.start()
        schedule(range(iterations))
        arrays = tracemalloc.get_traced_memory()[1] / (8 * iterations)
        tracemalloc.stop()
        rows.append(f"| {name} | {statistics.median(times[1:]):.3f} | {max(times):.3f} | {arrays:.2f} |")
    return rows


def main() -> None:
    rows = [
        *start_up(),
        training(
            "sweep / bare loop, MLP 512-256, batch 128", {"name": "mlp", "args": {"hidden": [512, 256]}}, 128, 100
        ),
        training("sweep / bare loop, convnet 16-32-32, batch 128", {"name": "convnet"}, 128, 40),
        *schedules(),
    ]
    head = (
        "# Benchmarks\n\nWritten by `make bench`. Each row runs both sides in turn in one go; the ratio is the median "
        "over the pairs, below 1 where clrtool is faster.\n\n"
        f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}, {os.cpu_count()} cores ({platform.machine()}), no GPU used, "
        f"Python {platform.python_version()}, torch {torch.__version__}, {torch.get_num_threads()} threads\n\n"
        "| clrtool / other | clrtool, ms | other, ms | ratio | lowest to highest | pairs |\n"
        "| --- | --- | --- | --- | --- | --- |\n"
    )
    long = (
        "\n## 10^7 iterations of every policy\n\n"
        "Seconds on one core; the peak of memory counts the result, in arrays of 10^7 floats (80 MB).\n\n"
        "| policy | median of 3, s | slowest, s | arrays |\n| --- | --- | --- | --- |\n"
    )
    RESULTS.write_text(head + "\n".join(rows) + "\n" + long + "\n".join(long_schedules()) + "\n")
    sys.stdout.write(RESULTS.read_text())


if __name__ == "__main__":
    main()
