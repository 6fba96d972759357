"""A comparison: the same workload trained under several plans, as long and from the same weights and batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from clrtool.core.planning.plan import Plan
from clrtool.core.reading.curve import Point
from clrtool.core.reading.metric import LOSS
from clrtool.core.results.comparison import BoundsFrom, Candidate, Comparison, Training
from clrtool.engine.resume.journal import Journal, Segment
from clrtool.engine.runtime.device import environment
from clrtool.engine.training.constant import constant_loss
from clrtool.engine.training.ensemble import Captures, Ensemble, make_ensembles
from clrtool.engine.training.scheduler import check_has_momentum
from clrtool.engine.training.workload import Workload
from clrtool.errors import as_config_error

OnPoint = Callable[[str, int, Point], object]
# Evaluations of a training, spread evenly over it, the last at its end. 20 is a multiple of 4 and 5: with as many
# cycles there is an evaluation at the end of each.
EVALUATIONS = 20


def _in_silence(name: str, seed: int, point: Point) -> None:
    """The way to follow a comparison that nobody watches."""


def compare(
    workload: Workload,
    plans: Mapping[str, Plan],
    iterations: int,
    seeds: Sequence[int],
    on_point: OnPoint = _in_silence,
    journal: Journal | None = None,
) -> tuple[Candidate, ...]:
    """Train a workload for ``iterations`` under each plan, once for each seed.

    The learning rate of iteration t is ``plan.lr(t)``: what a plan holds after its end, where it ends sooner. A plan
    that moves the momentum sets it too. A training whose loss is not finite ends there, and is a result.

    Args:
        plans: by name.
        on_point: called with (name, seed, point) as soon as a point is measured, or was known to be.
        journal: where the trainings are kept, so that an interrupted comparison goes on.

    Raises:
        ConfigError: a plan moves the momentum, and the optimizer has none.
        MachineError: the device is out of memory, or the disk is full.
        Interrupted: a signal asked to stop, and everything is saved.
    """
    journal = journal or Journal()
    stops = np.unique(np.linspace(0, iterations, EVALUATIONS + 1).round().astype(int))[1:].tolist()
    with workload.on_device():
        check_momentum(workload, plans.values())
        runs = _Runs(workload, stops, journal, on_point)
        return tuple(runs.candidate(name, plan, seeds) for name, plan in plans.items())


def compared(
    workload: Workload,
    plans: Mapping[str, Plan],
    iterations: int,
    seeds: Sequence[int],
    bounds: BoundsFrom,
    on_point: OnPoint = _in_silence,
    journal: Journal | None = None,
) -> Comparison:
    """The record of :func:`compare`, for every door; who asks adds what it was asked for.

    Args:
        bounds: what the plans were made of.
    """
    journal = journal or Journal()
    candidates = compare(workload, plans, iterations, seeds, on_point, journal)
    return Comparison(
        candidates=candidates,
        bounds=bounds,
        iterations=iterations,
        iterations_per_epoch=workload.iterations_per_epoch,
        heldout_samples=workload.heldout_samples,
        metric=workload.metric,
        constant=constant_metric(workload),
        environment=environment(workload.device) | {"deterministic": workload.deterministic},
        data_sha256=workload.data_sha256,
        sources=workload.sources,
        warnings=(*workload.warnings, *journal.warnings),
    )


def check_momentum(workload: Workload, plans: Iterable[Plan]) -> None:
    """Raise ConfigError if a plan moves the momentum and the optimizer has none."""
    if not any(plan.schedule.cycles_momentum for plan in plans):
        return
    optimizer = workload.make_optimizer(workload.make_model())
    with as_config_error("optimizer: "):
        for group in optimizer.param_groups:
            check_has_momentum(optimizer, group)


def constant_metric(workload: Workload) -> float | None:
    """The metric of the best constant answer, which every policy has to beat; None where it is not known."""
    if workload.chance is not None or workload.metric != LOSS:
        return workload.chance
    with workload.on_device():
        workload.seed(0)
        model = workload.place(workload.make_model())
        with workload.evaluating():
            answers = workload.answers(model)
        return constant_loss(answers)


class _Runs:
    """The trainings of a comparison, those that were finished before without training.

    Args:
        stops: iterations after which each is evaluated.
    """

    def __init__(self, workload: Workload, stops: Sequence[int], journal: Journal, on_point: OnPoint) -> None:
        self._workload, self._stops, self._journal, self._on_point = workload, stops, journal, on_point
        self._captures = Captures()
        self._spent = 0.0  # seconds of the trainings that are finished

    def candidate(self, name: str, plan: Plan, seeds: Sequence[int]) -> Candidate:
        """All seeds of a plan: as one ensemble where their step can be captured, else one after the other."""
        iterations = np.arange(self._stops[-1])
        lrs, momenta = plan.lr(iterations).tolist(), plan.momentum(iterations)
        done: dict[int, Training] = {}
        running = self._journal.running
        engine = None if running is None else str(running["engine"])
        for seed in seeds:
            if (known := self._journal.result(_key(name, seed))) is not None:
                engine, points, seconds = known
                done[seed] = self._training(seed, [Point(*point) for point in points], seconds)
                self._tell(name, seed, done[seed].points)
        todo = [seed for seed in seeds if seed not in done]
        moved = () if momenta is None else momenta.tolist()
        for ensemble in make_ensembles(self._workload, lrs, todo, engine, moved, self._captures):
            engine = ensemble.engine
            finished, seconds = self._train(name, ensemble, lrs)
            self._journal.finish(
                *((_key(name, seed), (engine, [*map(tuple, points)], seconds)) for seed, points in finished.items())
            )
            done |= {seed: self._training(seed, points, seconds) for seed, points in finished.items()}
        return Candidate(name, plan, tuple(done[seed] for seed in seeds), str(engine))

    def _training(self, seed: int, points: Sequence[Point], seconds: float) -> Training:
        self._spent += seconds
        return Training(seed, tuple(points), None if self._workload.deterministic else seconds)

    def _train(self, name: str, ensemble: Ensemble, lrs: Sequence[float]) -> tuple[dict[int, list[Point]], float]:
        """Train an ensemble from evaluation to evaluation, each member until the end or until it breaks.

        Returns:
            The evaluations by seed, and the seconds that each member has a share of.
        """
        segment = self._journal.begin(
            f"{name}, seed {', '.join(str(member.seed) for member in ensemble.members)}", ensemble
        )
        tracks = list(zip(ensemble.members, segment.points, strict=True))
        for member, points in tracks:
            self._tell(name, member.seed, points)
        for stop in self._stops:
            if stop <= segment.start:
                continue  # it was measured before
            self._journal.advance(segment, stop)
            self._evaluate(name, segment, lrs)
            if all(segment.broken):
                break
        seconds = (self._journal.seconds["train"] - self._spent) / len(tracks)
        return {member.seed: points for member, points in tracks}, seconds

    def _evaluate(self, name: str, segment: Segment, lrs: Sequence[float]) -> None:
        """Evaluate every member that has not broken before, after the iteration at which the segment stands."""
        going_on = [
            place for place, points in enumerate(segment.points) if not points or math.isfinite(points[-1].train_loss)
        ]
        with self._journal.timed("evaluation"):
            measured = segment.evaluate(going_on)
        for place, (heldout_loss, metric) in zip(going_on, measured, strict=True):
            losses = segment.losses[place]
            iteration = segment.start + len(losses)
            epoch, mean = iteration / self._workload.iterations_per_epoch, sum(losses) / len(losses)
            segment.points[place].append(Point(iteration, epoch, lrs[iteration - 1], mean, heldout_loss, metric))
            self._on_point(name, segment.ensemble.members[place].seed, segment.points[place][-1])
        segment.reset_losses()

    def _tell(self, name: str, seed: int, points: Sequence[Point]) -> None:
        for point in points:
            self._on_point(name, seed, point)


def _key(name: str, seed: int) -> str:
    return f"{name}, seed {seed}"
