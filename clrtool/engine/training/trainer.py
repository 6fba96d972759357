"""One model in training: the only mutable thing of a sweep, made fresh for it and dropped after it."""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from clrtool.engine.runtime.rng import RngStream, restore_rng_state, rng_state
from clrtool.engine.runtime.sharded import (
    forget_gathered,
    is_sharded,
    local,
    local_tensors,
    named_tensors,
    packed,
    part_of,
    unpacked,
)
from clrtool.engine.training.average import RunningAverage, batch_norms, estimating
from clrtool.engine.training.copies import carry_extras
from clrtool.engine.training.in_place import copy_tensors
from clrtool.engine.training.joint import set_mode
from clrtool.engine.training.scheduler import set_momentum
from clrtool.engine.training.shared_model import SharedModel
from clrtool.engine.training.workload import EvalSums, Workload

# Iterations between two looks at the losses, for which the device has to be waited for. After this many at most
# a loss that is not finite ends the training.
READ_EVERY = 50
# Batches from which the statistics of batch norm are estimated for weights that were averaged.
ESTIMATED = 4
# Batches in a row that a step may skip; one that skips more has nothing left to train on.
SKIPPED = 100

Pause = Callable[[], bool]


def never() -> bool:
    """The pause of a training that nobody interrupts."""
    return False


