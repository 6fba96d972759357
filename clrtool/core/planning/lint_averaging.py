"""Whether the averaging time of decoupled weight decay fits a training."""

from __future__ import annotations

import math
from collections.abc import Iterator

from clrtool.core.planning.averaging import averaging_iterations
from clrtool.core.planning.finding import Finding


def lint_averaging(
    lr: float, weight_decay: float, iterations: int, iterations_per_epoch: int | None
) -> Iterator[Finding]:
    """Whether the averaging time at the highest rate fits a training.

    >>> [finding.cause[:44] for finding in lint_averaging(1e-3, 0.01, 5000, 100)]
    ['at max_lr = 0.001 weight_decay = 0.01 averag']
    >>> [*lint_averaging(1e-3, 1.0, 5000, 100)]
    []
    """
    time = averaging_iterations(lr, weight_decay)
    if math.isinf(time):
        return
    per_epoch = iterations_per_epoch or 0
    told = f"at max_lr = {lr:.3g} weight_decay = {weight_decay:g} averages updates over 1 / (max_lr * weight_decay) = "
    told += f"{time:,.0f} iterations" + (f", {time / per_epoch:.3g} epochs" if per_epoch else "")
    if time > iterations:
        yield Finding(
            "averaging time",
            f"{told}: longer than the training of {iterations:,}, so the decay does next to nothing (arXiv 2405.13698)",
            f"a weight_decay above {averaging_iterations(lr, iterations):.2g}, or 0 to say that none is meant",
            note=True,
        )
    elif time < per_epoch:
        yield Finding(
            "averaging time",
            f"{told}: shorter than an epoch of {per_epoch:,}, so the weights forget samples before they come again "
            "(arXiv 2405.13698)",
            f"a weight_decay below {averaging_iterations(lr, per_epoch):.2g}",
            note=True,
        )
