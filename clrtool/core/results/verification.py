"""The bounds of a finished run as this version reads them: off its race, or off its curves and its short runs.

Older versions tried bounds that were read off the curves by short runs, where they were asked to.
"""

from __future__ import annotations

from dataclasses import replace

from clrtool.core.racing.choose import choose
from clrtool.core.reading.bounds import Bounds, Interval
from clrtool.core.reading.paper import find_bounds
from clrtool.core.results.record import RunRecord, Verification


def read_again(record: RunRecord) -> Bounds:
    """The bounds as this version reads them off a run: its curves, and its race or what its short runs moved."""
    sweep = record.sweep
    bounds = find_bounds(sweep.curves, sweep.heldout_samples, sweep.chance, sweep.metric)
    if record.race is not None:
        return choose(record.race, bounds)
    return bounds if record.verification is None else verified(bounds, record.verification)


def verified(bounds: Bounds, verification: Verification) -> Bounds:
    """The bounds after the runs: if the pick moved, both move by the same factor, and their intervals hold them."""
    factor = verification.max_lr / verification.read_lr
    if factor == 1 or bounds.max_lr is None:
        return bounds
    assert bounds.base_lr is not None
    base_lr, max_lr = bounds.base_lr * factor, bounds.max_lr * factor
    return replace(
        bounds,
        base_lr=base_lr,
        max_lr=max_lr,
        base_lr_interval=_around(base_lr, bounds.base_lr_interval),
        max_lr_interval=_around(max_lr, bounds.max_lr_interval),
        max_reason=f"{bounds.max_reason} Short runs moved it from {verification.read_lr:.2g} to {max_lr:.2g}.",
    )


def _around(lr: float, span: Interval | None) -> Interval:
    """An interval, and as much more as a learning rate outside it takes."""
    assert span is not None
    return min(lr, span[0]), max(lr, span[1])
