"""Regret of clrtool and of other finders, repeatability, insensitivity and constants: ``make bench-regret``.

Runs the real command line on every problem with five seeds, by its race and by the paper's method, trains with
what it recommends and writes its part of REGRET.md. What is finished is kept in runs/regret, so an interrupted benchmark goes on. Half an
hour on two cores with the problems beside the project, five minutes without.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from multiprocessing import Pool
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import torch

from clrtool.core.reading import fit as reading
from clrtool.core.reading.paper import find_bounds
from clrtool.core.results.record import RunRecord
from clrtool.report.records.run import read_run
from tests.benchmarks.regret.problems import OURS, SHARED, oracle, problems
from tests.benchmarks.regret.training import accuracy

ROOT = Path(__file__).resolve().parents[3]
WORK = ROOT / "runs" / "regret"
RESULTS = Path(__file__).parents[1] / "REGRET.md"
# What this writes of the page: all from here on. Before it are jobs of other kinds, see tests.benchmarks.workloads.
PART = "# Image problems"
SEEDS, SCORED = range(0, 5000, 1000), range(3)
EPOCHS = (2, 4, 8)
# Changed by these factors, and read again from the curves that were measured.
CONSTANTS = ("SAFETY", "UNBROKEN", "TO_BREAK", "TO_LEARN", "HALF_WIDTH", "RISEN", "LOWEST", "FALLBACK")
# In the scout and in the size of a sweep: measured again, on the problems that take seconds.
SWEPT = ("scout.BELOW", "scout.ABOVE", "scout.LEFT", "paper.FOR_GOOD", "sweep_size.ITERATIONS")
ABOUT = """\
Regret is what training with a recommendation loses, in points of held-out accuracy, against the best max_lr in hindsight
(powers of two, base_lr a quarter, 2 to 5 seeds): triangular2, two cycles in the problem's epochs. Mean over 5 seeds of the
tool, each trained with 3 seeds, nothing below 0; in brackets the worst of the 5. Cost is that of the test as a share of
one training run, the dearest of 5. Spread is the largest max_lr of the 5 by the smallest; the last column counts the
intervals that hold the median of the 5. Seeds move the accuracy by half a point to a point. The constants of the rule
were chosen with all of these problems in view, and are the same for all."""
PAPER = "The paper's method, `sweep.method=paper`, whose curves alone are read:"
READ_AGAIN = """\
Regret read off the oracle's grid, where base_lr is a quarter of max_lr, mean over all problems and seeds (worst problem);
then the mean over problems of the spread. The same curves, read with one constant changed. TO_LEARN, RISEN, LOWEST and
FALLBACK move base_lr alone, which the grid does not see; and with base_lr at a tenth, as it mostly is, a max_lr on the
high side loses less than here."""
SWEPT_ANEW = "The same for the scout and the sweep, swept anew with seed 0; without the problems of CIFAR-10."
MODULES = {
    "scout": "clrtool.engine.rangetest.scout",
    "paper": "clrtool.core.reading.paper",
    "sweep_size": "clrtool.core.planning.sweep_size",
}


def config(name: str) -> Path:
    problem: Any = problems()[name]
    values = {
        "model": {"factory": "tests.benchmarks.regret.problems:model", "args": {"name": name}},
        "data": {
            "factory": "tests.benchmarks.regret.problems:data",
            "args": {"name": name},
            "batch_size": problem.batch_size,
        },
        "optimizer": problem.optimizer_spec,
        "plan": {"epochs": problem.epochs},
    }
    file = WORK / f"{name}.yaml"
    file.write_text(json.dumps(values))
    return file


def rangetest(job: tuple[str, str, Sequence[str], str]) -> None:
    """One run of the command line: (problem, folder, further words, code that runs before)."""
    name, folder, words, before = job
    start = f"{before}\nfrom clrtool.cli.main import main\nimport sys\nmain(sys.argv[1:])"
    command = [sys.executable, "-c", start, "rangetest", str(WORK / f"{name}.yaml"), *words, "-q"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, "-o", str(WORK / folder), "--allow-import", "tests.benchmarks.*"],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode not in (0, 3):
        raise RuntimeError(f"{name} {folder}: {done.stderr[-2000:]}")


def measured(names: Sequence[str], method: str) -> dict[str, list[RunRecord]]:
    """The runs of all seeds by a method."""
    folders = {(name, seed): f"{name}/{method}-{seed}" for name in names for seed in SEEDS}
    words = [f"sweep.method={method}"]
    measure((name, folder, [*words, f"seed={seed}"], "") for (name, seed), folder in folders.items())
    return {name: [read_run(WORK / folders[name, seed]) for seed in SEEDS] for name in names}


def measure(jobs: Iterable[tuple[str, str, Sequence[str], str]]) -> None:
    """Run what is not yet finished, two at a time."""
    todo = [job for job in jobs if not (WORK / job[1] / "result.json").exists()]
    with Pool(2) as pool:
        for number, _ in enumerate(pool.imap_unordered(rangetest, todo), 1):
            print(f"{number}/{len(todo)} range tests", flush=True)


def score(picks: Iterable[tuple[str, float, float]]) -> dict[tuple[str, float, float], float]:
    """Mean accuracy of each pick over ``SCORED`` seeds; kept in a file as soon as it is known."""
    file = WORK / "scores.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    jobs = [(name, base, top, seed) for name, base, top in picks for seed in SCORED]
    todo = [job for job in dict.fromkeys(jobs) if repr(job) not in known]
    with Pool(2) as pool:
        for number, (job, found) in enumerate(zip(todo, pool.imap(_accuracy, todo), strict=True), 1):
            known[repr(job)] = found
            file.write_text(json.dumps(known))
            print(f"{number}/{len(todo)} trainings", flush=True)
    return {job[:3]: mean(known[repr((*job[:3], seed))] for seed in SCORED) for job in jobs}


def _accuracy(job: tuple[str, float, float, int]) -> float:
    return accuracy(*job)


def pick(record: RunRecord) -> tuple[float, float]:
    """base_lr and max_lr of a run; NaN where there are none."""
    base, top = record.bounds.base_lr, record.bounds.max_lr
    return (float("nan"), float("nan")) if base is None or top is None else (base, top)


def regret(name: str, reached: float) -> float:
    return 100 * max(0.0, float(oracle()[name]["best_accuracy"]) - reached)


def on_the_grid(name: str, max_lr: float) -> float:
    """Regret of max_lr with base_lr a quarter of it, between the points that the oracle trained."""
    grid = oracle()[name]["grid"]
    at = np.interp(np.log2(max_lr), np.log2([row["max_lr"] for row in grid]), [row["accuracy"] for row in grid])
    return regret(name, float(at))


def main_table(names: Sequence[str], records: dict[str, list[RunRecord]]) -> list[str]:
    """Regret, cost and spread of runs, a row a problem."""
    picks = {name: [pick(record) for record in records[name]] for name in names}
    scores = score((name, *each) for name, found in picks.items() for each in found if each[0] > 0)
    rows, summary = [], []
    for name in names:
        lost = [regret(name, scores.get((name, *each), 0.0)) for each in picks[name]]
        summary.append(mean(lost))
        tops = [each[1] for each in picks[name]]
        inside = sum(_contains(record, median(tops)) for record in records[name])
        cost = max(record.cost_epochs for record in records[name]) / problems()[name].epochs
        rows.append(
            f"| {name} | {mean(lost):.2f} ({max(lost):.2f}) | {cost:.2f} | {min(tops):.3g} to {max(tops):.3g} "
            f"| {max(tops) / min(tops):.2f} | {inside} of {len(tops)} |"
        )
    return [
        "| problem | regret (worst) | cost | max_lr of 5 seeds | spread | median inside |",
        "| --- | --- | --- | --- | --- | --- |",
        *rows,
        f"| **mean** | **{mean(summary):.2f}** | | | | |",
    ]


def _contains(record: RunRecord, lr: float) -> bool:
    low, high = record.bounds.max_lr_interval or (0.0, 0.0)
    return low <= lr <= high


def peers_table(names: Sequence[str], ours: dict[str, float]) -> list[str]:
    """Every other finder with its own defaults, its suggestion used as max_lr, off the oracle's grid."""
    known = json.loads((SHARED / "peers.json").read_text())["problems"]
    rows = {"clrtool": [ours[name] for name in names]}
    for peer in sorted(known[names[0]]):
        rows[peer] = [mean(known[name][peer]["regret"]) for name in names]
    lines = [f"| finder | {' | '.join(names)} | mean | worst |", "| --- |" + " --- |" * (len(names) + 2)]
    for finder, lost in sorted(rows.items(), key=lambda row: mean(row[1])):
        lines.append(f"| {finder} | {' | '.join(f'{x:.1f}' for x in lost)} | {mean(lost):.2f} | {max(lost):.2f} |")
    return lines


