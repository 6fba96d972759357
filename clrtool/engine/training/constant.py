"""The best constant answer: what a model scores that does not look at its input.

A network that only says the mean, the background or the commonest class has learned nothing, whatever its loss was
before. So gains count from the loss of the constant outputs that fit the held-out targets best.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from clrtool.engine.training.losses import Loss

# Steps of the fit, each a few evaluations of a loss that is convex in the outputs as a rule; numbers that are fitted.
STEPS, MOST = 60, 200_000


class Answers(NamedTuple):
    """What a workload is asked, as far as that is known.

    Args:
        loss: (outputs, targets) -> scalar, the mean over the batch.
        outputs: of one batch of the first targets.
        targets: of the held-out batches.
    """

    loss: Loss
    outputs: Tensor
    targets: Sequence[Tensor]


def constant_loss(answers: Answers | None) -> float | None:
    """Mean held-out loss of the best constant outputs; None where targets, or how they lie in outputs, is not known.

    Frequencies for class numbers, means for squares, medians for absolute errors: all are found by L-BFGS on the loss
    itself, beginning at the mean of targets that are no class numbers.
    """
    if answers is None or not answers.targets or (constant := _first(answers)) is None:
        return None
    constant = constant.requires_grad_()
    fit = torch.optim.LBFGS([constant], max_iter=STEPS, line_search_fn="strong_wolfe")
    sizes = [len(each) for each in answers.targets]

    def mean_loss() -> Tensor:
        losses = [
            answers.loss(constant.expand(len(each), *answers.outputs.shape[1:]), each).reshape(()) * len(each)
            for each in answers.targets
        ]
        return torch.stack(losses).sum() / sum(sizes)

    def closure() -> Tensor:
        fit.zero_grad()
        loss = mean_loss()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    try:
        with torch.enable_grad():
            before = float(mean_loss().detach())
            fit.step(closure)  # type: ignore[no-untyped-call]
            found = min(before, float(mean_loss().detach()))
    except (RuntimeError, ValueError, TypeError, IndexError):  # a loss that takes no such outputs
        return None
    return found if math.isfinite(found) else None


def _first(answers: Answers) -> Tensor | None:
    """The constant to begin with, of the shape of one output where targets are values, else of its classes."""
    outputs, targets = answers.outputs, answers.targets[0]
    if outputs.ndim < 1 or len(outputs) != len(targets) or not outputs.is_floating_point():
        return None
    if targets.is_floating_point():
        if outputs[0].numel() > MOST:
            return None
        start = torch.zeros_like(outputs[0], dtype=torch.float32)
        if outputs.shape == targets.shape:
            start = torch.cat([*answers.targets]).float().mean(0)
        return start.clone()[None]
    shape: list[Any] = [1] * outputs.ndim
    if outputs.ndim > 1 and targets.shape == outputs.shape[:1] + outputs.shape[2:]:
        shape[1] = outputs.shape[1]
    elif targets.shape == outputs.shape[:-1]:
        shape[-1] = outputs.shape[-1]
    else:
        return None
    return torch.zeros(shape, device=outputs.device)
