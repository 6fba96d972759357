"""Schedules that fall by a formula: in steps, by a ratio, as a power, as an inverse, along a cosine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import numpy as np

from clrtool.core.schedules.base import MARKED, FloatArray, IntArray, Schedule
from clrtool.core.schedules.checks import check_ends, check_lr, check_positive, check_rising, check_whole, is_number
from clrtool.core.schedules.operations import ceil_divide, named, pieces, powers


@dataclass(frozen=True, kw_only=True)
class Piecewise(Schedule):
    """Constant pieces: ``values[k]`` from iteration ``boundaries[k - 1]`` on, as Caffe and torch count.

    Keras drops one iteration later, at ``t > boundary``.

    Raises:
        ValueError: the boundaries do not rise, a value is negative, or there is not one value more than boundaries.

    >>> Piecewise(boundaries=(2, 4), values=(1.0, 0.1, 0.01))(range(6))
    array([1.  , 1.  , 0.1 , 0.1 , 0.01, 0.01])
    """

    boundaries: tuple[int, ...]
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        for name in ("boundaries", "values"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        check_rising("boundaries", self.boundaries)
        for boundary in self.boundaries:
            check_whole("boundaries", boundary, at_least=0)
        if len(self.values) != len(self.boundaries) + 1:
            raise ValueError(f"values must be one more than boundaries, got {len(self.values)}, {len(self.boundaries)}")
        for value in self.values:
            check_lr("a learning rate", value)

    @property
    def preview(self) -> int:
        return max(1, math.ceil(1.25 * self.boundaries[-1])) if self.boundaries else 1000

    def corners(self, until: int) -> list[int]:
        return sorted(t for b in self.boundaries for t in (b - 1, b) if 0 <= t <= until)[:MARKED]

    def lr_at(self, t: IntArray) -> FloatArray:
        return pieces(t, self.boundaries, lambda k, _: self.values[k])


@dataclass(frozen=True, kw_only=True)
class Exponential(Schedule):
    """``lr(t) = max_lr * gamma ** (t / every)``; with ``staircase`` the exponent is rounded down.

    It is at least ``base_lr`` and at most ``cap``, where they are given; above 1, ``gamma`` makes it rise.

    >>> Exponential(max_lr=1.0, gamma=0.5, every=2, staircase=True)(range(5))
    array([1.  , 1.  , 0.5 , 0.5 , 0.25])
    """

    max_lr: float
    gamma: float
    every: float = 1
    staircase: bool = False
    base_lr: float | None = None
    cap: float | None = None

    def __post_init__(self) -> None:
        for name in ("base_lr", "max_lr", "cap"):
            if getattr(self, name) is not None:
                check_lr(name, getattr(self, name))
        check_positive("every, the iterations of one decay,", self.every)
        if not (is_number(self.gamma) and (self.gamma >= 0 or self.staircase or self.every == 1)):
            fractions = "" if not is_number(self.gamma) else "; below 0 it has no power between whole numbers"
            raise ValueError(f"gamma must be finite and at least 0, got {self.gamma!r}{fractions}")

    @property
    def preview(self) -> int:
        decays = math.log(0.01) / math.log(self.gamma) if 0 < self.gamma < 1 else 10.0
        return max(1, math.ceil(min(decays * self.every, 1e9)))

    def corners(self, until: int) -> list[int]:
        if not self.staircase:
            return []
        drops = takewhile(lambda t: t <= until, (math.ceil(k * self.every) for k in range(1, MARKED)))
        return [t for drop in drops for t in (drop - 1, drop)][:MARKED]

    def lr_at(self, t: IntArray) -> FloatArray:
        exponent = t // self.every if self.staircase else t if self.every == 1 else t / self.every
        with np.errstate(over="ignore"):  # what is not finite is refused by the plan, which knows the iteration
            lr = self.max_lr * powers(exponent, self.gamma)
        lr = lr if self.base_lr is None else np.maximum(lr, self.base_lr)
        return np.asarray(lr if self.cap is None else np.minimum(lr, self.cap))


@dataclass(frozen=True, kw_only=True)
class Polynomial(Schedule):
    """``lr(t) = base_lr + (max_lr - base_lr) * (1 - min(t, n) / n) ** power`` with n iterations.

    With ``cycle`` n grows to the next multiple that is not below t, as Keras has it: the fall starts again.
    """

    base_lr: float
    max_lr: float
    iterations: float
    power: float = 1.0
    cycle: bool = False

    def __post_init__(self) -> None:
        check_ends(self.base_lr, self.max_lr)
        check_positive("iterations", self.iterations)
        check_lr("power", self.power)

    @property
    def preview(self) -> int:
        return math.ceil(self.iterations)

    def cycle_ends(self, until: int) -> list[int]:
        ends = (math.ceil(k * self.iterations) for k in range(1, MARKED + 1))
        return list(takewhile(lambda end: end <= until, ends)) if self.cycle else []

    def corners(self, until: int) -> list[int]:
        return [t for end in self.cycle_ends(until) for t in (end, end + 1) if t <= until][:MARKED]

    def lr_at(self, t: IntArray) -> FloatArray:
        n = self.iterations
        length = named(n * np.maximum(ceil_divide(t, n), 1), "length") if self.cycle else n
        left = 1 - np.minimum(t, length) / length
        return np.asarray(self.base_lr + (self.max_lr - self.base_lr) * left**self.power)


@dataclass(frozen=True, kw_only=True)
class Inverse(Schedule):
    """``lr(t) = max_lr * (1 + rate * t / every) ** -power``; with ``staircase`` t / every is rounded down.

    Power 1 is Keras's inverse time decay, any power Caffe's ``inv``, power 1/2 the inverse square root, and power -1 a
    straight line without end.
    """

    max_lr: float
    rate: float
    every: float = 1
    power: float = 1.0
    staircase: bool = False

    def __post_init__(self) -> None:
        check_lr("max_lr", self.max_lr)
        check_lr("rate", self.rate)
        check_positive("every, the iterations of one decay,", self.every)
        check_lr("power", self.power)

    @property
    def preview(self) -> int:
        return max(1, math.ceil(min(10 * self.every / abs(self.rate), 1e9))) if self.rate else 1000

    def lr_at(self, t: IntArray) -> FloatArray:
        decays = t // self.every if self.staircase else t / self.every
        return np.asarray(self.max_lr * (1 + self.rate * decays) ** -float(self.power))


@dataclass(frozen=True, kw_only=True)
class Sigmoid(Schedule):
    """``lr(t) = max_lr / (1 + exp(-gamma * (t - center)))``, Caffe's: it falls where ``gamma`` is negative."""

    max_lr: float
    gamma: float
    center: float

    def __post_init__(self) -> None:
        check_lr("max_lr", self.max_lr)
        if not (is_number(self.gamma) and is_number(self.center)):
            raise ValueError(f"gamma and center must be finite, got {self.gamma!r} and {self.center!r}")

    @property
    def preview(self) -> int:
        return max(1, math.ceil(min(2 * self.center, 1e9)))

    def lr_at(self, t: IntArray) -> FloatArray:
        with np.errstate(over="ignore"):  # an infinite exponential is a learning rate of 0
            return np.asarray(self.max_lr / (1 + np.exp(-float(self.gamma) * (t - float(self.center)))))


