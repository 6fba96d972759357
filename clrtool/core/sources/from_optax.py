"""``optax`` schedules."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from clrtool.core.schedules import (
    Cosine,
    Exponential,
    Join,
    Phases,
    Piecewise,
    Schedule,
    fixed,
    in_sequence,
    piecewise,
    polynomial,
)
from clrtool.core.schedules.checks import LAST, check_positive, check_whole
from clrtool.core.schedules.phases import Anneal
from clrtool.core.sources.parts import begins_of, check_listed, read_part
from clrtool.core.sources.registry import source


@source("optax.constant_schedule")
def constant_schedule(value: float) -> Piecewise:
    return fixed(value)


@source("optax.linear_schedule")
def linear_schedule(init_value: float, end_value: float, transition_steps: int, transition_begin: int = 0) -> Schedule:
    """It may rise or fall; without steps it stays."""
    if transition_steps <= 0:
        return fixed(init_value)
    check_whole("transition_begin", transition_begin, at_least=-LAST)
    transition_begin = max(0, transition_begin)
    knots = (transition_begin, transition_begin + transition_steps)
    return Phases(knots=knots, values=(init_value, end_value), shapes=("linear",))


@source("optax.polynomial_schedule")
def polynomial_schedule(
    init_value: float, end_value: float, power: float, transition_steps: int, transition_begin: int = 0
) -> Schedule:
    """It may rise or fall; without steps it stays."""
    if transition_steps <= 0:
        return fixed(init_value)
    return _after(polynomial(end_value, init_value, transition_steps, power), transition_begin)


@source("optax.piecewise_constant_schedule")
def piecewise_constant_schedule(
    init_value: float, boundaries_and_scales: Mapping[int, float] | None = None
) -> Piecewise:
    """Each boundary multiplies what came before it."""
    return piecewise(*_accumulated(init_value, boundaries_and_scales or {}))


@source("optax.exponential_decay")
def exponential_decay(
    init_value: float,
    transition_steps: int,
    decay_rate: float,
    transition_begin: int = 0,
    staircase: bool = False,
    end_value: float | None = None,
) -> Schedule:
    """``end_value`` is the least value of a decay, and the greatest where ``decay_rate`` is 1 or more."""
    if transition_steps <= 0 or decay_rate == 0:
        return fixed(init_value)
    least, most = (end_value, None) if decay_rate < 1 else (None, end_value)
    decay = Exponential(
        max_lr=init_value, gamma=decay_rate, every=transition_steps, staircase=staircase, base_lr=least, cap=most
    )
    return _after(decay, transition_begin)


@source("optax.cosine_decay_schedule")
def cosine_decay_schedule(init_value: float, decay_steps: int, alpha: float = 0.0, exponent: float = 1.0) -> Cosine:
    """``alpha`` is a share of ``init_value``."""
    return Cosine(base_lr=alpha * init_value, max_lr=init_value, iterations=decay_steps, exponent=exponent)


@source("optax.piecewise_interpolate_schedule")
def piecewise_interpolate_schedule(
    interpolate_type: Anneal, init_value: float, boundaries_and_scales: Mapping[int, float]
) -> Phases:
    """Each boundary multiplies what came before it; between two it goes in a line or half a cosine."""
    boundaries, values = _accumulated(init_value, boundaries_and_scales)
    if boundaries[:1] == [0]:  # optax jumps there: the phase before it has no length
        boundaries, values = boundaries[1:], values[1:]
    if not boundaries:
        return Phases(knots=(0,), values=tuple(values), shapes=())
    return Phases(knots=(0, *boundaries), values=tuple(values), shapes=(interpolate_type,) * len(boundaries))


@source("optax.linear_onecycle_schedule")
def linear_onecycle_schedule(
    transition_steps: int,
    peak_value: float,
    pct_start: float = 0.3,
    pct_final: float = 0.85,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
) -> Phases:
    """Up, down to where it began, and a last fall; the boundaries are rounded down to whole iterations."""
    _check_one_cycle(transition_steps, pct_start, div_factor, final_div_factor)
    scales = {
        int(pct_start * transition_steps): div_factor,
        int(pct_final * transition_steps): 1.0 / div_factor,
        transition_steps: 1.0 / final_div_factor,
    }
    return piecewise_interpolate_schedule("linear", peak_value / div_factor, scales)


@source("optax.cosine_onecycle_schedule")
def cosine_onecycle_schedule(
    transition_steps: int,
    peak_value: float,
    pct_start: float = 0.3,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
) -> Phases:
    """Up and down in half cosines; the boundary is rounded down to a whole iteration."""
    _check_one_cycle(transition_steps, pct_start, div_factor, final_div_factor)
    scales = {int(pct_start * transition_steps): div_factor, transition_steps: 1 / (div_factor * final_div_factor)}
    return piecewise_interpolate_schedule("cosine", peak_value / div_factor, scales)


@source("optax.warmup_constant_schedule")
def warmup_constant_schedule(init_value: float, peak_value: float, warmup_steps: int) -> Schedule:
    return linear_schedule(init_value, peak_value, warmup_steps)


@source("optax.warmup_cosine_decay_schedule")
def warmup_cosine_decay_schedule(
    init_value: float,
    peak_value: float,
    warmup_steps: int,
    decay_steps: int,
    end_value: float = 0.0,
    exponent: float = 1.0,
) -> Schedule:
    """``decay_steps`` counts the warm-up too."""
    check_whole("decay_steps", decay_steps, at_least=warmup_steps + 1)
    end = end_value if peak_value else 0.0  # of a peak of 0 optax takes a share of 0
    fall = Cosine(base_lr=end, max_lr=peak_value, iterations=decay_steps - warmup_steps, exponent=exponent)
    return _warmed(fall, init_value, peak_value, warmup_steps)


@source("optax.warmup_exponential_decay_schedule")
def warmup_exponential_decay_schedule(
    init_value: float,
    peak_value: float,
    warmup_steps: int,
    transition_steps: int,
    decay_rate: float,
    transition_begin: int = 0,
    staircase: bool = False,
    end_value: float | None = None,
) -> Schedule:
    fall = exponential_decay(peak_value, transition_steps, decay_rate, transition_begin, staircase, end_value)
    return _warmed(fall, init_value, peak_value, warmup_steps)


@source("optax.join_schedules")
def join_schedules(schedules: Sequence[Any], boundaries: Sequence[int]) -> Schedule:
    """One after another, each from its own step 0."""
    check_listed("schedules", schedules)
    begins = begins_of(boundaries, len(schedules), "boundaries")
    return in_sequence([read_part(part, "optax") for part in schedules], begins)


@source("optax.sgdr_schedule")
def sgdr_schedule(cosine_kwargs: Sequence[Mapping[str, Any]]) -> Schedule:
    """Cosine falls with a warm-up each, one after another; ``decay_steps`` is the length of each."""
    check_listed("cosine_kwargs", cosine_kwargs)
    parts = [read_part({"warmup_cosine_decay_schedule": given}, "optax") for given in cosine_kwargs]
    lengths = [given["decay_steps"] for given in cosine_kwargs]
    return in_sequence(parts, [0, *accumulate(lengths[:-1])])


def _warmed(schedule: Schedule, start: float, peak: float, warmup_steps: int) -> Schedule:
    check_whole("warmup_steps", warmup_steps, at_least=0)
    return in_sequence([linear_schedule(start, peak, warmup_steps), schedule], [0, warmup_steps])


def _accumulated(init_value: float, scales: Mapping[int, float]) -> tuple[list[int], list[float]]:
    # JSON and YAML may hold the boundaries as texts
    steps = sorted((float(boundary), scale) for boundary, scale in scales.items())
    values = accumulate((init_value, *(scale for _, scale in steps)), operator.mul)
    for boundary, _ in steps:
        check_whole("a boundary", boundary, at_least=0)
    return [int(boundary) for boundary, _ in steps], list(values)


def _after(schedule: Schedule, begin: int) -> Schedule:
    check_whole("transition_begin", begin, at_least=-LAST)
    begin = max(0, begin)  # as optax has it
    return Join((fixed(float(schedule([0])[0])), schedule), (0, begin)) if begin else schedule


def _check_one_cycle(transition_steps: int, pct_start: float, div_factor: float, final_div_factor: float) -> None:
    check_whole("transition_steps", transition_steps)
    check_positive("div_factor", div_factor)
    check_positive("final_div_factor", final_div_factor)
    if not 0 <= pct_start <= 1:
        raise ValueError(f"pct_start must be from 0 to 1, got {pct_start!r}")
