"""Does a step follow the learning rate? A range test of an optimizer whose steps do not says nothing."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from clrtool.engine.runtime.sharded import whole
from clrtool.engine.training.joint import has_modes
from clrtool.engine.training.trainer import Trainer
from clrtool.engine.training.workload import Workload

# Two learning rates at which a step is compared: far apart, and high enough to meet a cap.
LOW, HIGH = 0.25, 1.0
# The first steps are small, and the same for both: some optimizers take a moment to have a direction.
FIRST = [1e-4, 1e-4]
# How far the ratio of two steps may be from the ratio of their learning rates: rounding of small steps.
TOLERANCE = 0.1


def response_warnings(workload: Workload) -> tuple[str, ...]:
    """What to say of an optimizer whose step at four times the learning rate is not four times as long.

    Rprop and ASGD are such: the learning rate is the first step alone of the one, and of the other that of the step
    after. A step that is zero or not finite tells nothing. One that averages weights itself has no schedule.
    """
    lengths, name = [], workload.make_optimizer.name
    for lr in (LOW, HIGH):  # of the third step of a fresh model
        trainer = Trainer(workload, 0)
        trainer.train(0, FIRST)
        lengths.append(global_norm(update_of(trainer, len(FIRST), lr)))
    if has_modes(trainer.optimizer):
        warning = (
            f"optimizer: {name} averages its weights itself and needs no schedule: train at max_lr all the way, not by "
            "the plan."
        )
        return (warning,)
    low, high = lengths
    if not low or not high or not torch.tensor([low, high]).isfinite().all():
        return ()
    ratio = high / low
    if abs(ratio / (HIGH / LOW) - 1) <= TOLERANCE:
        return ()
    warning = (
        f"optimizer: a step of {name} at {HIGH / LOW:g} times the learning rate is {ratio:.3g} times as long: "
        "it does not follow the learning rate, so the bounds mean little. Try SGD, Adam or AdamW: optimizer=AdamW"
    )
    return (warning,)


def update_of(trainer: Trainer, iteration: int, lr: float) -> list[Tensor]:
    """Take a step at ``lr``, and tell by how much it changes every weight."""
    before = weights_of(trainer.model)
    trainer.train(iteration, [lr])
    return difference(weights_of(trainer.model), before)


def weights_of(model: nn.Module) -> list[Tensor]:
    """Copies of the parameters."""
    return [each.detach().clone() for each in model.parameters()]


def difference(first: Iterable[Tensor], second: Iterable[Tensor]) -> list[Tensor]:
    return [one - other for one, other in zip(first, second, strict=True)]


def global_norm(tensors: Iterable[Tensor]) -> float:
    """Euclidean norm over all tensors."""
    squares = [whole(tensor.detach().abs().double().square().sum()) for tensor in tensors]
    return float(torch.stack(squares).sum().sqrt()) if squares else 0.0
