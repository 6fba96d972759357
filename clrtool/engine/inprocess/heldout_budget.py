"""How often a program's model is evaluated, and on how much, so that training keeps most of the time."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from clrtool.config.schema import SweepConfig
from clrtool.engine.inprocess.counting import samples_of
from clrtool.engine.inprocess.heldout import Heldout
from clrtool.engine.inprocess.loaders import (
    batch_size_of,
    clone_loader,
    indices_of,
)
from clrtool.engine.inprocess.steps import CustomSteps, with_gradients
from clrtool.engine.inprocess.workload import InProcessWorkload
from clrtool.engine.runtime.factories import AS_IT_IS, describe
from clrtool.engine.training.evaluation_budget import budget, flops_of
from clrtool.engine.training.trainer import Trainer
from clrtool.errors import ConfigError

# Held-out samples that are not gone below, whatever they cost: the loss of so many is known to about a twentieth of
# itself, which tells a rate that learns from a constant answer. Evaluations of twice as many took 41 % of a test.
SMALLEST_HELDOUT = 500


def with_heldout(workload: InProcessWorkload, trainer: Trainer, batch: Any, sweep: SweepConfig) -> InProcessWorkload:
    """The workload that knows how often is evaluated, and on what, so that training keeps most of the time."""
    trainer.model.eval()
    at_once = samples_of(batch, workload.batch_size) or 1
    workload, flops = _with_flops(workload, trainer, batch, at_once)
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


def _with_flops(
    workload: InProcessWorkload, trainer: Trainer, batch: Any, at_once: int
) -> tuple[InProcessWorkload, float]:
    """Operations of a held-out sample, and the workload with gradients there where its step takes some.

    Raises:
        ConfigError: the step fails on held-out data.
    """
    try:
        return workload, flops_of(lambda: workload.eval_step(trainer.model, Heldout(batch, at_once))) / at_once
    except AS_IT_IS:
        raise
    except Exception as error:
        steps = workload.steps
        if not isinstance(steps, CustomSteps) or not steps.has_loss:
            raise
        if "does not require grad" in str(error) and getattr(steps.step, "func", None) is not with_gradients:
            steps = replace(steps, step=partial(with_gradients, steps.step))
            return _with_flops(replace(workload, steps=steps), trainer, batch, at_once)
        mode, way_out = "evaluation", "eval_loss='train' to compute it in training mode, or "
        if workload.eval_loss == "train":
            mode, way_out = "training", ""
        raise ConfigError(
            f"step: fails where the held-out loss is computed, in {mode} mode ({describe(error)}): give {way_out}"
            "measure=(model, batch) -> (sum, number), with which step is not called on held-out data"
        ) from error


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
