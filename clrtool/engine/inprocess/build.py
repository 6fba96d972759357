"""A program's own objects -> workload: look at what they are, and try a few batches before anything is trained."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from clrtool.config.schema import SweepConfig
from clrtool.core.reading.metric import LOSS
from clrtool.engine.inprocess.clone import (
    ModelCloner,
    ModelSource,
    OptimizerCloner,
    OptimizerSource,
    check_model,
    check_optimizer,
    preserved,
)
from clrtool.engine.inprocess.loaders import (
    HeldoutBatches,
    InProcessLoader,
    batch_size_of,
    check_loader,
    clone_loader,
    indices_of,
    to_device,
)
from clrtool.engine.inprocess.options import Settings
from clrtool.engine.inprocess.outside import left_alone, unscaled
from clrtool.engine.inprocess.steps import CustomSteps, SupervisedSteps, checked_loss
from clrtool.engine.inprocess.workload import InProcessWorkload
from clrtool.engine.runtime.device import find_device
from clrtool.engine.runtime.rng import RngStream
from clrtool.engine.training.evaluation_budget import budget, flops_of
from clrtool.engine.training.losses import IGNORED, chance
from clrtool.engine.training.lr_response import response_warnings
from clrtool.engine.training.optimizers import describe_groups
from clrtool.engine.training.trainer import Trainer
from clrtool.engine.training.try_out import try_out, wants_closure
from clrtool.errors import ConfigError

# Batches on which a step is tried out.
TRIED = 3


def build_workload(
    model: ModelSource,
    optimizer: OptimizerSource,
    train_loader: Any,
    heldout_loader: Any,
    steps: CustomSteps | SupervisedSteps,
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
    if isinstance(steps, SupervisedSteps) and isinstance(steps.loss, nn.Module):
        steps = replace(steps, loss=copy.deepcopy(steps.loss))
    make_model = ModelCloner(model)
    with preserved(model), RngStream(0).active():
        device = make_model.device() if settings.device is None else find_device(settings.device)
        loader = InProcessLoader(train_loader, 1, 1, device)
        tried = [batch for (batch,) in islice(loader.batches(0, 0), TRIED)]
        loader.close()
    iterations = settings.iterations_per_epoch or _iterations_per_epoch(train_loader, settings.accumulate)
    size = batch_size_of(tried[0]) * settings.accumulate
    workload = InProcessWorkload(
        make_model=make_model,
        make_optimizer=OptimizerCloner(check_optimizer(optimizer), model),
        loader=replace(loader, iterations_per_epoch=iterations, batch_size=size, accumulate=settings.accumulate),
        steps=steps,
        heldout=HeldoutBatches(heldout_loader),
        device=device,
        precision=settings.precision,
        training=settings.training,
        data_sha256="unknown",
        plan_epochs=settings.plan.epochs,
        deterministic=settings.deterministic,
    )
    with left_alone(model, *steps.functions):
        return _tried_out(workload, tried, settings.sweep, find_metric=find_metric)


def _iterations_per_epoch(loader: Any, accumulate: int) -> int:
    try:
        batches = len(loader)
    except (TypeError, NotImplementedError):
        batches = 0
    if not batches:
        raise ConfigError("train_loader: has no length: give iterations_per_epoch=N, the optimizer steps of one pass")
    return -(-batches // accumulate)


def _tried_out(
    workload: InProcessWorkload, tried: Sequence[Any], sweep: SweepConfig, *, find_metric: bool
) -> InProcessWorkload:
    """Take a step and evaluate once, so that pieces that do not fit are a message now, and count what that costs."""
    dataset: Any = tried
    # one batch after the other as they are, with a generator of its own: it draws a seed from the global one otherwise
    again = DataLoader(dataset, batch_size=None, collate_fn=lambda batch: batch, generator=torch.Generator())
    trial = replace(workload, loader=replace(workload.loader, loader=again, accumulate=1))
    with workload.on_device():
        trainer = Trainer(trial, 0)
        trainer.workload = trial = _with_metric(trial, trainer, tried[0], find_metric=find_metric)
        _check_step(trial, trainer, tried[0])
        trial = replace(trial, needs_closure=wants_closure(trainer, (to_device(tried[0], trial.device, fresh=False),)))
        trainer.workload = trial = _with_heldout(trial, trainer, tried[0], sweep)
        counted, groups = try_out(trainer, "the model as it is given"), describe_groups(trainer.optimizer)
        del trainer  # beside another there may be no room for it
        return replace(
            trial,
            loader=workload.loader,
            needs_closure=trial.needs_closure,
            heldout_samples=max(1, round(counted.number if trial.metric.is_share else counted.samples)),
            chance=_chance(trial),
            groups=groups,
            warnings=response_warnings(trial),
        )


def _with_metric(workload: InProcessWorkload, trainer: Trainer, batch: Any, *, find_metric: bool) -> InProcessWorkload:
    """The workload with the metric that was asked for, or that there is."""
    steps = workload.steps
    with torch.no_grad():
        trainer.model.eval()
        if isinstance(steps, SupervisedSteps) and find_metric:
            steps = replace(steps, metric=steps.found_metric(trainer.model, batch))
        else:
            asked = steps if isinstance(steps, SupervisedSteps) else steps.forward
            if asked is not None:
                asked.check_metric(trainer.model, batch)
    return replace(workload, steps=steps, metric=steps.metric)


def _check_step(workload: InProcessWorkload, trainer: Trainer, batch: Any) -> None:
    """Raise ConfigError for a loss that has nothing to do with the model that a step is given."""
    workload.set_train_mode(trainer.model)
    with unscaled(), workload.autocast():
        loss = checked_loss(workload.steps.step(trainer.model, to_device(batch, workload.device, fresh=False)), "step")
    if loss.requires_grad:
        try:
            torch.autograd.backward(loss)
        except RuntimeError as error:
            if "a second time" not in str(error):
                raise
            raise ConfigError("step: calls backward() itself: give the loss, the range test does the rest") from error
    if not any(each.grad is not None for each in trainer.model.parameters()):
        raise ConfigError(
            "step: the loss does not depend on the model that it is given: use the argument, not a model from outside; "
            "it is another copy for each seed"
        )


def _with_heldout(workload: InProcessWorkload, trainer: Trainer, batch: Any, sweep: SweepConfig) -> InProcessWorkload:
    """The workload that knows how often is evaluated, and on what, so that training keeps most of the time."""
    trainer.model.eval()
    flops = flops_of(lambda: workload.steps.evaluate(trainer.model, batch)) / batch_size_of(batch)
    heldout, batches = workload.heldout, indices_of(clone_loader(workload.heldout.loader, 0))
    if batches is None:
        heldout.cache()
    number = size = sum(map(len, batches)) if batches is not None else sum(map(batch_size_of, heldout))
    if not size:
        raise ConfigError("heldout_loader: gave no batch")
    if sweep.evaluations == "auto":
        length = workload.sweep_size(sweep).trained
        number, size = budget(flops, batch_size_of(batch), length, size, workload.batch_size, races=sweep.races)
    else:
        number = sweep.evaluations
    if batches is not None:
        heldout = replace(heldout, limit=size)
        heldout.cache()
    return replace(workload, heldout=heldout, evaluations=number)


def metric_of(model: Any, heldout_loader: Any) -> str:
    """The name of what there is to measure of what the forward of a model gives; the loss where that cannot be told."""
    check_loader(heldout_loader, "heldout_loader")
    with preserved(model), RngStream(0).active(), torch.no_grad():
        copied = ModelCloner(model)().eval()
        batch = next(iter(clone_loader(heldout_loader, 0)), None)
        try:
            moved = to_device(batch, ModelCloner(copied).device(), fresh=False)
            return SupervisedSteps(None, LOSS).found_metric(copied, moved).name
        except Exception:  # noqa: BLE001 (a model need not have a forward that can be called so)
            return LOSS.name


def _chance(workload: InProcessWorkload) -> float | None:
    """The share of the commonest class among the held-out targets, where they are known."""
    if not workload.metric.is_share:
        return None
    with RngStream(0).active():
        targets = [workload.steps.targets(batch) for batch in workload.heldout]
    known = [each.detach().cpu().flatten() for each in targets if each is not None and not each.is_floating_point()]
    if len(known) < len(targets) or not any((each != IGNORED).any() for each in known):
        return None
    return chance(workload.metric, torch.cat(known))
