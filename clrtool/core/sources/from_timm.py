"""``timm.scheduler``, asked at what ``step`` or ``step_update`` is called with; ``base_lr`` is the optimizer's."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import replace

from clrtool.core.schedules import (
    Curve,
    Exponential,
    Inverse,
    Moved,
    Phases,
    Product,
    Raised,
    Repeat,
    Schedule,
    Unread,
    Within,
    fixed,
    in_sequence,
    piecewise,
)
from clrtool.core.schedules.checks import check_lr, check_positive, check_whole
from clrtool.core.schedules.phases import Shape
from clrtool.core.sources.registry import source

_PREFIX = "timm.scheduler."
# Cycles that differ are worked out one by one, and no more of them; with lengths that grow none beyond is ever reached.
_CYCLES, _FAR = 1000, 2**40


@source(_PREFIX + "CosineLRScheduler")
def cosine(
    t_initial: int,
    lr_min: float = 0.0,
    cycle_mul: float = 1.0,
    cycle_decay: float = 1.0,
    cycle_limit: int = 1,
    warmup_t: int = 0,
    warmup_lr_init: float = 0.0,
    warmup_prefix: bool = False,
    t_in_epochs: bool = True,
    k_decay: float = 1.0,
    base_lr: float = 1e-3,
) -> Schedule:
    """Without ``warmup_prefix`` the warm-up covers the beginning of the fall, which is joined where it has got to."""
    fall = Curve(start=base_lr, end=lr_min, length=t_initial, k=k_decay)
    cycles = _cycles(fall, t_initial, cycle_mul, cycle_decay, cycle_limit)
    return _warmed(cycles, base_lr, base_lr, warmup_t, warmup_lr_init, prefix=warmup_prefix)


@source(_PREFIX + "PolyLRScheduler")
def poly(
    t_initial: int,
    power: float = 0.5,
    lr_min: float = 0.0,
    cycle_mul: float = 1.0,
    cycle_decay: float = 1.0,
    cycle_limit: int = 1,
    warmup_t: int = 0,
    warmup_lr_init: float = 0.0,
    warmup_prefix: bool = False,
    t_in_epochs: bool = True,
    k_decay: float = 1.0,
    base_lr: float = 1e-3,
) -> Schedule:
    fall = Curve(start=base_lr, end=lr_min, length=t_initial, bend="power", k=k_decay, power=power)
    cycles = _cycles(fall, t_initial, cycle_mul, cycle_decay, cycle_limit)
    return _warmed(cycles, base_lr, base_lr, warmup_t, warmup_lr_init, prefix=warmup_prefix)


@source(_PREFIX + "TanhLRScheduler")
def tanh(
    t_initial: int,
    lb: float = -7.0,
    ub: float = 3.0,
    lr_min: float = 0.0,
    cycle_mul: float = 1.0,
    cycle_decay: float = 1.0,
    cycle_limit: int = 1,
    warmup_t: int = 0,
    warmup_lr_init: float = 0.0,
    warmup_prefix: bool = False,
    t_in_epochs: bool = True,
    base_lr: float = 1e-3,
) -> Schedule:
    """Without ``warmup_prefix`` the warm-up rises to where the fall has got to when it ends."""
    fall = Curve(start=base_lr, end=lr_min, length=t_initial, bend="tanh", low=lb, high=ub)
    cycles = _cycles(fall, t_initial, cycle_mul, cycle_decay, cycle_limit)
    top = base_lr if warmup_prefix or not warmup_t else float(cycles([warmup_t])[0])
    return _warmed(cycles, base_lr, top, warmup_t, warmup_lr_init, prefix=warmup_prefix)


@source(_PREFIX + "StepLRScheduler")
def step(
    decay_t: float,
    decay_rate: float = 1.0,
    warmup_t: int = 0,
    warmup_lr_init: float = 0.0,
    warmup_prefix: bool = True,
    t_in_epochs: bool = True,
    base_lr: float = 1e-3,
) -> Schedule:
    drops = Exponential(max_lr=base_lr, gamma=decay_rate, every=decay_t, staircase=True)
    return _warmed(drops, base_lr, base_lr, warmup_t, warmup_lr_init, prefix=warmup_prefix)


@source(_PREFIX + "MultiStepLRScheduler")
def multi_step(
    decay_t: Sequence[int],
    decay_rate: float = 1.0,
    warmup_t: int = 0,
    warmup_lr_init: float = 0.0,
    warmup_prefix: bool = True,
    t_in_epochs: bool = True,
    base_lr: float = 1e-3,
) -> Schedule:
    """A milestone counts one iteration early, unlike torch's. Of a list that does not rise timm looks in its middle."""
    begins = sorted({max(0, int(milestone) - 1) for milestone in decay_t})
    reached = [bisect_right(decay_t, begin + 1) for begin in begins]
    drops = piecewise(begins, [base_lr, *(base_lr * decay_rate**times for times in reached)])
    return _warmed(drops, base_lr, base_lr, warmup_t, warmup_lr_init, prefix=warmup_prefix)


