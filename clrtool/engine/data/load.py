"""Data for a workload: load what the config names, split off a held-out set, and decide where the rest lies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from clrtool.config.components import AugmentConfig, DataConfig
from clrtool.config.schema import RangeTestConfig
from clrtool.core.reading.metric import ACCURACY, TOP5
from clrtool.engine.data import datasets
from clrtool.engine.data.collate import Collate
from clrtool.engine.data.datasets import Split, Splits
from clrtool.engine.data.loader import ResidentLoader, StreamedLoader, default_workers
from clrtool.engine.data.nested import map_nested, nbytes
from clrtool.engine.data.streaming import IterableStream, MapDataset
from clrtool.engine.data.tensors import (
    Samples,
    as_classes,
    check_classes,
    check_pair,
    check_samples,
    choose,
    limited,
    sha256,
    split,
    takes_values,
)
from clrtool.engine.data.transforms import STATISTICS, Transform
from clrtool.engine.runtime.factories import FactoryImport, call
from clrtool.engine.runtime.hardware import memory_of
from clrtool.errors import ConfigError
from clrtool.words import nearest

# 2,500 samples put the standard error of an accuracy near 0.5 at one point; of data that is to be split they may
# be a fifth at most.
ENOUGH_HELDOUT, LARGEST_SHARE = 2500, 5
# Bytes of samples that are held in memory: beyond them a set is streamed. On a GPU a quarter of what is free.
RESIDENT_BYTES = 2 * 2**30
# Bytes of images that a CPU holds as float32, which spares it half of a small network's time.
FLOAT_BYTES = 2**30
# In front of the hash of a set that is not read as a whole; whether it is may depend on the room on a device.
SOME = "some:"
# Samples of a streamed set that are read before it is trained on.
SEEN = 256


@dataclass(frozen=True, eq=False)
class Data:
    """Both sets as they are stored, on the CPU.

    Args:
        train: in memory, or what it is read from.
        first: samples of it: all that are in memory, or some.
        heldout: always in memory.
        size: samples in an epoch.
        num_outputs: that a model needs for the targets.
        convert: targets as they are read -> of the type that metric and loss take.
    """

    train: Split
    first: Samples
    heldout: Samples
    size: int
    num_outputs: int
    convert: Callable[[Samples], Samples]

    def sha256(self) -> str:
        """Hash of both sets; of a set that is streamed, of some of it, which is said in front."""
        prefix = "" if isinstance(self.train, Samples) else SOME
        return prefix + sha256(self.first, self.heldout)

    def loader(
        self, config: DataConfig, device: torch.device, *, channels_last: bool
    ) -> tuple[ResidentLoader | StreamedLoader, Samples]:
        """The training set as batches on the device, and the held-out set as a model takes it."""
        mean, std = STATISTICS[config.normalize](self.first.inputs)
        transform = Transform(mean.to(device), std.to(device), config.augment, channels_last)
        heldout = preprocessed(self.heldout.to(device), replace(transform, augment=AugmentConfig()))
        if isinstance(self.train, Samples):
            samples = preprocessed(self.train.to(device), transform)
            return ResidentLoader(
                samples, transform, config.batch_size, config.shuffle, drop_last=config.drop_last
            ), heldout
        workers = default_workers(self.train) if config.workers == "auto" else config.workers
        loader = StreamedLoader(
            self.train,
            self.convert,
            transform,
            config.batch_size,
            self.size,
            workers,
            device,
            shuffle=config.shuffle,
            drop_last=config.drop_last,
        )
        return loader, heldout


def preprocessed(samples: Samples, transform: Transform) -> Samples:
    """Samples with all done that can be done once: on a CPU normalised, and laid out unless they are changed first."""
    device, inputs = samples.targets.device, samples.inputs
    if isinstance(inputs, Tensor) and device.type == "cpu" and 4 * inputs.numel() <= FLOAT_BYTES:
        inputs = transform.normalize(inputs)
    if not transform.is_random:
        inputs = map_nested(transform.lay_out, inputs)
    return Samples(inputs, samples.targets)


@memory_of("data")
def load_data(config: RangeTestConfig, device: torch.device, *, download: bool, factory: FactoryImport) -> Data:
    """Both sets of a config, the held-out one split off if it is not source.

    Raises:
        ConfigError: the data is not what can be trained on.
        MachineError: it is not there.
    """
    data, seed = config.data, config.seed
    source, heldout = _split_off_heldout(*_load(data, seed, download, factory), data.heldout, seed)
    train = _in_memory(source, data, device)
    indices, first = _first_samples(source, train, max(SEEN, data.batch_size), seed)
    convert = partial(_with_targets, config)
    first, heldout = convert(first), convert(heldout)
    for samples, name in ((first, "training"), (heldout, "held-out")):
        check_samples(samples, name)
    size, num_outputs = _size(train, data), check_pair(first, heldout)
    if isinstance(train, MapDataset) and indices is not None:
        num_outputs = max(num_outputs, train.highest_label(indices, first.targets) + 1)
    if data.batch_size > size:
        raise ConfigError(f"data.batch_size = {data.batch_size} must be at most the {size} training samples")
    if isinstance(train, Samples):
        train = first
        check_classes(first, num_outputs)
    _check_augment(data, first)
    _check_mean_image(data, len(first), size)
    if not data.shuffle:
        _check_order(first.targets if isinstance(train, Samples) else getattr(train, "labels", None))
    return Data(train, first, heldout, size, num_outputs, convert)


def _with_targets(config: RangeTestConfig, samples: Samples) -> Samples:
    """Samples with targets of the type that metric and loss take."""
    if config.metric.metric in (ACCURACY, TOP5):
        return as_classes(samples)
    if config.loss.name is not None and takes_values(config.loss.name) and not config.metric.metric.is_share:
        return Samples(samples.inputs, samples.targets.float())
    return samples


def _load(data: DataConfig, seed: int, download: bool, factory: FactoryImport) -> Splits:
    if data.factory is not None:
        unpack = None if data.batch is None else factory(data.batch, "data.batch")
        return datasets.from_factory(call(factory(data.factory, "data.factory"), "data.args", data.args), unpack)
    assert data.name is not None
    if data.batch is not None:
        raise ConfigError("data.batch takes the batches of a data.factory apart; built-in data needs none")
    if data.name.startswith("torchvision."):
        name = data.name.removeprefix("torchvision.")
        return call(partial(datasets.torchvision_dataset, name, seed, download), "data.args", data.args)
    if data.name not in datasets.DATASETS:
        known = [*datasets.DATASETS, "torchvision.CIFAR10", "torchvision.MNIST"]
        raise ConfigError(f"data.name: unknown dataset {data.name!r}; {nearest(data.name, known)}")
    return call(partial(datasets.DATASETS[data.name], seed), "data.args", data.args)


def _split_off_heldout(train: Split, heldout: Split | None, wished: int | str, seed: int) -> tuple[Split, Samples]:
    """The training split, and a held-out set in memory: drawn from the one that was given, or split off."""
    size = wished if isinstance(wished, int) else ENOUGH_HELDOUT
    if isinstance(heldout, IterableStream):
        return train, heldout.first(size)
    if heldout is not None:
        return train, _read(limited(heldout, size, seed))
    if isinstance(train, IterableStream):
        raise ConfigError("data.factory: an iterable cannot be split; return (train, heldout)")
    if not isinstance(wished, int):
        size = min(size, max(1, len(train) // LARGEST_SHARE))
    train, heldout = split(train, size, seed)
    return train, _read(heldout)


def _read(split: Samples | MapDataset) -> Samples:
    return split if isinstance(split, Samples) else split.read()


def _in_memory(train: Split, config: DataConfig, device: torch.device) -> Split:
    """Samples if the set fits and comes out the same each time it is read, else what it is read from."""
    if isinstance(train, IterableStream):
        if config.placement == "device":
            raise ConfigError("data.placement: an iterable has no end to hold on the device; leave it auto")
        return train
    if config.placement == "loader" or (config.placement == "auto" and not _fits(train, device)):
        if not isinstance(train, Samples):
            return train
        if not isinstance(train.inputs, Tensor):
            raise ConfigError("data.placement: loader needs a dataset; this data is in memory already")
        return MapDataset(TensorDataset(train.inputs, train.targets), Collate())
    return _read(train)


def _fits(train: Samples | MapDataset, device: torch.device) -> bool:
    room = torch.cuda.mem_get_info(device)[0] // 4 if device.type == "cuda" else RESIDENT_BYTES
    if isinstance(train, Samples):
        return device.type == "cpu" or nbytes(train.tensors) <= room  # it is in memory, whatever its size
    if train.collate.collate_fn is not None or len(train) == 0:
        return len(train) == 0  # a loader's own way to collate may pad each batch to another length
    return nbytes(train.read([0]).tensors) * len(train) <= min(room, RESIDENT_BYTES) and not train.is_random()


def _first_samples(source: Split, train: Split, number: int, seed: int) -> tuple[Sequence[int] | None, Samples]:
    """Samples of a set for its shapes and statistics: all that are in memory; else ``number``, with their indices."""
    if isinstance(source, Samples):
        return None, source
    if isinstance(train, Samples):
        return None, train
    if isinstance(source, IterableStream):
        return None, source.first(number)
    indices = choose(source.labels, len(source), number, seed).tolist()
    return indices, source.read(indices)


def _size(train: Split, config: DataConfig) -> int:
    """Samples in an epoch: all of them, or of an iterable those that are stated."""
    if not isinstance(train, IterableStream):
        if config.samples_per_epoch is not None:
            raise ConfigError("data.samples_per_epoch is for an iterable; this data has a length of its own")
        return len(train)
    if config.samples_per_epoch is not None:
        return config.samples_per_epoch
    try:
        return len(train.items)  # type: ignore[arg-type]
    except TypeError:
        raise ConfigError("data.samples_per_epoch is missing: an iterable without a length needs it") from None


def _check_augment(config: DataConfig, first: Samples) -> None:
    if config.augment != AugmentConfig() and (not isinstance(first.inputs, Tensor) or first.inputs.ndim != 4):
        raise ConfigError("data.augment changes images (channels, height, width); the data gives none")


def _check_mean_image(config: DataConfig, seen: int, size: int) -> None:
    """Raise ConfigError where the mean image would be that of some samples: of 256 it is off by 4 of 255."""
    if config.normalize == "mean_image" and seen < size:
        raise ConfigError(
            f"data.normalize = mean_image needs the whole training set in memory, and {seen} of {size} samples were "
            "read; set data.placement to device, or data.normalize to auto"
        )


def _check_order(labels: Tensor | Sequence[int] | None) -> None:
    """Raise ConfigError for samples that lie class by class, as an image_folder reads them."""
    if labels is None:
        return
    classes = torch.as_tensor(labels)
    whole = classes.ndim == 1 and not classes.is_floating_point()
    if whole and classes[0] < classes[-1] and bool((classes[1:] >= classes[:-1]).all()):
        raise ConfigError(
            "data.shuffle = false takes the samples in the order of the data, which here is class by class: a batch "
            "would show one class alone. Leave it true, or give data in mixed order, as torchvision.CIFAR10 is"
        )
