"""The workload of a program's own model, optimizer and loaders: all of it copied, and nothing of it changed.

A sweep trains copies. What the program passed is as it was afterwards, bit for bit, and so are its generators of random
numbers, however the sweep ended.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from clrtool.engine.inprocess.accumulated import Accumulated
from clrtool.engine.inprocess.clone import ModelCloner, OptimizerCloner, preserved
from clrtool.engine.inprocess.heldout import Heldout, HeldoutBatches
from clrtool.engine.inprocess.loaders import InProcessLoader, to_device
from clrtool.engine.inprocess.one_loss import scalar
from clrtool.engine.inprocess.steps import CustomSteps
from clrtool.engine.inprocess.supervised import SupervisedSteps, evaluation
from clrtool.engine.runtime.device import arithmetic
from clrtool.engine.runtime.rng import RngStream, seed_host
from clrtool.engine.training.constant import Answers
from clrtool.engine.training.shared_model import SharedModel
from clrtool.engine.training.workload import EvalSums, InTraining, Workload
from clrtool.errors import ConfigError


@dataclass(frozen=True, eq=False, kw_only=True)
class InProcessWorkload(Workload):
    """A workload whose steps are a program's own. What its code raises is left as it is.

    Args:
        steps: what is done with a batch.
        heldout: the held-out batches.
        eval_loss: the mode of a model in which its held-out loss is computed, ``eval`` or ``train``.
        heldout_samples, chance: what was counted in them, 0 where that is not known, and the share of their commonest
            class.
    """

    make_model: ModelCloner
    make_optimizer: OptimizerCloner
    loader: InProcessLoader
    steps: CustomSteps | SupervisedSteps
    heldout: HeldoutBatches
    eval_loss: str = "eval"
    heldout_samples: int = 0
    chance: float | None = None

    def place(self, model: nn.Module) -> nn.Module:
        placed = super().place(model)
        self.ranks.align(placed)
        return placed

    def shared(self, model: nn.Module) -> SharedModel | None:
        lent = self.make_model.lent
        return super().shared(model) if lent is None else lent.shared

    def gradients(self, trainer: InTraining, batch: Any) -> Tensor | None:
        """The means over all ranks, of steps that may call whatever a model has: a wrapper has its forward alone."""
        loss = super().gradients(trainer, batch)
        is_taken = self.ranks.average_gradients(trainer.model.parameters(), skips=loss is None)
        return loss if is_taken else None

    def losses(self, model: nn.Module, batch: tuple[Any, ...]) -> Iterator[Tensor]:
        """Those of the loader's batches that make up a step."""
        for micro_batch in batch:
            with self.autocast(), explained():
                made = self.steps.step(model, micro_batch)
            if made is None:  # a batch to be skipped
                continue
            loss = scalar(made)
            yield loss / len(batch) if len(batch) > 1 else loss

    def heldout_batches(self) -> Iterator[Any]:
        for batch, samples in self.heldout:
            yield Heldout(to_device(batch, self.device, fresh=False), samples)

    def eval_step(self, model: nn.Module, batch: Heldout) -> EvalSums:
        mode = evaluation if self.eval_loss != "train" else self.in_training
        with self.autocast():
            return EvalSums(*map(_as_double, self.steps.evaluate(model, *batch, mode)))

    @contextmanager
    def in_training(self, model: nn.Module) -> Iterator[None]:
        """In the modes of training, with statistics as they were afterwards, and in evaluation mode again."""
        buffers = [(each, each.clone()) for each in model.buffers()]
        self.set_train_mode(model)
        try:
            yield
        finally:
            model.eval()
            for each, before in buffers:
                each.copy_(before)

    def autocast(self) -> AbstractContextManager[Any]:
        """The arithmetic that was asked for; what steps do themselves, where nothing was."""
        if self.precision not in ("bf16", "fp16"):
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16 if self.precision == "bf16" else torch.float16)

    def answers(self, model: nn.Module) -> Answers | None:
        if not isinstance(self.steps, SupervisedSteps) or self.eval_loss == "train":
            return None
        found = self.steps.answers(model, [each.batch for each in self.heldout_batches()])
        if found is None or self.ranks.world == 1:
            return found
        targets = [each.to(self.device) for each in self.ranks.gather(found.targets)]
        size = min(len(found.outputs), len(targets[0]))  # as many of both, with which a fit begins
        parts = [targets[0][:size], targets[0][size:], *targets[1:]]
        return found._replace(outputs=found.outputs[:size], targets=[each for each in parts if len(each)])

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """What is drawn at random does not change the training."""
        if isinstance(self.steps.measure, Accumulated):
            self.steps.measure.whole.reset()
        with torch.no_grad(), RngStream(0, device=self.device).active():
            yield

    def of_whole_set(self, sums: EvalSums) -> EvalSums:
        steps = self.steps
        if not isinstance(steps.measure, Accumulated):
            return sums
        value = steps.measure.whole.value()
        if isinstance(steps, CustomSteps) and not steps.has_loss:  # it stands for the loss, lower where it is better
            sums = sums._replace(loss=value * steps.metric.value(-1.0), samples=1)
        return sums._replace(metric=value, number=1)

    def seed(self, seed: int) -> None:
        """Seed the generators that are put back: torch's own way would reach devices that are in no use here."""
        seed_host(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed_all(seed)

    def set_train_mode(self, model: nn.Module) -> None:
        """Into the modes in which the model was given, if it was in training; else all of it into training mode."""
        super().set_train_mode(model)
        modes = self.make_model.modes
        for module, mode in zip(model.modules(), modes or (), strict=modes is not None):
            module.training = module.training and mode

    @contextmanager
    def on_device(self) -> Iterator[None]:
        """Leave everything as it was: generators, settings, and the gradients of what was given."""
        try:
            with preserved(self.make_model.source), arithmetic(None, deterministic=self.deterministic):
                yield
        finally:
            self.make_model.give_back()
            self.loader.close()


@contextmanager
def explained() -> Iterator[None]:
    """Tell the way out of what a step, or its backward pass, meets here and not in the program's own loop.

    Raises:
        ConfigError: it asks the model for what ``DistributedDataParallel`` around it has; a batch has one sample, from
            which batch norm cannot learn; or outputs that ranks share meet a loss that knows nothing of that.
    """
    try:
        yield
    except AttributeError as error:
        if error.name not in ("module", "no_sync") or not isinstance(error.obj, nn.Module):
            raise
        raise ConfigError(
            f"step: uses model.{error.name}, but it is given the model inside DistributedDataParallel, for a range "
            "test averages gradients itself: use getattr(model, 'module', model), and no no_sync()"
        ) from error
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise ConfigError(
            "train_loader: a batch has one sample, of which batch norm has no statistics: drop_last=True in its "
            "DataLoader leaves the last, smaller batch out, and norms in eval() keep theirs"
        ) from error
    except RuntimeError as error:
        if "mixed torch.Tensor and DTensor" not in str(error):
            raise
        raise ConfigError(
            "step: the model's outputs are spread by tensor parallelism, and its loss computes with other tensors: "
            "call the range test under `with loss_parallel():`, which the backward pass needs too, or let the model's "
            "plan gather them (output_layouts=Replicate())"
        ) from error


def _as_double(value: Any) -> Tensor:
    """A sum or a number that a measure gave, which may be a tensor."""
    return torch.as_tensor(value).detach().double().reshape(())
