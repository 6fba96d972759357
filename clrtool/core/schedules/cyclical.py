"""Cyclical learning rates: a triangle wave between two bounds, its height scaled per cycle or per iteration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from clrtool.core.schedules.base import MARKED, FloatArray, IntArray, Schedule
from clrtool.core.schedules.checks import check_ends, check_lr, check_whole, is_number
from clrtool.core.schedules.expression import Expression, OfArrays, Scale, scaled
from clrtool.core.schedules.operations import between, named, powers, remainder

Per = Literal["cycle", "iteration"]
MomentumBounds = tuple[float, float]


@dataclass(frozen=True)
class Geometric(OfArrays):
    """The scale ``ratio ** (x - first)``: 1 at ``first``, then times ``ratio`` with every step of x.

    >>> Geometric(ratio=0.5, first=1)(np.array([1.0, 2.0, 3.0]))
    array([1.  , 0.5 , 0.25])
    """

    ratio: float
    first: int = 1
    takes = np.int64

    def __post_init__(self) -> None:
        if not (is_number(self.ratio) and self.ratio >= 0):
            raise ValueError(f"gamma, the ratio of the scale, must be finite and at least 0, got {self.ratio!r}")

    def __call__(self, x: FloatArray | IntArray) -> FloatArray:
        with np.errstate(over="ignore"):  # what is not finite is refused by the plan, which knows the iteration
            return np.asarray(powers(x - self.first, self.ratio))


@dataclass(frozen=True, kw_only=True)
class Cyclical(Schedule):
    """A triangle wave between two bounds, its height scaled per cycle or per iteration.

    With t the iteration (from 0), u and d the iterations of the rising and of the falling half, c the cycle::

        c     = 1 + floor(t / (u + d))
        p     = t mod (u + d)
        h(t)  = min(p / u, (u + d - p) / d)                             0 at a cycle's ends, 1 at p = u
        lr(t) = base_lr + (max_lr - base_lr) * h(t) * scale(x)          x = c  or  x = t
        m(t)  = high - (high - low) * h(t) * scale(x)                   momentum, against the learning rate

    This is the family of Smith, arXiv 1506.01186 v6, section 3.1, written with an integer remainder so that it
    is exact at any iteration. While ``scale`` stays in [0, 1] the learning rate never leaves the bounds.

    Args:
        base_lr: where a cycle begins and ends, its lower bound.
        max_lr: its top; below ``base_lr`` it is the bottom of a triangle that begins at the top.
        stepsize: the rising half of a cycle, in iterations, at least 1.
        stepsize_down: the falling half; None for ``stepsize``.
        scale: factor on the amplitude, a Python function of a number; None for 1.
        per: what x is, the 1-based ``"cycle"`` or the ``"iteration"``.
        decay_base: the paper's words for ``exp_range``, "each boundary value declines":
            ``lr(t) = scale(x) * (base_lr + (max_lr - base_lr) * h(t))``.
        momentum_bounds: (low, high) of the momentum; None to leave it alone.

    Raises:
        ValueError: a bound, a stepsize or a value of ``scale`` breaks its rule.

    >>> Cyclical(base_lr=0.1, max_lr=0.5, stepsize=2)([0, 1, 2, 3, 4, 5])
    array([0.1, 0.3, 0.5, 0.3, 0.1, 0.3])
    """

    base_lr: float
    max_lr: float
    stepsize: int
    stepsize_down: int | None = None
    scale: Scale | None = None
    per: Per = "cycle"
    decay_base: bool = False
    momentum_bounds: MomentumBounds | None = None

    def __post_init__(self) -> None:
        check_ends(self.base_lr, self.max_lr)
        check_whole("stepsize", self.stepsize)
        if self.stepsize_down is not None:
            check_whole("stepsize_down", self.stepsize_down)
        if not isinstance(self.decay_base, bool):
            raise ValueError(f"decay_base must be true or false, got {self.decay_base!r}")
        if self.per not in ("cycle", "iteration"):
            raise ValueError(f"per must be 'cycle' or 'iteration', got {self.per!r}")
        if self.momentum_bounds is not None:
            object.__setattr__(self, "momentum_bounds", tuple(self.momentum_bounds))
        check_finite_momentum(self.momentum_bounds)

    @property
    def period(self) -> int:
        """Iterations in a whole cycle."""
        return int(self.stepsize + (self.stepsize_down or self.stepsize))

    @property
    def preview(self) -> int:
        return 4 * self.period

    @property
    def cycles_momentum(self) -> bool:
        return self.momentum_bounds is not None

    def cycle_ends(self, until: int) -> list[int]:
        return list(range(self.period, until + 1, self.period)[:MARKED])

    def corners(self, until: int) -> list[int]:
        peaks = range(int(self.stepsize), until + 1, self.period)[:MARKED]
        return sorted([*peaks, *self.cycle_ends(until)])[:MARKED]

    def lr_at(self, t: IntArray) -> FloatArray:
        height, scale = self._wave(t)
        if self.decay_base:
            return scale * between(height, self.base_lr, self.max_lr)
        return _height(height, scale, self.base_lr, self.max_lr)

    def momentum_at(self, t: IntArray) -> FloatArray:
        assert self.momentum_bounds is not None
        low, high = self.momentum_bounds
        height, scale = self._wave(t)
        return _height(height, scale, high, low)

    def _wave(self, t: IntArray) -> tuple[FloatArray, FloatArray | float]:
        """The height of the triangle, 0 to 1, and what scales it."""
        up, down = self.stepsize, self.stepsize_down or self.stepsize
        phase = named(remainder(t, self.period), "phase")
        left = self.period - phase
        height = named(np.minimum(phase, left) / up if up == down else np.minimum(phase / up, left / down), "height")
        if self.scale is None:
            return height, 1.0
        return height, scaled(named(1 + t // self.period, "cycle") if self.per == "cycle" else t, self.scale)


def _height(height: FloatArray, scale: FloatArray | float, start: float, end: float) -> FloatArray:
    """``start`` plus a height of the way to ``end``, which a scale above 1 may pass."""
    height *= scale
    if isinstance(height, np.ndarray) and (height.min() < 0 or height.max() > 1):
        return np.asarray(start + (end - start) * height)
    return between(height, start, end)


def triangular(
    base_lr: float,
    max_lr: float,
    stepsize: int,
    stepsize_down: int | None = None,
    momentum: MomentumBounds | None = None,
) -> Cyclical:
    """The triangle wave of constant height: ``scale = 1`` (section 3.1)."""
    return cyclical(base_lr, max_lr, stepsize, scale=1, stepsize_down=stepsize_down, momentum=momentum)


def triangular2(
    base_lr: float,
    max_lr: float,
    stepsize: int,
    stepsize_down: int | None = None,
    momentum: MomentumBounds | None = None,
) -> Cyclical:
    """The triangle wave whose height halves with every cycle: ``scale = 0.5 ** (cycle - 1)`` (section 3.1).

    >>> triangular2(0.0, 0.8, stepsize=2)([2, 6, 10])
    array([0.8, 0.4, 0.2])
    """
    return cyclical(base_lr, max_lr, stepsize, scale=0.5, stepsize_down=stepsize_down, momentum=momentum)


def exp_range(
    base_lr: float,
    max_lr: float,
    stepsize: int,
    gamma: float,
    stepsize_down: int | None = None,
    decay_base: bool = False,
    momentum: MomentumBounds | None = None,
) -> Cyclical:
    """The triangle wave whose height shrinks at every iteration: ``scale = gamma ** iteration``.

    Only the amplitude shrinks and ``base_lr`` stays, as in torch, Keras and TensorFlow Addons. The paper's text
    (section 3.1) lets both bounds decline: ``decay_base=True``.
    """
    return Cyclical(base_lr=base_lr, max_lr=max_lr, stepsize=stepsize, stepsize_down=stepsize_down,
                    scale=Geometric(gamma, first=0), per="iteration", decay_base=decay_base,
                    momentum_bounds=momentum)  # fmt: skip


def cyclical(
    base_lr: float,
    max_lr: float,
    stepsize: int,
    scale: str | float | Scale,
    per: Per = "cycle",
    stepsize_down: int | None = None,
    decay_base: bool = False,
    momentum: MomentumBounds | None = None,
) -> Cyclical:
    """The triangle wave with any scale: an expression in x, a ratio per step of x, or a Python function.

    >>> cyclical(0.0, 1.0, 5, scale="log(2) ** (x - 1)")([5, 15]).round(6)
    array([1.      , 0.693147])
    >>> cyclical(0.0, 1.0, 5, scale=0.5)([5, 15])
    array([1. , 0.5])
    """
    if isinstance(scale, str):
        chosen: Scale | None = Expression(scale)
    elif callable(scale):
        chosen = scale
    else:
        chosen = None if scale == 1 else Geometric(scale, first=1 if per == "cycle" else 0)
    return Cyclical(base_lr=base_lr, max_lr=max_lr, stepsize=stepsize, stepsize_down=stepsize_down, scale=chosen,
                    per=per, decay_base=decay_base, momentum_bounds=momentum)  # fmt: skip


def check_momentum(bounds: MomentumBounds | None) -> None:
    """Raise ValueError unless ``bounds`` is None or (low, high) with 0 <= low <= high < 1."""
    if bounds is None:
        return
    if len(bounds) != 2:
        raise ValueError(f"momentum must be two numbers, low and high, got {bounds!r}")
    low, high = bounds
    if not (is_number(low) and is_number(high) and 0 <= low <= high < 1):
        raise ValueError(f"momentum must be LOW, HIGH with 0 <= LOW <= HIGH < 1, got {low!r}, {high!r}")


def check_finite_momentum(bounds: MomentumBounds | None) -> None:
    """Raise ValueError unless ``bounds`` is None or two finite numbers."""
    if bounds is None:
        return
    if len(bounds) != 2:
        raise ValueError(f"momentum must be two numbers, low and high, got {bounds!r}")
    check_lr("the low momentum", bounds[0])
    check_lr("the high momentum", bounds[1])
