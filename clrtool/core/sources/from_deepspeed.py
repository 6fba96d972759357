"""The ``scheduler`` section of a DeepSpeed config, in the order of its engine.

The engine trains an iteration and steps the scheduler after it. A scheduler's first step computes its formula at 0, so
iteration t has what the formula says at t - 1, and iteration 0 what the scheduler was made with. The formulas of
``OneCycle`` within its cycle and of ``LRRangeTest`` add that one themselves: of these iteration t has the value at t.
"""

from __future__ import annotations

from typing import Any

from clrtool.core.schedules import (
    Inverse,
    Join,
    Moved,
    Phases,
    Schedule,
    Within,
    WithMomentum,
    cosine,
    fixed,
    piecewise,
    triangular,
)
from clrtool.core.schedules.checks import check_lr, check_positive, check_whole
from clrtool.core.schedules.phases import Shape
from clrtool.core.sources.registry import source

_PREFIX = "deepspeed.runtime.lr_schedules."


@source(_PREFIX + "OneCycle")
def one_cycle(
    cycle_min_lr: float,
    cycle_max_lr: float,
    decay_lr_rate: float = 0.0,
    cycle_first_step_size: int = 2000,
    cycle_second_step_size: int | None = None,
    cycle_first_stair_count: int = 0,
    cycle_second_stair_count: int | None = None,
    decay_step_size: int = 0,
    cycle_momentum: bool = True,
    cycle_min_mom: float = 0.8,
    cycle_max_mom: float = 0.9,
    decay_mom_rate: float = 0.0,
    last_batch_iteration: int = -1,
) -> Schedule:
    """One triangle, then ``cycle_min_lr``, which may decay, and a momentum that may grow.

    Momentum moves for optimizers with betas only, and is ``cycle_min_mom`` before the first step.
    """
    _check_start(last_batch_iteration)
    steps = (cycle_first_step_size, _or(cycle_second_step_size, cycle_first_step_size))
    stairs = (cycle_first_stair_count, _or(cycle_second_stair_count, cycle_first_stair_count))
    fall = _grow(cycle_min_lr, decay_lr_rate, decay_step_size, power=1)
    rates = _cycle(cycle_min_lr, cycle_max_lr, steps, stairs, fall)
    if not cycle_momentum:
        return rates
    rise = _grow(cycle_max_mom, decay_mom_rate, decay_step_size, power=-1)
    momenta = _cycle(cycle_max_mom, cycle_min_mom, steps, stairs, rise)
    return WithMomentum(rates, Join((fixed(cycle_min_mom), Moved(momenta, by=1)), (0, 1)))


@source(_PREFIX + "LRRangeTest")
def lr_range_test(
    lr_range_test_min_lr: float = 1e-3,
    lr_range_test_step_size: int = 2000,
    lr_range_test_step_rate: float = 1.0,
    lr_range_test_staircase: bool = False,
    last_batch_iteration: int = -1,
) -> Inverse:
    """It rises without end."""
    _check_start(last_batch_iteration)
    check_whole("lr_range_test_step_size", lr_range_test_step_size)
    rate, every = lr_range_test_step_rate, lr_range_test_step_size
    return Inverse(max_lr=lr_range_test_min_lr, rate=rate, every=every, power=-1, staircase=lr_range_test_staircase)


@source(_PREFIX + "WarmupLR")
def warmup_lr(
    warmup_min_lr: float = 0.0,
    warmup_max_lr: float | None = None,
    warmup_num_steps: int = 1000,
    warmup_type: str = "log",
    last_batch_iteration: int = -1,
    base_lr: float = 1e-3,
) -> Schedule:
    """Without ``warmup_max_lr`` it rises to the optimizer's learning rate, ``base_lr``."""
    _check_start(last_batch_iteration)
    top = _or(warmup_max_lr, base_lr)
    return _stepped(warmup_min_lr, _warmup(warmup_min_lr, top, warmup_num_steps, warmup_type))


@source(_PREFIX + "WarmupDecayLR")
def warmup_decay_lr(
    total_num_steps: int,
    warmup_min_lr: float = 0.0,
    warmup_max_lr: float = 0.001,
    warmup_num_steps: int = 1000,
    warmup_type: str = "log",
    last_batch_iteration: int = -1,
) -> Schedule:
    """It falls back to ``warmup_min_lr``."""
    _check_start(last_batch_iteration)
    check_whole("total_num_steps", total_num_steps)
    rise = _warmup(warmup_min_lr, warmup_max_lr, warmup_num_steps, warmup_type)
    begin, ends = _length(warmup_num_steps), (warmup_max_lr, warmup_min_lr)
    if total_num_steps <= begin:
        return _stepped(warmup_min_lr, Join((rise, fixed(warmup_min_lr)), (0, begin)))
    fall = Phases(knots=(0, total_num_steps - begin), values=ends, shapes=("linear",))
    return _stepped(warmup_min_lr, Join((rise, fall), (0, begin)))


