"""Datasets as tensors: ``digits``, ``image_folder``, ``npz`` and ``torchvision.*``.

Every loader returns (train, heldout). Images stay uint8, (N, C, H, W), until a batch of them is used.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any
from zipfile import BadZipFile

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from clrtool.engine.imports import blamed_on
from clrtool.engine.samples import Samples, Split, choose, class_numbers, from_arrays, split, take
from clrtool.errors import ConfigError, MachineError
from clrtool.words import nearest

Count = Annotated[int, Field(ge=1)]
Pixels = Annotated[int, Field(ge=1, le=4096)]

# 2,000 samples put the standard error of an accuracy near 0.5 at 1.1 points.
HELDOUT_LIMIT = 2000


def digits(seed: int, heldout: Count = 297) -> Split:
    """The 1,797 handwritten digits (1, 8, 8) of the UCI repository, shipped with clrtool; pixels 0..16."""
    with np.load(Path(__file__).with_name("digits.npz"), allow_pickle=False) as arrays:
        return split(from_arrays(arrays["images"], arrays["labels"]), heldout, seed)


def npz(seed: int, path: str, heldout: Count = HELDOUT_LIMIT, limit: Count | None = None) -> Split:
    """Arrays of one ``.npz`` file: ``x_train, y_train, x_test, y_test``, or ``x, y`` to be split.

    uint8 images may be (N, H, W) or (N, H, W, C); anything else is taken as it is, as float32.
    """
    file = _existing(Path(path))
    try:
        with np.load(file, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, AttributeError, TypeError, BadZipFile) as error:
        raise ConfigError(f"data.args.path: {path} is not an .npz file of plain arrays") from error
    if {"x_train", "y_train", "x_test", "y_test"} <= set(found):
        train = from_arrays(found["x_train"], found["y_train"])
        return take(train, limit, seed), take(from_arrays(found["x_test"], found["y_test"]), heldout, seed)
    if {"x", "y"} <= set(found):
        return split(take(from_arrays(found["x"], found["y"]), limit, seed), heldout, seed)
    names = ", ".join(sorted(found)) or "no array"
    raise ConfigError(f"data.args.path: {path} needs x_train, y_train, x_test, y_test or x, y; it has {names}")


def image_folder(
    seed: int,
    root: str,
    train: str = "train",
    heldout: str = "test",
    limit: Count | None = None,
    heldout_limit: Count | None = HELDOUT_LIMIT,
    size: Pixels | None = None,
) -> Split:
    """Images in ``root/train/<class>/`` and ``root/test/<class>/``, resized to ``size`` pixels a side if given."""
    from torchvision.datasets import ImageFolder

    try:
        folders = [ImageFolder(str(_existing(Path(root) / name))) for name in (train, heldout)]
    except FileNotFoundError as error:
        raise ConfigError(f"data.args.root: {error}") from error
    if folders[0].classes != folders[1].classes:
        odd = sorted(set(folders[0].classes) ^ set(folders[1].classes))
        raise ConfigError(f"data.args.root: {train} and {heldout} differ in their classes: {', '.join(odd[:10])}")
    return (
        _collect(folders[0], choose(folders[0].targets, limit, seed), size, threads=8),
        _collect(folders[1], choose(folders[1].targets, heldout_limit, seed), size, threads=8),
    )


def torchvision_dataset(
    name: str,
    seed: int,
    download: bool,
    root: str = "data",
    limit: Count | None = None,
    heldout_limit: Count | None = HELDOUT_LIMIT,
    size: Pixels | None = None,
    **args: Any,
) -> Split:
    """Any image classification set of ``torchvision.datasets`` that has a training and a test part."""
    from torchvision import datasets

    kind = getattr(datasets, name, None)
    if not isinstance(kind, type):
        raise ConfigError(f"data.name: torchvision has no dataset {name!r}; {nearest(name, datasets.__all__)}")
    parameters = inspect.signature(kind).parameters
    if not {"train", "split"} & set(parameters):
        raise ConfigError(f"data.name: torchvision.{name} has no training and test part; use a factory")
    offered = set(parameters) - {"self", "root", "train", "split", "download"}
    if unknown := set(args) - offered:
        raise ConfigError(f"data.args: unknown argument {min(unknown)!r}; {nearest(min(unknown), offered)}")
    parts = ({"train": True}, {"train": False}) if "train" in parameters else ({"split": "train"}, {"split": "test"})
    extra = args | ({"download": download} if "download" in parameters else {})
    try:
        train, heldout = (kind(root, **part, **extra) for part in parts)
    except (OSError, RuntimeError) as error:
        why = str(error).partition(" You can use download")[0]
        hint = "" if download else " (to fetch it, add --download)"
        raise MachineError(f"data: torchvision.{name} in {root!r}: {why}{hint}") from error
    shuffle = np.random.default_rng(seed).permutation
    chosen, held = shuffle(len(train))[:limit], shuffle(len(heldout))[:heldout_limit]
    return _collect(train, chosen, size), _collect(heldout, held, size)


def from_factory(made: Any) -> Split:
    """The (train, heldout) of a user's factory, each a pair of tensors or arrays, or a dataset with a length."""
    if not (isinstance(made, tuple | list) and len(made) == 2):
        raise ConfigError(f"data.factory must return (train, heldout), it returned {type(made).__name__}")
    train, heldout = (_part(part, name) for part, name in zip(made, ("train", "heldout"), strict=True))
    return train, heldout


