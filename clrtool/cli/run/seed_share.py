"""Which seeds of a range test a process trains: those of --seed-shard, of a process of --jobs, and their folders."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from clrtool.cli.run.spec import RunSpec
from clrtool.core.results.shard import Shard, owned
from clrtool.errors import ConfigError, as_config_error
from clrtool.files import refuse_links

# Folders in a run folder: of shards, which are the user's, and of workers, there only while something is unfinished.
SHARDS, JOBS = "shards", "checkpoint-jobs"
# In each of them, and in a run folder: the checkpoints of the sweep.
SWEEP = "checkpoint"
SLURM = "slurm"
# In the environment of a process of --jobs: which of them it is, K/N.
WORKER = "CLRTOOL_WORKER"


@dataclass(frozen=True)
class SeedShare:
    """The seeds of a shard, of a worker (a process of --jobs), or of a worker of a shard.

    Args:
        run: the run folder of the whole test.
    """

    run: Path
    shard: Shard | None = None
    worker: Shard | None = None

    @property
    def shards(self) -> tuple[Shard, ...]:
        return tuple(each for each in (self.shard, self.worker) if each is not None)

    @property
    def folder(self) -> Path:
        """Where its results go."""
        folder = self.run if self.shard is None else self.run / SHARDS / self.shard.folder
        return folder if self.worker is None else folder / JOBS / self.worker.folder

    @property
    def common(self) -> Path:
        """The folder of all shares that sweep the same range."""
        return self.run / (JOBS if self.shard is None else SHARDS)

    def refuse_links(self) -> None:
        """Raise MachineError if a link leads out of the run folder, on the way to its own."""
        refuse_links(self.run, *self.folder.relative_to(self.run).parts)

    def placed(self, spec: RunSpec) -> RunSpec:
        """The spec on the device of this worker: the GPUs of the machine take turns."""
        if self.worker is None:
            return spec
        from clrtool.engine.runtime.device import device_of_job

        device = device_of_job(spec.options.device, self.worker.number)
        return replace(spec, options=replace(spec.options, device=device))

    def siblings(self) -> list[Path]:
        """The folders of other shares, and those that this one is a part of."""
        found = [*_folders(self.run / SHARDS)] if self.shard is not None else []
        if self.worker is not None:
            parent = self.folder.parent.parent
            found += [parent, *worker_folders(parent)]
        return [folder for folder in found if folder != self.folder]

    def count(self, seeds: int) -> int:
        """How many of the seeds of the test are its own."""
        return owned(self.shards, seeds)


def worker_folders(folder: Path) -> list[Path]:
    """The folders of workers in that of their run."""
    return _folders(folder / JOBS)


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def read_shard(text: str | None) -> Shard | None:
    """What ``--seed-shard`` asks for. Raises ConfigError for what is no shard, or no task of a Slurm array."""
    if text is None:
        return None
    with as_config_error("--seed-shard: "):
        return _of_slurm() if text == SLURM else Shard.parse(text)


def worker_of_parent() -> Shard | None:
    """Which of the processes of --jobs this one is; None for one that a user has started."""
    text = os.environ.pop(WORKER, None)
    with as_config_error(f"{WORKER} in the environment is for processes of --jobs: "):
        return None if text is None else Shard.parse(text)


def _of_slurm() -> Shard:
    """The shard of this task of an array, whose tasks are numbered in a row, or in steps."""
    names = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_STEP")
    values = [os.environ.get(name, "1" if name.endswith("STEP") else "") for name in names]
    if not all(value.isascii() and value.isdecimal() for value in values):
        raise ConfigError(f"--seed-shard slurm needs {', '.join(names[:3])} of a job array; elsewhere give K/N")
    task, lowest, tasks, step = map(int, values)
    number, rest = divmod(task - lowest, max(1, step))
    if rest or not 0 <= number < tasks:
        raise ConfigError(
            f"--seed-shard slurm: task {task} is not one of {tasks} tasks numbered in a row from {lowest}: use "
            f"--array=1-{tasks}, or give K/N"
        )
    return Shard(number + 1, tasks)
