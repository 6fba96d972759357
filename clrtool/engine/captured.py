"""The fast path: on CUDA the whole step of every seed, from the batch to the update, as one captured graph.

A small network leaves a GPU idle while Python launches its kernels one by one. Here a step of all seeds is captured
once, each seed on a stream of its own, and replayed. All that changes from step to step lies on the device: the
places of the batch, the learning rate in a table, the loss in a buffer. Nothing waits for the device but the reading
of the losses.

After capture two steps are held against the reference, :class:`~clrtool.engine.learner.Learner`, at two learning
rates; if they differ, or if anything of the problem cannot be captured, the reference is used and the record says why.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from clrtool.engine.feed import Resident
from clrtool.engine.learner import READ_EVERY, Learner
from clrtool.engine.problem import Problem, seed_everything
from clrtool.engine.response import length

# Steps before capture: kernels choose their algorithms, and the optimizer makes its state, which a graph has to find.
WARM_UP = 3
# Two learning rates of the check. One that was frozen into the graph would make the second step 75 % too short.
CHECKED = (0.01, 0.04)
# How far the checked step may be from the reference's: kernels may add in another order.
TOLERANCE = 0.05


class Team(Protocol):
    """Learners that are trained in step.

    Args:
        members: one a seed.
        engine: how the steps are run, for the record.
    """

    members: list[Learner]
    engine: str

    def train(self, start: int, stop: int) -> list[list[float]]:
        """Iterations ``start`` to ``stop`` of every member; the losses of each, fewer where one is not finite."""
        ...


class Single:
    """A team of one: the reference."""

    def __init__(self, problem: Problem, seed: int, lrs: Sequence[float], engine: str) -> None:
        self.members, self.engine, self._lrs = [Learner(problem, seed)], engine, lrs

    def train(self, start: int, stop: int) -> list[list[float]]:
        return [self.members[0].train(start, self._lrs[start:stop])]


def why_not(problem: Problem) -> str | None:
    """What keeps a problem from being captured; None if nothing does."""
    given = problem.make_optimizer.config.args
    reasons = {
        "training.fast is off": not problem.training.fast,
        "the data is streamed": not isinstance(problem.train, Resident),
        "in fp16 each step is asked whether it succeeded": problem.precision == "fp16",
        "torch.compile does its own capture": problem.training.compile,
        "the optimizer comes from a factory": problem.make_optimizer.config.factory is not None,
        f"{problem.make_optimizer.name} cannot take its learning rate from the device": not _options(problem),
        "the optimizer's way to step is set in its args": bool({"fused", "foreach", "capturable"} & set(given)),
        "dampening makes the first step another one": bool(given.get("dampening")),
    }
    return next((reason for reason, applies in reasons.items() if applies), None)


def _options(problem: Problem) -> Mapping[str, bool]:
    """The options with which a torch optimizer reads its learning rate on the device; none if it cannot."""
    names = {"fused", "capturable"} if problem.device.type == "cuda" else {"fused"}
    return dict.fromkeys(names & problem.make_optimizer.parameters, True)


class Captured:
    """All seeds of a problem, a step of all of them as one CUDA graph.

    Args:
        graph: False to run the same step uncaptured, as on a CPU.
    """

    def __init__(self, problem: Problem, seeds: Sequence[int], lrs: Sequence[float], *, graph: bool = True) -> None:
        self._parts = [_Part(problem, seed, lrs) for seed in seeds]
        self.members = [part.learner for part in self._parts]
        self.engine = f"one CUDA graph for a step of {len(seeds)} seeds" if graph else "uncaptured"
        self._graph = self._capture() if graph else None
        seed_everything(seeds[0])

    def train(self, start: int, stop: int) -> list[list[float]]:
        for learner in self.members:
            learner.begin_training()
        for begin in range(start, stop, READ_EVERY):
            end = min(begin + READ_EVERY, stop)
            self._steps(begin, end)
            if not torch.stack([part.losses[end - 1].isfinite() for part in self._parts]).any():
                stop = end
                break
        return [until_broken(part.losses[start:stop].tolist()) for part in self._parts]

    def _steps(self, begin: int, end: int) -> None:
        for iteration in range(begin, end):
            for part in self._parts:
                part.seek(iteration)
            if self._graph is not None:
                self._graph.replay()
            else:
                for part in self._parts:
                    part.step()

    def _capture(self) -> torch.cuda.CUDAGraph:
        streams = [torch.cuda.Stream() for _ in self._parts]  # type: ignore[no-untyped-call]
        for _ in range(WARM_UP):
            self._fork(streams)
        torch.cuda.synchronize()
        self._reset()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._fork(streams)
        return graph

    def _fork(self, streams: Sequence[torch.cuda.Stream]) -> None:
        """One step of every part on a stream of its own, so that small kernels of several run at once."""
        main = torch.cuda.current_stream()
        for part, stream in zip(self._parts, streams, strict=True):
            stream.wait_stream(main)
            with torch.cuda.stream(stream):
                part.step()
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
        before = [_weights(learner) for learner in self.members]
        self._steps(1, 2)
        moved = [_difference(_weights(each), old) for each, old in zip(self.members, before, strict=True)]
        self._reset()
        for part, table in zip(self._parts, tables, strict=True):
            part.table[:2] = table
        problem = self._parts[0].problem
        found = [_is_near(problem, each.seed, steps) for each, steps in zip(self.members, moved, strict=True)]
        seed_everything(self.members[0].seed)
        return all(found)


class _Part:
    """One seed, with all that its step reads and writes on the device."""

    def __init__(self, problem: Problem, seed: int, lrs: Sequence[float]) -> None:
        assert isinstance(problem.train, Resident)
        device = problem.device
        self.problem, self.feed = problem, problem.train
        self.learner = Learner(problem, seed, lr=torch.tensor(1.0, device=device), **_options(problem))
        for group in self.learner.optimizer.param_groups:
            group["lr"] = torch.zeros((), device=device)  # one each: torch gives the same tensor to all
        self.table = torch.tensor(lrs, dtype=torch.float32, device=device)
        self.losses = torch.zeros(len(lrs), device=device)
        self.iteration, self.position = (torch.zeros(1, dtype=torch.int64, device=device) for _ in range(2))
        self._rows = torch.arange(problem.batch_size, device=device)
        self._order = self.feed.order(seed, 0)
        self._epoch, self._next = 0, 0
        self._weights = {name: value.clone() for name, value in self.learner.model.state_dict().items()}
        self._state = [value.clone() for value in self._optimizer_tensors()]
        self.learner.begin_training()

    def seek(self, iteration: int) -> None:
        """Have the next step be that of ``iteration``: copies to the device only where it does not follow."""
        epoch, position = divmod(iteration, self.feed.iterations_per_epoch)
        if epoch != self._epoch:
            fresh = self.feed.order(self.learner.seed, epoch)
            for kept, new in zip(self._order, fresh, strict=True):
                if kept is not None and new is not None:
                    kept.copy_(new)
        if epoch != self._epoch or iteration != self._next:
            self.iteration.fill_(iteration)
            self.position.fill_(position)
        self._epoch, self._next = epoch, iteration + 1

    def step(self) -> None:
        """One optimizer step, by operations on the device alone."""
        rows = self.position * self.feed.batch_size + self._rows
        places, draws = (None if each is None else each.index_select(0, rows) for each in self._order)
        assert places is not None
        loss = self.learner.backward(self.feed.gather(places, draws))
        self.learner.clip()
        lr = self.table.index_select(0, self.iteration).squeeze(0)
        for group in self.learner.optimizer.param_groups:
            group["lr"].copy_(lr * group["lr_ratio"])
        self.learner.optimizer.step()
        self.losses.index_copy_(0, self.iteration, loss.reshape(1))
        self.iteration += 1
        self.position += 1

    def reset(self) -> None:
        """Weights, statistics and optimizer as they were made, in the memory that the graph knows."""
        self.learner.model.load_state_dict(self._weights)
        for place, value in enumerate(self._optimizer_tensors()):
            # What was not there before the first step begins at zero; where that is not so, the check will tell.
            value.copy_(self._state[place]) if self._state else value.zero_()
        self.learner.optimizer.zero_grad()
        self._next = -1

    def _optimizer_tensors(self) -> list[Tensor]:
        states = self.learner.optimizer.state.values()
        return [value for state in states for value in state.values() if isinstance(value, Tensor)]


def _is_near(problem: Problem, seed: int, moved: Sequence[Tensor]) -> bool:
    """Whether a second step is that of the reference, as near as two references are that draw other random numbers."""
    first, again = (_second_step(problem, seed, draws) for draws in (seed, seed + 1))
    size = length(first)
    spread = length(_difference(first, again))
    return length(_difference(moved, first)) <= TOLERANCE * size + 1.5 * spread


def _second_step(problem: Problem, seed: int, draws: int) -> list[Tensor]:
    learner = Learner(problem, seed)
    seed_everything(draws)
    learner.train(0, CHECKED[:1])
    before = _weights(learner)
    learner.train(1, CHECKED[1:])
    return _difference(_weights(learner), before)


def _weights(learner: Learner) -> list[Tensor]:
    return [each.detach().clone() for each in learner.model.parameters()]


def _difference(first: Sequence[Tensor], second: Sequence[Tensor]) -> list[Tensor]:
    return [one - other for one, other in zip(first, second, strict=True)]


def make_teams(problem: Problem, lrs: Sequence[float], seeds: Sequence[int]) -> Iterator[Team]:
    """The learners of all seeds: as one team where their step can be captured, else one after the other."""
    if problem.device.type != "cuda":
        yield from (Single(problem, seed, lrs, "eager") for seed in seeds)
        return
    reason = why_not(problem)
    if reason is None:
        try:
            team = Captured(problem, seeds, lrs)
            if team.is_true():
                yield team
                return
            reason = "the captured step is not that of the reference"
        except (torch.OutOfMemoryError, MemoryError):
            reason = "the seeds do not fit on the device at once"
        except RuntimeError as error:  # whatever an operation says that cannot be captured
            reason = f"the step cannot be captured: {str(error).partition(chr(10))[0][:200]}"
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    yield from (Single(problem, seed, lrs, f"eager: {reason}") for seed in seeds)


def until_broken(losses: list[float]) -> list[float]:
    """Losses up to the end of the READ_EVERY in which the first is not finite, as the reference gives them."""
    for begin in range(0, len(losses), READ_EVERY):
        if not all(map(math.isfinite, losses[begin : begin + READ_EVERY])):
            return losses[: begin + READ_EVERY]
    return losses
