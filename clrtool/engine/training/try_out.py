"""A workload tried out for a moment before a sweep, so that pieces that do not fit are a message now."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import nn

from clrtool.engine.training.trainer import Trainer
from clrtool.engine.training.workload import EvalSums
from clrtool.errors import ConfigError

# So small that no weight leaves its place, whatever the model.
TINY_LR = 1e-9


def fresh_model(make_model: Callable[[], nn.Module], repeated: str) -> nn.Module:
    """A model of those that are made.

    Raises:
        ConfigError: it has nothing to train; or, which ``repeated`` says, it shares weights with the next.
    """
    model, other = make_model(), make_model()
    check_trains(model)
    if {*map(id, model.parameters())} & {*map(id, other.parameters())}:
        raise ConfigError(repeated)
    return model


def check_trains(model: nn.Module) -> None:
    """Raise ConfigError for a model without a parameter that trains."""
    if not any(each.requires_grad for each in model.parameters()):
        raise ConfigError("model: has no parameter to train")


def wants_closure(trainer: Trainer, batch: Any) -> bool:
    """Whether the optimizer takes a step only with a closure; the gradients of ``batch`` are there.

    Raises:
        ConfigError: it takes one with a closure only, and in fp16, where a step may have to be taken again.
        Exception: it takes none; what it says to one without a closure.
    """
    workload, optimizer = trainer.workload, trainer.optimizer
    for group in optimizer.param_groups:
        group["lr"] = TINY_LR * group["lr_ratio"]
    try:
        optimizer.step()
    except Exception as first:
        try:
            optimizer.step(*replace(workload, needs_closure=True).closures(trainer, batch))
        except Exception:  # noqa: BLE001 (what it says to a plain step tells more)
            raise first from None
        if workload.precision == "fp16":
            raise ConfigError(
                f"precision: {workload.make_optimizer.name} computes loss and gradients again in a step, which fp16 "
                "cannot scale: use bf16"
            ) from first
        return True
    return False


def try_out(trainer: Trainer, model: str) -> EvalSums:
    """Train and evaluate. Raises ConfigError, with what the model is, for a metric that is not finite."""
    trainer.train(0, [TINY_LR, TINY_LR])  # two steps, for some optimizers use an argument in the second only
    sums = trainer.eval_sums()
    if not math.isfinite(sums.means[1]):
        raise ConfigError(f"metric: is not finite for {model}: {sums.means[1]}")
    return sums
