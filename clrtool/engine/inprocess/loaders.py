"""Loaders of a program's own, read without a trace: every pass goes over a clone that shares the data and nothing else.

A DataLoader's clone has the same dataset, workers and way to collate, and copies of its samplers and generators; any
other iterable is copied one level deep, where it may count its passes, shuffle a list, or read a DataLoader.
"""

from __future__ import annotations

import copy
import random
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count, islice
from typing import Any
from weakref import WeakSet

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Sampler

from clrtool.engine.data.loader import EPOCH_SEEDS
from clrtool.engine.data.nested import map_nested
from clrtool.engine.runtime.rng import fork_rng, restore_rng_state, rng_state
from clrtool.errors import ConfigError

_GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
# Where the loaders come from that move batches to a device and do nothing else.
_MOVERS = ("ray.train.", "lightning.fabric.", "lightning_fabric.")


@dataclass(frozen=True, eq=False)
class InProcessLoader:
    """Batches of a loader on a device, pass after pass, ``accumulate`` of them for a step."""

    loader: Iterable[Any]
    iterations_per_epoch: int
    batch_size: int
    device: torch.device
    accumulate: int = 1
    _open: WeakSet[Generator[Any]] = field(default_factory=WeakSet, init=False)
    _begun: dict[int, list[Mapping[str, Any]]] = field(default_factory=dict, init=False)

    def batches(self, seed: int, start: int) -> Iterator[tuple[Any, ...]]:
        """Tuples of ``accumulate`` batches from iteration ``start`` on, without end.

        A loader has no middle to begin at, so it is read on to there, from generators in the states that its passes
        began with: a sampler may draw its order from the global ones.
        """
        batches = self._batches(seed, start)
        # what a list or a dataset of whole batches holds is the program's own, and is copied
        fresh = isinstance(self.loader, DataLoader) and self.loader.batch_sampler is not None
        while True:
            yield tuple(to_device(batch, self.device, fresh=fresh) for batch in islice(batches, self.accumulate))

    def _batches(self, seed: int, start: int) -> Iterator[Any]:
        """Batches from iteration ``start`` on."""
        known = [*self._begun.get(seed, ())] if start else []
        begun: list[Mapping[str, Any]] = []

        def begin() -> None:
            if known:
                restore_rng_state(known.pop(0))
            elif start == 0 and not isinstance(self.loader, Sequence):  # whose order follows from the seed
                begun.append(rng_state())

        batches = _all_epochs(self.loader, seed, begin)
        self._open.add(batches)
        if start == 0:
            self._begun.clear()
            self._begun[seed] = begun
        else:
            with fork_rng():
                deque(islice(batches, start * self.accumulate), maxlen=0)
            known.clear()
        return batches

    def close(self) -> None:
        """End the workers of the passes that are open."""
        for batches in [*self._open]:
            batches.close()


def indices_of(loader: Any) -> list[list[Any]] | None:
    """The indices that a loader reads of its dataset in one pass, batch by batch; None for what has none."""
    if (
        not isinstance(loader, DataLoader)
        or isinstance(loader.dataset, IterableDataset)
        or loader.batch_sampler is None
    ):
        return None
    return [list(batch) for batch in loader.batch_sampler]


def without_mover(loader: Any) -> Any:
    """The DataLoader in what Ray Train or Fabric prepares of one.

    It moves batches to a device, as a range test does itself. Its order is that of the loader in it, whatever samplers
    a copy of it has.
    """
    inner = getattr(loader, "_dataloader", None)
    return inner if isinstance(inner, DataLoader) and type(loader).__module__.startswith(_MOVERS) else loader


def check_loader(loader: Any, name: str) -> None:
    """Raise ConfigError for what is no loader, or can be read only once."""
    if not isinstance(loader, Iterable):
        raise ConfigError(f"{name}: must give batches when it is iterated over, as a DataLoader; it is {_kind(loader)}")
    if isinstance(loader, Iterator):
        raise ConfigError(
            f"{name}: is an iterator ({_kind(loader)}), which can be read once, and a range test reads it many times: "
            "give a DataLoader, a list, or an object whose __iter__ starts from the beginning"
        )


def _all_epochs(loader: Iterable[Any], seed: int, begin: Callable[[], object]) -> Generator[Any]:
    """Every batch of one pass after the other, in other orders for other seeds; ``begin`` is called before each."""
    clone = clone_loader(loader, seed)
    try:
        for epoch in count():
            begin()
            _set_epoch(clone, EPOCH_SEEDS * seed + epoch)
            empty = True
            for batch in _one_epoch(clone, seed, epoch):
                empty = False
                yield batch
            if empty:
                raise ConfigError(f"train_loader: gave no batch in pass {epoch + 1}: each pass must start again")
    finally:
        if clone is not loader:
            _end_workers(clone)


def _one_epoch(loader: Iterable[Any], seed: int, epoch: int) -> Iterable[Any]:
    """One pass; of a list, which is the same each time, in another order, so that seeds differ."""
    if not isinstance(loader, Sequence):
        return loader
    return [loader[index] for index in np.random.default_rng([seed, epoch, 2]).permutation(len(loader))]


