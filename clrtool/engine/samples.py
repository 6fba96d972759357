"""Samples: the data of a problem as two tensors, how it is drawn and split, and the rules it has to keep."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clrtool.errors import ConfigError


@dataclass(frozen=True, eq=False)
class Samples:
    """Inputs (N, ...) and class labels (N,), int64."""

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.targets)

    def to(self, device: torch.device) -> Samples:
        return Samples(self.inputs.to(device), self.targets.to(device))


Split = tuple[Samples, Samples]


def split(samples: Samples, heldout: int, seed: int) -> Split:
    """A fixed held-out set with every class in its proportion, and the rest for training."""
    if not 0 < heldout < len(samples):
        raise ConfigError(f"data.args.heldout = {heldout} must be above 0 and below the {len(samples)} samples")
    held = choose(samples.targets.tolist(), heldout, seed)
    rest = np.setdiff1d(np.arange(len(samples)), held)
    return (
        Samples(samples.inputs[rest], samples.targets[rest]),
        Samples(samples.inputs[held], samples.targets[held]),
    )


def take(samples: Samples, limit: int | None, seed: int) -> Samples:
    """At most ``limit`` samples, every class in its proportion."""
    chosen = choose(samples.targets.tolist(), limit, seed)
    return Samples(samples.inputs[chosen], samples.targets[chosen])


def choose(targets: Sequence[int], limit: int | None, seed: int) -> NDArray[Any]:
    """Indices of a stratified draw: shuffle, sort by class, take evenly spaced places. Sorted, fixed by the seed."""
    size = len(targets)
    if limit is None or limit >= size:
        return np.arange(size)
    shuffled = np.random.default_rng(seed).permutation(size)
    by_class = shuffled[np.argsort(np.asarray(targets)[shuffled], kind="stable")]
    places = (np.arange(limit) + 0.5) * size / limit
    return np.sort(by_class[places.astype(int)])


def from_arrays(images: NDArray[Any], labels: NDArray[Any]) -> Samples:
    """uint8 images (N, H, W) or (N, H, W, C) as (N, C, H, W); anything else as it is, in float32."""
    if images.ndim < 2 or labels.ndim != 1 or len(images) != len(labels):
        raise ConfigError(f"data: inputs of shape {images.shape} need one label each, the labels are {labels.shape}")
    if len(images) == 0:
        raise ConfigError("data: the dataset is empty")
    if images.dtype.kind not in "fiub" or labels.dtype.kind not in "fiub":
        raise ConfigError(f"data: inputs and labels must be numbers, they are {images.dtype} and {labels.dtype}")
    if images.dtype == np.uint8:
        if images.ndim == 3:
            images = images[..., None]
        if images.ndim == 4 and images.shape[-1] in (1, 3, 4):
            images = images.transpose(0, 3, 1, 2)
        return Samples(torch.from_numpy(np.ascontiguousarray(images)), class_numbers(labels))
    return Samples(torch.from_numpy(images.astype(np.float32)), class_numbers(labels))


def class_numbers(labels: Tensor | NDArray[Any]) -> Tensor:
    """Class numbers as int64; a label that is no whole number is refused, not cut."""
    given = torch.as_tensor(labels).detach().cpu()
    whole = given.long()
    if not torch.equal(whole.to(given.dtype), given):
        raise ConfigError("data: labels must be whole class numbers from 0")
    return whole


def check_data(train: Samples, heldout: Samples, batch_size: int) -> int:
    """The number of classes of data that can be trained on; ConfigError for any other."""
    for name, part in (("training", train), ("held-out", heldout)):
        if len(part) == 0 or len(part.inputs) != len(part):
            raise ConfigError(f"data: the {name} set has {len(part.inputs)} inputs and {len(part)} labels")
        if part.targets.ndim != 1 or int(part.targets.min()) < 0:
            raise ConfigError(f"data: the {name} labels must be class numbers from 0, one a sample")
        if part.inputs.ndim < 2 or part.inputs.numel() == 0 or part.inputs.is_complex():
            raise ConfigError(f"data: the {name} inputs must be (samples, ...) of real numbers, they are {_kind(part)}")
        if part.inputs.is_floating_point() and not bool(part.inputs.isfinite().all()):
            raise ConfigError(f"data: the {name} inputs hold NaN or infinite values")
    if train.inputs.shape[1:] != heldout.inputs.shape[1:] or train.inputs.dtype != heldout.inputs.dtype:
        raise ConfigError(
            f"data: training inputs {_kind(train)} and held-out inputs {_kind(heldout)} must be of one kind"
        )
    if batch_size > len(train):
        raise ConfigError(f"data.batch_size = {batch_size} must be at most the {len(train)} training samples")
    if int(train.targets.min()) == int(train.targets.max()):
        raise ConfigError("data: the training set has one class only; there is nothing to tell apart")
    highest = int(max(train.targets.max(), heldout.targets.max()))
    if highest >= len(train):
        raise ConfigError(f"data: a label of {highest} is no class number for {len(train)} training samples")
    return highest + 1


def _kind(part: Samples) -> str:
    return f"{tuple(part.inputs.shape)} {part.inputs.dtype}"


def channel_statistics(inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel of uint8 images, shaped to broadcast over (N, C, H, W)."""
    if inputs.dtype != torch.uint8 or inputs.ndim != 4:
        return torch.zeros(()), torch.ones(())
    # From a count of each value, 256 a channel: exact, and no float copy of the images.
    values = torch.arange(256, dtype=torch.float64)
    counts = torch.stack([torch.bincount(channel.flatten(), minlength=256) for channel in inputs.transpose(0, 1)])
    share = counts.double() / counts.sum(1, keepdim=True)
    mean = share @ values
    std = (share @ values.square() - mean.square()).clamp(min=0).sqrt()
    std[std == 0] = 1  # a channel of one value carries nothing, and 0 / 0 would
    return mean.float()[:, None, None], std.float()[:, None, None]


def sha256(*parts: Samples) -> str:
    """Hash of the data as it is trained on: values, shapes and types of every part."""
    digest = hashlib.sha256()
    for part in parts:
        for tensor in (part.inputs, part.targets):
            digest.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
            values: NDArray[np.uint8] = tensor.contiguous().view(torch.uint8).numpy()
            digest.update(values.data)
    return digest.hexdigest()
