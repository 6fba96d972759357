"""Whether a step leaves alone what it is not given: the program's own networks, which it can reach as well."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import CodeType, FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from clrtool.engine.runtime.sharded import is_shard
from clrtool.errors import ConfigError

# How far is looked: from a function to what it closes over, to what that holds.
DEPTH = 3


@contextmanager
def left_alone(model: Any, *functions: Callable[..., Any] | None) -> Iterator[None]:
    """Put back what functions of a program change beside the model that they are given, and refuse them.

    Args:
        model: the program's own, of which they are given copies.
        functions: looked through for networks and optimizers: in what they close over, global names, and arguments
            that are bound to them.

    Raises:
        ConfigError: one of these was changed.
    """
    reached = [("model", model), *(each for function in functions for each in _reached(function, DEPTH))]
    found = {id(each): _Kept(name, each) for name, each in reached[::-1] if isinstance(each, nn.Module | Optimizer)}
    cause: Exception | None = None
    try:
        yield
    except Exception as error:  # noqa: BLE001 (it is raised again, where it is not a consequence)
        cause = error
    finally:
        changed = sorted({each.name for each in found.values() if each.is_changed})
        for each in found.values() if changed else ():
            each.put_back()
    if changed:
        raise ConfigError(
            f"step: changes {', '.join(changed)}, which it was not given: a range test trains copies, so a step "
            "gives the loss of its argument and leaves optimizers to the range test. Of two networks that are trained "
            "against each other, test one while the other stays fixed"
        ) from cause
    if cause is not None:
        raise cause


@contextmanager
def unscaled() -> Iterator[None]:
    """Refuse losses that a GradScaler has multiplied: gradients are as large as if another rate had been taken."""
    scale, used = torch.amp.GradScaler.scale, False

    def noted(self: Any, outputs: Any) -> Any:
        nonlocal used
        used = used or self.is_enabled()
        return scale(self, outputs)

    torch.amp.GradScaler.scale = noted  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.amp.GradScaler.scale = scale  # type: ignore[method-assign]
    if used:
        raise ConfigError(
            "step: multiplies its loss by a GradScaler: give the loss as it is, and precision='fp16' for the scaling"
        )


class _Kept:
    """A network or an optimizer as it was."""

    def __init__(self, name: str, found: nn.Module | Optimizer) -> None:
        self.name = name
        self._optimizer = found if isinstance(found, Optimizer) else None
        self._tensors = _tensors(found)
        self._values = [each.detach().clone() for each in self._tensors]
        self._gradients = [each.grad for each in self._tensors]
        self._state = dict(self._optimizer.state) if self._optimizer else {}
        self._copies = copy.deepcopy([*self._state.values()])

    @property
    def is_changed(self) -> bool:
        return not all(map(_are_alike, self._tensors, self._values))

    @torch.no_grad()
    def put_back(self) -> None:
        for tensor, value, gradient in zip(self._tensors, self._values, self._gradients, strict=True):
            tensor.copy_(value)
            tensor.grad = gradient
        if self._optimizer is not None:
            self._optimizer.state.clear()
            self._optimizer.state.update(zip(self._state, self._copies, strict=True))


def _are_alike(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors hold the same, NaN too."""
    return bool(((one == other) | ((one != one) & (other != other))).all())  # noqa: PLR0124


def _tensors(found: nn.Module | Optimizer) -> list[Tensor]:
    if isinstance(found, nn.Module):
        tensors = [*found.parameters(), *found.buffers()]
    else:
        tensors = [each for group in found.param_groups for each in group["params"]]
    return [each for each in tensors if not is_lazy(each) and not is_shard(each)]  # a sharded model is lent


def _reached(value: Any, depth: int, name: str = "") -> Iterator[tuple[str, Any]]:
    """Names and networks or optimizers that a value holds or, as a function, can reach."""
    if isinstance(value, nn.Module | Optimizer):
        yield name, value
    elif depth:
        for inner, each in _held(value):
            yield from _reached(each, depth - 1, inner)


def _held(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, MethodType):
        yield from (("self", value.__self__), ("", value.__func__))
    elif isinstance(value, partial):
        yield from (("", value.func), *((str(place), each) for place, each in enumerate(value.args)))
        yield from value.keywords.items()
    elif isinstance(value, FunctionType) and not str(value.__module__).startswith("torch"):
        cells = zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)
        yield from ((name, cell.cell_contents) for name, cell in cells if _is_filled(cell))
        yield from ((name, value.__globals__[name]) for name in _names(value.__code__) if name in value.__globals__)
        yield from (("", each) for each in value.__defaults__ or ())
    elif isinstance(value, Mapping):
        yield from ((str(name), each) for name, each in value.items())
    elif isinstance(value, list | tuple):
        yield from ((str(place), each) for place, each in enumerate(value))
    elif type(value).__module__ != "builtins" and hasattr(value, "__dict__") and not isinstance(value, type):
        yield from vars(value).items()


def _names(code: CodeType) -> set[str]:
    """Global names that code may look up, that of its inner functions too."""
    inner = (each for each in code.co_consts if isinstance(each, CodeType))
    return {*code.co_names}.union(*map(_names, inner))


def _is_filled(cell: Any) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True