def insensitivity(names: Sequence[str], records: dict[str, list[RunRecord]]) -> list[str]:
    """max_lr at 2, 4 and 8 epochs of sweep, and with explicit ends ten and a hundred times as far apart."""
    jobs = {}
    for name in names:
        sweep = records[name][0].sweep
        jobs |= {(name, f"epochs-{n}"): [f"sweep.epochs={n}"] for n in EPOCHS}
        for wider in (1.0, 10.0, 100.0):
            ends = sweep.start_lr / wider**0.5, sweep.end_lr * wider**0.5
            jobs[name, f"x{wider:g}"] = [
                "sweep.method=paper",
                f"sweep.start_lr={ends[0]!r}",
                f"sweep.end_lr={ends[1]!r}",
            ]
    measure((name, f"{name}/{what}", words, "") for (name, what), words in jobs.items())
    lines = ["| problem | 2, 4, 8 epochs | largest / smallest | given ends, x10, x100 | x10 against given | x100 |",
             "| --- | --- | --- | --- | --- | --- |"]  # fmt: skip
    for name in names:
        tops = {what: pick(read_run(WORK / name / what))[1] for of, what in jobs if of == name}
        epochs, ends = [tops[f"epochs-{n}"] for n in EPOCHS], [tops[f"x{w}"] for w in (1, 10, 100)]
        lines.append(
            f"| {name} | {', '.join(f'{x:.3g}' for x in epochs)} | {max(epochs) / min(epochs):.2f} "
            f"| {', '.join(f'{x:.3g}' for x in ends)} | {_apart(ends[1], ends[0]):.2f} | {_apart(ends[2], ends[0]):.2f} |"
        )
    return lines


