"""Tensor parallelism: which ranks compute together what one batch comes to, as the tensors of a model tell."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

from torch import distributed as dist
from torch import nn

from clrtool.engine.runtime.sharded import forget_gathered, fully_sharded, is_shard
from clrtool.errors import ConfigError


class Seat(NamedTuple):
    """Where a rank stands among those that share out the batches.

    Args:
        rank, world: of those that take batches of their own; ranks that share each batch have one number.
        shared: the ranks that share each batch with this one, and itself.
        columns: the ranks that stand alike in each share of the batches, and add up their gradients.
    """

    rank: int
    world: int
    shared: tuple[int, ...]
    columns: list[list[int]]


def told_of(model: Any) -> dict[str, list[int]]:
    """The ranks with which this one shares each batch, and those over which ``fully_shard`` spreads the model."""
    shared, over = {dist.get_rank()}, set[int]()
    if isinstance(model, nn.Module):
        forget_gathered(model)
        over = {rank for mesh in _data_meshes(model) for rank in mesh.mesh.flatten().tolist()}
        shared = shared.union(*(_across(each, over) for each in model.parameters() if is_shard(each)))
    return {"shared": sorted(shared), "over": sorted(over)}


def seat_of(rank: int, told: Sequence[dict[str, list[int]]]) -> Seat:
    """The seat of a rank, of what each of all ranks has told.

    Raises:
        ConfigError: they do not share the batches out evenly, or ``fully_shard`` leaves some of them out.
    """
    groups = sorted({tuple(each["shared"]) for each in told})
    if sorted(chain(*groups)) != [*range(len(told))] or len({*map(len, groups)}) > 1:
        raise ConfigError(
            f"model: its ranks do not compute a batch together in groups of one size: {groups}: give each rank a place "
            "in one mesh of two dimensions, one of the data and one of tensor parallelism"
        )
    columns = [*map(list, zip(*groups, strict=True))]
    for each in told:
        if each["over"] and each["over"] not in columns:
            raise ConfigError(
                f"model: fully_shard spreads it over the ranks {each['over']}, and {len(groups)} take batches of their "
                "own: give it the mesh of all of them"
            )
    place, shared = next((place, group) for place, group in enumerate(groups) if rank in group)
    return Seat(place, len(groups), shared, columns)


def is_tensor_parallel(model: nn.Module) -> bool:
    """Whether ranks compute together what one batch comes to, of any part of a model."""
    return any(map(is_shard, model.parameters())) and len(told_of(model)["shared"]) > 1


def _across(tensor: Any, over: set[int]) -> set[int]:
    """The ranks of a tensor's mesh along those dimensions that are not of the data: that lead out of ``over``."""
    mesh = tensor.device_mesh
    place, ranks = mesh.get_coordinate(), mesh.mesh
    for dimension in reversed(range(mesh.ndim)):
        line = mesh.mesh[(*place[:dimension], slice(None), *place[dimension + 1 :])]
        if over.issuperset(line.tolist()):
            ranks = ranks.select(dimension, place[dimension])
    return set(ranks.flatten().tolist())


def _data_meshes(model: nn.Module) -> Iterator[Any]:
    """The meshes over which ``fully_shard`` spreads and replicates."""
    for module in fully_sharded(model):
        state = module._get_fsdp_state()
        # torch 2.9 has one group of a module
        groups = getattr(state, "_fsdp_param_groups", None) or [state._fsdp_param_group]
        yield from (group.mesh_info.mesh for group in groups if group is not None)
