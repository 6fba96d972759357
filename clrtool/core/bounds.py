"""The two bounds of a cycle, read off the held-out accuracy of every seed by the rule of the paper.

Smith, arXiv 1506.01186 v6, section 3.3: ``base_lr`` is where accuracy starts to rise, ``max_lr`` where it stops rising,
turns ragged or starts to fall. This is a first reading: ``max_lr`` is where accuracy stops rising, and what
comes above it is told but does not move it; a bound is one of the learning rates that were evaluated,
its interval spans the readings of the single seeds and of their mean, and the verdict says when that is not enough.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from clrtool.core.curve import Curve, SweepOutcome, smooth
from clrtool.core.metric import ACCURACY, Metric
from clrtool.core.schedules import FloatArray
from clrtool.words import Sentence

# Shares of the whole rise at which accuracy counts as having started and as having stopped rising. On the three
# curves of the paper a start at 10 % lies within 1.25 times what its author read.
STARTED, STOPPED = 0.10, 0.95
# Half the width of the smoothing window, as a share of the sweep.
HALF_WIDTH = 1 / 30
# A rise counts when it is this many standard errors: the highest of 60 points of noise alone is near 3.
SURE = 5.0
# A bound this close to the end of the sweep, as a share of it, was cut off by it and not read.
EDGE = 0.1
# Seeds whose readings of max_lr span more than this factor disagree.
SPREAD = 3.0
# Accuracy counts as ragged when it scatters this many times as much above max_lr as below.
RAGGED = 2.0
# Bounds closer than this factor leave no cycle to speak of (the closest that the paper reads are 2.5 apart). Then
# its rule of thumb holds: base_lr is a third or a quarter of max_lr.
CLOSE, FALLBACK = 2.0, 4
TOO_CLOSE = f"All of the gain comes within a factor of {CLOSE:g}: base_lr is max_lr / {FALLBACK}, a rule of thumb."


class Verdict(Sentence):
    """How far the bounds can be trusted; the value is the sentence shown."""

    CLEAR = "The curve shows both bounds and the seeds agree."
    WEAK = "The curve shows both bounds, but does not settle them."
    INCONCLUSIVE = "The curve does not show both bounds."


class Advice(Sentence):
    """What keeps a verdict from being clear, and the next step to take; the value is the sentence shown."""

    NEVER_LEARNED = "Nothing was learned: check data and labels, or raise sweep.end_lr or sweep.epochs."
    BROKE_AT_ONCE = "The loss broke before anything was learned: lower sweep.start_lr, or mend a model that gives NaN."
    STILL_RISING = "The curve still improves where the sweep ends, so max_lr is at least this: raise sweep.end_lr."
    ALREADY_RISEN = "The curve improves from the very start, so base_lr is at most this: lower sweep.start_lr."
    ONE_SEED = "One seed gives no interval: run with --seeds 3."
    SEEDS_DISAGREE = f"The seeds differ by more than a factor of {SPREAD:g}: raise sweep.epochs or --seeds."


Interval = tuple[float, float]


@dataclass(frozen=True)
class Bounds:
    """What was read off the curves.

    Args:
        base_lr, max_lr: the bounds, or None where the curves show nothing to read.
        base_lr_interval, max_lr_interval: lowest and highest reading of the single seeds and their mean; None with
            one seed.
        base_reason, max_reason: why the bound is where it is, with the numbers that say so.
        verdict: how far to trust them.
        advice: what to do next, most pressing first.
    """

    base_lr: float | None
    max_lr: float | None
    base_lr_interval: Interval | None
    max_lr_interval: Interval | None
    base_reason: str
    max_reason: str
    verdict: Verdict
    advice: tuple[Advice, ...] = ()

    def __post_init__(self) -> None:
        if self.base_lr is None or self.max_lr is None:
            ordered = self.base_lr is self.max_lr is None and self.verdict is Verdict.INCONCLUSIVE
        else:
            ordered = 0 < self.base_lr < self.max_lr < math.inf
        for lr, interval in ((self.base_lr, self.base_lr_interval), (self.max_lr, self.max_lr_interval)):
            ordered &= interval is None or (lr is not None and interval[0] <= lr <= interval[1])
        if not ordered:
            raise ValueError("bounds must be finite, 0 < base_lr < max_lr, each inside its interval")

    def to_dict(self) -> dict[str, Any]:
        """The bounds in plain types, for JSON."""
        intervals = {
            name: list(value) if (value := getattr(self, name)) else None
            for name in ("base_lr_interval", "max_lr_interval")
        }
        words = {"verdict": self.verdict.word, "advice": [each.value for each in self.advice]}
        return vars(self) | intervals | words

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Bounds:
        """The bounds of :meth:`to_dict`. Raises KeyError, TypeError or ValueError for anything else."""
        intervals = {
            name: None if values[name] is None else (float(values[name][0]), float(values[name][1]))
            for name in ("base_lr_interval", "max_lr_interval")
        }
        verdict = Verdict[values["verdict"].upper()]
        return cls(**(dict(values) | intervals | {"verdict": verdict, "advice": tuple(map(Advice, values["advice"]))}))


class _Reading(NamedTuple):
    """Indices into the smoothed score, and the levels they were read against."""

    start: int
    stop: int
    peak: int
    floor: float
    smoothed: FloatArray

    @property
    def rise(self) -> float:
        return float(self.smoothed[self.peak]) - self.floor


def find_bounds(
    curves: Sequence[Curve], heldout_samples: int | None = None, chance: float | None = None, metric: Metric = ACCURACY
) -> Bounds:
    """Read both bounds off the metric of all seeds, accuracy unless another is given.

    With a(lr) the centred mean over neighbours of the mean over seeds of the metric, turned so that higher is better,
    ``floor`` its first value and ``rise = max(a) - floor``::

        base_lr = first lr from which a stays above floor + 0.10 * rise, up to the peak
        max_lr  = first lr at which a reaches floor + 0.95 * rise

    Bounds within a factor of 2 of each other are no cycle: there ``base_lr = max_lr / 4``.

    A seed that broke counts with its first value from there on.

    Args:
        curves: one a seed, all of the same sweep.
        heldout_samples: answers in the held-out set, from which the noise of a share p of right ones follows as
            ``sqrt(p (1 - p) / heldout_samples)``; None to take every rise for real.
        chance: the metric that needs no learning, the share of the commonest class; a peak has to be above
            it. None where there is no such.
        metric: what was measured. The noise of one that is no share is its scatter about the smoothed curve.

    Raises:
        ValueError: there is no curve, or none has a point.
    """
    if not any(len(curve.lr) for curve in curves):
        raise ValueError("bounds need at least one curve with one point")
    lr, scores = _align(curves, metric)
    mean = scores.mean(0)
    reading = _read(mean)
    over_chance = reading.rise if chance is None else reading.floor + reading.rise - chance
    noise = _noise(reading, heldout_samples, len(curves)) if metric.is_share else _scatter(mean, reading)
    if min(reading.rise, over_chance) <= SURE * noise:
        return _nothing(curves, reading, metric)
    readings = [reading, *(_read(score) for score in scores)] if len(curves) > 1 else []
    max_interval = _span(lr[each.stop] for each in readings)
    advice = _advice(lr, reading, curves, max_interval)
    base_lr, max_lr = float(lr[reading.start]), float(lr[reading.stop])
    close = max_lr < CLOSE * base_lr
    return Bounds(
        base_lr=max_lr / FALLBACK if close else base_lr,
        max_lr=max_lr,
        base_lr_interval=None if close else _span(lr[each.start] for each in readings),
        max_lr_interval=max_interval,
        base_reason=TOO_CLOSE if close else _base_reason(lr, reading, metric),
        max_reason=_max_reason(lr, mean, reading, metric, cut_off=Advice.STILL_RISING in advice),
        verdict=_verdict(advice),
        advice=advice,
    )


def _span(lrs: Iterable[float]) -> Interval | None:
    values = [float(lr) for lr in lrs]
    return (min(values), max(values)) if values else None


def _align(curves: Sequence[Curve], metric: Metric) -> tuple[FloatArray, FloatArray]:
    """The learning rates of the longest curve (n,), and the score of every seed on them (seeds, n)."""
    lr = max((curve.lr for curve in curves), key=len)
    scores = np.empty((len(curves), len(lr)))
    for row, curve in zip(scores, curves, strict=True):
        known = metric.score(np.where(curve.measured, curve.metric, curve.metric[0]))
        row[: len(known)], row[len(known) :] = known, known[0]
    return lr, scores


def _read(score: FloatArray) -> _Reading:
    """Apply the rule to one curve."""
    smoothed = smooth(score, max(1, round(HALF_WIDTH * len(score))))
    peak = int(np.argmax(smoothed))
    floor = float(smoothed[0])
    rise = float(smoothed[peak]) - floor
    below = np.flatnonzero(smoothed[: peak + 1] < floor + STARTED * rise)
    start = int(below[-1]) + 1 if len(below) else 0
    return _Reading(min(start, peak), int(np.argmax(smoothed >= floor + STOPPED * rise)), peak, floor, smoothed)


def _noise(reading: _Reading, heldout_samples: int | None, seeds: int) -> float:
    """Standard error of the mean accuracy at the peak; that of one error in the held-out set at the least."""
    if heldout_samples is None:
        return 0.0
    top = float(reading.smoothed[reading.peak])
    return math.sqrt(max(top * (1 - top), 1 / heldout_samples) / heldout_samples / seeds)


def _scatter(score: FloatArray, reading: _Reading) -> float:
    """The usual distance of a point from the smoothed curve, up to the peak."""
    return float(np.median(np.abs(score - reading.smoothed)[: reading.peak + 1]))


def _nothing(curves: Sequence[Curve], reading: _Reading, metric: Metric) -> Bounds:
    broke = any(curve.outcome is not SweepOutcome.COMPLETED for curve in curves)
    advice = Advice.BROKE_AT_ONCE if broke else Advice.NEVER_LEARNED
    first, best = metric.value(reading.floor), metric.value(reading.floor + reading.rise)
    reason = f"There is no gain to read: {metric.label} begins at {first:.3f} and its best is {best:.3f}."
    return Bounds(None, None, None, None, reason, reason, Verdict.INCONCLUSIVE, (advice,))


def _advice(
    lr: FloatArray, reading: _Reading, curves: Sequence[Curve], max_interval: Interval | None
) -> tuple[Advice, ...]:
    edge = max(2, round(EDGE * len(lr)))
    completed = all(curve.outcome is SweepOutcome.COMPLETED for curve in curves)
    found = {
        Advice.STILL_RISING: completed and reading.stop >= len(lr) - edge,
        Advice.ALREADY_RISEN: reading.start <= 1,
        Advice.ONE_SEED: max_interval is None,
        Advice.SEEDS_DISAGREE: max_interval is not None and max_interval[1] > SPREAD * max_interval[0],
    }
    return tuple(advice for advice, applies in found.items() if applies)


def _verdict(advice: tuple[Advice, ...]) -> Verdict:
    if Advice.STILL_RISING in advice:
        return Verdict.INCONCLUSIVE
    return Verdict.WEAK if advice else Verdict.CLEAR


def _base_reason(lr: FloatArray, reading: _Reading, metric: Metric) -> str:
    level, best = reading.floor + STARTED * reading.rise, reading.smoothed[reading.peak]
    side = "above" if metric.higher_is_better else "below"
    return (
        f"{_start(metric)} starts to {metric.rises[:-1]}: from {lr[reading.start]:.2g} on it stays {side} "
        f"{metric.value(level):.3f}, {STARTED:.0%} of the way from {metric.value(reading.floor):.3f} "
        f"to its best of {metric.value(best):.3f}."
    )


def _max_reason(lr: FloatArray, score: FloatArray, reading: _Reading, metric: Metric, *, cut_off: bool) -> str:
    """What the curve does at ``max_lr`` and above it."""
    best, at = f"{metric.value(reading.smoothed[reading.peak]):.3f}", f"{lr[reading.peak]:.2g}"
    if cut_off:
        return f"The sweep ends while {metric.label} still {metric.rises}: its best is {best}, at {at}."
    last = float(reading.smoothed[-1])
    scatter = np.abs(score - reading.smoothed)
    below, above = (float(part.mean()) if len(part) else 0.0 for part in np.split(scatter, [reading.stop]))
    way = "rising" if metric.higher_is_better else "falling"
    reason = f"{_start(metric)} stops {way}: {STOPPED:.0%} of its way is done, and its best of {best} is at {at}"
    if above > RAGGED * below:
        reason += f"; it turns ragged, scattering by {above:.3f} above this and by {below:.3f} below"
    if last < reading.floor + STOPPED * reading.rise:
        reason += f"; it {metric.falls} to {metric.value(last):.3f} where the sweep ends"
    return reason + "."


def _start(metric: Metric) -> str:
    """The metric's label at the beginning of a sentence."""
    return metric.label[:1].upper() + metric.label[1:]
