"""Which of several policies won, with respect for the noise of seeds and of the held-out set."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from clrtool.core.reading.metric import Metric, share_error
from clrtool.core.reading.paper import ROUNDING
from clrtool.core.schedules import FloatArray
from clrtool.words import Sentence

# The least difference that counts, in standard errors, where many seeds tell how large one is. Few seeds tell it
# badly: at 3, two equal policies differ by more than 2 of them in 18 % of the comparisons, in place of 5 %.
SURE = 2.0
# What stands for it at 2 and 3 seeds, Student's quantiles of the same probability.
_SURE_OF_FEW = {1: 13.97, 2: 4.527}


class ComparisonVerdict(Sentence):
    """What a comparison came to."""

    WON = "One policy is better than every other, by more than noise."
    NO_DIFFERENCE = "No difference beyond noise among the best."
    ONE_SEED = "One seed does not show the noise, so no policy wins."
    NOT_FINITE = "No policy kept its loss finite in every seed."
    NOTHING_LEARNED = "No policy does better than a constant answer."


@dataclass(frozen=True)
class Judgement:
    """Who won.

    Args:
        verdict: what it came to.
        best: the highest mean; None if every policy broke.
        winner: the best, where the difference to the next is more than noise.
        within: those that noise does not tell apart from the best, without it.
        noise: the difference that would count, to the next, or to the noisiest of ``within``; None where there is no
            next, or one seed.
        reason: the numbers, in a sentence.
    """

    verdict: ComparisonVerdict
    best: str | None
    winner: str | None
    within: tuple[str, ...]
    noise: float | None
    reason: str


def judge(
    finals: Mapping[str, Sequence[float]], metric: Metric, heldout_samples: int, constant: float | None = None
) -> Judgement:
    """Which policy won, with respect for the noise.

    The best is that of the highest mean. With ``d[s]`` the difference of two policies in seed ``s``, which share
    weights and batches, and n seeds, it is better than another if::

        mean(d) > max(sure(n) * sd(d) / sqrt(n), sqrt(p (1 - p) / heldout_samples))

    that is, by more than 2 standard errors of the paired difference, see ``sure``, and by more than the standard error
    of one share p, the best mean: seeds cannot tell what is due to these held-out samples. Of a metric that is no
    share it has to be more than rounding. A policy that broke in any seed cannot win; every other is better than it.

    Args:
        finals: for each policy its final metric in every seed, in one order; NaN where the loss was not finite.
        heldout_samples: samples that a share was counted in.
        constant: the metric of the best constant answer, which the best has to beat; None where it is not known.
    """
    finite = {name: np.asarray(each, dtype=np.float64) for name, each in finals.items() if np.isfinite(each).all()}
    if not finite:
        return Judgement(ComparisonVerdict.NOT_FINITE, None, None, (), None, "Lower the bounds.")
    means = {name: float(each.mean()) for name, each in finite.items()}
    best, *others = sorted(means, key=lambda name: -metric.value(means[name]))
    mean = means[best]
    if not beats(mean, constant, metric, heldout_samples):
        reason = (
            f"The best of them, {best}, ends at a {metric.label} of {mean:.4g}; a constant answer has {constant:.4g}."
        )
        return Judgement(ComparisonVerdict.NOTHING_LEARNED, best, None, tuple(others), None, reason)
    if len(finite[best]) == 1:
        reason = f"{best} reached the best {metric.label}, {mean:.4g}; --seeds 3 shows how much of its lead is noise."
        return Judgement(ComparisonVerdict.ONE_SEED, best, None, tuple(others), None, reason)
    floor = share_error(mean, heldout_samples) if metric.is_share else ROUNDING * abs(mean)
    ahead = {name: metric.value(1) * (finite[best] - finite[name]) for name in others}
    noise = {name: max(_noise(each), floor) for name, each in ahead.items()}
    within = tuple(name for name, each in ahead.items() if each.mean() <= noise[name])
    if within:
        return _no_difference(best, within, means, noise, metric)
    if not ahead:
        return Judgement(ComparisonVerdict.WON, best, best, (), None, f"{best} alone kept its loss finite.")
    second = others[0]
    reason = (
        f"{best} wins with a mean {metric.label} of {mean:.4g}, {ahead[second].mean():.2g} better than {second}, the "
        f"next; a difference below {noise[second]:.2g} is noise."
    )
    return Judgement(ComparisonVerdict.WON, best, best, (), noise[second], reason)


def beats(mean: float, constant: float | None, metric: Metric, heldout_samples: int) -> bool:
    """Whether a final metric is better than that of a constant answer by more than the error of the held-out set.

    >>> from clrtool.core.reading.metric import ACCURACY
    >>> beats(0.11, 0.1, ACCURACY, 100), beats(0.5, 0.1, ACCURACY, 100), beats(0.1, None, ACCURACY, 100)
    (False, True, True)
    """
    if constant is None:
        return True
    noise = share_error(constant, heldout_samples) if metric.is_share else ROUNDING * abs(constant)
    return metric.value(mean) - metric.value(constant) > noise


def _no_difference(
    best: str, within: tuple[str, ...], means: Mapping[str, float], noise: Mapping[str, float], metric: Metric
) -> Judgement:
    reached = ", ".join(f"{name} {means[name]:.4g}" for name in (best, *within))
    most = max(noise[name] for name in within)
    worse = [name for name in means if name not in (best, *within)]
    rest = f" Worse by more than noise: {', '.join(worse)}." if worse else ""
    reason = (
        f"In {metric.label}, {reached}: differences up to {most:.2g} are noise.{rest} Use any of these; more "
        "seeds can tell smaller differences."
    )
    return Judgement(ComparisonVerdict.NO_DIFFERENCE, best, None, within, most, reason)


def sure(seeds: int) -> float:
    """The standard errors that a paired difference over seeds has to exceed, two or more.

    Student's quantile of the probability that a normal one of 2 has, 0.9545 on both sides; from 4 seeds on by the
    expansion 26.7.5 of Abramowitz and Stegun, to 0.3 %.

    >>> [round(sure(seeds), 2) for seeds in (2, 3, 5, 10, 1000)]
    [13.97, 4.53, 2.87, 2.32, 2.0]
    """
    freedom = seeds - 1
    if freedom in _SURE_OF_FEW:
        return _SURE_OF_FEW[freedom]
    terms = (2.5, 3.0625, 2.859375, 1.844293)  # at 2
    return SURE + float(sum(term / freedom**power for power, term in enumerate(terms, 1)))


def _noise(differences: FloatArray) -> float:
    return sure(len(differences)) * float(np.std(differences, ddof=1)) / math.sqrt(len(differences))
