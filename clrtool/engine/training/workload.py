"""A workload: what is trained, and how. The facts that a sweep needs, and the steps of which training is made.

A config is one way to build it, a program's own objects another. A sweep takes a fresh model from the recipe and throws
it away, so there is nothing to restore afterwards.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from clrtool.config.schema import SweepConfig, TrainingConfig
from clrtool.core.planning.sweep_size import SweepSize, race_size, sweep_size
from clrtool.core.racing.going_on import Start
from clrtool.core.reading.metric import ACCURACY, Metric
from clrtool.core.reading.verdict import Advice
from clrtool.core.results.record import Group
from clrtool.engine.models.pretrained import keep_frozen_statistics
from clrtool.engine.runtime.ranks import SINGLE_PROCESS, Ranks
from clrtool.engine.runtime.rng import seed_everything
from clrtool.engine.runtime.sharded import clip_norm, is_sharded
from clrtool.engine.training.constant import Answers
from clrtool.engine.training.shared_model import SharedModel
from clrtool.errors import as_config_error


class Loader(Protocol):
    """Batches of the training set, on the device, of whatever kind the steps of the workload take."""

    @property
    def iterations_per_epoch(self) -> int: ...

    @property
    def batch_size(self) -> int:
        """Samples of an optimizer step."""
        ...

    def batches(self, seed: int, start: int) -> Iterator[Any]:
        """Every batch from iteration ``start`` on, without end, in an order that the seed draws."""
        ...


class OptimizerFactory(Protocol):
    """A fresh optimizer over the parameters of a model that train; every group of it holds its ``lr_ratio``."""

    @property
    def name(self) -> str:
        """For messages."""
        ...

    def __call__(self, model: nn.Module, **options: Any) -> Optimizer:
        """Args: ``options``, which make a step faster, not different."""
        ...


class InTraining(Protocol):
    """What a step changes: a model, which it calls as ``forward``, and its optimizer; ``scaler`` is for fp16."""

    model: nn.Module
    forward: nn.Module
    optimizer: Optimizer
    scaler: torch.amp.GradScaler


class EvalSums(NamedTuple):
    """Sums of the loss and of the metric over held-out samples, each with what it is a sum over."""

    loss: Any
    samples: Any
    metric: Any
    number: Any

    @property
    def means(self) -> tuple[float, float]:
        """The mean loss and the metric."""
        return self.loss / max(self.samples, 1), self.metric / max(self.number, 1)


@dataclass(frozen=True, eq=False, kw_only=True)
class Workload(ABC):
    """A training task: model, optimizer, data, and how a step is taken.

    Args:
        make_model: returns a new model with weights drawn from the global generators.
        make_optimizer: returns a new optimizer for it.
        loader: batches of the training set, on ``device``.
        device, precision: where the model runs, and in which number format.
        training: micro-batches, clipping, and options for speed.
        data_sha256: hash of the training and the held-out set.
        metric: the metric of the curves.
        evaluations: held-out evaluations of a sweep whose config leaves them open, after one before any training.
        plan_epochs: length of the planned training, which a range test should not exceed.
        groups: the parameter groups of the optimizer.
        needs_closure: whether the optimizer computes loss and gradients again within a step, as SAM does.
        deterministic: whether the numbers must be the same each time, to the last bit.
        sources: hashes of the files that a config names beside the data: modules of factories, weights.
        warnings: sentences about what makes the bounds less reliable.
        doubts: what keeps a verdict from being clear, whatever is measured.
        ranks: the processes that train together.
        start: where a training stands that is under way, and from which all seeds go on; None for one that begins.
    """

    make_model: Callable[[], nn.Module]
    make_optimizer: OptimizerFactory
    loader: Loader
    device: torch.device
    precision: str
    training: TrainingConfig
    data_sha256: str
    metric: Metric = ACCURACY
    evaluations: int = 60
    plan_epochs: float = 30
    groups: tuple[Group, ...] = ()
    needs_closure: bool = False
    deterministic: bool = False
    sources: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    doubts: tuple[Advice, ...] = ()
    ranks: Ranks = SINGLE_PROCESS
    start: Start | None = None
    # whether ``train_step`` is the one below and a batch is gathered by place, so that it may be a CUDA graph
    may_be_captured: ClassVar[bool] = False

    @property
    @abstractmethod
    def heldout_samples(self) -> int:
        """Number of held-out samples, or of what the metric counts in them; 0 if unknown."""

    @property
    @abstractmethod
    def chance(self) -> float | None:
        """The metric of a model that always gives the commonest answer; None if that is unknown."""

    @property
    def iterations_per_epoch(self) -> int:
        return self.loader.iterations_per_epoch

    @property
    def batch_size(self) -> int:
        return self.loader.batch_size

    @property
    def samples(self) -> int | None:
        """Size of the training set; None where its loader does not tell."""
        return None

    def sweep_size(self, sweep: SweepConfig) -> SweepSize:
        """The length of a range test, with every ``auto`` decided. Raises ConfigError if it exceeds its budget."""
        epochs = None if sweep.epochs == "auto" else sweep.epochs
        seeds = None if sweep.seeds == "auto" else sweep.seeds
        length = self.iterations_per_epoch, self.plan_epochs
        with as_config_error("sweep: "):
            return (
                race_size(*length, sweep.budget, epochs, seeds) if sweep.races else sweep_size(*length, epochs, seeds)
            )

    @property
    def plan_iterations(self) -> int:
        """Optimizer steps of the training that is planned."""
        return max(1, int(self.plan_epochs * self.iterations_per_epoch))

    @abstractmethod
    def losses(self, model: nn.Module, batch: Any) -> Iterable[Tensor]:
        """The losses of the micro-batches of a batch, scalars whose sum is the loss of the step.

        Each is differentiated before the next is computed, so that memory holds the graph of one.
        """

    @abstractmethod
    def heldout_batches(self) -> Iterable[Any]:
        """This rank's shard of the held-out set, on the device."""

    @abstractmethod
    def eval_step(self, model: nn.Module, batch: Any) -> EvalSums:
        """What a held-out batch adds: numbers, or scalars on the device, for which nobody waits yet."""

    @abstractmethod
    def on_device(self) -> AbstractContextManager[None]:
        """Run in the workload's arithmetic, and leave the global generators and settings as they were."""

    @abstractmethod
    def evaluating(self) -> AbstractContextManager[None]:
        """What evaluations run in, beside the model's evaluation mode: without gradients, to begin with."""

    @property
    def has_sums_alone(self) -> bool:
        """Whether evaluations are made of the sums of batches alone, and gather nothing on the host."""
        return True

    def of_whole_set(self, sums: EvalSums) -> EvalSums:
        """The sums over the set that was just gone through, with a metric that is no mean over samples in its place."""
        return sums

    def answers(self, model: nn.Module) -> Answers | None:  # noqa: ARG002
        """The held-out targets and the loss of outputs of a model; None where a step does not tell them apart."""
        return None

    def blamed_on(self, field: str) -> AbstractContextManager[None]:  # noqa: ARG002
        """What becomes of an error in code that is not ours: it stays what it is."""
        return nullcontext()

    def seed(self, seed: int) -> None:
        """Seed every global generator."""
        seed_everything(seed)

    def place(self, model: nn.Module) -> nn.Module:
        """The model on the device."""
        return model.to(self.device)

    def shared(self, model: nn.Module) -> SharedModel | None:
        """Whose turn it is with a model that cannot be copied; None where each trainer has one of its own."""
        return SharedModel(model) if is_sharded(model) else None

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model as the steps of training call it."""
        return model

    def set_train_mode(self, model: nn.Module) -> None:
        """Put the model into training mode, but for what is frozen."""
        model.train()
        keep_frozen_statistics(model)

    def train_step(self, trainer: InTraining, batch: Any) -> Tensor | None:
        """One optimizer step, and the loss of its batch before it, a scalar for which nobody waits yet.

        None, and no step, for a batch without a loss, which is skipped. In fp16 a step that overflows is taken again at
        half the scale, until it succeeds.
        """
        scaler = trainer.scaler
        while True:
            loss = self.gradients(trainer, batch)
            if loss is None:
                return None
            if not scaler.is_enabled():
                self.clip(trainer.model)
                trainer.optimizer.step(*self.closures(trainer, batch))
                return loss
            scale = scaler.get_scale()
            scaler.unscale_(trainer.optimizer)
            self.clip(trainer.model)
            scaler.step(trainer.optimizer)
            scaler.update()
            if scaler.get_scale() >= scale:
                return loss
            if scale <= 1 or not math.isfinite(
                self.ranks.numbers(self.ranks.mean(loss))
            ):  # it is not the scale that overflows
                return torch.full_like(loss, math.inf)

    def closures(self, trainer: InTraining, batch: Any) -> tuple[Any, ...]:
        """Arguments for the optimizer's step: none, or a closure that computes loss and gradients of a batch again."""

        def closure() -> Tensor | None:
            with torch.enable_grad():
                loss = self.gradients(trainer, batch)
            self.clip(trainer.model)
            return loss

        return (closure,) if self.needs_closure else ()

    def gradients(self, trainer: InTraining, batch: Any) -> Tensor | None:
        """Gradients of a batch, in place of those before, and its loss, if there is one."""
        trainer.optimizer.zero_grad()
        total: Tensor | None = None
        for loss in self.losses(trainer.forward, batch):
            torch.autograd.backward(trainer.scaler.scale(loss))
            total = loss.detach() if total is None else total + loss.detach()
        return total

    def clip(self, model: nn.Module) -> None:
        """Bound the gradient, before any momentum or scaling by the optimizer."""
        if self.training.clip_value is not None:
            nn.utils.clip_grad_value_(model.parameters(), self.training.clip_value)
        if self.training.clip_norm is not None and is_sharded(model):
            clip_norm(model.parameters(), self.training.clip_norm)
        elif self.training.clip_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), self.training.clip_norm)
