"""The loss that code outside gives, as one number."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from clrtool.engine.runtime.sharded import whole
from clrtool.errors import ConfigError
from clrtool.words import shown


def checked_loss(loss: Any, name: str) -> Tensor:
    """A loss as one number. Raises ConfigError for anything else."""
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        shape = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else shown(loss)
        raise ConfigError(f"{name}: must give a loss of one number, the mean over the batch; it gave {shape}")
    return scalar(loss)


def scalar(loss: Tensor) -> Tensor:
    """A loss of one number without dimensions; one that has none is left alone: a view takes 5 us a step."""
    loss = whole(loss)  # of tensor parallelism
    return loss.reshape(()) if loss.ndim else loss
