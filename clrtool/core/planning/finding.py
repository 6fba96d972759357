"""What the linter says, and what it is told of the training script."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Stepped = Literal["iteration", "epoch"]
# Classes of torch.optim whose parameter groups have neither a momentum nor betas.
WITHOUT_MOMENTUM = ("Adadelta", "Adafactor", "Adagrad", "ASGD", "LBFGS", "Rprop")
# Those whose momentum is 0 unless the user gives one.
PLAIN = ("SGD", "RMSprop")
OPTIMIZERS = (*WITHOUT_MOMENTUM, *PLAIN, "Adam", "AdamW", "Adamax", "Muon", "NAdam", "RAdam", "SparseAdam")


@dataclass(frozen=True)
class Finding:
    """One thing that will go wrong: a short name for it, why it happens, what to change.

    A ``note`` is worth knowing where nothing is wrong yet; ``place`` is the line of a file that it is about.
    """

    rule: str
    cause: str
    fix: str
    note: bool = False
    place: str = ""


@dataclass(frozen=True, kw_only=True)
class Use:
    """How a training script uses a schedule.

    Args:
        stepped: how often it calls ``scheduler.step()``.
        optimizer: the class of ``torch.optim``; None where it is not known.
        momentum, weight_decay: what the optimizer is made with; 0 where it is not said.
        base_lr, max_lr: the bounds that were meant; None for no check.
    """

    stepped: Stepped = "iteration"
    optimizer: str | None = None
    momentum: float = 0.0
    weight_decay: float = 0.0
    base_lr: float | None = None
    max_lr: float | None = None
