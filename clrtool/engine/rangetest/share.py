"""A share of the seeds: what one process sweeps of a range test, where several do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from clrtool.core.results.shard import LackingError
from clrtool.engine.rangetest.observer import Observer
from clrtool.engine.rangetest.pipeline import Asked, sweep_seeds
from clrtool.engine.resume.journal import Assignment, Journal, RemoteResults
from clrtool.engine.resume.open import about_test
from clrtool.engine.training.workload import Workload


class Kept:
    """A store of checkpoints in memory."""

    def __init__(self) -> None:
        self.values: Mapping[str, Any] = {}

    def save(self, values: Mapping[str, Any]) -> None:
        self.values = values


def sweep_share(
    workload: Workload, asked: Asked, known: Mapping[str, Any], seeds: Sequence[int], observer: Observer
) -> tuple[Mapping[str, Any], tuple[int, ...]]:
    """Sweep these seeds of a range test, and its scout if it is not known.

    Args:
        known: the results that are known, by their names.

    Returns:
        The values of a checkpoint, and the seeds that are to be swept next.
    """
    kept, lacking = Kept(), tuple[int, ...]()
    journal = Journal(
        kept,
        about=about_test(workload, asked.sha256()),
        remote=RemoteResults(known),
        assignment=Assignment(lambda wanted: [seed for seed in wanted if seed in seeds]),
    )
    try:
        sweep_seeds(workload, asked, observer, journal)
    except LackingError as error:
        lacking = tuple(error.seeds)
    journal.finish()
    return kept.values, lacking
