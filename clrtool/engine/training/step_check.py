"""Is a faster step the reference's? Its second step is held against that of a plain trainer, at four times the rate.

Two ways to compute a step add in other orders, so it cannot be asked for the same bits; and where a gradient is nothing
but rounding, as that of a bias before batch norm is, Adam makes a full step of it in any direction. So of an update is
compared what it does to the loss at first order, each element times the reference's gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from clrtool.engine.runtime.rng import seed_everything
from clrtool.engine.training.lr_response import difference, global_norm, update_of
from clrtool.engine.training.trainer import Trainer
from clrtool.engine.training.workload import Workload

# The second rate over the first: a rate that was frozen makes the second step 75 % too short.
RATIO = 4.0
# How much of its length a step may be away from the reference's: kernels may add in another order.
TOLERANCE, TOLERANCE_BF16 = 0.05, 0.2
# How many times longer or shorter it may be, whatever dropout does.
LENGTH = 2.0
# Of the length of the weights, an update that stands out from the rounding of float32.
VISIBLE = 1e-4


class Step(NamedTuple):
    """What a step did: to every weight, by which gradients, and how buffers have changed since before any step."""

    update: list[Tensor]
    gradients: list[Tensor]
    statistics: list[Tensor]


def check_rates(workload: Workload, seed: int, lrs: Sequence[float]) -> tuple[float, float]:
    """The rates of the two steps: the first of a sweep and RATIO times it, both raised until an update is visible.

    A sweep begins low, so that the check of a healthy workload meets no loss that is not finite.
    """
    lr, highest = next((lr for lr in lrs if lr > 0), 1e-3), max(lrs) / RATIO
    trainer = Trainer(workload, seed)
    visible = VISIBLE * global_norm(each for each in trainer.model.parameters() if each.requires_grad)
    while not global_norm(update_of(trainer, 0, lr)) >= visible and 10 * lr <= highest:
        lr *= 10
    return lr, RATIO * lr


def is_near(workload: Workload, seed: int, rates: Sequence[float], step: Step) -> bool:
    """Whether a second step is that of the reference, as near as two references are that draw other random numbers.

    Masks of dropout turn a step and hardly change its length, so a length that is wrong is never excused by them.
    """
    reference = _reference_step(workload, seed, rates, seed)
    if not all(map(_is_as_long, (step.update, step.statistics), (reference.update, reference.statistics))):
        return False
    tolerance = TOLERANCE_BF16 if workload.precision == "bf16" else TOLERANCE
    nothing = Step(*(list(map(torch.zeros_like, each)) for each in reference))
    allowed = [tolerance * size for size in _distances(nothing, reference)]
    errors = _distances(step, reference)
    if all(error <= most for error, most in zip(errors, allowed, strict=True)):
        return True
    spreads = _distances(_reference_step(workload, seed, rates, seed + 1), reference)
    return all(error <= most + 1.5 * spread for error, most, spread in zip(errors, allowed, spreads, strict=True))


def gradients_of(model: nn.Module) -> list[Tensor]:
    """Copies of the gradients, zero where there is none."""
    parameters = list(model.parameters())
    return [torch.zeros_like(each) if each.grad is None else each.grad.clone() for each in parameters]


def statistics_of(model: nn.Module) -> list[Tensor]:
    """Copies of the buffers that a mean can be taken of."""
    return [each.clone() for each in model.buffers() if each.is_floating_point()]


def _is_as_long(tensors: Sequence[Tensor], reference: Sequence[Tensor]) -> bool:
    size, wanted = global_norm(tensors), global_norm(reference)
    return wanted / LENGTH <= size <= LENGTH * wanted


def _distances(step: Step, reference: Step) -> list[float]:
    """How far each part is from the reference's."""
    update, gradients, statistics = map(difference, step, reference)
    effect = [slope * change for slope, change in zip(reference.gradients, update, strict=True)]
    return [global_norm(effect), global_norm(gradients), global_norm(statistics)]


def _reference_step(workload: Workload, seed: int, rates: Sequence[float], random_seed: int) -> Step:
    """The second step of the reference, which draws its random numbers from a seed of their own."""
    trainer = Trainer(workload, seed)
    before = statistics_of(trainer.model)
    seed_everything(random_seed)
    trainer.train(0, rates[:1])
    update = update_of(trainer, 1, rates[1])
    return Step(update, gradients_of(trainer.model), difference(statistics_of(trainer.model), before))
