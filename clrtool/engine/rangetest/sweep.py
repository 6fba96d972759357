"""The sweep of an LR range test: a scout where an end is ``auto``, then one curve of the held-out metric a seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from clrtool.config.schema import SweepConfig
from clrtool.core.reading.curve import Curve, Point, SweepOutcome, has_diverged
from clrtool.core.reading.paper import has_broken
from clrtool.core.results.record import SweepRecord
from clrtool.core.results.shard import LackingError
from clrtool.engine.rangetest.ramp import Ramp, ends_of
from clrtool.engine.rangetest.rounds import Round, Rounds
from clrtool.engine.rangetest.scout import Scout, scout
from clrtool.engine.resume.journal import Journal, Segment
from clrtool.engine.training.ensemble import Captures, make_ensembles
from clrtool.engine.training.trainer import Trainer
from clrtool.engine.training.workload import Workload

OnPoint = Callable[[int, Point], object]


def in_silence(seed: int, point: Point) -> None:
    """The way to follow a sweep that nobody watches."""


def run_sweep(
    workload: Workload,
    config: SweepConfig,
    seed: int = 0,
    on_point: OnPoint = in_silence,
    journal: Journal | None = None,
    captures: Captures | None = None,
) -> SweepRecord:
    """Sweep the learning rate once for each seed, beginning with ``seed``; see :class:`Rounds` for what may follow.

    Where ``end_lr`` is ``auto`` a sweep ends where its metric breaks. It may go on beyond the planned end: as far as
    the cost of a training run allows, or to twice its length, if ``epochs`` is given.

    Args:
        on_point: called with (seed, point) as soon as a point is measured, or was known to be.
        journal: where the segments of the test are kept, so that an interrupted one goes on.
        captures: the captured steps of this problem, which a race after the sweep can use.

    Raises:
        MachineError: the device is out of memory, or the disk is full.
        Interrupted: a signal asked to stop, and everything is saved.
        LackingError: the rest is for other processes to train.
    """
    journal, size, done = journal or Journal(), workload.sweep_size(config), list[Round]()
    with workload.on_device():
        is_given = config.start_lr != "auto" and config.end_lr != "auto"
        captures = captures or Captures(journal.captured)
        shared = captures if size.seeds == 1 else None
        ends = ends_of(config, None if is_given else scout(workload, seed, size.scout, journal, shared))
        rounds = Rounds(
            config, size, _evaluations(workload, config), ends, seed, workload.heldout_samples, workload.metric,
            is_under_way=workload.start is not None,
        )  # fmt: skip
        while (wanted := rounds.next(done)) is not None:
            done.append(_measured(workload, wanted, journal, on_point, captures))
    return _record(workload, rounds, done, journal)


def longest_sweep(workload: Workload, config: SweepConfig) -> tuple[int, int]:
    """Iterations and evaluations of the sweep of one seed at the most, whatever its ends."""
    ramp = Ramp.of(config, Scout(1.0, 2.0, 0), workload.sweep_size(config), _evaluations(workload, config))
    return len(ramp.lrs), len(ramp.stops)


def _evaluations(workload: Workload, config: SweepConfig) -> int:
    return workload.evaluations if config.evaluations == "auto" else config.evaluations


def _record(workload: Workload, rounds: Rounds, done: Sequence[Round], journal: Journal) -> SweepRecord:
    result, said = rounds.result(done)
    ramp, seconds = result.ramp, {} if workload.deterministic else journal.all_seconds
    steps = ramp.steps(result.curves)
    return SweepRecord(
        start_lr=float(ramp.lrs[0]),
        end_lr=float(ramp.lrs[steps - 1]),
        spacing=ramp.spacing,
        epochs=steps / workload.iterations_per_epoch,
        iterations=rounds.spent(done),
        scout_iterations=rounds.ends.iterations,
        iterations_per_epoch=workload.iterations_per_epoch,
        heldout_samples=workload.heldout_samples,
        chance=workload.chance,
        train_seconds=seconds.get("train"),
        evaluation_seconds=seconds.get("evaluation"),
        capture_seconds=seconds.get("capture"),
        curves=result.curves,
        engine=result.engine,
        metric=workload.metric,
        groups=workload.groups,
        warnings=(*workload.warnings, *said, *journal.warnings),
    )


def _measured(workload: Workload, wanted: Round, journal: Journal, on_point: OnPoint, captures: Captures) -> Round:
    """The round with its curves: those that were finished before without training, the rest trained in ensembles."""
    ramp, lowest = wanted.ramp, f"from {float(wanted.ramp.lrs[0])!r}"
    curves, engine = _known(wanted, lowest, journal, on_point)
    lacking = journal.assigned([seed for seed in wanted.seeds if seed not in curves])
    for ensemble in make_ensembles(workload, ramp.lrs.tolist(), lacking, engine, captures=captures):
        engine = ensemble.engine
        names = ", ".join(str(member.seed) for member in ensemble.members)
        segment = journal.begin(f"seed {names} {lowest}", ensemble)
        tracks = _tracks(segment, ramp, on_point)
        for stop in ramp.stops:
            if any(segment.points) and stop <= segment.start:
                continue  # it was measured before
            journal.advance(segment, stop)
            _evaluate(tracks, segment, journal, on_point)
            if all(track.outcome for track in tracks):
                break
        swept = [track.curve() for track in tracks]
        journal.finish(*((f"seed {curve.seed} {lowest}", _result(engine, curve)) for curve in swept))
        curves |= {curve.seed: curve for curve in swept}
    if lost := [seed for seed in wanted.seeds if seed not in curves]:
        raise LackingError(lost)
    return replace(wanted, curves=tuple(curves[seed] for seed in wanted.seeds), engine=str(engine))


def _known(wanted: Round, lowest: str, journal: Journal, on_point: OnPoint) -> tuple[dict[int, Curve], str | None]:
    """The curves that were finished before, and how the steps were run."""
    curves: dict[int, Curve] = {}
    engine = None if journal.running is None else str(journal.running["engine"])
    for seed in wanted.seeds:
        if (known := journal.result(f"seed {seed} {lowest}")) is not None:
            engine, outcome, points = known
            curves[seed] = Curve.from_points(seed, SweepOutcome[outcome], [Point(*point) for point in points])
            _tell(seed, curves[seed].points(), on_point)
    return curves, engine


def _result(engine: str, curve: Curve) -> tuple[str, str, list[tuple[float, ...]]]:
    """A finished sweep in plain types."""
    return engine, curve.outcome.name, [tuple(point) for point in curve.points()]


def _tell(seed: int, points: Sequence[Point], on_point: OnPoint) -> None:
    for point in points:
        on_point(seed, point)


class _Track:
    """What was measured of one seed, and how its sweep ended."""

    def __init__(self, trainer: Trainer, ramp: Ramp, points: list[Point]) -> None:
        self.trainer, self.ramp = trainer, ramp
        self.outcome: SweepOutcome | None = None
        self.points: list[Point] = []
        for point in points:
            self.add(point)

    def point(self, iteration: int, losses: Sequence[float], heldout_loss: float, metric: float) -> Point:
        """What was measured after ``iteration`` updates, the last of which had these training losses."""
        mean = sum(losses) / len(losses) if losses else math.nan  # numpy's mean warns of inf - inf
        lr = float(self.ramp.lrs[max(0, iteration - 1)])  # of the last update; at 0 there was none yet
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
        if not self.ramp.open_ended:
            return None
        workload = self.trainer.workload
        broken = has_broken(self.curve(), workload.heldout_samples, workload.metric)
        if broken:
            return SweepOutcome.BROKE
        # what never rose is not followed beyond the plan: there may be nothing to learn
        return SweepOutcome.COMPLETED if broken is None and point.iteration >= self.ramp.planned else None

    def curve(self) -> Curve:
        return Curve.from_points(self.trainer.seed, self.outcome or SweepOutcome.COMPLETED, self.points)


def _tracks(segment: Segment, ramp: Ramp, on_point: OnPoint) -> list[_Track]:
    """What is known of each member of a segment, told once more."""
    members = list(zip(segment.ensemble.members, segment.points, strict=True))
    tracks = [_Track(member, ramp, points) for member, points in members]
    for member, points in members:
        _tell(member.seed, points, on_point)
    return tracks


def _evaluate(tracks: Sequence[_Track], segment: Segment, journal: Journal, on_point: OnPoint) -> None:
    """Evaluate every member whose sweep goes on, after the iteration at which the segment stands."""
    going_on = [place for place, track in enumerate(tracks) if track.outcome is None]
    with journal.timed("evaluation"):
        measured = segment.evaluate(going_on)
    for place, (heldout_loss, metric) in zip(going_on, measured, strict=True):
        track, losses = tracks[place], segment.losses[place]
        point = track.point(segment.start + len(losses), losses, heldout_loss, metric)
        segment.points[place].append(point)
        track.add(point)
        on_point(track.trainer.seed, point)
    segment.reset_losses()
