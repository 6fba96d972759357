"""Short real runs around the bounds: the planned cycle at other peaks, and fixed learning rates."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from clrtool.core.planning.plan import Plan
from clrtool.core.reading.bounds import Bounds
from clrtool.core.results.record import SweepRecord
from clrtool.core.results.verification import FIRST, SECOND, Trial, Verification, candidates, decide, survivors
from clrtool.core.schedules import FloatArray
from clrtool.engine.resume.journal import Journal
from clrtool.engine.training.ensemble import Single
from clrtool.engine.training.workload import Workload

OnTrial = Callable[[Trial], object]


def trial_iterations(workload: Workload, plan: Plan) -> tuple[int, int]:
    """Iterations of each run of both rounds, which together cost one run of the plan, as long as it was asked for."""
    budget = min(plan.iterations, workload.plan_epochs * workload.iterations_per_epoch)
    return max(1, int(budget / 2 / FIRST)), max(1, int(budget / 2 / SECOND))


def verify(
    workload: Workload,
    plan: Plan,
    bounds: Bounds,
    sweep: SweepRecord,
    seed: int,
    on_trial: OnTrial,
    journal: Journal | None = None,
) -> Verification:
    """Train the planned cycle at several peaks, and at fixed rates, each for a short while; then the best for longer.

    Every run begins with the same weights and sees the same batches, so what differs is the learning rate. A cycle is
    the whole plan in fewer iterations.

    Args:
        seed: of the weights and the batches; one that the sweep did not use.
        on_trial: called with each run as soon as it is done, or was known to be.
        journal: where the runs are kept, so that an interrupted one goes on.

    Raises:
        MachineError: the device is out of memory.
        Interrupted: a signal asked to stop, and everything is saved.
    """
    assert bounds.max_lr is not None
    trials: list[Trial] = []
    first, second = trial_iterations(workload, plan)
    journal = journal or Journal()

    def run(kind: str, turn: int, lr: float, iterations: int) -> None:
        trial = Trial(kind, turn, lr, iterations / workload.iterations_per_epoch, None)
        trials.append(replace(trial, score=_score(workload, plan, seed, trial, journal)))
        on_trial(trials[-1])

    with workload.on_device():
        for kind, lr in candidates(bounds.max_lr):
            run(kind, 1, lr, first)
        for kind, lr in survivors(trials, bounds.max_lr, workload.metric):
            run(kind, 2, lr, second)
    return decide(trials, bounds, sweep)


def _score(workload: Workload, plan: Plan, seed: int, trial: Trial, journal: Journal) -> float | None:
    """What a trial reaches; None if its loss is not finite."""
    name = f"trial {trial.round} {trial.kind} {trial.max_lr!r}"
    if (known := journal.result(name)) is not None:
        (score,) = known
        return score  # type: ignore[no-any-return]
    iterations = round(trial.epochs * workload.iterations_per_epoch)
    segment = journal.begin(name, Single(workload, seed, _rates(plan, trial, iterations).tolist(), "eager"))
    journal.advance(segment, iterations)
    found = (math.nan, math.nan) if segment.broken[0] else segment.ensemble.members[0].evaluate()
    score = found[1] if all(map(math.isfinite, found)) else None
    journal.finish((name, (score,)))
    return score


def _rates(plan: Plan, trial: Trial, iterations: int) -> FloatArray:
    if trial.kind == "fixed":
        return np.full(iterations, trial.max_lr)
    whole = plan.lr(np.arange(iterations) * plan.iterations // iterations)
    return whole * (trial.max_lr / plan.max_lr)
