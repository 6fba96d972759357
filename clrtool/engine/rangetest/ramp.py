"""The ramp of a sweep: a learning rate for every iteration, and the iterations after which it is evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from clrtool.config.schema import SHORTEST_SWEEP, SweepConfig
from clrtool.core.planning.sweep_size import SweepSize
from clrtool.core.reading.curve import Curve
from clrtool.core.schedules import FloatArray, Spacing, make_sweep
from clrtool.engine.rangetest.scout import Scout


@dataclass(frozen=True, eq=False)
class Ramp:
    """The learning rates of a sweep and its evaluations, as far as it may go.

    Args:
        lrs: one an iteration.
        stops: iterations after which it is evaluated.
        planned: iterations up to the end that was given or found by a scout.
        spacing: how the rates rise.
        open_ended: whether it ends where the metric breaks.
    """

    lrs: FloatArray
    stops: tuple[int, ...]
    planned: int
    spacing: Spacing
    open_ended: bool

    @classmethod
    def of(cls, config: SweepConfig, ends: Scout, size: SweepSize, evaluations: int) -> Self:
        spacing = _spacing(config, ends.start_lr, ends.end_lr)
        iterations = size.iterations
        lrs = make_sweep(spacing, ends.start_lr, ends.end_lr, iterations)(np.arange(iterations))
        stops = np.linspace(0, iterations, min(evaluations, iterations) + 1)
        open_ended = config.end_lr == "auto"
        if open_ended:
            lrs = np.concatenate([lrs, _beyond(lrs, spacing)])[: size.most]
            stops = np.minimum(np.concatenate([stops, iterations + stops[1:]]), len(lrs))
        return cls(lrs, tuple(np.unique(stops.round().astype(int)).tolist()), iterations, spacing, open_ended)

    def until(self, iterations: int) -> Self:
        """The same, but no longer than this."""
        return replace(self, lrs=self.lrs[:iterations], stops=tuple(stop for stop in self.stops if stop <= iterations))

    def steps(self, curves: Sequence[Curve]) -> int:
        """Iterations that the longest sweep took; those planned, where a shorter one only means that it broke."""
        longest = max(2, *(int(curve.iteration[-1]) for curve in curves))
        return longest if self.open_ended else self.planned


def _beyond(lrs: FloatArray, spacing: Spacing) -> FloatArray:
    """As many learning rates again but one, rising on as they did."""
    with np.errstate(over="ignore"):  # ends may be as far apart as numbers are, and no training comes so far
        further = lrs + (lrs[-1] - lrs[0]) if spacing == "linear" else lrs * (lrs[-1] / lrs[0])
    return np.asarray(further[1:])


def ends_of(config: SweepConfig, found: Scout | None) -> Scout:
    """Both ends of the sweep: those that are given, and of a scout those that are ``auto``."""
    if config.start_lr != "auto" and config.end_lr != "auto":
        return Scout(config.start_lr, config.end_lr, 0)
    assert found is not None
    start_lr = found.start_lr if config.start_lr == "auto" else config.start_lr
    end_lr = found.end_lr if config.end_lr == "auto" else config.end_lr
    if end_lr < SHORTEST_SWEEP * start_lr:  # one end was given, beyond what the scout found for the other
        start_lr, end_lr = (start_lr, 10 * start_lr) if config.end_lr == "auto" else (end_lr / 10, end_lr)
    return Scout(start_lr, end_lr, found.iterations)


def _spacing(config: SweepConfig, start_lr: float, end_lr: float) -> Spacing:
    """``auto`` is linear within a decade, as in the paper, and exponential beyond."""
    if config.spacing != "auto":
        return config.spacing
    return "linear" if end_lr <= 10 * start_lr else "exponential"