class Trainer:
    """A fresh model and optimizer of a workload, drawn from a seed: the reference for every faster way.

    The order of the batches follows from the seed, so any iteration can be gone on from without training through those
    before it. Call under ``workload.on_device``: the seed goes into the global generators.

    Args:
        momenta: the momentum of every iteration, where it moves; none to leave it as the optimizer has it.
        shared: a model that is there already and is another trainer's too; none to have one made.
        options: of the optimizer, which make a step faster, not different.
    """

    def __init__(
        self,
        workload: Workload,
        seed: int,
        *,
        momenta: Sequence[float] = (),
        shared: SharedModel | None = None,
        **options: Any,
    ) -> None:
        workload.seed(seed)
        self.workload, self.seed, self._momenta, self._options = workload, seed, momenta, options
        # Weights are drawn on the CPU and moved, so that a seed means the same weights on every device.
        self.model = workload.place(workload.make_model()) if shared is None else shared.model
        self._shared = shared or workload.shared(self.model)
        self._take_turn()
        self.optimizer = workload.make_optimizer(self.model, **options)
        self.forward = workload.wrap(self.model)
        self.scaler = torch.amp.GradScaler(workload.device.type, enabled=workload.precision == "fp16")
        self._batches: Iterator[Any] = iter(())
        self._next = -1  # the iteration that they go on with
        self._rng: RngStream | None = None  # random numbers of its own, if it is a branch
        self.average: RunningAverage | None = None  # of the weights, for who asks for it
        self._first: list[Any] = []  # batches of the training set that are read again and again
        workload.ranks.seed_rank(seed)

    def train(self, iteration: int, lrs: Sequence[float], pause: Pause = never) -> list[float]:
        """Take ``len(lrs)`` optimizer steps from ``iteration`` on, fewer if a loss is not finite or ``pause`` says so.

        Returns:
            For each step the loss of its batch, measured before the step; one that is not finite is the last. One
            transfer for READ_EVERY of them: the device is not waited for in between.
        """
        self._take_turn()
        workload, end = self.workload, iteration + len(lrs)
        workload.set_train_mode(self.model)
        set_mode(self.optimizer, "train")
        done: list[float] = []
        unread: list[Tensor] = []
        with self._own_rng(), workload.blamed_on(f"training failed between iterations {iteration} and {end}"):
            if iteration != self._next:
                self._batches = workload.loader.batches(self.seed, iteration)
            for place, lr in enumerate(lrs, iteration):
                self._set_rate(place, lr)
                for _ in range(SKIPPED):
                    if (loss := workload.train_step(self, next(self._batches))) is not None:
                        break
                else:  # as of a step that skips what is not finite
                    loss = torch.full((), math.inf, device=workload.device)
                if self.average is not None:
                    self.average.update()
                unread.append(loss.clone())  # a step may use its memory again
                self._next = place + 1
                paused = pause()
                if paused or len(unread) == READ_EVERY or self._next == end:
                    done += workload.ranks.numbers(workload.ranks.mean(torch.stack(unread).float()))
                    if paused or not all(map(math.isfinite, done[-len(unread) :])):
                        break
                    unread.clear()
        return until_nonfinite(done)

    def evaluate(self) -> tuple[float, float]:
        """Mean loss and metric of the whole held-out set, with batch norm and dropout in evaluation mode."""
        return self.eval_sums().means

    def eval_sums(self) -> EvalSums:
        """The sums of :meth:`evaluate`, over all ranks, as numbers."""
        workload = self.workload
        sums = workload.ranks.numbers(workload.ranks.sum(self.rank_sums()))  # the only wait
        return workload.of_whole_set(EvalSums(*sums))

    def rank_sums(self) -> Tensor:
        """The sums of :meth:`evaluate` of this rank, (4,) in float64 on the device, for which nobody waits yet."""
        self._take_turn()
        workload = self.workload
        self.model.eval()
        set_mode(self.optimizer, "eval")
        workload.ranks.broadcast_buffers(self.model)
        with self._own_rng(), workload.evaluating():
            found = [workload.eval_step(self.model, batch) for batch in self._heldout_batches()]
            found = found or [EvalSums(0, 0, 0, 0)]  # of fewer samples than ranks
            sums = [_on_device(sum(column), workload.device) for column in zip(*found, strict=True)]
        forget_gathered(self.model)
        return torch.stack(sums)

    def _heldout_batches(self) -> Iterator[Any]:
        """This rank's; of a sharded model, whose forward needs all ranks, whoever has fewer evaluates along."""
        workload, batches = self.workload, iter(self.workload.heldout_batches())
        first = batch = next(batches, None)
        together = is_sharded(self.model)
        while workload.ranks.any(batch is not None) if together else batch is not None:
            if batch is None:
                workload.eval_step(self.model, first)
            else:
                yield batch
            batch = next(batches, None)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Have the model hold the average of its weights, with the statistics of batch norm that belong to it."""
        assert self.average is not None
        self._take_turn()
        set_mode(self.optimizer, "eval")
        with self.average.in_place():
            self._estimate_statistics()
            yield

    def evaluate_average(self) -> tuple[float, float]:
        """The same of the running average of the weights."""
        with self.averaged():
            return self.evaluate()

    @torch.no_grad()
    def _estimate_statistics(self) -> None:
        """Have the statistics of batch norm follow from the weights, over a few batches of the training set."""
        workload = self.workload
        workload.set_train_mode(self.model)
        if not (norms := batch_norms(self.model)):
            return
        with RngStream(self.seed, device=workload.device).active(), estimating(norms):
            for batch in self.first_batches(ESTIMATED):
                deque(workload.losses(self.model, batch), maxlen=0)

    def first_batches(self, number: int) -> list[Any]:
        """So many of the training set, from its beginning. They are kept: a loader may take long to begin again."""
        if len(self._first) < number:
            self._first = [*islice(self.workload.loader.batches(self.seed, 0), number)]
        return self._first[:number]

    def branch(self) -> Trainer:
        """Another trainer that goes on from here by the same numbers, and does not change this one.

        Its random numbers are its own: it draws them only while it trains or evaluates, and whatever is trained in
        between draws none of them.

        Raises:
            ValueError: a fresh model of the workload does not take the weights of this one.
        """
        workload = self.workload
        with self._own_rng():
            state, rng = self.state(), RngStream.from_here(workload.device)
            with rng.active():
                shared = self._shared
                branch = Trainer(workload, self.seed, momenta=self._momenta, shared=shared, **self._options)
                branch.restore(state)
                carry_extras(self.optimizer, branch.optimizer)
        branch._rng = rng
        return branch

    def state(self) -> dict[str, Any]:
        """All that the next step depends on but the batches, which follow from seed and iteration.

        It holds the tensors themselves, which the next step changes; of a sharded model those of this rank.
        """
        with self._own_rng():
            generators = self.workload.ranks.all_gather(rng_state(self.workload.device))
        return {
            "tensors": local_tensors(self.model) if self._shared is None else self._shared.state_of(self),
            "optimizer": packed(self.optimizer.state_dict()) if self._shared else self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "generators": generators,
        }

    @torch.no_grad()
    def restore(self, state: Mapping[str, Any]) -> None:
        """Put everything back to a :meth:`state`, of whichever trainer it is, with which nothing is shared afterwards.

        Raises:
            KeyError, RuntimeError, ValueError: it does not fit.
        """
        self._take_turn()
        likes = named_tensors(self.model)
        parts = {name: part_of(each, likes[name]) for name, each in state["tensors"].items()}
        for name, buffer in self.model.named_buffers():  # an observer's has the shape that its first batch gave it
            if name in parts and buffer.shape != parts[name].shape:
                buffer.resize_(parts[name].shape)
        copy_tensors(parts, {name: local(each) for name, each in likes.items()})
        forget_gathered(self.model)
        optimizer = copy.deepcopy(state["optimizer"])  # torch would take the tensors themselves
        if self._shared is not None:
            optimizer = unpacked(optimizer, [each for group in self.optimizer.param_groups for each in group["params"]])
        self.optimizer.load_state_dict(optimizer)
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        if (generators := self.workload.ranks.of_this_rank(state["generators"])) is not None:
            with self._own_rng():
                restore_rng_state(generators, self.workload.device)
        self._next = -1

    def follow(self, seed: int) -> None:
        """Take the batches of another seed from here on; its weights and random numbers are put in place by others."""
        self.seed, self._next, self._first = seed, -1, []

    def _take_turn(self) -> None:
        """Have the model hold the weights of this trainer, where it is another's too."""
        if self._shared is not None:
            self._shared.pass_to(self)

    def _own_rng(self) -> AbstractContextManager[None]:
        """Where a branch draws random numbers; any other trainer has the global ones."""
        return nullcontext() if self._rng is None else self._rng.active()

    def _set_rate(self, iteration: int, lr: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["lr_ratio"]
            if self._momenta:
                set_momentum(group, self._momenta[iteration])


def _on_device(number: float | Tensor, device: torch.device) -> Tensor:
    """A sum on the device, in float64: a number is filled in there, for which nobody waits."""
    if isinstance(number, Tensor):
        return number.to(device, torch.float64)
    return torch.full((), number, dtype=torch.float64, device=device)


def until_nonfinite(losses: list[float]) -> list[float]:
    """Losses up to the first that is not finite, with it.

    >>> until_nonfinite([2.3, math.inf, 2.2])
    [2.3, inf]
    """
    broken = (place for place, loss in enumerate(losses, 1) if not math.isfinite(loss))
    return losses[: next(broken, len(losses))]
