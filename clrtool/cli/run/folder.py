"""A folder that a command fills: opened, held by one process, gone on with from checkpoints, written and finished."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from clrtool.cli.run.executor import Executor
from clrtool.cli.run.seed_share import JOBS, SWEEP
from clrtool.cli.run.signals import Signals
from clrtool.cli.run.spec import RunSpec
from clrtool.errors import ConfigError, Interrupted, MachineError
from clrtool.report.text.progress import say

if TYPE_CHECKING:
    from clrtool.core.results.comparison import Comparison
    from clrtool.core.results.record import RunRecord
    from clrtool.core.results.varied import VaryRecord
    from clrtool.engine.resume.journal import Journal
    from clrtool.engine.runtime.launched import LaunchedRanks
    from clrtool.engine.training.workload import Workload
    from clrtool.report.records.lock import Lock
    from clrtool.report.records.result_files import ResultFiles

# Folders of checkpoints, there only while something is unfinished: of this process, and of those of --jobs.
CHECKPOINTS = SWEEP, JOBS
R = TypeVar("R", "Comparison", "VaryRecord")


class Folder:
    """What all folders have in common.

    Args:
        signals: what is asked for while it is filled.
    """

    def __init__(self, spec: RunSpec, signals: Signals) -> None:
        self.spec, self.signals, self.path = spec, signals, spec.folder
        self.fresh = spec.fresh  # until what it held before is replaced
        self._lock: Lock | None = None

    def check_there(self, *names: str) -> None:
        """Raise MachineError if the folder that is held was removed or replaced, or lacks one of these files."""
        if self._lock is not None:
            self._lock.check(*names)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold it, without what killed runs have left; say what becomes of a run that is interrupted."""
        from clrtool.files import refuse_links, sweep_orphans
        from clrtool.report.records.lock import locked
        from clrtool.report.records.run import check_checkpoint

        # stdout is for the result, whatever a user's factory prints
        with contextlib.redirect_stdout(sys.stderr), locked(self.path) as self._lock, self.spec.located():
            for name in CHECKPOINTS:
                refuse_links(self.path, name)
                check_checkpoint(self.path / name)
            for folder in (self.path, *(self.path / name for name in CHECKPOINTS)):
                sweep_orphans(folder)
            try:
                with self._lock.checked():
                    yield
            except Interrupted as stop:
                if any((self.path / name).exists() for name in CHECKPOINTS):
                    say(f"interrupted; results so far are saved in {self.path}/. Run {self.way_on} to resume")
                else:
                    say(f"interrupted before anything new was measured. Run {self.way_on} to start again")
                raise Interrupted(stop.signum, self.way_on) from stop

    @property
    def way_on(self) -> str:
        """The command that goes on with what is here: --fresh has replaced what was, and would replace this too."""
        return f"the same command{' without --fresh' if self.spec.fresh and not self.fresh else ''}"

    def replace_old(self) -> None:
        """Remove what an earlier test has left unfinished, where it is to be replaced."""
        if self.fresh:
            self.remove(*CHECKPOINTS)
            self.fresh = False

    def remove(self, *checkpoints: str) -> None:
        """Remove checkpoints that are no longer needed."""
        from clrtool.report.records.run import remove_checkpoint

        for name in checkpoints:
            remove_checkpoint(self.path / name)

    def say(self, text: str) -> None:
        """A line for people, where they want any."""
        say(text, quiet=self.spec.display.quiet)

    def checkpoints(self, name: str) -> list[Path]:
        """Folders of the checkpoints by that name, its own first."""
        return [self.path / name]

    def has_leftovers(self) -> bool:
        """Whether a process that was killed has left something to clean up."""
        from clrtool.files import temporary_files
        from clrtool.report.records import lock

        left = (self.path / SWEEP, self.path / JOBS, self.path / lock.NAME, *temporary_files(self.path))
        return any(path.exists() for path in left)

    def check_again(self, record: RunRecord | Comparison | VaryRecord) -> None:
        """Raise ConfigError for a finished record that was measured in another way, or on other inputs."""
        options, config = self.spec.options, self.spec.config
        self._check_config(record)
        if options.deterministic and not record.environment.get("deterministic"):
            raise ConfigError(f"{self.path} was measured without --deterministic; use --fresh to run it again")
        self._check_sources(record)
        if config.data.name in (None, "digits"):  # code is not run to show a result, and the digits are ours
            return
        from clrtool.engine.configured.build import data_sha256

        try:
            with contextlib.redirect_stdout(sys.stderr):
                found = data_sha256(config, device=options.device, download=options.download)
        except MachineError as error:
            self.say(f"{error}: {self.path} is shown without checking its data")
            return
        self.check_data(record, found)

    def _check_config(self, record: RunRecord | Comparison | VaryRecord) -> None:
        """Raise ConfigError if the config lies in the folder itself, and is not the one that was measured with."""
        from clrtool.report.records.record_file import CONFIG

        own = self.path / CONFIG
        if record.config_sha256 != self.spec.config.sha256() and self.spec.path.resolve() == own.resolve():
            raise ConfigError(
                f"{own} is not what {self.path} was measured with: it was changed afterwards, or written by another "
                "version of clrtool; keep this run with -o DIR for the new one, or replace it with --fresh"
            )

    def _check_sources(self, record: RunRecord | Comparison | VaryRecord) -> None:
        """Raise ConfigError if the code or the weights that the config names have changed."""
        if not record.sources:
            return
        from clrtool.engine.configured.sources import changed_sources, source_hashes

        found = source_hashes(self.spec.config, self.spec.options.folder)
        if gone := sorted(record.sources.keys() - found.keys()):
            self.say(f"{', '.join(gone)} cannot be read; {self.path} is shown without checking it")
        if changed := [name for name in changed_sources(record.sources, found) if name in found]:
            raise ConfigError(
                f"{self.path} was measured with different code or weights ({', '.join(changed)} changed); use --fresh "
                "to run it again"
            )

    def check_data(self, record: RunRecord | Comparison | VaryRecord, data_sha256: str) -> None:
        """Raise ConfigError if a record was measured on other data."""
        if is_other_data(record.data_sha256, data_sha256):
            raise ConfigError(f"{self.path} was measured with different data; use --fresh to run it again")

    def opened_journal(self, workload: Workload, checkpoint: str, sha256: str, **known: Any) -> Journal:
        """The journal of a checkpoint, or a new one; says how far it had come."""
        from clrtool.engine.resume.checkpoint import CheckpointFolder
        from clrtool.engine.resume.open import open_journal

        self.replace_old()
        store = CheckpointFolder(self.path / checkpoint, before_save=self.check_there)
        journal, text = open_journal(store, workload, sha256, self.signals, self.spec.checkpoint_every, **known)
        if text:
            self.say(text)
        return journal


