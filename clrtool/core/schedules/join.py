"""Schedules one after another: a warm-up in front of any other, and stages with bounds of their own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clrtool.core.schedules.base import MARKED, FloatArray, IntArray, Schedule
from clrtool.core.schedules.checks import check_lr, check_rising, check_whole
from clrtool.core.schedules.combine import WithMomentum
from clrtool.core.schedules.cyclical import MomentumBounds, triangular, triangular2
from clrtool.core.schedules.decays import Piecewise
from clrtool.core.schedules.operations import pieces
from clrtool.core.schedules.phases import Phases


@dataclass(frozen=True)
class Join(Schedule):
    """``parts[k]``, its own iterations counted from 0, from iteration ``begins[k]`` on.

    Raises:
        ValueError: the begins do not rise from 0, are not one for each part, or some parts move the momentum and
            others do not.
    """

    parts: tuple[Schedule, ...]
    begins: tuple[int, ...]

    def __post_init__(self) -> None:
        check_rising("begins", self.begins)
        if len(self.parts) != len(self.begins) or self.begins[:1] != (0,):
            raise ValueError(f"{len(self.parts)} parts need as many begins, the first 0; got {list(self.begins)}")
        for begin in self.begins:
            check_whole("begins", begin, at_least=0)
        if len({part.cycles_momentum for part in self.parts}) > 1:
            raise ValueError("either every part of a schedule moves the momentum, or none")
        ends = (*self.begins[1:], math.inf)
        flat = [
            place
            for part, begin, end in zip(self.parts, self.begins, ends, strict=True)
            for place in _flat(part, begin)
            if place[1] < end  # what of a part would begin after its end is never reached
        ]
        object.__setattr__(self, "parts", tuple(part for part, _ in flat))
        object.__setattr__(self, "begins", tuple(begin for _, begin in flat))

    @property
    def preview(self) -> int:
        return self.begins[-1] + self.parts[-1].preview

    @property
    def cycles_momentum(self) -> bool:
        return self.parts[0].cycles_momentum

    def cycle_ends(self, until: int) -> list[int]:
        return self._marks("cycle_ends", until)

    def corners(self, until: int) -> list[int]:
        return self._marks("corners", until)

    def lr_at(self, t: IntArray) -> FloatArray:
        return pieces(t, self.begins[1:], lambda k, t: self.parts[k].lr_at(t - self.begins[k]))

    def momentum_at(self, t: IntArray) -> FloatArray:
        return pieces(t, self.begins[1:], lambda k, t: self.parts[k].momentum_at(t - self.begins[k]))

    def _marks(self, what: str, until: int) -> list[int]:
        marks: list[int] = []
        for part, begin, end in zip(self.parts, self.begins, (*self.begins[1:], until), strict=True):
            marks += [begin + mark for mark in getattr(part, what)(min(end, until) - begin)]
        return marks[:MARKED]


def _flat(part: Schedule, begin: int) -> list[tuple[Schedule, int]]:
    """The parts of a part and where they begin, so that none is a Join itself."""
    if not isinstance(part, Join):
        return [(part, begin)]
    return [(inner, begin + later) for inner, later in zip(part.parts, part.begins, strict=True)]


def in_sequence(parts: Sequence[Schedule], begins: Sequence[int]) -> Schedule:
    """``parts[k]`` from ``begins[k]`` on; a part that the next one overtakes before it begins is left out.

    Where some parts move the momentum the others leave it where it was.
    """
    kept = [
        (part, begin)
        for number, (part, begin) in enumerate(zip(parts, begins, strict=True))
        if all(begin < later for later in begins[number + 1 :])
    ]
    if len(kept) == 1:
        return kept[0][0]
    moves = [part.cycles_momentum for part, _ in kept]
    chosen = _holding(kept) if any(moves) and not all(moves) else [part for part, _ in kept]
    return Join(tuple(chosen), tuple(begin for _, begin in kept))


def _holding(parts: Sequence[tuple[Schedule, int]]) -> list[Schedule]:
    """A part that leaves the momentum alone holds the last of the part before it, or the first of all."""
    first = next(part for part, _ in parts if part.cycles_momentum)
    held = float(first.momentum_at(np.array([0]))[0])
    chosen = []
    ends = [*(begin for _, begin in parts[1:]), None]
    for (part, begin), end in zip(parts, ends, strict=True):
        if part.cycles_momentum:
            chosen.append(part)
            held = held if end is None else float(part.momentum_at(np.array([end - begin - 1]))[0])
        else:
            chosen.append(WithMomentum(part, Piecewise(boundaries=(), values=(held,))))
    return chosen


def with_warmup(schedule: Schedule, warmup: int, start_lr: float = 0.0) -> Schedule:
    """A straight rise from ``start_lr`` to the first value of ``schedule`` over ``warmup`` iterations, then that.

    The momentum, where it is moved, waits at its first value.

    >>> with_warmup(Phases(knots=(0, 2), values=(1.0, 0.0), shapes=("linear",)), warmup=4)(range(7))
    array([0.  , 0.25, 0.5 , 0.75, 1.  , 0.5 , 0.  ])
    """
    check_whole("warmup", warmup, at_least=0)
    check_lr("start_lr", start_lr)
    if warmup == 0:
        return schedule
    momentum = schedule.momentum([0])
    rise = Phases(
        knots=(0, warmup),
        values=(start_lr, float(schedule([0])[0])),
        shapes=("linear",),
        momenta=None if momentum is None else (float(momentum[0]),) * 2,
    )
    return Join((rise, schedule), (0, warmup))


def stages(
    stages: Sequence[Sequence[float]], shape: str = "triangular", momentum: MomentumBounds | None = None
) -> Join:
    """Cycles whose bounds and stepsize change, as in Table 2 of arXiv 1506.01186.

    Args:
        stages: for each (base_lr, max_lr, stepsize, until), the last being the iteration at which the stage ends.
        shape: ``triangular`` or ``triangular2``, starting again in each stage.

    >>> table_2 = [(1e-3, 5e-3, 2000, 16_000), (1e-4, 5e-4, 1000, 22_000), (1e-5, 5e-5, 500, 25_000)]
    >>> stages(table_2)([2000, 16_000, 17_000, 22_500])
    array([5.e-03, 1.e-04, 5.e-04, 5.e-05])
    """
    policies = {"triangular": triangular, "triangular2": triangular2}
    if shape not in policies:
        raise ValueError(f"shape must be one of {', '.join(policies)}, got {shape!r}")
    check_stages(stages)
    check_rising("the ends of the stages", (0, *(until for *_, until in stages)))
    parts = []
    for base_lr, max_lr, stepsize, _ in stages:
        check_whole("stepsize", stepsize)
        parts.append(policies[shape](base_lr, max_lr, int(stepsize), momentum=momentum))
    return Join(tuple(parts), (0, *(int(until) for *_, until in stages[:-1])))


def check_stages(stages: Sequence[Sequence[float]]) -> None:
    """Raise ValueError unless there are stages, four numbers each."""
    if not stages or any(len(stage) != 4 for stage in stages):
        raise ValueError("a stage is four numbers: base_lr, max_lr, stepsize and the iteration at which it ends")
