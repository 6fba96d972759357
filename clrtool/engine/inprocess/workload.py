"""The workload of a program's own model, optimizer and loaders: all of it copied, and nothing of it changed.

A sweep trains copies. What the program passed is as it was afterwards, bit for bit, and so are its generators of random
numbers, however the sweep ended.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from clrtool.config.schema import SweepConfig
from clrtool.core.reading.metric import LOSS
from clrtool.engine.inprocess.clone import (
    CopiedModel,
    CopiedOptimizer,
    ModelSource,
    OptimizerSource,
    check_model,
    seed_used,
    untouched,
)
from clrtool.engine.inprocess.loaders import (
    Batches,
    Heldout,
    InProcessLoader,
    batches_of,
    check_loader,
    length_of,
    samples_in,
    to_device,
    twin_of,
)
from clrtool.engine.inprocess.options import Settings
from clrtool.engine.inprocess.steps import Measured, OwnSteps, UsualSteps, checked, number_of, scalar
from clrtool.engine.runtime.rng import Draws
from clrtool.engine.training.evaluation_budget import budget, flops_of
from clrtool.engine.training.losses import IGNORED
from clrtool.engine.training.losses import chance as share_of_commonest
from clrtool.engine.training.lr_response import response_warning
from clrtool.engine.training.optimizers import describe_groups
from clrtool.engine.training.trainer import Trainer
from clrtool.engine.training.workload import Workload, arithmetic, find_device
from clrtool.errors import ConfigError

# Batches on which a step is tried out.
TRIED = 3


@dataclass(frozen=True, eq=False, kw_only=True)
class InProcessWorkload(Workload):
    """A workload whose steps are a program's own.

    Args:
        steps: what is done with a batch.
        held: the held-out batches.
        own_answers, own_chance: what was counted in them, and the share of their commonest class.
    """

    steps: OwnSteps | UsualSteps
    held: Heldout
    own_answers: int = 1
    own_chance: float | None = None
    is_plain: ClassVar[bool] = False

    @property
    def answers(self) -> int:
        return self.own_answers

    @property
    def chance(self) -> float | None:
        return self.own_chance

    def trainer(self, seed: int, momenta: Sequence[float] = ()) -> InProcessTrainer:
        return InProcessTrainer(self, seed, momenta=momenta)

    def seed(self, seed: int) -> None:
        """Seed the generators that are put back: torch's own way would reach devices that are in no use here."""
        seed_used(seed, self.device)

    @contextmanager
    def on_device(self) -> Iterator[None]:
        """Leave everything as it was: generators, settings, and the gradients of what was given."""
        try:
            with untouched(self.make_model.source), arithmetic(None, deterministic=self.deterministic):  # type: ignore[attr-defined]
                yield
        finally:
            if isinstance(self.train, InProcessLoader):
                self.train.close()


@contextmanager
def as_it_is(field: str) -> Iterator[None]:  # noqa: ARG001 (where the error was is what its own lines say)
    """Leave an error what it is."""
    yield


class InProcessTrainer(Trainer):
    """A copy in training. What the program's own code raises is left as it is."""

    workload: InProcessWorkload

    blamed_on = staticmethod(as_it_is)

    def begin_training(self) -> None:
        """Into the modes in which the model was given, if it was in training; else all of it into training mode."""
        super().begin_training()
        modes = self.workload.make_model.modes  # type: ignore[attr-defined]
        for module, mode in zip(self.model.modules(), modes or (), strict=modes is not None):
            module.training = module.training and mode

    def backward(self, batch: Any) -> Tensor:
        """Gradients of the batches of one step, the mean over them."""
        self.optimizer.zero_grad()
        total: Tensor | None = None
        for part in batch:
            loss = scalar(self.workload.steps.step(self.model, part))
            if len(batch) > 1:
                loss = loss / len(batch)
            loss.backward()  # type: ignore[no-untyped-call]
            total = loss.detach() if total is None else total + loss.detach()
        assert total is not None
        return total

    @torch.no_grad()
    def evaluate(self) -> tuple[float, float]:
        """Mean loss and metric of the held-out batches, in evaluation mode."""
        found = self.measured()
        return found.loss / max(found.samples, 1), found.metric / max(found.number, 1)

    @torch.no_grad()
    def measured(self) -> Measured:
        """Sums over the held-out batches; what they draw at random does not change the training."""
        self.model.eval()
        workload, rows = self.workload, []
        with Draws(0).entered():
            for batch in workload.held:
                row = workload.steps.evaluate(self.model, to_device(batch, workload.device, fresh=False))
                rows.append([value.detach() if isinstance(value, Tensor) else value for value in row])
        return Measured(*(sum(map(number_of, column)) for column in zip(*rows, strict=True)))


