"""Where the seeds of a range test are trained: here, or by other processes whose results are then read as one.

Other executors: :mod:`local_processes`, :mod:`ray_tasks` and :mod:`shards`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clrtool.cli.run.seed_share import worker_folders
from clrtool.cli.run.signals import Signals
from clrtool.cli.run.spec import RunSpec
from clrtool.core.results.shard import LackingError

if TYPE_CHECKING:
    from clrtool.engine.resume.journal import Assignment, RemoteResults


class Executor:
    """Every seed is trained in this process; other executors differ from it.

    Attributes:
        is_elsewhere: whether other processes train, whose results this one reads.
        workers: how many of them at once.
    """

    is_elsewhere = False
    workers = 1

    def __init__(self, spec: RunSpec) -> None:
        self._spec = spec

    def train(self, signals: Signals) -> None:
        """Have the seeds that lack trained elsewhere; what was measured lies in :meth:`results`."""

    def results(self) -> Sequence[Path]:
        """Folders with what other processes have measured, those of a run that was interrupted among them."""
        return worker_folders(self._spec.folder)

    def assigned(self, seeds: Sequence[int]) -> Sequence[int]:
        """Those of the seeds which lack that are trained here. Raises LackingError to have them trained elsewhere."""
        return seeds

    def shared(self, about: Mapping[str, Any]) -> tuple[RemoteResults, Assignment]:
        """What others have measured of a test, and which seeds of it are trained here."""
        from clrtool.engine.resume.journal import Assignment
        from clrtool.engine.resume.sharding import union

        return union(self.results(), about), Assignment(self.assigned)


def never_here(seeds: Sequence[int]) -> Sequence[int]:
    """No seed is trained in this process."""
    raise LackingError(seeds)
