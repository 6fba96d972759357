"""Schedules that go from one value to the next in phases, each a straight line or half a cosine."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from clrtool.core.schedules.base import MARKED, FloatArray, IntArray, Schedule
from clrtool.core.schedules.checks import check_ends, check_lr, check_positive, check_rising, check_whole
from clrtool.core.schedules.cyclical import MomentumBounds, check_finite_momentum
from clrtool.core.schedules.operations import between, pieces

Shape = Literal["linear", "cosine", "1-sqrt", "1-sqrt-up", "log", "exponential"]
Anneal = Literal["linear", "cosine"]
_Knot = tuple[float, float, float]  # iteration, learning rate, momentum


@dataclass(frozen=True, kw_only=True)
class Phases(Schedule):
    """From value to value: ``values[k]`` at iteration ``knots[k]``, and between two knots a shape.

    With f the share of phase k that is done, 0 to 1, and a, b the values at its ends::

        s(f)  = f                        linear
                (1 - cos(pi * f)) / 2    cosine
                sqrt(f)                  1-sqrt
                1 - sqrt(1 - f)          1-sqrt-up
                log(1 + f * n) / log(1 + n)    log, of a phase of n iterations
                ((b / a) ** f - 1) / (b / a - 1)    exponential
        lr(t) = a * (1 - s) + b * s      before the first knot its value, after the last one its value

    Args:
        knots: iterations, rising; they need not be whole.
        values: a learning rate for each knot.
        shapes: one for each phase.
        momenta: a momentum for each knot, or None to leave the momentum alone.
        iterations: its length, where that is not the last knot.

    Raises:
        ValueError: the knots do not rise, a value is negative, or the lengths do not match.

    >>> Phases(knots=(0, 2, 4), values=(0.0, 1.0, 0.5), shapes=("linear", "linear"))(range(6))
    array([0.  , 0.5 , 1.  , 0.75, 0.5 , 0.5 ])
    """

    knots: tuple[float, ...]
    values: tuple[float, ...]
    shapes: tuple[Shape, ...]
    momenta: tuple[float, ...] | None = None
    iterations: int | None = None

    def __post_init__(self) -> None:
        check_rising("knots", self.knots)
        if self.iterations is not None:
            check_whole("iterations", self.iterations)
        momenta = self.knots if self.momenta is None else self.momenta
        lengths = (len(self.values), len(self.shapes) + 1, len(momenta))
        if set(lengths) != {len(self.knots)}:
            raise ValueError(f"{len(self.knots)} knots need as many values and one shape fewer, got {lengths}")
        for value in self.values:
            check_lr("a learning rate", value)
        if self.momenta is not None:
            check_finite_momentum((min(self.momenta), max(self.momenta)))
        if unknown := set(self.shapes) - set(get_args(Shape)):
            raise ValueError(f"shape must be one of {', '.join(get_args(Shape))}, got {min(unknown)!r}")

    @property
    def preview(self) -> int:
        return self.iterations or max(1, int(np.ceil(self.knots[-1])))

    @property
    def cycles_momentum(self) -> bool:
        return self.momenta is not None

    def corners(self, until: int) -> list[int]:
        beside = {int(side(knot)) for knot in self.knots for side in (np.floor, np.ceil)}
        return sorted(knot for knot in beside if 0 <= knot <= until)[:MARKED]

    def lr_at(self, t: IntArray) -> FloatArray:
        return self._interpolate(t, self.values)

    def momentum_at(self, t: IntArray) -> FloatArray:
        assert self.momenta is not None
        return self._interpolate(t, self.momenta)

    def _interpolate(self, t: IntArray, values: tuple[float, ...]) -> FloatArray:
        ends = (values[0], *values, values[-1])

        def phase(k: int, t: IntArray) -> FloatArray | float:
            start, end = ends[k : k + 2]
            if start == end:  # as before the first knot and after the last
                return start
            begin, until = self.knots[k - 1 : k + 1]
            done, shape = (t - begin) / (until - begin), self.shapes[k - 1]
            if shape == "exponential":
                return np.asarray(start * (end / start) ** done)
            return between(_shaped(done, shape, until - begin), start, end)

        return pieces(t, self.knots, phase)


def linear(base_lr: float, max_lr: float, iterations: int) -> Phases:
    """One straight fall from ``max_lr`` to ``base_lr``, then ``base_lr``.

    >>> linear(0.0, 1.0, iterations=4)(range(6))
    array([1.  , 0.75, 0.5 , 0.25, 0.  , 0.  ])
    """
    check_ends(base_lr, max_lr)
    check_whole("iterations", iterations)
    return Phases(knots=(0, iterations), values=(max_lr, base_lr), shapes=("linear",))


def decay(base_lr: float, max_lr: float, stepsize: int) -> Phases:
    """The paper's ``decay`` (section 3.1): ``max_lr`` falls to ``base_lr`` over one stepsize and stays there."""
    check_whole("stepsize", stepsize)
    return linear(base_lr, max_lr, stepsize)


