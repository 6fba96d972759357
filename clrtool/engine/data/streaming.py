"""Data that is read when it is needed: datasets with a length, and streams that are only iterated over."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import IterableDataset, Subset

from clrtool.engine.data.collate import Collate, Fault, samples_or_raise
from clrtool.engine.data.tensors import Samples, check_heldout, choose, concatenate
from clrtool.engine.runtime.factories import describe
from clrtool.engine.runtime.rng import RngStream
from clrtool.errors import ConfigError

# Samples that are read at once into memory.
CHUNK = 256


@dataclass(frozen=True, eq=False)
class MapDataset:
    """A dataset with a length, whose items become samples when they are asked for.

    Args:
        dataset: ``dataset[i]`` is an item.
        collate: items -> samples.
        labels: class numbers, if they are known without reading; a draw is stratified by them.
        threads: that reading may use. They help where decoding an image lets go of the interpreter.
    """

    dataset: Any
    collate: Collate
    labels: tuple[int, ...] | None = None
    threads: int = 1

    def __len__(self) -> int:
        return len(self.dataset)

    def subset(self, index: NDArray[np.int64]) -> MapDataset:
        labels = None if self.labels is None else tuple(self.labels[place] for place in index.tolist())
        return replace(self, dataset=Subset(self.dataset, index.tolist()), labels=labels)

    def limited(self, limit: int | None, seed: int) -> MapDataset:
        """At most ``limit`` samples, every class in its proportion."""
        if limit is None or limit >= len(self):
            return self
        return self.subset(choose(self.labels, len(self), limit, seed))

    def split(self, heldout: int, seed: int) -> tuple[MapDataset, MapDataset]:
        """A fixed held-out split, every class in its proportion if labels are known, and the rest."""
        check_heldout(heldout, len(self))
        held = choose(self.labels, len(self), heldout, seed)
        return self.subset(np.setdiff1d(np.arange(len(self)), held)), self.subset(held)

    def read(self, index: Iterable[int]) -> Samples:
        """The samples of some items as tensors."""
        guarded = Guarded(self.dataset)
        indices = list(index)
        chunks = [indices[start : start + CHUNK] for start in range(0, len(indices), CHUNK)]
        if not chunks:
            raise ConfigError("data: the dataset is empty")

        def chunk(indices: list[int]) -> Samples:
            return samples_or_raise(self.collate([guarded[place] for place in indices]))

        if self.threads == 1:
            return joined([chunk(indices) for indices in chunks])
        with ThreadPoolExecutor(self.threads) as pool:
            return joined(list(pool.map(chunk, chunks)))

    def highest_label(self, indices: Sequence[int], seen: Tensor) -> int:
        """The highest of all labels, if those at ``indices`` are the targets that were ``seen`` there; else -1.

        A dataset may hold the labels from before its own transform of them.
        """
        if not self.labels or [self.labels[place] for place in indices] != seen.tolist():
            return -1
        return max(self.labels)

    def is_random(self) -> bool:
        """Whether an item comes out differently when it is read again, as one does that is augmented."""
        indices = list(range(min(4, len(self))))
        with torch.random.fork_rng(devices=[]):
            once, again = self.read(indices), self.read(indices)
        return not all(map(torch.equal, once.tensors, again.tensors))


@dataclass(frozen=True, eq=False)
class IterableStream:
    """Items that can only be iterated over, from the beginning each time."""

    items: Iterable[Any]
    collate: Collate

    def first(self, count: int) -> Samples:
        """At most ``count`` samples from its beginning."""
        items = iter(GuardedStream(self.items))
        parts = []
        while chunk := list(islice(items, min(CHUNK, count))):
            parts.append(samples_or_raise(self.collate(chunk)))
            count -= len(chunk)
        if not parts:
            raise ConfigError("data: the iterable is empty")
        return joined(parts)


class Guarded:
    """A dataset whose faults come back as items, for an exception in a worker would lose the user's own lines."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        try:
            return self.dataset[index]
        except MemoryError:
            raise
        except (Exception, SystemExit) as error:  # noqa: BLE001 (whatever a user's code raises)
            return _fault(self.dataset, index, error)


class Whole:
    """A dataset that gives whole batches, each read with random numbers that follow from its seeds.

    So what a dataset draws at random depends neither on the workers nor on where training was interrupted.
    """

    def __init__(self, split: MapDataset) -> None:
        self._items, self._collate = Guarded(split.dataset), split.collate

    def __len__(self) -> int:
        return len(self._items)

    def __getitems__(self, batch: tuple[tuple[int, ...], list[int]]) -> Samples | Fault:
        seeds, indices = batch
        with RngStream(*seeds).active():
            return self._collate([self._items[place] for place in indices])

    @staticmethod
    def as_it_is(batch: Any) -> Any:
        """The collate function of a loader whose batches are made already."""
        return batch


def _fault(dataset: Any, place: int, error: BaseException) -> Fault:
    """What to say of an item that cannot be read, by its place in the dataset that was given."""
    while isinstance(dataset, Subset):
        dataset, place = dataset.dataset, dataset.indices[place]
    if isinstance(error, OSError) and hasattr(dataset, "samples"):
        return Fault(f"data: {dataset.samples[place][0]} cannot be read as an image")
    return Fault(f"data: sample {place}: {describe(error)}")


class GuardedStream(IterableDataset[Any]):
    """The same for a stream."""

    def __init__(self, items: Iterable[Any]) -> None:
        self.items = items

    def __iter__(self) -> Iterator[Any]:
        try:
            yield from self.items
        except (Exception, SystemExit) as error:  # noqa: BLE001
            yield Fault(f"data: the iterable: {describe(error)}")


def joined(parts: list[Samples]) -> Samples:
    """Parts of one kind in one; ConfigError if they differ in shape."""
    shapes = {tuple(tensor.shape[1:] for tensor in split.tensors) for split in parts}
    if len(shapes) > 1:
        first, second = sorted(map(str, shapes))[:2]
        raise ConfigError(f"data: samples differ in shape, such as {first} and {second}; set data.args.size")
    return concatenate(parts)
