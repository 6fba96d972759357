"""torch's schedulers inside one another: what each step of a composition makes of the learning rate that it finds.

Nested compositions are made as torch makes them, parts before the whole, in the order in which they are listed: what
that leaves behind (a step undone twice, a learning rate set back) decides where each part is when the training begins.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from clrtool.core.schedules import Schedule
from clrtool.core.schedules.base import FloatArray, IntArray
from clrtool.core.schedules.expression import scaled
from clrtool.core.schedules.stepwise import Steps

# What a scheduler makes of the learning rate that it finds, where it is told of one step only: (p, q).
Once = tuple[float, float]


@dataclass
class Group:
    """The parameter group of the optimizer while schedulers are made on it."""

    lr: float
    initial_lr: float | None = None

    def known(self) -> float:
        """The learning rate from which a scheduler says that it begins: that which the first of all found."""
        if self.initial_lr is None:
            self.initial_lr = self.lr
        return self.initial_lr


class Part(ABC):
    """A scheduler that was made on a group, and where it is."""

    @abstractmethod
    def undo(self) -> None:
        """Take back the count of a step, as SequentialLR does with all of its parts."""

    @abstractmethod
    def begin(self, group: Group) -> None:
        """Its first step, of those that SequentialLR takes when it is made."""

    @abstractmethod
    def step(self, group: Group) -> None:
        """One more step."""

    @abstractmethod
    def after(self, steps: IntArray) -> Steps:
        """What its later steps do: ``steps``, one after another, are counted from 1."""


@dataclass
class Leaf(Part):
    """A scheduler that is made of no others.

    Args:
        steps: what its own steps 0, 1, 2 ... do.
        first: what the first does where it is one of those that are taken when something is made; None for one that
            sets what the group says that it begins from.
        again: what it does where SequentialLR comes to it at a milestone.
    """

    steps: Callable[[IntArray], Steps]
    first: Once | None
    again: Once
    at: int = -1

    def undo(self) -> None:
        self.at -= 1

    def begin(self, group: Group) -> None:
        self.at += 1
        p, q = (0.0, group.known()) if self.first is None else self.first
        group.lr = p * group.lr + q

    def begin_again(self, group: Group) -> None:
        self.at = 0
        group.lr = self.again[0] * group.lr + self.again[1]

    def step(self, group: Group) -> None:
        self.at += 1
        p, q = self.steps(np.array([self.at]))
        group.lr = float(p[0] * group.lr + (0.0 if q is None else q[0]))

    def after(self, steps: IntArray) -> Steps:
        return self.steps(self.at + steps)


class Chained(Part):
    """All parts in the same step, one after another."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = parts

    def undo(self) -> None:
        for part in self._parts:
            part.undo()

    def begin(self, group: Group) -> None:
        self.step(group)  # of its parts none is told that it is the first

    def step(self, group: Group) -> None:
        for part in self._parts:
            part.step(group)

    def after(self, steps: IntArray) -> Steps:
        p, q = self._parts[0].after(steps)
        for part in self._parts[1:]:
            factor, added = part.after(steps)
            p = p * factor
            q = added if q is None else q * factor if added is None else q * factor + added
        return p, q


class Sequential(Part):
    """One part after another, from its milestones on.

    Raises:
        ValueError: a part that begins at a milestone is itself made of others, at which torch fails.
    """

    def __init__(self, group: Group, parts: Sequence[Part], milestones: Sequence[int]) -> None:
        self._parts, self._milestones, self._at = parts, milestones, 0
        first = bisect_right(milestones, 0)
        for part in parts[first + 1 :]:
            if not isinstance(part, Leaf):
                raise ValueError(
                    "a SequentialLR or a ChainedScheduler after a milestone of a SequentialLR: torch fails there, with "
                    "NotImplementedError. Write its parts out in the outer list, or put it first"
                )
        group.lr = group.known()
        self.undo()
        parts[first].begin(group)

    def undo(self) -> None:
        for part in self._parts:
            part.undo()

    def begin(self, group: Group) -> None:
        self.step(group)  # its own count was not taken back

    def step(self, group: Group) -> None:
        self._at += 1
        active = bisect_right(self._milestones, self._at)
        part = self._parts[active]
        if active and self._milestones[active - 1] == self._at and isinstance(part, Leaf):
            part.begin_again(group)
        else:
            part.step(group)

    def after(self, steps: IntArray) -> Steps:
        at = self._at + int(steps[0])
        first, last = (bisect_right(self._milestones, end) for end in (at, at + len(steps) - 1))
        cuts = [0, *(milestone - at for milestone in self._milestones[first:last]), len(steps)]
        made = [
            self._of_part(number, steps[start:end])
            for number, (start, end) in enumerate(pairwise(cuts), start=first)
            if start < end
        ]
        if len(made) == 1:
            return made[0]
        added = [np.zeros(len(p)) if q is None else q for p, q in made]
        return np.concatenate([p for p, _ in made]), np.concatenate(added)

    def _of_part(self, number: int, steps: IntArray) -> Steps:
        """What the steps do that come to one part."""
        part = self._parts[number]
        if number == bisect_right(self._milestones, self._at):
            return part.after(steps)
        assert isinstance(part, Leaf)  # any other was refused
        since = steps + (self._at - self._milestones[number - 1])
        p, q = part.steps(since)
        if since[0]:
            return p, q
        q = np.zeros(len(p)) if q is None else q.copy()
        p = p.copy()
        p[0], q[0] = part.again
        return p, q


