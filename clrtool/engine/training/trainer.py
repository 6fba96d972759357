"""One model in training: the only mutable thing of a sweep, made fresh for it and dropped after it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from clrtool.engine.data.loader import Batch
from clrtool.engine.data.tensors import Inputs, Samples, parts_of
from clrtool.engine.models.pretrained import keep_frozen_statistics
from clrtool.engine.runtime.factories import blamed_on
from clrtool.engine.runtime.rng import generator_states, restore_generators
from clrtool.engine.training.losses import counted, weighed
from clrtool.engine.training.scheduler import set_momentum
from clrtool.engine.training.workload import Workload, run_model

# Samples per forward pass of an evaluation, and numbers that they hold, at most. On a CPU larger passes fall out of
# the cache: 1,000 small images took a fifth longer.
EVALUATED = {"cpu": (500, 2**21), "cuda": (2500, 2**23)}
# Iterations between two looks at the losses, for which the device has to be waited for. After this many at most
# a loss that is not finite ends the training.
READ_EVERY = 50

Pause = Callable[[], bool]


def never() -> bool:
    """The pause of a training that nobody interrupts."""
    return False


def evaluation_batch(inputs: Inputs, batch_size: int, device: str) -> int:
    """Samples per forward pass of an evaluation: few where they are large, but what fits in training fits here."""
    samples, numbers = EVALUATED[device]
    size = sum(part[0].numel() for part in parts_of(inputs))
    return max(batch_size, min(samples, numbers // size))


class Trainer:
    """A fresh model and optimizer of a workload, drawn from a seed: the reference for every faster way.

    The order of the batches is a pure function of (seed, epoch), so any iteration can be reached without running
    those before it. Call under ``workload.on_device``: the seed goes into the global generators.

    Args:
        momenta: the momentum of every iteration, where it moves; none to leave it as the config has it.
        options: of the optimizer, which make a step faster, not different.
    """

    # what becomes of an error in code that is not ours
    blamed_on = staticmethod(blamed_on)

    def __init__(self, workload: Workload, seed: int, *, momenta: Sequence[float] = (), **options: Any) -> None:
        workload.seed(seed)
        self.workload, self.seed, self._momenta = workload, seed, momenta
        # Weights are drawn on the CPU and moved, so that a seed means the same weights on every device.
        self.model = workload.place(workload.make_model())
        self.optimizer = workload.make_optimizer(self.model, **options)
        self.forward = torch.compile(self.model) if workload.training.compile else workload.ranks.wrapped(self.model)
        self.scaler = torch.amp.GradScaler(workload.device.type, enabled=workload.precision == "fp16")
        self._batches: Iterator[Batch] = iter(())
        self._next = -1
        self._count = weighed if workload.ranks.world > 1 else counted
        workload.ranks.seed_apart(seed)

    def train(self, iteration: int, lrs: Sequence[float], pause: Pause = never) -> list[float]:
        """Take ``len(lrs)`` optimizer steps from ``iteration`` on, fewer if a loss is not finite or ``pause`` says so.

        Returns:
            For each step the loss of its batch, measured before the step; one that is not finite is the last. One
            transfer for READ_EVERY of them: the device is not waited for in between.
        """
        self.begin_training()
        done: list[float] = []
        with self.blamed_on(f"training failed between iterations {iteration} and {iteration + len(lrs)}"):
            for start in range(0, len(lrs), READ_EVERY):
                done += self._steps(iteration + start, lrs[start : start + READ_EVERY], pause)
                if pause() or not all(map(math.isfinite, done[start:])):
                    break
        return until_broken(done)

    def state(self) -> dict[str, Any]:
        """All that the next step depends on but the batches, which follow from seed and iteration."""
        return {
            "tensors": _tensors(self.model),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "generators": self.workload.ranks.gathered(generator_states(self.workload.device)),
        }

    @torch.no_grad()
    def restore(self, state: Mapping[str, Any]) -> None:
        """Put everything back to :meth:`state`. Raises KeyError, RuntimeError or ValueError if it does not fit."""
        copy_tensors(state["tensors"], _tensors(self.model))
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        if (own := self.workload.ranks.own(state["generators"])) is not None:
            restore_generators(own, self.workload.device)
        self._next = -1

    def begin_training(self) -> None:
        """Put the model into training mode, but for what is frozen."""
        self.model.train()
        keep_frozen_statistics(self.model)

    def _steps(self, iteration: int, lrs: Sequence[float], pause: Pause) -> list[float]:
        if iteration != self._next:
            self._batches = self.workload.train.batches(self.seed, iteration)
        losses: list[Tensor] = []
        for place, lr in enumerate(lrs, iteration):
            for group in self.optimizer.param_groups:
                group["lr"] = lr * group["lr_ratio"]
                if self._momenta:
                    set_momentum(group, self._momenta[place])
            losses.append(self._step(next(self._batches)).clone())  # a step may use its memory again
            if pause():
                break
        self._next = iteration + len(losses)
        return self.workload.ranks.mean(torch.stack(losses).float()).tolist()

    def _step(self, batch: Batch) -> Tensor:
        """One optimizer step; in fp16 a step that overflows is taken again at half the scale, until it succeeds."""
        while True:
            loss = self.backward(batch)
            if not self.scaler.is_enabled():
                self.clip()
                self.optimizer.step()
                return loss
            scale = self.scaler.get_scale()
            self.scaler.unscale_(self.optimizer)
            self.clip()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            if self.scaler.get_scale() >= scale:
                return loss
            whole = self.workload.ranks.mean(loss)
            if scale <= 1 or not math.isfinite(whole.item()):  # it is not the scale that overflows
                return torch.full_like(loss, math.inf)

    def backward(self, batch: Batch) -> Tensor:
        """Gradients of a batch, in micro-batches if there are any, and its loss."""
        self.optimizer.zero_grad()
        size = number = self._count(self.workload.loss, batch[1])
        ranks = self.workload.ranks
        if ranks.world > 1 and isinstance(number, Tensor):  # of the tokens that count one may have more than another
            size = ranks.mean(number).clamp(min=torch.finfo(torch.float32).tiny)
        loss: Tensor | None = None
        for inputs, targets in self._micro_batches(batch):
            with self.workload.autocast():
                part = self.workload.loss(run_model(self.forward, inputs), targets).reshape(())
            if len(targets) < len(batch[1]) or size is not number:
                part = part * (self._count(self.workload.loss, targets) / size)
            self.scaler.scale(part).backward()  # type: ignore[no-untyped-call]
            loss = part.detach() if loss is None else loss + part.detach()
        assert loss is not None
        return loss

    def _micro_batches(self, batch: Batch) -> Iterator[Batch]:
        if self.workload.training.micro_batches == 1:
            yield batch
            return
        inputs, targets = batch
        size = self.workload.pass_size
        for start in range(0, len(targets), size):
            part = Samples(inputs, targets).take(slice(start, start + size))
            yield part.inputs, part.targets

    def clip(self) -> None:
        """Bound the gradient, before any momentum or scaling by the optimizer."""
        training = self.workload.training
        if training.clip_value is not None:
            nn.utils.clip_grad_value_(self.model.parameters(), training.clip_value)
        if training.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), training.clip_norm)

    @torch.inference_mode()
    def evaluate(self) -> tuple[float, float]:
        """Mean loss and metric of the whole held-out set, with batch norm and dropout in evaluation mode."""
        self.model.eval()
        workload, samples, ranks = self.workload, self.workload.heldout, self.workload.ranks
        share = ranks.share(len(samples))
        ranks.level(self.model)
        batch = evaluation_batch(samples.inputs, workload.pass_size, workload.device.type)
        found: list[tuple[int | Tensor, ...]] = []
        with blamed_on("evaluation failed"), workload.autocast():
            for start in range(share.start, share.stop, batch):
                part = samples.take(slice(start, min(start + batch, share.stop)))
                outputs = run_model(self.model, workload.train.transform(part.inputs))
                number = self._count(workload.loss, part.targets)
                loss = workload.loss(outputs, part.targets).reshape(()) * number
                found.append(
                    (loss, number, *(workload.measure(outputs, part.targets) if workload.measure else (loss, number)))
                )
            found = found or [(0, 0, 0, 0)]  # of fewer samples than ranks
            sums = [
                torch.as_tensor(sum(column), device=workload.device).double() for column in zip(*found, strict=True)
            ]
        loss_sum, samples_sum, metric_sum, metric_number = ranks.sum(torch.stack(sums)).tolist()  # the only wait
        return loss_sum / max(samples_sum, 1), metric_sum / max(metric_number, 1)


def until_broken(losses: list[float]) -> list[float]:
    """Losses up to the first that is not finite, with it.

    >>> until_broken([2.3, math.inf, 2.2])
    [2.3, inf]
    """
    broken = (place for place, loss in enumerate(losses, 1) if not math.isfinite(loss))
    return losses[: next(broken, len(losses))]


def copy_tensors(saved: Mapping[Any, Tensor], own: Mapping[Any, Tensor]) -> None:
    """Copy each tensor of one into its place in the other, in the memory where that lies."""
    if saved.keys() != own.keys():
        raise ValueError(f"it lacks or has too much: {', '.join(sorted(map(str, saved.keys() ^ own.keys()))[:5])}")
    for name, tensor in saved.items():
        if tensor.shape != own[name].shape:
            raise ValueError(f"{name} was {tuple(tensor.shape)} and is {tuple(own[name].shape)}")
        own[name].copy_(tensor)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name; a state dict would leave out buffers that are not persistent."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}
