"""A metric of a whole held-out set as the measure of a program, which gives a model and a batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from clrtool.engine.models.forward import call_model
from clrtool.engine.training.whole_set import WholeSet


@dataclass(frozen=True, eq=False)
class Accumulated:
    """What a model gives for the inputs of a batch, and its targets, go into a metric of the whole set.

    Args:
        whole: the metric.
        unpack: takes a batch apart into inputs and targets.
    """

    whole: WholeSet
    unpack: Callable[[Any], tuple[Any, Any]]

    def __call__(self, model: nn.Module, batch: Any) -> tuple[float, int]:
        inputs, targets = self.unpack(batch)
        return self.whole(call_model(model, inputs), targets)
