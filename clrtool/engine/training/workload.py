"""A workload: data on the device and the recipes for a fresh model, optimizer and loss.

A sweep takes a fresh model from the recipe and throws it away, so there is nothing to restore afterwards.
"""

from __future__ import annotations

import gc
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

import clrtool
from clrtool.config.schema import SweepConfig, TrainingConfig
from clrtool.core.planning.sweep_size import SweepSize, sweep_size
from clrtool.core.reading.metric import ACCURACY, Metric
from clrtool.core.results.record import Group
from clrtool.engine.data.loader import STALLED, Loader
from clrtool.engine.data.tensors import Inputs, Samples
from clrtool.engine.runtime.distributed import ALONE, Ranks
from clrtool.engine.runtime.factories import is_worker_death
from clrtool.engine.runtime.hardware import peak_memory, processor
from clrtool.engine.runtime.rng import generator_states, restore_generators, seed_everything
from clrtool.engine.training.losses import IGNORED, Loss, Measure, chance, count_right, logits
from clrtool.engine.training.optimizers import OptimizerRecipe
from clrtool.errors import ConfigError, MachineError, OutOfMemoryError

if TYPE_CHECKING:
    from clrtool.engine.training.trainer import Trainer


@dataclass(frozen=True, eq=False)
class Workload:
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
        deterministic: whether the same numbers are asked for each time, to the last bit.
        sources: hashes of the files that the config names beside the data: modules of factories, weights.
        warnings: what may make the bounds mean something else than they seem to.
        ranks: the processes that train it together.
    """

    train: Loader
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
    deterministic: bool = False
    sources: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    ranks: Ranks = ALONE
    is_plain: ClassVar[bool] = True  # whether a step is only what is said above, and may be captured

    def trainer(self, seed: int, momenta: Sequence[float] = ()) -> Trainer:
        """A fresh model in training; see :class:`Trainer`."""
        from clrtool.engine.training.trainer import Trainer

        return Trainer(self, seed, momenta=momenta)

    def seed(self, seed: int) -> None:
        """Seed every global generator."""
        seed_everything(seed)

    @property
    def chance(self) -> float | None:
        """The metric of who always gives the commonest answers; None where there is no such."""
        return chance(self.metric, self.heldout.targets)

    @property
    def iterations_per_epoch(self) -> int:
        return self.train.iterations_per_epoch

    @property
    def batch_size(self) -> int:
        return self.train.batch_size

    @property
    def answers(self) -> int:
        """Size of the held-out set; of what is counted in it, where the metric is a share."""
        return int((self.heldout.targets != IGNORED).sum()) if self.metric.is_share else len(self.heldout)

    @property
    def pass_size(self) -> int:
        """Samples that are in training at once, on one rank."""
        return -(-self.batch_size // self.ranks.world // self.training.micro_batches)

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
        """Run in the workload's arithmetic, and leave the global generators and settings as they were.

        Raises:
            OutOfMemoryError: the device ran out of memory.
            MachineError: a worker that reads the data died or hangs.
        """
        current = torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext()
        before = generator_states(self.device)
        try:
            with current, arithmetic(self.precision, deterministic=self.deterministic):
                yield
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise OutOfMemoryError(self._out_of_memory()) from error
        except ConfigError as error:
            if not self.deterministic or "deterministic implementation" not in str(error):
                raise
            raise ConfigError(f"{error}. Run it without --deterministic") from error
        except RuntimeError as error:
            if not is_worker_death(error):
                raise
            raise MachineError(worker_fault(error)) from error
        finally:
            restore_generators(before, self.device)

    def _out_of_memory(self) -> str:
        parts = self.training.micro_batches
        itself = "" if self.ranks.world > 1 else " (--on-oom accumulate does it by itself)"
        return (
            f"out of memory on {self.device} with data.batch_size = {self.batch_size}, {peak_memory(self.device)}: try "
            f"training.micro_batches={2 * parts}, which keeps the batch of a step and the bounds of a model without "
            f"batch norm{itself}, or data.batch_size={max(1, self.batch_size // 2)}, "
            "which moves them"
        )


@contextmanager
def arithmetic(precision: str | None, *, deterministic: bool) -> Iterator[None]:
    """Matrix products and convolutions in a precision (None: as it is set), by algorithms that add in one order."""
    cudnn: Any = torch.backends.cudnn
    backends = (torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn) if precision is not None else ()
    before = [backend.fp32_precision for backend in backends]
    was, warned = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    try:
        for backend in backends:
            backend.fp32_precision = "tf32" if precision == "tf32" else "ieee"
        if deterministic:
            torch.use_deterministic_algorithms(True)
            torch.backends.cudnn.benchmark = False
        yield
    finally:
        for backend, value in zip(backends, before, strict=True):
            backend.fp32_precision = value
        if deterministic:  # it takes seconds the first time
            torch.use_deterministic_algorithms(was, warn_only=warned)
            torch.backends.cudnn.benchmark = benchmark


def worker_fault(error: RuntimeError) -> str:
    """What to say of a DataLoader's worker that gives no more batches."""
    if "timed out" in str(error):
        return (
            f"data.workers: no batch came for {STALLED:g} s, so a worker hangs: data.workers=0 reads in this process "
            "and shows where"
        )
    return (
        f"data.workers: a worker was killed, most often for want of memory or of /dev/shm: {error} "
        "data.workers=0 reads in this process and shows the cause"
    )


def free_memory() -> None:
    """Give back what is no longer in use, such as that of an attempt that ran out of memory."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


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


def environment(device: torch.device) -> dict[str, str | int]:
    """What a result depends on besides its config."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "clrtool": clrtool.__version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),  # of a class of its own, which no checkpoint holds
        "numpy": np.__version__,
        "device": f"{device.type}: {name}",
        "processor": f"{processor()}, {torch.backends.cpu.get_cpu_capability()}",
        "threads": torch.get_num_threads(),
    }
