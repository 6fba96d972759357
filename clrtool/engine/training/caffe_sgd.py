"""SGD as Caffe takes it: the learning rate goes into the momentum buffer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT


class CaffeSGD(Optimizer):
    """SGD with momentum, weight decay as part of the gradient, and the learning rate inside the buffer.

    v <- momentum * v + lr * (gradient + weight_decay * w)
    w <- w - v, with ``nesterov`` w <- w - (1 + momentum) * v + momentum * v_before

    ``torch.optim.SGD`` keeps v <- momentum * v + gradient and multiplies by the learning rate of today. The two are
    one while the learning rate is constant. Where it changes, a gradient here goes on with the rate that it was met
    with, and there with the rate of each later step: along a sweep, in every cycle, after every drop.

    Args:
        params: parameters, or groups of them with options of their own.
        lr: learning rate, at least 0; a tensor is read where it lies.
        momentum: from 0 to below 1.
        weight_decay: at least 0.
        nesterov: Caffe's ``Nesterov`` solver.
        capturable: accepted beside torch's own optimizers: a step never waits for the device.

    Raises:
        ValueError: a value is out of its range.

    Source: Caffe, sgd_solver.cpp and nesterov_solver.cpp.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.001,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        capturable: bool = False,
    ) -> None:
        if not lr >= 0:
            raise ValueError(f"lr = {lr} must be at least 0")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum = {momentum} must be from 0 to below 1")
        if not weight_decay >= 0:
            raise ValueError(f"weight_decay = {weight_decay} must be at least 0")
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "nesterov": nesterov}
        super().__init__(params, defaults | {"capturable": capturable})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for w in group["params"]:
                if w.grad is not None:
                    _update(w, w.grad, self.state[w], group)
        return loss


def _update(w: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    """One parameter in place; its buffer v is made in its first step."""
    if not state:
        state["momentum_buffer"] = torch.zeros_like(w)
    v, momentum = state["momentum_buffer"], group["momentum"]
    moved = gradient.add(w, alpha=group["weight_decay"]) * group["lr"]
    v.mul_(momentum).add_(moved)
    # (1 + momentum) v - momentum v_before is momentum v + moved, for momentum v_before is v - moved.
    w.sub_(moved.add(v, alpha=momentum) if group["nesterov"] else v)
