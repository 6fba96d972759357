"""Ensembles: the trainers of a sweep, trained in step where a GPU can, else one after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch

from clrtool.engine.runtime.capture import first_error, is_out_of_memory
from clrtool.engine.runtime.device import free_memory
from clrtool.engine.runtime.factories import describe
from clrtool.engine.training.cuda_graph import CapturedEnsemble, why_not_captured
from clrtool.engine.training.trainer import Pause, Trainer, never
from clrtool.engine.training.workload import Workload


class Ensemble(Protocol):
    """Trainers that are trained in step.

    Args:
        members: one a seed.
        engine: how the steps are run, for the record.
    """

    members: list[Trainer]
    engine: str

    def train(self, start: int, stop: int, pause: Pause = never) -> list[list[float]]:
        """Iterations ``start`` to ``stop`` of every member, fewer if ``pause`` says so after one of them.

        Returns:
            The losses of each; one that is not finite is a member's last.
        """
        ...

    def evaluate(self, members: Sequence[int]) -> list[tuple[float, float]]:
        """Mean loss and metric over the held-out set, of the members at these places."""
        ...

    def state(self) -> dict[str, Any]:
        """All that the next step depends on."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Put everything back to :meth:`state`."""
        ...


class EagerEnsemble:
    """An ensemble of one: the reference."""

    def __init__(
        self, workload: Workload, seed: int, lrs: Sequence[float], engine: str, momenta: Sequence[float] = ()
    ) -> None:
        self.members, self.engine, self._lrs = [Trainer(workload, seed, momenta=momenta)], engine, lrs

    def train(self, start: int, stop: int, pause: Pause = never) -> list[list[float]]:
        return [self.members[0].train(start, self._lrs[start:stop], pause)]

    def evaluate(self, members: Sequence[int]) -> list[tuple[float, float]]:
        return [self.members[place].evaluate() for place in members]

    def state(self) -> dict[str, Any]:
        return self.members[0].state()

    def restore(self, state: Mapping[str, Any]) -> None:
        self.members[0].restore(state)


def _in_silence(seconds: float) -> None:
    """The way to capture that nobody times."""


class Captures:
    """The ensemble whose step was captured last: a problem is captured once, and its learning rates are exchanged.

    Args:
        spent: called with the seconds of each capture, its warm-up and its checks.
    """

    def __init__(self, spent: Callable[[float], object] = _in_silence) -> None:
        self._last: CapturedEnsemble | str | None = None
        self._spent = spent

    def of(self, workload: Workload, lrs: Sequence[float], seeds: Sequence[int]) -> CapturedEnsemble | str:
        """The last ensemble begun anew, or where it does not fit another one; or why there is none."""
        last = self._last
        if isinstance(last, str) or (last is not None and last.begins_again(workload, seeds, lrs)):
            return last
        del last
        self.drop()
        begin = time.perf_counter()
        self._last = _captured(workload, lrs, seeds)
        if isinstance(self._last, str):
            torch.cuda.synchronize()
            free_memory()  # an ensemble that failed is held by the frames of its error, in a cycle
        self._spent(time.perf_counter() - begin)
        return self._last

    def drop(self) -> None:
        """Free its memory, for what is trained now needs it."""
        if isinstance(self._last, CapturedEnsemble):
            self._last = None
            free_memory()


def make_ensembles(
    workload: Workload,
    lrs: Sequence[float],
    seeds: Sequence[int],
    engine: str | None = None,
    momenta: Sequence[float] = (),
    captures: Captures | None = None,
) -> Iterator[Ensemble]:
    """The trainers of all seeds: as one ensemble where their step can be captured, else one after the other.

    Args:
        engine: how the seeds before them were trained; these are trained alike.
        momenta: of every iteration, where it moves.
        captures: what was captured for seeds that are done, to be used again where it fits.
    """
    if not seeds:
        return
    found = captured_or_engine(workload, lrs, seeds, captures or Captures(), engine, momenta)
    if isinstance(found, CapturedEnsemble):
        yield found
        return
    yield from (EagerEnsemble(workload, seed, lrs, found, momenta) for seed in seeds)


def captured_or_engine(
    workload: Workload,
    lrs: Sequence[float],
    seeds: Sequence[int],
    captures: Captures,
    engine: str | None = None,
    momenta: Sequence[float] = (),
) -> CapturedEnsemble | str:
    """Capture all seeds as one ensemble; or name the engine of the plain loop, with the reason."""
    if not _has_graphs(workload):
        engine = workload.ranks.engine
    elif momenta:  # no optimizer of torch's reads it on the device
        engine = "eager: the momentum moves"
    if engine is not None and engine.startswith("eager"):
        captures.drop()
        return engine
    found = captures.of(workload, lrs, seeds)
    return f"eager: {found}" if isinstance(found, str) else found


def _has_graphs(workload: Workload) -> bool:
    return workload.device.type == "cuda" and workload.may_be_captured and workload.ranks.processes == 1


def _captured(workload: Workload, lrs: Sequence[float], seeds: Sequence[int]) -> CapturedEnsemble | str:
    """An ensemble whose step was captured and checked, or why there is none. A fault of a workload shows again."""
    if reason := why_not_captured(workload):
        return reason
    try:
        ensemble = CapturedEnsemble(workload, seeds, lrs)
        return ensemble if ensemble.matches_reference() else "the captured step is not that of the reference"
    except Exception as error:  # noqa: BLE001 (whatever cannot be captured runs in the plain loop)
        return _why_it_failed(error)


def _why_it_failed(error: BaseException) -> str:
    if is_out_of_memory(error):
        return "the seeds do not fit on the device at once"
    return f"the step cannot be captured: {describe(first_error(error))[:200]}"
