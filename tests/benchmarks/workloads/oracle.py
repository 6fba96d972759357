"""Find each workload's best max_lr = 2^k for each schedule, and write it to oracle.json: half an hour on one core.

    python -m tests.benchmarks.workloads.oracle [NAME ...] [--jobs unseen.py] [--beyond 2] [--worse 30]

With ``--jobs`` the file is unseen_oracle.json, beside the jobs.

A workload that the file has already is left as it is: delete its entry, or the file, to measure it anew. The grid grows
on both sides of its best rate until ``--beyond`` neighbours on each side lose more than ``--worse`` per cent of the gain.
The long workload has one seed, two schedules and a grid that ends at the first such neighbour.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from clrtool.files import write_whole
from tests.benchmarks.workloads.jobs import Workload, constant
from tests.benchmarks.workloads.read_off import oracle_of
from tests.benchmarks.workloads.recommend import load
from tests.benchmarks.workloads.score import SCHEDULES, lost, train

LONG = {"long-cnn-sgd"}
SEEDS = {"long-cnn-sgd": 1, "deep-mlp-rmsprop": 4}  # others have 2
LOWEST, HIGHEST = -24, 10
Grid = dict[int, list[float]]


def mean(values: list[float]) -> float:
    """The mean of some numbers."""
    return sum(values) / len(values)


def best_of(w: Workload, grid: Grid) -> int:
    """The k whose mean score is best."""
    pick: Callable[..., int] = max if w.accuracy else min
    return pick(grid, key=lambda k: mean(grid[k]))


def measured(w: Workload, schedule: str, start: int, seeds: int, beyond: int, clearly: float) -> Grid:
    """Scores at 2^k, from ``start`` outwards until ``beyond`` neighbours on each side of the best are clearly worse."""
    grid: Grid = {}

    def add(k: int) -> None:
        grid[k] = [train(w, schedule, 2.0**k / 4, 2.0**k, seed) for seed in range(seeds)]

    def worse(k: int) -> bool:
        return lost(w, mean(grid[k]), mean(grid[best_of(w, grid)])) > clearly

    def learns() -> bool:
        best = mean(grid[best_of(w, grid)])
        return best > constant(w) if w.accuracy else best < constant(w)

    add(start)
    add(start + 1)
    while min(grid) > LOWEST and not learns():
        add(min(grid) - 1)
    while True:
        best, low, high = best_of(w, grid), min(grid), max(grid)
        if high < HIGHEST and not all(k > best and worse(k) for k in range(high - beyond + 1, high + 1)):
            add(high + 1)
        elif low > LOWEST and not all(k < best and worse(k) for k in range(low, low + beyond)):
            add(low - 1)
        else:
            return dict(sorted(grid.items()))


def summary(w: Workload, grid: Grid) -> dict[str, Any]:
    """What oracle.json holds of a schedule."""
    best = best_of(w, grid)
    near = [2.0**k for k, values in grid.items() if lost(w, mean(values), mean(grid[best])) <= 5]
    found = {str(k): values for k, values in grid.items()}
    return {"grid": found, "best": mean(grid[best]), "best_max_lr": 2.0**best, "within_5_percent": near}


def entry(name: str, w: Workload, beyond: int, clearly: float) -> dict[str, Any]:
    """What oracle.json holds of a workload; each schedule starts where the one before it was best."""
    long = name in LONG
    found: dict[str, Any] = {"constant": constant(w)}
    start = -5 if "sgd" in name else -8
    for schedule in SCHEDULES[:2] if long else SCHEDULES:
        grid = measured(w, schedule, start, SEEDS.get(name, 2), 1 if long else beyond, clearly)
        start = best_of(w, grid)
        found[schedule] = summary(w, grid)
        print(name, schedule, {k: [round(v, 4) for v in values] for k, values in grid.items()}, flush=True)
    return found


def main() -> None:
    """Measure what the file has not yet, and write it after each workload."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--jobs", type=Path)
    parser.add_argument("--beyond", type=int, default=2)
    parser.add_argument("--worse", type=float, default=30.0, metavar="PER_CENT")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    jobs, file = load(asked.jobs).WORKLOADS, oracle_of(asked.jobs)
    known = json.loads(file.read_text()) if file.is_file() else {}
    for name in (each for each in asked.names or jobs if each not in known):
        known[name] = entry(name, jobs[name], asked.beyond, asked.worse)
        write_whole(file, json.dumps(known) + "\n")


if __name__ == "__main__":
    main()
