"""Tensors in lists, tuples and mappings, as batches and the inputs of models hold them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor


def map_nested(function: Callable[[Any], Any], value: Any) -> Any:
    """The same structure in containers of its own, a mapping as a dict, with ``function`` of every leaf."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Mapping):
        return {name: map_nested(function, each) for name, each in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_nested(function, each) for each in value))
    if type(value) in (list, tuple):
        return type(value)(map_nested(function, each) for each in value)
    return function(value)


def tensors_of(value: Any) -> list[Tensor]:
    """Every tensor of a structure, in its order."""
    if isinstance(value, Tensor):
        return [value]
    if not isinstance(value, Mapping | list | tuple):
        return []
    children: Iterable[Any] = value.values() if isinstance(value, Mapping) else value
    return [tensor for each in children for tensor in tensors_of(each)]


def nbytes(value: Any) -> int:
    """Bytes of all tensors of a structure, of sparse ones as if they were dense."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors_of(value))
