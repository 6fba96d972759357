"""What picks lose, read off the oracle's grid: a table for REGRET.md.

    python -m tests.benchmarks.workloads.read_off PICKS.json [--jobs unseen.py]

Between two points of the grid the share of the gain that is lost is interpolated over the logarithm of the rate. base_lr
is a quarter of max_lr in both.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from statistics import mean
from typing import Any

ORACLE = Path(__file__).parent / "oracle.json"


def oracle_of(jobs: Path | None) -> Path:
    """Where the grids of a file of jobs are: that of this project's, or one beside it."""
    return ORACLE if jobs is None else jobs.with_name(f"{jobs.stem}_oracle.json")


def lost(found: dict[str, Any], schedule: str, max_lr: float | None) -> float:
    """Per cent of the gain over the constant answer that is lost, 100 without a pick or outside the grid."""
    grid = {int(power): mean(scores) for power, scores in found[schedule]["grid"].items()}
    if max_lr is None:
        return 100.0
    power = math.log2(max_lr)
    below, share = math.floor(power), power - math.floor(power)
    best, constant = found[schedule]["best"], found["constant"]

    def at(place: int) -> float:
        score = grid.get(place, math.nan)
        return min(100.0, max(0.0, 100 * (best - score) / (best - constant))) if math.isfinite(score) else 100.0

    return (1 - share) * at(below) + (share * at(below + 1) if share else 0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picks", type=Path)
    parser.add_argument("--jobs", type=Path)
    asked = parser.parse_args()
    oracle, picks = json.loads(oracle_of(asked.jobs).read_text()), json.loads(asked.picks.read_text())
    verdicts: dict[str, list[float]] = {}
    print("| job | triangular2 / one_cycle / cosine, % | max_lr of the seeds | verdicts | iterations |")
    print("| --- | --- | --- | --- | --- |")
    for name, each in picks.items():
        schedules = [schedule for schedule in oracle[name] if schedule != "constant"]
        cells = [[lost(oracle[name], schedule, pick["max_lr"]) for pick in each] for schedule in schedules]
        for pick, values in zip(each, zip(*cells, strict=True), strict=True):
            verdicts.setdefault(pick["verdict"], []).extend(values)
        rates = ", ".join("none" if pick["max_lr"] is None else f"{pick['max_lr']:.2g}" for pick in each)
        words = ", ".join(pick["verdict"] for pick in each)
        spent = max(pick["iterations"] for pick in each)
        print(f"| {name} | {' / '.join(f'{mean(cell):.1f}' for cell in cells)} | {rates} | {words} | {spent} |")
    for verdict, values in sorted(verdicts.items()):
        within = mean(value <= 5 for value in values)
        print(f"\n{verdict}: {within:.0%} of {len(values)} lose at most 5 %, {mean(values):.1f} % on average", end="")
    print()


if __name__ == "__main__":
    main()
