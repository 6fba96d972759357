"""Optuna at the cost of the race: trials of a short cosine at rates from 2^-15 to 2^4, scored on the held-out set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from clrtool.core.planning.sweep_size import LEAST_BUDGET
from tests.benchmarks.workloads.peers.result import Result
from tests.benchmarks.workloads.peers.training import held_out, iterations, steps
from tests.benchmarks.workloads.score import lr_at

if TYPE_CHECKING:
    import optuna

LOWEST, HIGHEST = 2.0**-15, 2.0**4
SHARE = 0.25  # of the training: what the race takes by default, and LEAST_BUDGET at the least
TRIALS = 10
RUNGS, FULL_TRIALS = 9, 5  # of Hyperband: how often a trial may be stopped, and how many whole ones the budget holds


class Search:
    """Trials of a job within a budget of iterations, each with a seed of its own.

    Args:
        length: iterations of a whole trial, over which its cosine is drawn.
        readings: how often in a trial the score is reported.
    """

    def __init__(self, job: Any, seed: int, length: int, readings: int) -> None:
        self.job, self.seed, self.length, self.readings = job, seed, length, readings
        self.budget, self.spent = budget(job), 0

    def __call__(self, trial: optuna.Trial) -> float:
        """Optuna's objective: the last score of a trial. One that Optuna or the budget stops is pruned."""
        import optuna

        lr, value = trial.suggest_float("lr", LOWEST, HIGHEST, log=True), None
        torch.manual_seed(self.seed + trial.number)
        model = self.job.model()
        rates = [lr_at("cosine", t, self.length, 0.0, lr) for t in range(self.length)]
        optimizer = self.job.optimizer(model, lr)
        for step in steps(self.job, model, optimizer, rates, self.seed + trial.number):
            self.spent += 1
            if step % (self.length // self.readings) == 0:
                value = held_out(self.job, model)
                trial.report(value, step * self.readings // self.length)
                if step < self.length and trial.should_prune():
                    raise optuna.TrialPruned
            if self.spent == self.budget:
                trial.study.stop()
                if step < self.length:
                    raise optuna.TrialPruned
        assert value is not None
        return value


def budget(job: Any) -> int:
    """Iterations of all trials together."""
    return max(LEAST_BUDGET, int(SHARE * iterations(job)))


def searched(search: Search, pruner: optuna.pruners.BasePruner) -> Result:
    """The rate of the best trial that ran to its end; one whose loss is not finite has failed."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        direction="maximize" if search.job.accuracy else "minimize",
        sampler=optuna.samplers.RandomSampler(search.seed), pruner=pruner, study_name=str(search.seed),
    )  # fmt: skip
    study.optimize(search, n_trials=search.budget, catch=FloatingPointError)
    whole = study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
    return Result(search.spent, study.best_params["lr"] if whole else None)


def optuna_random(job: Any, seed: int) -> dict[str, Result]:
    """Ten rates at random, a tenth of the budget each."""
    import optuna

    search = Search(job, seed, budget(job) // TRIALS, readings=1)
    return {"Optuna, random": searched(search, optuna.pruners.NopPruner())}


def optuna_hyperband(job: Any, seed: int) -> dict[str, Result]:
    """Rates at random until the budget is spent; Hyperband stops those that do badly."""
    import optuna

    search = Search(job, seed, budget(job) // (RUNGS * FULL_TRIALS) * RUNGS, readings=RUNGS)
    return {"Optuna, Hyperband": searched(search, optuna.pruners.HyperbandPruner(1, RUNGS))}
