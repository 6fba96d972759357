"""Copies of optimizers, whole: torch's own copy has the groups and the state, and nothing that a class adds to them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from clrtool.engine.runtime.factories import AS_IT_IS, describe
from clrtool.engine.training.joint import JointOptimizer
from clrtool.errors import ConfigError

# What every optimizer has, copied or made again by torch.
_OWN = frozenset(vars(torch.optim.SGD([torch.zeros(1)], lr=1.0)))


def copy_optimizer(optimizer: Optimizer, parameters: Mapping[Any, Tensor]) -> Optimizer:
    """An optimizer with the same state, over other parameters.

    Args:
        parameters: those of the copy, by those of the optimizer. What is not among them is copied too.
    """
    if isinstance(optimizer, JointOptimizer):
        return JointOptimizer([copy_optimizer(each, parameters) for each in optimizer.optimizers])
    memo = _memo(parameters)
    copied = copy.deepcopy(optimizer, memo)
    _carry(optimizer, copied, memo)
    return copied


def carry_extras(optimizer: Optimizer, target: Optimizer) -> None:
    """Give an optimizer what another of its class holds beside groups and state: the optimizer it wraps, a counter.

    Args:
        target: over parameters in the same order, with the same groups and state already.
    """
    if isinstance(optimizer, JointOptimizer) and isinstance(target, JointOptimizer):
        for one, other in zip(optimizer.optimizers, target.optimizers, strict=True):
            carry_extras(one, other)
        return
    if not _extras(optimizer):
        return
    memo: dict[int, Any] = {id(optimizer): target, id(optimizer.param_groups): target.param_groups}
    memo |= {id(optimizer.state): target.state, id(optimizer.defaults): target.defaults}
    for group, twin in zip(optimizer.param_groups, target.param_groups, strict=True):
        memo[id(group)] = twin
        memo |= _memo(dict(zip(group["params"], twin["params"], strict=True)))
    _carry(optimizer, target, memo)


def _carry(source: Optimizer, target: Optimizer, memo: dict[int, Any]) -> None:
    for name, value in _extras(source).items():
        try:
            copied = copy.deepcopy(value, memo)
        except AS_IT_IS:
            raise
        except Exception as error:
            raise ConfigError(
                f"optimizer: {type(source).__name__} holds a {name} that cannot be copied ({describe(error)}), and "
                "each short run needs a copy: keep it in the groups or in the state"
            ) from error
        setattr(target, name, copied)


def _extras(optimizer: Optimizer) -> dict[str, Any]:
    """What it holds beside what torch copies; not what hides a method, as the ``step`` that a scheduler counts by."""
    methods = dir(type(optimizer))
    return {name: value for name, value in vars(optimizer).items() if name not in _OWN and name not in methods}


def _memo(parameters: Mapping[Any, Tensor]) -> dict[int, Any]:
    """What ``deepcopy`` takes for copied already."""
    return {id(old): new for old, new in parameters.items()}
