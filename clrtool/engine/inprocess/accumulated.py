"""A metric of a whole held-out set as the measure of a program, which gives a model and a batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from clrtool.engine.training.whole_set import WholeSet


@dataclass(frozen=True, eq=False)
class Accumulated:
    """What is predicted for a batch, and its targets, go into a metric of the whole set.

    Args:
        whole: the metric.
        predict: (model, batch) -> what the metric takes.
    """

    whole: WholeSet
    predict: Callable[[nn.Module, Any], tuple[Any, Any]]

    def __call__(self, model: nn.Module, batch: Any) -> tuple[float, int]:
        self.whole.update(*self.predict(model, batch))
        return 0.0, 0
