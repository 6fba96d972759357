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
# How far to go from the mean of what the untrained layer says to what fits those batches: the held-out loss decides,
# for a few samples of many classes say little of how often each comes.
PARTS = (0.0, 0.5, 1.0)
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
            head, untrained = _last_layer(trial, batches[0])
            fitted = untrained.clone().requires_grad_()
            with _answering(head, fitted):
                _fit(trial, fitted, batches)
        found = [_read(trial, head, untrained.lerp(fitted.detach(), part)) for part in PARTS]
    except MachineError:
        raise
    except (LookupError, RuntimeError, TypeError, ValueError):  # what the loss of another's step may raise
        return None
    return min(filter(math.isfinite, found), default=None)


def _last_layer(trainer: Trainer, batch: Any) -> tuple[nn.Module, Tensor]:
    """The module with weights of its own that answers last, and the mean of what it says by channel."""
    with listening(trainer.model) as heard:
        _loss(trainer, [batch])
    module, output = heard[0].module, whole(heard[0].output)
    channels = 1 if isinstance(module, CHANNELS_FIRST) else output.ndim - 1
    others = [each for each in range(output.ndim) if each != channels]
    mean = trainer.workload.ranks.mean(output.float().mean(others, keepdim=True)).float()
    return module, mean


@contextmanager
def _answering(head: nn.Module, constant: Tensor) -> Iterator[None]:
    """Have a layer say the same whatever it is given, with derivatives by that, which are nought.

    Where it has another number of channels than before, they are the samples of a batch: they get the mean.
    """

    def answer(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:  # noqa: ARG001
        fits = all(size in (1, other) for size, other in zip(constant.shape, output.shape, strict=True))
        said = constant if fits else constant.mean()
        return spread_as(said.to(output.dtype).expand(output.shape), output) + 0 * output

    hook = head.register_forward_hook(answer)
    try:
        yield
    finally:
        hook.remove()


def _read(trainer: Trainer, head: nn.Module, constant: Tensor) -> float:
    """The held-out loss where a layer says the same of everything."""
    with _answering(head, constant):
        return trainer.evaluate()[0]


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
