"""A program's own objects -> workload: look at what they are, and try a few batches before anything is trained."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from torch import nn

from clrtool.core.reading.metric import LOSS
from clrtool.engine.inprocess.batches import alike_seeds, lone_class
from clrtool.engine.inprocess.clone import (
    ModelCloner,
    ModelSource,
    OptimizerCloner,
    OptimizerSource,
    check_model,
    check_optimizer,
    preserved,
    start_of,
    without_wrapper,
)
from clrtool.engine.inprocess.counting import samples_of
from clrtool.engine.inprocess.first_step import tried_out
from clrtool.engine.inprocess.heldout import parted
from clrtool.engine.inprocess.length import length_of
from clrtool.engine.inprocess.loaders import (
    InProcessLoader,
    batch_size_of,
    check_loader,
    clone_loader,
    to_device,
    without_mover,
)
from clrtool.engine.inprocess.options import Settings
from clrtool.engine.inprocess.outside import left_alone
from clrtool.engine.inprocess.ranks import check_ranks, shared_out
from clrtool.engine.inprocess.steps import CustomSteps
from clrtool.engine.inprocess.supervised import SupervisedSteps
from clrtool.engine.inprocess.workload import InProcessWorkload
from clrtool.engine.runtime.device import find_device
from clrtool.engine.runtime.ranks import SINGLE_PROCESS, Ranks
from clrtool.engine.runtime.rng import RngStream

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
    ranks: Ranks = SINGLE_PROCESS,
) -> InProcessWorkload:
    """The workload of what a program has, tried out for a moment; by ``find_metric`` for what there is to measure.

    Of ranks that train together each calls this function, with its own loaders.

    Raises:
        ConfigError: something cannot be copied or read, or the pieces do not fit together.
    """
    model, steps = without_wrapper(model), _own(steps, settings)
    train_loader, heldout_loader = _checked(model, train_loader, heldout_loader)
    make_model, parts = ModelCloner.of(model), parted(train_loader, heldout_loader)
    with preserved(model), RngStream(0).active():
        device = make_model.device() if settings.device is None else find_device(settings.device)
        loader = InProcessLoader(parts.train, 1, 1, device)
        tried, again = _first_batches(loader)
    length = length_of(train_loader, settings)
    size = (samples_of(tried[0], batch_size_of(train_loader)) or 1) * settings.accumulate * ranks.world
    per_epoch, accumulate = length.iterations_per_epoch, settings.accumulate
    heldout, shared = shared_out(parts.heldout, tried, ranks)
    workload = InProcessWorkload(
        make_model=make_model,
        make_optimizer=OptimizerCloner(check_optimizer(optimizer), model),
        loader=replace(loader, iterations_per_epoch=per_epoch, batch_size=size, accumulate=accumulate),
        steps=steps,
        heldout=heldout,
        eval_loss=settings.eval_loss,
        device=device,
        precision=settings.precision,
        training=settings.training,
        data_sha256="unknown",
        plan_epochs=length.epochs,
        deterministic=settings.deterministic,
        warnings=(*length.notes, *_without_loss(steps), *lone_class(steps, tried, heldout), *shared),
        doubts=(*parts.doubts, *alike_seeds(model, tried, again)),
        ranks=ranks,
        start=start_of(model, check_optimizer(optimizer)) if settings.keep_state else None,
    )
    check_ranks(workload, model)
    with left_alone(model, *steps.functions):
        return tried_out(workload, tried, settings.sweep, find_metric=find_metric)


def _checked(model: ModelSource, train_loader: Any, heldout_loader: Any) -> tuple[Any, Any]:
    """The DataLoaders themselves. Raises ConfigError for a model that is no model, or a loader that is no loader."""
    train_loader, heldout_loader = without_mover(train_loader), without_mover(heldout_loader)
    check_loader(train_loader, "train_loader")
    if heldout_loader is not None:
        check_loader(heldout_loader, "heldout_loader")
    check_model(model)
    return train_loader, heldout_loader


def _first_batches(loader: InProcessLoader) -> Iterator[list[Any]]:
    """The batches with which a seed and another begin."""
    for seed in (0, 1):
        yield [batch for (batch,) in islice(loader.batches(seed, 0), TRIED)]
    loader.close()


def _own(steps: CustomSteps | SupervisedSteps, settings: Settings) -> CustomSteps | SupervisedSteps:
    """Steps whose loss is a copy where it is a module, and which say whether they are asked for a held-out loss."""
    if isinstance(steps, CustomSteps):
        measures_alone = steps.measure is not None and steps.forward is None
        return replace(steps, has_loss=not measures_alone or settings.eval_loss != "auto")
    return replace(steps, loss=copy.deepcopy(steps.loss)) if isinstance(steps.loss, nn.Module) else steps


def _without_loss(steps: CustomSteps | SupervisedSteps) -> tuple[str, ...]:
    """What to say where a measure stands for the held-out loss."""
    if isinstance(steps, SupervisedSteps) or steps.has_loss:
        return ()
    sign = ", with a minus sign," if steps.metric.higher_is_better else ""
    warning = (
        f"There is no held-out loss beside {steps.metric.label}, which{sign} stands for it: eval_loss='eval' or "
        "'train' calls step on held-out data too."
    )
    return (warning,)


def metric_of(model: Any, heldout_loader: Any) -> str:
    """The name of what there is to measure of what the forward of a model gives; the loss where that cannot be told."""
    if heldout_loader is None:
        return LOSS.name
    heldout_loader = without_mover(heldout_loader)
    check_loader(heldout_loader, "heldout_loader")
    with preserved(model), RngStream(0).active(), torch.no_grad():
        cloner = ModelCloner.of(without_wrapper(model))
        copied = cloner().eval()
        batch = next(iter(clone_loader(heldout_loader, 0)), None)
        try:
            moved = to_device(batch, ModelCloner(copied).device(), fresh=False)
            return SupervisedSteps(None, LOSS).found_metric(copied, moved).name
        except Exception:  # noqa: BLE001 (a model need not have a forward that can be called so)
            return LOSS.name
        finally:
            cloner.give_back()
