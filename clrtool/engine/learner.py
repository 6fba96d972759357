"""One model in training: the only mutable thing of a sweep, made fresh for it and dropped after it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from clrtool.engine.imports import blamed_on
from clrtool.engine.problem import Problem

# Samples per forward pass of an evaluation. On a CPU larger ones fall out of the cache: 1,000 take twice as long.
EVALUATION_BATCH = 250


class Learner:
    """A fresh model and optimizer of a problem, drawn from a seed.

    The order of the batches is a pure function of (seed, epoch), so any iteration can be reached without running
    those before it. Call under ``torch.random.fork_rng``: the seed goes into torch's global generator.
    """

    def __init__(self, problem: Problem, seed: int) -> None:
        torch.manual_seed(seed)
        self.problem, self.seed = problem, seed
        # Weights are drawn on the CPU and moved, so that a seed means the same weights on every device.
        self.model = problem.make_model().to(problem.device)
        self.optimizer = problem.make_optimizer(self.model.parameters())
        self._epoch, self._order = -1, torch.empty(0)

    def train(self, iteration: int, lrs: Sequence[float]) -> list[float]:
        """Take ``len(lrs)`` optimizer steps from ``iteration`` on.

        Returns:
            For each step the loss of its batch, measured before the step. One transfer for all of them: the device
            is not waited for in between.
        """
        self.model.train()
        losses = torch.empty(len(lrs), device=self.problem.device)
        with blamed_on(f"training failed between iterations {iteration} and {iteration + len(lrs)}"):
            self._steps(iteration, lrs, losses)
        return losses.tolist()

    def _steps(self, iteration: int, lrs: Sequence[float], losses: Tensor) -> None:
        for offset, lr in enumerate(lrs):
            inputs, targets = self.problem.batch(self.problem.train, self._index(iteration + offset))
            with self.problem.autocast():
                loss = self.problem.loss(self.model(inputs), targets)
            losses[offset] = loss.detach()
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()

    @torch.no_grad()
    def evaluate(self) -> tuple[float, float]:
        """Mean loss and accuracy on the whole held-out set, with batch norm and dropout in evaluation mode."""
        self.model.eval()
        heldout = self.problem.heldout
        total = torch.zeros(2, dtype=torch.float64, device=self.problem.device)
        for start in range(0, len(heldout), EVALUATION_BATCH):
            inputs, targets = self.problem.batch(heldout, slice(start, start + EVALUATION_BATCH))
            with blamed_on("evaluation failed"), self.problem.autocast():
                outputs = self.model(inputs)
                loss = self.problem.loss(outputs, targets).reshape(())
            total += torch.stack([loss.double() * len(targets), (outputs.argmax(1) == targets).sum().double()])
        loss_sum, correct = total.tolist()
        return loss_sum / len(heldout), correct / len(heldout)

    def _index(self, iteration: int) -> Tensor:
        """The samples of one batch. The rest of an epoch that does not fill a batch is left out, another each time."""
        epoch, position = divmod(iteration, self.problem.iterations_per_epoch)
        if epoch != self._epoch:
            order = np.random.default_rng([self.seed, epoch]).permutation(len(self.problem.train))
            self._epoch, self._order = epoch, torch.from_numpy(order).to(self.problem.device)
        start = position * self.problem.batch_size
        return self._order[start : start + self.problem.batch_size]
