"""Metrics that are no mean over samples: what torchmetrics, or a class like its own, gathers over a whole set."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from clrtool.engine.models.forward import logits
from clrtool.errors import ConfigError
from clrtool.words import shown


def is_of_whole_set(measure: Any) -> bool:
    """Whether a measure is a metric with ``update``, ``compute`` and ``reset``, as those of torchmetrics."""
    return all(callable(getattr(measure, name, None)) for name in ("update", "compute", "reset"))


class WholeSet:
    """A metric of a whole held-out set, as a measure: it is updated by each batch, and read at the end.

    Outputs of half precision, targets and the order of classes are fitted to what classes of torchmetrics take.

    Args:
        metric: has ``update(outputs, targets)``, ``compute()`` and ``reset()``; it is changed.
        field: what an error is about.
    """

    def __init__(self, metric: Any, field: str) -> None:
        self._metric, self._field = metric, field
        # as people write it: JaccardIndex and not MulticlassJaccardIndex, which torchmetrics makes of it
        self.name = re.sub(r"^(Binary|Multiclass|Multilabel)", "", type(metric).__name__)
        self.higher_is_better: bool | None = getattr(metric, "higher_is_better", None)
        self._is_of_classes = type(metric).__module__.startswith("torchmetrics.classification")

    def __call__(self, outputs: Any, targets: Any) -> tuple[float, int]:
        """Take a batch in; what a measure gives of it is known for the set alone."""
        self.update(*self.fitted(outputs, targets))
        return 0.0, 0

    def update(self, outputs: Any, targets: Any) -> None:
        """Take in what the metric itself takes."""
        if isinstance(outputs, Tensor) and hasattr(self._metric, "to"):
            self._metric.to(outputs.device)
        self._metric.update(outputs, targets)

    def fitted(self, outputs: Any, targets: Any) -> tuple[Any, Any]:
        """Outputs of a model and targets as the metric takes them."""
        outputs = logits(outputs)
        if not (isinstance(outputs, Tensor) and isinstance(targets, Tensor)):
            return outputs, targets
        outputs = outputs.float() if outputs.is_floating_point() else outputs
        if outputs.shape != targets.shape and outputs.numel() == targets.numel():
            outputs = outputs.view_as(targets)  # one output for each target
        if not self._is_of_classes:
            return outputs, targets
        if targets.is_floating_point():  # as a binary cross entropy takes them
            if not bool((targets == targets.round()).all()):
                raise ConfigError(f"{self._field}: {self.name} needs classes, and targets are not whole numbers")
            targets = targets.long()
        places = targets.shape
        if targets.ndim > 1 and outputs.shape[:-1] == places and outputs.shape[:1] + outputs.shape[2:] != places:
            outputs = outputs.movedim(-1, 1)  # classes are second in all of torchmetrics
        return outputs, targets

    def reset(self) -> None:
        """Start a new set."""
        self._metric.reset()

    def value(self) -> float:
        """The metric of the set. Raises ConfigError for one that is no number; of a detector's dictionary it is map."""
        found = self._metric.compute()
        found = found.get("map") if isinstance(found, Mapping) else found
        if found is None or getattr(found, "numel", lambda: 1)() != 1:
            raise ConfigError(
                f"{self._field}: {self.name} must give one number, it gives {shown(found)}: set its average"
            )
        return float(found)