def sets(schedule: Schedule, is_told: bool = False) -> Leaf:
    """A scheduler that sets the learning rate at each step, whatever it finds.

    Args:
        is_told: whether at its first step it sets what the group says that it begins from.
    """
    start = 0.0, float(schedule([0])[0])
    return Leaf(lambda t: (np.zeros(len(t)), schedule.lr_at(np.maximum(t, 0))), None if is_told else start, start)


def multiplies(kind: str, base_lr: float, params: Mapping[str, Any]) -> Leaf:
    """A scheduler that multiplies what it finds; where SequentialLR comes to it, it begins from ``base_lr``."""
    if kind == "MultiStepLR":  # once, and not for each block
        params = {**params, "milestones": np.asarray(params["milestones"], dtype=np.int64)}
    factor = partial(_FACTORS[kind], **params)
    # told to begin, these have their first factor and the others leave the rate as it is
    first = float(factor(np.array([0]))[0]) if kind in ("ConstantLR", "LinearLR", "MultiStepLR") else 1.0
    again = (float(factor(np.array([0]))[0]), 0.0) if kind == "MultiplicativeLR" else (0.0, base_lr * first)
    return Leaf(lambda t: (factor(t), None), (first, 0.0), again)


def bends(base_lr: float, T_max: int, eta_min: float) -> Leaf:  # noqa: N803 (torch's names)
    """CosineAnnealingLR, which lets the distance to ``eta_min`` that it finds shrink in its ratio."""
    period = 2 * T_max

    @cache
    def cycles(number: int) -> Steps:
        """The first steps, as many as a block may want from any place of the period on."""
        return worked_out(np.arange(1, number + period + 1))

    def steps(t: IntArray) -> Steps:
        if period >= len(t):
            return worked_out(t)
        begin = (int(t[0]) - 1) % period
        ratio, added = cycles(len(t))
        return ratio[begin : begin + len(t)], None if added is None else added[begin : begin + len(t)]

    def worked_out(t: IntArray) -> Steps:
        heights = np.pi * np.arange(t[0] - 1, t[-1] + 1)
        heights /= T_max  # in place, as what follows: to get new memory takes longer than to fill it
        np.cos(heights, out=heights)
        heights += 1
        height, before = heights[1:], heights[:-1]
        bottoms = slice((1 + T_max - t[0]) % period, None, period)  # where there is no ratio
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = height / before
        ratio[bottoms] = 1.0
        if eta_min == 0 and not ratio[bottoms].size:
            return ratio, None
        added = eta_min * (1 - ratio)
        added[bottoms] = (base_lr - eta_min) * (1 - math.cos(math.pi / T_max)) / 2
        return ratio, added

    return Leaf(steps, (1.0, 0.0), (0.0, base_lr))


def _constant(t: IntArray, factor: float, total_iters: int) -> FloatArray:
    return _at_marks(t, [0, total_iters], [factor, 1 / factor])


def _linear(t: IntArray, start_factor: float, end_factor: float, total_iters: int) -> FloatArray:
    if t[0] > total_iters:  # past its end it leaves what it finds
        return np.broadcast_to(1.0, t.shape)
    rise, done = end_factor - start_factor, np.minimum(t, total_iters)
    ratio = 1 + rise / (total_iters * start_factor + (done - 1) * rise)
    return np.where(t == 0, start_factor, np.where(t > total_iters, 1.0, ratio))


def _step(t: IntArray, step_size: int, gamma: float) -> FloatArray:
    first, factors = max(int(t[0]), 1), np.ones(len(t))
    factors[first - int(t[0]) + -first % step_size :: step_size] = gamma
    return factors


def _multi_step(t: IntArray, milestones: IntArray, gamma: float) -> FloatArray:
    return _at_marks(t, milestones, gamma)


def _at_marks(t: IntArray, marks: Sequence[int] | IntArray, factors: ArrayLike) -> FloatArray:
    """The factors of successive steps that change the learning rate at the marks alone."""
    places, found = np.asarray(marks) - t[0], np.ones(len(t))
    inside = (places >= 0) & (places < len(t))
    np.multiply.at(found, places[inside], np.broadcast_to(factors, places.shape)[inside])
    return found


def _polynomial(t: IntArray, total_iters: int, power: float) -> FloatArray:
    if t[0] > total_iters:
        return np.broadcast_to(1.0, t.shape)
    done = np.minimum(t, total_iters)
    ratio = (1 - done / total_iters) / (1 - (done - 1) / total_iters)
    return np.where(t > total_iters, 1.0, ratio**power)


_FACTORS: dict[str, Callable[..., FloatArray]] = {
    "ConstantLR": _constant,
    "LinearLR": _linear,
    "StepLR": _step,
    "MultiStepLR": _multi_step,
    "ExponentialLR": lambda t, gamma: np.full(len(t), float(gamma)),
    "PolynomialLR": _polynomial,
    "MultiplicativeLR": lambda t, lr_lambda: np.asarray(scaled(t, lr_lambda)),
}
