"""A schedule taken apart into what other systems have words for: lines, cosines, powers, and a warm-up in front."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from clrtool.core.schedules import (
    Cosine,
    CosineRestarts,
    Curve,
    Cyclical,
    Exponential,
    Join,
    Phases,
    Polynomial,
    Schedule,
    WithMomentum,
    fixed,
    in_sequence,
)
from clrtool.core.schedules.base import FloatArray, IntArray

# The most knots that a list of them is printed with, and the longest schedule that is looked through for them.
MAX_KNOTS, LONGEST = 500, 5_000_000
# How far a line may be from straight, as a share of the greatest value: rounding is less, any curve is more.
STRAIGHT = 1e-14


@dataclass(frozen=True)
class Part:
    """What a schedule does from ``begin`` on, for ``length`` iterations; ``schedule`` counts them from 0."""

    schedule: Schedule
    begin: int
    length: int


@dataclass(frozen=True)
class Warmup:
    """A straight rise from ``start`` over ``length`` iterations, which may be 0, and the ``rest`` after it."""

    start: float
    length: int
    rest: Schedule


def warmup_of(schedule: Schedule, iterations: int) -> Warmup:
    """The straight line in front of a schedule, if it begins with one that leads to others."""
    match schedule:
        case Join(
            parts=(Phases(knots=(0, w), values=(start, _), shapes=("linear",)), *rest), begins=(0, begin, *more)
        ) if w == begin:
            return Warmup(start, int(w), in_sequence(rest, [0, *(each - begin for each in more)]))
        case Phases(knots=(0, w, _, *_) as knots, values=(start, *values), shapes=("linear", *shapes)) if w == int(w):
            later = tuple(knot - w for knot in knots[1:])
            return Warmup(start, int(w), Phases(knots=later, values=tuple(values), shapes=tuple(shapes)))
        case Cyclical(decay_base=False) if iterations <= schedule.period and schedule.per == "cycle":
            down = schedule.period - schedule.stepsize
            fall = Phases(knots=(0, down), values=(schedule.max_lr, schedule.base_lr), shapes=("linear",))
            return Warmup(schedule.base_lr, int(schedule.stepsize), fall)
    return Warmup(0.0, 0, schedule)


def parts_of(schedule: Schedule, length: int, begin: int = 0) -> Iterator[Part]:
    """The parts of a schedule one after another, each as plain as it can be."""
    match plain(schedule):
        case Join() as joined:
            for part, start, end in zip(joined.parts, joined.begins, (*joined.begins[1:], length), strict=True):
                if start < length:
                    yield from parts_of(part, min(end, length) - start, begin + start)
        case CosineRestarts() as falls if length / falls.period < MAX_KNOTS and _whole(falls.begins(length)):
            yield from _falls(falls, length, begin)
        case Phases(knots=knots, shapes=shapes) as phases if (
            set(shapes) - {"linear"} and len(shapes) > 1 and _whole(knots)
        ):
            yield from parts_of(_phases(phases), length, begin)
        case Cosine(wave=False, iterations=n) | Polynomial(cycle=False, iterations=n) as fall if (
            n == int(n) and n < length
        ):
            yield Part(fall, begin, int(n))
            yield Part(fixed(fall.base_lr), begin + int(n), length - int(n))
        case other:
            yield Part(other, begin, length)


def plain(schedule: Schedule) -> Schedule:
    """The same schedule as the class that says it with the fewest numbers."""
    match schedule:
        case Curve(bend="cosine", k=1, begin=0):
            return Cosine(base_lr=schedule.end, max_lr=schedule.start, iterations=schedule.length)
        case Phases(knots=(0, n), values=(first, last), shapes=("cosine",)):
            return Cosine(base_lr=last, max_lr=first, iterations=n)
        case Phases(knots=(0, n), values=(first, last), shapes=("linear",)):
            return Polynomial(base_lr=last, max_lr=first, iterations=n)
        case Exponential(staircase=False, every=every) if every != 1:
            return replace(schedule, gamma=schedule.gamma ** (1 / every), every=1)
    return schedule


def momenta_of(schedule: Schedule) -> Schedule:
    """The momentum of a schedule that moves it, as a schedule of its own."""
    match schedule:
        case Phases(momenta=tuple() as momenta):
            return replace(schedule, values=momenta, momenta=None)
        case Cyclical(momentum_bounds=(low, high)):
            return replace(schedule, base_lr=high, max_lr=low, decay_base=False, momentum_bounds=None)
        case WithMomentum():
            return schedule.momenta
        case Join():
            return in_sequence([momenta_of(part) for part in schedule.parts], schedule.begins)
    return _Momenta(schedule)


@dataclass(frozen=True)
class _Momenta(Schedule):
    """The momentum of any other, value by value."""

    of: Schedule

    @property
    def preview(self) -> int:
        return self.of.preview

    def corners(self, until: int) -> list[int]:
        return self.of.corners(until)

    def lr_at(self, t: IntArray) -> FloatArray:
        return self.of.momentum_at(t)


def _falls(schedule: CosineRestarts, length: int, begin: int) -> Iterator[Part]:
    """Each fall a cosine; after the last of them its end is held."""
    for cycle, start in enumerate(map(int, schedule.begins(length - 1))):
        if schedule.num_cycles is not None and cycle >= schedule.num_cycles:
            yield Part(fixed(schedule.base_lr), begin + start, length - start)
            return
        top = schedule.base_lr + (schedule.max_lr - schedule.base_lr) * schedule.m_mul**cycle
        whole = schedule.period / schedule.falls * schedule.t_mul**cycle
        fall = Cosine(base_lr=schedule.base_lr, max_lr=top, iterations=whole)
        yield Part(fall, begin + start, min(int(whole), length - start))


def _phases(schedule: Phases) -> Schedule:
    """Each phase a schedule of its own."""
    made: list[Schedule] = []
    for number, (start, end) in enumerate(pairwise(schedule.knots)):
        values, shapes = schedule.values[number : number + 2], schedule.shapes[number : number + 1]
        made.append(Phases(knots=(0, end - start), values=values, shapes=shapes))
    held = [fixed(schedule.values[0])] if schedule.knots[0] > 0 else []
    begins = [*(0 for _ in held), *(int(knot) for knot in schedule.knots)]
    return in_sequence([*held, *made, fixed(schedule.values[-1])], begins)


def knots_of(schedule: Schedule, length: int) -> list[tuple[int, float]] | None:
    """Iterations and values between which a schedule is straight, to its end; None if there are too many.

    >>> knots_of(Cyclical(base_lr=0.1, max_lr=0.5, stepsize=3), length=9)
    [(0, 0.1), (3, 0.5), (6, 0.1), (9, 0.5)]
    """
    knots = sorted({0, *_bends(schedule, length), length})
    if len(knots) > MAX_KNOTS:
        return None
    if length > 1 and knots[-2] == length - 1:  # what it does after its end is nobody's business
        knots = knots[:-1]
    return [(knot, float(f"{value:.15g}")) for knot, value in zip(knots, schedule(knots), strict=True)]


def _bends(schedule: Schedule, length: int) -> list[int]:
    """Where the values turn; of a schedule that is too long to look at all of them, where it says that they may."""
    if length > LONGEST:
        return schedule.corners(length)
    values = schedule(range(length + 1))
    turns = np.abs(np.diff(values, 2)) > STRAIGHT * np.abs(values).max()
    bends: list[int] = (np.flatnonzero(turns) + 1).tolist()
    return bends


def _whole(numbers: Sequence[float]) -> bool:
    return all(number == int(number) for number in numbers)
