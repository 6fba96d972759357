"""The paper's numbers on this machine: ``make paper``.

Trains what the machine can, in any number of goes: what is finished is kept in runs/paper. Two hours on two cores with
one seed. All rows and three seeds on a GPU.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from multiprocessing import Pool

import torch

from clrtool.core.planning.make import make_plan
from clrtool.core.results.record import RunRecord
from tests.benchmarks.paper import page, rows
from tests.benchmarks.paper.rows import Row
from tests.benchmarks.paper.training import WORK, Run, make_data, range_test, train

Task = Callable[[], object]


def bounds_of(record: RunRecord, row: str) -> tuple[float, float]:
    bounds = record.bounds
    if bounds.base_lr is None or bounds.max_lr is None:
        raise RuntimeError(f"{row}: its range test is inconclusive: {bounds}")
    return bounds.base_lr, bounds.max_lr


def end_to_end(seed: int) -> Run:
    """R19: a range test of which nothing is chosen, its bounds, and cycles for what it leaves of 25,000 iterations."""
    record = range_test(f"R19-{seed}", [f"seed={seed}"])
    epochs = rows.SHORT / rows.EPOCH - record.sweep.cost_epochs
    plan = make_plan(*bounds_of(record, "R19"), rows.EPOCH, epochs=epochs)
    return Run(f"R19-cycles-of-{seed}", plan, plan.iterations)


def sigmoid_cycles() -> Row:
    """R13: the paper states no bounds, so a range test finds them; stepsize and length are read off its figure 6."""
    bounds = bounds_of(range_test("R13", [], rows.SIGMOID.config), "R13")
    plan = make_plan(*bounds, rows.EPOCH, policy="triangular2", stepsize_epochs=4, cycles=15)
    what = f"the same, triangular2 {bounds[0]:.2g} to {bounds[1]:.2g}, bounds of a range test"
    return Row(replace(rows.SIGMOID, name="R13-cycles", plan=plan), what, 72.2)


def train_end_to_end(seeds: Sequence[int]) -> None:
    for seed in seeds:
        train(end_to_end(seed), [seed])


def train_sigmoid_cycles(seeds: Sequence[int]) -> None:
    train(sigmoid_cycles().run, seeds)


def tasks(seeds: Sequence[int], *, on_gpu: bool) -> list[Task]:
    """All that is to be trained, the longest first; seeds of a run together where a GPU trains them at once."""
    everywhere = [*(row.run for row in (rows.R2, rows.C1, rows.R3, *rows.INSTEAD)), *rows.GRID]
    together = [seeds] if on_gpu else [[seed] for seed in seeds]
    todo: list[Task] = [partial(train, run, some) for run in everywhere for some in together]
    todo += [partial(train_end_to_end, [seed]) for seed in seeds]
    todo += [partial(range_test, "R6", [rows.FIGURE_3])]
    todo += [partial(train, row.run, seeds[:1]) for row in rows.CHANGED]
    if on_gpu:
        todo += [partial(range_test, "R15", [rows.RISE], rows.SUPER.config)]
        todo += [partial(range_test, "R18", rows.SPREAD, rows.SUPER.config)]
        todo += [partial(train_sigmoid_cycles, seeds), *(partial(train, row.run, seeds) for row in rows.ON_GPU)]
    return todo


def done(task: Task) -> None:
    task()


def work(todo: Sequence[Task], *, on_gpu: bool) -> None:
    """On a CPU one training a core, each in one thread: two take less time than one after the other in two threads."""
    if on_gpu:
        for number, task in enumerate(todo, 1):
            task()
            print(f"{time.strftime('%H:%M')} {number}/{len(todo)}", flush=True)
        return
    os.environ["OMP_NUM_THREADS"] = "1"  # for the processes of the range tests
    with Pool(min(os.cpu_count() or 1, len(todo)), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for number, _ in enumerate(pool.imap_unordered(done, todo), 1):
            print(f"{time.strftime('%H:%M')} {number}/{len(todo)}", flush=True)


def main() -> None:
    WORK.mkdir(parents=True, exist_ok=True)
    data = make_data()
    if not data:
        print("skipped, for there is no CIFAR-10: CIFAR10=DIR make paper takes a folder that torchvision can read")
        return
    on_gpu = torch.cuda.is_available()
    seeds = range(int(os.environ.get("SEEDS") or (3 if on_gpu else 1)))
    work(tasks(seeds, on_gpu=on_gpu), on_gpu=on_gpu)
    own = {seed: end_to_end(seed) for seed in seeds}
    page.write(data, seeds, own, [*rows.ON_GPU, sigmoid_cycles()] if on_gpu else [])


if __name__ == "__main__":
    main()
