"""The rising and then falling curve nearest to what was measured: a fit without a shape or a width to choose."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clrtool.core.schedules import FloatArray


class _Blocks(NamedTuple):
    """The never falling fits to the first k values of each row, for every k: the last block of each.

    A block is neighbours that share one fitted value. The one before it ends the fit to the values before it, so that
    the last blocks of all fits are all blocks of all fits. The arrays, flat, hold (rows, n + 2) places: value k of a
    row at place k, from 1 on, between a block below everything and one above.

    Args:
        first: the place of the block's first value; it stands at the place of its last.
        mean: the mean of its values.
        error: their squared distances from it.
        total: the squared error of the fit that it ends.
    """

    first: NDArray[np.intp]
    mean: FloatArray
    error: FloatArray
    total: FloatArray

    @classmethod
    def of(cls, values: FloatArray) -> _Blocks:
        """Every value, (rows, n), in a block of its own."""
        mean = np.pad(values, ((0, 0), (1, 1)), constant_values=(-np.inf, np.inf)).ravel()
        return cls(np.arange(mean.size), mean, np.zeros(mean.size), np.zeros(mean.size))

    def merge(self, a: NDArray[np.intp], b: NDArray[np.intp]) -> None:
        """Pool the blocks that end at ``a`` with those after them, which end at ``b``."""
        first, second = self.first[a], self.first[b]
        size_a, size_b, size = second - first, b + 1 - second, b + 1 - first
        mean_a, mean_b = self.mean[a], self.mean[b]
        apart, alone = mean_a - mean_b, self.error[a] + self.error[b]
        error = alone + apart * apart * size_a * size_b / size
        self.first[b] = first
        self.mean[b] = (mean_a * size_a + mean_b * size_b) / size
        self.error[b] = error
        self.total[b] = self.total[b] - alone + error


def unimodal(values: ArrayLike) -> FloatArray:
    """Least-squares fit among all sequences that never fall up to some place and never rise after it.

    The place is the one with the least squared error, the first of several. On each side the fit is the isotonic
    regression, by pooling adjacent violators, whose error is known for every place after one pass: linear time.

    Args:
        values: (n,), or (rows, n) for a fit to every row.

    Raises:
        ValueError: there are no values.

    >>> unimodal([0, 2, 1, 4, 3, 1])
    array([0. , 1.5, 1.5, 4. , 3. , 1. ])
    """
    values = np.asarray(values, dtype=np.float64)
    if not values.size:
        raise ValueError("a fit needs at least one value")
    rows, n = np.atleast_2d(values), values.shape[-1]
    blocks = _pool(np.concatenate([rows, rows[:, ::-1]]))
    rising, falling = np.split(blocks.total.reshape(-1, n + 2)[:, :-1], 2)
    top = np.argmin(rising[:, 1:] + falling[:, -2::-1], axis=1)
    left, right = np.split(_spread(blocks, np.concatenate([top + 1, n - 1 - top])), 2)
    return np.where(np.arange(n) <= top[:, None], left, right[:, ::-1]).reshape(values.shape)


def _pool(values: FloatArray) -> _Blocks:
    """Pool adjacent violators, (rows, n): in every step each row pools two blocks or goes on to its next value."""
    blocks, n = _Blocks.of(values), values.shape[1]
    end = np.arange(1, blocks.mean.size, n + 2)
    stop = end + n
    while (end < stop).any():
        before = blocks.first[end] - 1
        falls = blocks.mean[before] > blocks.mean[end]
        if falls.any():  # often none, where there is one row
            blocks.merge(before[falls], end[falls])
        after = np.minimum(end + ~falls, stop)
        blocks.total[after] = blocks.total[end]
        end = after
    return blocks


def _spread(blocks: _Blocks, count: NDArray[np.intp]) -> FloatArray:
    """The never falling fit to the first ``count`` values of every row, (rows, n); beyond those it has no meaning."""
    places = np.arange(blocks.mean.size).reshape(len(count), -1)
    n, end = places.shape[1] - 2, places[:, 0] + count
    fit = np.empty((len(count), n))
    for column in range(n, 0, -1):
        fit[:, column - 1] = blocks.mean[end]
        end = np.where(blocks.first[end] == places[:, column], places[:, column - 1], end)
    return fit
