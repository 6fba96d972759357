"""``rangetest --jobs J``: the seeds of one range test in J processes of this machine."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from clrtool.cli.run.executor import Executor, never_here
from clrtool.cli.run.seed_share import JOBS, WORKER, worker_folders
from clrtool.cli.run.signals import Signals
from clrtool.cli.run.spec import Display, RunSpec
from clrtool.cli.run.subprocesses import Command, Ended, run_children
from clrtool.core.results.shard import Shard
from clrtool.errors import BusyError, ConfigError, MachineError
from clrtool.files import write_whole
from clrtool.report.text.progress import Status, say
from clrtool.words import count

# What a code of a child stands for; anything else is a matter of the machine, such as the end by a signal.
ERRORS = {70: RuntimeError, 75: BusyError}


def threads_of(workers: int, threads: int | None, *, deterministic: bool, display: Display) -> int | None:
    """The threads that each worker computes with, so that all of them share the cores.

    How a sum is split among threads can change its last bits: with --deterministic a worker takes as many as a plain
    run.
    """
    if threads is not None or workers == 1 or "OMP_NUM_THREADS" in os.environ:
        return threads
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not deterministic:
        return max(1, cores // workers)
    say(
        f"--deterministic: each of {workers} jobs uses as many threads as a run without --jobs, so that the bytes "
        f"agree; on a CPU, both are faster with --threads {max(1, cores // workers)}",
        quiet=display.quiet,
    )
    return None


class LocalProcesses(Executor):
    """The processes of one range test.

    Args:
        words: of the command that each runs, but for which of them it is.
        workers: how many.
    """

    is_elsewhere = True

    def __init__(self, spec: RunSpec, words: Sequence[str], workers: int) -> None:
        super().__init__(spec)
        self._words, self.workers = words, workers

    def assigned(self, seeds: Sequence[int]) -> Sequence[int]:
        """A single seed is trained sooner here than in a process that has to start."""
        return never_here(seeds) if len(seeds) > 1 else seeds

    def train(self, signals: Signals) -> None:
        """Let them train all that lacks; what they measured lies in their folders.

        Raises:
            ConfigError, MachineError: one of them failed; the others have come to their end.
            Interrupted: a signal asked to stop, and everything is saved.
        """
        folder, display = self._spec.folder, self._spec.display
        say(f"{self.workers} processes share the seeds{self._crowd()}", quiet=display.quiet)
        shards = [Shard(number, self.workers) for number in range(1, self.workers + 1)]
        commands = [Command(f"job {shard}", self._words, {WORKER: str(shard)}) for shard in shards]
        with Status(quiet=display.quiet, plain=display.plain) as status:

            def on_end(name: str, end: Ended) -> None:
                if end.code and signals.stop is None:
                    status.say(f"{name}: {end.message}")

            ended = run_children(commands, self.workers, signals, lambda: status.show(swept(folder)), on_end)
        if failed := {name: end for name, end in ended.items() if end.code}:
            self._fail(failed)

    def _crowd(self) -> str:
        """What it costs that several of them compute on one GPU."""
        from clrtool.engine.runtime.device import gpus_of_jobs

        if not 0 < (gpus := gpus_of_jobs(self._spec.options.device)) < self.workers:
            return ""
        return f" and {count(gpus, 'GPU')}: without --jobs one process trains all seeds of it at once"

    def _fail(self, failed: Mapping[str, Ended]) -> None:
        """Raise what the worst has met; each leaves its log."""
        told = []
        for name, end in failed.items():
            log = self._spec.folder / JOBS / f"{name.removeprefix('job ').replace('/', '-of-')}.log"
            with contextlib.suppress(MachineError):
                write_whole(log, f"{end.said}\n{end.message}\n")
            told.append(f"{name}: {end.message} (its log: {log})")
        worst = max(failed.values(), key=lambda end: end.code)
        if worst.code == 2:  # the same of all
            raise ConfigError(worst.message)
        kind = ERRORS.get(worst.code, MachineError)
        same = f"the same command again{', without --fresh,' if self._spec.fresh else ''}"
        raise kind("\n".join([*told, f"run {same} to continue from what was measured"]))


def swept(folder: Path) -> str:
    """How far the workers of a run are, as a line."""
    lines = []
    for each in worker_folders(folder):
        with contextlib.suppress(OSError, ValueError, IndexError):
            row = (each / "curve.csv").read_text(encoding="utf-8").splitlines()[-1].split(",")
            lines.append(f"seed {int(row[0])} epoch {float(row[2]):.1f}")
    return ", ".join(lines) or "starting"
