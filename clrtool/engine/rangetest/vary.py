"""A race over the values of another key: trains the runs that :mod:`clrtool.core.racing.values` asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from clrtool.core.planning.sweep_size import READINGS
from clrtool.core.racing.contest import Contest, Reading, Trial, least_budget, pilot_budget
from clrtool.core.racing.probes import contenders
from clrtool.core.racing.race import outcome
from clrtool.core.racing.rules import SHORTEST
from clrtool.core.racing.values import next_trial
from clrtool.core.results.varied import Tried, VaryRecord
from clrtool.engine.rangetest.estimate import estimate
from clrtool.engine.rangetest.observer import Observer
from clrtool.engine.rangetest.pipeline import Asked
from clrtool.engine.rangetest.race import Runs, advance_run, run_race
from clrtool.engine.resume.journal import Journal, Segment
from clrtool.engine.runtime.device import arithmetic, environment
from clrtool.engine.training.ensemble import Captures
from clrtool.engine.training.trainer import Pause, Trainer, never
from clrtool.engine.training.workload import Workload

NAME = "values"
# Evaluations of a value, about as many as it takes.
READ = 7
# The key of which every value wants a rate of its own.
BATCH_SIZE = "batch_size"


@dataclass(frozen=True)
class Variant:
    """A value, or a pair of values, and the workload that has it.

    Args:
        values: of each key.
        place: of each among those of its key.
    """

    values: tuple[Any, ...]
    place: tuple[int, ...]
    workload: Workload


@dataclass(frozen=True)
class Variation:
    """What is varied, and what it may cost.

    Args:
        keys: one or two.
        variants: every value or pair, all of the same seeds and held-out samples.
        first: the one that the race over rates is run with.
        has_own: whether it has the values of the config.
        seeds: of weights and batches.
        budget: of all together, as a share of the planned training.
    """

    keys: tuple[str, ...]
    variants: tuple[Variant, ...]
    first: int
    has_own: bool
    seeds: Sequence[int]
    budget: float

    @property
    def keeps_all(self) -> bool:
        """Whether no value is dropped: batch sizes each want a rate of their own."""
        return len(self.keys) == 1 and self.keys[0].rpartition(".")[2] == BATCH_SIZE

    @property
    def base(self) -> Workload:
        return self.variants[self.first].workload

    @property
    def tried(self) -> tuple[Tried, ...]:
        return tuple(
            Tried(each.values, each.place, work.batch_size, work.iterations_per_epoch, work.plan_iterations)
            for each in self.variants
            for work in (each.workload,)
        )

    @property
    def samples(self) -> int:
        """What all runs together may take: the budget, and never too little for the shortest runs of every value."""
        planned = self.base.plan_iterations * self.base.batch_size
        contenders = [each.contender for each in self.tried]
        return max(int(self.budget * planned), least_budget(contenders, self.first, keeps_all=self.keeps_all))

    @property
    def pilot(self) -> int:
        """Iterations of the race over rates."""
        return pilot_budget(self.samples, self.base.batch_size)


def run_variation(variation: Variation, observer: Observer, journal: Journal | None = None) -> VaryRecord:
    """Find a rate for one value by a race over rates, and race all values from there.

    Args:
        journal: where the runs are kept, so that an interrupted race goes on; None to keep them in memory.

    Raises:
        MachineError: the device is out of memory, or the disk is full.
        Interrupted: a signal asked to stop, and everything is saved.
    """
    base, seeds, journal = variation.base, variation.seeds, journal or Journal()
    with observer.racing(variation.pilot):
        pilot = run_race(base, seeds[:1], variation.pilot, observer.on_probe, journal, Captures(journal.captured))
    record = VaryRecord(
        keys=variation.keys,
        tried=variation.tried,
        first=variation.first,
        has_own=variation.has_own,
        pilot=pilot,
        readings=(),
        seeds=len(seeds),
        budget=variation.samples,
        keeps_all=variation.keeps_all,
        metric=base.metric,
        start=base.start,
        environment=(journal.environment or environment(base.device)) | {"deterministic": base.deterministic},
        data_sha256=base.data_sha256,
        sources=base.sources,
        warnings=tuple(dict.fromkeys((*base.warnings, *journal.warnings))),
    )
    if not outcome(pilot.entry, pilot.probes).picks:
        return record
    readings = _race_values(record.contest, variation, observer, journal)
    return replace(record, readings=readings)


class VariationEstimate(NamedTuple):
    """What a race over values would take at the most.

    Args:
        values: how many values or pairs there are.
        samples, iterations, epochs, share: of all runs together; iterations of the first value, and the share of its
            planned training.
        shortest_epochs: after which all values are compared first, at the least.
        seconds: of training and evaluations, as those of the first value take.
        peak_bytes, memory_bytes: the most memory that a few steps of it took, and what there is.
    """

    values: int
    samples: int
    iterations: int
    epochs: float
    share: float
    shortest_epochs: float
    seconds: float
    peak_bytes: int
    memory_bytes: int


def estimate_variation(variation: Variation, config: Asked, folder: Path) -> VariationEstimate:
    """Take and time a few steps of the first value. Raises OutOfMemoryError where a batch does not fit."""
    base, samples = variation.base, variation.samples
    found = estimate(base, config, folder)
    iterations, epoch = samples // base.batch_size, base.batch_size * base.iterations_per_epoch
    shortest = SHORTEST * max(each.batch_size for each in variation.tried)
    readings = READINGS + READ * len(variation.variants)
    return VariationEstimate(
        values=len(variation.variants),
        samples=samples,
        iterations=iterations,
        epochs=samples / epoch,
        share=iterations / base.plan_iterations,
        shortest_epochs=shortest / epoch,
        seconds=iterations * found.iteration_seconds + readings * found.evaluation_seconds,
        peak_bytes=found.peak_bytes,
        memory_bytes=found.memory_bytes,
    )


def _race_values(contest: Contest, variation: Variation, observer: Observer, journal: Journal) -> tuple[Reading, ...]:
    """Train what the race over values asks for; what was trained before an interruption is not trained again."""
    if (known := journal.result(NAME)) is not None:
        return tuple(Reading.of(each) for each in known)
    with ExitStack() as open_workloads:  # all of them to the end, for runs of one go on after those of another
        for each in variation.variants:
            open_workloads.enter_context(each.workload.on_device())
        lanes = _Lanes(contest, variation, journal.captured)
        segment = journal.begin(NAME, lanes)
        for reading in lanes.readings:
            observer.on_reading(reading)
        while (trial := next_trial(contest, lanes.readings)) is not None:
            lanes.take(trial, segment, journal)
            observer.on_reading(lanes.readings[-1])
    journal.finish((NAME, [each.plain() for each in lanes.readings]))
    return tuple(lanes.readings)


class _Lanes:
    """The runs of all values, and what was read: an ensemble that a segment can hold.

    Args:
        members: a model of the first value, for who asks which seed it is.
        readings: what was read so far.
    """

    engine = "eager"

    def __init__(self, contest: Contest, variation: Variation, captured: Callable[[float], object]) -> None:
        self._contest, self._variation, self._captured = contest, variation, captured
        self._runs: dict[int, Runs] = {}
        self.members: list[Trainer] = self._open(variation.first).members
        self.readings: list[Reading] = []

    def take(self, trial: Trial, segment: Segment, journal: Journal) -> None:
        """Train a run of a value on, and read it."""
        runs, workload = self._open(trial.value), self._variation.variants[trial.value].workload
        run = trial.run.seed, trial.run.power
        for value in self._runs.keys() - {*trial.kept, trial.value}:
            del self._runs[value]  # and the memory of its runs
        runs.keep({run} | contenders(runs.probes))
        varies = "precision" in self._variation.keys
        with arithmetic(workload.precision if varies else None, deterministic=workload.deterministic):
            if not runs.is_live(*run):
                runs.forget_start()
            advance_run(runs, trial.run, segment, journal)
            with journal.timed("evaluation"):
                runs.read(trial.run)
        self.readings.append(Reading(trial.value, runs.probes[-1]))

    def _open(self, value: int, engine: str | None = None) -> Runs:
        """The runs of a value."""
        if value not in self._runs:
            workload, contest = self._variation.variants[value].workload, self._contest
            runs = Runs(workload, self._variation.seeds, Captures(self._captured), engine)
            runs.entry = replace(contest.entry, start=contest.power, training=workload.plan_iterations)
            self._runs[value] = runs
        return self._runs[value]

    def train(self, start: int, stop: int, pause: Pause = never) -> list[list[float]]:
        """A race is advanced run by run."""
        raise NotImplementedError

    def evaluate(self, members: Sequence[int]) -> list[tuple[float, float]]:
        """A race is read run by run."""
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """All that the rest of the race depends on."""
        lanes = [(value, runs.engine, runs.state()) for value, runs in self._runs.items()]
        return {"lanes": lanes, "readings": [each.plain() for each in self.readings]}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Put everything back to :meth:`state`."""
        self.readings = [Reading.of(each) for each in state["readings"]]
        self._runs = {}
        for value, engine, saved in state["lanes"]:
            self._open(value, engine).restore(saved)
