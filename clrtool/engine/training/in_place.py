"""Tensors copied into memory that others know, a graph or an optimizer: in one launch for each type of number."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


@torch.no_grad()
def copy_all(sources: Iterable[Tensor], targets: Iterable[Tensor]) -> None:
    """Copy each tensor into the memory of the one at its place.

    On CUDA a copy takes longer to launch than to run, and tensors of one type and device are launched together.
    """
    groups: dict[object, tuple[list[Tensor], list[Tensor]]] = defaultdict(lambda: ([], []))
    for source, target in zip(sources, targets, strict=True):
        of_type, into = groups[source.dtype, source.device, target.dtype, target.device]
        of_type.append(source)
        into.append(target)
    for of_type, into in groups.values():
        torch._foreach_copy_(into, of_type)


def copies_of(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copies in memory of their own."""
    copies = [torch.empty_like(each) for each in tensors]
    copy_all(tensors, copies)
    return copies


def copy_tensors(saved: Mapping[Any, Tensor], target: Mapping[Any, Tensor]) -> None:
    """Copy each tensor of one into its place in the other, in the memory where that lies.

    Raises:
        ValueError: their names or shapes differ, and nothing was copied.
    """
    if saved.keys() != target.keys():
        raise ValueError(f"it lacks or has too much: {', '.join(sorted(map(str, saved.keys() ^ target.keys()))[:5])}")
    for name, tensor in saved.items():
        if tensor.shape != target[name].shape:
            raise ValueError(f"{name} was {tuple(tensor.shape)} and is {tuple(target[name].shape)}")
    copy_all(saved.values(), [target[name] for name in saved])
