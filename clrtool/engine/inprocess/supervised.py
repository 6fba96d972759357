"""Batches that say what their targets are: their loss, and what is measured of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor, nn

from clrtool.core.reading.metric import ACCURACY, LOSS, TOKEN_ACCURACY, TOP5, Metric
from clrtool.engine.data.collate import TARGET_NAMES, default_unpack
from clrtool.engine.inprocess.one_loss import checked_loss
from clrtool.engine.models.forward import call_model, logits
from clrtool.engine.training.constant import Answers
from clrtool.engine.training.losses import (
    MEASURES,
    Measure,
    count_positions,
    count_tokens,
    counted,
    token_cross_entropy,
)
from clrtool.engine.training.workload import EvalSums
from clrtool.errors import ConfigError

# A model's own loss is a cross entropy where they differ by no more than this share: arithmetic of half precision.
SAME = 1e-2

# (model, batch) -> (sum over what was measured, number of it)
CustomMeasure = Callable[[nn.Module, Any], tuple[Any, Any]]
# The mode of a model in which its held-out loss is computed.
Mode = Callable[[nn.Module], AbstractContextManager[Any]]


def evaluation(model: nn.Module) -> AbstractContextManager[Any]:  # noqa: ARG001
    """That in which a model is evaluated anyhow."""
    return nullcontext()


@dataclass(frozen=True, eq=False)
class SupervisedSteps:
    """Batches that say what their targets are: (inputs, ..., targets), or mappings with ``labels``.

    Args:
        loss: (outputs, targets) -> scalar; None for cross entropy, and for the loss that the model itself gives where
            a batch is a mapping.
        measure: in place of the metric's own.
    """

    loss: Callable[..., Tensor] | None
    metric: Metric
    measure: CustomMeasure | None = None

    @property
    def functions(self) -> tuple[Callable[..., Any] | None, ...]:
        """The program's own."""
        return self.loss, self.measure

    def step(self, model: nn.Module, batch: Any) -> Tensor:
        return checked_loss(self._run(model, batch)[0], "loss")

    def evaluate(self, model: nn.Module, batch: Any, samples: int | None = None, mode: Mode = evaluation) -> EvalSums:
        """Sums over a held-out batch, whose targets say how many they are."""
        mean, outputs, targets = self._run(model, batch)
        if mode is not evaluation:
            with mode(model):
                mean = self._run(model, batch)[0]
        number = _counted(self.loss, targets) or samples or 1
        loss = checked_loss(mean, "loss") * number
        if self.measure is not None:
            return EvalSums(loss, number, *self.measure(model, batch))
        outputs = logits(outputs)
        if self.metric is TOKEN_ACCURACY and self._is_the_models(batch):
            outputs, targets = _in_line(mean, outputs, targets)[1:]
        measure = self._measure_of(outputs, targets)
        return EvalSums(loss, number, *(measure(outputs, targets) if measure else (loss, number)))

    def metric_sums(self, model: nn.Module, batch: Any) -> tuple[Any, Any]:
        """The metric alone."""
        return self.evaluate(model, batch)[2:]

    def targets(self, batch: Any) -> Tensor | None:
        found = unpacked(batch)[1]
        return found if isinstance(found, Tensor) else None

    def answers(self, model: nn.Module, batches: Sequence[Any]) -> Answers | None:
        """The targets of batches, and the loss of outputs; None of a loss that the model itself gives."""
        if not batches or self._is_the_models(batches[0]):
            return None
        outputs, targets = logits(self._run(model, batches[0])[1]), [unpacked(batch)[1] for batch in batches]
        if not all(isinstance(each, Tensor) and each.ndim for each in (outputs, *targets)):
            return None
        return Answers(self.loss or cross_entropy, outputs.float(), targets)

    def found_metric(self, model: nn.Module, batch: Any) -> Metric:
        """What there is to measure by itself: accuracy of classes or of tokens, else the loss."""
        _, outputs, targets = self._run(model, batch)
        outputs = logits(outputs)
        if not isinstance(outputs, Tensor) or not isinstance(targets, Tensor) or targets.is_floating_point():
            return LOSS
        if targets.ndim == 1 and outputs.ndim == 2 and len(outputs) == len(targets):
            return ACCURACY
        place = None if self._is_the_models(batch) or targets.ndim < 2 else classes_at(outputs, targets, self.loss)
        if place is not None:
            return ACCURACY if place == 1 and targets.ndim > 2 else TOKEN_ACCURACY
        return LOSS  # a model that shifts its tokens inside is no model whose outputs can be held against them

    def check_metric(self, model: nn.Module, batch: Any) -> None:
        """Raise ConfigError for a metric that this batch does not have."""
        found = self.found_metric(model, batch)
        if self.metric is TOKEN_ACCURACY and found is LOSS and self._is_the_models(batch):
            found = TOKEN_ACCURACY if self._has_tokens(model, batch) else LOSS
        if self.measure is None and self.metric not in (LOSS, found, *((TOP5,) if found is ACCURACY else ())):
            raise ConfigError(
                f"metric: {self.metric.name} cannot be measured on these batches, {found.name} can; give "
                "measure=(model, batch) -> (sum, number) for one of your own"
            )

    def _has_tokens(self, model: nn.Module, batch: Any) -> bool:
        """Whether the loss that a model gives itself is the cross entropy of its outputs and the batch's labels."""
        loss, outputs, targets = self._run(model, batch)
        outputs = logits(outputs)
        are_both = isinstance(outputs, Tensor) and isinstance(targets, Tensor) and not targets.is_floating_point()
        if not are_both or targets.ndim < 2 or outputs.shape[:-1] != targets.shape:
            return False
        return _in_line(loss, outputs, targets)[0] <= SAME * max(1.0, abs(float(loss.detach())))

    def order_warnings(self, model: nn.Module, batch: Any) -> tuple[str, ...]:
        """What to say where classes may lie in either of two dimensions of the outputs."""
        _, outputs, targets = self._run(model, batch)
        outputs = logits(outputs)
        if not isinstance(targets, Tensor) or targets.is_floating_point() or targets.ndim < 2:
            return ()
        shape = getattr(outputs, "shape", ())
        if shape[:-1] != targets.shape or shape[:1] + shape[2:] != targets.shape:
            return ()
        taken = "last" if classes_at(outputs, targets, self.loss) == -1 else "second"
        return (
            f"Outputs of shape {tuple(shape)} may have their classes second or last: they are taken to be {taken}.",
        )

    def _measure_of(self, outputs: Any, targets: Any) -> Measure | None:
        """How the metric is counted, of classes in the second dimension too."""
        measure = MEASURES[self.metric]
        if measure is None or self.metric is TOP5 or targets.ndim < 2:
            return measure
        return count_tokens if classes_at(outputs, targets, self.loss) == -1 else count_positions

    def _is_the_models(self, batch: Any) -> bool:
        return self.loss is None and isinstance(batch, Mapping)

    def _run(self, model: nn.Module, batch: Any) -> tuple[Any, Any, Any]:
        """Loss, outputs and targets of a batch."""
        inputs, targets = unpacked(batch)
        if self._is_the_models(batch):
            outputs = model(**batch)
            loss = outputs.get("loss") if isinstance(outputs, Mapping) else getattr(outputs, "loss", None)
            if loss is None:
                raise ConfigError("loss: the model gave none for a batch that is a mapping; give loss= or step=")
            return loss, outputs, targets
        outputs = call_model(model, inputs)
        return (self.loss or cross_entropy)(outputs, targets), outputs, targets