class ResultFolder(Folder, Generic[R]):
    """The folder of a comparison or of a race over values.

    Args:
        files: those in it.
    """

    def __init__(self, spec: RunSpec, signals: Signals, files: ResultFiles[R]) -> None:
        super().__init__(spec, signals)
        self.files: ResultFiles[R] = files

    def open(self, request_sha256: str | None) -> R | None:
        """What is finished of a request. Raises ConfigError if the folder holds another one."""
        return self.files.open(self.path, request_sha256, fresh=self.fresh)

    def finished(self, request_sha256: str | None, **asked: Any) -> R | None:
        """The same with nothing left to do, where what else is asked of it is what it has."""
        record = self.open(request_sha256)
        if record is None:
            return None
        self.check_again(record)
        is_drawn = (self.path / self.files.picture).exists()
        if self.has_leftovers() or not is_drawn or any(getattr(record, name) != asked[name] for name in asked):
            return None
        self.say(f"{self.path}: already finished with these options, shown again; --fresh runs it again")
        return record

    def write(self, record: R) -> None:
        """Write a result, into a folder that is still there."""
        from clrtool.report.records.record_file import CONFIG

        self.check_there(CONFIG)
        self.files.write(self.path, record)

    def finish(self, record: R) -> None:
        """What is left to do when everything is measured: the picture; and the checkpoints go."""
        from clrtool.report.plots import draw_result

        if not (self.path / self.files.picture).exists():
            draw_result(self.path, record)
        self.remove(SWEEP)


class RunFolder(Folder):
    """The folder of a range test.

    Args:
        executor: where its seeds are trained.
        ranks: the processes that torchrun has started; None for this one alone.
    """

    def __init__(
        self, spec: RunSpec, signals: Signals, executor: Executor | None = None, ranks: LaunchedRanks | None = None
    ) -> None:
        super().__init__(spec, signals)
        self.executor, self.ranks = executor or Executor(spec), ranks

    def open(self) -> RunRecord | None:
        """The record of a finished run of the same config; see :func:`clrtool.report.records.run.open_run`."""
        from clrtool.report.records.run import open_run

        return open_run(self.path, self.spec.config, fresh=self.fresh)

    def checkpoints(self, name: str) -> list[Path]:
        return [self.path / name, *(each / SWEEP for each in self.executor.results())]

    def is_complete(self, record: RunRecord) -> bool:
        """Whether nothing is left to do for a run that was finished before.

        Raises:
            ConfigError: its data is not what it was, or it was not measured as it is asked for now.
        """
        from clrtool.report.records.run import has_pictures

        self.check_again(record)
        return has_pictures(self.path, record) and not self.has_leftovers()

    def journal(self, workload: Workload) -> Journal:
        """Where the segments of the test are kept, with what other processes have measured."""
        sha256 = self.spec.config.sha256()
        from clrtool.engine.resume.open import about_test

        self.replace_old()
        remote, assignment = self.executor.shared(about_test(workload, sha256))
        return self.opened_journal(workload, SWEEP, sha256, remote=remote, assignment=assignment)

    def begin_elsewhere(self) -> None:
        """Make it known as the folder of a run whose seeds are trained by others; a result of before goes.

        But not for a config of which nothing can be trained. It is built here first, and its memory given back.
        """
        self.say("checking config and data")
        from clrtool.engine.rangetest.pipeline import check_plan
        from clrtool.engine.runtime.device import free_memory
        from clrtool.report.records.run import curve_log

        check_plan(self.spec.build(), self.spec.config.plan)
        free_memory()
        self.replace_old()
        with curve_log(self.path, self.spec.config):
            pass

    def write(self, record: RunRecord) -> None:
        """Write a result, draw its pictures, and remove the checkpoints that it came from."""
        from clrtool.report.records.record_file import CONFIG
        from clrtool.report.records.run import write_run

        self.check_there(CONFIG)
        write_run(self.path, record)
        self.finish(record)

    def finish(self, record: RunRecord) -> None:
        """What is left to do when everything is measured: the pictures; and the checkpoints go."""
        from clrtool.report.plots import draw_run
        from clrtool.report.records.run import has_pictures

        if not has_pictures(self.path, record):
            draw_run(self.path, record)
        self.remove(*CHECKPOINTS)


def is_other_data(one: str, other: str) -> bool:
    """Whether two hashes tell two sets apart: hashes of a whole set and of some of one cannot be compared."""
    return one.partition(":")[1] == other.partition(":")[1] and one != other
