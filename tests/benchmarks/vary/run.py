"""Loss of gain of the pair that ``--vary`` chooses, its cost, and other searches at the same cost: VARY.md.

    python -m tests.benchmarks.vary.run [NAME ...]

Runs the real command line on every problem with two seeds, and reads what it chose off grids that were trained to the
end. What is finished is kept in runs/vary, so that an interrupted benchmark goes on. Hyperband takes part where Optuna
is installed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from tests.benchmarks.vary.grids import GRIDS
from tests.benchmarks.vary.peers import hyperband, random_search
from tests.benchmarks.vary.problems import BATCH, PROBLEMS, Problem

ROOT = Path(__file__).resolve().parents[3]
WORK, REPORT = ROOT / "runs" / "vary", Path(__file__).parents[1] / "VARY.md"
SEEDS = (100, 200)
# A search that costs less than this cannot try the values of an axis.
COST = 0.5
ABOUT = """\
# A value beside the rate

Small real jobs whose every value was trained to the end at powers of two of max_lr, two cycles of triangular2, two seeds
(`python -m tests.benchmarks.vary.grids`). `clrtool rangetest --vary` chooses a pair on seeds that the grid has not seen;
what it loses is read off the grid, between two of its rates on the logarithm, in per cent of the gain of the best pair
over a constant answer. "Own value, best rate" is what keeping the config's value could reach at the most. Random search
and Optuna's Hyperband train the real schedule, on the same seeds, at the cost of half a training, over a range of three
decades of rates. Made by `python -m tests.benchmarks.vary.run`.
"""


def surface(found: Mapping[str, Any], value: float, power: float) -> float:
    """The mean held-out loss of a value at a rate, between the rates that were trained; the constant's beyond them."""
    grid = {int(each): mean(losses) for each, losses in found["grids"][str(value)].items()}
    powers = sorted(grid)
    if not powers[0] <= power <= powers[-1]:
        return float(found["constant"])
    losses = [min(grid[each], found["constant"]) for each in powers]
    return float(np.interp(power, powers, losses))


def lost(found: Mapping[str, Any], value: float, power: float) -> float:
    """Per cent of the gain of the best pair that a pair loses."""
    best = min(mean(losses) for grid in found["grids"].values() for losses in grid.values())
    return 100 * (surface(found, value, power) - best) / (found["constant"] - best)


def lost_of_own(found: Mapping[str, Any], value: float, power: float) -> float:
    """Per cent of the gain of a value's own best rate that a rate loses."""
    best = min(mean(losses) for losses in found["grids"][str(value)].values())
    return 100 * (surface(found, value, power) - best) / (found["constant"] - best)


def own_best(found: Mapping[str, Any], problem: Problem) -> float:
    """What the config's own value loses at its best rate."""
    return min(lost(found, problem.own, int(power)) for power in found["grids"][str(problem.own)])


def chosen(name: str, problem: Problem, seed: int) -> dict[str, Any]:
    """What the command line makes of a problem: the content of vary.json."""
    WORK.mkdir(parents=True, exist_ok=True)
    file, folder = WORK / f"{name}.yaml", WORK / f"{name}-{seed}"
    file.write_text(json.dumps(problem.config))
    command = [sys.executable, "-m", "clrtool", "rangetest", str(file), f"seed={seed}", "-q", "-o", str(folder),
               "--vary", f"{problem.key}={','.join(map(str, problem.values))}",
               "--allow-import", "tests.benchmarks.*"]  # fmt: skip
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
                          check=False)  # fmt: skip
    if done.returncode not in (0, 3):
        raise RuntimeError(f"{name}, seed {seed}: {done.stderr[-2000:]}")
    values: dict[str, Any] = json.loads((folder / "vary.json").read_text())
    return values


def searched(name: str, problem: Problem, seed: int) -> dict[str, Any]:
    """What the other searches choose, kept in a file as soon as it is known."""
    file = WORK / f"{name}-{seed}-peers.json"
    if not file.exists():
        pairs = {"random": random_search(problem, COST, seed), "hyperband": hyperband(problem, COST, seed)}
        file.write_text(json.dumps(pairs))
    known: dict[str, Any] = json.loads(file.read_text())
    return known


