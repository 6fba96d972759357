"""Short real runs around the bounds: the planned cycle at other peaks, and fixed learning rates."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from clrtool.core.planning.plan import Plan
from clrtool.core.results.record import RunRecord, Trial, Verification
from clrtool.core.results.verification import FIRST, SECOND, candidates, decide, survivors
from clrtool.core.schedules import FloatArray
from clrtool.engine.resume.journal import Journal
from clrtool.engine.training.ensemble import EagerEnsemble
from clrtool.engine.training.workload import Workload

OnTrial = Callable[[Trial], object]


def trial_iterations(workload: Workload, plan: Plan) -> tuple[int, int]:
    """Iterations of each run of both rounds, which together cost one run of the plan, as long as it was asked for."""
    budget = min(plan.iterations, workload.plan_epochs * workload.iterations_per_epoch)
    return max(1, int(budget / 2 / FIRST)), max(1, int(budget / 2 / SECOND))


def run_trials(
    workload: Workload, record: RunRecord, seed: int, on_trial: OnTrial, journal: Journal | None = None
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
    assert record.plan is not None
    assert record.bounds.max_lr is not None
    journal, trials, max_lr = journal or Journal(), list[Trial](), record.bounds.max_lr
    with workload.on_device():
        for turn, iterations in enumerate(trial_iterations(workload, record.plan), 1):
            chosen = candidates(max_lr) if turn == 1 else survivors(trials, max_lr, workload.metric)
            for kind, lr in chosen:
                trial = Trial(kind, turn, lr, iterations / workload.iterations_per_epoch, None)
                trials.append(replace(trial, score=_score(workload, record.plan, seed, trial, journal)))
                on_trial(trials[-1])
    return decide(trials, record.bounds, record.sweep)


def _score(workload: Workload, plan: Plan, seed: int, trial: Trial, journal: Journal) -> float | None:
    """What a trial reaches; None if its loss is not finite."""
    name = f"trial {trial.round} {trial.kind} {trial.max_lr!r}"
    if (known := journal.result(name)) is None:
        iterations = round(trial.epochs * workload.iterations_per_epoch)
        segment = journal.begin(name, EagerEnsemble(workload, seed, _rates(plan, trial, iterations).tolist(), "eager"))
        journal.advance(segment, iterations)
        found = (math.nan, math.nan) if segment.broken[0] else segment.ensemble.members[0].evaluate()
        known = (found[1] if all(map(math.isfinite, found)) else None,)
        journal.finish((name, known))
    score: float | None = known[0]
    return score


def _rates(plan: Plan, trial: Trial, iterations: int) -> FloatArray:
    if trial.kind == "fixed":
        return np.full(iterations, trial.max_lr)
    whole = plan.lr(np.arange(iterations) * plan.iterations // iterations)
    return whole * (trial.max_lr / plan.max_lr)
