"""The loss and the metric that a config names, fitted to what the targets are."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from clrtool.config.components import Component, MetricConfig
from clrtool.core.reading.metric import ACCURACY, LOSS, METRICS, TOKEN_ACCURACY, TOP5
from clrtool.engine.configured.torch_metrics import made_metric
from clrtool.engine.data.tensors import SHORT, Task, loss_class
from clrtool.engine.runtime.factories import FactoryImport, blamed_on, call
from clrtool.engine.training.losses import MEASURES, Loss, Measure, counted, token_cross_entropy
from clrtool.engine.training.whole_set import WholeSet, is_of_whole_set
from clrtool.errors import ConfigError
from clrtool.words import nearest


@dataclass(frozen=True)
class Criterion:
    """A loss that takes a model's outputs as they are: the mean over the batch, or over its tokens.

    Args:
        classes_are_second: whether the outputs of tokens are (batch, classes, ...), as torch's own losses take them.
    """

    function: Loss
    task: Task
    classes_are_second: bool = False

    @property
    def is_cross_entropy(self) -> bool:
        return isinstance(self.function, nn.CrossEntropyLoss)

    @property
    def is_of_tokens(self) -> bool:
        return self.task is Task.TOKENS and self.is_cross_entropy

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if self.is_of_tokens:
            outputs = outputs.movedim(1, -1) if self.classes_are_second else outputs
            return token_cross_entropy(outputs, targets, self.function)
        if self.task is Task.VALUES and outputs.shape != targets.shape and outputs.numel() == targets.numel():
            targets = targets.view_as(outputs)  # (N,) against (N, 1) would broadcast to (N, N)
        return self.function(outputs, targets)


def make_loss(loss: Component, task: Task, factory: FactoryImport, device: torch.device) -> Criterion:
    """The loss that a config names: a class of ``torch.nn``, or what a factory returns."""
    if loss.factory is not None:
        criterion = call(factory(loss.factory, "loss.factory"), "loss.args", loss.args)
        # the weights of classes, say
        return Criterion(criterion.to(device) if isinstance(criterion, nn.Module) else criterion, task)
    known = {name: kind for name, kind in vars(nn).items() if name.endswith("Loss") and isinstance(kind, type)}
    name = loss_class(str(loss.name))
    if name not in known:
        raise ConfigError(f"loss.name: unknown loss {loss.name!r}; {nearest(name, [*SHORT, *known])}")
    if name == "CrossEntropyLoss" and task is Task.VALUES:
        raise ConfigError(f"loss.name: {loss.name} needs class numbers, the targets are real numbers; try mse")
    # the weights of classes are a list in a config, and a tensor to torch
    with blamed_on("loss.args"):
        args = {key: torch.tensor(value) if isinstance(value, list) else value for key, value in loss.args.items()}
    return Criterion(call(known[name], "loss.args", args).to(device), task)


def number_of(loss: Loss, targets: Tensor) -> int | Tensor:
    """What a loss is the mean of: samples, or the tokens that count."""
    return counted(targets, tokens=isinstance(loss, Criterion) and loss.is_of_tokens)


def weight_of(loss: Loss, targets: Tensor) -> int | Tensor:
    """What the loss of a micro-batch weighs in that of the batch: what it is the mean of, by weights of classes."""
    function = loss.function if isinstance(loss, Criterion) else None
    if isinstance(function, nn.CrossEntropyLoss) and function.weight is not None and not targets.is_floating_point():
        return function.weight[targets[targets != function.ignore_index]].sum()
    return number_of(loss, targets)


def make_measure(config: MetricConfig, task: Task, factory: FactoryImport) -> Measure | WholeSet | None:
    """The metric that a config names; None for the loss, which is measured anyhow."""
    if config.factory is not None:
        function = call(factory(config.factory, "metric.factory"), "metric.args", config.args)
        if is_of_whole_set(function):
            return WholeSet(function, "metric")

        def mean(outputs: Tensor, targets: Tensor) -> tuple[Tensor, int]:
            return torch.as_tensor(function(outputs, targets), device=outputs.device) * len(targets), len(targets)

        return mean
    if config.metric.name not in METRICS:
        return made_metric(config)
    needed = {ACCURACY: Task.CLASSES, TOP5: Task.CLASSES, TOKEN_ACCURACY: Task.TOKENS, LOSS: task}[config.metric]
    if task is not needed:
        raise ConfigError(f"metric.name: {config.name} needs {needed.value}; the targets are {task.value}")
    return MEASURES[config.metric]
