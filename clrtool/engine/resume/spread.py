"""Checkpoints of several ranks: the first saves what all have alike, and each its parts of what is spread over them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clrtool.engine.resume.checkpoint import CheckpointFolder
from clrtool.engine.resume.parts import PARTS, check_chunks, file_of, hash_of, put_back, taken_out
from clrtool.engine.runtime.ranks import Ranks
from clrtool.engine.runtime.sharded import Shard, empty_shard, is_shard, local
from clrtool.errors import ConfigError, MachineError


class SpreadCheckpoints:
    """Where ranks save, all at once.

    Args:
        folder: of the first rank.
        shares: whether they share a model. What writes it is imported at once, for a save is timed.
    """

    def __init__(self, ranks: Ranks, folder: CheckpointFolder | None = None, *, shares: bool = False) -> None:
        self._ranks, self._folder = ranks, folder
        if shares:
            from clrtool.engine.resume import distcp  # noqa: F401

    def save(self, values: Mapping[str, Any]) -> None:
        """Write one more generation, the parts first. Raises MachineError if a disk is full."""
        parts: dict[str, Shard] = {}
        whole = taken_out(values, parts)
        if parts:
            place = self._ranks.broadcast(None if self._folder is None else str(self._folder.begin_parts()))
            whole[PARTS] = _write(Path(place), parts, self._ranks)
            if whole[PARTS] is None:  # what runs starts over
                whole["running"] = None
        if self._folder is not None:
            self._folder.save(whole)


def shared(ranks: Ranks, values: Mapping[str, Any] | None, folder: Path = Path()) -> Mapping[str, Any] | None:
    """What the first rank has loaded, with what this one holds of it.

    Args:
        folder: of the parts.

    Raises:
        ConfigError: they are not what was saved.
    """
    values, place = ranks.broadcast((values, str(folder)))
    if values is None or values.get(PARTS) is None:
        return values
    try:
        found: Mapping[str, Any] = put_back(values, _read(Path(place), values[PARTS]["tensors"], ranks.world))
    except (ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise ConfigError(f"{place}: is not what its checkpoint tells of: measure it again with --fresh") from error
    return found


def _write(folder: Path, parts: Mapping[str, Shard], ranks: Ranks) -> dict[str, Any] | None:
    """Write what each rank holds, and tell where it lies; None if they have no disk in common.

    Raises:
        MachineError: the disk of one of them is full, or cannot be written.
    """
    if ranks.any(not folder.is_dir()):
        return None
    found = ranks.all_gather(_written(folder, ranks.rank, parts))
    if failed := next((each["error"] for each in found if "error" in each), None):
        raise MachineError(failed)
    tensors = {
        name: {
            "shape": [*part.like.shape],
            "dtype": str(part.part.dtype).removeprefix("torch."),
            "chunks": [(rank, *each["chunks"][name]) for rank, each in enumerate(found) if name in each["chunks"]],
        }
        for name, part in parts.items()
    }
    return {"tensors": tensors, "sha256": [each["sha256"] for each in found]}


def _written(folder: Path, rank: int, parts: Mapping[str, Shard]) -> dict[str, Any]:
    """Where parts lie in the file of a rank: offset and size in the tensor, beginning and length in the file."""
    from clrtool.engine.resume import distcp

    parts = {name: each for name, each in parts.items() if each.part.numel()}  # of few rows a rank may have none
    if not parts:
        return {"chunks": {}, "sha256": ""}
    try:
        places = distcp.write(folder / str(rank), {name: each.part for name, each in parts.items()})
        chunks = {name: ([*each.offset], [*each.part.shape], *places[name]) for name, each in parts.items()}
        return {"chunks": chunks, "sha256": hash_of(file_of(folder, rank))}
    except (OSError, RuntimeError) as error:
        return {"error": f"{folder}: cannot be written: {getattr(error, 'strerror', None) or error}"}


def _read(folder: Path, tensors: Mapping[str, Any], world: int) -> dict[str, Shard | Tensor]:
    """What this rank holds of every tensor, if its rows are dealt to so many; one process has it whole."""
    from clrtool.engine.resume import distcp

    check_chunks(tensors)
    wanted = {name: empty_shard(each["shape"], getattr(torch, each["dtype"]), world) for name, each in tensors.items()}
    distcp.read(folder, tensors, wanted)
    return {name: Shard(local(each), each) if is_shard(each) else each for name, each in wanted.items()}