def _part(part: Any, name: str) -> Samples:
    if isinstance(part, tuple | list) and len(part) == 2 and all(isinstance(x, Tensor | np.ndarray) for x in part):
        inputs, labels = part
        if isinstance(inputs, np.ndarray) and inputs.dtype == np.float64:
            inputs = inputs.astype(np.float32)  # numpy's default type, and no model's
        with blamed_on(f"data.factory: {name}"):
            # A copy in plain memory, so that whatever tensor it was, what follows can rely on it.
            return Samples(torch.as_tensor(inputs).detach().cpu().contiguous().clone(), class_numbers(labels))
    if hasattr(part, "__getitem__") and hasattr(part, "__len__"):
        with blamed_on(f"data.factory: {name} must give (input, class number) pairs"):
            return _collect(part, range(len(part)), size=None)
    raise ConfigError(
        f"data.factory: {name} must be a pair of tensors or a dataset with a length, it is {type(part).__name__}"
    )


DATASETS: dict[str, Callable[..., Split]] = {"digits": digits, "image_folder": image_folder, "npz": npz}


def _collect(dataset: Any, indices: Sequence[int] | Any, size: int | None, threads: int = 1) -> Samples:
    """The samples of a dataset as two tensors. Threads help where decoding an image lets go of the interpreter."""

    def item(index: int) -> tuple[Tensor, float]:
        try:
            image, label = dataset[int(index)]
        except OSError as error:
            name = dataset.samples[index][0] if hasattr(dataset, "samples") else f"sample {index}"
            raise ConfigError(f"data: {name} cannot be read as an image") from error
        return _to_tensor(image, size), float(label)

    with ThreadPoolExecutor(threads) as pool:
        items = list(pool.map(item, indices)) if threads > 1 else [item(index) for index in indices]
    if not items:
        raise ConfigError("data: the dataset is empty")
    shapes = sorted({tuple(image.shape) for image, _ in items})
    if len(shapes) > 1:
        raise ConfigError(f"data: samples differ in shape, such as {shapes[0]} and {shapes[1]}; set data.args.size")
    labels = torch.tensor([label for _, label in items], dtype=torch.float64)
    return Samples(torch.stack([image for image, _ in items]), class_numbers(labels))


def _to_tensor(image: Any, size: int | None) -> Tensor:
    if isinstance(image, Tensor | np.ndarray):
        return torch.as_tensor(image)
    from torchvision.transforms.functional import pil_to_tensor

    tensor: Tensor = pil_to_tensor(image.resize((size, size)) if size else image)
    return tensor


def _existing(path: Path) -> Path:
    if not path.exists():
        raise MachineError(f"data: {path} does not exist (relative to {Path.cwd()})")
    return path
