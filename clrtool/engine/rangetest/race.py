"""The race of a range test: trains the short runs that :mod:`clrtool.core.racing.race` asks for, from one start."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch.optim import Optimizer

from clrtool.core.racing.probes import Entry, Probe, Run, contenders
from clrtool.core.racing.race import next_run
from clrtool.core.racing.result import Race
from clrtool.engine.rangetest.flat_run import FlatRun, PlainLoop, SharedStep, Turns, Way, flat_lrs
from clrtool.engine.resume.journal import Journal, Segment
from clrtool.engine.runtime.rng import fork_rng
from clrtool.engine.training.average import has_statistics
from clrtool.engine.training.constant import constant_loss
from clrtool.engine.training.constant_head import STEPS, constant_head_loss
from clrtool.engine.training.ensemble import Captures, captured_or_engine
from clrtool.engine.training.trainer import Pause, Trainer, never
from clrtool.engine.training.workload import Workload

OnProbe = Callable[[Probe], object]
# Where the race starts, as a power of two: the usual rate of plain gradient descent, and of all that scale it by its
# size. Where it ends is measured.
USUAL, USUAL_ADAPTIVE = -5, -10
PLAIN = ("SGD", "ASGD", "Adagrad", "Adadelta", "Rprop")
NAME = "race"


def run_race(
    workload: Workload,
    seeds: Sequence[int],
    budget: int,
    on_probe: OnProbe,
    journal: Journal,
    captures: Captures | None = None,
) -> Race:
    """Race flat rates against one another, within a budget.

    Args:
        seeds: of weights and batches, of which the first looks for the best rate.
        budget: iterations of all runs together.
        on_probe: called with each reading as soon as it is there, or was known to be.
        captures: the captured step of the sweep, which the race uses too if the sweep had one seed.

    Raises:
        MachineError: the device is out of memory.
        Interrupted: a signal asked to stop, and everything is saved.
    """
    if (known := journal.result(NAME)) is not None:
        return Race.from_dict(known)
    with workload.on_device():
        engine = None if journal.running is None else str(journal.running["engine"])
        runs = Runs(workload, seeds, captures or Captures(journal.captured), engine)
        segment = journal.begin(NAME, runs)
        entry = runs.entry = runs.entry or _entry(workload, runs.start(0), len(seeds), budget)
        for probe in runs.probes:
            on_probe(probe)
        while (wanted := next_run(entry, runs.probes)) is not None:
            runs.keep({(wanted.seed, wanted.power)} | contenders(runs.probes))
            advance_run(runs, wanted, segment, journal)
            with journal.timed("evaluation"):
                runs.read(wanted)
            on_probe(runs.probes[-1])
    race = Race(entry, tuple(runs.probes))
    journal.finish((NAME, race.to_dict()))
    return race


def _entry(workload: Workload, trainer: Trainer, seeds: int, budget: int) -> Entry:
    """What the race begins with: the usual rate, and the losses before any training and of a constant answer."""
    first, _ = trainer.evaluate()
    with workload.evaluating():
        answers = workload.answers(trainer.model)
    constant = constant_loss(answers)
    still = PlainLoop(trainer).read()[0] if has_statistics(trainer.model) else math.inf
    if constant is None:
        constant, budget = constant_head_loss(trainer), budget - STEPS
    if constant is not None:  # to the last digit, for all ranks have to ask for the same runs
        constant = workload.ranks.numbers(workload.ranks.mean(torch.tensor(constant, device=workload.device)))
    first = first if math.isfinite(first) else math.inf
    return Entry(
        start=usual_power(trainer.optimizer),
        budget=max(0, budget),
        seeds=seeds,
        training=workload.plan_iterations,
        constant=min(first, still) if constant is None else constant,
        first=first,
        still=still if math.isfinite(still) else math.inf,
    )


def usual_power(optimizer: Optimizer) -> int:
    """The power of two at which a race starts: the usual rate of the optimizer that steps the first group.

    A wrapper and a joint optimizer hold that one inside.
    """
    held = chain.from_iterable(each if isinstance(each, list | tuple) else (each,) for each in vars(optimizer).values())
    inner = next((each for each in held if isinstance(each, Optimizer) and each is not optimizer), None)
    if inner is not None:
        return usual_power(inner)
    return USUAL if any(each.__name__ in PLAIN for each in type(optimizer).__mro__) else USUAL_ADAPTIVE


def advance_run(runs: Runs, wanted: Run, segment: Segment, journal: Journal) -> None:
    """Train a run on, and save all of them on the way where that is due."""
    run = runs.open(wanted.seed, wanted.power)
    while run.iteration < wanted.iterations and not run.broken:
        before = run.iteration
        with journal.timed("train"):
            run.train(wanted.lr, wanted.iterations, journal.pauses)
        segment.start += run.iteration - before  # of all runs together, for who reads the checkpoint
        journal.keep(segment)


class Runs:
    """All runs of a race that may be gone on with, and what was read: an ensemble that a segment can hold.

    Args:
        entry: what the race began with, once that is known.
        probes: what was read so far.
        engine: how the runs are trained; nothing before the first of them.
    """

    def __init__(self, workload: Workload, seeds: Sequence[int], captures: Captures, engine: str | None = None) -> None:
        self._workload, self._seeds, self._captures, self.engine = workload, seeds, captures, engine or ""
        self._step: Turns | None = None
        self._is_decided = False
        self._starts: dict[int, Trainer] = {}
        self._untrained: dict[int, float | None] = {}  # how far the answers of a start differ
        self._live: dict[tuple[int, int], FlatRun] = {}
        self.members = [self.start(0)]
        self.entry: Entry | None = None
        self.probes: list[Probe] = []

    def start(self, seed: int) -> Trainer:
        """An untrained trainer, of which every run of its seed is a branch."""
        if seed not in self._starts:
            self._starts = {seed: Trainer(self._workload, self._seeds[seed])}  # and no longer that of another
        return self._starts[seed]

    def forget_start(self) -> None:
        """Draw the untrained trainer again for the next run: where others draw random numbers between two runs."""
        self._starts = {}

    def is_live(self, seed: int, power: int) -> bool:
        """Whether a run may be gone on with."""
        return (seed, power) in self._live

    def open(self, seed: int, power: int) -> FlatRun:
        """The run of a rate: as it is, or at its beginning."""
        if (seed, power) not in self._live:
            self._live[seed, power] = FlatRun(self._way(seed))
        return self._live[seed, power]

    def _way(self, seed: int) -> Way:
        """Choose how a run is trained: by the captured step that all runs share, or else by the plain loop."""
        if not self._is_decided:
            self._decide(self._seeds[seed])
        if self._step is None:
            return PlainLoop(self.start(seed))
        return SharedStep(self._step, self._seeds[seed])

    def _decide(self, seed: int) -> None:
        """Capture the step at the rate where the race starts, or note why it cannot be captured."""
        assert self.entry is not None
        lrs = flat_lrs(2.0**self.entry.start, max(1, self.entry.budget))
        with fork_rng(self._workload.device):  # of which a plain run goes on as if nothing had been tried
            found = captured_or_engine(self._workload, lrs, [seed], self._captures, self.engine or None)
        self._step = None if isinstance(found, str) else Turns(self._workload, found)
        self.engine = found if isinstance(found, str) else found.engine
        self._is_decided = True

    def keep(self, runs: set[tuple[int, int]]) -> None:
        """Drop all runs but some, and their memory."""
        self._live = {key: run for key, run in self._live.items() if key in runs}

    def read(self, wanted: Run) -> None:
        """Read a run, infinite where it broke."""
        run = self._live[wanted.seed, wanted.power]
        loss, metric = run.read()
        if not (math.isfinite(loss) and math.isfinite(metric)):
            self.probes.append(Probe(*wanted, run.iteration, math.inf, None))
            return
        assert self.entry is not None
        spread = self._spread(wanted.seed, run) if self.entry.is_level(loss) else None
        self.probes.append(Probe(*wanted, run.iteration, loss, metric, spread))

    def _spread(self, seed: int, run: FlatRun) -> float | None:
        """How far the answers of a run differ from input to input, as a share of what they do before any training."""
        if seed not in self._untrained:
            self._untrained[seed] = PlainLoop(self.start(seed)).spread()
        before, now = self._untrained[seed], run.spread()
        return now / before if before and now is not None and math.isfinite(now / before) else None

    def train(self, start: int, stop: int, pause: Pause = never) -> list[list[float]]:
        """A race is advanced run by run."""
        raise NotImplementedError

    def evaluate(self, members: Sequence[int]) -> list[tuple[float, float]]:
        """A race is read run by run."""
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """All that the rest of the race depends on."""
        live = [(*key, run.state()) for key, run in self._live.items()]
        probes = [tuple(vars(probe).values()) for probe in self.probes]
        return {"entry": None if self.entry is None else dict(vars(self.entry)), "probes": probes, "live": live}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Put everything back to :meth:`state`."""
        self.entry = None if state["entry"] is None else Entry(**state["entry"])
        self.probes = [Probe(*each) for each in state["probes"]]
        for seed, power, saved in state["live"]:
            self.open(seed, power).restore(saved)
