"""The scout: a short, wide sweep that finds the range worth sweeping."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from clrtool.core.curve import has_diverged, smooth
from clrtool.core.schedules import ExponentialSweep
from clrtool.engine.learner import Learner
from clrtool.engine.problem import Problem

# Below 1e-6 no float32 network moves in a few epochs; above 10 none of the optimizers here still learns.
LOWEST_LR, HIGHEST_LR = 1e-6, 10.0
# 7 decades at 20 iterations each; the loss is read (and the device waited for) once for every CHUNK of them.
ITERATIONS, CHUNK = 140, 5
# A scout climbs a decade in 20 iterations. A sweep takes many more, so it learns at lower rates: begin a decade below.
MARGIN = 10.0


class Scout(NamedTuple):
    """The range to sweep, and what it cost to find it."""

    start_lr: float
    end_lr: float
    iterations: int


def scout(problem: Problem, seed: int) -> Scout:
    """Find where learning starts and where it breaks, from the training loss of one wide exponential sweep.

    ``end_lr`` is where the loss, after its minimum, is back at its first level or the sweep diverged; ``start_lr`` is a
    decade below the point from which a tenth of its whole fall is done for good.
    """
    lrs = ExponentialSweep(LOWEST_LR, HIGHEST_LR, ITERATIONS)(np.arange(ITERATIONS))
    learner = Learner(problem, seed)
    losses: list[float] = []
    means: list[float] = []
    for start in range(0, ITERATIONS, CHUNK):
        losses += learner.train(start, lrs[start : start + CHUNK].tolist())
        means.append(sum(losses[start:]) / len(losses[start:]))
        if not math.isfinite(means[-1]) or has_diverged(means[0], min(means), means[-1]):
            break
    steps = len(losses)
    finite = np.array(losses)[np.isfinite(losses)]
    if len(finite) == 0:
        return Scout(LOWEST_LR / MARGIN, LOWEST_LR, steps)
    curve = smooth(finite, half_width=CHUNK)
    lowest = int(np.argmin(curve))
    first = float(curve[:CHUNK].mean())
    # The last time that the loss was above this on its way down: noise crosses it once too often, and earlier.
    above = np.flatnonzero(curve[: lowest + 1] > first - 0.1 * (first - curve[lowest]))
    began = int(above[-1]) if len(above) else 0
    back = np.flatnonzero(curve[lowest:] >= first)
    broke = lowest + int(back[0]) if len(back) else steps - 1
    end_lr = float(lrs[min(broke, steps - 1)])
    return Scout(min(float(lrs[began]), end_lr) / MARGIN, end_lr, steps)
