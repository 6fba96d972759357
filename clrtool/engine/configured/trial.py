"""A workload that is tried for a moment before anything is trained: what does not fit is a message now."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace

import torch
from torch import Tensor, nn

from clrtool.config.schema import RangeTestConfig
from clrtool.engine.configured.losses import Criterion
from clrtool.engine.configured.workload import ConfiguredWorkload
from clrtool.engine.data.loader import ResidentLoader
from clrtool.engine.data.nested import map_nested, tensors_of
from clrtool.engine.data.tensors import Samples, Task, limited
from clrtool.engine.models.batch_norm import seen_by_batch_norm
from clrtool.engine.models.forward import outputs_of
from clrtool.engine.runtime.distributed import ProcessGroup
from clrtool.engine.runtime.factories import blamed_on
from clrtool.engine.runtime.rng import rng_state
from clrtool.engine.training.evaluation_budget import evaluation_budget
from clrtool.engine.training.losses import count_positions, count_tokens
from clrtool.engine.training.lr_response import response_warnings
from clrtool.engine.training.optimizers import describe_groups
from clrtool.engine.training.trainer import Trainer
from clrtool.engine.training.try_out import fresh_model, try_out, wants_closure
from clrtool.engine.training.whole_set import WholeSet
from clrtool.errors import ConfigError


def tried_out(
    workload: ConfiguredWorkload, config: RangeTestConfig, num_outputs: int, epochs: float | None
) -> ConfiguredWorkload:
    """Train and evaluate a fresh model for a moment, so that pieces that do not fit are a message now.

    Returns:
        The workload with what only a model can tell: its evaluations, parameter groups and warnings.
    """
    if workload.training.micro_batches > workload.batch_size:
        raise ConfigError(
            f"training.micro_batches = {workload.training.micro_batches} must be at most data.batch_size = "
            f"{workload.batch_size}"
        )
    with workload.on_device():
        model = workload.place(
            fresh_model(
                workload.make_model,
                "model.factory: must return a fresh model each time, it returned the same weights twice",
            )
        )
        batch = Samples(*next(workload.loader.batches(0, 0)))
        micro_batch = batch.take(slice(0, workload.micro_batch_size))  # there may be no room for more at once
        workload = _with_facts(_checked(workload, model, micro_batch, num_outputs), model, micro_batch)
        del model  # beside a trainer there may be no room for it
        trainer = Trainer(workload, seed=0)
        number, size = evaluation_budget(
            trainer.model,
            micro_batch.inputs,
            config.sweep,
            math.ceil((epochs or 0) * workload.iterations_per_epoch) or workload.sweep_size(config.sweep).trained,
            len(workload.heldout),
            workload.batch_size,
        )
        trainer.workload = workload = _try_step(workload, trainer, batch, micro_batch)
        try_out(trainer, "a fresh model")
        return replace(
            workload,
            evaluations=number,
            heldout=_fewer(workload, size, config.seed),
            groups=describe_groups(trainer.optimizer),
            warnings=(
                *workload.warnings,
                *response_warnings(workload),
                *_told_fewer(size, len(workload.heldout)),
            ),
        )


def _told_fewer(size: int, available: int) -> list[str]:
    """That not all of the held-out set is used, and why."""
    if size >= available:
        return []
    why = "so that evaluations take at most a fifth of the time; sweep.evaluations=N makes N of them on all"
    return [f"Evaluations use {size:,} of the {available:,} held-out samples, {why}."]


def _fewer(workload: ConfiguredWorkload, size: int, seed: int) -> Samples:
    """At most ``size`` of the held-out samples, every class in its proportion, laid out as they were."""
    heldout = limited(workload.heldout, size, seed)
    return Samples(map_nested(workload.loader.transform.lay_out, heldout.inputs), heldout.targets)


def _try_step(
    workload: ConfiguredWorkload, trainer: Trainer, batch: Samples, micro_batch: Samples
) -> ConfiguredWorkload:
    """One step in its pieces, so that each can name its field, and the workload that knows how it is taken."""
    step = batch.inputs, batch.targets
    with blamed_on("loss"):
        workload.gradients(trainer, step)
    with blamed_on("optimizer.args"):
        workload = replace(workload, needs_closure=wants_closure(trainer, step))
    if workload.measure is not None:
        with blamed_on("metric"), torch.no_grad():
            if isinstance(workload.measure, WholeSet):
                workload.measure(outputs_of(trainer.model, micro_batch.inputs), micro_batch.targets)
                return workload
            value, _ = workload.measure(outputs_of(trainer.model, micro_batch.inputs), micro_batch.targets)
            if value.numel() != 1:
                raise ConfigError(f"metric: must give one number, got shape {tuple(value.shape)}")
    return workload


def _checked(workload: ConfiguredWorkload, model: nn.Module, batch: Samples, num_outputs: int) -> ConfiguredWorkload:
    """The workload, whose loader knows how many classes the model tells apart.

    Raises:
        ConfigError: the outputs do not fit the targets.
    """
    shapes = ", ".join(f"{tuple(tensor.shape)}, {tensor.dtype}" for tensor in tensors_of(batch.inputs))
    with blamed_on(f"model: it must take a batch of shape {shapes}, as data gives it"):
        outputs = outputs_of(model, batch.inputs)
    workload, classes = _in_order(workload, outputs, batch)
    if isinstance(workload.loss, Criterion) and workload.loss.is_cross_entropy and classes < num_outputs:
        raise ConfigError(
            f"model: has {classes} outputs for the {num_outputs} classes of the data: give its last layer {num_outputs}"
        )
    with blamed_on("loss"), warnings.catch_warnings():
        # torch broadcasts outputs and targets of two shapes, and warns; it is never what was meant
        warnings.filterwarnings("error", message="Using a target size")
        loss = workload.loss(outputs, batch.targets)
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        raise ConfigError(f"loss: must give one number, got {loss!r:.100}")
    if isinstance(workload.loader, ResidentLoader) or batch.task is Task.VALUES:
        return workload
    return replace(workload, loader=replace(workload.loader, classes=classes))


def _in_order(workload: ConfiguredWorkload, outputs: Tensor, batch: Samples) -> tuple[ConfiguredWorkload, int]:
    """The workload that knows where the classes of outputs lie, and their number.

    They are last, or second as torch's losses take them: (batch, classes, length) or (batch, classes, height, width).

    Raises:
        ConfigError: the outputs do not fit the targets.
    """
    if batch.task is Task.VALUES:
        return workload, outputs.shape[-1]
    shape, targets = tuple(outputs.shape), tuple(batch.targets.shape)
    if shape[:-1] == targets:
        both = len(targets) > 1 and shape[:1] + shape[2:] == targets
        said = f"Outputs of shape {shape} may have their classes second or last: they are taken to be last."
        return replace(workload, warnings=(*workload.warnings, *([said] if both else []))), shape[-1]
    if len(shape) == len(targets) + 1 and shape[:1] + shape[2:] == targets and isinstance(workload.loss, Criterion):
        second = replace(workload.loss, classes_are_second=True)
        measure = count_positions if workload.measure is count_tokens else workload.measure
        return replace(workload, loss=second, measure=measure), shape[1]
    samples, *places = map(str, targets)
    wanted = f"({', '.join([samples, *places, 'classes'])})"
    wanted += f" or ({', '.join([samples, 'classes', *places])})" if places else ""
    raise ConfigError(f"model: outputs must be {wanted} for {len(batch)} samples, got {shape}")


def _with_facts(workload: ConfiguredWorkload, model: nn.Module, micro_batch: Samples) -> ConfiguredWorkload:
    """A workload whose ranks know what a step of the model means for them."""
    ranks = workload.ranks
    if not isinstance(ranks, ProcessGroup):
        return workload
    before = rng_state(workload.device)
    with blamed_on("loss"), workload.autocast():
        torch.autograd.backward(workload.loss(outputs_of(model, micro_batch.inputs), micro_batch.targets))
    after = rng_state(workload.device)
    draws = any(before[name] is not None and not torch.equal(before[name], after[name]) for name in ("torch", "cuda"))
    unused = any(each.requires_grad and each.grad is None for each in model.parameters())
    seen = seen_by_batch_norm(model, workload.micro_batch_size, ranks.world)
    # torch groups gradients again after the first step, but not where it looks for unused ones; of more than two ranks
    # the groups decide in which order is added
    finds_unused = unused or (workload.deterministic and ranks.world > 2)
    facts = replace(ranks, batch_norm=seen, matters=draws or bool(seen), finds_unused=finds_unused)
    return replace(workload, ranks=facts)
