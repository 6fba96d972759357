"""The two bounds of a cycle, read off the held-out accuracy of every seed by the rule of the paper.

Smith, arXiv 1506.01186 v6, section 3.3: ``base_lr`` is where accuracy starts to rise, ``max_lr`` where it slows, turns
ragged or starts to fall. The first is read as it is said. For the second the reading is the learning rate that breaks,
which seeds and lengths of the sweep agree on, and ``max_lr`` keeps a distance from it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from clrtool.core.reading import fit
from clrtool.core.reading.bounds import Bounds, Interval
from clrtool.core.reading.curve import Curve, SweepOutcome
from clrtool.core.reading.fit import Axis, Reading, interval, read
from clrtool.core.reading.metric import ACCURACY, Metric, share_error
from clrtool.core.reading.verdict import SPREAD, WIDE, Advice, Verdict
from clrtool.core.schedules import FloatArray

# A rise counts when it is this many standard errors: the highest of 60 points of noise alone is near 3.
SURE = 5.0
# Relative noise of a metric at the least: that of the arithmetic.
ROUNDING = 1e-9
# A sweep that broke within this factor of its start broke at once: what trains may lie below it.
AT_ONCE = 10.0
# A best this close to the end of the sweep, as a share of its evaluations, was cut off by it and not read.
EDGE = 0.1
# A sweep has broken when accuracy stays below half of its rise over this factor in the learning rate: slow learners
# swing before they learn.
HALF, FOR_GOOD = 0.5, 2.0
# The advice that makes a verdict weak.
WEAKENING = {Advice.ONE_SEED, Advice.SEEDS_DISAGREE, Advice.UNBROKEN}


def find_bounds(
    curves: Sequence[Curve],
    heldout_samples: int | None = None,
    chance: float | None = None,
    metric: Metric = ACCURACY,
    *,
    timed: bool = True,
) -> Bounds:
    """Read both bounds off the metric of all seeds, accuracy unless another is given.

    With a(lr) the rising and then falling curve nearest to the mean over seeds of the running medians of the metric
    (turned so that higher is better), ``floor`` its first value and ``rise = max(a) - floor``::

        breaks  = mean, in log lr, of where a falls through floor + s * rise, s from 0.7 to 0.6
        max_lr  = 0.35 * breaks; where a does not fall so far, the last lr stands for it and max_lr = 0.5 * breaks
        base_lr = first lr at which a reaches floor + 0.1 * rise; max_lr / 10 at the least

    A break is attributed to the learning rate 5 iterations earlier, a gain to the rate 100 iterations earlier. Bounds
    within a factor of 1.4 are no cycle: there ``base_lr = max_lr / 4``. A seed that broke counts with its first value.

    Args:
        curves: one a seed, all of the same sweep.
        heldout_samples: answers in the held-out set, from which the noise of a share p of right ones follows as
            ``sqrt(p (1 - p) / heldout_samples)``; None to take the scatter of the curve for it.
        chance: the share of the commonest class, which needs no learning; None where there is no such.
        metric: what was measured. The noise of one that is no share is its scatter about the running median.
        timed: False for curves whose iterations are not known; their sweep is taken to be slow.

    Raises:
        ValueError: there is no curve, or none has a point with a positive learning rate.
    """
    if not (curves and bool((_longest(curves).lr > 0).any())):
        raise ValueError("bounds need at least one curve with one point, and a learning rate above 0")
    axis, scores = _align(curves, metric, timed=timed)
    reading = read(axis, scores)
    if not _learned(reading, scores, heldout_samples, chance, metric):
        return _nothing(curves, reading, metric)
    return _bounds(curves, axis, scores, reading, metric)


def _bounds(curves: Sequence[Curve], axis: Axis, scores: FloatArray, reading: Reading, metric: Metric) -> Bounds:
    """What a reading says, with intervals and verdict."""
    others = fit.resample(axis, scores) or [reading]
    base = interval(axis, [each.base_lr for each in others], reading.base_lr, len(curves))
    top = interval(axis, [each.max_lr for each in others], reading.max_lr, len(curves))
    if not reading.broken:  # nothing measured bounds it from above
        top = top[0], max(top[1], axis.end)
    advice = _advice(reading, curves, top)
    return Bounds(
        base_lr=reading.base_lr,
        max_lr=reading.max_lr,
        base_lr_interval=base,
        max_lr_interval=top,
        base_reason=_base_reason(reading, metric),
        max_reason=_max_reason(reading, metric),
        verdict=_verdict(advice),
        advice=advice,
    )


def reading_of(curves: Sequence[Curve], metric: Metric = ACCURACY) -> Reading:
    """What the bounds are read from: the rising and then falling curve nearest to those of all seeds."""
    return read(*_align(curves, metric, timed=True))


def has_broken(curve: Curve, heldout_samples: int, metric: Metric) -> bool | None:
    """Whether a sweep need not go on: it is below half of its rise for good. None if nothing rose yet."""
    axis, scores = _align([curve], metric, timed=True)
    if scores[0, -1] > (scores[0, 0] + scores[0].max()) / 2:
        return False  # as far as can be seen; a reading after every evaluation would cost as much as it
    reading = read(axis, scores)
    if not _learned(reading, scores, heldout_samples, None, metric):
        return None
    last = reading.lr > reading.lr[-1] / FOR_GOOD
    return int(last.sum()) > 2 and bool((scores[0, last] < reading.level(HALF)).all())


def _align(curves: Sequence[Curve], metric: Metric, *, timed: bool) -> tuple[Axis, FloatArray]:
    """The learning rates of the longest curve, (n,), and the score of every seed on them, (seeds, n)."""
    longest = _longest(curves)
    scores = np.empty((len(curves), len(longest.lr)))
    for row, curve in zip(scores, curves, strict=True):
        known = metric.score(np.where(curve.finite, curve.metric, curve.metric[0]))
        row[: len(known)] = known
        row[len(known) :] = known[-1] if curve.outcome is SweepOutcome.COMPLETED else known[0]
    return Axis.of(longest.lr, longest.iteration if timed else None), scores


def _longest(curves: Sequence[Curve]) -> Curve:
    return max(curves, key=lambda curve: len(curve.lr))


def _learned(
    reading: Reading, scores: FloatArray, heldout_samples: int | None, chance: float | None, metric: Metric
) -> bool:
    """Whether the rise, from the first value and above chance, is more than noise."""
    over_chance = reading.rise if chance is None else reading.best - chance
    return min(reading.rise, over_chance) > SURE * _noise(reading, scores, heldout_samples, metric)


def _noise(reading: Reading, scores: FloatArray, heldout_samples: int | None, metric: Metric) -> float:
    """Standard error of the mean metric at the best; of a share that of one error in the held-out set at the least."""
    if metric.is_share and heldout_samples is not None:
        error = share_error(reading.best, heldout_samples)
    else:
        scatter = float(np.median(np.abs(scores - fit.running_median(scores))[:, : reading.peak + 1]))
        error = max(scatter, ROUNDING * float(np.abs(scores).max()))
    return error / math.sqrt(len(scores))


def _nothing(curves: Sequence[Curve], reading: Reading, metric: Metric) -> Bounds:
    advice = Advice.BROKE_AT_ONCE if all(map(_broke_at_once, curves)) else Advice.NEVER_LEARNED
    first, best = metric.value(reading.floor), metric.value(reading.best)
    reason = f"There is no gain to read: {metric.label} begins at {first:.3f} and its best is {best:.3f}."
    return Bounds(None, None, None, None, reason, reason, Verdict.INCONCLUSIVE, (advice,))


def _broke_at_once(curve: Curve) -> bool:
    """Whether it ended so near its start that rates at which something is learned may lie below."""
    broke = curve.outcome in (SweepOutcome.DIVERGED, SweepOutcome.NOT_FINITE)
    return broke and float(curve.lr[-1]) <= AT_ONCE * float(curve.lr[0])


def _advice(reading: Reading, curves: Sequence[Curve], max_interval: Interval) -> tuple[Advice, ...]:
    top = int(np.argmax(reading.fit >= reading.level(fit.FLAT)))
    still_rising = not reading.broken and top >= len(reading.lr) - max(2, round(EDGE * len(reading.lr)))
    low, high = reading.flat
    found = {
        Advice.STILL_RISING: still_rising,
        Advice.UNBROKEN: not reading.broken and not still_rising,
        Advice.ALREADY_RISEN: reading.fit[1] >= reading.level(fit.RISEN) and reading.base_lr == reading.rises,
        Advice.ONE_SEED: len(curves) == 1,
        Advice.SEEDS_DISAGREE: max_interval[1] > SPREAD * max_interval[0],
        Advice.INSENSITIVE: high > WIDE * low,
    }
    return tuple(advice for advice, applies in found.items() if applies)


def _verdict(advice: tuple[Advice, ...]) -> Verdict:
    if Advice.STILL_RISING in advice:
        return Verdict.INCONCLUSIVE
    if WEAKENING & {*advice}:
        return Verdict.WEAK
    return Verdict.WIDE if Advice.INSENSITIVE in advice else Verdict.CLEAR


def _base_reason(reading: Reading, metric: Metric) -> str:
    level, side = reading.level(fit.RISEN), "above" if metric.higher_is_better else "below"
    reason = (
        f"{_start(metric)} starts to {metric.rises[:-1]} at LR {reading.rises:.2g}: from there on it is {side} "
        f"{metric.value(level):.3f}, {fit.RISEN:.0%} of the way from {metric.value(reading.floor):.3f} "
        f"to its best of {metric.value(reading.best):.3f}"
    )
    if reading.too_close:
        return (
            f"{reason}. That is within a factor of {fit.CLOSE:g} of max_lr: base_lr is max_lr / {1 / fit.FALLBACK:g}."
        )
    lowest = reading.base_lr > reading.rises
    return f"{reason}; base_lr is not below max_lr / {1 / fit.LOWEST:g}." if lowest else f"{reason}."


def _max_reason(reading: Reading, metric: Metric) -> str:
    """Where the curve breaks or ends, and the range over which it is as good as its best."""
    label, breaks = _start(metric), f"{reading.breaks:.2g}"
    if reading.broken:
        reason = (
            f"{label} breaks above LR {breaks}, where it loses a third of its gain; max_lr is {fit.SAFETY:g} of that"
        )
    elif reading.fades is None:
        reason = f"{label} does not break before LR {breaks}, where the sweep ends; max_lr is {fit.UNBROKEN:g} of that"
    else:
        reason = (
            f"{label} fades above LR {breaks} and keeps most of its gain to the end; max_lr is {fit.UNBROKEN:g} of that"
        )
    low, high = reading.flat
    return f"{reason}. {label} stays within 10% of its best gain from LR {low:.2g} to {high:.2g}."


def _start(metric: Metric) -> str:
    """The metric's label at the beginning of a sentence."""
    return metric.label[:1].upper() + metric.label[1:]
