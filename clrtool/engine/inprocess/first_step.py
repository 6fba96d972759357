"""A step and an evaluation before anything is trained: pieces that do not fit are a message now."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from clrtool.config.schema import SweepConfig
from clrtool.engine.inprocess.heldout_budget import with_heldout
from clrtool.engine.inprocess.loaders import (
    to_device,
)
from clrtool.engine.inprocess.one_loss import checked_loss
from clrtool.engine.inprocess.outside import unscaled
from clrtool.engine.inprocess.ranks import with_facts
from clrtool.engine.inprocess.steps import CustomSteps
from clrtool.engine.inprocess.supervised import SupervisedSteps
from clrtool.engine.inprocess.workload import InProcessWorkload, explained
from clrtool.engine.runtime.factories import AS_IT_IS, describe
from clrtool.engine.runtime.rng import RngStream
from clrtool.engine.training.losses import IGNORED, chance
from clrtool.engine.training.lr_response import response_warnings
from clrtool.engine.training.optimizers import describe_groups
from clrtool.engine.training.trainer import Trainer
from clrtool.engine.training.try_out import try_out, wants_closure
from clrtool.engine.training.workload import EvalSums
from clrtool.errors import ConfigError


def tried_out(
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
        trainer.workload = trial = with_facts(trial, trainer.model)
        first = _taken(trial, trainer, tried)
        trial = replace(trial, needs_closure=wants_closure(trainer, (to_device(first, trial.device, fresh=False),)))
        trainer.workload = trial = with_heldout(trial, trainer, tried[0], sweep)
        counted, groups = try_out(trainer, "the model as it is given"), describe_groups(trainer.optimizer)
        del trainer  # beside another there may be no room for it
        return replace(
            trial,
            loader=workload.loader,
            needs_closure=trial.needs_closure,
            heldout_samples=_counted(trial, counted),
            chance=_chance(trial),
            groups=groups,
            warnings=(*trial.warnings, *response_warnings(trial)),
        )


def _counted(workload: InProcessWorkload, sums: EvalSums) -> int:
    """The held-out samples, or what its measure counts; 0 where neither is known."""
    steps = workload.steps
    if workload.metric.is_share or (isinstance(steps, CustomSteps) and not steps.has_loss and sums.number > 1):
        return max(1, round(float(sums.number)))
    if isinstance(steps, SupervisedSteps):
        return max(1, round(float(sums.samples)))
    mine = [each.samples or 0 for each in workload.heldout]
    return round(float(workload.ranks.sum(torch.tensor(sum(mine))))) if all(mine) else 0


def _with_metric(workload: InProcessWorkload, trainer: Trainer, batch: Any, *, find_metric: bool) -> InProcessWorkload:
    """The workload with the metric that was asked for, or that there is."""
    steps = workload.steps
    with torch.no_grad(), _way_out(steps):
        trainer.model.eval()
        if isinstance(steps, SupervisedSteps) and find_metric:
            steps = replace(steps, metric=steps.found_metric(trainer.model, batch))
        else:
            asked = steps if isinstance(steps, SupervisedSteps) else steps.forward
            if asked is not None:
                asked.check_metric(trainer.model, batch)
        notes = steps.order_warnings(trainer.model, batch) if isinstance(steps, SupervisedSteps) else ()
    return replace(workload, steps=steps, metric=steps.metric, warnings=(*workload.warnings, *notes))


@contextmanager
def _way_out(steps: CustomSteps | SupervisedSteps) -> Iterator[None]:
    """Say of code that cannot be called as batches are taken by default, what to give for it."""
    try:
        yield
    except AS_IT_IS:
        raise
    except Exception as error:
        if not isinstance(steps, SupervisedSteps):
            raise
        raise ConfigError(
            f"train_loader: model and loss cannot be called with a batch, taken as (inputs, ..., targets) or as a "
            f"mapping with labels ({describe(error)}): for any other give step=(model, batch) -> loss"
        ) from error


def _taken(workload: InProcessWorkload, trainer: Trainer, batches: Sequence[Any]) -> Any:
    """The first batch that a step does not skip, with the gradients of its loss.

    Raises:
        ConfigError: the loss has nothing to do with the model that a step is given.
    """
    workload.set_train_mode(trainer.model)
    for batch in batches:
        with explained():
            with unscaled(), workload.autocast():
                made = workload.steps.step(trainer.model, to_device(batch, workload.device, fresh=False))
            if made is not None:
                _check_gradients(checked_loss(made, "step"), trainer.model)
                return batch
    raise ConfigError(f"step: gave no loss for any of the first {len(batches)} batches, as for batches to be skipped")


def _check_gradients(loss: Tensor, model: nn.Module) -> None:
    """Raise ConfigError for a loss of which a model gets no gradients."""
    if loss.requires_grad:
        try:
            torch.autograd.backward(loss)
        except RuntimeError as error:
            if "a second time" not in str(error):
                raise
            raise ConfigError("step: calls backward() itself: give the loss, the range test does the rest") from error
    if not any(each.grad is not None for each in model.parameters()):
        raise ConfigError(
            "step: the loss does not depend on the model that it is given: use the argument, not a model from outside; "
            "it is another copy for each seed"
        )


def _chance(workload: InProcessWorkload) -> float | None:
    """The share of the commonest class among the held-out targets, where they are known."""
    if not workload.metric.is_share:
        return None
    with RngStream(0).active():
        targets = [workload.steps.targets(each.batch) for each in workload.heldout]
    known = [each.detach().cpu().flatten() for each in targets if each is not None and not each.is_floating_point()]
    if len(known) < len(targets) or not any((each != IGNORED).any() for each in known):
        return None
    return chance(workload.metric, torch.cat(workload.ranks.gather(known)))
