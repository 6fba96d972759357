"""The sweeps of a range test: the learning rate rises from one end to the other, in a line or by a ratio."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from clrtool.core.schedules.base import FloatArray, IntArray, Schedule
from clrtool.core.schedules.cyclical import Cyclical, triangular

Spacing = Literal["linear", "exponential"]


@dataclass(frozen=True)
class ExponentialSweep(Schedule):
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

    @property
    def preview(self) -> int:
        return self.num_iterations

    def lr_at(self, t: IntArray) -> FloatArray:
        done = t / (self.num_iterations - 1)
        return np.asarray(self.start_lr ** (1 - done) * self.end_lr**done)


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


def _check_sweep(start_lr: float, end_lr: float, num_iterations: int) -> None:
    if not (0 < start_lr < end_lr and math.isfinite(end_lr)):
        raise ValueError(f"a sweep needs 0 < start_lr < end_lr, both finite; got {start_lr=!r} and {end_lr=!r}")
    if num_iterations < 2:
        raise ValueError(f"num_iterations must be at least 2, got {num_iterations}")