def one_cycle(
    base_lr: float,
    max_lr: float,
    iterations: int,
    end_lr: float | None = None,
    pct_start: float = 0.3,
    anneal: Anneal = "cosine",
    three_phase: bool = False,
    momentum: MomentumBounds | None = None,
) -> Phases:
    """One rise to ``max_lr`` and a fall far below ``base_lr``, as torch's ``OneCycleLR`` computes it.

    With n iterations and r = ``pct_start`` the phases end at r*n - 1 and n - 1 (two phases, ``base_lr``, ``max_lr``,
    ``end_lr``), or at r*n - 1, 2*r*n - 2 and n - 1 (three, back through ``base_lr``). A phase that would end before
    iteration 0 is left out, so ``pct_start=0`` is the fall alone.

    Args:
        end_lr: the last value; None for ``base_lr / 10,000``.
        pct_start: share of the iterations that rises, 0 to 1.
        momentum: (low, high), moved against the learning rate; None to leave it alone.

    Raises:
        ValueError: a number breaks its rule, or ``pct_start * iterations`` is 1, a rise of no length.
    """
    check_ends(base_lr, max_lr)
    check_whole("iterations", iterations, at_least=2)
    check_finite_momentum(momentum)
    if not 0 <= pct_start <= 1:
        raise ValueError(f"pct_start must be from 0 to 1, got {pct_start!r}")
    last = base_lr / 1e4 if end_lr is None else end_lr
    rise = pct_start * iterations - 1
    if rise == 0:
        raise ValueError(
            f"pct_start * iterations must not be 1, a rise of no length (torch divides by zero); got {pct_start!r} * "
            f"{iterations}; raise pct_start to {2 / iterations:g}, or take 0 for no rise"
        )
    low, high = momentum or (0.0, 0.0)
    ends = [(rise, max_lr, low), (iterations - 1, last, high)]
    if three_phase:
        ends.insert(1, (2 * rise, base_lr, high))
    knots = _reached((0.0, base_lr, high), ends, iterations - 1)
    return _through(knots, anneal, iterations, moves_momentum=momentum is not None)


def one_cycle_smith(
    base_lr: float, max_lr: float, stepsize: int, iterations: int, momentum: MomentumBounds | None = None
) -> Phases:
    """The 1cycle that Smith ran for arXiv 1803.09820, read off the learning rates in his published logs.

    ``base_lr`` to ``max_lr`` over one stepsize, down towards 0 over the next but never below ``base_lr / 1000``, and
    that value to the end. The momentum falls, rises, and falls again at half the slope.
    """
    check_ends(base_lr, max_lr)
    check_positive("base_lr", base_lr)
    check_whole("stepsize", stepsize)
    check_whole("iterations", iterations, at_least=2 * stepsize)
    check_finite_momentum(momentum)
    low, high = momentum or (0.0, 0.0)
    tail, cycle, end = base_lr / 1000, 2 * stepsize, max(iterations, 2 * stepsize + 1)
    # The straight line to 0 meets the tail just before the cycle ends; the last fall of the momentum ends at `low`.
    meets = cycle - stepsize * tail / max_lr
    knots = [
        (0, base_lr, high),
        (stepsize, max_lr, low),
        (meets, tail, high - (high - low) * (cycle - meets) / stepsize),
    ]
    knots += [(cycle, tail, high), (min(end, 2 * cycle), tail, high - (high - low) * min(1, (end - cycle) / cycle))]
    knots = [knot for knot in knots if knot[0] != meets or meets < cycle]
    return _through(knots, "linear", iterations, moves_momentum=momentum is not None)


def warmup_stable_decay(
    base_lr: float,
    max_lr: float,
    iterations: int,
    warmup: int,
    decay: int,
    start_lr: float = 0.0,
    shape: Shape = "cosine",
) -> Phases:
    """A straight rise over ``warmup`` iterations, ``max_lr``, and a fall to ``base_lr`` over the last ``decay``.

    >>> warmup_stable_decay(0.0, 1.0, 10, warmup=2, decay=4, shape="linear")(range(11))
    array([0.  , 0.5 , 1.  , 1.  , 1.  , 1.  , 1.  , 0.75, 0.5 , 0.25, 0.  ])
    """
    check_ends(base_lr, max_lr)
    check_whole("warmup", warmup)
    check_whole("decay", decay)
    check_whole("iterations", iterations, at_least=warmup + decay)
    # where nothing is left between rise and fall, the second and the third knot are one
    values = {0: start_lr, warmup: max_lr, iterations - decay: max_lr, iterations: base_lr}
    line: Shape = "linear"
    lines = (line,) * (len(values) - 2)
    return Phases(knots=tuple(values), values=tuple(values.values()), shapes=(*lines, shape))


def _through(knots: list[_Knot], shape: Shape, iterations: int, *, moves_momentum: bool) -> Phases:
    t, values, momenta = zip(*knots, strict=True)
    return Phases(
        knots=t,
        values=values,
        shapes=(shape,) * (len(t) - 1),
        momenta=momenta if moves_momentum else None,
        iterations=iterations,
    )


def _reached(start: _Knot, ends: list[_Knot], last: int) -> list[_Knot]:
    """The knots of phases that come one after another, without those that end before the first or after the last."""
    knots = [start]
    for end in ends:
        if end[0] < 0:
            knots = [end]
        elif end[0] > knots[-1][0]:
            knots.append(end)
        if end[0] >= last:
            break
    return knots


def _shaped(done: Any, shape: Shape, length: float) -> Any:
    if shape == "log":
        return np.log(1 + length * done) / math.log(1 + length)
    if shape == "cosine":
        return (1 - np.cos(np.pi * done)) / 2
    if shape == "1-sqrt-up":
        return 1 - np.sqrt(np.maximum(1 - done, 0))
    return np.sqrt(np.maximum(done, 0)) if shape == "1-sqrt" else done
