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
from clrtool.engine.runtime.rng import restore_rng_state, rng_state, seed_everything
from clrtool.engine.training.lr_response import difference, global_norm, update_of, weights_of
from clrtool.engine.training.optimizers import OptimizerRecipe
from clrtool.engine.training.trainer import READ_EVERY, Pause, Trainer, copy_tensors, never, until_nonfinite
from clrtool.engine.training.workload import Workload

# Steps before capture: kernels choose their algorithms, and the optimizer makes its state, which a graph has to find.
WARM_UP = 3
# Two learning rates of the check. One that was frozen into the graph would make the second step 75 % too short.
CHECKED = (0.01, 0.04)
# How far the checked step may be from the reference's: kernels may add in another order.
TOLERANCE = 0.05
# Arguments by which an optimizer of torch is told how to compute its step.
WAYS = {"fused", "foreach", "capturable"}
# Seeds that run at once; a GPU has no room for more small kernels than these.
STREAMS = 8


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
        self._slots = [_SeedSlot(workload, seed, lrs) for seed in seeds]
        self.members = [slot.trainer for slot in self._slots]
        self.engine = f"one CUDA graph for a step of {len(seeds)} seeds" if graph else "uncaptured"
        self._graph = self._capture() if graph else None
        seed_everything(seeds[0])

    def train(self, start: int, stop: int, pause: Pause = never) -> list[list[float]]:
        for trainer in self.members:
            trainer.workload.set_train_mode(trainer.model)
        end = start
        while end < stop:
            end = self._steps(end, min(end + READ_EVERY, stop), pause)
            if pause() or not torch.stack([slot.losses[end - 1].isfinite() for slot in self._slots]).any():
                break
        return [until_nonfinite(slot.losses[start:end].tolist()) for slot in self._slots]

    def _steps(self, begin: int, end: int, pause: Pause = never) -> int:
        """Iterations from ``begin`` on, to ``end`` or to a pause; where it stopped."""
        for iteration in range(begin, end):
            for slot in self._slots:
                slot.seek(iteration)
            if self._graph is not None:
                self._graph.replay()
            else:
                for slot in self._slots:
                    slot.step()
            if pause():
                return iteration + 1
        return end

    def state(self) -> dict[str, Any]:
        generators = rng_state(self._slots[0].workload.device)
        return {"parts": [slot.state() for slot in self._slots], "generators": generators}

    @torch.no_grad()
    def restore(self, state: Mapping[str, Any]) -> None:
        """Into the memory that the graph knows."""
        for slot, saved in zip(self._slots, state["parts"], strict=True):
            slot.restore(saved)
        restore_rng_state(state["generators"], self._slots[0].workload.device)

    def _capture(self) -> torch.cuda.CUDAGraph:
        streams = [torch.cuda.Stream() for _ in self._slots[:STREAMS]]  # type: ignore[no-untyped-call]
        buffers = _buffers(self.members)
        for turn in range(WARM_UP):
            for slot in self._slots:
                slot.seek(0)
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
        """One step of every slot on a stream of its own, so that small kernels of several run at once."""
        main = torch.cuda.current_stream()
        for stream in streams:
            stream.wait_stream(main)
        try:
            for slot, stream in zip(self._slots, cycle(streams), strict=False):
                with torch.cuda.stream(stream):
                    slot.step()
        finally:  # a capture that fails with work left on a stream would hide why
            for stream in streams:
                main.wait_stream(stream)

    def _reset(self) -> None:
        for slot in self._slots:
            slot.reset()

    def matches_reference(self) -> bool:
        """Whether the second of two steps, at another learning rate, is that of the reference, for every seed."""
        tables = [slot.table[:2].clone() for slot in self._slots]
        for slot in self._slots:
            slot.table[:2] = torch.tensor(CHECKED)
        self._steps(0, 1)
        before = [weights_of(trainer.model) for trainer in self.members]
        self._steps(1, 2)
        updates = [difference(weights_of(each.model), old) for each, old in zip(self.members, before, strict=True)]
        statistics = [_float_buffers(trainer) for trainer in self.members]
        self._reset()
        for slot, table in zip(self._slots, tables, strict=True):
            slot.table[:2] = table
        measured = zip(self.members, updates, statistics, strict=True)
        found = [_is_near(each.workload, each.seed, (update, buffers)) for each, update, buffers in measured]
        seed_everything(self.members[0].seed)
        return all(found)


