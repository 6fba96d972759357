"""The fast path: on CUDA the whole step of every seed, from the batch to the update, as one captured graph.

A small network leaves a GPU idle while Python launches its kernels one by one. Here a step of all seeds is captured
once, each seed on a stream of its own, and replayed. All that changes from step to step lies on the device: the
places of the batch, the learning rate in a table, the loss in a buffer. Nothing waits for the device but the reading
of the losses.

After capture two steps are held against the reference, a plain :class:`~clrtool.engine.training.trainer.Trainer`
(:mod:`~clrtool.engine.training.step_check`); if they differ, or if anything of the workload cannot be captured, the
reference is used and the record says why.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from clrtool.engine.data.loader import ResidentLoader, has_even_batches
from clrtool.engine.runtime.capture import (
    capture,
    first_error,
    is_out_of_memory,
    on_streams,
    refusing_waits,
    side_streams,
)
from clrtool.engine.runtime.device import free_memory
from clrtool.engine.runtime.factories import describe
from clrtool.engine.runtime.rng import host_states, restore_rng_state, rng_state, seed_everything
from clrtool.engine.training.cuda_evaluation import JointEvaluation
from clrtool.engine.training.lr_response import difference, weights_of
from clrtool.engine.training.optimizers import OptimizerRecipe
from clrtool.engine.training.step_check import Step, check_rates, gradients_of, is_near, statistics_of
from clrtool.engine.training.trainer import READ_EVERY, Pause, Trainer, copy_tensors, never, until_nonfinite
from clrtool.engine.training.workload import Workload

# Steps before capture: kernels choose their algorithms, and the optimizer makes its state, which a graph has to find.
WARM_UP = 3
# Arguments by which an optimizer of torch is told how to compute its step.
WAYS = {"fused", "foreach", "capturable"}
# Seeds that run at once; a GPU has no room for more small kernels than these.
STREAMS = 8
# Learning rates that a graph has room for at the least, so that it serves a scout and the sweep after it.
ROOM = 4096


def why_not_captured(workload: Workload) -> str | None:
    """What keeps a workload from being captured; None if nothing does."""
    optimizer = workload.make_optimizer
    if not isinstance(optimizer, OptimizerRecipe):
        return f"{optimizer.name} is not made from a config"
    config = optimizer.config
    arguments = [config.args, *(rule.args for rule in config.groups)]
    reasons = {
        "training.fast is off": not workload.training.fast,
        "the data is streamed": not isinstance(workload.loader, ResidentLoader),
        "the last batch of an epoch is smaller": not has_even_batches(workload.loader),  # type: ignore[arg-type]
        "in fp16 each step is asked whether it succeeded": workload.precision == "fp16",
        "torch.compile does its own capture": workload.training.compile,
        "the optimizer computes gradients within its step": workload.needs_closure,
        "the optimizer comes from a factory": config.factory is not None,
        f"{config.name} begins from a state of its own": config.name in ("ASGD", "Rprop"),
        f"{optimizer.name} cannot take its learning rate from the device": not _options(workload),
        "the optimizer's way to step is set in its args": any(WAYS & {*args} for args in arguments),
        "dampening makes the first step another one": any(args.get("dampening") for args in arguments),
    }
    return next((reason for reason, applies in reasons.items() if applies), None)


def _options(workload: Workload) -> Mapping[str, Any]:
    """The options with which a torch optimizer reads its learning rate on the device; none if it cannot."""
    assert isinstance(workload.make_optimizer, OptimizerRecipe)
    names = {"fused", "capturable"} if workload.device.type == "cuda" else {"fused"}
    return dict.fromkeys(names & workload.make_optimizer.parameters, True)


class CapturedEnsemble:
    """All seeds of a workload, a step of all of them as one CUDA graph.

    Args:
        graph: False to run the same step uncaptured, as on a CPU.
    """

    def __init__(self, workload: Workload, seeds: Sequence[int], lrs: Sequence[float], *, graph: bool = True) -> None:
        self._workload, self._clock = workload, _Clock(workload, lrs)
        self._losses = torch.zeros(len(seeds), len(self._clock.table), device=workload.device)
        self._slots = [
            _SeedSlot(workload, seed, self._clock, mine) for seed, mine in zip(seeds, self._losses, strict=True)
        ]
        self._lrs = lrs
        self.members = [slot.trainer for slot in self._slots]
        self.engine = f"one CUDA graph for a step of {len(seeds)} seeds" if graph else "uncaptured"
        self._graph = self._capture() if graph else None
        self._evaluation = self._joint_evaluation(graph=graph)
        seed_everything(seeds[0])

    def begins_again(self, workload: Workload, seeds: Sequence[int], lrs: Sequence[float]) -> bool:
        """Begin anew with other seeds and learning rates by the graphs that there are; False where these do not fit."""
        if workload is not self._workload or len(seeds) != len(self._slots) or len(lrs) > len(self._clock.table):
            return False
        self.put_lrs(lrs)
        for slot, seed in zip(self._slots, seeds, strict=True):
            slot.begin_again(seed)
        seed_everything(seeds[0])
        return True

    def put_lrs(self, lrs: Sequence[float]) -> None:
        """Have the iterations from the first on have these learning rates, and leave all else as it is."""
        self._lrs = lrs
        self._clock.put(lrs)

    def train(self, start: int, stop: int, pause: Pause = never) -> list[list[float]]:
        done: list[list[float]] = [[] for _ in self._slots]
        while start < stop:
            end = self._steps(start, min(start + READ_EVERY, stop), pause)
            read = self._losses[:, start:end].tolist()  # the only wait
            for mine, new in zip(done, read, strict=True):
                mine.extend(new)
            start = end
            if pause() or not any(math.isfinite(new[-1]) for new in read):
                break
        return [until_nonfinite(mine) for mine in done]

    def evaluate(self, members: Sequence[int]) -> list[tuple[float, float]]:
        if self._evaluation is None:
            return [self.members[place].evaluate() for place in members]
        found = self._evaluation.read() if members else []
        return [found[place] for place in members]

    def _joint_evaluation(self, *, graph: bool) -> JointEvaluation | None:
        """That of all members; none, and the engine says why, where that cannot be captured."""
        if not self._workload.has_sums_alone:
            self.engine += "; evaluations are not captured: the metric is one of the whole held-out set"
            return None
        try:
            return JointEvaluation(self.members, min(len(self.members), STREAMS), graph=graph)
        except Exception as error:  # noqa: BLE001 (whatever cannot be captured is run by the trainers)
            why = describe(first_error(error))[:200]
            why = "they do not fit at once" if is_out_of_memory(error) else why
            self.engine += f"; evaluations are not captured: {why}"
        free_memory()  # of what failed
        return None

    def _check_evaluation(self) -> None:
        """Evaluate, which has to find room beside the graph, and as the reference would."""
        if self._evaluation is None:
            self.members[0].evaluate()
        elif not self._evaluation.is_that_of_trainers():
            self._evaluation = None
            self.engine += "; the captured evaluation is not that of the reference"

    def _steps(self, begin: int, end: int, pause: Pause = never) -> int:
        """Iterations from ``begin`` on, to ``end`` or to a pause; where it stopped."""
        for trainer in self.members:  # an evaluation has left them in its mode
            self._workload.set_train_mode(trainer.model)
        for iteration in range(begin, end):
            self._seek(iteration)
            if self._graph is not None:
                self._graph.replay()
            else:
                self._step()
            for trainer in self.members:
                if trainer.average is not None:
                    trainer.average.update()
            if pause():
                return iteration + 1
        return end

    def _seek(self, iteration: int) -> None:
        for slot in self._slots:
            slot.seek(iteration)
        self._clock.seek(iteration)

    def state(self) -> dict[str, Any]:
        generators = rng_state(self._slots[0].workload.device)
        return {"parts": [slot.state() for slot in self._slots], "generators": generators}

    @torch.no_grad()
    def restore(self, state: Mapping[str, Any]) -> None:
        """Into the memory that the graph knows."""
        if any(slot.lacks_state(saved) for slot, saved in zip(self._slots, state["parts"], strict=True)):
            with torch.enable_grad():
                self._steps(0, 1)  # an optimizer makes its state in its first step
        for slot, saved in zip(self._slots, state["parts"], strict=True):
            slot.restore(saved)
        restore_rng_state(state["generators"], self._slots[0].workload.device)

    def _capture(self) -> torch.cuda.CUDAGraph:
        _, *streams = side_streams(torch.cuda.current_device(), min(len(self._slots), STREAMS))
        buffers = _buffers(self.members)
        for turn in range(WARM_UP):
            self._seek(0)
            drawn = host_states()
            # A step that waits for the device cannot be captured: say so here, where the message is of use.
            with refusing_waits(turn > 0):
                self._step(streams)
            if host_states() != drawn:
                raise RuntimeError("the model or the loss draws random numbers outside the device")
        if any(one is not other for one, other in zip(buffers, _buffers(self.members), strict=True)):
            raise RuntimeError("the model replaces its buffers in a step")
        torch.cuda.synchronize()
        self._reset()
        return capture(lambda: self._step(streams))

    def _step(self, streams: Sequence[torch.cuda.Stream] = ()) -> None:
        """One step of every slot, on a stream of its own each, so that small kernels of several run at once."""
        self._clock.read()
        on_streams(streams, [slot.step for slot in self._slots])
        self._clock.advance()

    def _reset(self) -> None:
        for slot in self._slots:
            slot.reset()

    def matches_reference(self) -> bool:
        """Whether the second of two steps, at another learning rate, is that of the reference, for every seed.

        An evaluation is tried as well, which has to find room beside the graph. All is as new afterwards.
        """
        workload, first = self.members[0].workload, self.members[0].seed
        rates = check_rates(workload, first, self._lrs)
        seed_everything(first)
        taken = self._two_steps(rates)
        follow = all(slot.took(1) for slot in self._slots)
        self._check_evaluation()
        self._reset()
        members = zip(self.members, taken, strict=True)
        found = follow and all(is_near(workload, each.seed, rates, step) for each, step in members)
        for slot in self._slots:
            slot.forget_start()
        seed_everything(first)
        return found

    def _two_steps(self, rates: Sequence[float]) -> list[Step]:
        """The second of two steps at these rates, from the start, of every seed."""
        models = [each.model for each in self.members]
        before = [statistics_of(model) for model in models]
        self._clock.put(rates)
        self._steps(0, 1)
        weights = [weights_of(model) for model in models]
        self._steps(1, 2)
        self._clock.put(self._lrs)
        return [
            Step(difference(weights_of(model), old), gradients_of(model), difference(statistics_of(model), start))
            for model, old, start in zip(models, weights, before, strict=True)
        ]


class _Clock:
    """What of a step is the same for all seeds: which it is, its place in the epoch, and its learning rate.

    Args:
        table: the learning rate of every iteration, and room for more.
        lr: that of this one.
        place: of this one in its epoch.
        now: where in a row of losses this one's belongs.
    """

    def __init__(self, workload: Workload, lrs: Sequence[float]) -> None:
        device = workload.device
        self.table = torch.zeros(max(len(lrs), ROOM), device=device)
        self.put(lrs)
        self.lr = torch.zeros(1, device=device)
        self._both = torch.zeros(2, dtype=torch.int64, device=device)
        self._iteration, self.place = self._both[:1], self._both[1:]
        self._all = torch.arange(len(self.table), device=device)
        self.now = self._all == self._iteration
        self._epoch, self._next = workload.iterations_per_epoch, -1

    def put(self, lrs: Sequence[float]) -> None:
        """Have the first iterations have these learning rates."""
        self.table[: len(lrs)] = torch.tensor(lrs, dtype=torch.float32)

    def seek(self, iteration: int) -> None:
        """Have the next step be that of ``iteration``: something to do only where it does not follow."""
        place = iteration % self._epoch
        if iteration != self._next or place == 0:
            self._iteration.fill_(iteration)
            self.place.fill_(place)
        self._next = iteration + 1

    def read(self) -> None:
        torch.index_select(self.table, 0, self._iteration, out=self.lr)
        torch.eq(self._all, self._iteration, out=self.now)

    def advance(self) -> None:
        self._both += 1


class _SeedSlot:
    """One seed, with all that its step reads and writes on the device."""

    def __init__(self, workload: Workload, seed: int, clock: _Clock, losses: Tensor) -> None:
        assert isinstance(workload.loader, ResidentLoader)
        self.workload, self.loader, self._clock, self._losses = workload, workload.loader, clock, losses
        self.trainer = _trainer(workload, seed)
        # The steps before capture are meant to be uncaptured: torch need not warn of them.
        self.trainer.optimizer._warned_capturable_if_run_uncaptured = True
        for group in self.trainer.optimizer.param_groups:  # torch gives the same tensor to all
            group["lr"] = clock.lr.view(()) if group["lr_ratio"] == 1 else torch.zeros((), device=workload.device)
        self._epoch, self._order = 0, self._batches(0)
        self._taken = self._order[0][0]
        self._start = [each.detach().clone() for each in _tensors(self.trainer)]
        self._optimizer_start = [value.clone() for _, value in _optimizer_tensors(self.trainer)]
        workload.set_train_mode(self.trainer.model)

    def begin_again(self, seed: int) -> None:
        """Be what a slot of this seed is at its beginning, in the memory that the graph knows."""
        fresh = _trainer(self.workload, seed)
        self._start, self._optimizer_start = _tensors(fresh), [value for _, value in _optimizer_tensors(fresh)]
        self.reset()
        self.forget_start()
        self.trainer.follow(seed)
        self._go_to(0)

    def seek(self, iteration: int) -> None:
        """Have the batches be those of the epoch of ``iteration``."""
        epoch = iteration // self.loader.iterations_per_epoch
        if epoch != self._epoch:
            self._go_to(epoch)

    def _go_to(self, epoch: int) -> None:
        for current, fresh in zip(self._order, self._batches(epoch), strict=True):
            current.copy_(fresh)
        self._epoch = epoch

    def _batches(self, epoch: int) -> list[Tensor]:
        """The order of an epoch with a row for each batch: indices of samples, then what augmentation draws, if any."""
        number, size = self.loader.iterations_per_epoch, self.loader.batch_size
        order = (each for each in self.loader.order(self.trainer.seed, epoch) if each is not None)
        return [each[: number * size].reshape(number, size, *each.shape[1:]) for each in order]

    def step(self) -> None:
        """One optimizer step, by operations on the device alone."""
        rows = [each.index_select(0, self._clock.place).squeeze(0) for each in self._order]
        self._taken, draws = rows[0], rows[1] if len(rows) > 1 else None
        loss = self.workload.gradients(self.trainer, self.loader.gather(self._taken, draws))
        assert loss is not None
        self.workload.clip(self.trainer.model)
        for group in self.trainer.optimizer.param_groups:
            if group["lr_ratio"] != 1:
                torch.mul(self._clock.lr.view(()), group["lr_ratio"], out=group["lr"])
        self.trainer.optimizer.step()
        # an indexed write would be sorted first where the same bits are asked for
        torch.where(self._clock.now, loss.to(self._losses.dtype), self._losses, out=self._losses)

    def took(self, iteration: int) -> bool:
        """Whether the last step was taken with the batch of ``iteration``."""
        epoch, place = divmod(iteration, self.loader.iterations_per_epoch)
        return torch.equal(self._taken, self._batches(epoch)[0][place])

    def reset(self) -> None:
        """Weights, statistics and optimizer as they were made, in the memory that the graph knows."""
        with torch.no_grad():
            for tensor, first in zip(_tensors(self.trainer), self._start, strict=True):
                tensor.copy_(first)
        for place, (name, value) in enumerate(_optimizer_tensors(self.trainer)):
            # What was not there before the first step begins at zero, but for NAdam's product of momenta.
            initial = self._optimizer_start
            value.copy_(initial[place]) if initial else value.fill_(float(name == "mu_product"))
        self.trainer.optimizer.zero_grad()

    def forget_start(self) -> None:
        """Give back the memory of what :meth:`reset` needs."""
        self._start, self._optimizer_start = [], []

    def state(self) -> dict[str, Any]:
        """Weights, statistics and optimizer as they are."""
        optimizer = [value for _, value in _optimizer_tensors(self.trainer)]
        return {"tensors": _tensors(self.trainer), "optimizer": optimizer}

    def lacks_state(self, saved: Mapping[str, Any]) -> bool:
        """Whether the optimizer has still to make what was saved of it."""
        return len(_optimizer_tensors(self.trainer)) < len(saved["optimizer"])

    def restore(self, saved: Mapping[str, Any]) -> None:
        for name, tensors in self.state().items():
            copy_tensors(dict(enumerate(saved[name])), dict(enumerate(tensors)))


def _trainer(workload: Workload, seed: int) -> Trainer:
    """One whose optimizer reads its learning rate on the device."""
    return Trainer(workload, seed, lr=torch.tensor(1.0, device=workload.device), **_options(workload))


def _tensors(trainer: Trainer) -> list[Tensor]:
    """Weights and buffers, which a step changes in place."""
    return [*trainer.model.parameters(), *trainer.model.buffers()]


def _optimizer_tensors(trainer: Trainer) -> list[tuple[str, Tensor]]:
    states = trainer.optimizer.state.values()
    return [(name, value) for state in states for name, value in state.items() if isinstance(value, Tensor)]


def _buffers(trainers: Sequence[Trainer]) -> list[Tensor]:
    return [each for trainer in trainers for each in trainer.model.buffers()]
