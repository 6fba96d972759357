"""``compute_metrics`` of a ``transformers.Trainer``, as a metric of the whole held-out set."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from clrtool.engine.inprocess.accumulated import Accumulated
from clrtool.engine.training.whole_set import WholeSet
from clrtool.errors import ConfigError
from clrtool.words import nearest

# What a Trainer puts in front of the names of its evaluation.
PREFIX = "eval_"
# Labels that count for nothing, with which those of batches of several lengths are made alike.
PADDING = -100


def computed(trainer: Any, name: str) -> Accumulated:
    """The measure of a number that a Trainer's ``compute_metrics`` gives by a name, with or without ``eval_``."""

    def predict(model: nn.Module, batch: Any) -> tuple[Any, Any]:
        model.eval()
        _, outputs, labels = trainer.prediction_step(model, batch, prediction_loss_only=False)
        if trainer.preprocess_logits_for_metrics is not None:
            outputs = trainer.preprocess_logits_for_metrics(outputs, labels)
        return outputs, labels

    return Accumulated(WholeSet(_Computed(trainer.compute_metrics, name), "metric"), predict)


class _Computed:
    """Predictions and labels of the whole set, as arrays, of which ``compute_metrics`` makes a dictionary."""

    def __init__(self, function: Any, name: str) -> None:
        self._function, self._name = function, name
        self.reset()

    def reset(self) -> None:
        self._predictions, self._labels = list[Any](), list[Any]()

    def update(self, outputs: Any, labels: Any) -> None:
        self._predictions.append(_arrays(outputs))
        self._labels.append(_arrays(labels))

    def compute(self) -> Any:
        from transformers import EvalPrediction

        found = self._function(EvalPrediction(predictions=_joined(self._predictions), label_ids=_joined(self._labels)))
        for name in (self._name, self._name.removeprefix(PREFIX), PREFIX + self._name):
            if name in found:
                return found[name]
        raise ConfigError(
            f"metric: compute_metrics gives no {self._name!r}; {nearest(self._name.removeprefix(PREFIX), list(found))}"
        )


def _arrays(value: Any) -> Any:
    """Tensors, however nested, as arrays."""
    if isinstance(value, tuple | list):
        return tuple(map(_arrays, value))
    return value.detach().float().cpu().numpy() if value.is_floating_point() else value.detach().cpu().numpy()


def _joined(batches: list[Any]) -> Any:
    """Batches one after the other, filled up to the longest."""
    if isinstance(batches[0], tuple):
        return tuple(map(_joined, map(list, zip(*batches, strict=True))))
    if batches[0].ndim < 2:
        return np.concatenate(batches)
    longest = max(batch.shape[1] for batch in batches)
    filled = (
        np.pad(batch, [(0, 0), (0, longest - batch.shape[1])] + [(0, 0)] * (batch.ndim - 2), constant_values=PADDING)
        for batch in batches
    )
    return np.concatenate([*filled])
