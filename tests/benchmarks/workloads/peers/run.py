"""Run every way on every job, and keep what it found: a quarter of an hour on one core for the jobs of this project.

    python -m tests.benchmarks.workloads.peers.run KNOWN.json [--picks PICKS.json] [--jobs FILE.py] [--names NAME ...]

``--picks`` is what ``recommend`` wrote for clrtool; ``--jobs`` names another file with a dict ``WORKLOADS`` of the same
kind, and may add to the same KNOWN.json. What is in there already is left as it is, so that a run that was interrupted
goes on. A way whose package is not installed is left out (``pip install -e .[bench]``).
"""

from __future__ import annotations

import argparse
import json
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from clrtool.files import write_whole
from tests.benchmarks.workloads.peers import finders, search, themselves
from tests.benchmarks.workloads.peers.result import Result
from tests.benchmarks.workloads.recommend import load

SEEDS = range(3)
Run = Callable[[Any, int], dict[str, Result]]


@dataclass(frozen=True)
class Way:
    """One way to come by a rate.

    Args:
        package: as pip knows it.
        module: as Python imports it.
        run: job and seed to what was found, by the names of the table.
        names: of what it finds, for a run that fails.
    """

    package: str
    module: str
    run: Run
    names: tuple[str, ...]


WAYS = (
    Way("torch", "torch", finders.optimizer_default, ("optimizer's default",)),
    Way("torch-lr-finder", "torch_lr_finder", finders.torch_lr_finder, ("torch-lr-finder",)),
    Way("fastai", "fastai", finders.fastai, tuple(f"fastai {r}" for r in ("slide", "valley", "minimum", "steep"))),
    Way("lightning", "lightning", finders.lightning, ("Lightning lr_find",)),
    Way("pytorch-ignite", "ignite", finders.ignite, ("Ignite FastaiLRFinder",)),
    Way("prodigyopt", "prodigyopt", themselves.prodigy, ("Prodigy",)),
    Way("prodigyopt", "prodigyopt", themselves.corrected_prodigy, ("Prodigy, corrected",)),
    Way("schedulefree", "schedulefree", themselves.schedule_free, ("schedule-free AdamW",)),
    Way("optuna", "optuna", search.optuna_random, ("Optuna, random",)),
    Way("optuna", "optuna", search.optuna_hyperband, ("Optuna, Hyperband",)),
)


def attempt(way: Way, job: Any, seed: int) -> dict[str, Result]:
    """What a way finds. One that gives up has found nothing, which is a finding about it."""
    try:
        return way.run(job, seed)
    except Exception as error:  # noqa: BLE001 (each package has its own)
        return dict.fromkeys(way.names, Result(0, failed=f"{type(error).__name__}: {error}"))


def measure(way: Way, job: Any, name: str) -> dict[str, list[dict[str, Any]]]:
    """What a way finds for a job with each seed, by the names of the table.

    Jobs have seeds of their own: a search at random would try the same rates on all of them.
    """
    found = [attempt(way, job, zlib.crc32(name.encode()) + seed) for seed in SEEDS]
    return {each: [asdict(results[each]) for results in found] for each in way.names}


def installed(ways: tuple[Way, ...]) -> tuple[list[Way], list[str]]:
    """The ways that can be run, and the packages that are not here."""
    here = [way for way in ways if find_spec(way.module)]
    return here, sorted({way.package for way in ways if way not in here})


def picks_of(path: Path) -> dict[str, list[dict[str, Any]]]:
    """What ``recommend`` found for each job."""
    picks = json.loads(path.read_text())
    return {name: [asdict(Result(p["iterations"], p["max_lr"])) for p in each] for name, each in picks.items()}


def run(
    known: Path, jobs: dict[str, Any], picks: dict[str, list[dict[str, Any]]], ways: tuple[Way, ...] = WAYS
) -> None:
    """Fill the file: job, then name of the table, then a result for each seed."""
    kept = json.loads(known.read_text()) if known.exists() else {"jobs": {}}
    here, absent = installed(ways)
    kept |= {"versions": {way.package: version(way.package) for way in here}, "absent": absent}
    for name, job in jobs.items():
        found = kept["jobs"].setdefault(name, {})
        if name in picks:
            found["clrtool"] = picks[name]
        for way in here:
            if not set(way.names) <= set(found):
                found |= measure(way, job, name)
                write_whole(known, json.dumps(kept, indent=1) + "\n")
                print(name, {each: [r["max_lr"] or r["score"] for r in found[each]] for each in way.names}, flush=True)
    write_whole(known, json.dumps(kept, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("known", type=Path)
    parser.add_argument("--picks", type=Path)
    parser.add_argument("--jobs", type=Path)
    parser.add_argument("--names", nargs="*")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    jobs = load(asked.jobs).WORKLOADS
    chosen = {name: jobs[name] for name in asked.names or jobs}
    run(asked.known, chosen, picks_of(asked.picks) if asked.picks else {})


if __name__ == "__main__":
    main()
