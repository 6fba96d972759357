"""What short real runs say of the bounds: other peaks of the planned cycle, and fixed learning rates.

Smith, arXiv 1506.01186 v6, section 3.3: "compare runs with a fixed LR versus CLR with this range. Whichever wins can be
used."
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from clrtool.core.reading.bounds import Advice, Bounds, Interval, find_bounds
from clrtool.core.reading.metric import Metric, share_error
from clrtool.core.results.judgement import SURE
from clrtool.core.results.record import RunRecord, SweepRecord, Trial, Verification

# Peaks that are tried against the pick, and fixed rates: the mean of a cycle lies near a half of its peak.
CYCLES, FIXED = (0.25, 0.5, 1.0, 2.0), (0.25, 0.5)
# Runs of the first round and of the second, for which the candidates are halved; each round costs half of the budget.
FIRST, SECOND = len(CYCLES) + len(FIXED), 3


def candidates(max_lr: float) -> tuple[tuple[str, float], ...]:
    """Kind and rate of the runs of the first round."""
    cycles = [("cycle", factor * max_lr) for factor in CYCLES]
    return (*cycles, *(("fixed", factor * max_lr) for factor in FIXED))


def survivors(trials: Sequence[Trial], max_lr: float, metric: Metric) -> tuple[tuple[str, float], ...]:
    """The runs of the second round: the pick, the best other cycle, and the best fixed rate."""
    cycles = [trial for trial in trials if trial.kind == "cycle" and trial.max_lr != max_lr]
    fixed = [trial for trial in trials if trial.kind == "fixed"]
    best = (max(each, key=lambda trial: _score(trial, metric)) for each in (cycles, fixed))
    return (("cycle", max_lr), *((trial.kind, trial.max_lr) for trial in best))


def decide(trials: Sequence[Trial], bounds: Bounds, sweep: SweepRecord) -> Verification:
    """Whether the pick moves: to the cycle that beats it in both rounds, in the second by more than noise.

    Short runs flatter large rates, for they have no time to settle. So the pick moves down when it is beaten, and up
    only where the sweep broke nothing that would speak against it.
    """
    assert bounds.max_lr is not None
    metric = sweep.metric
    pick, other, fixed = (trial for trial in trials if trial.round == 2)
    rivals = {trial.max_lr: trial for trial in trials if trial.round == 1 and trial.kind == "cycle"}
    ahead = _score(other, metric) - _score(pick, metric)
    noise = SURE * math.sqrt(2) * _noise(pick, sweep)
    twice = _score(rivals[other.max_lr], metric) > _score(rivals[pick.max_lr], metric)
    broke = pick.score is None and other.score is not None
    beaten = broke or (ahead > noise and twice)
    unbroken = bool({Advice.UNBROKEN, Advice.STILL_RISING} & {*bounds.advice})
    moved = beaten and (other.max_lr < pick.max_lr or unbroken)
    best = other if moved else pick
    reason = (
        f"A cycle up to {other.max_lr:.2g} reaches {_shown(other)} in {other.epochs:.2g} epochs, one up to "
        f"{pick.max_lr:.2g} {_shown(pick)}: "
    )
    if moved:
        reason += "max_lr moves."
    elif beaten:
        reason += "but short runs flatter large rates, and the sweep broke above: max_lr stays."
    elif ahead > noise:
        reason += "but not so in the first round: max_lr stays."
    else:
        reason += f"max_lr stays, for a difference below {noise:.2g} is noise."
    reason += f" The best fixed rate, {fixed.max_lr:.2g}, reaches {_shown(fixed)}"
    reason += "." if _score(fixed, metric) <= _score(best, metric) else ": whichever wins can be used."
    return Verification(tuple(trials), bounds.max_lr, best.max_lr, reason)


def read_again(record: RunRecord) -> Bounds:
    """The bounds as this version reads them off the curves of a run, moved as its short runs moved them."""
    sweep = record.sweep
    bounds = find_bounds(sweep.curves, sweep.heldout_samples, sweep.chance, sweep.metric)
    return bounds if record.verification is None else verified(bounds, record.verification)


def verified(bounds: Bounds, verification: Verification) -> Bounds:
    """The bounds after the runs: if the pick moved, both move by the same factor, and their intervals hold them."""
    factor = verification.max_lr / verification.read_lr
    if factor == 1 or bounds.max_lr is None:
        return bounds
    assert bounds.base_lr is not None
    base_lr, max_lr = bounds.base_lr * factor, bounds.max_lr * factor
    return replace(
        bounds,
        base_lr=base_lr,
        max_lr=max_lr,
        base_lr_interval=_around(base_lr, bounds.base_lr_interval),
        max_lr_interval=_around(max_lr, bounds.max_lr_interval),
        max_reason=f"{bounds.max_reason} Short runs moved it from {verification.read_lr:.2g} to {max_lr:.2g}.",
    )


def _around(lr: float, span: Interval | None) -> Interval:
    """An interval, and as much more as a learning rate outside it takes."""
    assert span is not None
    return min(lr, span[0]), max(lr, span[1])


def _noise(pick: Trial, sweep: SweepRecord) -> float:
    """Standard error of a share; of another metric a fiftieth of what training gained."""
    first = float(sweep.curves[0].metric[0])
    reached = first if pick.score is None else pick.score
    if not sweep.metric.is_share:
        return abs(reached - first) / 50
    return share_error(reached, sweep.heldout_samples)


def _score(trial: Trial, metric: Metric) -> float:
    """Higher is better; a run that broke is worse than any."""
    return -math.inf if trial.score is None else metric.value(trial.score)


def _shown(trial: Trial) -> str:
    return "nothing, for its loss was not finite" if trial.score is None else f"{trial.score:.3f}"
