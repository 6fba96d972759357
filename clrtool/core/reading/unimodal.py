"""The rising and then falling curve nearest to what was measured: a fit without a shape or a width to choose."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from clrtool.core.schedules import FloatArray


class _Block(NamedTuple):
    """Neighbours that share one fitted value: their mean, how many they are, their squared distances from it."""

    mean: float
    size: int
    error: float


def unimodal(values: ArrayLike) -> FloatArray:
    """Least-squares fit among all sequences that never fall up to some place and never rise after it.

    The place is the one with the least squared error, the first of several. On each side the fit is the isotonic
    regression, by pooling adjacent violators, whose error is known for every place after one pass: linear time.

    Raises:
        ValueError: there are no values.

    >>> unimodal([0, 2, 1, 4, 3, 1])
    array([0. , 1.5, 1.5, 4. , 3. , 1. ])
    """
    values = np.asarray(values, dtype=np.float64)
    if not len(values):
        raise ValueError("a fit needs at least one value")
    _, rising = _pool(values)
    _, falling = _pool(values[::-1])
    top = int(np.argmin(rising[1:] + falling[::-1][1:]))
    left, _ = _pool(values[: top + 1])
    right, _ = _pool(values[:top:-1])
    return np.concatenate([_spread(left), _spread(right)[::-1]])


def _pool(values: FloatArray) -> tuple[list[_Block], FloatArray]:
    """The blocks of the never falling fit, and its squared error for each number of first values, 0 to all."""
    blocks: list[_Block] = []
    errors = np.zeros(len(values) + 1)
    for index, value in enumerate(values.tolist()):
        block, error = _Block(value, 1, 0.0), errors[index]
        while blocks and blocks[-1].mean > block.mean:
            before = blocks.pop()
            error -= before.error + block.error
            block = _merge(before, block)
            error += block.error
        blocks.append(block)
        errors[index + 1] = error
    return blocks, errors


def _merge(a: _Block, b: _Block) -> _Block:
    size = a.size + b.size
    apart = a.mean - b.mean
    between = apart * apart * a.size * b.size / size
    return _Block((a.mean * a.size + b.mean * b.size) / size, size, a.error + b.error + between)


def _spread(blocks: list[_Block]) -> FloatArray:
    return np.repeat([block.mean for block in blocks], [block.size for block in blocks]) if blocks else np.empty(0)