def borrow(
    model: ModelSource,
    optimizer: OptimizerSource,
    train_loader: Any,
    heldout_loader: Any,
    steps: OwnSteps | UsualSteps,
    settings: Settings,
    *,
    find_metric: bool,
) -> InProcessWorkload:
    """The workload of what a program has, tried out for a moment.

    Args:
        find_metric: whether the metric is what there is to measure.

    Raises:
        ConfigError: something cannot be copied or read, or the pieces do not fit together.
    """
    check_loader(train_loader, "train_loader")
    check_loader(heldout_loader, "heldout_loader")
    check_model(model)
    if isinstance(steps, UsualSteps) and isinstance(steps.loss, nn.Module):
        steps = replace(steps, loss=copy.deepcopy(steps.loss))
    make_model = CopiedModel(model)
    with untouched(model), Draws(0).entered():
        device = make_model.device() if settings.device is None else find_device(settings.device)
        passes = InProcessLoader(train_loader, 1, 1, device).batches(0, 0)
        tried = [next(passes)[0] for _ in range(TRIED)]
        passes.close()  # type: ignore[attr-defined]
    length = settings.iterations_per_epoch or _length(train_loader, settings.accumulate)
    size = samples_in(tried[0]) * settings.accumulate
    workload = InProcessWorkload(
        train=InProcessLoader(train_loader, length, size, device, settings.accumulate),  # type: ignore[arg-type]
        heldout=None,  # type: ignore[arg-type]
        make_model=make_model,
        make_optimizer=CopiedOptimizer(optimizer, model),  # type: ignore[arg-type]
        loss=None,  # type: ignore[arg-type]
        device=device, precision="as set", channels_last=False, data_sha256="unknown", measure=None,
        training=settings.training, plan_epochs=settings.plan.epochs, deterministic=settings.deterministic,
        steps=steps, held=Heldout(heldout_loader),
    )  # fmt: skip
    return _tried_out(workload, tried, settings.sweep, find_metric=find_metric)


