"""What schedules need and numpy has no word for, on arrays; the printer of programs adds how a program writes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import singledispatch
from itertools import pairwise
from typing import Any

import numpy as np

from clrtool.core.schedules.base import FloatArray, IntArray

# How many small powers there are for each large one.
POWERS = 256


@singledispatch
def named(value: Any, name: str) -> Any:  # noqa: ARG001
    """``value``, which a program computes in a line of its own under this ``name``."""
    return value


@singledispatch
def between(share: Any, start: float, end: float) -> FloatArray:
    """From ``start`` to ``end`` as the share goes from 0 to 1, both exactly, and never beyond."""
    # start + (end - start) * share would miss the end; the clip takes off the last rounding.
    value = end * share
    value += start * (1 - share)
    return np.clip(value, *sorted((start, end)), out=value)


@singledispatch
def ceil_divide(t: Any, n: float) -> FloatArray:
    """``t / n``, rounded up to a whole number."""
    return np.asarray(np.ceil(t / n))


@singledispatch
def remainder(t: Any, n: int) -> IntArray:
    """``t % n``, in half the time."""
    whole: IntArray = t // n
    whole *= n
    np.subtract(t, whole, out=whole)
    return whole


@singledispatch
def powers(exponent: Any, base: float) -> FloatArray:
    """``base ** exponent``, of whole exponents from 0 as a product of two powers, each of which is computed once."""
    if exponent.dtype.kind != "i":
        return np.asarray(base**exponent)
    first, last = int(exponent.min()) // POWERS, int(exponent.max()) // POWERS
    if (last - first + 1) * POWERS > 2 * len(exponent) + POWERS:
        return np.asarray(float(base) ** (exponent // POWERS * POWERS) * float(base) ** (exponent % POWERS))
    coarse = float(base) ** (POWERS * np.arange(first, last + 1))
    known: FloatArray = np.outer(coarse, float(base) ** np.arange(POWERS)).reshape(-1)
    return looked_up(known, exponent - first * POWERS)


def looked_up(known: FloatArray, places: IntArray) -> FloatArray:
    """``known[places]``; of successive places a slice, which takes no time."""
    first, last = int(places[0]), int(places[-1])
    if last - first + 1 == len(places) and bool(np.all(places[1:] > places[:-1])):
        return known[first : last + 1]
    return np.asarray(known[places])


@singledispatch
def repeated(t: Any, period: int, part: Callable[[IntArray], FloatArray]) -> FloatArray:
    """``part(t % period)``, computed once for each of the period's iterations where there are fewer of them."""
    phase = remainder(t, period)
    return part(np.arange(period))[phase] if period < len(t) else part(phase)


@singledispatch
def pieces(t: Any, begins: Sequence[float], piece: Callable[[int, IntArray], FloatArray | float]) -> FloatArray:
    """``piece(k, t)`` where t has reached k of the rising ``begins``, each computed for its own iterations alone."""
    first, last = np.searchsorted(np.asarray(begins), (t.min(), t.max()), side="right")
    if first == last:  # most blocks of a long schedule lie in one piece
        return np.full(len(t), piece(int(first), t), dtype=np.float64)
    result = np.empty(len(t))
    if np.all(t[1:] >= t[:-1]):  # iterations in their order are cut into slices, without a mask for each piece
        cuts = [0, *np.searchsorted(t, begins[first:last]), len(t)]
        for k, (start, end) in enumerate(pairwise(cuts), start=int(first)):
            if start < end:
                result[start:end] = piece(k, t[start:end])
        return result
    reached = np.searchsorted(np.asarray(begins), t, side="right")
    for k in range(int(first), int(last) + 1):
        inside = reached == k
        if inside.any():
            result[inside] = piece(k, t[inside])
    return result


@singledispatch
def restarts(t: Any, begins: Callable[[int], list[float]]) -> tuple[IntArray, FloatArray]:
    """The last of the ``begins`` up to t: which, from 0, and the iterations since."""
    known = np.array(begins(int(t.max())))
    cycle = np.searchsorted(known, t, side="right") - 1
    return cycle, t - known[cycle]
