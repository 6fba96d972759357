"""The records that cross from the engine to the report: what a range test cost and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from clrtool.core.bounds import Bounds
from clrtool.core.curve import Curve, SweepOutcome
from clrtool.core.plan import Plan
from clrtool.core.schedules import Spacing

# The format of result.json. 1: first version.
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class SweepRecord:
    """One range test: its range as it was swept, its cost and its curves, one a seed.

    Args:
        start_lr, end_lr, spacing: the sweep, with every ``auto`` decided.
        epochs: passes over the training set in the sweep of one seed, if it was not stopped.
        iterations: optimizer steps of all seeds and of the scout together.
        scout_iterations: those of the scout, 0 when both ends were given.
        iterations_per_epoch: optimizer steps in one pass.
        heldout_samples: size of the held-out set.
        train_seconds, evaluation_seconds: wall-clock time of all seeds.
        curves: what was measured.
    """

    start_lr: float
    end_lr: float
    spacing: Spacing
    epochs: float
    iterations: int
    scout_iterations: int
    iterations_per_epoch: int
    heldout_samples: int
    train_seconds: float
    evaluation_seconds: float
    curves: tuple[Curve, ...]

    @property
    def cost_epochs(self) -> float:
        """Training cost of the whole test in passes over the training set."""
        return self.iterations / self.iterations_per_epoch

    @property
    def outcome(self) -> SweepOutcome:
        """The worst outcome over the seeds."""
        return max((curve.outcome for curve in self.curves), key=list(SweepOutcome).index)


@dataclass(frozen=True)
class RunRecord:
    """Everything that is known of one finished range test."""

    sweep: SweepRecord
    bounds: Bounds
    plan: Plan | None  # None when the bounds are
    environment: Mapping[str, str | int]
    config_sha256: str
    data_sha256: str
