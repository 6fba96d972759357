"""Parts of a model that is spread over ranks, in a checkpoint: their places in its values, and their files."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from clrtool.engine.runtime.sharded import Shard
from clrtool.files import open_plain

# The name by which a checkpoint tells of the parts, and what stands in a state for one.
PARTS, PLACE = "parts", "part"


def file_of(folder: Path, rank: int) -> Path:
    """Where a rank's parts lie in the folder of a checkpoint: the one file that torch writes for it."""
    return folder / str(rank) / "__0_0.distcp"


def taken_out(values: Any, parts: dict[str, Shard]) -> Any:
    """Values with a name in place of every part, which is put into ``parts``; what all ranks have alike stays."""
    if isinstance(values, Shard):
        if not values.is_spread:
            return values.part.detach()
        parts[name := str(len(parts))] = values
        return {PLACE: name}
    if isinstance(values, Mapping):
        return {key: taken_out(each, parts) for key, each in values.items()}
    return type(values)(taken_out(each, parts) for each in values) if type(values) in (list, tuple) else values


def put_back(values: Any, parts: Mapping[str, Any]) -> Any:
    """The values of :func:`taken_out` with what this rank has in the place of each name."""
    if isinstance(values, Mapping):
        if values.keys() == {PLACE}:
            return parts[values[PLACE]]
        return {key: put_back(each, parts) for key, each in values.items()}
    return type(values)(put_back(each, parts) for each in values) if type(values) in (list, tuple) else values


def are_whole(folder: Path, saved: Mapping[str, Any]) -> bool:
    """Whether the parts of a checkpoint are those that were written: all of them are read for it, once a start."""
    try:
        return all(
            not wanted or hash_of(file_of(folder, rank)) == wanted for rank, wanted in enumerate(saved["sha256"])
        )
    except (OSError, LookupError, TypeError):
        return False


def check_chunks(tensors: Mapping[str, Any]) -> None:
    """Raise ValueError unless chunks fill each tensor, and a file is as large as what is to be read from it."""
    for each in tensors.values():
        dtype, size = getattr(torch, each["dtype"], None), math.prod(each["shape"])
        if not isinstance(dtype, torch.dtype) or size != sum(math.prod(sizes) for _, _, sizes, *_ in each["chunks"]):
            raise ValueError(each["shape"])
        if any(math.prod(sizes) * dtype.itemsize > length for _, _, sizes, _, length in each["chunks"]):
            raise ValueError(each["chunks"])


def hash_of(file: Path) -> str:
    """Of a plain file, however large. Raises OSError."""
    with open_plain(file) as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
