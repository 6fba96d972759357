"""What a range test sweeps next: a pure function of what it has measured so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from clrtool.config.schema import SweepConfig
from clrtool.core.planning.sweep_size import SEEDS, SHORTEST, SweepSize
from clrtool.core.reading.curve import Curve, SweepOutcome
from clrtool.core.reading.metric import Metric
from clrtool.core.reading.paper import find_bounds
from clrtool.engine.rangetest.ramp import Ramp
from clrtool.engine.rangetest.scout import Scout

# How far below its start a sweep is begun again that broke at once; it ends as far above.
LOWER = 10.0
# A third sweep is begun where this many times the longest before it is left.
SPARE = 1.1


@dataclass(frozen=True)
class Round:
    """A ramp and the seeds that are swept along it, with their curves once they are measured.

    Args:
        engine: how the steps were run.
    """

    ramp: Ramp
    seeds: range
    curves: tuple[Curve, ...] = ()
    engine: str = "eager"


@dataclass(frozen=True)
class Rounds:
    """The rounds of a range test between two ends.

    One sweep a seed; the same once more, lower, if everything broke before anything was learned and ``start_lr`` is
    ``auto``; and a third seed. Both only in what is left of ``size.run``, or of the budget of a race.

    Args:
        size, evaluations: the length of a sweep, and how often it is evaluated.
        ends: of the first round, with the iterations of the scout.
        first: the first seed.
        heldout_samples, metric: what the curves are read with.
        is_under_way: whether it begins from a training, whose curve need not rise before it breaks.
    """

    config: SweepConfig
    size: SweepSize
    evaluations: int
    ends: Scout
    first: int
    heldout_samples: int
    metric: Metric
    is_under_way: bool = False

    def next(self, done: Sequence[Round]) -> Round | None:
        """The round to measure after those that are done; None after the last."""
        if not done:
            return self._round(self.ends, self.size)
        last, left = done[-1], (self.size.budget or self.size.run) - self.spent(done)
        if len(done) == 1 and self.config.start_lr == "auto" and self._broke_at_once(last):
            return self._lower(left // self.size.seeds)
        if self.size.budget is not None:  # what is left is the race's
            return None
        longest = max(int(curve.iteration[-1]) for curve in last.curves)
        known = last.seeds.stop - self.first
        if self.config.seeds == "auto" and known < SEEDS and left >= SPARE * longest:
            return Round(last.ramp.until(left), range(last.seeds.stop, self.first + SEEDS))
        return None

    def spent(self, done: Sequence[Round]) -> int:
        """Iterations of the scout and of every sweep."""
        return self.ends.iterations + sum(int(curve.iteration[-1]) for each in done for curve in each.curves)

    def result(self, done: Sequence[Round]) -> tuple[Round, tuple[str, ...]]:
        """The curves that count, along the ramp of most of them; and what is to be said of how they came about."""
        whole = [each for each in done if each.seeds.start == self.first]
        last = whole[-1]
        curves = (*last.curves, *(curve for each in done if each.seeds.start > self.first for curve in each.curves))
        said = [self._lowered(whole[0].ramp)] if len(whole) > 1 else []
        ramp, steps = last.ramp, last.ramp.steps(curves)
        if steps > ramp.planned:
            planned, reached = ramp.lrs[ramp.planned - 1], ramp.lrs[steps - 1]
            said.append(
                f"Nothing had broken at {planned:.2g}, so the sweep went on; sweep.end_lr={reached:.2g} plans for that."
            )
        return Round(ramp, last.seeds, curves, last.engine), tuple(said)

    def _lower(self, left: int) -> Round | None:
        """The first round from a lower start, in so many iterations of each seed; None if they are too few."""
        if left < min(self.size.iterations, SHORTEST):
            return None
        end_lr = LOWER * self.ends.start_lr if self.config.end_lr == "auto" else self.ends.end_lr
        size = replace(self.size, iterations=min(self.size.iterations, left), most=min(self.size.most, left))
        return self._round(Scout(self.ends.start_lr / LOWER, end_lr, 0), size)

    def _round(self, ends: Scout, size: SweepSize) -> Round:
        ramp = Ramp.of(self.config, ends, size, self.evaluations)
        return Round(ramp, range(self.first, self.first + self.size.seeds))

    def _broke_at_once(self, done: Round) -> bool:
        if self.is_under_way:
            return False
        broke = any(curve.outcome in (SweepOutcome.DIVERGED, SweepOutcome.NOT_FINITE) for curve in done.curves)
        return broke and find_bounds(done.curves, self.heldout_samples, metric=self.metric).max_lr is None

    def _lowered(self, first: Ramp) -> str:
        broke = f"The sweep from {first.lrs[0]:.2g} upwards diverged at once and was repeated from a lower rate"
        return f"{broke}; set sweep.start_lr={self.ends.start_lr / LOWER:.2g} to begin there."
