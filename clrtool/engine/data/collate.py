"""From the items of a dataset to a batch of samples: images as tensors, stacked, and taken apart as (inputs, targets).

It runs in the workers of a DataLoader too, so whatever goes wrong there comes back as a value and not as a traceback.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from clrtool.engine.data.tensors import Samples, as_targets, check_samples
from clrtool.engine.runtime.factories import describe
from clrtool.errors import ConfigError, MachineError, lack_of

# What a user's ``data.batch`` does: the batch of the dataset -> (inputs, targets).
Unpack = Callable[[Any], tuple[Any, Any]]
# Names under which a batch that is a mapping holds its targets.
TARGET_NAMES = ("labels", "label", "targets", "target", "y")


@dataclass(frozen=True)
class Fault:
    """What went wrong in reading samples, to be raised where people are told."""

    message: str
    error: type[Exception] = ConfigError


@dataclass(frozen=True, eq=False)
class Collate:
    """Items -> Samples of float32, uint8 or whole numbers.

    Args:
        unpack: takes a batch apart; None for pairs and for mappings with one of ``TARGET_NAMES``.
        collate_fn: how items become a batch; None for torch's ``default_collate``.
        size: pixels a side that images are resized to.
    """

    unpack: Unpack | None = None
    collate_fn: Callable[[list[Any]], Any] | None = None
    size: int | None = None

    def __call__(self, items: list[Any]) -> Samples | Fault:
        if faults := [item for item in items if isinstance(item, Fault)]:
            return faults[0]
        try:
            samples = self._to_samples(items)
            check_samples(samples, "training")
            if len(samples) != len(items):
                raise ConfigError(f"{self._source}: gave {len(samples)} samples of {len(items)}")
        except ConfigError as error:
            return Fault(str(error))
        except Exception as error:  # noqa: BLE001 (whatever a user's code raises)
            if lack_of(error) is not None:
                hint = "; where /dev/shm is small, data.workers=0 needs none of it"
                return Fault(f"{self._source}: {describe(error)}{hint}", MachineError)
            ragged = "stack expects each" in str(error)
            hint = "; samples differ in shape: set data.args.size, or return a DataLoader with a collate_fn"
            return Fault(f"{self._source}: {describe(error)}{hint if ragged else ''}")
        return samples

    def prepared(self, item: Any) -> Any:
        """An item as it waits for the others of its batch: resized where that is asked for, so that few pixels wait."""
        return item if self.collate_fn else self._plain(item)

    def _to_samples(self, items: list[Any]) -> Samples:
        batch = self.collate_fn(items) if self.collate_fn else default_collate(list(map(self._plain, items)))
        pair = self.unpack(batch) if self.unpack else default_unpack(batch)
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise ConfigError(f"data.batch: must return (inputs, targets), it returned {type(pair).__name__}")
        inputs, targets = pair
        return Samples(_as_inputs(inputs), as_targets(_as_tensor(targets, "targets")))

    @property
    def _source(self) -> str:
        return "data.batch" if self.unpack else "data: collating a batch"

    def _plain(self, item: Any) -> Any:
        """An item with every image in it as a tensor (C, H, W) of uint8, and every list of numbers as a tensor."""
        if isinstance(item, Mapping):
            return {name: self._plain(value) for name, value in item.items()}
        if isinstance(item, list) and item and all(isinstance(each, int | float) for each in item):
            return torch.tensor(item)
        if isinstance(item, tuple | list):
            return tuple(map(self._plain, item))
        if not hasattr(item, "resize") or isinstance(item, Tensor | np.ndarray | np.generic):
            return item
        from torchvision.transforms.functional import pil_to_tensor

        return pil_to_tensor(item.resize((self.size, self.size)) if self.size else item)


def default_unpack(batch: Any) -> tuple[Any, Any]:
    """Pairs as they are; of a mapping the targets by their name, and the rest as inputs by keyword."""
    if isinstance(batch, tuple | list) and len(batch) == 2:
        return batch[0], batch[1]
    if isinstance(batch, Mapping):
        names = [name for name in TARGET_NAMES if name in batch]
        inputs = {name: value for name, value in batch.items() if name not in names[:1]}
        if names and inputs:
            return inputs if len(inputs) > 1 else next(iter(inputs.values())), batch[names[0]]
    keys = f" with the keys {', '.join(map(str, batch))}" if isinstance(batch, Mapping) else ""
    raise ConfigError(
        f"data: samples must give (input, class number) pairs, or mappings with one of {', '.join(TARGET_NAMES)}; "
        f"they give {type(batch).__name__}{keys}. Take them apart with data.batch: 'pkg.module:callable'"
    )


def _as_inputs(inputs: Any) -> Any:
    if isinstance(inputs, Mapping):
        return {str(name): _as_tensor(value, name) for name, value in inputs.items()}
    if isinstance(inputs, tuple | list):
        return tuple(_as_tensor(value, f"input {place}") for place, value in enumerate(inputs))
    return _as_tensor(inputs, "inputs")


def _as_tensor(value: Any, name: object) -> Tensor:
    if not isinstance(value, Tensor | np.ndarray):
        raise ConfigError(f"data: {name} must be tensors, they are {type(value).__name__}")
    tensor = torch.as_tensor(value)
    return tensor.float() if tensor.dtype == torch.float64 else tensor


def samples_or_raise(batch: Samples | Fault) -> Samples:
    """Samples. Raises the fault that came in their place."""
    if isinstance(batch, Fault):
        raise batch.error(batch.message)
    return batch
