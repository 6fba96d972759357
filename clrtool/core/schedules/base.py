"""What every schedule is: a frozen value that maps an iteration to a learning rate, and perhaps to a momentum."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clrtool.core.schedules.checks import LAST

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

# Iterations computed at a time. Their arrays of 32 KiB stay in the cache and are used again; those of 128 KiB and more
# are asked of the system anew for each block, which took as long as the arithmetic.
BLOCK = 4096
# Cycles and corners that are named; those after them would be one grey field in any picture.
MARKED = 200


class Schedule(ABC):
    """A pure function of the iteration, array in and array out.

    There is nothing to step: any iteration can be asked for in any order, and a resumed run needs one integer.
    """

    def __call__(self, iteration: ArrayLike) -> FloatArray:
        """The learning rate at ``iteration``, whole numbers from 0 of any shape; a ``range`` takes no memory.

        Raises:
            ValueError: an iteration is negative or not whole.
        """
        return in_blocks(self.lr_at, iteration)

    def momentum(self, iteration: ArrayLike) -> FloatArray | None:
        """The momentum (or the first beta) at ``iteration``; None for a schedule that leaves it alone."""
        return in_blocks(self.momentum_at, iteration) if self.cycles_momentum else None

    @property
    def cycles_momentum(self) -> bool:
        """Whether the schedule moves the momentum too."""
        return False

    @property
    @abstractmethod
    def preview(self) -> int:
        """How many iterations show what the schedule does, where nobody says how many there are."""

    def cycle_ends(self, until: int) -> list[int]:  # noqa: ARG002
        """The iterations from 1 to ``until`` at which a cycle ends, at most the first ``MARKED``."""
        return []

    def corners(self, until: int) -> list[int]:
        """The iterations up to ``until`` that a picture must not miss, at most the first ``MARKED``."""
        return self.cycle_ends(until)

    @abstractmethod
    def lr_at(self, t: IntArray) -> FloatArray:
        """The learning rate at iterations that were checked, (n,) -> (n,).

        A program is printed by running this on a ``Term`` of ``clrtool.report.programs.formula``: it is made of numpy's
        functions and those of ``operations`` alone.
        """

    def momentum_at(self, t: IntArray) -> FloatArray:
        """The momentum at iterations that were checked, (n,) -> (n,)."""
        raise NotImplementedError


def in_blocks(function: Callable[[IntArray], FloatArray], iteration: ArrayLike) -> FloatArray:
    """``function`` of ``iteration``, checked, a block at a time. Raises ValueError."""
    if isinstance(iteration, range):
        result = np.empty(len(iteration))
        _whole(np.array([*iteration[:1], *iteration[-1:]]))  # all others lie between these two
        for start in range(0, len(iteration), BLOCK):
            block = iteration[start : start + BLOCK]
            result[start : start + BLOCK] = function(np.arange(block.start, block.stop, block.step))
        return result
    given = np.asarray(iteration)
    flat, result = given.reshape(-1), np.empty(given.size)
    for start in range(0, given.size, BLOCK):
        result[start : start + BLOCK] = function(_whole(flat[start : start + BLOCK]))
    return result.reshape(given.shape)


def _whole(t: NDArray[Any]) -> IntArray:
    if t.dtype.kind not in "iuf":
        raise ValueError(f"iteration must be a whole number, got {t.flat[0]!r}")
    if t.dtype.kind == "f" and np.any(broken := ~(np.isfinite(t) & (np.floor(t) == t))):
        raise ValueError(f"iteration must be a whole number, got {t[broken][0]!r}")
    if np.any(broken := (t < 0) | (t > LAST)):
        raise ValueError(f"iteration must be at least 0 and at most {LAST:,}, got {t[broken][0]}")
    return t.astype(np.int64, copy=False)


def build(family: Callable[..., Schedule], arguments: Mapping[str, Any], name: str) -> Schedule:
    """A schedule of ``family``; an argument of the wrong kind, which only shows when it is used, is a ValueError."""
    try:
        return family(**arguments)
    except (ArithmeticError, AttributeError, TypeError) as error:
        raise ValueError(f"{name}: {error}") from error