def measured(name: str) -> dict[str, Any]:
    """A row of the table."""
    problem, found = PROBLEMS[name], json.loads(GRIDS.read_text())[name]
    row: dict[str, Any] = {"name": name, "own": own_best(found, problem), "ours": [], "picks": [], "share": [],
                           "verdicts": [], "random": [], "hyperband": [], "growth": [], "sizes": {}}  # fmt: skip
    for seed in SEEDS:
        result = chosen(name, problem, seed)
        row["share"].append(result["share"])
        row["verdicts"].append(result["verdict"])
        pick = result["chosen"]
        if pick is None:
            row["ours"].append(100.0)
            row["picks"].append("none")
        else:
            value = pick["values"][problem.key]
            row["ours"].append(lost(found, value, float(np.log2(pick["max_lr"]))))
            row["picks"].append(f"{value:g} at {pick['max_lr']:.3g}")
        row["growth"].append(result["batch_scaling"])
        for each in result["values"] if problem.key == BATCH else ():
            size = each["values"][BATCH]
            loses = lost_of_own(found, size, float(np.log2(each["max_lr"])))
            row["sizes"].setdefault(str(size), []).append(loses)
        for peer, pair in searched(name, problem, seed).items():
            row[peer] += [] if pair is None else [lost(found, *pair)]
    return row


def true_exponent(name: str) -> float:
    """The growth of the best rate with the batch on the grid, between its powers of two."""
    grids = json.loads(GRIDS.read_text())[name]["grids"]
    best = []
    for grid in grids.values():
        losses = {int(power): mean(each) for power, each in grid.items()}
        middle = min(losses, key=lambda power: losses[power])
        around = [losses.get(middle + step, losses[middle]) for step in (-1, 0, 1)]
        bend = around[0] - 2 * around[1] + around[2]
        best.append(middle + (max(-0.5, min(0.5, (around[0] - around[2]) / (2 * bend))) if bend > 0 else 0))
    return float(np.polyfit(np.log2([float(size) for size in grids]), best, 1)[0])


def cell(losses: list[float]) -> str:
    return " / ".join(f"{each:.1f}" for each in losses) if losses else "not installed"


def report(rows: list[dict[str, Any]]) -> str:
    lines = [ABOUT, "| problem | loses, % | pairs | verdicts | cost | own value, best rate | random | Hyperband |",
             "| --- | --- | --- | --- | --- | --- | --- | --- |"]  # fmt: skip
    lines += (
        f"| {row['name']} | {cell(row['ours'])} | {', '.join(row['picks'])} "
        f"| {', '.join(each.replace('_', ' ') for each in row['verdicts'])} | {max(row['share']):.2f} "
        f"| {row['own']:.1f} | {cell(row['random'])} | {cell(row['hyperband'])} |"
        for row in rows
    )
    summary = [
        (mean(each), max(each)) if (each := [one for row in rows for one in row[kind]]) else (np.nan, np.nan)
        for kind in ("ours", "random", "hyperband")
    ]
    ours, other, third = (f"{average:.1f} ({worst:.1f})" for average, worst in summary)
    share = max(each for row in rows for each in row["share"])
    lines.append(f"| **mean (worst)** | **{ours}** | | | {share:.2f} | | {other} | {third} |")
    lines += [
        "",
        "A training of less than about 1,600 iterations costs more than half of itself, for the first rate takes 500.",
    ]
    lines += ["", "## Growth with the batch", "", *growth(rows)]
    return "\n".join(lines) + "\n"


def growth(rows: list[dict[str, Any]]) -> list[str]:
    """The exponent that each run measured and that of the grid, and what the max_lr of each size loses."""
    lines = ["| problem | exponent (interval) of two seeds | of the grid | the max_lr of each size loses, % |",
             "| --- | --- | --- | --- |"]  # fmt: skip
    for row in rows:
        if PROBLEMS[row["name"]].key != BATCH:
            continue
        sizes = ", ".join(f"{size}: {cell(losses)}" for size, losses in row["sizes"].items())
        told = ", ".join(
            "none"
            if each is None
            else f"{each['exponent']:.2f} ({each['interval'][0]:.2f} to {each['interval'][1]:.2f})"
            for each in row["growth"]
        )
        lines.append(f"| {row['name']} | {told} | {true_exponent(row['name']):.2f} | {sizes} |")
    return lines


def main() -> None:
    known = json.loads(GRIDS.read_text())
    rows = []
    for name in sys.argv[1:] or [each for each in PROBLEMS if each in known]:
        rows.append(measured(name))
        print(json.dumps(rows[-1]), flush=True)
        REPORT.write_text(report(rows))


if __name__ == "__main__":
    main()
