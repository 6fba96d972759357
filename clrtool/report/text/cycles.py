"""The cycles of a plan, one by one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from clrtool.core.planning.plan import Plan


class Cycle(NamedTuple):
    """One cycle: its iterations, the last not among them, and its highest learning rate and where that is."""

    number: int
    begin: int
    end: int
    peak: float
    peak_at: int


def cycles(plan: Plan) -> Iterator[Cycle]:
    """The cycles of a plan to its end; none of a plan that has no cycles.

    >>> from clrtool.core.planning.plan import make_plan
    >>> next(cycles(make_plan(0.1, 0.4, 10, epochs=8, cycles=2)))
    Cycle(number=1, begin=0, end=40, peak=0.4, peak_at=20)
    """
    begin = plan.warmup
    for number, end in enumerate(plan.schedule.cycle_ends(plan.iterations), 1):
        corners = [corner for corner in plan.schedule.corners(end) if begin <= corner < end]
        inside = np.array([*corners, *np.linspace(begin, end - 1, 1001).astype(np.int64)])
        rates = plan.schedule(inside)
        highest = int(rates.argmax())
        yield Cycle(number, begin, end, float(rates[highest]), int(inside[highest]))
        begin = end
