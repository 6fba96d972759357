"""Datasets that a config names: ``digits``, ``image_folder``, ``npz``, ``text`` and ``torchvision.*``, or a factory's.

Every loader returns (train, heldout), where heldout is None if it is to be split off. A split is in memory as Samples,
or it is read when it is needed. Images stay uint8, (N, C, H, W), until a batch of them is used.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any
from zipfile import ZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler, SequentialSampler, Subset

from clrtool.config.components import FilePath
from clrtool.engine.data.collate import Collate, Unpack
from clrtool.engine.data.streaming import IterableStream, MapDataset
from clrtool.engine.data.tensors import Samples, as_targets, as_tensor, check_room, check_samples, from_arrays, limited
from clrtool.engine.runtime.factories import blamed_on, describe
from clrtool.engine.runtime.hardware import total_memory
from clrtool.errors import ConfigError, MachineError, reason
from clrtool.files import read_bytes
from clrtool.words import nearest, shown

Split = Samples | MapDataset | IterableStream
Splits = tuple[Split, Split | None]
Count = Annotated[int, Field(ge=1, le=10**12)]
Pixels = Annotated[int, Field(ge=1, le=4096)]
# A call that can run code which the file holds.
_UNPICKLES = re.compile(r"pickle\.(load|loads|Unpickler)\b|torch\.load\((?![^\n]*weights_only=True)|allow_pickle=True")
# Datasets of torchvision that make such a call only once each file has the checksum that torchvision holds.
VERIFIED = frozenset({"CIFAR10", "CIFAR100"})


def digits(seed: int) -> Splits:  # noqa: ARG001 (every loader takes the seed)
    """The 1,797 handwritten digits (1, 8, 8) of the UCI repository, shipped with clrtool; pixels 0..16."""
    with np.load(Path(__file__).with_name("digits.npz"), allow_pickle=False) as arrays:
        return from_arrays(arrays["images"], arrays["labels"]), None


def npz(seed: int, path: FilePath, limit: Count | None = None) -> Splits:
    """Arrays of one ``.npz`` file: ``x_train, y_train, x_test, y_test``, or ``x, y`` to be split.

    uint8 images may be (N, H, W) or (N, H, W, C); whole numbers with a sequence of labels each are tokens; anything
    else is taken as it is, as float32.
    """
    file = _existing(Path(path))
    if not file.is_file():
        raise ConfigError(f"data.args.path: {path} is no plain file")
    try:
        with ZipFile(file) as declared:
            check_room(sum(each.file_size for each in declared.infolist()), f"data.args.path: the arrays of {path}")
        with np.load(file, allow_pickle=False) as arrays:
            found = {name: np.asarray(arrays[name]) for name in arrays.files}
    except (MachineError, MemoryError):
        raise
    except Exception as error:  # whatever an archive of anybody's does to its readers
        raise ConfigError(f"data.args.path: {path} is not an .npz file of plain arrays") from error
    if {"x_train", "y_train", "x_test", "y_test"} <= set(found):
        train = from_arrays(found["x_train"], found["y_train"])
        return limited(train, limit, seed), from_arrays(found["x_test"], found["y_test"])
    if {"x", "y"} <= set(found):
        return limited(from_arrays(found["x"], found["y"]), limit, seed), None
    names = ", ".join(sorted(found)) or "no array"
    raise ConfigError(f"data.args.path: {path} needs x_train, y_train, x_test, y_test or x, y; it has {names}")


def text(seed: int, path: FilePath, length: Count = 64) -> Splits:  # noqa: ARG001
    """A text file as bytes, in windows of ``length`` that do not overlap; each byte is to tell the next.

    The last tenth of the file is held out, so that no window of it was seen in training.
    """
    try:
        # a byte becomes an input and a target of eight
        content = read_bytes(_existing(Path(path)), total_memory() // 32)
        data = np.frombuffer(content, dtype=np.uint8).astype(np.int64)
    except OSError as error:
        raise ConfigError(f"data.args.path: {path} cannot be read: {error.strerror}") from error
    windows = (len(data) - 1) // length
    if windows < 10:
        raise ConfigError(f"data.args.path: {path} holds {len(data)} bytes; ten windows need {10 * length + 1}")
    inputs, targets = (torch.from_numpy(data[shift:][: windows * length]).view(-1, length) for shift in (0, 1))
    train = windows - windows // 10
    return Samples(inputs[:train], targets[:train]), Samples(inputs[train:], targets[train:])


def image_folder(
    seed: int,
    root: FilePath,
    train: FilePath = "train",
    heldout: FilePath | None = "test",
    limit: Count | None = None,
    size: Pixels | None = None,
) -> Splits:
    """Images in ``root/train/<class>/`` and ``root/test/<class>/``, resized to ``size`` pixels a side if given.

    With ``heldout: null`` there is one folder, which is split.
    """
    from clrtool.engine.data.images import Images

    names = [name for name in (train, heldout) if name is not None]
    try:
        folders = [Images(str(_existing(Path(root) / name))) for name in names]
    except OSError as error:
        raise ConfigError(f"data.args.root: {_with_file(error)}") from error
    if folders[0].classes != folders[-1].classes:
        odd = sorted(set(folders[0].classes) ^ set(folders[-1].classes))
        raise ConfigError(f"data.args.root: {train} and {heldout} differ in their classes: {', '.join(odd[:10])}")
    splits = [MapDataset(folder, Collate(size=size), tuple(folder.targets), threads=8) for folder in folders]
    return limited(splits[0], limit, seed), splits[1] if heldout else None


def torchvision_dataset(
    name: str,
    seed: int,
    download: bool,
    root: FilePath = "data",
    limit: Count | None = None,
    size: Pixels | None = None,
    **args: Any,
) -> Splits:
    """Any image classification set of ``torchvision.datasets`` that has a training and a test split."""
    from torchvision import datasets

    from clrtool.engine.data.images import start_no_programs

    start_no_programs()
    kind = getattr(datasets, name, None)
    if not isinstance(kind, type):
        raise ConfigError(f"data.name: torchvision has no dataset {name!r}; {nearest(name, datasets.__all__)}")
    if name not in VERIFIED and unpickles(kind):
        raise ConfigError(f"data.name: torchvision.{name} runs what its files hold as code; use a factory")
    parameters = inspect.signature(kind).parameters
    if not {"train", "split"} & set(parameters):
        raise ConfigError(f"data.name: torchvision.{name} has no training and test part; use a factory")
    offered = set(parameters) - {"self", "root", "train", "split", "download"}
    if unknown := set(args) - offered:
        raise ConfigError(f"data.args: unknown argument {shown(min(unknown))}; {nearest(min(unknown), offered)}")
    splits = ({"train": True}, {"train": False}) if "train" in parameters else ({"split": "train"}, {"split": "test"})
    extra = args | ({"download": download} if "download" in parameters else {})
    try:
        sets = [kind(root, **split, **extra) for split in splits]
    except (OSError, RuntimeError) as error:
        why = _with_file(error).partition(" You can use download")[0]
        hint = "" if download else " (to fetch it, add --download)"
        raise MachineError(f"data: torchvision.{name} in {root!r}: {why}{hint}") from error
    except MemoryError:
        raise
    except Exception as error:  # whatever files of anybody's do to their reader
        raise ConfigError(
            f"data: torchvision.{name} in {root!r} cannot be read: {describe(error)}: its files are of something else, "
            "or data.args lacks one of its arguments"
        ) from error
    train, heldout = (MapDataset(each, Collate(size=size), _labels(each)) for each in sets)
    return limited(train, limit, seed), heldout


def _with_file(error: OSError | RuntimeError) -> str:
    name = getattr(error, "filename", None)
    return reason(error) if name is None else f"{name}: {reason(error)}"


def unpickles(kind: type) -> bool:
    """Whether a dataset of torchvision, or a class of torchvision that it comes from, reads files that can run code."""
    sources = {each.__module__ for each in kind.__mro__ if each.__module__.startswith("torchvision.")}
    return any(_UNPICKLES.search(inspect.getsource(sys.modules[module])) for module in sources)


DATASETS: dict[str, Callable[..., Splits]] = {"digits": digits, "image_folder": image_folder, "npz": npz, "text": text}


def from_factory(returned: Any, unpack: Unpack | None) -> Splits:
    """What a user's factory returned: (train, heldout), or one set to be split.

    A set is a pair of tensors or arrays, a dataset with a length, a DataLoader, or an iterable that can be repeated.
    """
    if isinstance(returned, tuple | list) and len(returned) == 2 and not _is_array(returned[0]):
        train, heldout = returned
        return _as_split(train, unpack, "train"), _as_split(heldout, unpack, "heldout")
    return _as_split(returned, unpack, "train"), None


def _as_split(data: Any, unpack: Unpack | None, name: str) -> Split:
    if isinstance(data, tuple | list) and len(data) == 2 and all(map(_is_array, data)):
        inputs, targets = data
        with blamed_on(f"data.factory: {name}"):
            # A copy in plain memory, so that whatever tensor it was, what follows can rely on it.
            copy = as_tensor(inputs).contiguous().clone()
            # float64 is numpy's default type, and no model's
            samples = Samples(copy.float() if copy.dtype == torch.float64 else copy, as_targets(targets))
            check_samples(samples, name)
            return samples
    if isinstance(data, DataLoader):
        return _from_data_loader(data, unpack, name)
    plain = not isinstance(data, str | bytes | dict | tuple | type)
    if plain and hasattr(data, "__len__") and hasattr(data, "__getitem__") and not isinstance(data, IterableDataset):
        return MapDataset(data, Collate(unpack), _labels(data))
    if plain and hasattr(data, "__iter__"):
        if iter(data) is data:
            raise ConfigError(
                f"data.factory: {name} can be read only once, and every seed reads it again: return an object whose "
                "__iter__ begins again, such as an IterableDataset"
            )
        return IterableStream(data, Collate(unpack))
    raise ConfigError(
        f"data.factory must return (train, heldout), each a pair of tensors, a dataset with a length or an iterable; "
        f"{name} is {type(data).__name__}{_of_length(data)}"
    )


def _of_length(data: Any) -> str:
    """Of a tuple its length, which tells (x_train, y_train, x_test, y_test) from two pairs."""
    return f" of {len(data)} and not of 2" if isinstance(data, tuple) and len(data) != 2 else ""


def _from_data_loader(loader: DataLoader[Any], unpack: Unpack | None, name: str) -> Split:
    """The dataset of a loader with its way to collate; batch size, order and workers are the config's to say."""
    collate = Collate(unpack, collate_fn=loader.collate_fn)
    dataset: Any = loader.dataset
    if not hasattr(dataset, "__len__") or isinstance(dataset, IterableDataset):
        return IterableStream(dataset, collate)
    sampler: Any = loader.sampler if type(loader.batch_sampler) in (BatchSampler, type(None)) else loader.batch_sampler
    every_one: bool = not getattr(sampler, "replacement", False) and len(sampler) == len(dataset)
    if not isinstance(sampler, RandomSampler | SequentialSampler) or not every_one:
        raise ConfigError(
            f"data.factory: {name} is a DataLoader with a {type(sampler).__name__} of its own: batches are drawn by "
            "clrtool, so return the dataset, with its samples repeated or left out as the sampler would"
        )
    return MapDataset(dataset, collate, _labels(dataset))


def _labels(dataset: Any) -> tuple[int, ...] | None:
    """Class numbers that a dataset holds beside its samples, as those of torchvision do."""
    if isinstance(dataset, Subset):
        inner = _labels(dataset.dataset)
        return None if inner is None else tuple(inner[index] for index in dataset.indices)
    for name in ("targets", "labels", "_labels"):
        found = getattr(dataset, name, None)
        if isinstance(found, list | tuple | np.ndarray | Tensor) and len(found) == len(dataset):
            try:
                labels: NDArray[Any] = np.asarray(found)
            except ValueError:  # lists of several lengths: labels of another kind
                return None
            return tuple(labels.tolist()) if labels.ndim == 1 and labels.dtype.kind in "iu" else None
    return None


def _is_array(value: Any) -> bool:
    return isinstance(value, Tensor | np.ndarray)


def _existing(path: Path) -> Path:
    try:
        there = path.exists()
    except OSError as error:
        raise ConfigError(f"data: {shown(str(path))} is no path: {error.strerror}") from error
    if not there:
        raise MachineError(f"data: {path} does not exist (relative to {Path.cwd()})")
    return path
