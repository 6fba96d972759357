"""Loaders: batches of the training set on the device, in an order that is a function of (seed, epoch).

A resident loader holds all samples on the device and gathers a batch; a streamed one reads it through a DataLoader.
Without shuffling samples come in the order of the data, over and over: an epoch begins where the one before it ended,
as Caffe reads its database.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from clrtool.engine.data.collate import Fault, samples_or_raise
from clrtool.engine.data.nested import map_nested, tensors_of
from clrtool.engine.data.streaming import FaultTolerantStream, IterableStream, MapDataset
from clrtool.engine.data.tensors import Inputs, Samples
from clrtool.engine.data.transforms import Transform
from clrtool.engine.runtime.rng import RngStream
from clrtool.errors import ConfigError

Batch = tuple[Inputs, Tensor]
# More workers than this wait for each other on any disk.
MOST_WORKERS = 8
# Seconds without a batch after which a worker is taken to hang. Reading a batch may be slow, but not like this.
WORKER_TIMEOUT = 600.0
# Between the seeds of an iterable's passes, so that no two draw the same random numbers.
EPOCH_SEEDS = 1_000_003


# The same as an :class:`Order`, on the host.
DrawnOrder = tuple[NDArray[np.int64], NDArray[np.int16] | None]


class Order(NamedTuple):
    """One epoch: the indices of its samples (N,), and the random numbers of their augmentation (N, DRAWS) if any."""

    indices: Tensor
    draws: Tensor | None


@dataclass(frozen=True, eq=False)
class ResidentLoader:
    """All samples on the device.

    The rest of an epoch that does not fill a batch is left out, another one each time, unless ``drop_last`` is False:
    then it is a smaller batch. Of every batch a rank takes
    each ``world``-th sample.
    """

    samples: Samples
    transform: Transform
    batch_size: int
    shuffle: bool = True
    rank: int = 0
    world: int = 1
    drop_last: bool = True

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def iterations_per_epoch(self) -> int:
        return _batches_of(len(self), self.batch_size, drop_last=self.drop_last)

    def order(self, seed: int, epoch: int) -> Order:
        return self.on_device(self.drawn(seed, epoch))

    def drawn(self, seed: int, epoch: int) -> DrawnOrder:
        """The order of an epoch on the host, without a call of torch's."""
        generator = np.random.default_rng([seed, epoch])
        indices, image = _order(self, epoch, generator), tensors_of(self.samples.inputs)[0].shape
        return indices, self.transform.draw(generator, len(self.samples), image)

    def on_device(self, drawn: DrawnOrder) -> Order:
        device, (indices, draws) = self.samples.targets.device, drawn
        return Order(array_to_device(indices, device), None if draws is None else array_to_device(draws, device))

    def batches(self, seed: int, start: int) -> Iterator[Batch]:
        """Every batch from iteration ``start`` on, without end."""
        while True:
            epoch, position = divmod(start, self.iterations_per_epoch)
            indices, draws = self.order(seed, epoch)
            for begin in range(
                position * self.batch_size, self.iterations_per_epoch * self.batch_size, self.batch_size
            ):
                rows = slice(begin + self.rank, begin + self.batch_size, self.world)
                yield self.gather(indices[rows], None if draws is None else draws[rows])
            start = (epoch + 1) * self.iterations_per_epoch

    def gather(self, indices: Tensor, draws: Tensor | None) -> Batch:
        """The samples at some indices, prepared. Made of operations on the device alone, of fixed shape."""
        channels_last = self.transform.channels_last
        inputs = map_nested(lambda rows: select_rows(rows, indices, channels_last), self.samples.inputs)
        return self.transform(inputs, draws), self.samples.targets.index_select(0, indices)


def _batches_of(size: int, batch_size: int, *, drop_last: bool) -> int:
    return size // batch_size if drop_last else -(-size // batch_size)


def has_even_batches(loader: ResidentLoader | StreamedLoader) -> bool:
    """Whether all batches are of one size."""
    return loader.drop_last or len(loader) % loader.batch_size == 0


