"""What is done with a batch of a program's own loader: its loss, and what is measured of it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from clrtool.core.reading.metric import ACCURACY, LOSS, METRICS, Metric, other_metric
from clrtool.engine.inprocess.accumulated import Accumulated
from clrtool.engine.inprocess.one_loss import checked_loss
from clrtool.engine.inprocess.supervised import CustomMeasure, Mode, SupervisedSteps, evaluation, unpacked
from clrtool.engine.models.forward import call_model
from clrtool.engine.training.whole_set import WholeSet, is_of_whole_set
from clrtool.engine.training.workload import EvalSums
from clrtool.errors import ConfigError, as_config_error
from clrtool.words import nearest, shown

Step = Callable[[nn.Module, Any], Tensor | None]  # None to skip a batch


@dataclass(frozen=True, eq=False)
class CustomSteps:
    """A ``step`` of the program's own, with its ``measure``, or with a metric of what the model's forward gives.

    Args:
        forward: how the metric is measured where it is one that has a name.
        has_loss: whether ``step`` is called on held-out data too.
    """

    step: Step
    measure: CustomMeasure | None
    metric: Metric
    forward: SupervisedSteps | None = None
    has_loss: bool = True

    @property
    def functions(self) -> tuple[Callable[..., Any] | None, ...]:
        """The program's own."""
        return self.step, self.measure

    def evaluate(self, model: nn.Module, batch: Any, samples: int | None, mode: Mode = evaluation) -> EvalSums:
        """Sums over a held-out batch; without a loss of its own the metric stands for it, lower where it is better."""
        found = None if self.measure is None else self.measure(model, batch)
        if found is not None and not self.has_loss:
            total, number = found
            return EvalSums(total * self.metric.value(-1.0), number, total, number)
        number = samples or 1
        with mode(model):
            made = self.step(model, batch)
        loss = math.nan if made is None else checked_loss(made, "step") * number  # a batch that it skips
        return EvalSums(loss, number, *(found or (loss, number)))

    def targets(self, batch: Any) -> Tensor | None:
        return None if self.forward is None else self.forward.targets(batch)


def with_gradients(step: Step, model: nn.Module, batch: Any) -> Tensor | None:
    """The step, where it differentiates by itself, as an output by its input, and gradients are off around it."""
    with torch.enable_grad():
        return step(model, batch)


def make_steps(
    loss: Callable[..., Tensor] | None,
    step: Step | None,
    measure: CustomMeasure | None,
    metric: str,
    higher_is_better: bool | None,
) -> CustomSteps | SupervisedSteps:
    """What was asked for, with the metric of batches that are to be looked at as ``ACCURACY``.

    Raises:
        ConfigError: the options do not go together, or the metric is unknown.
    """
    if step is not None and loss is not None:
        raise ConfigError("loss: step gives the loss; leave out one of the two")
    if measure is not None:
        if is_of_whole_set(measure):
            measure = _of_whole_set(measure)
        if isinstance(measure, Accumulated):
            metric = measure.whole.name if metric == "auto" else metric
            higher_is_better = measure.whole.higher_is_better if higher_is_better is None else higher_is_better
        named = _named(metric, higher_is_better)
        return SupervisedSteps(loss, named, measure) if step is None else CustomSteps(step, measure, named)
    if higher_is_better is not None:
        raise ConfigError("higher_is_better: is only for measure=; a named metric states it itself")
    if metric != "auto" and metric not in METRICS:
        raise ConfigError(f"metric: {shown(metric)} is no metric; {nearest(str(metric), ['auto', *METRICS])}")
    if step is None:
        return SupervisedSteps(loss, ACCURACY if metric == "auto" else METRICS[metric])
    if metric in ("auto", "loss"):
        return CustomSteps(step, None, LOSS)
    forward = SupervisedSteps(None, METRICS[metric])
    return CustomSteps(step, forward.metric_sums, METRICS[metric], forward)


def _of_whole_set(metric: Any) -> Accumulated:
    """A measure by a copy of a metric of torchmetrics."""
    whole = WholeSet(copy.deepcopy(metric), "measure")

    def predict(model: nn.Module, batch: Any) -> tuple[Any, Any]:
        inputs, targets = unpacked(batch)
        return whole.fitted(call_model(model, inputs), targets)

    return Accumulated(whole, predict)


def _named(metric: str, higher_is_better: bool | None) -> Metric:
    """The metric of a ``measure``: one that is known, or another by any name, which has to say its way."""
    if metric in METRICS:
        return METRICS[metric]
    if higher_is_better is None:
        raise ConfigError("higher_is_better: a measure needs higher_is_better=True or False, or metric='accuracy'")
    with as_config_error("metric: "):
        return other_metric("metric" if metric == "auto" else str(metric), higher_is_better=higher_is_better)
