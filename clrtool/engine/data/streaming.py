"""Data that is read when it is needed: datasets with a length, and streams that are only iterated over."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import IterableDataset, Subset

from clrtool.engine.data.collate import Collate, Fault, samples_or_raise
from clrtool.engine.data.nested import nbytes
from clrtool.engine.data.tensors import Samples, concatenate
from clrtool.engine.runtime.factories import describe
from clrtool.engine.runtime.hardware import total_memory
from clrtool.engine.runtime.rng import RngStream
from clrtool.errors import ConfigError, MachineError

# Samples that are read at once into memory.
CHUNK = 256
# Of the memory, for samples that are read: they are there twice while they are put together, and then trained on. Of
# pictures a small file can hold any number of bytes.
LARGEST_PART = 4


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

    def subset(self, indices: NDArray[np.int64]) -> MapDataset:
        labels = None if self.labels is None else tuple(self.labels[index] for index in indices.tolist())
        return replace(self, dataset=Subset(self.dataset, indices.tolist()), labels=labels)

    def __getitems__(self, batch: tuple[tuple[int, ...], list[int]]) -> Samples | Fault:
        """A whole batch, for a DataLoader: (seeds, indices) -> samples.

        What a dataset draws at random follows from the seeds, and depends neither on the workers nor on where training
        was interrupted.
        """
        seeds, indices = batch
        with RngStream(*seeds).active():
            return self._batch(indices)

    def _batch(self, indices: Sequence[int], number: int | None = None) -> Samples | Fault:
        """Some items as samples, ``number`` of which will be held at once, else these alone."""
        number, items = number or len(indices), []
        for index in indices:
            items.append(item := self._item(index))
            if isinstance(item, Fault):
                return item
            if (size := nbytes(item) * number) > total_memory() // LARGEST_PART:
                return Fault(
                    f"data: {number:,} samples of {nbytes(item) / 1e6:,.3g} MB take {size / 1e9:,.3g} GB, more than "
                    f"1/{LARGEST_PART} of this machine's memory: set data.args.size, or fewer of them with "
                    "data.args.limit, data.heldout or data.batch_size",
                    MachineError,
                )
        return self.collate(items)

    def _item(self, index: int) -> Any:
        """An item, or what went wrong: an exception in a worker would lose the user's own lines."""
        try:
            return self.collate.prepared(self.dataset[index])
        except MemoryError:
            raise
        except (Exception, SystemExit) as error:  # noqa: BLE001 (whatever a user's code raises)
            return _fault(self.dataset, index, error)

    def read(self, indices: Sequence[int] | None = None) -> Samples:
        """The samples of some items as tensors, or of all."""
        indices = range(len(self)) if indices is None else indices
        chunks = [indices[start : start + CHUNK] for start in range(0, len(indices), CHUNK)]
        if not chunks:
            raise ConfigError("data: the dataset is empty")
        if self.threads == 1:
            return concatenate([samples_or_raise(self._batch(chunk, len(indices))) for chunk in chunks])
        with ThreadPoolExecutor(self.threads) as pool:
            batches = pool.map(partial(self._batch, number=len(indices)), chunks)
            return concatenate(list(map(samples_or_raise, batches)))

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
        stream = iter(FaultTolerantStream(self.items))
        chunks = []
        while items := list(islice(stream, min(CHUNK, count))):
            chunks.append(samples_or_raise(self.collate(items)))
            count -= len(items)
        if not chunks:
            raise ConfigError("data: the iterable is empty")
        return concatenate(chunks)


def _fault(dataset: Any, place: int, error: BaseException) -> Fault:
    """What to say of an item that cannot be read, by its place in the dataset that was given."""
    while isinstance(dataset, Subset):
        dataset, place = dataset.dataset, dataset.indices[place]
    if isinstance(error, OSError) and hasattr(dataset, "samples"):
        return Fault(f"data: {dataset.samples[place][0]} cannot be read as an image")
    return Fault(f"data: sample {place}: {describe(error)}")


class FaultTolerantStream(IterableDataset[Any]):
    """Items, and what went wrong as the last of them."""

    def __init__(self, items: Iterable[Any]) -> None:
        self.items = items

    def __iter__(self) -> Iterator[Any]:
        try:
            yield from self.items
        except (Exception, SystemExit) as error:  # noqa: BLE001
            yield Fault(f"data: the iterable: {describe(error)}")
