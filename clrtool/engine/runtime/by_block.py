"""How a config's model is spread over all ranks: each of its blocks by itself, then the rest."""

from __future__ import annotations

from collections import Counter

import torch
from torch import nn


def shard(model: nn.Module, device: torch.device, world: int) -> nn.Module:
    """Spread a model over all ranks: each of its blocks by itself, which is gathered when it is used, then the rest.

    Blocks are the modules of one type that stand one after the other in a ``ModuleList`` or a ``Sequential``.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (world,))
    for block in blocks(model):
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def blocks(model: nn.Module) -> list[nn.Module]:
    """Modules of which there are several alike in a row, the innermost first."""
    found: list[nn.Module] = []
    for row in model.modules():
        if isinstance(row, nn.ModuleList | nn.Sequential):
            kinds = Counter(map(type, row))
            found += [each for each in row if kinds[type(each)] > 1 and any(True for _ in each.parameters())]
    return [*dict.fromkeys(found[::-1])]
