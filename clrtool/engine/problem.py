"""A problem: data on the device and the recipes for a fresh model, optimizer and loss.

A sweep takes a fresh model from the recipe and throws it away, so there is nothing to restore afterwards.
"""

from __future__ import annotations

import platform
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import clrtool
from clrtool.config import SweepConfig, TrainingConfig
from clrtool.core.metric import ACCURACY, Metric
from clrtool.core.record import Group
from clrtool.core.sweep_size import SweepSize, sweep_size
from clrtool.engine.feed import Feed
from clrtool.engine.imports import is_worker_death
from clrtool.engine.losses import Loss, Measure, count_right, logits
from clrtool.engine.optimizers import OptimizerRecipe
from clrtool.engine.samples import Inputs, Samples
from clrtool.errors import ConfigError, MachineError


@dataclass(frozen=True, eq=False)
class Problem:
    """What a sweep needs.

    Args:
        train: batches of the training set, on ``device``.
        heldout: the held-out samples, on ``device``.
        make_model: a fresh model, its weights drawn from torch's global generator.
        make_optimizer: an optimizer over the parameters of a model that train.
        loss: (outputs, targets) -> scalar, the mean over the batch.
        device, precision, channels_last: where, in which arithmetic and in which memory format the model runs.
        data_sha256: hash of both sets.
        training: micro-batches, clipping, and the ways to be faster.
        metric, measure: what the bounds are read from, and how it is measured; None where that is the loss.
        evaluations: of a sweep whose config leaves them to be counted, after a first one before any training.
        plan_epochs: length of the training run that is planned, which a range test should not cost more than.
        groups: the parameter groups of the optimizer.
        warnings: what may make the bounds mean something else than they seem to.
    """

    train: Feed
    heldout: Samples
    make_model: Callable[[], nn.Module]
    make_optimizer: OptimizerRecipe
    loss: Loss
    device: torch.device
    precision: str
    channels_last: bool
    data_sha256: str
    training: TrainingConfig
    metric: Metric = ACCURACY
    measure: Measure | None = count_right
    evaluations: int = 60
    plan_epochs: float = 30
    groups: tuple[Group, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def iterations_per_epoch(self) -> int:
        return self.train.iterations_per_epoch

    @property
    def batch_size(self) -> int:
        return self.train.batch_size

    def sweep_size(self, sweep: SweepConfig) -> SweepSize:
        """The length of a range test, with every ``auto`` decided."""
        epochs, seeds = (None if value == "auto" else value for value in (sweep.epochs, sweep.seeds))
        return sweep_size(self.iterations_per_epoch, self.plan_epochs, epochs, seeds)  # type: ignore[arg-type]

    def place(self, model: nn.Module) -> nn.Module:
        """The model on the device, in its memory format."""
        if self.channels_last:
            return model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
        return model.to(self.device)

    def autocast(self) -> torch.autocast:
        half = torch.float16 if self.precision == "fp16" else torch.bfloat16
        return torch.autocast(self.device.type, half, enabled=self.precision in ("bf16", "fp16"))

    @contextmanager
    def on_device(self) -> Iterator[None]:
        """Run in the problem's arithmetic, and leave the global generators and settings as they were.

        Raises:
            MachineError: the device ran out of memory.
        """
        devices = [self.device] if self.device.type == "cuda" else []
        cudnn: Any = torch.backends.cudnn
        backends = (torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn)
        before = [backend.fp32_precision for backend in backends]
        current = torch.cuda.device(self.device) if devices else nullcontext()
        others = random.getstate(), np.random.get_state()  # noqa: NPY002 (a user's code may draw from it)
        try:
            for backend in backends:
                backend.fp32_precision = "tf32" if self.precision == "tf32" else "ieee"
            with torch.random.fork_rng(devices=devices), current:
                yield
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise MachineError(
                f"out of memory on {self.device} with data.batch_size = {self.batch_size}: try "
                f"training.micro_batches={2 * self.training.micro_batches}, which keeps the batch of a step and the "
                "bounds of a model without batch norm; precision=bf16 or a smaller data.batch_size moves them."
            ) from error
        except RuntimeError as error:
            if not is_worker_death(error):
                raise
            raise MachineError(
                f"data.workers: a worker was killed, most often for want of memory or of /dev/shm: {error} "
                "data.workers=0 reads in this process and shows the cause"
            ) from error
        finally:
            random.setstate(others[0])
            np.random.set_state(others[1])  # noqa: NPY002
            for backend, value in zip(backends, before, strict=True):
                backend.fp32_precision = value


def seed_everything(seed: int) -> None:
    """Seed every global generator that a user's model or data may draw from."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002


def run_model(model: Callable[..., Any], inputs: Inputs) -> Tensor:
    """The outputs of a model for one input, several by position, or several by keyword."""
    if isinstance(inputs, dict):
        made = model(**inputs)
    else:
        made = model(*inputs) if isinstance(inputs, tuple) else model(inputs)
    outputs = logits(made)
    if not isinstance(outputs, Tensor):
        raise ConfigError(
            f"model: must return a tensor, or something with logits; it returned {type(outputs).__name__}"
        )
    return outputs


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
