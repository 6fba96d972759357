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
from clrtool.engine.training.cuda_slot import Clock, SeedSlot, device_options
from clrtool.engine.training.lr_response import difference, weights_of
from clrtool.engine.training.optimizers import OptimizerRecipe
from clrtool.engine.training.step_check import Step, check_rates, gradients_of, is_near, statistics_of
from clrtool.engine.training.trainer import READ_EVERY, Pause, Trainer, never, until_nonfinite
from clrtool.engine.training.workload import Workload

# Steps before capture: kernels choose their algorithms, and the optimizer makes its state, which a graph has to find.
WARM_UP = 3
# Arguments by which an optimizer of torch is told how to compute its step.
WAYS = {"fused", "foreach", "capturable"}
# Seeds that run at once; a GPU has no room for more small kernels than these.
STREAMS = 8


def why_not_captured(workload: Workload) -> str | None:
    """What keeps a workload from being captured; None if nothing does."""
    optimizer = workload.make_optimizer
    if workload.start is not None and workload.start.optimizer_state:
        return "the optimizer goes on from a state that it has"
    if not isinstance(optimizer, OptimizerRecipe):
        return f"several optimizers step together: {optimizer.name}"
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
        f"{optimizer.name} cannot take its learning rate from the device": not device_options(workload),
        "the optimizer's way to step is set in its args": any(WAYS & {*args} for args in arguments),
        "dampening makes the first step another one": any(args.get("dampening") for args in arguments),
    }
    return next((reason for reason, applies in reasons.items() if applies), None)


class CapturedEnsemble:
    """All seeds of a workload, a step of all of them as one CUDA graph.

    Args:
        graph: False to run the same step uncaptured, as on a CPU.
    """

    def __init__(self, workload: Workload, seeds: Sequence[int], lrs: Sequence[float], *, graph: bool = True) -> None:
        self._workload, self._clock = workload, Clock(workload, lrs)
        self._losses = torch.zeros(len(seeds), len(self._clock.table), device=workload.device)
        self._slots = [
            SeedSlot(workload, seed, self._clock, mine) for seed, mine in zip(seeds, self._losses, strict=True)
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

    def follow(self, seeds: Sequence[int]) -> None:
        """Take the batches of other seeds from here on; weights and random numbers are put in place by others."""
        for slot, seed in zip(self._slots, seeds, strict=True):
            slot.follow(seed)

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


def _buffers(trainers: Sequence[Trainer]) -> list[Tensor]:
    return [each for trainer in trainers for each in trainer.model.buffers()]
