"""A range test of a program's own objects, whose seeds are swept by several processes of this machine.

A process starts empty, so model, data and steps travel to it as a pickle; plain numbers come back.
"""

from __future__ import annotations

import math
import pickle  # nosec B403 # what this process has packed itself, for the processes that it starts
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from inspect import signature
from multiprocessing import get_context
from typing import Any

import torch

from clrtool.core.results.record import RunRecord
from clrtool.core.results.shard import LackingError
from clrtool.engine.rangetest.observer import Observer
from clrtool.engine.rangetest.pipeline import Asked, range_test
from clrtool.engine.rangetest.share import Kept, sweep_share
from clrtool.engine.resume.journal import Assignment, Journal, RemoteResults, added_up
from clrtool.engine.resume.sharding import results
from clrtool.engine.runtime.device import computing_with
from clrtool.engine.runtime.factories import describe
from clrtool.engine.training.workload import Workload
from clrtool.errors import ConfigError, MachineError
from clrtool.words import shown

# How the user calls what ``build`` takes, where that differs.
_CALLED = {"steps": "loss, step or measure"}
_WAY_OUT = "define what it is made of in a module (a .py file) and import it, or leave out jobs"


def range_test_in_processes(build: partial[Any], asked: Asked, observer: Observer, jobs: int) -> RunRecord:
    """Run a range test whose seeds are swept by up to ``jobs`` processes at once.

    A single seed is swept in this one, where the race runs too, each of whose runs depends on those before it.

    Args:
        build: makes the workload, here and in every process.

    Raises:
        ConfigError: as :func:`range_test`; or an argument of ``build`` cannot be sent to another process.
        MachineError: as :func:`range_test`; or a process has died.
    """
    if not isinstance(jobs, int) or jobs < 1:
        raise ConfigError(f"jobs = {shown(jobs)} must be a whole number of at least 1")
    workload = build()
    if jobs > 1 and workload.ranks.processes > 1:
        raise ConfigError(f"jobs: {workload.ranks.processes} ranks train each seed together: leave out jobs")
    if jobs == 1 or workload.sweep_size(asked.sweep).seeds == 1:
        return range_test(workload, asked, observer)
    packed, known = _packed(build, asked), RemoteResults()
    while True:
        journal = Journal(kept := Kept(), every=math.inf, remote=known, assignment=Assignment(_one_at_most))
        try:
            return range_test(workload, asked, observer, partial(_given, journal))
        except LackingError as error:
            seeds = error.seeds
        journal.finish()  # what was measured here
        with observer.sharing(min(jobs, len(seeds)), len(seeds)):
            found = _swept(packed, results(kept.values), seeds, jobs, deterministic=workload.deterministic)
        known = _together([kept.values, *found])


def _given(journal: Journal, workload: Workload) -> Journal:  # noqa: ARG001
    return journal


def _packed(build: partial[Any], asked: Asked) -> bytes:
    """What every process is sent. Raises ConfigError for an argument that cannot be."""
    try:
        return pickle.dumps((build, asked))
    except Exception as error:
        arguments = signature(build.func).bind(*build.args, **build.keywords).arguments
        name = next((name for name, each in arguments.items() if not _travels(each)), "the range test")
        raise ConfigError(
            f"jobs: {_CALLED.get(name, name)} cannot be sent to another process ({describe(error)}): {_WAY_OUT}"
        ) from error


def _one_at_most(seeds: Sequence[int]) -> Sequence[int]:
    """A single seed is swept sooner here than in a process that has to start."""
    if len(seeds) > 1:
        raise LackingError(seeds)
    return seeds


def _swept(
    packed: bytes, known: Mapping[str, Any], seeds: Sequence[int], jobs: int, *, deterministic: bool
) -> list[Mapping[str, Any]]:
    """What the processes have measured, each of its share of the seeds, as the values of checkpoints."""
    workers, threads = min(jobs, len(seeds)), torch.get_num_threads()
    if not deterministic:  # how a sum is split among threads can change its last bits
        threads = max(1, threads // workers)
    try:
        with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
            shares = [pool.submit(_sweep, packed, threads, known, seeds[first::workers]) for first in range(workers)]
            return [share.result() for share in shares]
    except BrokenProcessPool as error:
        raise MachineError(
            "jobs: a process ended before it had swept its seeds. In a script, call range_test under "
            "if __name__ == '__main__':, because every process imports the script; else memory was short"
        ) from error


def _sweep(packed: bytes, threads: int, known: Mapping[str, Any], seeds: Sequence[int]) -> Mapping[str, Any]:
    """In a process: sweep some seeds."""
    try:
        build, asked = pickle.loads(packed)  # noqa: S301  # nosec B301 # packed by the process that started this one
    except Exception as error:
        raise ConfigError(f"jobs: a new process cannot load what it is sent ({describe(error)}): {_WAY_OUT}") from error
    with computing_with(threads):
        values, _ = sweep_share(build(), asked, known, seeds, Observer())
    return values


def _together(all_values: Sequence[Mapping[str, Any]]) -> RemoteResults:
    """What several checkpoints hold."""
    finished: dict[str, Any] = {}
    seconds, warnings = {}, list[str]()
    for number, values in enumerate(all_values):
        finished = results(values) | finished
        seconds[f"process {number}"] = added_up([values["seconds"], *values["elsewhere"].values()])
        warnings += values["warnings"]
    return RemoteResults(finished, seconds, tuple(dict.fromkeys(warnings)))


def _travels(part: Any) -> bool:
    """Whether a part can be sent to another process."""
    try:
        pickle.dumps(part)
    except Exception:  # noqa: BLE001 (of somebody's own class)
        return False
    return True
