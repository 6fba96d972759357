"""How long a training is, as a program says it: in epochs, in steps, or by a loader that has no length."""

from __future__ import annotations

from typing import Any, NamedTuple

from clrtool.core.planning.budget import DEFAULT_EPOCHS
from clrtool.engine.inprocess.options import Settings
from clrtool.errors import ConfigError

# A pass of more iterations than this is a sampler that counts otherwise, so that epochs are no length of a training.
LONGEST = 10**6


class Length(NamedTuple):
    """Iterations of one pass over the training set, and passes of the training that is planned."""

    iterations_per_epoch: int
    epochs: float
    notes: tuple[str, ...] = ()


def length_of(loader: Any, settings: Settings) -> Length:
    """The length of a training.

    Raises:
        ConfigError: neither the loader nor the options say it, or a pass is too long to be one.
    """
    known = settings.iterations_per_epoch or _passes(loader, settings.accumulate)
    steps, epochs = settings.plan.iterations, settings.plan.epochs
    if steps is None:
        if known is None:
            raise ConfigError(
                "train_loader: has no length: give steps=N, the optimizer steps of the training, or "
                "iterations_per_epoch=N, the optimizer steps of one pass"
            )
        if known > LONGEST and not settings.iterations_per_epoch:
            raise ConfigError(
                f"train_loader: one pass is {known:,} iterations, and {epochs:g} of them are planned: give steps=N, "
                "the optimizer steps of the training"
            )
        return Length(known, epochs)
    if known is not None and (steps >= known or settings.iterations_per_epoch):
        return Length(known, settings.plan.length(known))
    per_epoch = max(1, round(steps / DEFAULT_EPOCHS))
    note = "" if known is None else f", for one pass of the train_loader is {known:,} iterations"
    return Length(
        per_epoch,
        settings.plan.length(per_epoch),
        (f"An epoch is a part of the {steps:,} steps here, {per_epoch:,} iterations{note}.",),
    )


def _passes(loader: Any, accumulate: int) -> int | None:
    """Optimizer steps of one pass; None where a loader does not tell."""
    batches = batches_of(loader)
    return None if batches is None else -(-batches // accumulate)


def batches_of(loader: Any) -> int | None:
    """Batches of one pass. Every DataLoader has a ``__len__``, and that of a stream raises TypeError."""
    try:
        return len(loader) or None
    except (TypeError, NotImplementedError):
        return None
