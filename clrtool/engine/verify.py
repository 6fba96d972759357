"""Short real runs around the bounds: the planned cycle at other peaks, and fixed learning rates."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from clrtool.core.bounds import Bounds
from clrtool.core.plan import Plan
from clrtool.core.record import SweepRecord
from clrtool.core.schedules import FloatArray
from clrtool.core.verification import FIRST, SECOND, Trial, Verification, candidates, decide, survivors
from clrtool.engine.learner import Learner
from clrtool.engine.problem import Problem

OnTrial = Callable[[Trial], object]


def trial_iterations(problem: Problem, plan: Plan) -> tuple[int, int]:
    """Iterations of each run of both rounds, which together cost one run of the plan, as long as it was asked for."""
    budget = min(plan.iterations, problem.plan_epochs * problem.iterations_per_epoch)
    return max(1, int(budget / 2 / FIRST)), max(1, int(budget / 2 / SECOND))


def verify(
    problem: Problem, plan: Plan, bounds: Bounds, sweep: SweepRecord, seed: int, on_trial: OnTrial
) -> Verification:
    """Train the planned cycle at several peaks, and at fixed rates, each for a short while; then the best for longer.

    Every run begins with the same weights and sees the same batches, so what differs is the learning rate. A cycle is
    the whole plan in fewer iterations.

    Args:
        seed: of the weights and the batches; one that the sweep did not use.
        on_trial: called with each run as soon as it is done.

    Raises:
        MachineError: the device is out of memory.
    """
    assert bounds.max_lr is not None
    trials: list[Trial] = []
    first, second = trial_iterations(problem, plan)
    with problem.on_device():
        for kind, lr in candidates(bounds.max_lr):
            trials.append(_run(problem, plan, seed, Trial(kind, 1, lr, first / problem.iterations_per_epoch, None)))
            on_trial(trials[-1])
        for kind, lr in survivors(trials, bounds.max_lr, problem.metric):
            trials.append(_run(problem, plan, seed, Trial(kind, 2, lr, second / problem.iterations_per_epoch, None)))
            on_trial(trials[-1])
    return decide(trials, bounds, sweep)


def _run(problem: Problem, plan: Plan, seed: int, trial: Trial) -> Trial:
    """The trial with the score that it reached; None if its loss was not finite."""
    iterations = round(trial.epochs * problem.iterations_per_epoch)
    lrs = _rates(plan, trial, iterations)
    learner = Learner(problem, seed)
    losses = learner.train(0, lrs.tolist())
    if not all(map(math.isfinite, losses)):
        return trial
    loss, score = learner.evaluate()
    return replace(trial, score=score) if math.isfinite(loss) and math.isfinite(score) else trial


def _rates(plan: Plan, trial: Trial, iterations: int) -> FloatArray:
    if trial.kind == "fixed":
        return np.full(iterations, trial.max_lr)
    whole = plan.lr(np.arange(iterations) * plan.iterations // iterations)
    return whole * (trial.max_lr / plan.max_lr)
