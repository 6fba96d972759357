"""Races replayed from trajectories: what each constant of the race does, halved and doubled.

    python -m tests.benchmarks.workloads.replay TRAJECTORIES.json [ORACLE.json] ... [--budget 400]

Every ordered pair of a job's seeds is a race. Its pick is read off the oracle's grid, so that a table of all constants
takes a minute. A horizon that was not tabulated is read at the nearest that was.
"""

from __future__ import annotations

import argparse
import json
import math
from itertools import permutations
from pathlib import Path
from statistics import mean
from typing import Any

from clrtool.core.racing import rules
from clrtool.core.racing.choose import choose
from clrtool.core.racing.probes import Entry, Probe
from clrtool.core.racing.race import next_run
from clrtool.core.racing.result import Race
from tests.benchmarks.workloads.read_off import ORACLE, lost
from tests.benchmarks.workloads.trajectories import HORIZONS

CONSTANTS = ("FIRST", "PARTS", "SHORTEST", "STRIDE", "LEVEL", "WAITING", "APART", "EXPLODED", "DEAD", "LAGGING", "LEFT", "AROUND", "WORTH",
             "LEARNED", "FORGIVEN", "DEARER", "REFUSED", "BELOW_CLIFF")  # fmt: skip
# FIRST is a share: twice as much is all.
MOST = {"FIRST": 0.9}


def replay(name: str, runs: list[dict[str, Any]], training: int, constant: float, budget: int) -> Race:
    """A race of which each seed is one of the tabulated ones."""
    first = mean(run["first"] for run in runs[0].values())
    entry = Entry(-5 if name.endswith("sgd") else -10, budget, len(runs), training, constant, first)
    probes: list[Probe] = []
    while (wanted := next_run(entry, probes)) is not None:
        run = runs[wanted.seed].get(str(wanted.power), {"taken": 0, "losses": {}})
        horizon = min(HORIZONS, key=lambda each: abs(math.log(each / wanted.iterations)))
        loss = run["losses"].get(str(horizon), math.inf)
        taken = wanted.iterations if math.isfinite(loss) else min(run["taken"], wanted.iterations)
        spread = run.get("spreads", {}).get(str(horizon)) if entry.is_level(loss) else None
        probes.append(Probe(*wanted, taken, loss, 0.0 if math.isfinite(loss) else None, spread))
    return Race(entry, tuple(probes))


def losses(table: dict[str, Any], oracle: dict[str, Any], budget: int) -> dict[str, list[float]]:
    """Per cent of the gain that each race of a job loses, the mean over schedules."""
    found: dict[str, list[float]] = {}
    for name, job in table.items():
        schedules = [each for each in oracle[name] if isinstance(oracle[name][each], dict)]
        constant = job.get("constant", oracle[name]["constant"])
        for runs in permutations(job["seeds"].values(), 2):
            top = choose(replay(name, list(runs), job["training"], constant, budget)).max_lr
            found.setdefault(name, []).append(mean(lost(oracle[name], each, top) for each in schedules))
    return found


def told(table: dict[str, Any], oracle: dict[str, Any], budget: int) -> str:
    """Mean over jobs, and the mean of the worst job."""
    jobs = [mean(each) for each in losses(table, oracle, budget).values()]
    return f"{mean(jobs):.1f} ({max(jobs):.1f})"


def changed(constant: str, factor: float) -> float:
    """A constant by a factor, as the rule can have it."""
    value = getattr(rules, constant)
    if constant == "WORTH":  # what it asks for beyond 1
        return 1 + factor * (value - 1)
    return (
        min(MOST.get(constant, math.inf), value * factor) if isinstance(value, float) else max(1, int(factor * value))
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--budget", type=int, default=400)
    asked = parser.parse_args()
    table, oracle = dict[str, Any](), json.loads(ORACLE.read_text())
    for each in (json.loads(file.read_text()) for file in asked.files):
        is_table = all("seeds" in job for job in each.values())
        (table if is_table else oracle).update(each)
    now = told(table, oracle, asked.budget)
    print("| constant | value | halved: mean (worst job), % | as it is | doubled |")
    print("| --- | --- | --- | --- | --- |")
    for constant in CONSTANTS:
        value, cells = getattr(rules, constant), []
        for factor in (0.5, 2):
            setattr(rules, constant, changed(constant, factor))
            cells.append(f"{getattr(rules, constant):g}: {told(table, oracle, asked.budget)}")
            setattr(rules, constant, value)
        print(f"| {constant} | {value:g} | {cells[0]} | {now} | {cells[1]} |", flush=True)


if __name__ == "__main__":
    main()
