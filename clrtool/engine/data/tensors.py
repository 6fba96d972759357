"""Samples: data as tensors, how it is drawn and split, and the rules it has to keep."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clrtool.errors import ConfigError

# What a model takes: one tensor, several by position, or several by keyword.
Inputs = Tensor | tuple[Tensor, ...] | dict[str, Tensor]
# Short names of losses beside the classes of torch.nn, and the classes that take class numbers.
SHORT = {"cross_entropy": "CrossEntropyLoss", "mse": "MSELoss", "l1": "L1Loss", "huber": "HuberLoss"}
_OF_CLASSES = {"CrossEntropyLoss", "NLLLoss", "MultiMarginLoss", "MultiLabelMarginLoss"}


class Task(Enum):
    """What the targets are, by their type and shape."""

    CLASSES = "class numbers, one a sample"
    TOKENS = "class numbers, a sequence a sample"
    VALUES = "real numbers"


def takes_values(loss: str) -> bool:
    """Whether a loss of torch compares outputs with real numbers, and not with class numbers."""
    return SHORT.get(loss, loss) not in _OF_CLASSES


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

    def pin_memory(self) -> Samples:
        """For the DataLoader, which calls it by this name where a GPU copies from pinned memory."""
        return self.map(Tensor.pin_memory)

    def map(self, function: Callable[[Tensor], Tensor]) -> Samples:
        return Samples(map_tensors(function, self.inputs), function(self.targets))

    @property
    def tensors(self) -> list[Tensor]:
        return [*tensors_of(self.inputs), self.targets]

    @property
    def task(self) -> Task:
        if self.targets.is_floating_point():
            return Task.VALUES
        return Task.CLASSES if self.targets.ndim == 1 else Task.TOKENS


def map_tensors(function: Callable[[Tensor], Tensor], inputs: Inputs) -> Inputs:
    """The same structure with ``function`` of every tensor."""
    if isinstance(inputs, dict):
        return {name: function(tensor) for name, tensor in inputs.items()}
    return tuple(map(function, inputs)) if isinstance(inputs, tuple) else function(inputs)


def tensors_of(inputs: Inputs) -> list[Tensor]:
    """Every tensor of a structure."""
    if isinstance(inputs, dict):
        return list(inputs.values())
    return list(inputs) if isinstance(inputs, tuple) else [inputs]


def concatenate(parts: Sequence[Samples]) -> Samples:
    """Samples of one structure, one after the other."""
    tensors = [torch.cat(column) for column in zip(*(part.tensors for part in parts), strict=True)]
    *inputs, targets = tensors
    first = parts[0].inputs
    if isinstance(first, dict):
        return Samples(dict(zip(first, inputs, strict=True)), targets)
    return Samples(tuple(inputs) if isinstance(first, tuple) else inputs[0], targets)


def split(samples: Samples, heldout: int, seed: int) -> tuple[Samples, Samples]:
    """A fixed held-out set with every class in its proportion, and the rest for training."""
    check_heldout(heldout, len(samples))
    held = choose(labels_of(samples), len(samples), heldout, seed)
    rest = np.setdiff1d(np.arange(len(samples)), held)
    return samples.take(torch.from_numpy(rest)), samples.take(torch.from_numpy(held))


def check_heldout(heldout: int, size: int) -> None:
    if not 0 < heldout < size:
        raise ConfigError(f"data.heldout = {heldout} must be above 0 and below the {size} samples")


def take(samples: Samples, limit: int | None, seed: int) -> Samples:
    """At most ``limit`` samples, every class in its proportion."""
    return samples.take(torch.from_numpy(choose(labels_of(samples), len(samples), limit, seed)))


def labels_of(samples: Samples) -> list[int] | None:
    return samples.targets.tolist() if samples.task is Task.CLASSES else None


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
    if len(inputs) == 0:
        raise ConfigError("data: the dataset is empty")
    if inputs.dtype.kind not in "fiub" or targets.dtype.kind not in "fiub":
        raise ConfigError(f"data: inputs and labels must be numbers, they are {inputs.dtype} and {targets.dtype}")
    tokens = targets.ndim == 2 and targets.dtype.kind in "iu" and inputs.dtype.kind in "iu"
    if tokens:
        inputs = inputs.astype(np.int64)
    elif inputs.dtype == np.uint8:
        if inputs.ndim == 3:
            inputs = inputs[..., None]
        if inputs.ndim == 4 and inputs.shape[-1] in (1, 3, 4):
            inputs = inputs.transpose(0, 3, 1, 2)
    else:
        inputs = inputs.astype(np.float32)
    return Samples(torch.from_numpy(np.ascontiguousarray(inputs)), as_targets(targets))


def as_targets(given: Tensor | NDArray[Any]) -> Tensor:
    """Targets as int64, or as float32 where they are real numbers."""
    targets = torch.as_tensor(given).detach().cpu()
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
    if len(samples) == 0 or any(part.ndim < 1 or len(part) != len(samples) for part in inputs):
        sizes = ", ".join(str(len(part)) if part.ndim else "no" for part in inputs)
        raise ConfigError(f"data: the {name} set has {sizes} inputs and {len(samples)} labels")
    if samples.task is not Task.VALUES and int(targets.min()) < (-100 if samples.task is Task.TOKENS else 0):
        raise ConfigError(f"data: the {name} labels must be class numbers from 0, one a sample")
    for part in inputs:
        if part.ndim < 2 or part.numel() == 0 or part.is_complex():
            raise ConfigError(f"data: the {name} inputs must be (samples, ...) of real numbers, they are {_kind(part)}")
    if not all(is_finite(part) for part in samples.tensors):
        raise ConfigError(f"data: the {name} set holds NaN or infinite values")


def is_finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(tensor.isfinite().all())


def check_pair(train: Samples, heldout: Samples) -> int:
    """The number of outputs that a model needs for data of one kind; ConfigError for data of two.

    For streamed data ``train`` is its first batch.
    """
    kinds = [[(part.shape[1:], part.dtype) for part in tensors_of(each.inputs)] for each in (train, heldout)]
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
        tokens = [part for each in (train, heldout) for part in tensors_of(each.inputs) if not part.is_floating_point()]
        highest = max([highest, *(int(part.max()) for part in tokens)])
    return highest + 1


def _check_shifted(samples: Samples) -> None:
    """Raise ConfigError for tokens that are to tell themselves, as where a model is meant to shift them inside."""
    targets = samples.targets
    for part in tensors_of(samples.inputs):
        if part.shape == targets.shape and bool(((part == targets) | (targets < 0)).all()):
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


def _kind(part: Tensor) -> str:
    return f"{tuple(part.shape)} {part.dtype}"


def sha256(*parts: Samples) -> str:
    """Hash of data as it is trained on: values, shapes and types of every part."""
    digest = hashlib.sha256()
    for tensor in (tensor for part in parts for tensor in part.tensors):
        digest.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
        values: NDArray[np.uint8] = tensor.contiguous().view(torch.uint8).numpy()
        digest.update(values.data)
    return digest.hexdigest()
