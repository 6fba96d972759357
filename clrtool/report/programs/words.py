"""A plan in the words of another system: its own where it was read in them, else the nearest that are the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clrtool.core.planning.plan import Plan
from clrtool.core.planning.policies import POLICIES
from clrtool.core.schedules import FloatArray, Schedule
from clrtool.core.schedules.checks import is_number
from clrtool.core.sources import schedule_from
from clrtool.errors import ConfigError
from clrtool.report.programs.parts import momenta_of
from clrtool.words import count

# Iterations of a plan at which words are held against it before they are printed.
CHECKED = 10_000
# The name of a schedule in a system, and its parameters there.
Words = tuple[str, dict[str, Any]]


@dataclass(frozen=True)
class Language:
    """How a system says what a plan is.

    Args:
        system: its name.
        prefix: what the full names of its schedules begin with, as in ``SOURCES``.
        find: words for a plan that was not read in its own, the plainest first; they need not be right.
        write: what is printed, from a plan and words that are.
        instead: what to do where there are none.
        momentum_from: the iteration from which it moves the momentum; None where its schedules do not.
        says_momentum: whether it has schedules for the momentum beside them, which ``write`` is given as a fourth.
    """

    system: str
    prefix: str
    find: Callable[[Schedule, int], Iterable[Words]]
    write: Callable[..., str]
    instead: str
    momentum_from: int | None = None
    says_momentum: bool = False


def say(plan: Plan, language: Language) -> str:
    """The plan in the first words that, read back, are the plan.

    Raises:
        ConfigError: the system has no such schedule.
    """
    apart = plan.schedule.cycles_momentum and language.momentum_from is None
    if apart and not language.says_momentum:
        without = "plan without --momentum" if plan.policy in POLICIES else "give cycle_momentum=false"
        raise ConfigError(
            f"{plan.policy} moves the momentum too, and what is printed for {language.system} would leave it alone: "
            f"{without}, or take what --format torch prints"
        )
    with suppress(ValueError):  # part of it is not read
        begin = plan.iterations if apart else language.momentum_from or 0
        for name, params in _candidates(plan, language):
            if same(plan, language.prefix + name, params, momentum_from=begin):
                _check_said(params)
                return language.write(plan, name, params, *([_momenta(plan, language)] if apart else []))
    raise ConfigError(
        f"{language.system} has no schedule for {plan.policy} with {count(plan.iterations, 'iteration')}: "
        f"{language.instead}"
    )


def _momenta(plan: Plan, language: Language) -> Words:
    """Words for the momentum of a plan, as if it were a learning rate. Raises ValueError if there are none."""
    momenta = momenta_of(plan.schedule)
    for name, params in language.find(momenta, plan.iterations):
        if _follows(language.prefix + name, params, momenta, plan.iterations) is not None:
            return name, params
    raise ValueError(f"{language.system} has no schedule for the momentum of {plan.policy}")


def _check_said(params: Mapping[str, Any]) -> None:
    """Raise ValueError unless what stands in a comment or a docstring is a number: a text could end that."""
    for name in ("base_lr", "batches_per_epoch", "epoch_length"):
        if params.get(name) is not None and not is_number(params[name]):
            raise ValueError(f"{name} must be a number, got {params[name]!r}")


def _candidates(plan: Plan, language: Language) -> Iterator[Words]:
    """A plan that was read in the words of the system is said in the same."""
    if plan.policy.startswith(language.prefix) and not plan.warmup:
        yield plan.policy.removeprefix(language.prefix), dict(plan.params)
    else:
        yield from language.find(plan.schedule, plan.iterations)


def same(plan: Plan, source: str, params: Mapping[str, Any], momentum_from: int = 0) -> bool:
    """Whether a plan in another system's words, read back, is the plan: nothing else is printed."""
    theirs = _follows(source, params, plan.schedule, plan.iterations)
    sample = _sample(plan.schedule, plan.iterations)
    sample = sample[sample >= momentum_from]
    momentum = plan.momentum(sample) if len(sample) else None
    if theirs is None or momentum is None:
        return theirs is not None
    moved = theirs.momentum(sample)
    return moved is not None and np.allclose(moved, momentum)


def _follows(source: str, params: Mapping[str, Any], schedule: Schedule, iterations: int) -> Schedule | None:
    """What is read from another system's words, if it has the values of a schedule."""
    sample = _sample(schedule, iterations)
    with suppress(ValueError):
        theirs = schedule_from(source, params)
        if equals(theirs(sample), schedule(sample)).all():
            return theirs
    return None


def _sample(schedule: Schedule, iterations: int) -> NDArray[np.int64]:
    last = iterations - 1
    sample = np.linspace(0, last, min(last + 1, CHECKED)).astype(np.int64)
    corners = np.array(schedule.corners(last), dtype=np.int64)
    return np.unique(np.concatenate([sample, *(np.clip(corners + by, 0, last) for by in (-1, 0, 1))]))


def equals(theirs: FloatArray, ours: FloatArray) -> NDArray[np.bool_]:
    """Where learning rates are those of the plan, but for what floating point loses."""
    return np.isclose(theirs, ours, rtol=1e-9, atol=1e-15)


def header(plan: Plan) -> str:
    """What a program or a solver begins with: the plan in one line."""
    epochs = "" if plan.epochs is None else f" ({plan.epochs:.6g} epochs)"
    cycles = "" if plan.num_cycles is None else f", {count(plan.num_cycles, 'cycle')}"
    bounds = f"{plan.base_lr:.6g} to {plan.max_lr:.6g}"
    return f"# {plan.policy}, {bounds}{cycles}, {plan.iterations:,} iterations{epochs}. Written by clrtool.\n"
