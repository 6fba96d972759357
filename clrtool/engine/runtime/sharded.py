"""Models of which every rank holds a shard, as ``DTensor`` of torch.

What is kept of such a model is the part of this rank, in memory that the model shares: no rank gathers the whole.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class Shard:
    """What this rank holds of a tensor, in a state.

    Args:
        like: a tensor of the same shape that is spread in the same way, or that every rank has all of.
    """

    part: Tensor
    like: Tensor

    def __deepcopy__(self, memo: dict[int, Any]) -> Shard:
        """A copy of the part; how it is spread is told by the same tensor, which the model holds."""
        return Shard(copy.deepcopy(self.part, memo), self.like)

    @property
    def is_spread(self) -> bool:
        return is_shard(self.like)

    @property
    def offset(self) -> tuple[int, ...]:
        """Where the part begins in the whole, in every dimension."""
        return _extent(self.like)[1]


def part_of(value: Tensor | Shard, like: Tensor) -> Tensor:
    """The part of this rank in what was saved: by itself, or as the whole tensor that another number of ranks had."""
    if isinstance(value, Shard):
        return value.part
    if not is_shard(like) or value.shape != like.shape:
        return value
    for dimension, (size, start) in enumerate(zip(*_extent(like), strict=True)):
        value = value.narrow(dimension, start, size)
    return value


def _extent(tensor: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shape and offset of what this rank holds of a tensor that is spread."""
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    return compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)


def empty_shard(shape: Sequence[int], dtype: torch.dtype, world: int) -> Tensor:
    """A tensor on the CPU that all ranks share as ``fully_shard`` does, by rows; all of it for one rank."""
    if world == 1:
        return torch.empty(*shape, dtype=dtype)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard as Rows
    from torch.distributed.tensor import empty

    return empty(*shape, dtype=dtype, device_mesh=init_device_mesh("cpu", (world,)), placements=[Rows(0)])


def is_shard(tensor: Tensor) -> bool:
    """Whether a tensor is spread over ranks."""
    kind = _kind()
    return kind is not None and isinstance(tensor, kind)


def holders(tensor: Tensor) -> set[int]:
    """The ranks that hold a tensor together that is spread."""
    return set(tensor.device_mesh.mesh.flatten().tolist())  # type: ignore[attr-defined]


def is_sharded(model: nn.Module) -> bool:
    """Whether any weight of a model is spread over ranks, if it happens to be gathered as well."""
    return bool(fully_sharded(model)) or (_kind() is not None and any(map(is_shard, model.parameters())))


def is_flattened(model: nn.Module) -> bool:
    """Whether any part of a model is of the older FSDP, whose weights lie in one long tensor."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    return fsdp is not None and any(isinstance(each, fsdp.FullyShardedDataParallel) for each in model.modules())


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that this rank holds, in the same memory; of any other the tensor itself."""
    return tensor.detach().to_local() if is_shard(tensor) else tensor  # type: ignore[attr-defined]


def whole(tensor: Any) -> Any:
    """Gather a small tensor, such as a norm or the outputs of a batch, on every rank."""
    return tensor.full_tensor() if is_shard(tensor) else tensor


def spread_as(tensor: Tensor, like: Tensor) -> Tensor:
    """A tensor that every rank has whole, with its gradient, as another of its shape is spread."""
    if not is_shard(like):
        return tensor
    from torch.distributed.tensor import DTensor

    mesh, placements = like.device_mesh, like.placements  # type: ignore[attr-defined]
    return DTensor.from_local(tensor, mesh, run_check=False).redistribute(placements=placements)


def local_tensors(model: nn.Module) -> dict[str, Tensor]:
    """What this rank holds of parameters and buffers, by name."""
    return {name: local(tensor) for name, tensor in named_tensors(model).items()}


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers as they are spread, by name; a state dict would leave some buffers out."""
    forget_gathered(model)
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def forget_gathered(model: nn.Module) -> None:
    """Free the whole weights that a forward without a backward has left: they stand where the shards are looked for."""
    for module in fully_sharded(model):
        module.reshard()


def packed(state: Any) -> Any:
    """A state whose shards are those of this rank."""
    if isinstance(state, Tensor):
        return Shard(local(state), state) if is_shard(state) else state
    if isinstance(state, Mapping):
        return {key: packed(each) for key, each in state.items()}
    return type(state)(map(packed, state)) if type(state) in (list, tuple) else state


def shard_bytes(state: Any) -> int:
    """The memory of the shards in a state; 0 where it has none."""
    if isinstance(state, Shard):
        return state.part.nbytes
    inner = state.values() if isinstance(state, Mapping) else state if isinstance(state, list | tuple) else ()
    return sum(map(shard_bytes, inner))


def unpacked(state: Mapping[str, Any], parameters: Sequence[Tensor]) -> dict[str, Any]:
    """The state dict of an optimizer over parameters in this order, spread over the ranks of each.

    Each value keeps its own layout: a momentum that began as a copy of a gradient may be sums that the ranks have not
    added up yet.
    """
    from torch.distributed.tensor import DTensor

    def of(value: Any, like: Any) -> Any:
        if is_shard(like) and (isinstance(value, Shard) or (isinstance(value, Tensor) and value.shape == like.shape)):
            lies: Any = value.like if isinstance(value, Shard) and value.is_spread else like
            part = part_of(value, like).to(like.device)
            return DTensor.from_local(
                part, like.device_mesh, lies.placements, run_check=False, shape=lies.shape, stride=lies.stride()
            )
        return {key: of(each, like) for key, each in value.items()} if isinstance(value, Mapping) else value

    return {**state, "state": {place: of(each, parameters[place]) for place, each in state["state"].items()}}


@torch.no_grad()
def clip_norm(parameters: Iterable[nn.Parameter], most: float) -> None:
    """Bound the norm of all gradients together, those of shards over all ranks."""
    gradients = [each.grad for each in parameters if each.grad is not None]
    norms = [whole(nn.utils.get_total_norm(part)) for part in _by_layout(gradients)]
    if norms:
        total = torch.linalg.vector_norm(torch.stack([each.to(norms[0].device) for each in norms]))
        torch._foreach_mul_([local(each) for each in gradients], (most / (total + 1e-6)).clamp(max=1.0))


def _by_layout(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Tensors that lie alike on the same ranks: those of two layouts torch does not add."""
    layouts: dict[object, list[Tensor]] = {}
    for each in tensors:
        key = (each.device_mesh, each.placements) if is_shard(each) else None  # type: ignore[attr-defined]
        layouts.setdefault(key, []).append(each)
    yield from layouts.values()


def fully_sharded(model: nn.Module) -> list[Any]:
    """The modules that ``fully_shard`` has made its own."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    return [] if fsdp is None else [module for module in model.modules() if isinstance(module, fsdp.FSDPModule)]


def _kind() -> type | None:
    """The type of tensors that are spread over ranks; None in a program that has never imported it."""
    module = sys.modules.get("torch.distributed.tensor")
    return None if module is None else module.DTensor
