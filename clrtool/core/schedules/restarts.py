"""Cosines that fall again and again."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import count, takewhile

import numpy as np

from clrtool.core.schedules.base import MARKED, FloatArray, IntArray, Schedule
from clrtool.core.schedules.checks import check_ends, check_positive, check_whole, is_number
from clrtool.core.schedules.cyclical import MomentumBounds, check_finite_momentum
from clrtool.core.schedules.operations import named, restarts


@dataclass(frozen=True, kw_only=True)
class CosineRestarts(Schedule):
    """Repeated cosine falls from ``max_lr`` to ``base_lr``, each longer by ``t_mul`` and lower by ``m_mul``.

    With f the share of fall i (from 0) that is done, fall i being ``period * t_mul ** i`` iterations long::

        h(t)  = m_mul ** i * (1 + cos(pi * f)) / 2
        lr(t) = base_lr + (max_lr - base_lr) * h(t)
        m(t)  = high - (high - low) * h(t)                              momentum, against the learning rate

    Args:
        falls: how many of them are in one period, where all are as long. With whole numbers a restart is exact.
        num_cycles: falls after which ``base_lr`` is held; None for no end.
        momentum_bounds: (low, high) of the momentum; None to leave it alone.
    """

    base_lr: float
    max_lr: float
    period: float
    t_mul: float = 1.0
    m_mul: float = 1.0
    num_cycles: int | None = None
    falls: int = 1
    momentum_bounds: MomentumBounds | None = None

    def __post_init__(self) -> None:
        check_ends(self.base_lr, self.max_lr)
        check_positive("period", self.period)
        if not (is_number(self.m_mul) and self.m_mul >= 0):
            raise ValueError(f"m_mul must be finite and at least 0, got {self.m_mul!r}")
        if not (is_number(self.t_mul) and (self.t_mul == 1 or self.t_mul >= 1.001)):
            raise ValueError(f"t_mul must be 1, or at least 1.001, got {self.t_mul!r}")
        if self.num_cycles is not None:
            check_whole("num_cycles", self.num_cycles)
        check_whole("falls", self.falls)
        if self.momentum_bounds is not None:
            object.__setattr__(self, "momentum_bounds", tuple(self.momentum_bounds))
        check_finite_momentum(self.momentum_bounds)

    @property
    def cycles_momentum(self) -> bool:
        return self.momentum_bounds is not None

    @property
    def preview(self) -> int:
        return math.ceil(min(self._begin(self.num_cycles or 4), 1e9))

    def begins(self, until: int) -> list[float]:
        """The first iteration of every fall up to iteration ``until``; they need not be whole."""
        return list(takewhile(lambda begin: begin <= until, map(self._begin, count())))

    def cycle_ends(self, until: int) -> list[int]:
        last = min(MARKED, self.num_cycles or MARKED)
        return [math.ceil(end) for end in takewhile(lambda end: end <= until, map(self._begin, range(1, last + 1)))]

    def corners(self, until: int) -> list[int]:
        return [t for end in self.cycle_ends(until) for t in (end - 1, end)][:MARKED]

    def lr_at(self, t: IntArray) -> FloatArray:
        return self._fall(t, self.max_lr, self.base_lr)

    def momentum_at(self, t: IntArray) -> FloatArray:
        assert self.momentum_bounds is not None
        low, high = self.momentum_bounds
        return self._fall(t, low, high)

    def _fall(self, t: IntArray, start: float, end: float) -> FloatArray:
        if self.t_mul == 1:
            cycle = named(self.falls * t // self.period, "cycle")
            done = named(self.falls * t % self.period / self.period, "done")
        else:
            cycle, since = restarts(t, self.begins)
            done = named(since / (self.period * float(self.t_mul) ** cycle), "done")
        height = float(self.m_mul) ** cycle * (1 + np.cos(np.pi * done)) / 2
        value = end + (start - end) * height
        return value if self.num_cycles is None else np.where(cycle < self.num_cycles, value, end)

    def _begin(self, cycle: int) -> float:
        if self.t_mul == 1:
            return self.period * cycle / self.falls
        try:
            return self.period * (self.t_mul**cycle - 1) / (self.t_mul - 1)
        except OverflowError:
            return math.inf


def cosine_restarts(
    base_lr: float,
    max_lr: float,
    period: float,
    t_mul: float = 1.0,
    m_mul: float = 1.0,
    num_cycles: int | None = None,
    momentum: MomentumBounds | None = None,
) -> CosineRestarts:
    """Half cosines that restart at ``max_lr``: SGDR, arXiv 1608.03983."""
    return CosineRestarts(base_lr=base_lr, max_lr=max_lr, period=period, t_mul=t_mul, m_mul=m_mul,
                          num_cycles=num_cycles, momentum_bounds=momentum)  # fmt: skip