def _end_workers(loader: Any) -> None:
    """End them now: an exception keeps what it came through, and with it the workers, for as long as it is known."""
    for each in (loader, *getattr(loader, "__dict__", {}).values()):
        if isinstance(each, DataLoader) and each._iterator is not None and each.num_workers:
            each._iterator._shutdown_workers()  # type: ignore[attr-defined]


def _set_epoch(loader: Any, epoch: int) -> None:
    """Tell a sampler that asks for it which pass begins, as DistributedSampler does."""
    for sampler in (getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)):
        if callable(set_epoch := getattr(sampler, "set_epoch", None)):
            set_epoch(epoch % 2**31)


def clone_loader(loader: Any, seed: int) -> Any:
    """What gives the same batches and leaves the loader as it is; its generators get a seed of their own.

    Raises:
        ConfigError: a sampler cannot be copied.
    """
    if not isinstance(loader, DataLoader):
        return _shallow_copy(loader, seed)
    dataset = _clone_dataset(loader.dataset)
    inner: Any = loader.dataset
    memo = {id(inner): dataset}
    while (inner := getattr(inner, "dataset", None)) is not None and id(inner) not in memo:
        memo[id(inner)] = inner
    try:
        copied = copy.deepcopy((loader.batch_sampler, loader.sampler, loader.generator), memo)
    except Exception as error:
        raise ConfigError(
            f"train_loader: its sampler cannot be copied ({type(error).__name__}: {error}): give a loader whose "
            "sampler can be, or a list of batches"
        ) from error
    for place, generator in enumerate(_generators(copied)):
        _reseed(generator, int(np.random.SeedSequence([seed, place]).generate_state(1)[0]))
    batch_sampler, sampler, generator = copied
    clone = copy.copy(loader)
    clone.__dict__.update(  # a loader refuses to be changed by the usual way
        dataset=dataset, batch_sampler=batch_sampler, sampler=sampler, generator=generator, _iterator=None,
        persistent_workers=loader.num_workers > 0,
    )  # fmt: skip
    return clone


def _clone_dataset(dataset: Any) -> Any:
    """A dataset that may be read in this process: one that draws from a generator of its own gets a copy of that."""
    stateful = isinstance(dataset, IterableDataset) or any(
        isinstance(value, _GENERATORS) for value in getattr(dataset, "__dict__", {}).values()
    )
    return _shallow_copy(dataset, 0) if stateful else dataset


def _shallow_copy(iterable: Any, seed: int) -> Any:
    """A copy of an object one level deep: of its counters, lists, index arrays and generators, not of its data.

    A loader that it wraps is cloned. What has to be closed is not copied, for the copy would close it.
    """
    if isinstance(iterable, list | tuple) or not hasattr(iterable, "__dict__") or hasattr(type(iterable), "__del__"):
        return iterable
    try:
        copied = copy.copy(iterable)
        for name, value in vars(iterable).items():
            if isinstance(value, _GENERATORS):
                copied.__dict__[name] = copy.deepcopy(value)
            elif isinstance(value, DataLoader):
                copied.__dict__[name] = clone_loader(value, seed)
            elif isinstance(value, list | dict | set | deque):
                copied.__dict__[name] = copy.copy(value)
            elif isinstance(value, np.ndarray | Tensor) and value.ndim == 1:
                copied.__dict__[name] = copy.deepcopy(value)
    except (TypeError, AttributeError, RuntimeError, ValueError):
        return iterable
    return copied


def _generators(value: Any, seen: set[int] | None = None) -> Iterator[Any]:
    """The generators that samplers hold, each once."""
    seen = set() if seen is None else seen
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, _GENERATORS):
        yield value
    elif isinstance(value, tuple):
        for each in value:
            yield from _generators(each, seen)
    elif isinstance(value, Sampler):
        for each in vars(value).values():
            yield from _generators(each, seen)


def _reseed(generator: Any, seed: int) -> None:
    if isinstance(generator, torch.Generator):
        generator.manual_seed(seed)
    elif isinstance(generator, np.random.Generator):
        kind = type(generator.bit_generator)
        generator.bit_generator.state = kind(seed).state
    else:
        generator.seed(seed)


def to_device(batch: Any, device: torch.device, *, fresh: bool) -> Any:
    """A batch on the device, in containers of its own, whatever it is made of.

    Args:
        fresh: whether nobody else has its tensors; else they are copied, so that a step may change them in place.
    """

    def moved(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            return leaf.to(device, non_blocking=True, copy=not fresh)
        if callable(getattr(leaf, "to", None)):  # a batch of a class of its own
            return (leaf if fresh else copy.copy(leaf)).to(device)
        return leaf

    return map_nested(moved, batch)


def batch_size_of(loader: Any) -> int | None:
    """What a loader calls its batch size; None where it has none."""
    size = getattr(loader, "batch_size", None) or getattr(getattr(loader, "batch_sampler", None), "batch_size", None)
    return size if isinstance(size, int) else None


def _kind(value: Any) -> str:
    return type(value).__name__
