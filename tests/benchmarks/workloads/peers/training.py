"""A job as other ways get it: started from a seed, and trained at rates of their own."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


class Started:
    """A model and its optimizer, whose steps are counted, and whose gradients are cut as the job cuts them.

    Args:
        job: a ``Workload``.
        clip: False where the way cuts gradients itself.
    """

    def __init__(self, job: Any, seed: int, lr: float, *, clip: bool = True) -> None:
        torch.manual_seed(seed)
        self.steps, self.job, self.clip = 0, job, job.clip if clip else None
        self.model: nn.Module = job.model()
        self.optimizer = self.make_optimizer(self.model, lr)

    def make_optimizer(self, model: nn.Module, lr: float) -> torch.optim.Optimizer:
        """The job's optimizer for a model; the steps of all of them are counted together."""
        optimizer: torch.optim.Optimizer = self.job.optimizer(model, lr)
        if self.clip:
            optimizer.register_step_pre_hook(
                lambda *_: nn.utils.clip_grad_norm_(model.parameters(), self.clip) and None
            )
        optimizer.register_step_post_hook(self._count)
        return optimizer

    def _count(self, *_: Any) -> None:
        self.steps += 1


def loader(job: Any) -> DataLoader[tuple[Tensor, ...]]:
    """The training set in shuffled batches."""
    x, y, _, _ = job.data()
    return DataLoader(TensorDataset(x, y), job.batch_size, shuffle=True, drop_last=True)


def iterations(job: Any) -> int:
    """Optimizer steps of the whole training."""
    return len(job.data()[0]) // job.batch_size * int(job.epochs)


def default_lr(optimizer: type[torch.optim.Optimizer]) -> float:
    """The rate that an optimizer takes when it is given none."""
    return float(inspect.signature(optimizer).parameters["lr"].default)


def batches(job: Any, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches without end, in the order of ``score.train``."""
    x, y, _, _ = job.data()
    order, whole = torch.Generator().manual_seed(seed), len(x) // job.batch_size * job.batch_size
    while True:
        for rows in torch.randperm(len(x), generator=order)[:whole].split(job.batch_size):
            yield x[rows], y[rows]


def steps(
    job: Any, model: nn.Module, optimizer: torch.optim.Optimizer, rates: Iterable[float], seed: int
) -> Iterator[int]:
    """Train at these rates, and yield after each step how many there were.

    Raises:
        FloatingPointError: the loss is not finite.
    """
    for number, (lr, (x, y)) in enumerate(zip(rates, batches(job, seed), strict=False), 1):
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.zero_grad(set_to_none=True)
        loss = job.loss(model(x), y)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"The loss is {float(loss)} at step {number}.")
        loss.backward()
        if job.clip:
            nn.utils.clip_grad_norm_(model.parameters(), job.clip)
        optimizer.step()
        yield number


@torch.no_grad()
def held_out(job: Any, model: nn.Module) -> float:
    """The held-out score of a model, which is in training again afterwards.

    Raises:
        FloatingPointError: it is not finite.
    """
    _, _, x, y = job.data()
    model.eval()
    outputs = torch.cat([model(part) for part in x.split(500)])
    model.train()
    value = float((outputs.argmax(1) == y).float().mean()) if job.accuracy else float(job.loss(outputs, y))
    if not math.isfinite(value):
        raise FloatingPointError(f"The held-out loss is {value}.")
    return value
