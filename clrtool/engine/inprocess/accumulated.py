"""Metrics that are no mean over samples: what torchmetrics, or a class like its own, gathers over a whole set."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from clrtool.engine.models.forward import call_model, logits
from clrtool.errors import ConfigError
from clrtool.words import shown

# (inputs, targets) of a batch
Unpack = Callable[[Any], tuple[Any, Any]]


def is_accumulated(measure: Any) -> bool:
    """Whether a measure is a metric with ``update``, ``compute`` and ``reset``, as those of torchmetrics."""
    return all(callable(getattr(measure, name, None)) for name in ("update", "compute", "reset"))


class Accumulated:
    """A metric of a whole held-out set, as a measure: it is updated by each batch, and read at the end.

    Args:
        metric: has ``update(outputs, targets)``, ``compute()`` and ``reset()``; a copy of it is used.
        unpack: takes a batch apart.
    """

    def __init__(self, metric: Any, unpack: Unpack) -> None:
        self._metric, self._unpack = copy.deepcopy(metric), unpack
        # as people write it: JaccardIndex and not MulticlassJaccardIndex, which torchmetrics makes of it
        self.name = re.sub(r"^(Binary|Multiclass|Multilabel)", "", type(metric).__name__)
        self.higher_is_better: bool | None = getattr(metric, "higher_is_better", None)

    def __call__(self, model: nn.Module, batch: Any) -> tuple[float, int]:
        inputs, targets = self._unpack(batch)
        outputs = logits(call_model(model, inputs))
        if hasattr(self._metric, "to") and hasattr(outputs, "device"):
            self._metric.to(outputs.device)
        self._metric.update(outputs, targets)
        return 0.0, 0

    def reset(self) -> None:
        """Begin a set anew."""
        self._metric.reset()

    def value(self) -> float:
        """The metric of the set. Raises ConfigError for one that is no number; of a detector's dictionary it is map."""
        found = self._metric.compute()
        found = found.get("map") if isinstance(found, Mapping) else found
        if found is None or getattr(found, "numel", lambda: 1)() != 1:
            raise ConfigError(f"measure: {self.name} must give one number, it gives {shown(found)}: set its average")
        return float(found)
