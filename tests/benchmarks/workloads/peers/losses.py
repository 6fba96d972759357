"""What each way loses on the jobs of an oracle, and what it costs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import mean, median
from typing import Any

from tests.benchmarks.workloads.read_off import lost
from tests.benchmarks.workloads.score import SCHEDULES

Results = list[dict[str, Any]]  # of the seeds: ``Result`` as JSON


@dataclass(frozen=True)
class Row:
    """One way over a number of jobs.

    Args:
        lost: schedule to the per cent of the gain that each job loses, the mean of its seeds.
        iterations: the median of what the search cost.
        failed: runs that found nothing, which have lost everything.
        runs: all of them.
    """

    way: str
    lost: dict[str, list[float]]
    iterations: float
    failed: int
    runs: int


def rows(jobs: dict[str, dict[str, Results]], oracle: dict[str, Any]) -> list[Row]:
    """A row for each way that was run on all of these jobs."""
    here = {name: found for name, found in jobs.items() if name in oracle}
    everywhere = [way for way in next(iter(here.values()), {}) if all(way in found for found in here.values())]
    return [_row(way, {name: found[way] for name, found in here.items()}, oracle) for way in everywhere]


def _row(way: str, results: dict[str, Results], oracle: dict[str, Any]) -> Row:
    every = [result for found in results.values() for result in found]
    nothing = [result for result in every if result["max_lr"] is None and result["score"] is None]
    columns = {
        schedule: [value for name, found in results.items() for value in _lost(oracle[name], schedule, found)]
        for schedule in SCHEDULES
    }
    cost = [result["iterations"] for result in every if not result["failed"]]
    return Row(way, {k: v for k, v in columns.items() if v}, median(cost or [math.nan]), len(nothing), len(every))


def _lost(found: dict[str, Any], schedule: str, results: Results) -> Iterator[float]:
    """The mean of the seeds of one job, or nothing where the way does not know this schedule."""
    if schedule not in found:
        return
    if all(result["score"] is None for result in results):
        yield mean(lost(found, schedule, within(found, schedule, result["max_lr"])) for result in results)
    elif schedule == "cosine":
        best, constant = found[schedule]["best"], found["constant"]
        reached = mean(constant if result["score"] is None else result["score"] for result in results)
        yield min(100.0, max(0.0, 100 * (best - reached) / (best - constant)))


def within(found: dict[str, Any], schedule: str, max_lr: float | None) -> float | None:
    """The rate, or the end of the grid that is nearest to it: what is beyond loses as much at the least."""
    ends = [2.0 ** int(power) for power in found[schedule]["grid"]]
    return None if max_lr is None else min(max(max_lr, min(ends)), max(ends))


def front(points: dict[str, tuple[float, float]]) -> list[str]:
    """The points (cost, loss) that no other beats in one without being worse in the other, the cheapest first.

    >>> front({"free": (0, 20), "dear": (500, 5), "beaten": (500, 9), "too dear": (600, 5)})
    ['free', 'dear']
    """
    kept: list[str] = []
    for name in sorted(points, key=lambda name: points[name]):
        if not kept or points[name][1] < points[kept[-1]][1]:
            kept.append(name)
    return kept
