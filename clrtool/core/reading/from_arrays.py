"""The bounds of numbers that a program has measured itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike

from clrtool.core.reading import paper
from clrtool.core.reading.bounds import Bounds
from clrtool.core.reading.curve import Curve, SweepOutcome
from clrtool.core.reading.metric import ACCURACY, METRICS, Metric
from clrtool.core.schedules import FloatArray
from clrtool.words import nearest


def find_bounds(
    lr: ArrayLike | Sequence[Curve],
    accuracy: ArrayLike | None = None,
    *,
    iterations: ArrayLike | None = None,
    metric: Metric | str = ACCURACY,
    **known: Any,
) -> Bounds:
    """Read both bounds off a sweep; see ``clrtool.core.reading.paper.find_bounds`` for the rule.

    Args:
        lr: learning rates in the order of the sweep, shape (points,); or the curves of a range test.
        accuracy: held-out accuracy at each of them, 0 to 1, shape (points,) or (seeds, points). NaN after a seed broke.
        iterations: optimizer steps before each evaluation. Default: unknown, and the sweep is taken to be slow.
        metric: name of the metric if it is not accuracy, such as ``"loss"``.
        known: ``heldout_samples`` and ``chance``, as explained there.

    Raises:
        ValueError: the numbers are no sweep.

    >>> bounds = find_bounds([1e-3, 1e-2, 1e-1, 1.0, 10.0], [0.1, 0.4, 0.9, 0.9, 0.1])
    >>> 1e-3 < bounds.base_lr < 0.1 < bounds.max_lr < 10
    True
    """
    if isinstance(metric, str):
        if metric not in METRICS:
            raise ValueError(f"metric {metric!r} is none; {nearest(metric, METRICS)}")
        metric = METRICS[metric]
    if accuracy is None:
        given = list(cast("Sequence[Curve]", lr))
        if not all(isinstance(curve, Curve) for curve in given):
            raise ValueError("find_bounds takes learning rates and the accuracy at each of them, or curves")
        return paper.find_bounds(given, metric=metric, **known)
    rates, rows = np.asarray(lr, dtype=np.float64), np.atleast_2d(np.asarray(accuracy, dtype=np.float64))
    _check(rates, rows, metric)
    steps = np.arange(len(rates)) if iterations is None else np.asarray(iterations)
    curves = [_curve(seed, steps, rates, row) for seed, row in enumerate(rows)]
    return paper.find_bounds(curves, metric=metric, timed=iterations is not None, **known)


def _check(rates: FloatArray, rows: FloatArray, metric: Metric) -> None:
    if rates.ndim != 1 or rows.ndim != 2 or rows.shape[1] != len(rates) or len(rates) < 3:
        raise ValueError(
            f"a sweep needs at least 3 learning rates and a {metric.label} for each, of several seeds a row each; got "
            f"{rates.shape} and {rows.shape}"
        )
    if not np.isfinite(rows[:, 0]).all():
        raise ValueError(f"the first {metric.label} of every seed must be finite")
    if metric.is_share and bool(((rows < 0) | (rows > 1)).any()):
        raise ValueError(f"{metric.label} must be a share from 0 to 1")


def _curve(seed: int, steps: Any, rates: FloatArray, values: FloatArray) -> Curve:
    unknown = np.full(len(rates), np.nan)
    nothing = np.zeros(len(rates))  # finite: what is not measured cannot make a point unusable
    return Curve(seed, SweepOutcome.COMPLETED, steps, unknown, rates, unknown, nothing, values)
