"""The fast path: on CUDA the whole step of every seed, from the batch to the update, as one captured graph.

A small network leaves a GPU idle while Python launches its kernels one by one. Here a step of all seeds is captured
once, each seed on a stream of its own, and replayed. All that changes from step to step lies on the device: the
places of the batch, the learning rate in a table, the loss in a buffer. Nothing waits for the device but the reading
of the losses.

After capture two steps are held against the reference, a plain :class:`~clrtool.engine.training.trainer.Trainer`, at
two learning rates; if they differ, or if anything of the workload cannot be captured, the reference is used and the
record says why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import torch
from torch import Tensor

from clrtool.engine.data.loader import ResidentLoader
from clrtool.engine.runtime.rng import generator_states, restore_generators, seed_everything
from clrtool.engine.training.lr_response import length
from clrtool.engine.training.optimizers import OptimizerRecipe
from clrtool.engine.training.trainer import READ_EVERY, Pause, Trainer, copy_tensors, never, until_broken
from clrtool.engine.training.workload import Workload

# Steps before capture: kernels choose their algorithms, and the optimizer makes its state, which a graph has to find.
WARM_UP = 3
# Two learning rates of the check. One that was frozen into the graph would make the second step 75 % too short.
CHECKED = (0.01, 0.04)
# How far the checked step may be from the reference's: kernels may add in another order.
TOLERANCE = 0.05
# Seeds that run at once; a GPU has no room for more small kernels than these.
STREAMS = 8


def why_not(workload: Workload) -> str | None:
    """What keeps a workload from being captured; None if nothing does."""
    optimizer = workload.make_optimizer
    if not isinstance(optimizer, OptimizerRecipe):
        return f"{optimizer.name} is not made from a config"
    config = optimizer.config
    given = [config.args, *(rule.args for rule in config.groups)]
    reasons = {
        "training.fast is off": not workload.training.fast,
        "the data is streamed": not isinstance(workload.loader, ResidentLoader),
        "in fp16 each step is asked whether it succeeded": workload.precision == "fp16",
        "torch.compile does its own capture": workload.training.compile,
        "the optimizer comes from a factory": config.factory is not None,
        f"{config.name} begins from a state of its own": config.name in ("ASGD", "Rprop"),
        f"{optimizer.name} cannot take its learning rate from the device": not _options(workload),
        "the optimizer's way to step is set in its args": any({"fused", "foreach", "capturable"} & {*a} for a in given),
        "dampening makes the first step another one": any(args.get("dampening") for args in given),
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
        self._parts = [_Part(workload, seed, lrs) for seed in seeds]
        self.members = [part.trainer for part in self._parts]
        self.engine = f"one CUDA graph for a step of {len(seeds)} seeds" if graph else "uncaptured"
        self._graph = self._capture() if graph else None
        seed_everything(seeds[0])

    def train(self, start: int, stop: int, pause: Pause = never) -> list[list[float]]:
        for trainer in self.members:
            trainer.workload.set_train_mode(trainer.model)
        end = start
        while end < stop:
            end = self._steps(end, min(end + READ_EVERY, stop), pause)
            if pause() or not torch.stack([part.losses[end - 1].isfinite() for part in self._parts]).any():
                break
        return [until_broken(part.losses[start:end].tolist()) for part in self._parts]

    def _steps(self, begin: int, end: int, pause: Pause = never) -> int:
        """Iterations from ``begin`` on, to ``end`` or to a pause; where it stopped."""
        for iteration in range(begin, end):
            for part in self._parts:
                part.seek(iteration)
            if self._graph is not None:
                self._graph.replay()
            else:
                for part in self._parts:
                    part.step()
            if pause():
                return iteration + 1
        return end

    def state(self) -> dict[str, Any]:
        generators = generator_states(self._parts[0].workload.device)
        return {"parts": [part.state() for part in self._parts], "generators": generators}

    @torch.no_grad()
    def restore(self, state: Mapping[str, Any]) -> None:
        """Into the memory that the graph knows."""
        for part, saved in zip(self._parts, state["parts"], strict=True):
            part.restore(saved)
        restore_generators(state["generators"], self._parts[0].workload.device)

    def _capture(self) -> torch.cuda.CUDAGraph:
        streams = [torch.cuda.Stream() for _ in self._parts[:STREAMS]]  # type: ignore[no-untyped-call]
        buffers = _buffers(self.members)
        for turn in range(WARM_UP):
            for part in self._parts:
                part.seek(0)
            drawn = _host_states()
            # A step that waits for the device cannot be captured: say so here, where the message is of use.
            torch.cuda.set_sync_debug_mode("error" if turn else "default")
            try:
                self._fork(streams)
            finally:
                torch.cuda.set_sync_debug_mode("default")
            if _host_states() != drawn:
                raise RuntimeError("the model or the loss draws random numbers outside the device")
        if any(one is not other for one, other in zip(buffers, _buffers(self.members), strict=True)):
            raise RuntimeError("the model replaces its buffers in a step")
        torch.cuda.synchronize()
        self._reset()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=torch.cuda.Stream()):  # type: ignore[no-untyped-call]
            self._fork(streams)
        return graph

    def _fork(self, streams: Sequence[torch.cuda.Stream]) -> None:
        """One step of every part on a stream of its own, so that small kernels of several run at once."""
        main = torch.cuda.current_stream()
        for stream in streams:
            stream.wait_stream(main)
        try:
            for part, stream in zip(self._parts, cycle(streams), strict=False):
                with torch.cuda.stream(stream):
                    part.step()
        finally:  # a capture that fails with work left on a stream would hide why
            for stream in streams:
                main.wait_stream(stream)

    def _reset(self) -> None:
        for part in self._parts:
            part.reset()

    def is_true(self) -> bool:
        """Whether the second of two steps, at another learning rate, is that of the reference, for every seed."""
        tables = [part.table[:2].clone() for part in self._parts]
        for part in self._parts:
            part.table[:2] = torch.tensor(CHECKED)
        self._steps(0, 1)
        before = [_weights(trainer) for trainer in self.members]
        self._steps(1, 2)
        moved = [_difference(_weights(each), old) for each, old in zip(self.members, before, strict=True)]
        held = [_float_buffers(trainer) for trainer in self.members]
        self._reset()
        for part, table in zip(self._parts, tables, strict=True):
            part.table[:2] = table
        workload = self._parts[0].workload
        found = [_is_near(workload, each.seed, *seen) for each, *seen in zip(self.members, moved, held, strict=True)]
        seed_everything(self.members[0].seed)
        return all(found)


class _Part:
    """One seed, with all that its step reads and writes on the device."""

    def __init__(self, workload: Workload, seed: int, lrs: Sequence[float]) -> None:
        assert isinstance(workload.loader, ResidentLoader)
        device = workload.device
        self.workload, self.loader = workload, workload.loader
        self.trainer = Trainer(workload, seed, lr=torch.tensor(1.0, device=device), **_options(workload))
        # The steps before capture are meant to be uncaptured: torch need not warn of them.
        self.trainer.optimizer._warned_capturable_if_run_uncaptured = True
        for group in self.trainer.optimizer.param_groups:
            group["lr"] = torch.zeros((), device=device)  # one each: torch gives the same tensor to all
        self.table = torch.tensor(lrs, dtype=torch.float32, device=device)
        self.losses = torch.zeros(len(lrs), device=device)
        self.iteration, self.position = (torch.zeros(1, dtype=torch.int64, device=device) for _ in range(2))
        self._rows = torch.arange(workload.batch_size, device=device)
        self._order = self.loader.order(seed, 0)
        self._epoch, self._next = 0, 0
        model = self.trainer.model
        self._kept = [(each, each.detach().clone()) for each in (*model.parameters(), *model.buffers())]
        self._state = [value.clone() for _, value in self._optimizer_tensors()]
        workload.set_train_mode(self.trainer.model)

    def seek(self, iteration: int) -> None:
        """Have the next step be that of ``iteration``: copies to the device only where it does not follow."""
        epoch, position = divmod(iteration, self.loader.iterations_per_epoch)
        if epoch != self._epoch:
            fresh = self.loader.order(self.trainer.seed, epoch)
            for kept, new in zip(self._order, fresh, strict=True):
                if kept is not None and new is not None:
                    kept.copy_(new)
        if epoch != self._epoch or iteration != self._next:
            self.iteration.fill_(iteration)
            self.position.fill_(position)
        self._epoch, self._next = epoch, iteration + 1

    def step(self) -> None:
        """One optimizer step, by operations on the device alone."""
        rows = self.position * self.loader.batch_size + self._rows
        places, draws = (None if each is None else each.index_select(0, rows) for each in self._order)
        assert places is not None
        loss = self.workload.gradients(self.trainer, self.loader.gather(places, draws))
        self.workload.clip(self.trainer.model)
        lr = self.table.index_select(0, self.iteration).squeeze(0)
        for group in self.trainer.optimizer.param_groups:
            torch.mul(lr, group["lr_ratio"], out=group["lr"])
        self.trainer.optimizer.step()
        self.losses.index_copy_(0, self.iteration, loss.reshape(1).to(self.losses.dtype))
        self.iteration += 1
        self.position += 1

    def reset(self) -> None:
        """Weights, statistics and optimizer as they were made, in the memory that the graph knows."""
        with torch.no_grad():
            for tensor, first in self._kept:
                tensor.copy_(first)
        for place, (name, value) in enumerate(self._optimizer_tensors()):
            # What was not there before the first step begins at zero, but for NAdam's product of momenta.
            value.copy_(self._state[place]) if self._state else value.fill_(float(name == "mu_product"))
        self.trainer.optimizer.zero_grad()
        self._next = -1

    def state(self) -> dict[str, Any]:
        """Weights, statistics and optimizer as they are."""
        optimizer = [value for _, value in self._optimizer_tensors()]
        return {"tensors": [tensor for tensor, _ in self._kept], "optimizer": optimizer}

    def restore(self, state: Mapping[str, Any]) -> None:
        if len(self._optimizer_tensors()) < len(state["optimizer"]):
            self.seek(0)
            with torch.enable_grad():
                self.step()  # the optimizer makes its state in its first step
        own = [tensor for tensor, _ in self._kept], [value for _, value in self._optimizer_tensors()]
        for mine, saved in zip(own, (state["tensors"], state["optimizer"]), strict=True):
            copy_tensors(dict(enumerate(saved)), dict(enumerate(mine)))
        self._next = -1

    def _optimizer_tensors(self) -> list[tuple[str, Tensor]]:
        states = self.trainer.optimizer.state.values()
        return [(name, value) for state in states for name, value in state.items() if isinstance(value, Tensor)]


def _is_near(workload: Workload, seed: int, moved: Sequence[Tensor], held: Sequence[Tensor]) -> bool:
    """Whether a second step is that of the reference, as near as two references are that draw other random numbers.

    Masks of dropout turn a step and hardly change its length, so a length that is wrong is never excused by them.
    """
    step, buffers = _second_step(workload, seed, seed)
    size, error = length(step), length(_difference(moved, step))
    near = error <= TOLERANCE * size and length(_difference(held, buffers)) <= TOLERANCE * length(buffers)
    if near or not 0.5 * size <= length(moved) <= 2 * size:
        return near
    other_step, other_buffers = _second_step(workload, seed, seed + 1)
    spread = length(_difference(step, other_step)), length(_difference(buffers, other_buffers))
    return (
        error <= TOLERANCE * size + 1.5 * spread[0]
        and length(_difference(held, buffers)) <= TOLERANCE * length(buffers) + 1.5 * spread[1]
    )


def _second_step(workload: Workload, seed: int, draws: int) -> tuple[list[Tensor], list[Tensor]]:
    """The change of the reference's weights in its second step, and its buffers after it."""
    trainer = Trainer(workload, seed)
    seed_everything(draws)
    trainer.train(0, CHECKED[:1])
    before = _weights(trainer)
    trainer.train(1, CHECKED[1:])
    return _difference(_weights(trainer), before), _float_buffers(trainer)


def _float_buffers(trainer: Trainer) -> list[Tensor]:
    return [each.clone() for each in trainer.model.buffers() if each.is_floating_point()]


def _buffers(trainers: Sequence[Trainer]) -> list[Tensor]:
    return [each for trainer in trainers for each in trainer.model.buffers()]


def _host_states() -> tuple[object, ...]:
    """The state of every generator whose numbers a graph would freeze."""
    states = generator_states()
    return states["torch"].tolist(), states["python"], states["numpy"][1].tolist(), states["numpy"][2:]


def _weights(trainer: Trainer) -> list[Tensor]:
    return [each.detach().clone() for each in trainer.model.parameters()]


def _difference(first: Sequence[Tensor], second: Sequence[Tensor]) -> list[Tensor]:
    return [one - other for one, other in zip(first, second, strict=True)]
