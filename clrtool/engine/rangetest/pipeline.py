"""The path of every range test: workload -> scout -> sweep -> race -> bounds -> plan -> record."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Protocol

from clrtool.config.schema import PlanConfig, SweepConfig
from clrtool.core.planning.make import make_plan
from clrtool.core.planning.plan import Plan
from clrtool.core.planning.sweep_size import SweepSize
from clrtool.core.racing.choose import choose
from clrtool.core.racing.going_on import GoingOn, Start, compared_length, continued
from clrtool.core.racing.result import Race
from clrtool.core.reading.bounds import Bounds
from clrtool.core.reading.paper import find_bounds
from clrtool.core.results.record import RunRecord, SweepRecord
from clrtool.engine.rangetest.going_on import compare_beginnings
from clrtool.engine.rangetest.observer import Observer
from clrtool.engine.rangetest.race import run_race
from clrtool.engine.rangetest.sweep import run_sweep
from clrtool.engine.resume.journal import Journal
from clrtool.engine.runtime.device import environment
from clrtool.engine.training.ensemble import Captures
from clrtool.engine.training.going_on import epochs_left
from clrtool.engine.training.workload import Workload
from clrtool.errors import as_config_error

# Seeds of a race: one looks for the best rate, and another says whether it agrees.
RACED = 2
# The journal of a workload's range test.
Journals = Callable[[Workload], Journal]


class Asked(Protocol):
    """What a range test is asked for: a config, or the options of a program."""

    @property
    def seed(self) -> int: ...
    @property
    def sweep(self) -> SweepConfig: ...
    @property
    def plan(self) -> PlanConfig: ...
    def sha256(self) -> str: ...


def in_memory(workload: Workload) -> Journal:  # noqa: ARG001
    """A journal that lives as long as the process."""
    return Journal()


def range_test(
    workload: Workload, config: Asked, observer: Observer | None = None, journals: Journals = in_memory
) -> RunRecord:
    """Run the LR range test of a workload: every door of clrtool leads here.

    Args:
        observer: what is told while it runs.
        journals: where segments are kept, so that an interrupted test goes on.

    Raises:
        ConfigError: there can be no such plan; said before anything is trained.
        MachineError: the device is out of memory, or the disk is full.
        Interrupted: a signal asked to stop, and everything is saved.
        LackingError: the rest is for other processes to train.
    """
    check_plan(workload, config.plan)
    observer, journal, size = observer or Observer(), journals(workload), workload.sweep_size(config.sweep)
    race, going_on = None, None
    captures = Captures(journal.captured)  # a problem is captured once, for its sweep and its race
    with _sweeping(workload, size, observer):
        sweep = run_sweep(workload, config.sweep, config.seed, observer.on_point, journal, captures)
    if size.budget is not None:
        left = max(0, size.budget - sweep.iterations)
        seeds = range(config.seed, config.seed + (RACED if config.sweep.seeds == "auto" else config.sweep.seeds))
        length = 0 if workload.start is None else compared_length(left, len(seeds))
        left -= 2 * len(seeds) * length
        with observer.racing(left):
            race = run_race(workload, seeds, left, observer.on_probe, journal, captures)
        going_on = _going_on(workload, seeds, _bounds(sweep, race, workload.start).max_lr, race, length, journal)
        if sweep.train_seconds is not None:
            spent = journal.all_seconds
            train, evaluation, capture = spent["train"], spent["evaluation"], spent.get("capture")
            sweep = replace(sweep, train_seconds=train, evaluation_seconds=evaluation, capture_seconds=capture)
    bounds = _bounds(sweep, race, workload.start).doubted(workload.doubts)
    record = RunRecord(
        sweep=sweep,
        bounds=bounds,
        plan=plan_between(workload, config.plan, bounds.base_lr, bounds.max_lr),
        environment=(journal.environment or environment(workload.device) | workload.ranks.facts)
        | {"deterministic": workload.deterministic},
        config_sha256=config.sha256(),
        data_sha256=workload.data_sha256,
        sources=workload.sources,
        race=race,
        going_on=going_on,
    )
    observer.on_record(record)
    return record


def sweep_seeds(workload: Workload, config: Asked, observer: Observer, journal: Journal) -> SweepRecord:
    """The sweeps alone, as processes run them that have a part of the seeds."""
    check_plan(workload, config.plan)
    with _sweeping(workload, workload.sweep_size(config.sweep), observer):
        return run_sweep(workload, config.sweep, config.seed, observer.on_point, journal)


def _sweeping(workload: Workload, size: SweepSize, observer: Observer) -> AbstractContextManager[None]:
    return observer.sweeping(size.seeds, size.iterations / workload.iterations_per_epoch, workload.metric.label)


def _bounds(sweep: SweepRecord, race: Race | None, start: Start | None) -> Bounds:
    """The bounds of the curves, and of the race where there was one."""
    swept = find_bounds(sweep.curves, sweep.heldout_samples, sweep.chance, sweep.metric)
    if race is None:
        return swept
    return choose(race, swept) if start is None else continued(race, swept)


def _going_on(
    workload: Workload, seeds: Sequence[int], max_lr: float | None, race: Race, length: int, journal: Journal
) -> GoingOn | None:
    """Where a training stands that is under way, and whether its rate needs a warm-up; None of one that begins."""
    if workload.start is None:
        return None
    tried = max_lr is not None and length > 0
    warm_up = compare_beginnings(workload, seeds, max_lr or 0.0, length, journal) if tried else None
    return GoingOn(workload.start, race.entry.first, warm_up)


def check_plan(workload: Workload, wishes: PlanConfig) -> Plan:
    """A plan that is as long as that of any bounds. Raises ConfigError if there can be none."""
    plan = plan_between(workload, wishes, 1.0, 2.0)
    assert plan is not None
    return plan


def plan_between(workload: Workload, wishes: PlanConfig, base_lr: float | None, max_lr: float | None) -> Plan | None:
    """The plan between two bounds, None without them. Raises ConfigError if there can be none."""
    if base_lr is None or max_lr is None:
        return None
    given = {name: value for name, value in wishes.model_dump().items() if value != "auto" and name != "iterations"}
    given["epochs"] = epochs_left(wishes, workload.iterations_per_epoch, workload.start)
    with as_config_error("plan: "):
        return make_plan(base_lr, max_lr, workload.iterations_per_epoch, **given)
