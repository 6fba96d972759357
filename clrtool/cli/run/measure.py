"""The main path of ``clrtool rangetest``: a run folder -> its record, measured, gone on with or found finished."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from clrtool.cli.run.attempts import Attempts
from clrtool.cli.run.folder import RunFolder
from clrtool.cli.run.seed_share import SWEEP, SeedShare
from clrtool.core.results.shard import LackingError

if TYPE_CHECKING:
    from clrtool.core.results.record import RunRecord


def measure(folder: RunFolder) -> RunRecord:
    """The run as it was finished before, or as it is measured now.

    Raises:
        ConfigError: the folder holds another run, or one that was measured on other data.
        OutOfMemoryError: a batch does not fit; with ``spec.accumulate``, not even one sample does.
        Interrupted: a signal asked to stop, and everything is saved.
    """
    known = folder.open()
    if known is not None and folder.is_complete(known):
        folder.say(_shown_again(folder))
        return known
    with folder.held():
        known = folder.open()  # another process may have finished it meanwhile
        if known is not None:
            folder.finish(known)
            return known
        for attempt in Attempts(folder, SWEEP):
            if folder.executor.is_elsewhere:
                folder.begin_elsewhere()
                folder.executor.train(folder.signals)
            folder.say("loading torch and the data")
            with attempt as tried, contextlib.suppress(LackingError):
                from clrtool.cli.run.observer import FolderObserver
                from clrtool.engine.rangetest.pipeline import range_test

                if folder.ranks is not None:
                    folder.ranks.begin(tried.micro_batches)
                tried.workload = folder.spec.build(micro_batches=tried.micro_batches, ranks=folder.ranks)
                with folder.signals.deferred():
                    return range_test(tried.workload, folder.spec.config, FolderObserver(folder), folder.journal)
    raise AssertionError("attempts end with a record or an error")


def _shown_again(folder: RunFolder) -> str:
    return f"{folder.path}: already finished with this config, shown again; --fresh runs it again"


def measure_share(folder: RunFolder, share: SeedShare) -> None:
    """Train the seeds of a share, and leave what was measured in its checkpoint.

    Raises:
        OutOfMemoryError, Interrupted: as :func:`measure`.
    """
    folder.say("loading torch and the data")
    from clrtool.cli.run.observer import ShareObserver
    from clrtool.engine.rangetest.pipeline import sweep_seeds

    config = folder.spec.config
    for attempt in Attempts(folder, SWEEP):
        with attempt as tried:
            workload = tried.workload = folder.spec.build(micro_batches=tried.micro_batches)
            with folder.signals.deferred():
                journal = folder.journal(workload)
                with contextlib.suppress(LackingError):
                    sweep_seeds(workload, config, ShareObserver(folder, share), journal)
                journal.finish(("share", {"shard": str(share.shards[0])}))
            return
