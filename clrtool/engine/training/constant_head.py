"""The best constant answer where a step does not tell targets apart: a last layer that does not listen.

The output of the last layer is put in place by one vector, whatever comes in, and that vector is fitted alone. Of a
network without a way around its last layer that is the best constant answer; of any other it is a floor that is a
little lower.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from clrtool.engine.runtime.rng import RngStream
from clrtool.engine.runtime.sharded import spread_as, whole
from clrtool.engine.training.last_layer import listening
from clrtool.engine.training.trainer import Trainer
from clrtool.errors import MachineError

# Batches of the training set that the vector is fitted to, and evaluations of their loss, which is convex as a rule and
# moves little after that. What that takes, in optimizer steps, comes off the budget of a race.
BATCHES, EVALUATIONS = 2, 12
STEPS = 1 + BATCHES * EVALUATIONS
# Modules whose channels are the second dimension of their output; those of all others are the last.
CHANNELS_FIRST = (nn.modules.conv._ConvNd, nn.modules.batchnorm._BatchNorm, nn.GroupNorm)


def constant_head_loss(start: Trainer) -> float | None:
    """Mean held-out loss with the best constant in place of the last layer's output.

    Args:
        start: an untrained trainer, which is left as it is.

    Returns:
        None where no layer answers with a tensor of numbers, or the loss takes no such answer.
    """
    trial, workload = start.branch(), start.workload
    workload.set_train_mode(trial.model)
    try:
        with RngStream(start.seed, device=workload.device).active(), torch.enable_grad():
            batches = [*islice(workload.loader.batches(start.seed, 0), BATCHES)]
            head, constant = _last_layer(trial, batches[0])
            with _answering(head, constant):
                _fit(trial, constant, batches)
        with _answering(head, constant):
            found, _ = trial.evaluate()
    except MachineError:
        raise
    except (LookupError, RuntimeError, TypeError, ValueError):  # what the loss of another's step may raise
        return None
    return found if math.isfinite(found) else None


def _last_layer(trainer: Trainer, batch: Any) -> tuple[nn.Module, Tensor]:
    """The module with weights of its own that answers last, and the mean of what it says by channel."""
    with listening(trainer.model) as heard:
        _loss(trainer, [batch])
    module, output = heard[0].module, whole(heard[0].output)
    channels = 1 if isinstance(module, CHANNELS_FIRST) else output.ndim - 1
    others = [each for each in range(output.ndim) if each != channels]
    mean = trainer.workload.ranks.mean(output.float().mean(others, keepdim=True)).float()
    return module, mean.requires_grad_()


@contextmanager
def _answering(head: nn.Module, constant: Tensor) -> Iterator[None]:
    """Have a layer say the same whatever it is given."""

    def answer(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:  # noqa: ARG001
        return spread_as(constant.to(output.dtype).expand(output.shape), output)

    hook = head.register_forward_hook(answer)
    try:
        yield
    finally:
        hook.remove()


def _fit(trainer: Trainer, constant: Tensor, batches: Sequence[Any]) -> None:
    """Fit what the layer says to the loss of some batches, those of all ranks."""
    ranks = trainer.workload.ranks
    fit = torch.optim.LBFGS([constant], max_iter=EVALUATIONS, max_eval=EVALUATIONS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        loss = _loss(trainer, batches)
        (gradient,) = torch.autograd.grad(loss, [constant])
        constant.grad = ranks.mean(gradient).to(gradient.dtype)
        return ranks.mean(loss.detach())

    fit.step(closure)  # type: ignore[no-untyped-call]


def _loss(trainer: Trainer, batches: Sequence[Any]) -> Tensor:
    """The mean loss of batches, with its graph."""
    losses = [sum(trainer.workload.losses(trainer.model, batch)) for batch in batches]
    return torch.stack([torch.as_tensor(each) for each in losses]).mean()