class _SeedSlot:
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
        self._initial = [(each, each.detach().clone()) for each in (*model.parameters(), *model.buffers())]
        self._initial_optimizer = [value.clone() for _, value in self._optimizer_tensors()]
        workload.set_train_mode(self.trainer.model)

    def seek(self, iteration: int) -> None:
        """Have the next step be that of ``iteration``: copies to the device only where it does not follow."""
        epoch, position = divmod(iteration, self.loader.iterations_per_epoch)
        if epoch != self._epoch:
            fresh = self.loader.order(self.trainer.seed, epoch)
            for current, new in zip(self._order, fresh, strict=True):
                if current is not None and new is not None:
                    current.copy_(new)
        if epoch != self._epoch or iteration != self._next:
            self.iteration.fill_(iteration)
            self.position.fill_(position)
        self._epoch, self._next = epoch, iteration + 1

    def step(self) -> None:
        """One optimizer step, by operations on the device alone."""
        rows = self.position * self.loader.batch_size + self._rows
        indices, draws = (None if each is None else each.index_select(0, rows) for each in self._order)
        assert indices is not None
        loss = self.workload.gradients(self.trainer, self.loader.gather(indices, draws))
        assert loss is not None
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
            for tensor, first in self._initial:
                tensor.copy_(first)
        for place, (name, value) in enumerate(self._optimizer_tensors()):
            # What was not there before the first step begins at zero, but for NAdam's product of momenta.
            initial = self._initial_optimizer
            value.copy_(initial[place]) if initial else value.fill_(float(name == "mu_product"))
        self.trainer.optimizer.zero_grad()
        self._next = -1

    def state(self) -> dict[str, Any]:
        """Weights, statistics and optimizer as they are."""
        optimizer = [value for _, value in self._optimizer_tensors()]
        return {"tensors": [tensor for tensor, _ in self._initial], "optimizer": optimizer}

    def restore(self, state: Mapping[str, Any]) -> None:
        if len(self._optimizer_tensors()) < len(state["optimizer"]):
            self.seek(0)
            with torch.enable_grad():
                self.step()  # the optimizer makes its state in its first step
        for name, tensors in self.state().items():
            copy_tensors(dict(enumerate(state[name])), dict(enumerate(tensors)))
        self._next = -1

    def _optimizer_tensors(self) -> list[tuple[str, Tensor]]:
        states = self.trainer.optimizer.state.values()
        return [(name, value) for state in states for name, value in state.items() if isinstance(value, Tensor)]


# The change of every weight in a step, and the buffers after it.
_Step = tuple[list[Tensor], list[Tensor]]


def _is_near(workload: Workload, seed: int, step: _Step) -> bool:
    """Whether a second step is that of the reference, as near as two references are that draw other random numbers.

    Masks of dropout turn a step and hardly change its length, so a length that is wrong is never excused by them.
    """
    reference = _second_step(workload, seed, seed)
    errors, allowed = _distances(step, reference), [TOLERANCE * global_norm(each) for each in reference]
    near = all(error <= most for error, most in zip(errors, allowed, strict=True))
    size = global_norm(reference[0])
    if near or not 0.5 * size <= global_norm(step[0]) <= 2 * size:
        return near
    spreads = _distances(reference, _second_step(workload, seed, seed + 1))
    return all(error <= most + 1.5 * spread for error, most, spread in zip(errors, allowed, spreads, strict=True))


def _distances(first: _Step, second: _Step) -> list[float]:
    return [global_norm(difference(one, other)) for one, other in zip(first, second, strict=True)]


def _second_step(workload: Workload, seed: int, random_seed: int) -> _Step:
    """The second step of the reference, which draws its random numbers from a seed of their own."""
    trainer = Trainer(workload, seed)
    seed_everything(random_seed)
    trainer.train(0, CHECKED[:1])
    return update_of(trainer, 1, CHECKED[1]), _float_buffers(trainer)


def _float_buffers(trainer: Trainer) -> list[Tensor]:
    return [each.clone() for each in trainer.model.buffers() if each.is_floating_point()]


def _buffers(trainers: Sequence[Trainer]) -> list[Tensor]:
    return [each for trainer in trainers for each in trainer.model.buffers()]


def _host_states() -> tuple[object, ...]:
    """The state of every generator whose numbers a graph would freeze."""
    states = rng_state()
    return states["torch"].tolist(), states["python"], states["numpy"][1].tolist(), states["numpy"][2:]
