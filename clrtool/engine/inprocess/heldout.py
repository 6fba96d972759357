"""The held-out batches of a program: those of its loader, or what stands in for them where it has none."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler, Subset

from clrtool.core.reading.verdict import Advice
from clrtool.engine.data.nested import nbytes
from clrtool.engine.inprocess.counting import samples_of
from clrtool.engine.inprocess.loaders import clone_loader, indices_of, to_device

# Bytes of held-out batches that are cached; more are read again for each evaluation.
CACHE_BYTES = 2**30
# Of a GPU's free memory, what cached batches may take of it.
DEVICE_SHARE = 0.1
# Of a training set without a held-out one: the share that is split off, and how many samples at the most.
SHARE, MOST = 0.1, 2500
# Batches whose training loss is read where none can be split off.
READ = 20


class Heldout(NamedTuple):
    """A held-out batch, and its samples, where that is known."""

    batch: Any
    samples: int | None


@dataclass(frozen=True, eq=False)
class HeldoutBatches:
    """The held-out batches, at most ``limit`` samples of them where they can be chosen; cached where they fit.

    A DataLoader over a dataset with a length is read at evenly spaced indices of its order.

    Args:
        batches: read no more of them.
        every: of so many batches, which this rank reads: (rank, ranks), where all ranks have the same loader.
    """

    loader: Iterable[Any]
    limit: int | None = None
    batches: int | None = None
    every: tuple[int, int] = (0, 1)
    _cached: list[Heldout] = field(default_factory=list, init=False)

    def __iter__(self) -> Iterator[Heldout]:
        first, step = self.every
        return iter(self._cached) if self._cached else islice(self._read(), first, self.batches, step)

    def cache(self, device: torch.device) -> None:
        """Read the batches once and for all, if they fit; onto a GPU, if they take little of it."""
        size, found = 0, []
        for each in self:
            found.append(each)
            size += nbytes(each.batch)
            if size > CACHE_BYTES:
                return
        if _has_room(device, size):  # each evaluation would bring them there again
            found = [Heldout(to_device(batch, device, fresh=False), samples) for batch, samples in found]
        self._cached.extend(found)

    def _read(self) -> Iterator[Heldout]:
        clone = clone_loader(self.loader, 0)
        batches = indices_of(clone)
        if batches is None:
            size = getattr(clone, "batch_size", None)
            yield from (Heldout(batch, samples_of(batch, size)) for batch in clone)
            return
        ranks = self.every[1]
        if self.limit is not None or len(batches) < ranks:
            indices = list(chain.from_iterable(batches))
            number = min(self.limit or len(indices), len(indices))
            size = min(max(map(len, batches)), -(-number // ranks))  # a batch at least for each rank
            chosen = [indices[place] for place in np.linspace(0, len(indices) - 1, number).round().astype(int)]
            batches = [chosen[start : start + size] for start in range(0, number, size)]
        clone.__dict__["batch_sampler"] = batches  # as it was drawn: it may draw another time
        yield from map(Heldout, clone, map(len, batches))


def _has_room(device: torch.device, size: int) -> bool:
    """Whether batches of so many bytes take little of a GPU's free memory."""
    return device.type == "cuda" and size <= DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]


class Parts(NamedTuple):
    """What is trained on, what is held out, and what that means for a verdict."""

    train: Any
    heldout: HeldoutBatches
    doubts: tuple[Advice, ...] = ()


def parted(train: Any, heldout: Any) -> Parts:
    """The held-out batches that are given, or a part of the training set, or batches that are trained on too."""
    if heldout is not None:
        return Parts(train, HeldoutBatches(heldout))
    if not _can_be_split(train):
        return Parts(train, HeldoutBatches(train, batches=READ), (Advice.TRAINING_LOSS,))
    number = len(train.dataset)
    size = min(MOST, max(1, round(SHARE * number)))
    order = torch.randperm(number, generator=torch.Generator().manual_seed(0)).tolist()
    rest, chosen = sorted(order[size:]), sorted(order[:size])
    return Parts(_over(train, rest), HeldoutBatches(_over(train, chosen, in_order=True)), (Advice.SPLIT_OFF,))


def _can_be_split(loader: Any) -> bool:
    """Whether every sample is read once a pass, by its index."""
    if not isinstance(loader, DataLoader) or type(loader.batch_sampler) is not BatchSampler:
        return False
    sampler = loader.sampler
    every = type(sampler) is SequentialSampler or (type(sampler) is RandomSampler and _draws_all(sampler))
    return every and len(loader.dataset) > 1  # type: ignore[arg-type]


def _draws_all(sampler: RandomSampler) -> bool:
    return not sampler.replacement and sampler.num_samples == len(sampler.data_source)


def _over(loader: DataLoader[Any], indices: list[int], *, in_order: bool = False) -> DataLoader[Any]:
    """A loader of some of the samples, alike in all else; of the last few too, where they are read in order."""
    part: Any = Subset(loader.dataset, indices)
    random = type(loader.sampler) is RandomSampler and not in_order
    generator = getattr(loader.sampler, "generator", None)
    sampler: Any = RandomSampler(part, generator=generator) if random else SequentialSampler(part)
    drop_last = loader.drop_last and len(indices) >= (loader.batch_size or 1) and not in_order
    clone = copy.copy(loader)
    clone.__dict__.update(
        dataset=part, sampler=sampler, batch_sampler=BatchSampler(sampler, loader.batch_size or 1, drop_last),
        _iterator=None,
    )  # fmt: skip
    return clone
