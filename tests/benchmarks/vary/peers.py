"""Random search and Optuna's Hyperband over the same pairs at the same cost, as people use them.

Both draw the rate log-uniformly over three decades around the usual one of the optimizer, and the value from those of the
problem. A trial trains the real schedule; Hyperband stops it at a third, or goes on. Neither knows a rate beforehand.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

from tests.benchmarks.vary.grids import train
from tests.benchmarks.vary.problems import Problem

# Powers of two of max_lr that are searched, about three decades.
SEARCHED = {"SGD": (-9.0, 1.0), "Adam": (-14.0, -4.0), "AdamW": (-14.0, -4.0)}
# Trainings of a random search are so long at the least: as a share of the planned one.
SHORTEST = 1 / 9
Pick = tuple[float, float]


def random_search(problem: Problem, cost: float, seed: int) -> Pick:
    """The best of as many short trainings as the cost allows, each of a ninth of the planned one."""
    draw = random.Random(seed)  # noqa: S311 (a search, no secrets)
    low, high = SEARCHED[problem.config["optimizer"]["name"]]
    tried: dict[Pick, float] = {}
    for _ in range(max(1, int(cost / SHORTEST))):
        pair = draw.choice(problem.values), draw.uniform(low, high)
        tried[pair] = train(problem.with_value(pair[0]), pair[1], seed, SHORTEST)
    return min(tried, key=lambda pair: tried[pair])


def hyperband(problem: Problem, cost: float, seed: int) -> Pick | None:
    """What a study of Optuna with its Hyperband pruner ends with when the cost is spent; None without Optuna."""
    try:
        import optuna
    except ImportError:
        return None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    low, high = SEARCHED[problem.config["optimizer"]["name"]]
    spent, found = [0.0], dict[Pick, float]()

    def objective(trial: Any) -> float:
        pair = trial.suggest_categorical("value", list(problem.values)), trial.suggest_float("power", low, high)
        return _rungs(problem, pair, seed, trial, spent, found)

    pruner = optuna.pruners.HyperbandPruner(min_resource=1, max_resource=9, reduction_factor=3)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed), pruner=pruner)
    stop: Callable[..., None] = lambda study, _: study.stop() if spent[0] >= cost else None  # noqa: E731
    study.optimize(objective, n_trials=200, callbacks=[stop])
    return min(found, key=lambda pair: found[pair])


def _rungs(problem: Problem, pair: Pick, seed: int, trial: Any, spent: list[float], found: dict[Pick, float]) -> float:
    """A trial read after 1, 3 and 9 ninths of the training, of which the pruner may take only the first ones."""
    import optuna

    loss, before = math.inf, 0
    for ninths in (1, 3, 9):
        loss = train(problem.with_value(pair[0]), pair[1], seed, ninths / 9)
        spent[0] += (ninths - before) / 9  # as if it went on from where it stopped
        before = ninths
        found[pair] = loss
        trial.report(loss if math.isfinite(loss) else 1e9, ninths)
        if trial.should_prune():
            raise optuna.TrialPruned
    return loss if math.isfinite(loss) else 1e9