@source(_PREFIX + "WSDLRScheduler")
def wsd(
    t_initial: int,
    decay_t: int,
    lr_min: float = 0.0,
    stable_fn: str = "constant",
    stable_timescale: float | None = None,
    stable_power: float = 0.5,
    decay_fn: str = "1-sqrt",
    decay_power: float = 0.5,
    decay_ratio: float = 0.1,
    warmup_t: int = 0,
    warmup_lr_init: float = 0.0,
    t_in_epochs: bool = True,
    base_lr: float = 1e-3,
) -> Schedule:
    """The warm-up comes before ``t_initial``; the fall is a share of what the stable part, which goes on, would be."""
    check_whole("decay_t", decay_t)
    check_whole("t_initial", t_initial, at_least=decay_t)
    powers = {"constant": 0.0, "rsqrt": 0.5, "power": stable_power}
    if stable_fn not in powers:
        raise ValueError(f"stable_fn must be one of {', '.join(powers)}, got {stable_fn!r}")
    stable: Schedule = fixed(max(base_lr, lr_min))
    if powers[stable_fn]:
        every = warmup_t if stable_timescale is None else stable_timescale
        check_positive("stable_timescale, by default warmup_t,", every)
        stable = Within(Inverse(max_lr=base_lr, rate=1.0, every=every, power=powers[stable_fn]), least=lr_min)
    begin, share = t_initial - decay_t, _share(decay_fn, decay_t, decay_power, decay_ratio)
    fall = Raised(Product((Raised(Moved(stable, by=begin), -lr_min), share)), lr_min)
    return _warmed(in_sequence([stable, fall], [0, begin]), base_lr, base_lr, warmup_t, warmup_lr_init, prefix=True)


def _share(decay_fn: str, decay_t: int, power: float, ratio: float) -> Schedule:
    """What a fall leaves of the height, from 1 to 0."""
    shapes: dict[str, Shape] = {"linear": "linear", "1-sqrt": "1-sqrt", "cosine": "cosine"}
    if decay_fn in shapes:
        return Phases(knots=(0, decay_t), values=(1.0, 0.0), shapes=(shapes[decay_fn],))
    if decay_fn == "power":
        return Curve(start=1.0, end=0.0, length=decay_t, bend="power", k=power)
    if decay_fn != "exp":
        raise ValueError(f"decay_fn must be one of {', '.join(shapes)}, power, exp, got {decay_fn!r}")
    if not 0 < ratio < 1:
        raise ValueError(f"decay_ratio must be between 0 and 1, got {ratio!r}")
    fall = Raised(Exponential(max_lr=1 / (1 - ratio), gamma=ratio, every=decay_t), -ratio / (1 - ratio))
    return in_sequence([fall, fixed(0.0)], [0, decay_t])


@source(_PREFIX + "PlateauLRScheduler")
def plateau(**_: object) -> Schedule:
    """It follows a metric."""
    raise ValueError("PlateauLRScheduler follows a metric: what it does is not known before the training")


def _warmed(schedule: Schedule, base_lr: float, top: float, warmup_t: int, start: float, *, prefix: bool) -> Schedule:
    check_whole("warmup_t", warmup_t, at_least=0)
    check_lr("warmup_lr_init", start)
    rise = Phases(knots=(0, max(1, warmup_t)), values=(start, top), shapes=("linear",))
    if not warmup_t:  # the first step has the optimizer's own, until the scheduler is stepped after it
        return in_sequence([fixed(base_lr), Moved(schedule, by=1)], [0, 1])
    later = schedule if prefix else Moved(schedule, by=warmup_t)
    return in_sequence([rise, later], [0, warmup_t])


def _cycles(fall: Curve, t_initial: int, mul: float, decay: float, limit: int) -> Schedule:
    """Falls that begin anew, each longer by ``mul`` and from lower by ``decay``; after ``limit`` its end is held."""
    check_positive("t_initial", t_initial)
    check_positive("cycle_mul", mul)
    check_whole("cycle_limit", limit, at_least=0)
    begin_of = _begins(t_initial, mul)
    if mul == decay == 1 and limit > 1 and t_initial == int(t_initial):
        return in_sequence([Repeat(fall, int(t_initial)), fixed(fall.end)], [0, int(t_initial) * limit])
    parts: list[Schedule] = []
    begins: list[int] = []
    for cycle in range(min(limit, _CYCLES)):
        exact, begin = begin_of(cycle)
        if begin > _FAR:
            break
        length = t_initial * mul**cycle
        parts.append(replace(fall, start=fall.start * decay**cycle, length=length, begin=exact - begin))
        begins.append(begin)
    begins.append(begin_of(len(parts))[1])
    unread = Unread(f"of cycles that differ the first {_CYCLES:,} are read, up to iteration {begins[-1]:,}")
    return in_sequence([*parts, unread if len(parts) == _CYCLES < limit else fixed(fall.end)], begins)


def _begins(t_initial: int, mul: float) -> Callable[[int], tuple[float, int]]:
    """Where a cycle begins: exactly, and the first iteration that timm, which rounds a logarithm, counts to it."""

    def begin(cycle: int) -> tuple[float, int]:
        if mul == 1:
            return t_initial * cycle, math.ceil(t_initial * cycle)
        exact = (1 - mul**cycle) / (1 - mul) * t_initial
        near = [
            t for t in range(max(0, math.floor(exact) - 1), math.ceil(exact) + 2) if _cycle(t, t_initial, mul) >= cycle
        ]
        return exact, min(near, default=math.ceil(exact))

    return begin


def _cycle(t: int, t_initial: int, mul: float) -> int:
    return math.floor(math.log(1 - t / t_initial * (1 - mul), mul))
