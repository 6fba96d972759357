"""``//``, ``%`` and ``**`` of float64 arrays: numpy's values, sooner where the numbers are whole, as iterations are."""

from __future__ import annotations

from typing import Any

import numpy as np

# Of whole numbers below it a float64 holds every sum, and their quotient rounds up to no whole number.
EXACT = 2.0**52
# Powers are looked up where an exponent comes up more often than this, on average.
REPEATS = 8


def floor_divide(left: Any, right: Any) -> Any:
    """``floor(left / right)``.

    >>> floor_divide(np.array([1999.0, 2000.0, 0.6]), 1000.0)
    array([1., 2., 0.])
    """
    return np.floor(left / right) if _are_whole(left, right) else np.floor_divide(left, right)


def modulo(left: Any, right: Any) -> Any:
    """``left - right * floor(left / right)``.

    >>> modulo(np.array([1999.0, 2000.0, 3.0]), 1000.0)
    array([999.,   0.,   3.])
    """
    return left - right * np.floor(left / right) if _are_whole(left, right) else np.mod(left, right)


def power(base: Any, exponent: Any) -> Any:
    """``base ** exponent``; where few whole exponents come again and again, each power is computed once.

    >>> power(0.5, np.array([3.0, 3.0, 4.0]))
    array([0.125 , 0.125 , 0.0625])
    """
    if _are_whole(exponent) and np.ndim(base) == 0:
        least, most = exponent.min(), exponent.max()
        if (most - least + 1) * REPEATS < exponent.size:
            known = np.power(base, np.arange(least, most + 1))
            return known[(exponent - least).astype(np.int64)]
    return np.power(base, exponent)


def _are_whole(values: Any, number: Any = 1.0) -> bool:
    """Whether these are an array of whole numbers, and a number that is whole too and not 0."""
    if not isinstance(values, np.ndarray) or np.ndim(number) or not values.size or not number or number % 1:
        return False
    return bool(np.all(np.abs(values) < EXACT) and abs(number) < EXACT and np.all(np.floor(values) == values))
