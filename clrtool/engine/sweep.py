"""The LR range test: a scout where the ends are ``auto``, then one sweep a seed with held-out accuracy."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import numpy as np

from clrtool.config import SHORTEST_SWEEP, SweepConfig
from clrtool.core.curve import Curve, Point, SweepOutcome, has_diverged
from clrtool.core.record import SweepRecord
from clrtool.core.schedules import FloatArray, Spacing, make_sweep
from clrtool.engine.captured import Team, make_teams
from clrtool.engine.learner import Learner
from clrtool.engine.losses import IGNORED, chance
from clrtool.engine.problem import Problem
from clrtool.engine.scout import scout

OnPoint = Callable[[int, Point], object]


def _in_silence(seed: int, point: Point) -> None:
    """The way to follow a sweep that nobody watches."""


def run_range_test(
    problem: Problem, config: SweepConfig, seed: int = 0, on_point: OnPoint = _in_silence
) -> SweepRecord:
    """Sweep the learning rate once for each of ``config.seeds`` seeds, beginning with ``seed``.

    Args:
        on_point: called with (seed, point) as soon as a point is measured.

    Raises:
        MachineError: the device is out of memory.
    """
    iterations = max(2, round(config.epochs * problem.iterations_per_epoch))
    evaluations = problem.evaluations if config.evaluations == "auto" else config.evaluations
    seconds = {"train": 0.0, "evaluation": 0.0}
    with problem.on_device():
        start_lr, end_lr, scouted = _ends(problem, config, seed)
        spacing = _spacing(config, start_lr, end_lr)
        lrs = make_sweep(spacing, start_lr, end_lr, iterations)(np.arange(iterations))
        curves: list[Curve] = []
        for team in make_teams(problem, lrs.tolist(), range(seed, seed + config.seeds)):
            engine = team.engine
            curves += _sweep(lrs, team, evaluations, seconds, on_point)
    return SweepRecord(
        start_lr=start_lr,
        end_lr=end_lr,
        spacing=spacing,
        epochs=iterations / problem.iterations_per_epoch,
        iterations=scouted + sum(int(curve.iteration[-1]) for curve in curves),
        scout_iterations=scouted,
        iterations_per_epoch=problem.iterations_per_epoch,
        heldout_samples=int((problem.heldout.targets != IGNORED).sum())
        if problem.metric.is_share
        else len(problem.heldout),
        chance=chance(problem.metric, problem.heldout.targets),
        train_seconds=seconds["train"],
        evaluation_seconds=seconds["evaluation"],
        curves=tuple(curves),
        engine=engine,
        metric=problem.metric,
        groups=problem.groups,
        warnings=problem.warnings,
    )


def _ends(problem: Problem, config: SweepConfig, seed: int) -> tuple[float, float, int]:
    """Both ends of the sweep, and the iterations that a scout took to find those that are ``auto``."""
    if config.start_lr != "auto" and config.end_lr != "auto":
        return config.start_lr, config.end_lr, 0
    found = scout(problem, seed)
    start_lr = found.start_lr if config.start_lr == "auto" else config.start_lr
    end_lr = found.end_lr if config.end_lr == "auto" else config.end_lr
    if end_lr < SHORTEST_SWEEP * start_lr:  # one end was given, beyond what the scout found for the other
        start_lr, end_lr = (start_lr, 10 * start_lr) if config.end_lr == "auto" else (end_lr / 10, end_lr)
    return start_lr, end_lr, found.iterations


def _spacing(config: SweepConfig, start_lr: float, end_lr: float) -> Spacing:
    """``auto`` is linear within a decade, as in the paper, and exponential beyond."""
    if config.spacing != "auto":
        return config.spacing
    return "linear" if end_lr <= 10 * start_lr else "exponential"


class _Track:
    """What was measured of one seed, and how its sweep ended."""

    def __init__(self, learner: Learner) -> None:
        self.learner = learner
        self.outcome: SweepOutcome | None = None
        self.points: list[Point] = []
        self.means: list[float] = []

    def measure(self, iteration: int, lrs: FloatArray, losses: Sequence[float]) -> Point:
        """Evaluate after ``iteration`` updates, the last of which had these training losses."""
        heldout_loss, metric = self.learner.evaluate()
        mean = sum(losses) / len(losses) if losses else math.nan  # numpy's mean warns of inf - inf
        lr = float(lrs[max(0, iteration - 1)])  # of the last update; at 0 there was none yet
        epoch = iteration / self.learner.problem.iterations_per_epoch
        point = Point(iteration, epoch, lr, mean, heldout_loss, metric)
        self.points.append(point)
        if losses:
            self.means.append(mean)
            self.outcome = self._outcome(point)
        return point

    def _outcome(self, point: Point) -> SweepOutcome | None:
        if not (math.isfinite(point.train_loss) and math.isfinite(point.heldout_loss)):
            return SweepOutcome.NOT_FINITE
        if has_diverged(self.means[0], min(self.means), self.means[-1]):
            return SweepOutcome.DIVERGED
        return None

    def curve(self) -> Curve:
        return Curve.from_points(self.learner.seed, self.outcome or SweepOutcome.COMPLETED, self.points)


def _sweep(lrs: FloatArray, team: Team, evaluations: int, seconds: dict[str, float], on_point: OnPoint) -> list[Curve]:
    """Train a team from evaluation to evaluation, each member until the end or until its loss leaves all bounds."""
    stops = np.unique(np.linspace(0, len(lrs), min(evaluations, len(lrs)) + 1).round().astype(int)).tolist()
    tracks = [_Track(learner) for learner in team.members]
    losses: list[list[float]] = [[] for _ in tracks]
    for start, stop in pairwise([0, *stops]):
        if start < stop:
            with _timed(seconds, "train"):
                losses = team.train(start, stop)
        for track, its_losses in zip(tracks, losses, strict=True):
            if track.outcome is None:
                with _timed(seconds, "evaluation"):
                    point = track.measure(start + len(its_losses), lrs, its_losses)
                on_point(track.learner.seed, point)
        if all(track.outcome for track in tracks):
            break
    return [track.curve() for track in tracks]


@contextmanager
def _timed(seconds: dict[str, float], what: str) -> Iterator[None]:
    """Add wall-clock time; training and evaluation both end with a transfer, so CUDA's work is in it."""
    begin = time.perf_counter()
    yield
    seconds[what] += time.perf_counter() - begin