def _apart(a: float, b: float) -> float:
    return max(a / b, b / a)


def read_again(names: Sequence[str], records: dict[str, list[RunRecord]]) -> tuple[float, float, float]:
    """Mean and worst regret on the oracle's grid, and the mean spread, of curves as they are read now."""
    lost, spreads = [], []
    for name in names:
        tops = []
        for record in records[name]:
            sweep = record.sweep
            top = find_bounds(sweep.curves, sweep.heldout_samples, sweep.chance, sweep.metric).max_lr
            tops.append(top or sweep.start_lr)
        lost.append(mean(on_the_grid(name, top) for top in tops))
        spreads.append(max(tops) / min(tops))
    return mean(lost), max(lost), mean(spreads)


def constants(names: Sequence[str], records: dict[str, list[RunRecord]]) -> list[str]:
    """Each constant of the reading halved and doubled."""
    lines = [
        "| constant | value | halved: mean (worst), spread | as it is | doubled |",
        "| --- | --- | --- | --- | --- |",
    ]
    now = _told(read_again(names, records))
    for constant in CONSTANTS:
        value = getattr(reading, constant)
        told = [_told(_changed(constant, kind(value * factor), lambda: read_again(names, records)))
                for factor, kind in ((0.5, type(value)), (2, type(value)))]  # fmt: skip
        lines.append(f"| {constant} | {value:g} | {told[0]} | {now} | {told[1]} |")
    for high, low in ((0.9, 0.5), (0.5, 0.4), (0.85, 0.75)):
        told = _told(_changed("BREAKING", np.linspace(high, low, 5), lambda: read_again(names, records)))
        lines.append(f"| BREAKING | 0.7 to 0.6 | {high} to {low}: {told} | {now} | |")
    return lines


