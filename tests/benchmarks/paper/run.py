"""The paper's numbers on this machine: ``make paper``.

Trains what the machine can, in any number of goes: what is finished is kept in runs/paper. Two hours on two cores with
one seed. All rows and three seeds on a GPU.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing import Pool

import torch

from clrtool.core.plan import make_plan
from tests.benchmarks.paper import page, rows
from tests.benchmarks.paper.training import WORK, Run, make_data, range_test, train

Task = Callable[[], object]


def end_to_end(seed: int) -> Run:
    """R19: a range test of which nothing is chosen, its bounds, and cycles for what it leaves of 25,000 iterations."""
    record = range_test(f"R19-{seed}", [f"seed={seed}"])
    if record.bounds.base_lr is None or record.bounds.max_lr is None:
        raise RuntimeError(f"R19: the range test of seed {seed} is inconclusive: {record.bounds}")
    epochs = rows.SHORT / rows.EPOCH - record.sweep.cost_epochs
    plan = make_plan(record.bounds.base_lr, record.bounds.max_lr, rows.EPOCH, epochs=epochs)
    return Run(f"R19-cycles-of-{seed}", plan, plan.iterations)


def train_end_to_end(seeds: Sequence[int]) -> None:
    for seed in seeds:
        train(end_to_end(seed), [seed])


def tasks(seeds: Sequence[int], *, on_gpu: bool) -> list[Task]:
    """All that is to be trained, the longest first; seeds of a run together where a GPU trains them at once."""
    trained = [rows.R2, rows.C1, rows.R3, *rows.INSTEAD, *(rows.ON_GPU if on_gpu else ())]
    once = [row.run for row in rows.CHANGED]
    together = [seeds] if on_gpu else [[seed] for seed in seeds]
    return [
        *(partial(train, run, some) for run in (*(row.run for row in trained), *rows.GRID) for some in together),
        *(partial(train_end_to_end, [seed]) for seed in seeds),
        partial(range_test, "R6", [rows.FIGURE_3]),
        *(partial(train, run, [seeds[0]]) for run in once),
    ]


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
        sys.exit("skipped: there is no CIFAR-10; CIFAR10=DIR make paper, with a folder that torchvision can read")
    on_gpu = torch.cuda.is_available()
    seeds = range(int(os.environ.get("SEEDS") or (3 if on_gpu else 1)))
    work(tasks(seeds, on_gpu=on_gpu), on_gpu=on_gpu)
    page.write(data, seeds, {seed: end_to_end(seed) for seed in seeds}, on_gpu=on_gpu)


if __name__ == "__main__":
    main()
