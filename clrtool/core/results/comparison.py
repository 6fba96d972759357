"""A comparison: the same problem trained under several policies, as long and from the same seeds, and which won.

Smith, arXiv 1506.01186 v6, section 3.3: "compare runs with a fixed LR versus CLR with this range. Whichever wins can be
used."
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from clrtool.core.planning.plan import Plan
from clrtool.core.reading.curve import Point
from clrtool.core.reading.metric import ACCURACY, Metric, share_error
from clrtool.core.results.judgement import Judgement, beats, judge
from clrtool.core.schedules import FloatArray

# The format of compare.json.
COMPARISON_VERSION = 1


class BoundsFrom(NamedTuple):
    """The bounds that policies are made of, where they come from, and of a range test its cost and its data's hash."""

    base_lr: float
    max_lr: float
    source: str
    cost_epochs: float | None = None
    data_sha256: str | None = None


@dataclass(frozen=True)
class Training:
    """One training of a problem.

    Args:
        seed: of the weights and the order of the batches.
        points: its evaluations in their order, the last at its end; its ``lr`` may go any way.
        seconds: wall-clock time of its steps without evaluations, its share of that of seeds which are trained
            together; None where only what repeats is recorded.
    """

    seed: int
    points: tuple[Point, ...]
    seconds: float | None = None

    def __post_init__(self) -> None:
        iterations = [point.iteration for point in self.points]
        if not iterations or any(np.diff([0, *iterations]) <= 0) or not 0 <= (self.seconds or 0) < math.inf:
            raise ValueError("a training needs evaluations at iterations that increase from 1, and a finite time")

    @property
    def is_finite(self) -> bool:
        """Whether its losses and its metric were finite to the end."""
        end = self.points[-1]
        return all(map(math.isfinite, (end.train_loss, end.heldout_loss, end.metric)))

    @property
    def final(self) -> float:
        """The metric at the end; NaN where the loss was not finite."""
        return self.points[-1].metric if self.is_finite else math.nan

    def reaches(self, target: float | None, metric: Metric) -> int | None:
        """Iterations up to the first evaluation at the target or better; None if there is none."""
        if target is None:
            return None
        good = (point.iteration for point in self.points if metric.value(point.metric) >= metric.value(target))
        return next(good, None)

    def seconds_to(self, iteration: int | None) -> float | None:
        """Seconds of training up to an iteration: iterations take equally long, whatever their learning rate."""
        if self.seconds is None or iteration is None:
            return None
        return self.seconds * iteration / self.points[-1].iteration


@dataclass(frozen=True)
class Candidate:
    """One policy of a comparison.

    Args:
        name: as people read it.
        plan: what was followed; where it ends sooner than the comparison, its last value was held.
        trainings: one a seed.
        engine: how the steps were run, and why not faster.
    """

    name: str
    plan: Plan
    trainings: tuple[Training, ...]
    engine: str = "eager"

    @property
    def finals(self) -> tuple[float, ...]:
        return tuple(training.final for training in self.trainings)

    @property
    def mean(self) -> float | None:
        """The final metric, the mean over seeds; None if a loss was not finite."""
        mean = float(np.mean(self.finals))
        return mean if math.isfinite(mean) else None

    @property
    def deviation(self) -> float | None:
        """Standard deviation of the final metric over seeds; None of one seed, or if a loss was not finite."""
        return None if self.mean is None or len(self.finals) < 2 else float(np.std(self.finals, ddof=1))

    def common(self) -> tuple[FloatArray, FloatArray]:
        """The iterations at which every seed has a metric, (n,), and the metrics there, (seeds, n)."""
        known = [[point for point in each.points if math.isfinite(point.metric)] for each in self.trainings]
        length = min(map(len, known))
        iterations = np.array([point.iteration for point in known[0][:length]], dtype=np.float64)
        return iterations, np.array([[point.metric for point in mine[:length]] for mine in known]).reshape(-1, length)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Everything that is known of one finished comparison.

    Args:
        candidates: the policies in their order, all of the same seeds.
        bounds: what they were made of.
        iterations: optimizer steps of every training, the same for all.
        iterations_per_epoch: optimizer steps in one pass over the training set.
        heldout_samples: size of the held-out set; of its tokens, where the metric counts them; 0 where not known.
        metric: what is compared.
        asked_target: the metric that was asked to be reached; None for that of the reference.
        constant: the metric of the best constant answer; None where that is not known.
        request_sha256: hash of what was asked for: config, policies, seeds, epochs, bounds.
        environment, config_sha256, data_sha256, sources: as of a range test.
        warnings: what may make the numbers mean something else than they seem to.
    """

    candidates: tuple[Candidate, ...]
    bounds: BoundsFrom
    iterations: int
    iterations_per_epoch: int
    heldout_samples: int
    metric: Metric = ACCURACY
    asked_target: float | None = None
    constant: float | None = None
    request_sha256: str = ""
    environment: Mapping[str, Any] = field(default_factory=dict)
    config_sha256: str = ""
    data_sha256: str = ""
    sources: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        seeds = {tuple(training.seed for training in each.trainings) for each in self.candidates}
        names = {each.name for each in self.candidates}
        known = self.heldout_samples >= self.metric.is_share and min(self.iterations, self.iterations_per_epoch) >= 1
        ends = {each.points[-1].iteration for one in self.candidates for each in one.trainings if each.is_finite}
        if len(seeds) != 1 or len(names) < len(self.candidates) or not known or not ends <= {self.iterations}:
            raise ValueError("a comparison has policies of different names, the same seeds, and one length for all")

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(training.seed for training in self.candidates[0].trainings)

    @property
    def epochs(self) -> float:
        return self.iterations / self.iterations_per_epoch

    @property
    def cost_epochs(self) -> float:
        """Passes over the training set of all trainings together, without those of a range test."""
        ends = (each.points[-1].iteration for one in self.candidates for each in one.trainings)
        return sum(ends) / self.iterations_per_epoch

    @property
    def target(self) -> float | None:
        """What is to be reached: as asked, else the mean of ``fixed``, or of the first policy that learned something.

        A policy that ends at a constant answer, or whose loss was not finite, is no target; None where all do.
        """
        if self.asked_target is not None:
            return self.asked_target
        fixed_first = sorted(self.candidates, key=lambda each: each.plan.policy != "fixed")
        means = (each.mean for each in fixed_first if each.mean is not None)
        return next((mean for mean in means if beats(mean, self.constant, self.metric, self.heldout_samples)), None)

    @property
    def standard_error(self) -> float | None:
        """Of the best mean by the size of the held-out set alone; None of a metric that is no share."""
        best = max((each.mean for each in self.candidates if each.mean is not None), default=0.5)
        return share_error(best, self.heldout_samples) if self.metric.is_share else None

    def held(self, candidate: Candidate) -> int:
        """Iterations that a policy goes on at the last rate of a plan which ends sooner."""
        return max(0, self.iterations - candidate.plan.iterations)

    @property
    def judgement(self) -> Judgement:
        finals = {each.name: each.finals for each in self.candidates}
        return judge(finals, self.metric, self.heldout_samples, self.constant)