def _length(loader: Any, accumulate: int) -> int:
    batches = length_of(loader)
    if not batches:
        raise ConfigError("train_loader: has no length: give iterations_per_epoch=N, the optimizer steps of one pass")
    return -(-batches // accumulate)


def _tried_out(
    workload: InProcessWorkload, tried: Sequence[Any], sweep: SweepConfig, *, find_metric: bool
) -> InProcessWorkload:
    """Take a step and evaluate once, so that pieces that do not fit are a message now, and count what that costs."""
    trial = replace(workload, train=Batches(tried, workload.iterations_per_epoch, workload.batch_size, workload.device))  # type: ignore[arg-type]
    with workload.on_device():
        trainer = trial.trainer(0)
        workload = _with_metric(workload, trainer, tried[0], find_metric=find_metric)
        trainer.workload = trial = replace(trial, steps=workload.steps, metric=workload.metric)
        _check_step(trainer, tried[0])
        trainer.train(0, [1e-9, 1e-9])
        workload = replace(workload, **_held(workload, trainer, tried[0], sweep))
        trainer.workload, groups = replace(trial, held=workload.held), describe_groups(trainer.optimizer)
        counted = trainer.measured()
        if not math.isfinite(counted.metric / max(counted.number, 1)):
            raise ConfigError(f"metric: is not finite for the model as it is given: {counted.metric / counted.number}")
        del trainer  # beside another there may be no room for it
        warning = response_warning(trial)
    return replace(
        workload,
        own_answers=max(1, round(counted.number)) if workload.metric.is_share else max(1, round(counted.samples)),
        own_chance=_chance(workload),
        groups=groups,
        warnings=(warning,) if warning else (),
    )


def _with_metric(workload: InProcessWorkload, trainer: Trainer, batch: Any, *, find_metric: bool) -> InProcessWorkload:
    """The workload with the metric that was asked for, or that there is."""
    steps = workload.steps
    with torch.no_grad():
        trainer.model.eval()
        if isinstance(steps, UsualSteps) and find_metric:
            steps = replace(steps, metric=steps.found_metric(trainer.model, batch))
        else:
            asked = steps if isinstance(steps, UsualSteps) else steps.forward
            if asked is not None:
                asked.check_metric(trainer.model, batch)
    return replace(workload, steps=steps, metric=steps.metric)


def _check_step(trainer: InProcessTrainer, batch: Any) -> None:
    """Raise ConfigError for a loss that has nothing to do with the model that a step is given."""
    trainer.begin_training()
    loss = checked(
        trainer.workload.steps.step(trainer.model, to_device(batch, trainer.workload.device, fresh=False)), "step"
    )
    if loss.requires_grad:
        loss.backward()  # type: ignore[no-untyped-call]
    if not any(each.grad is not None for each in trainer.model.parameters()):
        raise ConfigError(
            "step: the loss does not depend on the model that it is given: use the argument, not a model from outside; "
            "it is another copy for each seed"
        )


def _held(workload: InProcessWorkload, trainer: Trainer, batch: Any, sweep: SweepConfig) -> dict[str, Any]:
    """How often is evaluated, and on what, so that training keeps most of the time."""
    trainer.model.eval()
    flops = flops_of(lambda: workload.steps.evaluate(trainer.model, batch)) / samples_in(batch)
    held, batches = workload.held, batches_of(twin_of(workload.held.loader, 0))
    if batches is None:
        held.keep()
    number = size = sum(map(len, batches)) if batches is not None else sum(map(samples_in, held))
    if not size:
        raise ConfigError("heldout_loader: gave no batch")
    if sweep.evaluations == "auto":
        iterations = workload.sweep_size(sweep).iterations
        number, size = budget(flops, samples_in(batch), iterations, size, workload.batch_size)
    else:
        number = sweep.evaluations
    if batches is not None:
        held = replace(held, limit=size, _kept=[])
        held.keep()
    return {"held": held, "evaluations": number}


def metric_of(model: Any, heldout_loader: Any) -> str:
    """The name of what there is to measure of what the forward of a model gives; the loss where that cannot be told."""
    check_loader(heldout_loader, "heldout_loader")
    with untouched(model), Draws(0).entered(), torch.no_grad():
        copied = CopiedModel(model)().eval()
        batch = next(iter(twin_of(heldout_loader, 0)), None)
        try:
            moved = to_device(batch, CopiedModel(copied).device(), fresh=False)
            return UsualSteps(None, LOSS).found_metric(copied, moved).name
        except Exception:  # noqa: BLE001 (a model need not have a forward that can be called so)
            return LOSS.name


def _chance(workload: InProcessWorkload) -> float | None:
    """The share of the commonest class among the held-out targets, where they are known."""
    if not workload.metric.is_share:
        return None
    with Draws(0).entered():
        targets = [workload.steps.targets(batch) for batch in workload.held]
    known = [each.detach().cpu().flatten() for each in targets if each is not None and not each.is_floating_point()]
    if len(known) < len(targets) or not any((each != IGNORED).any() for each in known):
        return None
    return share_of_commonest(workload.metric, torch.cat(known))
