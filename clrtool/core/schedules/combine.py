"""Schedules made of others: a product, one asked at other iterations, one with a momentum of its own."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

from clrtool.core.schedules.base import MARKED, FloatArray, IntArray, Schedule
from clrtool.core.schedules.checks import check_lr, check_whole, is_number
from clrtool.core.schedules.expression import Scale, scaled
from clrtool.core.schedules.operations import repeated


@dataclass(frozen=True)
class Product(Schedule):
    """``lr(t) = parts[0](t) * parts[1](t) * ...``, as schedulers that each multiply the learning rate act together.

    The momentum is that of the last part that moves it.

    Raises:
        ValueError: there is no part.
    """

    parts: tuple[Schedule, ...]

    def __post_init__(self) -> None:
        if not self.parts:
            raise ValueError("a product of schedules needs at least one")

    @property
    def preview(self) -> int:
        return max(part.preview for part in self.parts)

    @property
    def cycles_momentum(self) -> bool:
        return any(part.cycles_momentum for part in self.parts)

    def corners(self, until: int) -> list[int]:
        return sorted({corner for part in self.parts for corner in part.corners(until)})

    def lr_at(self, t: IntArray) -> FloatArray:
        return reduce(np.multiply, (part.lr_at(t) for part in self.parts))

    def momentum_at(self, t: IntArray) -> FloatArray:
        return next(part for part in reversed(self.parts) if part.cycles_momentum).momentum_at(t)


@dataclass(frozen=True)
class Moved(Schedule):
    """``part`` at iteration ``times * floor(t / every) + by``: stepped several times, or only once in an epoch.

    Raises:
        ValueError: ``times`` or ``every`` is below 1, or ``by`` is negative.

    >>> from clrtool.core.schedules import piecewise
    >>> Moved(piecewise([1], [1.0, 0.5]), every=3)(range(5))
    array([1. , 1. , 1. , 0.5, 0.5])
    """

    part: Schedule
    times: int = 1
    by: int = 0
    every: int = 1

    def __post_init__(self) -> None:
        check_whole("times", self.times)
        check_whole("by", self.by, at_least=0)
        check_whole("every", self.every)

    @property
    def preview(self) -> int:
        return max(1, self.every * math.ceil((self.part.preview - self.by) / self.times))

    @property
    def cycles_momentum(self) -> bool:
        return self.part.cycles_momentum

    def cycle_ends(self, until: int) -> list[int]:
        return self._seen(self.part.cycle_ends(self._inside(until)))

    def corners(self, until: int) -> list[int]:
        return self._seen(self.part.corners(self._inside(until)))

    def lr_at(self, t: IntArray) -> FloatArray:
        return self.part.lr_at(self._inside(t))

    def momentum_at(self, t: IntArray) -> FloatArray:
        return self.part.momentum_at(self._inside(t))

    def _inside(self, t: Any) -> Any:
        """The iteration of the part."""
        return (t if self.every == 1 else t // self.every) * self.times + self.by

    def _seen(self, marks: list[int]) -> list[int]:
        return sorted({self.every * -(-(mark - self.by) // self.times) for mark in marks if mark >= self.by})


@dataclass(frozen=True)
class Repeat(Schedule):
    """The first ``period`` iterations of ``part``, again and again."""

    part: Schedule
    period: int

    def __post_init__(self) -> None:
        check_whole("period", self.period)

    @property
    def preview(self) -> int:
        return 4 * self.period

    def cycle_ends(self, until: int) -> list[int]:
        return list(range(self.period, until + 1, self.period)[:MARKED])

    def corners(self, until: int) -> list[int]:
        return sorted({*self.cycle_ends(until), *self.part.corners(min(until, self.period))})

    def lr_at(self, t: IntArray) -> FloatArray:
        return repeated(t, self.period, self.part.lr_at)


@dataclass(frozen=True)
class Unread(Schedule):
    """The rest of a schedule that is not worked out: whoever asks for it is told why, by ValueError."""

    reason: str

    @property
    def preview(self) -> int:
        return 1

    def lr_at(self, t: IntArray) -> FloatArray:
        raise ValueError(f"{self.reason}; asked for iteration {int(t.max()):,}")


@dataclass(frozen=True)
class WithMomentum(Schedule):
    """The learning rate of one schedule, and as momentum the values of another."""

    rates: Schedule
    momenta: Schedule

    @property
    def preview(self) -> int:
        return self.rates.preview

    @property
    def cycles_momentum(self) -> bool:
        return True

    def cycle_ends(self, until: int) -> list[int]:
        return self.rates.cycle_ends(until)

    def corners(self, until: int) -> list[int]:
        return self.rates.corners(until)

    def lr_at(self, t: IntArray) -> FloatArray:
        return self.rates.lr_at(t)

    def momentum_at(self, t: IntArray) -> FloatArray:
        return self.momenta.lr_at(t)


@dataclass(frozen=True)
class Within(Schedule):
    """A schedule that is held at ``least`` where it is lower, and at ``most`` where it is higher.

    Raises:
        ValueError: an end is no number, or neither is given.
    """

    part: Schedule
    least: float | None = None
    most: float | None = None

    def __post_init__(self) -> None:
        ends = [end for end in (self.least, self.most) if end is not None]
        if not ends or not all(map(is_number, ends)):
            raise ValueError(f"least or most must be finite numbers, got {self.least!r} and {self.most!r}")

    @property
    def preview(self) -> int:
        return self.part.preview

    def corners(self, until: int) -> list[int]:
        return self.part.corners(until)

    def lr_at(self, t: IntArray) -> FloatArray:
        lr = self.part.lr_at(t)
        lr = lr if self.least is None else np.maximum(lr, self.least)
        return lr if self.most is None else np.minimum(lr, self.most)


@dataclass(frozen=True)
class Raised(Schedule):
    """``lr(t) = part(t) + by``.

    >>> from clrtool.core.schedules import linear
    >>> Raised(linear(0.0, 1.0, 2), by=0.5)(range(3))
    array([1.5, 1. , 0.5])
    """

    part: Schedule
    by: float

    def __post_init__(self) -> None:
        check_lr("by", self.by)

    @property
    def preview(self) -> int:
        return self.part.preview

    def corners(self, until: int) -> list[int]:
        return self.part.corners(until)

    def lr_at(self, t: IntArray) -> FloatArray:
        return self.part.lr_at(t) + self.by


@dataclass(frozen=True)
class Scaled(Schedule):
    """``lr(t) = base_lr * scale(t)``, a Python function of the iteration or an expression in x.

    >>> from clrtool.core.schedules import Expression
    >>> Scaled(0.1, Expression("1 / (1 + x)"))([0, 1])
    array([0.1 , 0.05])
    """

    base_lr: float
    scale: Scale

    def __post_init__(self) -> None:
        check_lr("base_lr", self.base_lr)

    @property
    def preview(self) -> int:
        return 1000

    def lr_at(self, t: IntArray) -> FloatArray:
        return np.asarray(self.base_lr * scaled(t, self.scale))
