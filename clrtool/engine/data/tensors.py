"""Samples: data as tensors, how it is drawn and split, and the rules it has to keep."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clrtool.engine.data.nested import map_nested, tensors_of
from clrtool.engine.runtime.hardware import total_memory
from clrtool.errors import ConfigError, MachineError

# What a model takes: one tensor, several by position, or several by keyword.
Inputs = Tensor | tuple[Tensor, ...] | dict[str, Tensor]
# Short names of losses beside the classes of torch.nn, and the classes that take class numbers.
SHORT = {"cross_entropy": "CrossEntropyLoss", "mse": "MSELoss", "l1": "L1Loss", "huber": "HuberLoss"}
_OF_CLASSES = {"CrossEntropyLoss", "NLLLoss", "MultiMarginLoss", "MultiLabelMarginLoss"}


class Task(Enum):
    """What the targets are, by their type and shape."""

    CLASSES = "class numbers, one per sample"
    TOKENS = "class numbers, a sequence per sample"
    VALUES = "real numbers"


def takes_values(loss: str) -> bool:
    """Whether a loss of torch compares outputs with real numbers, and not with class numbers."""
    return loss_class(loss) not in _OF_CLASSES


def loss_class(loss: str) -> str:
    """The class of ``torch.nn`` that a loss of a config is, by its short or its dotted name too.

    >>> loss_class("mse"), loss_class("torch.nn.NLLLoss")
    ('MSELoss', 'NLLLoss')
    """
    return SHORT.get(loss, loss.removeprefix("torch.nn."))


@dataclass(frozen=True, eq=False)
class Samples:
    """Inputs (N, ...) and targets: classes (N,) or tokens (N, T) as int64, or values (N, ...) as float32."""

    inputs: Inputs
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    def to(self, device: torch.device) -> Samples:
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))

    def take(self, index: Tensor | slice) -> Samples:
        return self.map(lambda tensor: tensor[index])

    def subset(self, indices: NDArray[np.int64]) -> Samples:
        return self.take(torch.from_numpy(indices))

    def pin_memory(self) -> Samples:
        """For the DataLoader, which calls it by this name where a GPU copies from pinned memory."""
        return self.map(Tensor.pin_memory)

    def map(self, function: Callable[[Tensor], Tensor]) -> Samples:
        return Samples(map_nested(function, self.inputs), function(self.targets))

    @property
    def tensors(self) -> list[Tensor]:
        return [*tensors_of(self.inputs), self.targets]

    @property
    def labels(self) -> list[int] | None:
        """Class numbers, where there is one a sample."""
        return self.targets.tolist() if self.task is Task.CLASSES else None

    @property
    def task(self) -> Task:
        if self.targets.is_floating_point():
            return Task.VALUES
        return Task.CLASSES if self.targets.ndim == 1 else Task.TOKENS


class Drawable(Protocol):
    """Data with a length, of which some can be drawn: Samples, or what they are read from."""

    @property
    def labels(self) -> Sequence[int] | None:
        """Class numbers, where they are known."""
        ...

    def __len__(self) -> int: ...

    def subset(self, indices: NDArray[np.int64]) -> Self: ...


D = TypeVar("D", bound=Drawable)


def concatenate(chunks: Sequence[Samples]) -> Samples:
    """Samples of one structure, one after the other. Raises ConfigError if they differ in shape."""
    shapes = {tuple(tensor.shape[1:] for tensor in chunk.tensors) for chunk in chunks}
    if len(shapes) > 1:
        first, second = sorted(map(str, shapes))[:2]
        raise ConfigError(f"data: samples differ in shape, such as {first} and {second}; set data.args.size")
    columns = map(torch.cat, zip(*(chunk.tensors for chunk in chunks), strict=True))
    return chunks[0].map(lambda _: next(columns))


def split(data: D, heldout: int, seed: int) -> tuple[D, D]:
    """The rest for training, and a fixed held-out set with every class in its proportion if labels are known."""
    if not 0 < heldout < len(data):
        raise ConfigError(f"data.heldout = {heldout} must be above 0 and below the {len(data)} samples")
    held_out = choose(data.labels, len(data), heldout, seed)
    return data.subset(np.setdiff1d(np.arange(len(data)), held_out)), data.subset(held_out)


def limited(data: D, limit: int | None, seed: int) -> D:
    """At most ``limit`` samples, every class in its proportion if labels are known."""
    if limit is None or limit >= len(data):
        return data
    return data.subset(choose(data.labels, len(data), limit, seed))


def choose(labels: Sequence[int] | None, size: int, limit: int | None, seed: int) -> NDArray[np.int64]:
    """Indices of a draw of ``limit`` from ``size``, sorted and fixed by the seed.

    With labels it is stratified: shuffle, sort by class, take evenly spaced places.
    """
    if limit is None or limit >= size:
        return np.arange(size)
    shuffled = np.random.default_rng(seed).permutation(size)
    if labels is not None:
        by_class = shuffled[np.argsort(np.asarray(labels)[shuffled], kind="stable")]
        shuffled = by_class[((np.arange(limit) + 0.5) * size / limit).astype(int)]
    return np.sort(shuffled[:limit])


def from_arrays(inputs: NDArray[Any], targets: NDArray[Any]) -> Samples:
    """Arrays as tensors: uint8 images (N, H, W) or (N, H, W, C) as (N, C, H, W), tokens as int64, the rest float32."""
    if inputs.ndim < 2 or targets.ndim < 1 or len(inputs) != len(targets):
        raise ConfigError(f"data: inputs of shape {inputs.shape} need one label each, the labels are {targets.shape}")
    if inputs.size == 0:
        raise ConfigError("data: the dataset is empty")
    if inputs.dtype.kind not in "fiub" or targets.dtype.kind not in "fiub":
        raise ConfigError(f"data: inputs and labels must be numbers, they are {inputs.dtype} and {targets.dtype}")
    tokens = targets.ndim == 2 and targets.dtype.kind in "iu" and inputs.dtype.kind in "iu"
    kept = np.dtype(np.int64 if tokens else inputs.dtype if inputs.dtype == np.uint8 else np.float32)
    check_room(kept.itemsize * inputs.size + 8 * targets.size, f"data: the arrays as {kept}")
    if kept == np.uint8:
        if inputs.ndim == 3:
            inputs = inputs[..., None]
        if inputs.ndim == 4 and inputs.shape[-1] in (1, 3, 4):
            inputs = inputs.transpose(0, 3, 1, 2)
    return Samples(torch.from_numpy(np.ascontiguousarray(inputs, dtype=kept)), as_targets(targets))


def check_room(size: int, what: str) -> None:
    """Raise MachineError for data that would fill the memory: a few bytes of a file can become any number of them."""
    if size > total_memory() // 2:
        raise MachineError(f"{what} take {size / 1e9:,.3g} GB, more than half of this machine's memory")


def as_tensor(values: Tensor | NDArray[Any]) -> Tensor:
    """Values on the CPU; of an array in either order of its bytes, of which torch has one."""
    if isinstance(values, np.ndarray):
        values = values.astype(values.dtype.newbyteorder("="), copy=False)
    return torch.as_tensor(values).detach().cpu()


def as_targets(values: Tensor | NDArray[Any]) -> Tensor:
    """Targets as int64, or as float32 where they are real numbers."""
    targets = as_tensor(values)
    if targets.is_complex():
        raise ConfigError("data: labels must be numbers, they are complex")
    return targets.float() if targets.is_floating_point() else targets.long()


def as_classes(samples: Samples) -> Samples:
    """Class numbers that came as floats, as int64; a label that is no whole number is refused, not cut."""
    if samples.task is Task.TOKENS:
        raise ConfigError("data: the labels are sequences; set metric: token_accuracy for tokens")
    whole = samples.targets.long()
    if samples.targets.ndim != 1 or not torch.equal(whole.to(samples.targets.dtype), samples.targets):
        raise ConfigError(
            "data: labels must be whole class numbers from 0; for real numbers set metric: loss and a loss"
        )
    return Samples(samples.inputs, whole)


def check_samples(samples: Samples, name: str) -> None:
    """Raise ConfigError for samples that cannot be trained on or evaluated."""
    targets, inputs = samples.targets, tensors_of(samples.inputs)
    if targets.ndim == 0:
        raise ConfigError(f"data: the {name} set needs one label a sample, the labels are one number")
    if len(samples) == 0 or any(tensor.ndim < 1 or len(tensor) != len(samples) for tensor in inputs):
        sizes = ", ".join(str(len(tensor)) if tensor.ndim else "no" for tensor in inputs)
        raise ConfigError(f"data: the {name} set has {sizes} inputs and {len(samples)} labels")
    if samples.task is not Task.VALUES and int(targets.min()) < (-100 if samples.task is Task.TOKENS else 0):
        raise ConfigError(f"data: the {name} labels must be class numbers from 0, one per sample")
    for tensor in inputs:
        if tensor.ndim < 2 or tensor.numel() == 0 or tensor.is_complex():
            raise ConfigError(
                f"data: the {name} inputs must be (samples, ...) of real numbers, they are {_kind(tensor)}"
            )
    if not all(is_finite(tensor) for tensor in samples.tensors):
        raise ConfigError(f"data: the {name} set holds NaN or infinite values")


def is_finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(tensor.isfinite().all())


def check_pair(train: Samples, heldout: Samples) -> int:
    """The number of outputs that a model needs for data of one kind; ConfigError for data of two.

    For streamed data ``train`` is its first batch.
    """
    kinds = [[(tensor.shape[1:], tensor.dtype) for tensor in tensors_of(each.inputs)] for each in (train, heldout)]
    if kinds[0] != kinds[1]:
        shown = [", ".join(map(_kind, tensors_of(each.inputs))) for each in (train, heldout)]
        raise ConfigError(f"data: training inputs {shown[0]} and held-out inputs {shown[1]} must be of one kind")
    if train.task is not heldout.task:
        raise ConfigError(f"data: training targets are {train.task.value}, held-out targets {heldout.task.value}")
    if train.task is Task.VALUES:
        return int(np.prod(train.targets.shape[1:]))
    highest = int(max(train.targets.max(), heldout.targets.max()))
    if train.task is Task.TOKENS:
        _check_shifted(train)
        inputs = [*tensors_of(train.inputs), *tensors_of(heldout.inputs)]
        highest = max([highest, *(int(tensor.max()) for tensor in inputs if not tensor.is_floating_point())])
    return highest + 1


def _check_shifted(samples: Samples) -> None:
    """Raise ConfigError for tokens that are to tell themselves, as where a model is meant to shift them inside."""
    targets = samples.targets
    for tensor in tensors_of(samples.inputs):
        if tensor.shape == targets.shape and bool(((tensor == targets) | (targets < 0)).all()):
            raise ConfigError(
                "data: the labels are the tokens themselves, which a model would learn to copy: clrtool takes the loss "
                "of outputs against labels as they are. Shift them: inputs tokens[:, :-1], labels tokens[:, 1:]"
            )


def check_classes(train: Samples, num_classes: int) -> None:
    """Raise ConfigError for a whole training set that holds no classes to tell apart."""
    if train.task is not Task.CLASSES:
        return
    if int(train.targets.min()) == int(train.targets.max()):
        raise ConfigError("data: the training set has one class only; there is nothing to tell apart")
    if num_classes > len(train):
        raise ConfigError(f"data: a label of {num_classes - 1} is no class number for {len(train)} training samples")


def _kind(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {tensor.dtype}"


def sha256(*sets: Samples) -> str:
    """Hash of data as it is trained on: values, shapes and types of every tensor."""
    digest = hashlib.sha256()
    for tensor in (tensor for samples in sets for tensor in samples.tensors):
        digest.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
        values: NDArray[np.uint8] = tensor.contiguous().view(torch.uint8).numpy()
        digest.update(values.data)
    return digest.hexdigest()
