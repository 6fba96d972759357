"""A problem: data on the device and the recipes for a fresh model, optimizer and loss.

A sweep takes a fresh model from the recipe and throws it away, so there is nothing to restore afterwards.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import clrtool
from clrtool.engine.samples import Samples
from clrtool.errors import ConfigError, MachineError

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Problem:
    """What a sweep needs.

    Args:
        train, heldout: inputs (N, ...) and labels (N,), on ``device``.
        batch_size: samples per optimizer step.
        mean, std: per channel, applied to uint8 inputs as ``(x - mean) / std``.
        make_model: a fresh model, its weights drawn from torch's global generator.
        make_optimizer: an optimizer over given parameters.
        loss: (outputs, labels) -> scalar, the mean over the batch.
        device, precision: where and in which arithmetic the model runs.
        data_sha256: hash of both sets.
    """

    train: Samples
    heldout: Samples
    batch_size: int
    mean: Tensor
    std: Tensor
    make_model: Callable[[], nn.Module]
    make_optimizer: Callable[[Iterable[nn.Parameter]], Optimizer]
    loss: Loss
    device: torch.device
    precision: str
    data_sha256: str

    @property
    def iterations_per_epoch(self) -> int:
        return len(self.train) // self.batch_size

    def batch(self, samples: Samples, index: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Inputs as the model takes them, and labels."""
        inputs = samples.inputs[index]
        if inputs.dtype == torch.uint8:
            inputs = (inputs.float() - self.mean) / self.std
        return inputs, samples.targets[index]

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    @contextmanager
    def on_device(self) -> Iterator[None]:
        """Run in the problem's arithmetic, and leave torch's global generators and settings as they were.

        Raises:
            MachineError: the device ran out of memory.
        """
        devices = [self.device] if self.device.type == "cuda" else []
        backends = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)  # type: ignore[attr-defined]
        before = [backend.fp32_precision for backend in backends]
        try:
            for backend in backends:
                backend.fp32_precision = "tf32" if self.precision == "tf32" else "ieee"
            with torch.random.fork_rng(devices=devices):
                yield
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise MachineError(
                f"out of memory on {self.device} with data.batch_size = {self.batch_size}: "
                "try a smaller data.batch_size, or precision=bf16. Either moves the bounds."
            ) from error
        finally:
            for backend, value in zip(backends, before, strict=True):
                backend.fp32_precision = value


def find_device(name: str) -> torch.device:
    """``auto`` is CUDA if there is any, else the CPU. Raises for a device that is unknown or not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"--device {name!r} must be auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"--device {name!r} must be auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise MachineError(
            f"--device {name}: this machine has {torch.cuda.device_count()} CUDA devices; try --device cpu"
        )
    return device


def environment(device: torch.device) -> Mapping[str, str | int]:
    """What a result depends on besides its config."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "clrtool": clrtool.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "device": f"{device.type}: {name}",
        "threads": torch.get_num_threads(),
    }
