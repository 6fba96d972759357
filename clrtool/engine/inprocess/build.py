"""A program's own objects -> workload: look at what they are, and try a few batches before anything is trained."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from clrtool.config.schema import SweepConfig
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
from clrtool.engine.inprocess.heldout import Heldout, parted
from clrtool.engine.inprocess.length import length_of
from clrtool.engine.inprocess.loaders import (
    InProcessLoader,
    batch_size_of,
    check_loader,
    clone_loader,
    indices_of,
    to_device,
)
from clrtool.engine.inprocess.options import Settings
from clrtool.engine.inprocess.outside import left_alone, unscaled
from clrtool.engine.inprocess.ranks import check_ranks, shared_out, with_facts
from clrtool.engine.inprocess.steps import CustomSteps, SupervisedSteps, checked_loss
from clrtool.engine.inprocess.workload import InProcessWorkload, explained
from clrtool.engine.runtime.device import find_device
from clrtool.engine.runtime.distributed import SINGLE_PROCESS, Ranks
from clrtool.engine.runtime.factories import describe
from clrtool.engine.runtime.rng import RngStream
from clrtool.engine.training.evaluation_budget import budget, flops_of
from clrtool.engine.training.losses import IGNORED, chance
from clrtool.engine.training.lr_response import response_warnings
from clrtool.engine.training.optimizers import describe_groups
from clrtool.engine.training.trainer import Trainer
from clrtool.engine.training.try_out import try_out, wants_closure
from clrtool.engine.training.workload import EvalSums
from clrtool.errors import ConfigError

# Batches on which a step is tried out.
TRIED = 3
# Held-out samples that are not gone below, whatever they cost: the loss of so many is known to about a twentieth of
# itself, which tells a rate that learns from a constant answer. Evaluations of twice as many took 41 % of a test.
SMALLEST_HELDOUT = 500


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
    _check_pieces(model, train_loader, heldout_loader)
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
        return _tried_out(workload, tried, settings.sweep, find_metric=find_metric)


def _check_pieces(model: ModelSource, train_loader: Any, heldout_loader: Any) -> None:
    check_loader(train_loader, "train_loader")
    if heldout_loader is not None:
        check_loader(heldout_loader, "heldout_loader")
    check_model(model)


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
        trainer.workload = trial = with_facts(trial, trainer.model)
        first = _taken(trial, trainer, tried)
        trial = replace(trial, needs_closure=wants_closure(trainer, (to_device(first, trial.device, fresh=False),)))
        trainer.workload = trial = _with_heldout(trial, trainer, tried[0], sweep)
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
    except ConfigError:
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
        with unscaled(), workload.autocast(), explained():
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


def _with_heldout(workload: InProcessWorkload, trainer: Trainer, batch: Any, sweep: SweepConfig) -> InProcessWorkload:
    """The workload that knows how often is evaluated, and on what, so that training keeps most of the time."""
    trainer.model.eval()
    at_once = samples_of(batch, workload.batch_size) or 1
    try:
        flops = flops_of(lambda: workload.eval_step(trainer.model, Heldout(batch, at_once))) / at_once
    except ConfigError:
        raise
    except Exception as error:
        if not isinstance(workload.steps, CustomSteps) or not workload.steps.has_loss:
            raise
        raise ConfigError(
            f"step: fails in evaluation mode ({describe(error)}), in which the held-out loss is computed: give "
            "eval_loss='train' to compute it in training mode, or measure=(model, batch) -> (sum, number), with which "
            "step is not called on held-out data"
        ) from error
    heldout, batches = workload.heldout, indices_of(clone_loader(workload.heldout.loader, 0))
    if workload.heldout.batches is not None:
        batches = None
    if batches is None:
        heldout.cache(workload.device)
    size = sum(map(len, batches)) if batches is not None else sum(each.samples or 1 for each in heldout)
    if workload.ranks.any(not size):
        raise ConfigError("heldout_loader: gave no batch")
    every = size
    if sweep.evaluations == "auto":
        together = max(at_once, batch_size_of(heldout.loader) or next(iter(heldout)).samples or 1)
        number, size = _budget(workload, sweep, flops, together, size)
    else:
        number = sweep.evaluations
    if batches is None:
        return replace(workload, heldout=heldout, evaluations=number)
    heldout = replace(heldout, limit=size)
    heldout.cache(workload.device)
    return replace(workload, heldout=heldout, evaluations=number, warnings=(*workload.warnings, *_limited(every, size)))


def _budget(workload: InProcessWorkload, sweep: SweepConfig, flops: float, together: int, size: int) -> tuple[int, int]:
    """Evaluations, alike on all ranks, and the held-out samples that they use of ``size`` that a loader gives."""
    ranks, shared = workload.ranks, workload.heldout.every[1]
    length, batch = workload.sweep_size(sweep).trained, workload.batch_size // ranks.world
    mine, together = ranks.max(-(-size // shared)) or size, ranks.max(together) or together
    least = -(-SMALLEST_HELDOUT // ranks.world)
    number, used = budget(flops, together, length, mine, batch, races=sweep.races, least=least)
    return number, min(size, used * shared)


def _limited(every: int, used: int) -> list[str]:
    """Why not all held-out samples are used."""
    if used >= every:
        return []
    why = "so that training takes most of the time"
    return [f"{used:,} of {every:,} held-out samples are used, {why}: sweep.evaluations=N uses all of them."]


def metric_of(model: Any, heldout_loader: Any) -> str:
    """The name of what there is to measure of what the forward of a model gives; the loss where that cannot be told."""
    if heldout_loader is None:
        return LOSS.name
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
