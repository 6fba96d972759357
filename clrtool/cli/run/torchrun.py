"""One range test in several processes, as torchrun starts them: the first leads, the others train with it.

The first does what a command does that runs alone; it alone writes and prints. Of an error all end with the same code,
and the one that met it first says what it was.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import typer

from clrtool.cli.codes import exit_code
from clrtool.errors import ConfigError

if TYPE_CHECKING:
    from clrtool.cli.run.spec import Job
    from clrtool.engine.runtime.distributed import Group

# What torchrun tells each process that it starts.
NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")


class Seat(NamedTuple):
    """The place of a process among those that torchrun has started; ``local_rank`` among those of its machine."""

    rank: int
    world: int
    local_rank: int


def find_seat() -> Seat | None:
    """The place of this process; None if it runs alone."""
    words = [os.environ.get(name, "") for name in NAMES]
    if not os.environ.get("MASTER_ADDR") or not all(word.isdecimal() for word in words):
        return None
    seat = Seat(*map(int, words[:3]))
    return seat if seat.world > 1 else None


def hush() -> None:
    """Say nothing more; what ends a process from outside of Python is still said."""
    sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123


def _check(seat: Seat, job: Job, *, verify: bool) -> None:
    """Raise ConfigError for what does not go with several ranks."""
    size, world = job.settings.data.batch_size, seat.world
    if size % world:
        nearest = max(world, round(size / world) * world)
        raise ConfigError(
            f"data.batch_size = {size} is shared out over {world} ranks, which must divide it: the nearest that fits "
            f"is {nearest}"
        )
    if (device := job.source["device"]).startswith("cuda:"):
        raise ConfigError(f"--device {device} is one device, and every rank takes its own: give --device cuda")
    if job.settings.training.compile:
        raise ConfigError(f"training.compile does not go with {world} ranks: leave it out, or run in one process")
    if verify:
        raise ConfigError(
            "--verify runs in one process: clrtool rangetest ... --verify afterwards goes on from the finished run"
        )
    if job.accumulate:
        raise ConfigError(
            f"--on-oom accumulate runs in one process: with {world} ranks give training.micro_batches=2, or more"
        )


def check_alone(command: str) -> None:
    """Raise ConfigError where torchrun has started a command that runs in one process."""
    if (seat := find_seat()) is not None:
        raise ConfigError(
            f"clrtool {command} runs in one process, and torchrun has started {seat.world}: only rangetest trains over "
            "several"
        )


@contextmanager
def leading(job: Job, path: Path, wishes: Sequence[str], *, verify: bool) -> Iterator[bool]:
    """Whether this process measures and shows: the only one does, or the first of those that torchrun has started.

    Every other one has trained with the first when this is entered.
    """
    if (seat := find_seat()) is None:
        yield True
        return
    from clrtool.config.file import located

    with located(path, wishes):
        _check(seat, job, verify=verify)
    with _joined(job, seat) as ranks:
        if seat.rank:
            _follow(job, ranks, path, wishes)
        yield not seat.rank


@contextmanager
def _joined(job: Job, seat: Seat) -> Iterator[Group]:
    """Meet the other ranks, on the device of this one."""
    if job.source["deterministic"]:  # torch warns on every rank of what this asks for, and reads it when it is loaded
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from clrtool.engine.runtime.distributed import device_of, join

    ranks = join(*seat)
    if seat.rank:
        hush()
    try:
        job.source = {**job.source, "device": device_of(job.source["device"], seat.local_rank), "ranks": ranks}
        yield ranks
    except typer.Exit:
        ranks.end()
        raise
    except Exception as error:
        if (first := ranks.first_failure(exit_code(error))) is not None:
            raise typer.Exit(first) from error
        if seat.rank:
            sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
        raise
    ranks.end()


def _follow(job: Job, ranks: Group, path: Path, wishes: Sequence[str]) -> None:
    """What every rank but the first does: it trains when that says so."""
    from clrtool.config.file import located
    from clrtool.engine.configured.build import build_workload
    from clrtool.engine.rangetest.sweep import run_range_test
    from clrtool.engine.resume.open import follow_journal

    begins, parts = ranks.told_to_begin()
    if not begins:
        return
    with located(path, wishes):
        workload = build_workload(job.settings, **job.source, micro_batches=parts)
        with job.signals.deferred():
            journal = follow_journal(workload, job.signals)
            run_range_test(workload, job.settings.sweep, job.settings.seed, journal=journal)
    ranks.wait_for_end()
