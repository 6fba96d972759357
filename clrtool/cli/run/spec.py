"""What a command is asked to measure, and where: the record that its parts hand on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clrtool.cli.run.sharding import JOBS, Share, left_by_jobs
from clrtool.cli.run.signals import Signals

if TYPE_CHECKING:
    from clrtool.config.schema import RangeTestConfig

# Folders of the checkpoints in a run folder, there only while something is unfinished: of the sweep, of --verify, of
# the processes of --jobs.
SWEEP, VERIFY, _ = CHECKPOINTS = "checkpoint", "checkpoint-verify", JOBS


@dataclass
class Job:
    """One range test as it was asked for.

    Args:
        settings, folder: the config and the run folder.
        source: what ``build_workload`` takes beside the config.
        signals: what is asked for while it runs.
        every: seconds between checkpoints.
        accumulate: whether a batch that does not fit is taken in micro-batches.
        fresh: whether what the folder holds is to be replaced; until that is done.
        quiet: no progress.
        plain: nothing that moves, and sentences in place of tables and charts.
        threads: that torch computes with; None for as many as it takes by itself.
        share: the seeds that are trained, where they are not all.
        gathered: the folders of shards that are merged.
        collect: asked for the seeds that are to be trained here, of those that are lacking; all, if there is none.
    """

    settings: RangeTestConfig
    folder: Path
    source: Mapping[str, Any]
    signals: Signals
    every: float
    accumulate: bool
    fresh: bool
    quiet: bool
    plain: bool
    threads: int | None = None
    share: Share | None = None
    gathered: tuple[Path, ...] = ()
    collect: Callable[[Sequence[int]], Sequence[int]] | None = None

    def others(self) -> list[Path]:
        """Folders with what other processes have measured for this one."""
        return [*self.gathered, *left_by_jobs(self.folder)]
