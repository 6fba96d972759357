"""The records that cross from the engine to the report: what a range test cost and what came of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, get_args

from clrtool.core.planning.averaging import averaging_iterations
from clrtool.core.planning.plan import Plan
from clrtool.core.racing.going_on import GoingOn
from clrtool.core.racing.result import Race
from clrtool.core.reading.bounds import Bounds
from clrtool.core.reading.curve import Curve, SweepOutcome
from clrtool.core.reading.metric import ACCURACY, Metric
from clrtool.core.schedules import Spacing

# The format of result.json. 1: first version. 2: with the hashes of itself and of its curve.
SCHEMA_VERSION = 2
# The format of a file with a plan alone.
PLAN_VERSION = 1


@dataclass(frozen=True)
class Group:
    """Parameters that share their options. Their learning rate is ``lr_ratio`` times that of the sweep.

    ``decoupled`` says whether a step takes ``lr * weight_decay`` of each weight off, as AdamW's does.
    """

    lr_ratio: float
    weight_decay: float | None
    tensors: int
    parameters: int
    decoupled: bool = False

    def averaging_iterations(self, lr: float) -> float:
        """Over how many iterations its updates are averaged at a rate of the sweep; infinite without such a decay."""
        decay = self.weight_decay if self.decoupled else None
        return averaging_iterations(lr * self.lr_ratio, decay or 0.0)


@dataclass(frozen=True)
class SweepRecord:
    """One range test: its range as it was swept, its cost and its curves, one a seed.

    Args:
        start_lr, end_lr, spacing: the sweep, with every ``auto`` decided.
        epochs: passes over the training set in the sweep of one seed, if it was not stopped.
        iterations: optimizer steps of all seeds and of the scout together.
        scout_iterations: those of the scout, 0 when both ends were given.
        iterations_per_epoch: optimizer steps in one pass.
        heldout_samples: size of the held-out set; of its tokens, where the metric counts them; 0 where not known.
        chance: share of its commonest class, the accuracy of who always answers that; None where there is no such.
        train_seconds, evaluation_seconds: wall-clock time of all seeds; None where only what repeats is recorded.
        curves: what was measured.
        metric: what the bounds are read from.
        groups: the parameter groups of the optimizer.
        engine: how the steps were run, and why not faster.
        warnings: what may make the bounds mean something else than they seem to.
        capture_seconds: wall-clock time of capturing a step as a CUDA graph, with its checks; None where none was.
    """

    start_lr: float
    end_lr: float
    spacing: Spacing
    epochs: float
    iterations: int
    scout_iterations: int
    iterations_per_epoch: int
    heldout_samples: int
    chance: float | None
    train_seconds: float | None
    evaluation_seconds: float | None
    curves: tuple[Curve, ...]
    metric: Metric = ACCURACY
    groups: tuple[Group, ...] = ()
    engine: str = "eager"
    warnings: tuple[str, ...] = ()
    capture_seconds: float | None = None

    def __post_init__(self) -> None:
        counts = (self.iterations, self.iterations_per_epoch, len(self.curves))
        seconds = (self.train_seconds, self.evaluation_seconds, self.capture_seconds)
        times = (*(each or 0 for each in seconds), self.scout_iterations)
        rules = (
            0 < self.start_lr < self.end_lr < math.inf,
            self.spacing in get_args(Spacing),
            0 < self.epochs < math.inf,
            min(counts) >= 1 and math.isfinite(max(counts)),
            math.isfinite(self.heldout_samples) and self.heldout_samples >= self.metric.is_share,
            min(times) >= 0 and math.isfinite(max(times)),
            0 <= (self.chance or 0) <= 1,
            isinstance(self.engine, str),
            all(isinstance(warning, str) and len(warning) > 1 for warning in self.warnings),
            not self.metric.is_share or all(is_share(curve) for curve in self.curves),
        )
        if not all(rules):
            raise ValueError(
                "a sweep needs a rising range, linear or exponential, finite counts and times, and shares from 0 to 1"
            )

    @property
    def cost_epochs(self) -> float:
        """Training cost of the whole test in passes over the training set."""
        return self.iterations / self.iterations_per_epoch

    @property
    def seconds(self) -> float | None:
        """Wall-clock time of training, evaluations and capture together."""
        if self.train_seconds is None or self.evaluation_seconds is None:
            return None
        return self.train_seconds + self.evaluation_seconds + (self.capture_seconds or 0.0)

    @property
    def evaluation_share(self) -> float | None:
        """Share of the time that went into evaluations, 0 to 1."""
        if self.seconds is None or self.evaluation_seconds is None:
            return None
        return self.evaluation_seconds / self.seconds if self.seconds else 0.0

    @property
    def standard_error(self) -> float | None:
        """Of one share near 0.5, the worst case: ``0.5 / sqrt(heldout_samples)``. None for any other metric."""
        return 0.5 / math.sqrt(self.heldout_samples) if self.metric.is_share else None

    @property
    def stopped_at(self) -> dict[str, float]:
        """The learning rate at which the sweep of a seed was stopped, by the seeds that were."""
        stopped = (curve for curve in self.curves if curve.outcome is not SweepOutcome.COMPLETED)
        return {str(curve.seed): float(curve.lr[-1]) for curve in stopped}

    @property
    def outcome(self) -> SweepOutcome:
        """The worst outcome over the seeds."""
        return max((curve.outcome for curve in self.curves), key=list(SweepOutcome).index)


def is_share(curve: Curve) -> bool:
    """Whether the metric is from 0 to 1 all along a curve."""
    return not bool(((curve.metric < 0) | (curve.metric > 1)).any())


# Short runs: the whole plan in fewer iterations, or a fixed rate.
TRIAL_KINDS = ("cycle", "fixed")


@dataclass(frozen=True)
class Trial:
    """One short run.

    Args:
        kind: ``cycle``, the whole plan in fewer iterations, or ``fixed``.
        round: 1 or 2.
        max_lr: peak of the cycle, or the fixed rate.
        epochs: length of the run.
        score: the metric at its end; None if the loss was not finite.
    """

    kind: str
    round: int
    max_lr: float
    epochs: float
    score: float | None

    def __post_init__(self) -> None:
        if self.kind not in TRIAL_KINDS or self.round not in (1, 2) or not 0 < self.max_lr < math.inf:
            raise ValueError("a trial is a cycle or a fixed rate above 0, in round 1 or 2")


@dataclass(frozen=True)
class Verification:
    """All runs, and what came of them.

    Args:
        trials: the runs in their order.
        read_lr: ``max_lr`` as it was read off the curves.
        max_lr: as it is now.
        reason: why it moved or stayed, and what a fixed rate did.
    """

    trials: tuple[Trial, ...]
    read_lr: float
    max_lr: float
    reason: str

    @property
    def cost_epochs(self) -> float:
        return sum(trial.epochs for trial in self.trials)

    def to_dict(self) -> dict[str, Any]:
        """In plain types, for JSON."""
        return asdict(self) | {"trials": [asdict(trial) for trial in self.trials], "cost_epochs": self.cost_epochs}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Verification:
        """What :meth:`to_dict` gave. Raises KeyError, TypeError or ValueError for anything else."""
        known = {name: value for name, value in values.items() if name != "cost_epochs"}
        return cls(**(known | {"trials": tuple(Trial(**trial) for trial in values["trials"])}))


@dataclass(frozen=True)
class RunRecord:
    """Everything that is known about one finished range test."""

    sweep: SweepRecord
    bounds: Bounds
    plan: Plan | None  # None when the bounds are
    environment: Mapping[str, str | int]
    config_sha256: str
    data_sha256: str
    verification: Verification | None = None  # of runs before there was a race, where it was asked for
    race: Race | None = None  # None where the curves alone were read
    sources: Mapping[str, str] = field(default_factory=dict)  # hashes of the code and weights that the config names
    going_on: GoingOn | None = None  # of a training that was under way

    @property
    def iterations(self) -> int:
        """Optimizer steps of everything: scout, sweeps, race, and how a training under way goes on."""
        raced = 0 if self.race is None else self.race.iterations
        warm_up = None if self.going_on is None else self.going_on.warm_up
        return self.sweep.iterations + raced + (0 if warm_up is None else warm_up.cost)

    @property
    def cost_epochs(self) -> float:
        """The same in passes over the training set, with the short runs of older versions."""
        verified = 0.0 if self.verification is None else self.verification.cost_epochs
        return self.iterations / self.sweep.iterations_per_epoch + verified
