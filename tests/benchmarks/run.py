"""Ratios on this machine, written to RESULTS.md: ``make bench``.

Each row pairs two ways to do the same work and runs them in turn, A B A B ..., so that a machine whose speed drifts
drifts for both. The figure is the median over the pairs of A / B.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from clrtool.config.schema import RangeTestConfig
from clrtool.core.planning.make import make_plan
from clrtool.core.planning.policies import POLICIES
from clrtool.engine.configured.build import build_workload
from clrtool.engine.rangetest.sweep import run_sweep
from clrtool.engine.resume.checkpoint import CheckpointFolder
from clrtool.engine.resume.journal import Journal
from clrtool.engine.training.scheduler import PlanScheduler
from tests.benchmarks import compositions, finders, scale, sharded_memory
from tests.gpu.report import RESULTS, kept

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


# With modules compiled, as pip installs them.
COMPILED = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def command(*words: str) -> Work:
    return lambda: subprocess.run([sys.executable, *words], check=True, capture_output=True, env=COMPILED)


def first_output() -> None:
    """From a command to the first letter that it shows."""
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-m", "clrtool", "rangetest", "digits", "-o", folder]
        with subprocess.Popen(words, stderr=subprocess.PIPE, env=COMPILED) as child:
            assert child.stderr is not None
            os.read(child.stderr.fileno(), 1)
            child.kill()


def start_up() -> list[str]:
    bare, imports = command("-c", "import typer, rich"), command("-c", "import numpy, typer, rich, pydantic")
    numbers = ["plan", "--base-lr", "1e-3", "--max-lr", "1e-2", "--iterations-per-epoch", "100"]
    return [
        ratio("`clrtool --help` / importing typer, rich", command("-m", "clrtool", "--help"), bare, 15),
        ratio("the first output of `clrtool rangetest digits` / the same imports", first_output, bare, 15),
        ratio("`clrtool plan` on numbers / and numpy, pydantic", command("-m", "clrtool", *numbers), imports, 15),
    ]


SWEEP = """
import sys
from pathlib import Path
from clrtool.config.schema import RangeTestConfig
from clrtool.engine.configured.build import build_workload
from clrtool.engine.rangetest.sweep import run_sweep
iterations = int(sys.argv[1])
config = RangeTestConfig.model_validate({
    "model": {"name": "mlp", "args": {"hidden": [16]}}, "data": {"name": "digits", "batch_size": 8},
    "sweep": {"start_lr": 1e-6, "end_lr": 1e-3, "epochs": iterations / 179, "seeds": 1}})
record = run_sweep(build_workload(config, device="cpu"), config.sweep)
assert abs(record.iterations - iterations) < 100
# not ru_maxrss, which a process has from its parent
print(next(int(line.split()[1]) for line in Path("/proc/self/status").open() if line.startswith("VmHWM")) / 1024)
"""


def memory() -> str:
    """Peak resident memory of a whole range test in a process of its own, long against short."""
    peaks = {}
    for iterations in (10**3, 10**5):
        words = [sys.executable, "-c", SWEEP, str(iterations)]
        runs = [subprocess.run(words, check=True, capture_output=True, text=True).stdout for _ in range(3)]
        peaks[iterations] = statistics.median(map(float, runs))
    few, many = peaks.values()
    return (
        f"Peak resident memory of a sweep: {few:.0f} MB for 10^3 iterations, {many:.0f} MB for 10^5: {many / few:.3f}."
    )


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


def checkpoints() -> list[str]:
    """A sweep of a ResNet-20 that saves every second, 15 times as often as by default, against one that saves nothing."""
    values = {
        "model": {"name": "resnet"}, "data": {"name": "digits", "batch_size": 64},
        "sweep": {"start_lr": 1e-3, "end_lr": 0.1, "epochs": 25, "seeds": 1},
    }  # fmt: skip
    config = RangeTestConfig.model_validate(values)
    workload = build_workload(config, device="cpu")

    def sweep(journal: Journal) -> None:
        run_sweep(workload, config.sweep, journal=journal)

    def saving() -> None:
        with tempfile.TemporaryDirectory() as folder:
            sweep(Journal(CheckpointFolder(Path(folder) / "checkpoint"), every=1.0))

    return [ratio("a sweep that saves every second / one that saves nothing", saving, lambda: sweep(Journal()), 7)]


def paper_network() -> list[str]:
    """Iterations of the paper's network against the loop that one would write, both in channels_last."""
    rows = []
    for precision in ("fp32", "bf16"):
        case = finders.Case("cifar10_full", 100, 40, 9, precision=precision)
        name = f"{case.iterations} iterations of cifar10_full, batch 100, {precision} / the bare loop in channels_last"
        loop = finders.bare(case, torch.channels_last)
        rows.append(ratio(name, finders.ours(case, channels_last=True), loop, case.repeats))
    return rows


