"""A workload tried out for a moment before a sweep, so that pieces that do not fit are a message now."""

from __future__ import annotations

import math
from collections.abc import Callable

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


def try_out(trainer: Trainer, model: str) -> EvalSums:
    """Train and evaluate. Raises ConfigError, with what the model is, for a metric that is not finite."""
    trainer.train(0, [TINY_LR, TINY_LR])  # two steps, for some optimizers use an argument in the second only
    sums = trainer.eval_sums()
    if not math.isfinite(sums.means[1]):
        raise ConfigError(f"metric: is not finite for {model}: {sums.means[1]}")
    return sums
