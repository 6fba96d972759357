"""Losses and metrics: functions of (outputs, targets), fitted to what the targets are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from clrtool.config.schema import Component, MetricConfig
from clrtool.core.reading.metric import ACCURACY, LOSS, TOKEN_ACCURACY, TOP5, Metric
from clrtool.engine.data.tensors import SHORT, Task
from clrtool.engine.runtime.factories import FactoryImport, blamed_on, call
from clrtool.errors import ConfigError
from clrtool.words import nearest

Loss = Callable[[Tensor, Tensor], Tensor]
# (outputs, targets) -> (sum over what was measured, number of it)
Measure = Callable[[Tensor, Tensor], tuple[Tensor, Tensor | int]]
# Targets that a token loss of torch leaves out.
IGNORED = -100


@dataclass(frozen=True)
class Criterion:
    """A loss that takes a model's outputs as they are: the mean over the batch, or over its tokens."""

    function: Loss
    task: Task

    @property
    def is_cross_entropy(self) -> bool:
        return isinstance(self.function, nn.CrossEntropyLoss)

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if self.task is Task.TOKENS and self.is_cross_entropy:
            loss = self.function(outputs.flatten(0, 1), targets.flatten())
            # torch's mean over no token is NaN; a part of a batch may hold none that counts
            return torch.where((targets != IGNORED).any(), loss, torch.zeros_like(loss))
        if self.task is Task.VALUES and outputs.shape != targets.shape and outputs.numel() == targets.numel():
            targets = targets.view_as(outputs)  # (N,) against (N, 1) would broadcast to (N, N)
        return self.function(outputs, targets)


def make_loss(loss: Component, task: Task, factory: FactoryImport, device: torch.device) -> Criterion:
    """The loss that a config names: a class of ``torch.nn``, or what a factory returns."""
    if loss.factory is not None:
        made = call(factory(loss.factory, "loss.factory"), "loss.args", loss.args)
        # the weights of classes, say
        return Criterion(made.to(device) if isinstance(made, nn.Module) else made, task)
    known = {name: kind for name, kind in vars(nn).items() if name.endswith("Loss") and isinstance(kind, type)}
    name = SHORT.get(str(loss.name), str(loss.name))
    if name not in known:
        raise ConfigError(f"loss.name: unknown loss {loss.name!r}; {nearest(name, [*SHORT, *known])}")
    if name == "CrossEntropyLoss" and task is Task.VALUES:
        raise ConfigError(f"loss.name: {loss.name} needs class numbers, the targets are real numbers; try mse")
    # the weights of classes are a list in a config, and a tensor to torch
    with blamed_on("loss.args"):
        args = {key: torch.tensor(value) if isinstance(value, list) else value for key, value in loss.args.items()}
    return Criterion(call(known[name], "loss.args", args).to(device), task)


def counted(loss: Loss, targets: Tensor) -> int | Tensor:
    """What a loss is the mean of: samples, or the tokens that count."""
    if isinstance(loss, Criterion) and loss.task is Task.TOKENS and loss.is_cross_entropy:
        return (targets != IGNORED).sum()
    return len(targets)


def weighed(loss: Loss, targets: Tensor) -> int | Tensor:
    """What the loss of a part of a batch weighs in that of the whole: what it is the mean of, by weights of classes."""
    function = loss.function if isinstance(loss, Criterion) else None
    if isinstance(function, nn.CrossEntropyLoss) and function.weight is not None and not targets.is_floating_point():
        return function.weight[targets[targets != function.ignore_index]].sum()
    return counted(loss, targets)


def make_measure(config: MetricConfig, task: Task, factory: FactoryImport) -> Measure | None:
    """The metric that a config names; None for the loss, which is measured anyhow."""
    if config.factory is not None:
        function = call(factory(config.factory, "metric.factory"), "metric.args", config.args)

        def mean(outputs: Tensor, targets: Tensor) -> tuple[Tensor, int]:
            return torch.as_tensor(function(outputs, targets), device=outputs.device) * len(targets), len(targets)

        return mean
    needed = {ACCURACY: Task.CLASSES, TOP5: Task.CLASSES, TOKEN_ACCURACY: Task.TOKENS, LOSS: task}[config.metric]
    if task is not needed:
        raise ConfigError(f"metric.name: {config.name} needs {needed.value}; the targets are {task.value}")
    return MEASURES[config.metric]


def count_right(outputs: Tensor, targets: Tensor) -> tuple[Tensor, int]:
    """Samples whose highest output is their class."""
    return (outputs.argmax(1) == targets).sum(), len(targets)


def count_in_top5(outputs: Tensor, targets: Tensor) -> tuple[Tensor, int]:
    """Samples whose class is among their five highest outputs."""
    best = outputs.topk(min(5, outputs.shape[1]), dim=1).indices
    return (best == targets[:, None]).sum(), len(targets)


def count_tokens(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens whose highest output is their class, of those that count."""
    counted = targets != IGNORED
    return ((outputs.argmax(-1) == targets) & counted).sum(), counted.sum()


MEASURES: Mapping[Metric, Measure | None] = {
    ACCURACY: count_right, TOP5: count_in_top5, TOKEN_ACCURACY: count_tokens, LOSS: None
}  # fmt: skip


def chance(metric: Metric, targets: Tensor) -> float | None:
    """The metric of who always gives the commonest answers; None where there is no such."""
    if not metric.is_share:
        return None
    answers = targets[targets != IGNORED]
    counts = answers.bincount().sort(descending=True).values
    return float(counts[: 5 if metric is TOP5 else 1].sum()) / len(answers)


def logits(outputs: Any) -> Any:
    """The tensor in a model's outputs: themselves, their ``logits``, or the first of several."""
    if isinstance(outputs, Tensor):
        return outputs
    if isinstance(outputs, Mapping):
        return outputs.get("logits", outputs)
    found = getattr(outputs, "logits", outputs)
    return found[0] if isinstance(found, tuple) and found else found
