"""The two bounds of a cycle, read off the held-out accuracy of every seed by the rule of the paper.

Smith, arXiv 1506.01186 v6, section 3.3: ``base_lr`` is where accuracy starts to rise, ``max_lr`` where it slows, turns
ragged or starts to fall. The first is read as it is said. For the second the reading is the learning rate that breaks,
which seeds and lengths of the sweep agree on, and ``max_lr`` keeps a distance from it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from clrtool.core.reading import fit
from clrtool.core.reading.curve import Curve, SweepOutcome
from clrtool.core.reading.fit import Axis, Reading, interval, read
from clrtool.core.reading.metric import ACCURACY, Metric, share_error
from clrtool.core.schedules import FloatArray
from clrtool.words import Sentence

# A rise counts when it is this many standard errors: the highest of 60 points of noise alone is near 3.
SURE = 5.0
# Relative noise of a metric at the least: that of the arithmetic.
ROUNDING = 1e-9
# A sweep that broke within this factor of its start broke at once: what trains may lie below it.
AT_ONCE = 10.0
# A best this close to the end of the sweep, as a share of its evaluations, was cut off by it and not read.
EDGE = 0.1
# Seeds whose interval of max_lr spans more than this factor do not settle it; the problems of the benchmark lose a
# point of accuracy within a factor of 2 to 10.
SPREAD = 4.0
# A sweep has broken when accuracy stays below half of its rise over this factor in the learning rate: slow learners
# swing before they learn.
HALF, FOR_GOOD = 0.5, 2.0
# Accuracy that stays near its best over a decade does not depend on the learning rate to speak of.
WIDE = 10.0


class Verdict(Sentence):
    """How far the bounds can be trusted; the value is the sentence shown."""

    CLEAR = "What was measured shows both bounds, and agrees."
    WIDE = "What was measured shows both bounds, and hardly changes between them."
    WEAK = "What was measured shows both bounds, but does not settle them."
    INCONCLUSIVE = "What was measured does not show both bounds."


class Advice(Sentence):
    """What keeps a verdict from being clear, and the next step to take; the value is the sentence shown."""

    NEVER_LEARNED = "Nothing was learned: check data and labels, or raise sweep.end_lr or sweep.epochs."
    BROKE_AT_ONCE = "The loss broke before anything was learned: lower sweep.start_lr, or mend a model that gives NaN."
    STILL_RISING = "The curve still improves where the sweep ends, so max_lr is at least this: raise sweep.end_lr."
    UNBROKEN = "Nothing broke: a larger max_lr may train as well or better. Raise sweep.end_lr to see."
    ALREADY_RISEN = "The curve improves from the very start, so base_lr is at most this: lower sweep.start_lr."
    ONE_SEED = "One seed cannot show how far seeds agree: run with more --seeds, or a larger budget."
    SEEDS_DISAGREE = (
        f"The interval of max_lr spans more than a factor of {SPREAD:g}: raise sweep.epochs or --seeds, or let "
        "sweep.method=race choose."
    )
    INSENSITIVE = f"Any max_lr will do over more than a factor of {WIDE:g}; sweep.method=race chooses among them."
    NOTHING_LEARNED = "No rate does clearly better than a constant answer: raise the budget, or check data and labels."
    NOTHING_MOVED = (
        "The held-out score is the same at every rate: read a loss or a finer score, or check that the model that is "
        "scored is the one that is trained."
    )
    BETTER_STOPPED = (
        "No rate to go on with is better than to stop here: keep the model as it is, or change what it is trained on."
    )
    NOTHING_FINITE = "Every rate gives a loss that is NaN or infinite: mend the model, its loss or its data."
    LITTLE_LEARNED = (
        "The runs have learned little yet, and longer ones may rank the rates differently: raise the budget."
    )
    BROKE_BELOW = (
        "The sweep broke below the rate that won, and max_lr lies between them: raise the budget to tell which."
    )
    SPLIT_OFF = "There is no held-out set, so a part of the training set was held out: give one."
    TRAINING_LOSS = "There is no held-out set: this is the loss of batches that are trained on. Give held-out ones."
    ALIKE_SEEDS = (
        "Every seed is given the same samples in the same order, so their agreement says little: shuffle them with "
        "torch's global generator."
    )
    CLOSE_RACE = (
        "Seeds prefer different rates, and max_lr lies between them: where it matters, train with what each prefers."
    )


# The advice of earlier versions that says it in other words now, as it stands in their files.
FORMER = {
    "No rate does better than a constant answer: raise the budget, or check data and labels.": Advice.NOTHING_LEARNED,
    "Seeds prefer different rates, and max_lr lies between them: raise the budget to tell them apart.": (
        Advice.CLOSE_RACE
    ),
    "Every seed is given the same samples in the same order, so that seeds agree says little.": Advice.ALIKE_SEEDS,
    "Every seed is given the same samples in the same order, so that seeds agree says little: shuffle them with "
    "torch's global generator.": Advice.ALIKE_SEEDS,
    "The runs have learned little yet, and longer ones may rank the rates otherwise: raise the budget.": (
        Advice.LITTLE_LEARNED
    ),
    "There is no held-out set, and a part of the training set was held out in its place: give one.": Advice.SPLIT_OFF,
    "One seed cannot show how far seeds agree: run with --seeds 3.": Advice.ONE_SEED,
    "The interval of max_lr spans more than a factor of 4: raise sweep.epochs or --seeds, or let --verify choose.": (
        Advice.SEEDS_DISAGREE
    ),
    "Any max_lr will do over more than a factor of 10; --verify trains to choose among them.": Advice.INSENSITIVE,
}
WEAKENING = {Advice.ONE_SEED, Advice.SEEDS_DISAGREE, Advice.UNBROKEN}


Interval = tuple[float, float]


@dataclass(frozen=True)
class Bounds:
    """The two bounds of a cycle, with intervals, reasons and a verdict.

    Args:
        base_lr, max_lr: the bounds as learning rates; None if the measurements do not show them.
        base_lr_interval, max_lr_interval: (low, high). By the paper's method, where 95 % of resampled curves put the
            bound, widened by one evaluation; by a race, the factors that the benchmark supports. None if the bound is.
        base_reason, max_reason: why each bound is where it is, with numbers.
        verdict: how far to trust them.
        advice: what to do next, most important first.

    Raises:
        ValueError: the bounds are not ``0 < base_lr < max_lr``, each inside its interval.
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
        for lr, span in ((self.base_lr, self.base_lr_interval), (self.max_lr, self.max_lr_interval)):
            ordered &= span is None or (lr is not None and span[0] <= lr <= span[1])
        if not ordered:
            raise ValueError("bounds must be finite, 0 < base_lr < max_lr, each inside its interval")

    def doubted(self, reasons: tuple[Advice, ...]) -> Bounds:
        """The same bounds, with a verdict that is weak at best if there are doubts."""
        if not reasons:
            return self
        verdict = Verdict.INCONCLUSIVE if self.verdict is Verdict.INCONCLUSIVE else Verdict.WEAK
        return replace(self, verdict=verdict, advice=(*self.advice, *reasons))

    def to_dict(self) -> dict[str, Any]:
        """The bounds in plain types, for JSON."""
        values = vars(self) | {"verdict": self.verdict.word, "advice": [each.value for each in self.advice]}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Bounds:
        """The bounds of :meth:`to_dict`. Raises KeyError, TypeError or ValueError for anything else."""
        intervals = {
            name: None if values[name] is None else (float(values[name][0]), float(values[name][1]))
            for name in ("base_lr_interval", "max_lr_interval")
        }
        verdict = Verdict[values["verdict"].upper()]
        advice = tuple(FORMER.get(each) or Advice(each) for each in values["advice"])
        return cls(**(dict(values) | intervals | {"verdict": verdict, "advice": advice}))


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