def own_loops() -> list[str]:
    """The training of ``clrtool.range_test`` against the loop that one would write over the same DataLoader.

    Batches that a dataset holds as they are have to be copied, for a step may change them.
    """
    rows = []
    kinds = {"samples": finders.sample_loader, "whole batches": finders.loader}
    for model, iterations, kind in (
        ("tiny MLP", 500, "samples"),
        ("small convnet", 50, "samples"),
        ("tiny MLP", 500, "whole batches"),
    ):
        case = finders.Case(model, 128, iterations, 15)
        name = f"{iterations} iterations of clrtool.range_test, {model}, a DataLoader of {kind}, 128 at a time / the loop over it"
        ours, loop = finders.borrowed(case, kinds[kind]), finders.over_a_loader(case, kinds[kind])
        rows.append(ratio(name, ours, loop, case.repeats))
    return rows


def jobs() -> str:
    """A whole command that shares four seeds out to two processes, against the same in one; each has one thread."""
    words = ["-m", "clrtool", "rangetest", "digits", "model={name: resnet}", "sweep.epochs=40", "--seeds", "4", "-q"]

    def run(*more: str) -> Work:
        def work() -> None:
            with tempfile.TemporaryDirectory() as folder:
                command = [sys.executable, *words, *more, "--device", "cpu", "-o", folder]
                subprocess.run(command, check=True, capture_output=True, env=COMPILED | {"OMP_NUM_THREADS": "1"})

        return work

    name = "`clrtool rangetest --seeds 4 --jobs 2` / without `--jobs`, ResNet-20, one thread a process"
    return ratio(name, run("--jobs", "2"), run(), 3)


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
    start = [*start_up(), *schedules(), *paper_network(), *own_loops(), *checkpoints(), jobs()]
    lines = [
        "# Benchmarks",
        "",
        (
            "Written by `make bench`. Each row runs both sides in turn in one go; the ratio is the median over the pairs, "
            "below 1 where clrtool is faster."
        ),
        "",
        (
            f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}, {os.cpu_count()} cores ({platform.machine()}), "
            f"Python {platform.python_version()}, torch {torch.__version__}, {torch.get_num_threads()} threads"
        ),
        "",
        "| clrtool / other | clrtool, ms | other, ms | ratio | lowest to highest | pairs |",
        "| --- | --- | --- | --- | --- | --- |",
        *start,
        "",
        "## The sweep against a bare loop and other finders",
        "",
        (
            "Each column is the time of an iteration as a multiple of that of the bare loop that ran beside it, the median "
            "over the turns. All have the data in memory, SGD with momentum, the same batches and no early stop. "
            "`clrtool` runs in the memory format of the others; `its layout` is what it chooses, channels_last for "
            f"convolutions. {versions()}."
        ),
        "",
        *finders.table(finders.CASES),
        "",
        memory(),
        "",
        "## What a step costs by the size of a model",
        "",
        (
            f"The built-in GPT on a page of this project's guide, batches of {scale.BATCH} times {scale.LENGTH} tokens; operations "
            f"are {scale.OPERATIONS} for a parameter and a token. Memory is what the process took beyond its imports."
        ),
        "",
        *scale.table(),
        "",
        "With one thread a rank, and the same batch for one rank and for two of one machine (gloo):",
        "",
        *scale.ranks(),
        "",
        "## What a rank holds of a model that all share",
        "",
        (
            "In MB, of AdamW in float32, with a text of 16 tokens for each rank (gloo). Kept is what lies there after a step, "
            "the peak that of all tensors but activations in one, as torch's MemTracker finds them; the formulas are those of "
            "`sharded_memory.py`, the peak's at most. The process is what it took beyond its imports, with a copy of the whole "
            "model, which every rank draws first."
        ),
        "",
        *sharded_memory.table(),
        "",
        "## What a range test takes by samples and seeds",
        "",
        "The shipped config `custom` with all that it chooses by itself, on the CPU; memory as above.",
        "",
        *scale.tests(),
        "",
        "## 10^7 iterations of every policy",
        "",
        "Seconds on one core; the peak of memory counts the result, in arrays of 10^7 floats (80 MB).",
        "",
        "| policy | median of 3, s | slowest, s | arrays |",
        "| --- | --- | --- | --- |",
        *long_schedules(),
        "",
        "## 10^7 iterations of compositions",
        "",
        (
            f"The least of {compositions.TIMES}, each made anew and run beside half a cosine. A Python function is asked "
            "for whole arrays where it takes them; one with an `if` or with `math` is asked once for each iteration, or "
            "once for each cycle."
        ),
        "",
        *compositions.table(),
        *(["", measured_elsewhere] if (measured_elsewhere := kept(RESULTS.read_text()).rstrip()) else []),
    ]
    RESULTS.write_text("\n".join(lines) + "\n")
    sys.stdout.write(RESULTS.read_text())


def versions() -> str:
    lacking = finders.absent()
    distributions = {
        "torch-lr-finder": "torch-lr-finder",
        "Ignite": "pytorch-ignite",
        "Lightning": "lightning",
        "fastai": "fastai",
    }
    return ", ".join(
        f"{each} is not installed" if name in lacking else f"{each} {importlib.metadata.version(each)}"
        for name, each in distributions.items()
    )


if __name__ == "__main__":
    main()