def _order(loader: ResidentLoader | StreamedLoader, epoch: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """All indices, shuffled or in the order of the data, from where the batches of the epochs before ended."""
    if loader.shuffle:
        return generator.permutation(len(loader))
    start = epoch * loader.iterations_per_epoch * loader.batch_size if loader.drop_last else 0
    return (start + np.arange(len(loader))) % len(loader)


def array_to_device(array: NDArray[Any], device: torch.device) -> Tensor:
    """An array on the device, without waiting for what the device is doing."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def select_rows(rows: Tensor, indices: Tensor, channels_last: bool) -> Tensor:
    """``rows[indices]`` in the memory format of ``rows``, by ``index_select``, which is faster than an index.

    Args:
        channels_last: the format of images with one channel, which are in both.
    """
    is_last = rows.ndim == 4 and rows.is_contiguous(memory_format=torch.channels_last)
    if is_last and (channels_last or not rows.is_contiguous()):
        return rows.permute(0, 2, 3, 1).index_select(0, indices).permute(0, 3, 1, 2)
    return rows.index_select(0, indices)


@dataclass(frozen=True, eq=False)
class StreamedLoader:
    """Samples read by a DataLoader, in the order of the resident loader if it has a length, else as they come."""

    split: MapDataset | IterableStream
    convert: Callable[[Samples], Samples]  # of targets, to the type that metric and loss take
    transform: Transform
    batch_size: int
    size: int
    workers: int
    device: torch.device
    classes: int | None = None  # that labels may have, once a model says how many
    shuffle: bool = True
    rank: int = 0
    world: int = 1
    drop_last: bool = True

    def __len__(self) -> int:
        return self.size

    @property
    def iterations_per_epoch(self) -> int:
        return _batches_of(self.size, self.batch_size, drop_last=self.drop_last)

    def batches(self, seed: int, start: int) -> Iterator[Batch]:
        """Every batch from iteration ``start`` on, without end."""
        read = self._in_order(seed, start) if isinstance(self.split, MapDataset) else self._as_they_come(seed, start)
        for iteration, batch in enumerate(read, start):
            samples = self._checked(self.convert(samples_or_raise(batch))).to(self.device)
            yield self.transform(samples.inputs, self._draws(seed, iteration, samples)), samples.targets

    def _checked(self, samples: Samples) -> Samples:
        """Samples whose labels fit the model, for on a GPU a label that does not ends the whole process."""
        if self.classes is not None and (highest := int(samples.targets.max())) >= self.classes:
            raise ConfigError(f"data: a label of {highest} is out of range: the model has {self.classes} outputs")
        return samples

    def _in_order(self, seed: int, start: int) -> Iterator[Samples | Fault]:
        return iter(self._loader(seed, self.split, batch_sampler=self._batches(seed, start), collate_fn=_unchanged))

    def _batches(self, seed: int, start: int) -> Iterator[tuple[tuple[int, ...], list[int]]]:
        """Each batch from iteration ``start`` on, without end, as the seeds of its random numbers and its indices."""
        rank = (self.rank,) if self.rank else ()  # what a dataset draws differs from rank to rank
        epoch, position = divmod(start, self.iterations_per_epoch)
        while True:
            order = _order(self, epoch, np.random.default_rng([seed, epoch]))
            for batch in range(position, self.iterations_per_epoch):
                begin, end = batch * self.batch_size, (batch + 1) * self.batch_size
                iteration = epoch * self.iterations_per_epoch + batch
                yield (seed, iteration, *rank), order[begin + self.rank : end : self.world].tolist()
            epoch, position = epoch + 1, 0

    def _as_they_come(self, seed: int, start: int) -> Iterator[Samples | Fault]:
        assert isinstance(self.split, IterableStream)
        items, skipped = FaultTolerantStream(self.split.items), start
        for epoch in count():
            passed, first, rng = 0, None, RngStream(seed, epoch)
            loader = self._loader(
                seed + EPOCH_SEEDS * epoch, items, batch_size=self.batch_size, drop_last=self.drop_last
            )
            for batch in _with_rng(rng, loader):
                passed += 1
                if self.workers > 1 and passed <= 2:
                    first = _different_from(first, samples_or_raise(batch))
                if passed > skipped:
                    yield batch
            if passed < self.iterations_per_epoch:
                raise ConfigError(
                    f"data.samples_per_epoch = {self.size}, but the iterable ended after {passed} batches of "
                    f"{self.batch_size}: state {passed * self.batch_size} or give more"
                )
            skipped = max(0, skipped - passed)

    def _loader(self, seed: int, dataset: Any, **batching: Any) -> DataLoader[Any]:
        options: dict[str, Any] = {"collate_fn": self.split.collate, "num_workers": self.workers} | batching
        return DataLoader(
            dataset,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator().manual_seed(seed),  # of the workers' own random numbers
            timeout=WORKER_TIMEOUT if self.workers else 0,
            worker_init_fn=_leave_signals_to_the_parent,
            **options,
        )

    def _draws(self, seed: int, iteration: int, samples: Samples) -> Tensor | None:
        if not self.transform.is_random:
            return None
        generator = np.random.default_rng([seed, iteration, 1])
        draws = self.transform.draw(generator, len(samples) * self.world, tensors_of(samples.inputs)[0].shape)
        return None if draws is None else array_to_device(draws[self.rank :: self.world], self.device)


def _with_rng(rng: RngStream, loader: DataLoader[Any]) -> Iterator[Any]:
    """The batches of a loader, read with random numbers of their own: what is drawn in training does not matter."""
    with rng.active():
        batches = iter(loader)
    while True:
        with rng.active():
            batch = next(batches, None)
        if batch is None:
            return
        yield batch


def _leave_signals_to_the_parent(worker: int) -> None:  # noqa: ARG001
    """A terminal's Ctrl-C and Slurm's warnings go to every process; the parent decides what ends."""
    for each in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(each, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _different_from(first: Samples | None, second: Samples) -> Samples:
    """The second batch. Raises ConfigError if two workers gave the same samples."""
    if first is not None and all(map(torch.equal, first.tensors, second.tensors)):
        raise ConfigError(
            "data.workers: two workers read the same samples of the iterable; divide them with "
            "torch.utils.data.get_worker_info(), or set data.workers=1"
        )
    return second


def _unchanged(batch: Any) -> Any:
    """The collate function of a DataLoader whose dataset gives whole batches."""
    return batch


def default_workers(split: MapDataset | IterableStream) -> int:
    """One core is left for training. A stream has one reader, for each more would give the same samples again."""
    return min(1 if isinstance(split, IterableStream) else MOST_WORKERS, (os.cpu_count() or 1) - 1)


def worker_fault(error: RuntimeError) -> str:
    """What to say of a DataLoader's worker that gives no more batches."""
    if "timed out" in str(error):
        return (
            f"data.workers: no batch came for {WORKER_TIMEOUT:g} s, so a worker hangs: data.workers=0 reads in this "
            "process and shows where"
        )
    return (
        f"data.workers: a worker was killed, most often for lack of memory or /dev/shm: {error} "
        "data.workers=0 reads in this process and shows the cause"
    )
