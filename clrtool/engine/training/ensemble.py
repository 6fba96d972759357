"""Ensembles: the trainers of a sweep, trained in step where a GPU can, else one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch

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

    def state(self) -> dict[str, Any]:
        return self.members[0].state()

    def restore(self, state: Mapping[str, Any]) -> None:
        self.members[0].restore(state)


def make_ensembles(
    workload: Workload,
    lrs: Sequence[float],
    seeds: Sequence[int],
    engine: str | None = None,
    momenta: Sequence[float] = (),
) -> Iterator[Ensemble]:
    """The trainers of all seeds: as one ensemble where their step can be captured, else one after the other.

    Args:
        engine: how the seeds before them were trained; these are trained alike.
        momenta: of every iteration, where it moves.
    """
    if not _has_graphs(workload):
        engine = workload.ranks.engine
    elif momenta:  # no optimizer of torch's reads it on the device
        engine = "eager: the momentum moves"
    if engine is not None and engine.startswith("eager"):
        yield from (EagerEnsemble(workload, seed, lrs, engine, momenta) for seed in seeds)
        return
    if not seeds:
        return
    captured = _captured(workload, lrs, seeds)
    if isinstance(captured, CapturedEnsemble):
        yield captured
        return
    torch.cuda.synchronize()
    free_memory()  # an ensemble that failed is held by the frames of its error, in a cycle
    yield from (EagerEnsemble(workload, seed, lrs, f"eager: {captured}") for seed in seeds)


def _has_graphs(workload: Workload) -> bool:
    return workload.device.type == "cuda" and workload.may_be_captured and workload.ranks.world == 1


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
    while error.__context__ is not None:
        error = error.__context__
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return "the seeds do not fit on the device at once"
    return f"the step cannot be captured: {describe(error)[:200]}"
