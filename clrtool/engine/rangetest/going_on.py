"""Two ways to begin again from where a training stands: at a rate at once, and by a rise to it."""

from __future__ import annotations

from collections.abc import Sequence

from clrtool.core.racing.going_on import WarmUp, judge_warm_up, rise
from clrtool.engine.resume.journal import Journal
from clrtool.engine.training.ensemble import EagerEnsemble
from clrtool.engine.training.workload import Workload

NAME = "beginning"


def compare_beginnings(workload: Workload, seeds: Sequence[int], lr: float, length: int, journal: Journal) -> WarmUp:
    """Train both for ``length`` iterations of each seed, the rise taking half of them.

    Raises:
        MachineError: the device is out of memory.
        Interrupted: a signal asked to stop, and everything is saved.
    """
    warm_up, losses = length // 2, list[list[list[float]]]()
    with workload.on_device():
        for way, iterations in (("at once", 0), ("warmed", warm_up)):
            lrs = rise(lr, length, iterations)
            losses.append([_losses(workload, seed, lrs, f"{NAME} {seed} {way}", journal) for seed in seeds])
    return judge_warm_up(warm_up, *losses)


def _losses(workload: Workload, seed: int, lrs: Sequence[float], name: str, journal: Journal) -> list[float]:
    """The training losses of a run, the last of which is not finite where that ended it."""
    if (known := journal.result(name)) is not None:
        return list(known)
    segment = journal.begin(name, EagerEnsemble(workload, seed, lrs, "eager"))
    journal.advance(segment, len(lrs))
    (losses,) = segment.losses
    journal.finish((name, losses))
    return losses
