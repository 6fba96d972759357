"""``rangetest --jobs J``: the seeds of one range test in J processes, whose results are then read as one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from clrtool.cli.console import say
from clrtool.cli.run.pipeline import begin_elsewhere
from clrtool.cli.run.sharding import JOB, JOBS, left_by_jobs
from clrtool.cli.run.spec import Job
from clrtool.cli.run.subprocesses import Command, Ended, run_children
from clrtool.cli.status import Status
from clrtool.core.shard import Shard
from clrtool.errors import BusyError, ConfigError, MachineError
from clrtool.files import write_whole

# What a code of a child stands for; anything else is a matter of the machine, such as the end by a signal.
ERRORS = {70: RuntimeError, 75: BusyError}


def threads_of(jobs: int, threads: int | None, *, deterministic: bool, quiet: bool) -> int | None:
    """The threads that each of so many jobs computes with, so that all of them share the cores.

    How a sum is split among threads can change its last bits: with --deterministic a job takes as many as a plain run.
    """
    if threads is not None or jobs == 1 or "OMP_NUM_THREADS" in os.environ:
        return threads
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not deterministic:
        return max(1, cores // jobs)
    say(
        f"--deterministic: each of {jobs} jobs takes as many threads as a run without --jobs, for the same bytes; on a "
        f"CPU --threads {max(1, cores // jobs)} for both is faster",
        quiet=quiet,
    )
    return None


class Jobs:
    """The processes of one range test.

    Args:
        words: of the command that each runs, but for which of them it is.
        jobs: how many.
    """

    def __init__(self, job: Job, words: Sequence[str], jobs: int) -> None:
        self._job, self._words, self.jobs = job, words, jobs

    def run(self) -> None:
        """Let them train all that is lacking; what they measured lies in their folders.

        Raises:
            ConfigError, MachineError: one of them failed; the others have come to their end.
            Interrupted: a signal asked to stop, and everything is saved.
        """
        job = self._job
        begin_elsewhere(job)
        say(f"{self.jobs} processes share the seeds", quiet=job.quiet)
        shards = [Shard(number, self.jobs) for number in range(1, self.jobs + 1)]
        commands = [Command(f"job {shard}", self._words, {JOB: str(shard)}) for shard in shards]
        with Status(quiet=job.quiet, plain=job.plain) as status:

            def on_end(name: str, end: Ended) -> None:
                if end.code and job.signals.stop is None:
                    status.say(f"{name}: {end.message}")

            ended = run_children(commands, self.jobs, job.signals, lambda: status.show(swept(job.folder)), on_end)
        if failed := {name: end for name, end in ended.items() if end.code}:
            self._fail(failed)

    def _fail(self, failed: Mapping[str, Ended]) -> None:
        """Raise what the worst has met; each leaves its log."""
        told = []
        for name, end in failed.items():
            log = self._job.folder / JOBS / f"{name.removeprefix('job ').replace('/', '-of-')}.log"
            with contextlib.suppress(MachineError):
                write_whole(log, f"{end.said}\n{end.message}\n")
            told.append(f"{name}: {end.message} (its log: {log})")
        worst = max(failed.values(), key=lambda end: end.code)
        if worst.code == 2:  # the same of all
            raise ConfigError(worst.message)
        kind = ERRORS.get(worst.code, MachineError)
        raise kind("\n".join([*told, "the same command goes on with what was measured"]))


def swept(folder: Path) -> str:
    """How far the jobs in a folder are, as a line."""
    lines = []
    for each in left_by_jobs(folder):
        with contextlib.suppress(OSError, ValueError, IndexError):
            row = (each / "curve.csv").read_text(encoding="utf-8").splitlines()[-1].split(",")
            lines.append(f"seed {int(row[0])} epoch {float(row[2]):.1f}")
    return ", ".join(lines) or "starting"