def _changed(constant: str, value: Any, work: Callable[[], Any]) -> Any:
    before = getattr(reading, constant)
    setattr(reading, constant, value)
    try:
        return work()
    finally:
        setattr(reading, constant, before)


def _told(found: tuple[float, float, float]) -> str:
    return "{:.2f} ({:.1f}), {:.2f}".format(*found)


def swept_constants(names: Sequence[str]) -> list[str]:
    """Each constant of the scout and of the sweep's size halved and doubled, swept anew with one seed."""
    jobs, values = {}, {}
    for constant in SWEPT:
        module, word = constant.split(".")
        values[constant] = getattr(__import__(MODULES[module], fromlist=[word]), word)
        for factor in (0.5, 2):
            for name in names:
                before = f"import {MODULES[module]} as m\nm.{word} = type(m.{word})(m.{word} * {factor})"
                jobs[constant, factor, name] = (name, f"{name}/{constant}-{factor}", ["sweep.method=paper"], before)
    measure(jobs.values())
    lines = ["| constant | value | halved: mean (worst) | as it is | doubled |", "| --- | --- | --- | --- | --- |"]

    def told(folder: str) -> str:
        tops = {name: read_run(WORK / name / folder).bounds.max_lr for name in names}
        lost = [on_the_grid(name, top) if top else 100 * oracle()[name]["best_accuracy"] for name, top in tops.items()]
        return f"{mean(lost):.2f} ({max(lost):.1f})"

    for constant in SWEPT:
        halved, doubled = (told(f"{constant}-{factor}") for factor in (0.5, 2))
        lines.append(f"| {constant} | {values[constant]:g} | {halved} | {told('paper-0')} | {doubled} |")
    return lines


def write(parts: Sequence[str]) -> None:
    """What is known so far, below what the page has of other jobs; a run without bounds has none."""
    kept = RESULTS.read_text().partition(PART)[0] if RESULTS.exists() else ""
    RESULTS.write_text(kept + "\n".join(parts).replace(" nan", " none"))


def main() -> None:
    WORK.mkdir(parents=True, exist_ok=True)
    shared = [name for name in problems() if name not in OURS]
    names = [*shared, *OURS]
    for name in names:
        config(name)
    records = measured(names, "paper")
    raced = measured(names, "race")
    machine = f"{os.cpu_count()} cores {platform.machine()}, torch {torch.__version__}"
    parts = [
        PART,
        "",
        f"{datetime.date.today():%Y-%m-%d}, {machine}. Made by `make bench-regret`.",
        "",
        ABOUT,
        "",
    ]
    if shared:
        parts += ["## Six problems beside the project", "", "The race, within its default budget:", "",
                  *main_table(shared, raced), "", PAPER, "", *main_table(shared, records), ""]  # fmt: skip
        lost = {n: mean(regret(n, r) for r in _reached(n, raced)) for n in shared}
        parts += ["Other finders on the same problems, each with its own defaults and 3 seeds:", "",
                  *peers_table(shared, lost), ""]  # fmt: skip
    parts += ["## Problems of other kinds", "", "The race, within its default budget:", "",
              *main_table(list(OURS), raced), "", PAPER, "", *main_table(list(OURS), records), ""]  # fmt: skip
    write(parts)
    parts += ["## Insensitivity", "", "max_lr by the paper's method, one seed.", "", *insensitivity(names, records), ""]
    write(parts)
    parts += ["## Constants", "", READ_AGAIN, "", *constants(names, records), ""]
    write(parts)
    quick = [name for name in names if not name.startswith("cifar")]
    parts += [SWEPT_ANEW, "", *swept_constants(quick), ""]
    write(parts)
    print(RESULTS.read_text())


def _reached(name: str, records: dict[str, list[RunRecord]]) -> list[float]:
    picks = [pick(record) for record in records[name]]
    scores = score((name, *each) for each in picks if each[0] > 0)
    return [scores.get((name, *each), 0.0) for each in picks]


if __name__ == "__main__":
    main()