def _in_line(loss: Tensor, outputs: Tensor, targets: Tensor) -> tuple[float, Tensor, Tensor]:
    """How far a model's own loss is from the cross entropy of its tokens; outputs and targets as they belong together.

    A language model shifts them inside: the output at a place is for the token after it. Whether it does is told by
    which cross entropy is nearer to the loss that it gave.
    """
    ways = ((outputs, targets), (outputs[:, :-1], targets[:, 1:]))
    far = [abs(float((loss - token_cross_entropy(*way)).detach())) for way in ways]
    place = int(far[1] < far[0])
    return far[place], *ways[place]


def unpacked(batch: Any) -> tuple[Any, Any]:
    """(inputs, targets) of a batch; the last of several is the targets."""
    if isinstance(batch, tuple | list) and len(batch) > 2:
        return tuple(batch[:-1]), batch[-1]
    try:
        return default_unpack(batch)
    except ConfigError:
        raise ConfigError(
            f"train_loader: a batch must be (inputs, targets) or a mapping with one of "
            f"{', '.join(TARGET_NAMES)}; it is {type(batch).__name__}. For any other give step=(model, batch) -> loss"
        ) from None


def _alike(outputs: Any, targets: Any) -> bool:
    """Whether targets have a number for each of several outputs."""
    shapes = getattr(outputs, "shape", None), getattr(targets, "shape", None)
    return shapes[0] == shapes[1] and shapes[0] is not None and shapes[0][-1:] > (1,)


def cross_entropy(outputs: Any, targets: Any) -> Tensor:
    """The loss of class numbers where none was given. Raises ConfigError for targets that are none."""
    outputs = logits(outputs)
    if not isinstance(targets, Tensor) or targets.is_floating_point():
        kind = targets.dtype if isinstance(targets, Tensor) else type(targets).__name__
        shares = " or, of shares of the classes, torch.nn.CrossEntropyLoss()" if _alike(outputs, targets) else ""
        raise ConfigError(
            f"loss: targets of {kind} are no class numbers: give loss=, such as torch.nn.MSELoss(){shares}"
        )
    if targets.ndim > 1 and classes_at(outputs, targets) == -1:
        return token_cross_entropy(outputs, targets)
    return F.cross_entropy(outputs, targets)


def classes_at(outputs: Tensor, targets: Tensor, loss: Any = None) -> int | None:
    """The dimension of outputs in which the classes of each target lie: 1, as torch's losses take them, or the last.

    Where both fit it is that of the loss: torch's own knows the second alone. None where none fits.
    """
    if outputs.ndim != targets.ndim + 1:
        return None
    fits = {1: outputs.shape[:1] + outputs.shape[2:], -1: outputs.shape[:-1]}
    order = (-1, 1) if loss is None else (1, -1)
    return next((place for place in order if fits[place] == targets.shape), None)


def _counted(loss: Any, targets: Any) -> Any:
    """What the loss is the mean of: samples, or the tokens that count; None where targets do not tell."""
    if not isinstance(targets, Tensor) or targets.ndim == 0:
        return None
    is_of_classes = loss is None or isinstance(loss, nn.CrossEntropyLoss)
    return counted(targets, tokens=is_of_classes and targets.ndim > 1 and not targets.is_floating_point())
