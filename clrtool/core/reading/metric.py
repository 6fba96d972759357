"""What a range test reads its bounds from: held-out accuracy by default, or another number of the held-out set."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from clrtool.core.schedules import FloatArray


@dataclass(frozen=True)
class Metric:
    """A number that says how good a model is, measured on the held-out set.

    Args:
        name: what files call it.
        label: what people read, in the middle of a sentence.
        higher_is_better: which way it goes while a model learns.
        is_share: whether it is a share of right answers between 0 and 1, whose noise follows from their number.
        unit: what it is counted over.
    """

    name: str
    label: str
    higher_is_better: bool = True
    is_share: bool = False
    unit: str = "sample"

    def __post_init__(self) -> None:
        if not self.name.isidentifier() or (self.is_share and not self.higher_is_better):
            raise ValueError(f"a metric needs a name, and a share of right answers is better when higher: {self}")

    def score(self, values: ArrayLike) -> FloatArray:
        """The same curve with higher as better, and nothing below its first value but for a share.

        A loss that explodes says no more than one that is back where it began; it would bury all the rest.

        >>> LOSS.score([2.0, 1.0, 9e9])
        array([-2., -1., -2.])
        """
        scores = np.asarray(values, dtype=np.float64) * (1 if self.higher_is_better else -1)
        return scores if self.is_share else np.maximum(scores, scores[0])

    def value(self, score: float) -> float:
        """A score as people read it: the way back from :meth:`score`."""
        return score if self.higher_is_better else -score

    @property
    def rises(self) -> str:
        return "rises" if self.higher_is_better else "falls"


ACCURACY = Metric("accuracy", "accuracy", is_share=True)
TOP5 = Metric("top5", "top-5 accuracy", is_share=True)
TOKEN_ACCURACY = Metric("token_accuracy", "token accuracy", is_share=True, unit="token")
LOSS = Metric("loss", "held-out loss", higher_is_better=False)
METRICS = {metric.name: metric for metric in (ACCURACY, TOP5, TOKEN_ACCURACY, LOSS)}


def other_metric(label: str, *, higher_is_better: bool) -> Metric:
    """A metric that people name as they like; files call it by a name of letters.

    >>> other_metric("IoU, mean", higher_is_better=True).name
    'IoU_mean'

    Raises:
        ValueError: it has neither a letter nor a digit.
    """
    label = " ".join(label.split())
    name = re.sub(r"\W+", "_", label)
    if not name.strip("_"):
        raise ValueError(f"{label!r} must be a name, with a letter or a digit in it")
    return Metric(name if name.isidentifier() else f"_{name}", label, higher_is_better=higher_is_better)


def share_error(share: float, samples: int) -> float:
    """Standard error of a share of right answers; of one wrong answer at the least.

    >>> round(share_error(0.9, 900), 3)
    0.01
    """
    return math.sqrt(max(share * (1 - share), 1 / samples) / samples)
