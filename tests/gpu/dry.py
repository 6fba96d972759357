"""The dry form: what is meant for a GPU, on a CPU, with everything but the capture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from clrtool.engine.training.ensemble import Captures, Ensemble
    from clrtool.engine.training.workload import Workload


class Gpu(NamedTuple):
    """Where a test for a GPU runs, and what it is told of its engine there."""

    device: str

    @property
    def is_dry(self) -> bool:
        return self.device == "cpu"

    def team(self, seeds: int) -> str:
        """The engine of so many seeds that are trained by one step."""
        return "uncaptured" if self.is_dry else f"one CUDA graph for a step of {seeds} seeds"

    def plain(self, reason: str) -> str:
        """The engine of seeds that are trained by the plain loop."""
        return f"eager: {reason}"


def uncaptured(
    workload: Workload,
    lrs: Sequence[float],
    seeds: Sequence[int],
    engine: str | None = None,
    momenta: Sequence[float] = (),
    captures: Captures | None = None,
) -> Iterator[Ensemble]:
    """What ``make_ensembles`` makes on CUDA, uncaptured; a step that is not the reference's is an error."""
    from clrtool.engine.training.cuda_graph import CapturedEnsemble, why_not_captured
    from clrtool.engine.training.ensemble import EagerEnsemble

    reason = "the momentum moves" if momenta else why_not_captured(workload)
    if reason is not None:
        yield from (EagerEnsemble(workload, seed, lrs, f"eager: {reason}", momenta) for seed in seeds)
    elif seeds:
        ensemble = CapturedEnsemble(workload, seeds, lrs, graph=False)
        assert ensemble.matches_reference()
        yield ensemble
