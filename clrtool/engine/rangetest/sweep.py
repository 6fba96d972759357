"""The LR range test: a scout where the ends are ``auto``, then one sweep a seed with held-out accuracy."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from clrtool.config.schema import SHORTEST_SWEEP, SweepConfig
from clrtool.core.planning.sweep_size import SEEDS, SweepSize
from clrtool.core.reading.bounds import find_bounds, has_broken
from clrtool.core.reading.curve import Curve, Point, SweepOutcome, has_diverged
from clrtool.core.results.record import SweepRecord
from clrtool.core.schedules import FloatArray, Spacing, make_sweep
from clrtool.core.shard import LackingError
from clrtool.engine.rangetest.scout import Scout, scout
from clrtool.engine.resume.journal import Journal, Segment
from clrtool.engine.training.ensemble import make_ensembles
from clrtool.engine.training.trainer import Trainer
from clrtool.engine.training.workload import Workload

OnPoint = Callable[[int, Point], object]
# How far below its start a sweep is begun again that broke at once; it ends as far above.
LOWER = 10.0
# A third sweep is begun where this many times the longest before it is left.
SPARE = 1.1


def _in_silence(seed: int, point: Point) -> None:
    """The way to follow a sweep that nobody watches."""


def run_range_test(
    workload: Workload,
    config: SweepConfig,
    seed: int = 0,
    on_point: OnPoint = _in_silence,
    journal: Journal | None = None,
) -> SweepRecord:
    """Sweep the learning rate once for each seed, beginning with ``seed``.

    Where ``end_lr`` is ``auto`` a sweep ends where its metric breaks. It may go on beyond the planned end: as far as
    the cost of a training run allows, or to twice its length, if ``epochs`` is given. Where ``start_lr`` is ``auto``
    and everything broke before anything was learned, it is swept once more, lower, whatever that costs.

    Args:
        on_point: called with (seed, point) as soon as a point is measured, or was known to be.
        journal: where the parts of the test are kept, so that an interrupted one goes on.

    Raises:
        MachineError: the device is out of memory, or the disk is full.
        Interrupted: a signal asked to stop, and everything is saved.
        LackingError: the rest is for other processes to train.
    """
    journal = journal or Journal()
    with workload.on_device():
        swept = _sweep_all(workload, config, seed, journal, on_point)
    path, curves, seconds = swept.path, swept.curves, journal.all_seconds
    steps = path.steps(curves)
    return SweepRecord(
        start_lr=float(path.lrs[0]),
        end_lr=float(path.lrs[steps - 1]),
        spacing=path.spacing,
        epochs=steps / workload.iterations_per_epoch,
        iterations=swept.spent + _iterations(curves),
        scout_iterations=swept.scouted,
        iterations_per_epoch=workload.iterations_per_epoch,
        heldout_samples=workload.heldout_samples,
        chance=workload.chance,
        train_seconds=None if workload.deterministic else seconds["train"],
        evaluation_seconds=None if workload.deterministic else seconds["evaluation"],
        curves=tuple(curves),
        engine=swept.engine,
        metric=workload.metric,
        groups=workload.groups,
        warnings=(*workload.warnings, *swept.warnings, *journal.warnings),
    )


class _Swept(NamedTuple):
    """The curves of all seeds, what was spent before them, and how."""

    path: _Path
    curves: list[Curve]
    engine: str
    scouted: int
    spent: int
    warnings: tuple[str, ...]


def _sweep_all(workload: Workload, config: SweepConfig, seed: int, journal: Journal, on_point: OnPoint) -> _Swept:
    """Scout, sweep; sweep again, lower, if everything broke at once; sweep a third seed, if there is room for it."""
    size, evaluations = workload.sweep_size(config), _evaluations(workload, config)

    def sweep(path: _Path, first: int, last: int) -> tuple[list[Curve], str]:
        return _sweep_seeds(workload, path, range(seed + first, seed + last), journal, on_point)

    ends = _ends(workload, config, seed, size, journal)
    spent = ends.iterations
    warnings: tuple[str, ...] = ()
    path = _Path.of(config, ends, size, evaluations)
    curves, engine = sweep(path, 0, size.seeds)
    if config.start_lr == "auto" and _broke_at_once(curves, workload):
        spent += _iterations(curves)
        lower = ends.start_lr / LOWER
        broke = f"From {path.lrs[0]:.2g} up everything broke at once, and it was swept again, lower"
        warnings = (f"{broke}: sweep.start_lr={lower:.2g} begins there.",)
        end_lr = LOWER * ends.start_lr if config.end_lr == "auto" else ends.end_lr
        path = _Path.of(config, Scout(lower, end_lr, 0), size, evaluations)
        curves, engine = sweep(path, 0, size.seeds)
    left = size.run - spent - _iterations(curves)
    longest = max(int(curve.iteration[-1]) for curve in curves)
    if config.seeds == "auto" and len(curves) < SEEDS and left >= SPARE * longest:
        curves += sweep(path.until(left), len(curves), SEEDS)[0]
    if path.steps(curves) > path.planned:
        planned, reached = path.lrs[path.planned - 1], path.lrs[path.steps(curves) - 1]
        warnings += (
            f"Nothing had broken at {planned:.2g}, and the sweep went on: sweep.end_lr={reached:.2g} plans for that.",
        )
    return _Swept(path, curves, engine, ends.iterations, spent, warnings)


def longest_sweep(workload: Workload, config: SweepConfig) -> tuple[int, int]:
    """Iterations and evaluations of the sweep of one seed at the most, whatever its ends."""
    path = _Path.of(config, Scout(1.0, 2.0, 0), workload.sweep_size(config), _evaluations(workload, config))
    return len(path.lrs), len(path.stops)


def _evaluations(workload: Workload, config: SweepConfig) -> int:
    return workload.evaluations if config.evaluations == "auto" else config.evaluations


def _iterations(curves: Sequence[Curve]) -> int:
    return sum(int(curve.iteration[-1]) for curve in curves)


def _broke_at_once(curves: Sequence[Curve], workload: Workload) -> bool:
    broke = any(curve.outcome in (SweepOutcome.DIVERGED, SweepOutcome.NOT_FINITE) for curve in curves)
    return broke and find_bounds(curves, workload.heldout_samples, metric=workload.metric).max_lr is None


@dataclass(frozen=True, eq=False)
class _Path:
    """The learning rates of a sweep and its evaluations, as far as it may go.

    Args:
        lrs: one an iteration.
        stops: iterations after which it is evaluated.
        planned: iterations up to the end that was given or found by a scout.
        spacing: how the rates rise.
        open_ended: whether it ends where the metric breaks.
    """

    lrs: FloatArray
    stops: tuple[int, ...]
    planned: int
    spacing: Spacing
    open_ended: bool

    @classmethod
    def of(cls, config: SweepConfig, ends: Scout, size: SweepSize, evaluations: int) -> _Path:
        spacing = _spacing(config, ends.start_lr, ends.end_lr)
        iterations = size.iterations
        lrs = make_sweep(spacing, ends.start_lr, ends.end_lr, iterations)(np.arange(iterations))
        stops = np.linspace(0, iterations, min(evaluations, iterations) + 1)
        open_ended = config.end_lr == "auto"
        if open_ended:
            lrs = np.concatenate([lrs, _beyond(lrs, spacing)])[: size.most]
            stops = np.minimum(np.concatenate([stops, iterations + stops[1:]]), len(lrs))
        return cls(lrs, tuple(np.unique(stops.round().astype(int)).tolist()), iterations, spacing, open_ended)

    def until(self, iterations: int) -> _Path:
        """The same, but no longer than this."""
        return replace(self, lrs=self.lrs[:iterations], stops=tuple(stop for stop in self.stops if stop <= iterations))

    def steps(self, curves: Sequence[Curve]) -> int:
        """Iterations that the longest sweep took; those planned, where a shorter one only means that it broke."""
        longest = max(2, *(int(curve.iteration[-1]) for curve in curves))
        return longest if self.open_ended else self.planned


def _beyond(lrs: FloatArray, spacing: Spacing) -> FloatArray:
    """As many learning rates again but one, rising on as they did."""
    further = lrs + (lrs[-1] - lrs[0]) if spacing == "linear" else lrs * (lrs[-1] / lrs[0])
    return np.asarray(further[1:])


def _ends(workload: Workload, config: SweepConfig, seed: int, size: SweepSize, journal: Journal) -> Scout:
    """Both ends of the sweep, and the iterations that a scout took to find those that are ``auto``."""
    if config.start_lr != "auto" and config.end_lr != "auto":
        return Scout(config.start_lr, config.end_lr, 0)
    found = scout(workload, seed, size.scout, journal)
    start_lr = found.start_lr if config.start_lr == "auto" else config.start_lr
    end_lr = found.end_lr if config.end_lr == "auto" else config.end_lr
    if end_lr < SHORTEST_SWEEP * start_lr:  # one end was given, beyond what the scout found for the other
        start_lr, end_lr = (start_lr, 10 * start_lr) if config.end_lr == "auto" else (end_lr / 10, end_lr)
    return Scout(start_lr, end_lr, found.iterations)


def _spacing(config: SweepConfig, start_lr: float, end_lr: float) -> Spacing:
    """``auto`` is linear within a decade, as in the paper, and exponential beyond."""
    if config.spacing != "auto":
        return config.spacing
    return "linear" if end_lr <= 10 * start_lr else "exponential"


class _Track:
    """What was measured of one seed, and how its sweep ended."""

    def __init__(self, trainer: Trainer, path: _Path, points: list[Point]) -> None:
        self.trainer, self.path = trainer, path
        self.outcome: SweepOutcome | None = None
        self.points: list[Point] = []
        for point in points:
            self.add(point)

    def measure(self, iteration: int, losses: Sequence[float]) -> Point:
        """Evaluate after ``iteration`` updates, the last of which had these training losses.

        The weights of a loss that is not finite are not: there is nothing to evaluate.
        """
        finite = all(map(math.isfinite, losses))
        heldout_loss, metric = self.trainer.evaluate() if finite else (math.nan, math.nan)
        mean = sum(losses) / len(losses) if losses else math.nan  # numpy's mean warns of inf - inf
        lr = float(self.path.lrs[max(0, iteration - 1)])  # of the last update; at 0 there was none yet
        epoch = iteration / self.trainer.workload.iterations_per_epoch
        return Point(iteration, epoch, lr, mean, heldout_loss, metric)

    def add(self, point: Point) -> None:
        self.points.append(point)
        if point.iteration > 0:
            self.outcome = self._outcome(point)

    def _outcome(self, point: Point) -> SweepOutcome | None:
        if not (math.isfinite(point.train_loss) and math.isfinite(point.heldout_loss)):
            return SweepOutcome.NOT_FINITE
        means = [each.train_loss for each in self.points if each.iteration > 0]
        if has_diverged(means[0], min(means), means[-1]):
            return SweepOutcome.DIVERGED
        if not self.path.open_ended:
            return None
        workload = self.trainer.workload
        broken = has_broken(self.curve(), workload.heldout_samples, workload.metric)
        if broken:
            return SweepOutcome.BROKE
        # what never rose is not followed beyond the plan: there may be nothing to learn
        return SweepOutcome.COMPLETED if broken is None and point.iteration >= self.path.planned else None

    def curve(self) -> Curve:
        return Curve.from_points(self.trainer.seed, self.outcome or SweepOutcome.COMPLETED, self.points)


def _sweep_seeds(
    workload: Workload, path: _Path, seeds: range, journal: Journal, on_point: OnPoint
) -> tuple[list[Curve], str]:
    """The curves of all seeds, those that were finished before without training, and how their steps were run."""
    lowest = f"from {float(path.lrs[0])!r}"
    curves: dict[int, Curve] = {}
    engine = None if journal.running is None else str(journal.running["engine"])
    for seed in seeds:
        if (known := journal.result(f"seed {seed} {lowest}")) is not None:
            engine, outcome, points = known
            curves[seed] = Curve.from_points(seed, SweepOutcome[outcome], [Point(*point) for point in points])
            _tell(seed, curves[seed].points(), on_point)
    mine = journal.share([seed for seed in seeds if seed not in curves])
    for ensemble in make_ensembles(workload, path.lrs.tolist(), mine, engine):
        engine = ensemble.engine
        name = f"seed {', '.join(str(member.seed) for member in ensemble.members)}"
        segment = journal.begin(f"{name} {lowest}", ensemble)
        swept = _sweep(path, segment, journal, on_point)
        journal.finish(*((f"seed {curve.seed} {lowest}", _result(engine, curve)) for curve in swept))
        curves |= {curve.seed: curve for curve in swept}
    if lacking := [seed for seed in seeds if seed not in curves]:
        raise LackingError(lacking)
    return [curves[seed] for seed in seeds], str(engine)


def _result(engine: str, curve: Curve) -> tuple[str, str, list[tuple[float, ...]]]:
    """A finished sweep in plain types."""
    return engine, curve.outcome.name, [tuple(point) for point in curve.points()]


def _tell(seed: int, points: Sequence[Point], on_point: OnPoint) -> None:
    for point in points:
        on_point(seed, point)


def _sweep(path: _Path, segment: Segment, journal: Journal, on_point: OnPoint) -> list[Curve]:
    """Train an ensemble from evaluation to evaluation, each member until the end or until it breaks."""
    ensemble = segment.ensemble
    tracks = [_Track(member, path, points) for member, points in zip(ensemble.members, segment.points, strict=True)]
    for member, points in zip(ensemble.members, segment.points, strict=True):
        _tell(member.seed, points, on_point)
    for stop in path.stops:
        if any(segment.points) and stop <= segment.start:
            continue  # it was measured before
        journal.advance(segment, stop)
        for track, points, losses in zip(tracks, segment.points, segment.losses, strict=True):
            if track.outcome is None:
                with journal.timed("evaluation"):
                    points.append(track.measure(segment.start + len(losses), losses))
                track.add(points[-1])
                on_point(track.trainer.seed, points[-1])
        segment.measured()
        if all(track.outcome for track in tracks):
            break
    return [track.curve() for track in tracks]
