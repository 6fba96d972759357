"""How many samples a batch has, of whatever it is made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor


def samples_of(batch: Any, expected: int | None = None) -> int | None:
    """The samples of a batch: a length that all of its parts have; None where no length is common to them.

    A tensor may have them in its first or in its second dimension, a list of tensors may be a list of samples.

    Args:
        expected: what a loader calls its batch size, which decides among several such lengths.

    >>> import torch
    >>> samples_of((torch.zeros(35, 20, 8), torch.zeros(20)))
    20
    >>> samples_of(([torch.zeros(3, 9, 7)] * 8, [{"boxes": torch.zeros(1, 4)}] * 8))
    8
    """
    if isinstance(batch, list | tuple) and batch:  # as a rule of inputs and targets, and not of samples
        found = _common(batch)
        lengths = [len(batch)] if found is None or expected == len(batch) else found
    else:
        lengths = _lengths(batch) or []
    if expected in lengths:
        return expected
    return lengths[0] if lengths else None


def _lengths(value: Any) -> list[int] | None:
    """What may be the number of samples in it, the likeliest first; None of what does not tell."""
    if isinstance(value, Tensor):
        return list(dict.fromkeys(value.shape[:2])) if value.ndim else None
    if isinstance(graphs := getattr(value, "num_graphs", None), int):  # as PyTorch Geometric counts them
        return [graphs]
    if isinstance(value, Mapping):
        return _common(value.values())
    if not isinstance(value, list | tuple) or not value:
        return None
    within, alike = _common(value), len({*map(type, value)}) == 1
    return [*dict.fromkeys([*(within or ()), len(value)])] if alike else within


def _common(parts: Iterable[Any]) -> list[int] | None:
    """The lengths that all parts have, of those that tell any."""
    known = [lengths for lengths in map(_lengths, parts) if lengths is not None]
    if not known:
        return None
    return [length for length in known[0] if all(length in other for other in known[1:])]
