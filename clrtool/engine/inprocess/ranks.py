"""A program's own objects on several ranks: what all of them must have alike, and what of the data each one takes."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from torch import distributed as dist
from torch import nn
from torch.utils.data import BatchSampler, IterableDataset, RandomSampler

from clrtool.engine.data.nested import tensors_of
from clrtool.engine.inprocess.accumulated import Accumulated
from clrtool.engine.inprocess.heldout import HeldoutBatches
from clrtool.engine.inprocess.workload import InProcessWorkload
from clrtool.engine.models.batch_norm import seen_by_batch_norm
from clrtool.engine.runtime.distributed import ProcessGroup
from clrtool.engine.runtime.ranks import Ranks
from clrtool.engine.runtime.rng import RngStream
from clrtool.engine.runtime.sharded import is_sharded
from clrtool.engine.runtime.tensor_parallel import is_tensor_parallel
from clrtool.errors import ConfigError


def shared_out(heldout: HeldoutBatches, tried: Sequence[Any], ranks: Ranks) -> tuple[HeldoutBatches, tuple[str, ...]]:
    """The held-out batches of this rank, a part of them where all have the same; and what to say of training batches.

    Args:
        tried: the first training batches of this rank.
    """
    if ranks.processes == 1:
        return heldout, ()
    with RngStream(0).active():
        first = [each.batch for each in islice(heldout, 1)]
    read = ranks.all_gather({"rank": ranks.rank, "heldout": _fingerprint(first), "train": _fingerprint(tried)})
    _check_shared(read)
    if len({each["heldout"] for each in read}) == 1:
        heldout = replace(heldout, every=(ranks.rank, ranks.world))
    if ranks.world == 1 or len({each["train"] for each in read}) > 1:
        return heldout, ()
    warning = (
        f"train_loader: all {ranks.world} ranks read the same batches: give its DataLoader a DistributedSampler, with "
        "which each rank reads a part of them."
    )
    return heldout, (warning,)


def _check_shared(read: Sequence[Mapping[str, Any]]) -> None:
    """Raise ConfigError where ranks that compute together what a batch comes to have read batches of their own."""
    for name in ("train", "heldout"):
        if len({(each["rank"], each[name]) for each in read}) > len({each["rank"] for each in read}):
            raise ConfigError(
                f"{name}_loader: the model is spread by tensor parallelism, whose ranks share each batch, but they "
                "read different ones: give a DistributedSampler rank and size of the mesh's dimension of the data"
            )


def check_ranks(workload: InProcessWorkload, model: Any) -> None:
    """Raise ConfigError for what several ranks cannot do, or where they were not given the same."""
    ranks = workload.ranks
    if ranks.processes == 1:
        return
    if isinstance(workload.steps.measure, Accumulated) and ranks.world > 1:
        raise ConfigError(
            f"measure: {workload.metric.label} needs the whole held-out set, but each of {ranks.world} ranks has only "
            "a part of it: give a function (model, batch) -> (sum, count), or run in one process"
        )
    if isinstance(model, nn.Module) and workload.precision == "fp16" and is_sharded(model):
        raise ConfigError("precision: fp16 scales losses, which a sharded model does not allow: use bf16")
    known = {
        "train_loader length": workload.iterations_per_epoch,
        "length of the training": workload.plan_epochs,
        "metric": workload.metric,
        "options": (workload.training, workload.precision, workload.eval_loss),
        "kind of device": workload.device.type,
        "model": _layout(model),
    }
    if other := ranks.differing({name: str(value) for name, value in known.items()}):
        raise ConfigError(f"the ranks do not have the same {', '.join(other)}: call the range test alike on every rank")


def with_facts(workload: InProcessWorkload, model: nn.Module) -> InProcessWorkload:
    """A workload whose ranks know what its batch norm sees.

    Raises:
        ConfigError: some of them share each batch, and a function has made the model, so that nobody knew.
    """
    ranks = workload.ranks
    if not isinstance(ranks, ProcessGroup):
        return workload
    if not ranks.shared and is_tensor_parallel(model):
        raise ConfigError("model: is spread by tensor parallelism: give it itself, not a function that makes one")
    mine = workload.batch_size // ranks.world // workload.loader.accumulate
    return replace(workload, ranks=replace(ranks, batch_norm=seen_by_batch_norm(model, mine, ranks.world)))


def are_under_way() -> bool:
    """Whether a program has made a process group."""
    return dist.is_available() and dist.is_initialized()


def dealt(loader: Any, rank: int, world: int, batch_size: int, seed: int) -> Any:
    """Every so manyth batch of a loader, as accelerate deals them, of an order that is the same on all ranks.

    Raises:
        ConfigError: it is a stream, which has no batches to be dealt.
    """
    if world == 1:
        return loader
    from accelerate.data_loader import BatchSamplerShard

    if loader.batch_sampler is None or isinstance(loader.dataset, IterableDataset):
        raise ConfigError(
            f"trainer: a range test cannot share a stream among {world} processes: give a train_dataset with a length"
        )
    sampler = copy.copy(loader.sampler)
    if isinstance(sampler, RandomSampler) and sampler.generator is None:
        sampler.generator = torch.Generator().manual_seed(seed)
    mine = BatchSamplerShard(BatchSampler(sampler, batch_size, loader.drop_last), world, rank)
    shard = copy.copy(loader)
    shard.__dict__.update(sampler=sampler, batch_sampler=mine, _iterator=None)  # it refuses to be changed otherwise
    return shard


def _fingerprint(batches: Any) -> str:
    """A hash of the numbers in batches."""
    found = hashlib.sha256()
    for each in tensors_of(batches):
        found.update(each.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _layout(model: Any) -> list[tuple[str, tuple[int, ...]]]:
    """Names and shapes of parameters; nothing of a function."""
    return (
        [(name, tuple(each.shape)) for name, each in model.named_parameters()] if isinstance(model, nn.Module) else []
    )
