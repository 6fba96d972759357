"""Learning-rate schedules: frozen values that map an iteration to a learning rate.

A schedule is a pure function of the iteration, array in and array out. There is nothing to step, so any
iteration can be asked for in any order, and a resumed run needs one integer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
Schedule = Callable[[ArrayLike], FloatArray]
Scale = Callable[[FloatArray], FloatArray]
Spacing = Literal["linear", "exponential"]


@dataclass(frozen=True)
class Geometric:
    """The scale ``ratio ** (x - first)``: 1 at ``first``, then smaller by ``ratio`` with every step of x.

    >>> Geometric(ratio=0.5, first=1)(np.array([1.0, 2.0, 3.0]))
    array([1.  , 0.5 , 0.25])
    """

    ratio: float
    first: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.ratio <= 1:
            raise ValueError(f"ratio must be above 0 and at most 1, got {self.ratio!r}")

    def __call__(self, x: FloatArray) -> FloatArray:
        return np.asarray(self.ratio ** (x - self.first), dtype=np.float64)


@dataclass(frozen=True, kw_only=True)
class Cyclical:
    """A triangle wave between two bounds, its height scaled per cycle or per iteration.

    With t the iteration (from 0), s the stepsize (iterations in half a cycle) and c the cycle (from 1)::

        c     = 1 + floor(t / 2s)
        h(t)  = min(t mod 2s, 2s - t mod 2s) / s                        0 at a cycle's ends, 1 at t = s
        lr(t) = base_lr + (max_lr - base_lr) * h(t) * scale(x)          x = c  or  x = t

    This is the family of Smith, arXiv 1506.01186 v6, section 3.1, written with an integer remainder so that it
    is exact at any iteration. ``scale`` must stay in [0, 1]: the learning rate never leaves the bounds.

    Args:
        base_lr: lower bound, at least 0.
        max_lr: upper bound, at least ``base_lr``.
        stepsize: half a cycle, in iterations, at least 1.
        scale: factor on the amplitude, a function of x; None for 1.
        per: what x is, the 1-based ``"cycle"`` or the ``"iteration"``.

    Raises:
        ValueError: a bound, the stepsize or a value of ``scale`` breaks its rule.

    >>> Cyclical(base_lr=0.1, max_lr=0.5, stepsize=2)([0, 1, 2, 3, 4, 5])
    array([0.1, 0.3, 0.5, 0.3, 0.1, 0.3])
    """

    base_lr: float
    max_lr: float
    stepsize: int
    scale: Scale | None = None
    per: Literal["cycle", "iteration"] = "cycle"

    def __post_init__(self) -> None:
        _check_lr("base_lr", self.base_lr, at_least=0.0)
        _check_lr("max_lr", self.max_lr, at_least=self.base_lr)
        if self.stepsize < 1 or self.stepsize != int(self.stepsize):
            raise ValueError(f"stepsize must be a whole number of at least 1 iteration, got {self.stepsize!r}")

    def __call__(self, iteration: ArrayLike) -> FloatArray:
        t = _iterations(iteration)
        period = 2 * self.stepsize
        phase = t % period
        height = np.minimum(phase, period - phase) / self.stepsize
        if self.scale is not None:
            x = t if self.per == "iteration" else 1 + t // period
            height = height * _check_scale(self.scale(x.astype(np.float64)))
        # Both ends are exact in this form, base + (max - base) is not; the clip takes off the last rounding.
        lr = self.base_lr * (1 - height) + self.max_lr * height
        return np.asarray(np.clip(lr, self.base_lr, self.max_lr))


@dataclass(frozen=True)
class ExponentialSweep:
    """A sweep that multiplies the learning rate by the same factor at every iteration.

    With n iterations, ``lr(t) = start_lr ** (1 - t/(n-1)) * end_lr ** (t/(n-1))``: ``start_lr`` at t = 0 and
    ``end_lr`` at t = n - 1, both exactly.

    Raises:
        ValueError: an end is not positive and finite, ``end_lr`` is not above ``start_lr``, or n is below 2.

    >>> ExponentialSweep(1e-3, 1.0, 4)(range(4)).round(6)
    array([0.001, 0.01 , 0.1  , 1.   ])
    """

    start_lr: float
    end_lr: float
    num_iterations: int

    def __post_init__(self) -> None:
        _check_sweep(self.start_lr, self.end_lr, self.num_iterations)

    def __call__(self, iteration: ArrayLike) -> FloatArray:
        fraction = _iterations(iteration) / (self.num_iterations - 1)
        return np.asarray(self.start_lr ** (1 - fraction) * self.end_lr**fraction)


def triangular(base_lr: float, max_lr: float, stepsize: int) -> Cyclical:
    """The triangle wave of constant height: ``scale = 1`` (section 3.1)."""
    return Cyclical(base_lr=base_lr, max_lr=max_lr, stepsize=stepsize)


def triangular2(base_lr: float, max_lr: float, stepsize: int) -> Cyclical:
    """The triangle wave whose height halves with every cycle: ``scale = 0.5 ** (cycle - 1)`` (section 3.1).

    >>> triangular2(0.0, 0.8, stepsize=2)([2, 6, 10])
    array([0.8, 0.4, 0.2])
    """
    return Cyclical(base_lr=base_lr, max_lr=max_lr, stepsize=stepsize, scale=Geometric(0.5, first=1))


def exp_range(base_lr: float, max_lr: float, stepsize: int, gamma: float) -> Cyclical:
    """The triangle wave whose height shrinks at every iteration: ``scale = gamma ** iteration``.

    Only the amplitude shrinks and ``base_lr`` stays, as in torch, Keras and TensorFlow Addons. The paper's text
    (section 3.1) lets both bounds decline.
    """
    return Cyclical(base_lr=base_lr, max_lr=max_lr, stepsize=stepsize, scale=Geometric(gamma, first=0), per="iteration")


POLICIES: dict[str, Callable[..., Cyclical]] = {
    "triangular": triangular,
    "triangular2": triangular2,
    "exp_range": exp_range,
}


def linear_sweep(start_lr: float, end_lr: float, num_iterations: int) -> Cyclical:
    """The linear range test: the first half cycle of ``triangular``, as the paper runs it (section 3.3).

    It gives ``start_lr`` at iteration 0 and ``end_lr`` at iteration ``num_iterations - 1``, both exactly.

    >>> linear_sweep(0.1, 0.5, num_iterations=5)(range(5))
    array([0.1, 0.2, 0.3, 0.4, 0.5])
    """
    _check_sweep(start_lr, end_lr, num_iterations)
    return triangular(start_lr, end_lr, stepsize=num_iterations - 1)


def make_sweep(spacing: Spacing, start_lr: float, end_lr: float, num_iterations: int) -> Schedule:
    """The sweep of a range test by the name of its spacing, ``linear`` or ``exponential``."""
    if spacing == "linear":
        return linear_sweep(start_lr, end_lr, num_iterations)
    return ExponentialSweep(start_lr, end_lr, num_iterations)


def _iterations(iteration: ArrayLike) -> NDArray[Any]:
    t = np.asarray(iteration)
    if np.any(t < 0):
        raise ValueError(f"iteration must be at least 0, got {t.min()}")
    return t


def _check_lr(name: str, value: float, at_least: float) -> None:
    if not (math.isfinite(value) and value >= at_least):
        raise ValueError(f"{name} must be finite and at least {at_least!r}, got {value!r}")


def _check_sweep(start_lr: float, end_lr: float, num_iterations: int) -> None:
    if not (0 < start_lr < end_lr and math.isfinite(end_lr)):
        raise ValueError(f"a sweep needs 0 < start_lr < end_lr, both finite; got {start_lr=!r} and {end_lr=!r}")
    if num_iterations < 2:
        raise ValueError(f"num_iterations must be at least 2, got {num_iterations}")


def _check_scale(scale: FloatArray) -> FloatArray:
    if not np.all((scale >= 0) & (scale <= 1)):
        raise ValueError(f"scale must stay in [0, 1], got values from {np.min(scale)} to {np.max(scale)}")
    return scale
