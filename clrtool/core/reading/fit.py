"""Where accuracy rises and where it breaks, read off the curves of all seeds, and how far noise could move that.

Every constant stands here once, with its reason. What halving and doubling those that move a bound does to the outcome
is measured by ``make bench-regret`` and written into ``tests/benchmarks/REGRET.md``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from clrtool.core.reading.unimodal import unimodal
from clrtool.core.schedules import FloatArray

# Share of the whole rise at which accuracy counts as rising. On the three curves of the paper a tenth lies within
# 1.2 times what its author read.
RISEN = 0.1
# Accuracy breaks where it falls through these shares of its rise: the mean, in log LR, of several crossings, for one
# moves with every dent. Above 70 % networks with batch norm dip and recover; far below it depends on how they end.
BREAKING = np.linspace(0.7, 0.6, 5)
# max_lr against the LR that breaks. With it 13 of the 14 problems of the benchmark train to within a point of the best;
# a transformer trains best at a thirtieth.
SAFETY = 0.35
# Where it does not fall so far, the largest LR of the sweep still works: the optimum is "usually within a factor of two
# of the largest that converges" (Bengio, arXiv 1206.5533, section 3.1.1, which Smith quotes).
UNBROKEN = 0.5
# Lower bounds than this share of max_lr train no better and lose time in every cycle; Smith's one_cycle has the same.
LOWEST = 0.1
# Bounds closer than this leave no cycle to speak of (the closest that the paper reads are 2.5 apart, our readings of
# its curves 1.5). Then its rule of thumb holds: base_lr is a third or a quarter of max_lr. A quarter trains better.
CLOSE, FALLBACK = 1.4, 0.25
# Half the width of the running median, as a share of the sweep: it takes out single dents and leaves edges in place.
HALF_WIDTH = 0.05
# Iterations that a rate takes to break what was learned, half the memory of a momentum of 0.9, and to learn enough to
# be seen, for which a network needs a hundred at any rate. They matter where a sweep is short, as on a small set.
TO_BREAK, TO_LEARN = 5, 100
# Accuracy that is within a tenth of its rise of the best is as good as it.
FLAT = 0.9
RESAMPLES, COVERAGE = 200, 0.95


class Axis(NamedTuple):
    """The learning rates of evaluations, (n,) each: that broke what is broken, and that taught what is learned."""

    broke: FloatArray
    learned: FloatArray
    end: float

    @classmethod
    def of(cls, lr: FloatArray, iteration: NDArray[np.int64] | None) -> Axis:
        """The rates of ``TO_BREAK`` and ``TO_LEARN`` iterations before, by a line over log LR.

        A sweep that begins at 0 has no logarithm there: a tenth of its first rate above is taken for it. Where
        iterations are not known the sweep is taken to be slow.
        """
        positive = np.maximum(lr, lr[lr > 0][0] / 10)
        if iteration is None:
            return cls(positive, positive, float(lr[-1]))
        before = (np.interp(iteration - lag, iteration, np.log(positive)) for lag in (TO_BREAK, TO_LEARN))
        broke, learned = (np.exp(each) for each in before)
        return cls(broke, learned, float(lr[-1]))

    def step(self, lr: float) -> float:
        """The factor between the evaluations on both sides of a learning rate."""
        after = int(np.clip(np.searchsorted(self.broke, lr), 1, len(self.broke) - 1))
        return float(self.broke[after] / self.broke[after - 1])


@dataclass(frozen=True, eq=False)
class Reading:
    """One reading of one curve.

    Args:
        axis: the learning rates of its points.
        fit: the rising and then falling curve nearest to the measured one; higher is better.
        rises: the learning rate from which accuracy rises.
        nears: where it is as good as its best from.
        fades: where it is no longer; None if that lasts to the end.
        falls: where it falls through each of ``BREAKING``; None if it does not.
    """

    axis: Axis
    fit: FloatArray
    rises: float
    nears: float
    fades: float | None
    falls: tuple[float | None, ...]

    @property
    def lr(self) -> FloatArray:
        return self.axis.broke

    @property
    def floor(self) -> float:
        return float(self.fit[0])

    @property
    def best(self) -> float:
        return float(self.fit.max())

    @property
    def rise(self) -> float:
        return self.best - self.floor

    @property
    def peak(self) -> int:
        return int(np.argmax(self.fit))

    def level(self, share: float) -> float:
        return self.floor + share * self.rise

    @property
    def broken(self) -> bool:
        return self.falls[-1] is not None

    @property
    def breaks(self) -> float:
        """The mean, in log LR, of where the fit falls through ``BREAKING``; the end of the sweep where it does not."""
        crossings = [lr or self.axis.end for lr in self.falls]
        return math.exp(sum(map(math.log, crossings)) / len(crossings))

    @property
    def flat(self) -> tuple[float, float]:
        return self.nears, self.fades or self.axis.end

    @property
    def max_lr(self) -> float:
        return (SAFETY if self.broken else UNBROKEN) * self.breaks

    @property
    def too_close(self) -> bool:
        return self.max_lr < CLOSE * self.rises

    @property
    def base_lr(self) -> float:
        return self.max_lr * FALLBACK if self.too_close else max(self.rises, self.max_lr * LOWEST)


def read(axis: Axis, scores: FloatArray) -> Reading:
    """Read the mean over seeds of the running medians of their scores, (seeds, n), higher is better."""
    return _read_all(axis, scores[None])[0]


@np.errstate(over="ignore", invalid="ignore")  # a loss may begin at infinity
def _read_all(axis: Axis, scores: FloatArray) -> list[Reading]:
    """The same for several sets of curves at once, (sets, seeds, n)."""
    fits = unimodal(running_median(scores).mean(1))
    rises, nears = _rising(fits, RISEN, axis.learned), _rising(fits, FLAT, axis.broke)
    fades, *falls = (_falling(fits, share, axis.broke) for share in (FLAT, *BREAKING))
    found = zip(fits, rises, nears, fades, zip(*falls, strict=True), strict=True)
    return [Reading(axis, *each) for each in found]


def _rising(fits: FloatArray, share: float, lr: FloatArray) -> list[float]:
    """Where each of the fits, (fits, n), first reaches a share of its rise; the first rate if it begins there."""
    level = _level(fits, share)
    crossing = _crossing(fits, fits >= level, level, lr)
    return [lr[0].item() if math.isnan(each) else each for each in crossing]


def _falling(fits: FloatArray, share: float, lr: FloatArray) -> list[float | None]:
    """Where each of the fits, (fits, n), first falls below a share of its rise after the best; None if it does not."""
    level, peak = _level(fits, share), fits.argmax(1, keepdims=True)
    crossing = _crossing(fits, (fits < level) & (np.arange(len(lr)) > peak), level, lr)
    return [None if math.isnan(each) else each for each in crossing]


def _level(fits: FloatArray, share: float) -> FloatArray:
    """What :meth:`Reading.level` is for each of the fits, (fits, 1)."""
    floor = fits[:, :1]
    return np.asarray(floor + share * (fits.max(1, keepdims=True) - floor))


def _crossing(fits: FloatArray, beyond: NDArray[np.bool_], level: FloatArray, lr: FloatArray) -> list[float]:
    """Where each of the fits comes to its level, by a line over log LR to the first point beyond it.

    NaN if no point is beyond it, or the very first is.
    """
    crossing, after = np.full(len(fits), np.nan), beyond.argmax(1)
    rows = np.flatnonzero(after)
    after = after[rows]
    low, high = np.log(lr)[after - 1], np.log(lr)[after]
    start, end = fits[rows, after - 1], fits[rows, after]
    crossing[rows] = np.exp(low + (high - low) * (level[rows, 0] - start) / (end - start))
    found: list[float] = crossing.tolist()
    return found


def running_median(scores: FloatArray) -> FloatArray:
    """Running medians whose half width is a twentieth of the length."""
    return medians(scores, max(1, round(HALF_WIDTH * scores.shape[-1])))


def medians(scores: FloatArray, width: int) -> FloatArray:
    """Median over ``2 * width + 1`` neighbours of every row, (..., n), centred; the ends count as if repeated.

    NaN where one of the neighbours is.

    >>> medians(np.array([[0, 0, 9, 0, 1, 1, 1]]), 1)
    array([[0., 0., 0., 1., 1., 1., 1.]])
    """
    padded = np.pad(scores, [*[(0, 0)] * (scores.ndim - 1), (width, width)], mode="edge")
    windows = sliding_window_view(padded, 2 * width + 1, axis=-1)
    middle, largest = np.empty(scores.shape), np.empty(scores.shape)
    for index, each in enumerate(windows):  # those of all at once can be too many to hold
        ordered = np.sort(each, axis=-1)
        middle[index], largest[index] = ordered[..., width], ordered[..., -1]  # NaN is last
    return np.where(np.isnan(largest), largest, middle)


def resample(axis: Axis, scores: FloatArray) -> list[Reading]:
    """Readings of curves that could as well have been measured, by bootstrap.

    Each of ``RESAMPLES`` draws as many seeds as there are, with replacement, and gives each running median the
    residuals of all seeds again, in random order: the noise of evaluations and of training. Curves that show no rise
    give none.
    """
    seeds, middle = len(scores), running_median(scores)
    residuals = (scores - middle).ravel()
    below = np.repeat([seeds, scores.size], [seeds, scores.size])
    drawn = np.random.default_rng(0).integers(below, size=(RESAMPLES, len(below)))
    noise = residuals[drawn[:, seeds:]].reshape(-1, *scores.shape)
    return [reading for reading in _read_all(axis, middle[drawn[:, :seeds]] + noise) if reading.rise > 0]


def interval(axis: Axis, values: list[float], value: float, seeds: int) -> tuple[float, float]:
    """The central ``COVERAGE`` of the values, around ``value``, and one evaluation further on each side.

    Drawing n seeds out of n shows a variance that is too small by (n - 1) / n, which is made good in log LR. No edge
    is placed more exactly than from one evaluation to the next.
    """
    widen = math.sqrt(seeds / (seeds - 1)) if seeds > 1 else 1.0
    away = widen * np.log(np.asarray(values) / value)
    low, high = np.quantile(away, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    step = axis.step(value)
    return value * math.exp(min(low, 0.0)) / step, value * math.exp(max(high, 0.0)) * step
