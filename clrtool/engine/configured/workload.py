"""The workload of a config: its data on the device as samples, its loss of (outputs, targets)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from clrtool.engine.configured.losses import number_of, weight_of
from clrtool.engine.data.loader import Batch, ResidentLoader, StreamedLoader, worker_fault
from clrtool.engine.data.tensors import Samples
from clrtool.engine.models.forward import outputs_of
from clrtool.engine.runtime.by_block import shard
from clrtool.engine.runtime.device import CUBLAS, arithmetic
from clrtool.engine.runtime.factories import blamed_on, is_worker_death
from clrtool.engine.runtime.gpu_errors import told
from clrtool.engine.runtime.hardware import peak_memory
from clrtool.engine.runtime.rng import fork_rng
from clrtool.engine.runtime.sharded import is_sharded
from clrtool.engine.training.constant import Answers
from clrtool.engine.training.evaluation_budget import evaluation_batch
from clrtool.engine.training.losses import IGNORED, Loss, Measure, chance, count_right
from clrtool.engine.training.whole_set import WholeSet
from clrtool.engine.training.workload import EvalSums, Workload
from clrtool.errors import ConfigError, MachineError, OutOfMemoryError


@dataclass(frozen=True, eq=False, kw_only=True)
class ConfiguredWorkload(Workload):
    """A workload whose steps are those of a loss of (outputs, targets).

    Args:
        heldout: the held-out samples, on the device.
        loss: (outputs, targets) -> scalar, the mean over the batch.
        measure: how the metric is measured; None where that is the loss.
        channels_last: whether that is the memory format of the model.
    """

    loader: ResidentLoader | StreamedLoader
    heldout: Samples
    loss: Loss
    measure: Measure | WholeSet | None = count_right
    channels_last: bool = False
    may_be_captured: ClassVar[bool] = True

    @property
    def heldout_samples(self) -> int:
        return int((self.heldout.targets != IGNORED).sum()) if self.metric.is_share else len(self.heldout)

    @property
    def samples(self) -> int:
        return len(self.loader)

    @property
    def chance(self) -> float | None:
        return chance(self.metric, self.heldout.targets)

    @property
    def micro_batch_size(self) -> int:
        """Samples that are in training at once, on one rank."""
        return -(-self.batch_size // self.ranks.world // self.training.micro_batches)

    def losses(self, model: nn.Module, batch: Batch) -> Iterator[Tensor]:
        """Those of the micro-batches, each weighed by its share of the batch."""
        targets, ranks = batch[1], self.ranks
        weight = local = self._weight(targets)
        if ranks.world > 1 and isinstance(local, Tensor):  # of the tokens that count one may have more than another
            weight = ranks.mean(local).clamp(min=torch.finfo(torch.float32).tiny)
        for micro_inputs, micro_targets in self._micro_batches(batch):
            with self.autocast():
                loss = self.loss(outputs_of(model, micro_inputs), micro_targets).reshape(())
            if len(micro_targets) < len(targets) or weight is not local:
                loss = loss * (self._weight(micro_targets) / weight)
            yield loss

    def _micro_batches(self, batch: Batch) -> Iterator[Batch]:
        if self.training.micro_batches == 1:
            yield batch
            return
        samples, size = Samples(*batch), self.micro_batch_size
        for start in range(0, len(samples), size):
            micro_batch = samples.take(slice(start, start + size))
            yield micro_batch.inputs, micro_batch.targets

    def heldout_batches(self) -> Iterator[Batch]:
        shard = self.ranks.shard(len(self.heldout))
        size = evaluation_batch(self.heldout.inputs, self.micro_batch_size, self.device.type)
        for start in range(shard.start, shard.stop, size):
            samples = self.heldout.take(slice(start, min(start + size, shard.stop)))
            yield self.loader.transform(samples.inputs), samples.targets

    def eval_step(self, model: nn.Module, batch: Batch) -> EvalSums:
        inputs, targets = batch
        outputs, number = outputs_of(model, inputs), self._weight(targets)
        loss = self.loss(outputs, targets).reshape(()) * number
        return EvalSums(loss, number, *(self.measure(outputs, targets) if self.measure else (loss, number)))

    def answers(self, model: nn.Module) -> Answers | None:
        few = self.heldout.take(slice(0, self.micro_batch_size))  # the same on every rank
        outputs = outputs_of(model, self.loader.transform(few.inputs)).float()
        rest = self.heldout.targets[len(few) :]
        return Answers(self.loss, outputs, [few.targets, rest] if len(rest) else [few.targets])

    def _weight(self, targets: Tensor) -> int | Tensor:
        """What the loss of these samples weighs among others."""
        return (weight_of if self.ranks.world > 1 else number_of)(self.loss, targets)

    def autocast(self) -> torch.autocast:
        half = torch.float16 if self.precision == "fp16" else torch.bfloat16
        return torch.autocast(self.device.type, half, enabled=self.precision in ("bf16", "fp16"))

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        if isinstance(self.measure, WholeSet):
            self.measure.reset()
        # what is gathered in an evaluation may be used by a step after it
        gradless = torch.no_grad() if self.is_spread else torch.inference_mode()
        with gradless, self.blamed_on("evaluation failed"), self.autocast():
            yield

    @property
    def has_sums_alone(self) -> bool:
        return not isinstance(self.measure, WholeSet)

    def of_whole_set(self, sums: EvalSums) -> EvalSums:
        if not isinstance(self.measure, WholeSet):
            return sums
        with self.blamed_on("metric"):
            return sums._replace(metric=self.measure.value(), number=1)

    def blamed_on(self, field: str) -> AbstractContextManager[None]:
        """It becomes a ConfigError."""
        return blamed_on(field)

    def place(self, model: nn.Module) -> nn.Module:
        """The model on the device, in its memory format.

        Raises:
            ConfigError: its factory has spread it over ranks, which would not have the batches that go with that.
        """
        if is_sharded(model):
            raise ConfigError(
                "model: its factory spreads it over ranks: leave that to training.shard=auto, or call "
                "clrtool.range_test in the program that trains it"
            )
        layout: dict[str, Any] = {"memory_format": torch.channels_last} if self.channels_last else {}
        placed = model.to(self.device, **layout)
        return shard(placed, self.device, self.ranks.world) if self.is_spread else placed

    @property
    def is_spread(self) -> bool:
        """Whether each rank holds a part of the model."""
        return self.training.shard == "auto" and self.ranks.world > 1

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model compiled, or with gradients that are the means over all ranks."""
        if self.training.compile:
            compiled = torch.compile(model)
            assert isinstance(compiled, nn.Module)
            return compiled
        return model if self.is_spread else self.ranks.data_parallel(model)

    @contextmanager
    def on_device(self) -> Iterator[None]:
        """Run in the workload's arithmetic, and leave the global generators and settings as they were.

        Raises:
            OutOfMemoryError: the device ran out of memory.
            MachineError: a worker that reads the data died or hangs, or the GPU fails.
            ConfigError: an index was out of range on the GPU.
        """
        current = torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext()
        try:
            with (
                fork_rng(self.device),
                current,
                arithmetic(self.precision, deterministic=self.deterministic),
            ):
                yield
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise OutOfMemoryError(self._out_of_memory()) from error
        except ConfigError as error:
            if not self.deterministic or not _is_for_want_of_determinism(error):
                raise
            raise ConfigError(f"{str(error).rstrip('.')}. Run it without --deterministic") from error
        except RuntimeError as error:
            if is_worker_death(error):
                raise MachineError(worker_fault(error)) from error
            if (of_gpu := told(error)) is None:
                raise
            raise (OutOfMemoryError(self._out_of_memory()) if isinstance(of_gpu, MemoryError) else of_gpu) from error

    def _out_of_memory(self) -> str:
        itself = "" if self.ranks.world > 1 else " (--on-oom accumulate does it by itself)"
        return (
            f"out of memory on {self.device} with data.batch_size = {self.batch_size}, {peak_memory(self.device)}: try "
            f"training.micro_batches={2 * self.training.micro_batches}, which keeps the batch of a step and the bounds "
            f"of a model without batch norm{itself}, or data.batch_size={max(1, self.batch_size // 2)}, which moves "
            "them"
        )


def _is_for_want_of_determinism(error: Exception) -> bool:
    """Whether torch has no deterministic way for an operation, or was told too late to have cuBLAS take one."""
    return any(words in str(error) for words in ("deterministic implementation", CUBLAS[0]))
