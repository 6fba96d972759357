"""A plateau: a metric that has not improved for longer than a patience."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from clrtool.errors import ConfigError


def check_time(at_epoch: int | None, when: str | None, mode: str = "min") -> None:
    """Raise ConfigError for a time of a test in mid-training that is none, or a metric that goes no known way."""
    if when not in (None, "plateau"):
        raise ConfigError(f"when = {when!r} must be 'plateau'; for a fixed time give at_epoch")
    if at_epoch is not None and (when is not None or not isinstance(at_epoch, int) or at_epoch < 0):
        raise ConfigError(f"at_epoch = {at_epoch!r} must be a whole number of at least 0, without when")
    if mode not in ("min", "max"):
        raise ConfigError(f"mode = {mode!r} must be 'max' or 'min'")


class Plateau:
    """What torch's ReduceLROnPlateau sees, over a rate that nobody trains with.

    Args:
        mode: ``min`` or ``max``, which way the metric improves.
        patience: validations without an improvement that it waits through.
        threshold: share of the best by which a value has to be better to be an improvement.
    """

    def __init__(self, mode: str, patience: int, threshold: float) -> None:
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        self._rates = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, "min" if mode == "min" else "max", patience=patience, threshold=threshold
        )
        self._optimizer = optimizer

    def see(self, value: float) -> None:
        """Take in the metric of a validation."""
        self._rates.step(value)

    @property
    def reached(self) -> bool:
        return float(self._optimizer.param_groups[0]["lr"]) < 1.0

    def state(self) -> dict[str, Any]:
        """What was seen, in plain types."""
        seen = ("best", "num_bad_epochs", "last_epoch")
        return {name: getattr(self._rates, name) for name in seen} | {"reached": self.reached}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Put back a :meth:`state`."""
        for name in ("best", "num_bad_epochs", "last_epoch"):
            setattr(self._rates, name, state[name])
        self._optimizer.param_groups[0]["lr"] = 0.1 if state["reached"] else 1.0
