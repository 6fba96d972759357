"""What a sweep measured, kept as it was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from clrtool.core.schedules import FloatArray
from clrtool.words import Sentence

# A rise of the loss counts as divergence when it is this many times what the sweep had gained before. Three puts
# the line at four times the first loss for a loss that fell to zero, the rule of the older finders, but it does
# not move when a constant is added to a loss that has gained a third of its first value.
DIVERGENCE_FACTOR = 3.0


class SweepOutcome(Sentence):
    """How the sweep of one seed ended; the value is the sentence shown."""

    COMPLETED = "The sweep went to its end."
    BROKE = "The metric fell to half of its rise, and the sweep stopped there."
    DIVERGED = "The training loss rose far above its first value, and the sweep stopped there."
    NOT_FINITE = "The loss became NaN or infinite, and the sweep stopped there."


class Point(NamedTuple):
    """One evaluation: the weights after ``iteration`` updates, the last of them with ``lr``.

    ``train_loss`` is the mean loss of the batches since the evaluation before (NaN at iteration 0).
    """

    iteration: int
    epoch: float
    lr: float
    train_loss: float
    heldout_loss: float
    metric: float


@dataclass(frozen=True, eq=False)
class Curve:
    """The evaluations of one seed in the order of the sweep, as read-only arrays of one length.

    Args:
        seed: seed of the model's weights and of the order of the batches.
        outcome: how the sweep ended.
        iteration: updates before each evaluation, strictly increasing.
        epoch: the same in passes over the training set.
        lr: learning rate of the last of those updates, never decreasing.
        train_loss: mean training loss since the evaluation before.
        heldout_loss: mean loss on the held-out set.
        metric: the metric that the paper's method reads; by default the held-out accuracy, 0 to 1.

    Raises:
        ValueError: the arrays differ in length, iteration or lr runs backwards, or a value is out of its range.
    """

    seed: int
    outcome: SweepOutcome
    iteration: NDArray[np.int64]
    epoch: FloatArray
    lr: FloatArray
    train_loss: FloatArray
    heldout_loss: FloatArray
    metric: FloatArray

    def __post_init__(self) -> None:
        for field in fields(self)[2:]:
            # A copy, so that nobody who holds the original can change what was measured.
            array = np.array(getattr(self, field.name), dtype=np.int64 if field.name == "iteration" else np.float64)
            array.setflags(write=False)
            object.__setattr__(self, field.name, array)
        lengths = {name: len(getattr(self, name)) for name in Point._fields}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"the columns of a curve must have one length, got {lengths}")
        if not np.all(np.isfinite(self.lr)):
            raise ValueError("lr must be finite along a curve")
        if np.any(np.diff(self.iteration) <= 0) or np.any(np.diff(self.lr) < 0):
            raise ValueError("iteration must increase and lr must not decrease along a curve")

    @classmethod
    def from_points(cls, seed: int, outcome: SweepOutcome, points: Sequence[Point]) -> Curve:
        columns = zip(*points, strict=True) if points else [()] * len(Point._fields)
        return cls(seed, outcome, *(np.array(column) for column in columns))

    def points(self) -> list[Point]:
        columns = (getattr(self, name).tolist() for name in Point._fields)
        return [Point(*row) for row in zip(*columns, strict=True)]

    @property
    def finite(self) -> NDArray[np.bool_]:
        """Where the metric and the held-out loss are finite: the only points that bounds may be read from."""
        return np.isfinite(self.metric) & np.isfinite(self.heldout_loss)


def has_diverged(first_loss: float, best_loss: float, loss: float) -> bool:
    """Whether ``loss`` has left the range in which the sweep was learning.

    ``loss > first + max(3 * (first - best), |first|)``: the rise is three times all that was gained, and at least
    the size of the first loss, so that noise before anything was learned does not count. Once the gain is a third
    of |first| or more, adding a constant does not change the answer: negative losses are no special case.

    >>> has_diverged(first_loss=2.3, best_loss=0.3, loss=8.2), has_diverged(2.3, 0.3, 8.4)
    (False, True)
    """
    return loss > first_loss + max(DIVERGENCE_FACTOR * (first_loss - best_loss), abs(first_loss))