@source(_PREFIX + "WarmupCosineLR")
def warmup_cosine_lr(
    total_num_steps: int,
    warmup_min_ratio: float = 0.0,
    warmup_num_steps: int = 1000,
    cos_min_ratio: float = 0.0001,
    warmup_type: str = "log",
    last_batch_iteration: int = -1,
    base_lr: float = 1e-3,
) -> Schedule:
    """The ratios are of the optimizer's learning rate, ``base_lr``. Before the first step it is 0."""
    _check_start(last_batch_iteration)
    check_whole("total_num_steps", total_num_steps)
    check_lr("warmup_min_ratio", warmup_min_ratio)
    check_lr("cos_min_ratio", cos_min_ratio)
    rise = _warmup(base_lr * warmup_min_ratio, base_lr, warmup_num_steps, warmup_type)
    begin, low = _length(warmup_num_steps), base_lr * cos_min_ratio
    # its fall is one iteration ahead of its own formula
    fall = Moved(cosine(low, base_lr, max(1, total_num_steps - begin)), by=1)
    held = Within(fall, least=0.0) if cos_min_ratio < 0 else fall
    return _stepped(0.0, Join((rise, held), (0, begin)))


def _stepped(first: float, schedule: Schedule) -> Schedule:
    """What is set before the first step, and from then on the schedule."""
    return Join((fixed(first), schedule), (0, 1))


def _warmup(low: float, high: float, steps: int, warmup_type: str) -> Phases:
    """A rise by the logarithm reaches the top an iteration before a straight one; any other word means ``log``."""
    shape: Shape = "linear" if warmup_type == "linear" else "log"
    return Phases(knots=(0, _length(steps) - (shape == "log")), values=(low, high), shapes=(shape,))


def _length(warmup_num_steps: int) -> int:
    check_whole("warmup_num_steps", warmup_num_steps)
    return max(2, warmup_num_steps)


def _cycle(low: float, high: float, steps: tuple[int, int], stairs: tuple[int, int], tail: Schedule) -> Schedule:
    """From ``low`` to ``high`` and back, and the tail."""
    up, down = steps
    check_whole("cycle_first_step_size", up)
    check_whole("cycle_second_step_size", down, at_least=0)
    if down and not any(stairs):
        return Join((triangular(low, high, up, down), tail), (0, up + down))
    halves: list[tuple[Schedule, int]] = [(_rise(low, high, up, stairs[0]), up)]
    if down:
        halves.append((_fall(low, high, down, stairs[1]), up + down))
    parts, ends = zip(*halves, strict=True)
    return Join((*parts, tail), (0, *ends))


def _rise(low: float, high: float, steps: int, stairs: int) -> Schedule:
    if not stairs:
        return Phases(knots=(0, steps), values=(low, high), shapes=("linear",))
    levels = _levels(steps, stairs)
    return piecewise(list(levels), [low, *(low + (high - low) * level / stairs for level in levels.values())])


def _fall(low: float, high: float, steps: int, stairs: int) -> Schedule:
    """It begins at the top, where the rise ends, and goes down the stairs that it would have come up."""
    if not stairs:
        return Phases(knots=(0, steps), values=(high, low), shapes=("linear",))
    levels = _levels(steps, stairs)
    begins = [steps - begin + 1 for begin in reversed(levels)]
    lower = [*reversed([0, *levels.values()])]
    return piecewise(begins, [low + (high - low) * level / stairs for level in lower])


def _levels(steps: int, stairs: int) -> dict[int, int]:
    """Where ``floor(t * stairs / steps)`` changes, t from 1 to ``steps``, and to what."""
    check_whole("a stair count", stairs)
    if stairs <= steps:
        return {-(-stair * steps // stairs): stair for stair in range(1, stairs + 1)}
    return {t: t * stairs // steps for t in range(1, steps + 1)}


def _grow(value: float, rate: float, every: int, power: int) -> Schedule:
    if not (rate and every):
        return fixed(value)
    check_positive("decay_step_size", every)
    return Inverse(max_lr=value, rate=rate, every=every, power=power)


def _or(value: Any, other: Any) -> Any:
    return other if value is None else value


def _check_start(last_batch_iteration: int) -> None:
    if last_batch_iteration != -1:
        raise ValueError(f"last_batch_iteration must be -1, a training from its start, got {last_batch_iteration!r}")
