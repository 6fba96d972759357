"""What the first batches show of how they are drawn: alike for every seed, or sorted by class."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from clrtool.core.reading.verdict import Advice
from clrtool.engine.data.nested import tensors_of
from clrtool.engine.inprocess.heldout import HeldoutBatches
from clrtool.engine.inprocess.steps import CustomSteps, SupervisedSteps

# Held-out batches that are looked at for their classes.
LOOKED_AT = 20


def alike_seeds(model: Any, batches: Sequence[Any], others: Sequence[Any]) -> tuple[Advice, ...]:
    """A doubt where another seed has the same weights and the same batches, so that it is another run of the first."""
    first, second = tensors_of(batches), tensors_of(others)
    same = len(first) == len(second) > 0 and all(
        one.shape == other.shape and torch.equal(one, other) for one, other in zip(first, second, strict=True)
    )
    return (Advice.ALIKE_SEEDS,) if same and isinstance(model, nn.Module) else ()


def lone_class(
    steps: CustomSteps | SupervisedSteps, batches: Sequence[Any], heldout: HeldoutBatches
) -> tuple[str, ...]:
    """A warning where the first batches, or all held-out ones, have one class alone."""
    if not isinstance(steps, SupervisedSteps):
        return ()
    trained, held = (_classes(steps, each) for each in (batches, [each.batch for each in islice(heldout, LOOKED_AT)]))
    if len(held) == 1:
        return (
            f"heldout_loader: its first batches have class {min(held)} alone, so they say nothing about any other.",
        )
    if len(trained) == 1 and held:
        sorted_by_class = f"train_loader: its first batches have class {min(trained)} alone, as if sorted by class"
        return (f"{sorted_by_class}: shuffle=True",)
    return ()


def _classes(steps: SupervisedSteps, batches: Sequence[Any]) -> set[int]:
    """The classes of batches of more than one sample; none where targets are no class numbers, one a sample."""
    found: set[int] = set()
    for batch in batches:
        try:
            targets = steps.targets(batch)
        except ValueError:  # no pair, as is said elsewhere
            return set()
        if not isinstance(targets, Tensor) or targets.ndim != 1 or targets.is_floating_point() or len(targets) < 2:
            return set()
        found |= set(targets.tolist())
    return found
