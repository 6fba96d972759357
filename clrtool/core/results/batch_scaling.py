"""How the best learning rate grows with the batch size, from what was measured at several.

Between "not at all" and in proportion (Goyal and others, arXiv 1706.02677) there is the square root (Krizhevsky, arXiv
1404.5997); where the noise of the gradient no longer counts, the best rate stops growing (McCandlish and others, arXiv
1812.06162: ``lr(B) = highest / (1 + B_noise / B)``, whose growth has halved at ``B = B_noise``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

# How well a best rate is known, as a standard deviation in powers of two: rates are tried at each of them.
RESOLUTION = 0.3
# Standard errors of an interval.
WIDE = 2.0
# Growth is over where it is less than this part of what it was before.
OVER = 0.5
# Measured sizes without which there is no growth to read, and without which no end of it.
LEAST, LEAST_TO_END = 2, 4
# In theory the best rate grows at most in proportion to the batch. Runs of a few steps of the largest batch overstate
# that: on the benchmark's jobs they show exponents of 0.6 to 1.6, and whole trainings 0.7 to 1.0.
STEEPEST = 1.0


@dataclass(frozen=True)
class BatchScaling:
    """The growth of the best rate with the batch.

    Args:
        batch_sizes: that were measured, from the smallest up.
        powers: the best rate of each, as a power of two.
        exponent: of ``lr ~ batch_size ** exponent``, 1 in proportion and 0.5 by the square root, up to ``critical``.
        interval: of it, two standard errors to either side.
        critical: the measured size from which on the best rate grows less than half as fast; None where it goes on.
    """

    batch_sizes: tuple[int, ...]
    powers: tuple[float, ...]
    exponent: float
    interval: tuple[float, float]
    critical: int | None

    def factor(self, from_size: int, to_size: int) -> float:
        """By what a rate for one batch size is multiplied for another; beyond ``critical`` it stays.

        It grows by the exponent, but never faster than the batch.

        >>> BatchScaling((32, 64), (-4.0, -3.0), 1.0, (0.4, 1.6), None).factor(32, 128)
        4.0
        >>> BatchScaling((32, 64), (-4.0, -2.6), 1.4, (0.8, 2.0), None).factor(32, 128)
        4.0
        """
        most = self.critical or math.inf
        return float((min(to_size, most) / min(from_size, most)) ** min(STEEPEST, self.exponent))

    @property
    def told(self) -> str:
        """The exponent with its interval."""
        low, high = self.interval
        return f"{self.exponent:.2f} ({low:.2f} to {high:.2f})"

    @property
    def is_steep(self) -> bool:
        """Whether the best rate seems to grow faster than the batch, which rates do not follow."""
        return self.exponent > STEEPEST

    def is_measured(self, size: int) -> bool:
        """Whether a size lies within those that were measured."""
        return self.batch_sizes[0] <= size <= self.batch_sizes[-1]

    @property
    def rule(self) -> str:
        """Which of the two known rules the exponent is."""
        low, high = self.interval
        if low <= 0.5 and high >= 1:
            return "both the linear (1) and the square-root rule (0.5) are within it"
        fits = [name for name, value in (("linear", 1.0), ("square-root", 0.5)) if low <= value <= high]
        return f"the {fits[0]} rule" if fits else "neither the linear (1) nor the square-root rule (0.5)"


def batch_scaling(powers: Mapping[int, Sequence[float]]) -> BatchScaling | None:
    """Read the growth off the best rates of several batch sizes.

    With ``x = log2 batch_size`` and ``y`` the power of two of the best rate, the mean over seeds, the exponent is the
    slope of the least-squares line; its standard error is ``s / sqrt(sum (x - mean x)^2)``, where ``s`` is the largest
    of the scatter around the line, the scatter of seeds, and the resolution of the rates.

    Args:
        powers: by batch size, the best rate of each seed as a power of two.

    >>> found = batch_scaling({16: [-5.0], 32: [-4.0], 64: [-3.0]})
    >>> round(found.exponent, 6), found.critical
    (1.0, None)
    """
    sizes = sorted(size for size, found in powers.items() if found)
    if len(sizes) < LEAST:
        return None
    x, y = np.log2(sizes), np.array([np.mean(powers[size]) for size in sizes])
    end = _end(x, y)
    slope, scatter = _line(x[: end + 1], y[: end + 1])
    seeds = [float(np.std(powers[size], ddof=1)) for size in sizes if len(powers[size]) > 1]
    noise = max(scatter, RESOLUTION, *(float(np.sqrt(np.mean(np.square(seeds)))),) if seeds else (0.0,))
    error = WIDE * noise / float(np.sqrt(np.square(x[: end + 1] - x[: end + 1].mean()).sum()))
    critical = None if end == len(sizes) - 1 else sizes[end]
    return BatchScaling(tuple(sizes), tuple(map(float, y)), slope, (slope - error, slope + error), critical)


def _line(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """The slope of the least-squares line, and the standard deviation around it where more than two points show one."""
    slope = float(((x - x.mean()) * (y - y.mean())).sum() / np.square(x - x.mean()).sum())
    left = y - y.mean() - slope * (x - x.mean())
    freedom = len(x) - 2
    return slope, math.sqrt(float(np.square(left).sum()) / freedom) if freedom > 0 else 0.0


def _end(x: np.ndarray, y: np.ndarray) -> int:
    """The place at which growth ends by more than noise; the last, where it goes on.

    Of all lines that are level from a measured size on, the one nearest to the rates, if the growth beyond is less than
    half of that before, and what is missing to it at the end is more than noise.
    """
    last = len(x) - 1
    if len(x) < LEAST_TO_END:
        return last
    place = min(range(1, last), key=lambda place: _left(np.minimum(x, x[place]), y))
    below, above = _line(x[: place + 1], y[: place + 1])[0], _line(x[place:], y[place:])[0]
    missing = (below - above) * (x[last] - x[place])
    return place if below > 0 and above < OVER * below and missing > WIDE * RESOLUTION else last


def _left(x: np.ndarray, y: np.ndarray) -> float:
    """The sum of squares around the least-squares line."""
    slope = _line(x, y)[0]
    return float(np.square(y - y.mean() - slope * (x - x.mean())).sum())
