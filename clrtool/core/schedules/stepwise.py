"""Schedules in which each step goes on from what the last one left: worked out in order, up to ``FARTHEST``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise

import numpy as np

from clrtool.core.schedules.base import FloatArray, IntArray, Schedule
from clrtool.core.schedules.checks import check_lr
from clrtool.core.schedules.expression import Scale, scaled
from clrtool.core.schedules.operations import looked_up

# The last iteration for which steps are taken one by one.
FARTHEST = 2 * 10**7
# Steps worked out together, few enough that their arrays stay in the cache; those that add to what they find are cut
# into runs, all of which are worked out at once. Both are powers of two.
BLOCK, RUN = 8192, 8
# Steps of a block that add are taken one by one up to this many, which costs no more than to join all.
FEW = 64
# A step makes p * x + q of a learning rate x. At successive iterations: all p, and all q, or None where they are 0.
Steps = tuple[FloatArray, FloatArray | None]


@dataclass(frozen=True)
class Stepwise(Schedule):
    """``lr(0) = first``, ``lr(t) = p(t) * lr(t - 1) + q(t)``, with ``steps(t)`` = (p(t), q(t)).

    >>> Stepwise(1.0, lambda t: (np.full(len(t), 0.5), np.ones(len(t))))(range(4))
    array([1.   , 1.5  , 1.75 , 1.875])
    """

    first: float
    steps: Callable[[IntArray], Steps]
    # The value before each block that is known, and the values of the block that was asked for last.
    _before: list[float] = field(default_factory=list, init=False, repr=False, compare=False)
    _last: dict[int, FloatArray] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_lr("base_lr", self.first)
        self._before.append(self.first)

    @property
    def preview(self) -> int:
        return 1000

    def lr_at(self, t: IntArray) -> FloatArray:
        first, last = int(t.min()) // BLOCK, int(t.max()) // BLOCK
        if last * BLOCK > FARTHEST:
            raise ValueError(
                f"what each step makes of the one before is worked out up to iteration {FARTHEST:,}; asked for "
                f"iteration {int(t.max()):,}"
            )
        while len(self._before) <= last:
            self._block(len(self._before) - 1)
        known = (
            np.concatenate([self._block(block) for block in range(first, last + 1)])
            if first < last
            else self._block(first)
        )
        return looked_up(known, t - first * BLOCK)

    def _block(self, block: int) -> FloatArray:
        """The values at the ``BLOCK`` iterations of a block, from which it is known what is before the next."""
        if block not in self._last:
            with np.errstate(all="ignore"):  # of what is not finite the plan says the iteration
                p, q = self.steps(np.arange(block * BLOCK + 1, (block + 1) * BLOCK + 1))
                values = _taken(self._before[block], p, q)
            if block == len(self._before) - 1:
                self._before.append(float(values[-1]))
            self._last.clear()
            self._last[block] = np.concatenate([[self._before[block]], values[:-1]])
        return self._last[block]


def _taken(before: float, p: FloatArray, q: FloatArray | None) -> FloatArray:
    """The values after each of successive steps."""
    if q is not None and np.count_nonzero(q) > FEW:
        return _joined(before, p, q) if p.any() else q  # or each sets its value, whatever it finds
    adding = [] if q is None else (np.flatnonzero(q[1:]) + 1).tolist()
    values = np.array(p)
    for start, end in pairwise([0, *adding, len(p)]):  # from one step that adds to the next there are products alone
        values[start] = p[start] * before + (0.0 if q is None else q[start])
        before = float(np.cumprod(values[start:end], out=values[start:end])[-1])
    return values


def _joined(before: float, p: FloatArray, q: FloatArray) -> FloatArray:
    """The same where most steps add: cut into runs of ``RUN``, each of which begins where the one before has ended."""
    if len(p) <= 2 * RUN:
        return np.array([before := factor * before + more for factor, more in zip(p.tolist(), q.tolist(), strict=True)])
    factors, added = (np.array(each.reshape(-1, RUN).T, dtype=np.float64, order="C") for each in (p, q))
    rows = zip(factors, added, strict=True)
    for (factor, more), (then, more_then) in pairwise(rows):  # a row: one place of every run
        np.add(then * more, more_then, out=more_then)
        np.multiply(then, factor, out=then)
    ends = _joined(before, factors[-1], added[-1])
    factors *= np.concatenate([[before], ends[:-1]])
    factors += added
    return factors.T.reshape(-1)


def multiplied(base_lr: float, scale: Scale) -> Stepwise:
    """``lr(t) = base_lr * scale(1) * scale(2) * ... * scale(t)``.

    >>> from clrtool.core.schedules import Expression
    >>> multiplied(0.5, Expression("1 / x"))([0, 1, 2, 3])
    array([0.5       , 0.5       , 0.25      , 0.08333333])
    """
    return Stepwise(base_lr, partial(_factors, scale))


def _factors(scale: Scale, t: IntArray) -> Steps:
    return scaled(t, scale), None
