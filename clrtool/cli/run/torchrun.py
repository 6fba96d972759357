"""One range test in several processes, as torchrun starts them: the first leads, the others train with it.

The first does what a command does that runs alone; it alone writes and prints. Of an error all end with the same code,
and the one that met it first says what it was.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import typer

from clrtool.errors import ConfigError, exit_code

if TYPE_CHECKING:
    from clrtool.cli.run.signals import Signals
    from clrtool.cli.run.spec import RunSpec
    from clrtool.engine.runtime.launched import LaunchedRanks

# What torchrun tells each process that it starts.
NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")


class Seat(NamedTuple):
    """The place of a process among those that torchrun has started; ``local_rank`` among those of its machine."""

    rank: int
    world: int
    local_rank: int


class Rank(NamedTuple):
    """A process of a range test.

    Args:
        spec: what was asked for, on the device of this process.
        ranks: all processes; None for this one alone.
        leads: whether it writes and prints.
    """

    spec: RunSpec
    ranks: LaunchedRanks | None
    leads: bool


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


def _check(seat: Seat, spec: RunSpec) -> None:
    """Raise ConfigError for what does not go with several ranks."""
    size, world = spec.config.data.batch_size, seat.world
    if size % world:
        nearest = max(world, round(size / world) * world)
        raise ConfigError(
            f"data.batch_size = {size} must be divisible by the number of ranks, {world}: the nearest such size is "
            f"{nearest}"
        )
    if (device := spec.options.device).startswith("cuda:"):
        raise ConfigError(f"--device {device} names one device, but every rank needs its own: give --device cuda")
    if spec.config.training.compile:
        raise ConfigError(f"training.compile does not work with {world} ranks: leave it out, or run in one process")
    if spec.accumulate:
        raise ConfigError(
            f"--on-oom accumulate runs in one process: with {world} ranks give training.micro_batches=2, or more"
        )


def check_alone(command: str) -> None:
    """Raise ConfigError where torchrun has started a command that runs in one process."""
    if (seat := find_seat()) is not None:
        raise ConfigError(
            f"clrtool {command} runs in one process, but torchrun started {seat.world}: only rangetest trains on "
            "several"
        )


@contextmanager
def leading(spec: RunSpec, signals: Signals) -> Iterator[Rank]:
    """This process as one that may measure and show: it does so alone, or leads those that torchrun has started.

    Every other one has trained with the first when this is entered.
    """
    with seated(spec) as rank:
        if not rank.leads:
            _follow(rank, signals)
        yield rank


@contextmanager
def seated(spec: RunSpec) -> Iterator[Rank]:
    """This process alone, or as one of those that torchrun has started, which do the same and of which one is heard."""
    if (seat := find_seat()) is None:
        yield Rank(spec, None, leads=True)
        return
    with spec.located():
        _check(seat, spec)
    with _joined(spec, seat) as rank:
        yield rank


@contextmanager
def _joined(spec: RunSpec, seat: Seat) -> Iterator[Rank]:
    """Meet the other ranks, on the device of this one."""
    if spec.options.deterministic:  # torch warns on every rank of what this asks for, and reads it when it is loaded
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from clrtool.engine.runtime.launched import device_of_rank, join

    ranks = join(*seat)
    if seat.rank:
        hush()
    try:
        device = device_of_rank(spec.options.device, seat.local_rank)
        yield Rank(replace(spec, options=replace(spec.options, device=device)), ranks, leads=not seat.rank)
    except typer.Exit:
        ranks.end()
        raise
    except Exception as error:
        if (first := ranks.first_failure(exit_code(error))) is not None:
            raise typer.Exit(first) from error
        if seat.rank:
            sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
        raise
    if seat.rank:
        ranks.wait_for_end()
    ranks.end()


def _follow(rank: Rank, signals: Signals) -> None:
    """What every rank but the first does: it trains when that says so."""
    from clrtool.engine.rangetest.pipeline import range_test
    from clrtool.engine.resume.open import follow_journal

    spec, ranks = rank.spec, rank.ranks
    assert ranks is not None
    begins, micro_batches = ranks.told_to_begin()
    if not begins:
        return
    with spec.located():
        workload = spec.build(micro_batches=micro_batches, ranks=ranks)
        with signals.deferred():
            range_test(workload, spec.config, journals=lambda *_: follow_journal(workload, signals))
