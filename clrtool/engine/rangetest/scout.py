"""The scout: a short, wide sweep that finds the range worth sweeping, from the training loss alone."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from clrtool.core.reading.curve import has_diverged
from clrtool.core.reading.fit import medians
from clrtool.core.schedules import ExponentialSweep, FloatArray
from clrtool.engine.resume.journal import Journal
from clrtool.engine.training.ensemble import Captures, EagerEnsemble, Ensemble, make_ensembles
from clrtool.engine.training.workload import Workload

# Below 1e-6 no float32 network moves in a few epochs; above 30 none of the optimizers here still learns.
LOWEST_LR, HIGHEST_LR = 1e-6, 30.0
# The loss is read (and the device waited for) once for this many iterations.
CHUNK = 5
# The first fifth, below 3e-5, learns nothing: its mean is the first loss and its scatter the noise of a batch.
QUIET = 5
# A fall counts as learning when it is this many times the noise of a batch.
SURE = 4.0
# A loss that never fell is broken when it has left its first value by this share of it: logits that swing give less.
LEFT = 0.25
# What is swept, against where the loss of a scout breaks: two decades below it, for a network has to learn something
# before it can break, and on to ten times of it, for accuracy may break later. The sweep stops when it has.
BELOW, ABOVE = 100.0, 10.0


class Scout(NamedTuple):
    """The range to sweep, and what it cost to find it."""

    start_lr: float
    end_lr: float
    iterations: int


def scout(workload: Workload, seed: int, iterations: int, journal: Journal, captures: Captures | None = None) -> Scout:
    """Find where learning breaks, from the training loss of one exponential sweep over all rates that there are.

    With l(lr) the running median of the loss and l0 the mean of its first fifth: it breaks where l is back at l0 after
    its minimum, or a quarter above l0 if it never fell.

    Args:
        captures: of the sweep after it, where that has one seed as well; for a scout alone a capture takes too long.
    """
    if (found := journal.result("scout")) is not None:
        return Scout(*found)
    lrs = ExponentialSweep(LOWEST_LR, HIGHEST_LR, iterations)(np.arange(iterations))
    ensemble: Ensemble = EagerEnsemble(workload, seed, lrs.tolist(), "eager")
    if captures is not None:
        engine = None if journal.running is None else str(journal.running["engine"])
        (ensemble,) = make_ensembles(workload, lrs.tolist(), [seed], engine, captures=captures)
    segment, means = journal.begin("scout", ensemble), list[float]()
    for start in range(0, iterations, CHUNK):  # up to the first loss that is not finite, or until it has diverged
        journal.advance(segment, min(start + CHUNK, iterations))
        losses = segment.losses[0][start : start + CHUNK]
        means.append(sum(losses) / len(losses))
        if not math.isfinite(means[-1]) or has_diverged(means[0], min(means), means[-1]):
            break
    return _kept(lrs, segment.losses[0], journal)


def _kept(lrs: FloatArray, losses: list[float], journal: Journal) -> Scout:
    """The range that these losses show, as all processes agree on it."""
    known = np.array(losses)[np.isfinite(losses)]
    breaks = float(lrs[_broken(known, len(losses))]) if len(known) else LOWEST_LR
    start_lr, end_lr, spent = journal.agree((breaks / BELOW, breaks * ABOVE, len(losses)))
    found = Scout(start_lr, end_lr, int(spent))
    journal.finish(("scout", tuple(found)))
    return found


def _broken(losses: FloatArray, steps: int) -> int:
    """The iteration at which the loss breaks; the last of ``steps``, if it does not."""
    curve = medians(losses[None], max(1, steps // 40))[0]
    quiet = losses[: max(CHUNK, steps // QUIET)]
    first, noise, lowest = float(quiet.mean()), float(quiet.std()), int(np.argmin(curve))
    if first - float(curve[lowest]) >= SURE * noise:
        begin, level = lowest, first
    else:
        begin, level = len(quiet), first + LEFT * abs(first)
    back = np.flatnonzero(curve[begin:] > level)
    return begin + int(back[0]) if len(back) else steps - 1
