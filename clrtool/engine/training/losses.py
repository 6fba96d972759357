"""What is measured of (outputs, targets), whoever built the workload: cross entropy, accuracies, and their chance."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor

from clrtool.core.reading.metric import ACCURACY, LOSS, TOKEN_ACCURACY, TOP5, Metric

# (outputs, targets) -> scalar, the mean over the batch
Loss = Callable[[Tensor, Tensor], Tensor]
# (outputs, targets) -> (sum over what was measured, number of it)
Measure = Callable[[Tensor, Tensor], tuple[Tensor, Tensor | int]]
# Targets that a token loss of torch leaves out.
IGNORED = -100


def token_cross_entropy(outputs: Tensor, targets: Tensor, function: Loss = F.cross_entropy) -> Tensor:
    """The mean over the tokens that count, of outputs (N, ..., classes); torch has classes in the second dimension."""
    loss = function(outputs.flatten(0, -2), targets.flatten())
    # torch's mean over no token is NaN; a micro-batch may hold none that counts
    return torch.where((targets != IGNORED).any(), loss, torch.zeros_like(loss))


def counted(targets: Tensor, *, tokens: bool) -> int | Tensor:
    """What a loss is the mean of: the tokens that count, or samples."""
    return (targets != IGNORED).sum() if tokens else len(targets)


def count_right(outputs: Tensor, targets: Tensor) -> tuple[Tensor, int]:
    """Samples whose highest output is their class."""
    return (outputs.argmax(1) == targets).sum(), len(targets)


def count_in_top5(outputs: Tensor, targets: Tensor) -> tuple[Tensor, int]:
    """Samples whose class is among their five highest outputs."""
    best = outputs.topk(min(5, outputs.shape[1]), dim=1).indices
    return (best == targets[:, None]).sum(), len(targets)


def count_tokens(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens whose highest output is their class, of those that count."""
    counts = targets != IGNORED
    return ((outputs.argmax(-1) == targets) & counts).sum(), counts.sum()


def count_positions(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The same of outputs (N, classes, ...), as torch's losses take them: tokens, pixels."""
    return count_tokens(outputs.movedim(1, -1), targets)


MEASURES: Mapping[Metric, Measure | None] = {
    ACCURACY: count_right, TOP5: count_in_top5, TOKEN_ACCURACY: count_tokens, LOSS: None
}  # fmt: skip


def chance(metric: Metric, targets: Tensor) -> float | None:
    """The metric of who always gives the commonest answers; None where there is no such."""
    if not metric.is_share:
        return None
    answers = targets[targets != IGNORED]
    counts = answers.bincount().sort(descending=True).values
    return float(counts[: 5 if metric is TOP5 else 1].sum()) / len(answers)