@dataclass(frozen=True, kw_only=True)
class Cosine(Schedule):
    """``lr(t) = base_lr + (max_lr - base_lr) * ((1 + cos(pi * t / n)) / 2) ** exponent`` with n iterations.

    After n it holds ``base_lr``; with ``wave`` it goes up again, as torch's and transformers' do.
    """

    base_lr: float
    max_lr: float
    iterations: float
    exponent: float = 1.0
    wave: bool = False

    def __post_init__(self) -> None:
        check_ends(self.base_lr, self.max_lr)
        check_positive("iterations", self.iterations)
        check_positive("exponent", self.exponent)

    @property
    def preview(self) -> int:
        return math.ceil(self.iterations)

    def lr_at(self, t: IntArray) -> FloatArray:
        # A whole wave is 2 n: without the remainder pi * t / n loses its digits at large t.
        done = np.mod(t, 2 * self.iterations) if self.wave else np.minimum(t, self.iterations)
        height = (1 + np.cos(np.pi * done / self.iterations)) / 2
        return np.asarray(self.base_lr + (self.max_lr - self.base_lr) * height**self.exponent)


def fixed(max_lr: float) -> Piecewise:
    """One learning rate, always."""
    return Piecewise(boundaries=(), values=(max_lr,))


def piecewise(boundaries: Sequence[int], values: Sequence[float]) -> Piecewise:
    """``values[k]`` from iteration ``boundaries[k - 1]`` on."""
    return Piecewise(boundaries=tuple(boundaries), values=tuple(values))


def step(max_lr: float, gamma: float, every: int) -> Exponential:
    """``max_lr * gamma ** floor(t / every)``, Caffe's ``step``."""
    return Exponential(max_lr=max_lr, gamma=gamma, every=every, staircase=True)


def multistep(max_lr: float, gamma: float, milestones: Sequence[int]) -> Piecewise:
    """``max_lr`` times ``gamma`` for every milestone that is reached.

    >>> multistep(1.0, 0.5, milestones=[2, 3])(range(5))
    array([1.  , 1.  , 0.5 , 0.25, 0.25])
    """
    values = tuple(max_lr * gamma**drops for drops in range(len(milestones) + 1))
    return Piecewise(boundaries=tuple(milestones), values=values)


def exponential(max_lr: float, gamma: float, every: float = 1, staircase: bool = False) -> Exponential:
    """``max_lr * gamma ** (t / every)``; with ``every`` 1 the paper's ``exp``."""
    return Exponential(max_lr=max_lr, gamma=gamma, every=every, staircase=staircase)


def polynomial(base_lr: float, max_lr: float, iterations: float, power: float = 2.0) -> Polynomial:
    """``base_lr + (max_lr - base_lr) * (1 - t / iterations) ** power``, then ``base_lr``."""
    return Polynomial(base_lr=base_lr, max_lr=max_lr, iterations=iterations, power=power)


def inverse_time(max_lr: float, rate: float, every: float = 1, staircase: bool = False) -> Inverse:
    """``max_lr / (1 + rate * t / every)``."""
    return Inverse(max_lr=max_lr, rate=rate, every=every, staircase=staircase)


def inverse_sqrt(max_lr: float, timescale: float) -> Inverse:
    """``max_lr / sqrt(1 + t / timescale)``."""
    return Inverse(max_lr=max_lr, rate=1.0, every=timescale, power=0.5)


def inv(max_lr: float, gamma: float, power: float) -> Inverse:
    """Caffe's ``inv``: ``max_lr * (1 + gamma * t) ** -power``."""
    return Inverse(max_lr=max_lr, rate=gamma, power=power)


def sigmoid(max_lr: float, gamma: float, center: float) -> Sigmoid:
    """Caffe's ``sigmoid``: ``max_lr / (1 + exp(-gamma * (t - center)))``."""
    return Sigmoid(max_lr=max_lr, gamma=gamma, center=center)


def cosine(base_lr: float, max_lr: float, iterations: float) -> Cosine:
    """Half a cosine from ``max_lr`` to ``base_lr``, then ``base_lr``."""
    return Cosine(base_lr=base_lr, max_lr=max_lr, iterations=iterations)
