"""A fall along a curve that is bent: half a cosine, a power or a hyperbolic tangent, its time raised to a power."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from clrtool.core.schedules.base import FloatArray, IntArray, Schedule
from clrtool.core.schedules.checks import check_lr, check_positive

Bend = Literal["cosine", "power", "tanh"]


@dataclass(frozen=True, kw_only=True)
class Curve(Schedule):
    """From ``start`` towards ``end``, with f the share of ``length`` that has passed since ``begin``, from 0 to 1::

        h(f)  = (1 + cos(pi * f ** k)) / 2                          cosine
                (1 - f ** k) ** power                               power
                (1 - tanh(low * (1 - f) + high * f)) / 2            tanh
        lr(t) = end + (start - end) * h(f)

    The power k is that of k-decay, arXiv 2004.05909.

    Raises:
        ValueError: a number is not finite, the length is not above 0, or the bend is unknown.
    """

    start: float
    end: float
    length: float
    begin: float = 0.0
    bend: Bend = "cosine"
    k: float = 1.0
    power: float = 1.0
    low: float = -7.0
    high: float = 3.0

    def __post_init__(self) -> None:
        for name in ("start", "end", "begin", "power", "low", "high"):
            check_lr(name, getattr(self, name))
        check_positive("length", self.length)
        check_positive("k", self.k)
        if self.bend not in get_args(Bend):
            raise ValueError(f"bend must be one of {', '.join(get_args(Bend))}, got {self.bend!r}")

    @property
    def preview(self) -> int:
        return max(1, math.ceil(self.begin + self.length))

    def lr_at(self, t: IntArray) -> FloatArray:
        done = np.minimum(np.maximum((t - self.begin) / self.length, 0.0), 1.0)
        bent = done if self.k == 1 else done**self.k  # a power of 1 takes as long as any other
        if self.bend == "tanh":
            height = (1 - np.tanh(self.low + (self.high - self.low) * done)) / 2
        elif self.bend == "power":
            height = (1 - bent) ** self.power
        else:
            height = (1 + np.cos(np.pi * bent)) / 2
        return np.asarray(self.end + (self.start - self.end) * height)
