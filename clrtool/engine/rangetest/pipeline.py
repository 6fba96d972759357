"""The path of every range test: workload -> scout -> sweep -> bounds -> plan -> record, and its verification."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal, Protocol

from clrtool.config.schema import PlanConfig, SweepConfig
from clrtool.core.planning.plan import Plan, make_plan
from clrtool.core.reading.bounds import find_bounds
from clrtool.core.results.record import RunRecord
from clrtool.core.results.verification import verified
from clrtool.engine.rangetest.observer import Observer
from clrtool.engine.rangetest.sweep import run_sweep
from clrtool.engine.rangetest.verify import run_trials
from clrtool.engine.resume.journal import Journal
from clrtool.engine.runtime.device import environment
from clrtool.engine.training.workload import Workload
from clrtool.errors import as_config_error

Phase = Literal["sweep", "verify"]
# The journal of a workload's sweep, or of its short runs.
Journals = Callable[[Workload, Phase], Journal]


class Asked(Protocol):
    """What a range test is asked for: a config, or the options of a program."""

    @property
    def seed(self) -> int: ...
    @property
    def sweep(self) -> SweepConfig: ...
    @property
    def plan(self) -> PlanConfig: ...
    def sha256(self) -> str: ...


def in_memory(workload: Workload, phase: Phase) -> Journal:  # noqa: ARG001
    """A journal that lives as long as the process."""
    return Journal()


def range_test(
    workload: Workload,
    config: Asked,
    observer: Observer | None = None,
    journals: Journals = in_memory,
    known: RunRecord | None = None,
    *,
    verify: bool = False,
) -> RunRecord:
    """Run the LR range test of a workload: every door of clrtool leads here.

    Args:
        observer: what is told while it runs.
        journals: where segments are kept, so that an interrupted test goes on.
        known: what was measured before; only the short runs are missing.
        verify: whether short runs around the bounds may move them.

    Raises:
        ConfigError: there can be no such plan; said before anything is trained.
        MachineError: the device is out of memory, or the disk is full.
        Interrupted: a signal asked to stop, and everything is saved.
        LackingError: the rest is for other processes to train.
    """
    check_plan(workload, config.plan)
    observer, record = observer or Observer(), known
    if record is None:
        journal, size = journals(workload, "sweep"), workload.sweep_size(config.sweep)
        with observer.sweeping(size.seeds, size.iterations / workload.iterations_per_epoch, workload.metric.label):
            sweep = run_sweep(workload, config.sweep, config.seed, observer.on_point, journal)
        bounds = find_bounds(sweep.curves, sweep.heldout_samples, sweep.chance, sweep.metric)
        record = RunRecord(
            sweep=sweep,
            bounds=bounds,
            plan=plan_between(workload, config.plan, bounds.base_lr, bounds.max_lr),
            environment=(journal.environment or environment(workload.device))
            | {"deterministic": workload.deterministic},
            config_sha256=config.sha256(),
            data_sha256=workload.data_sha256,
            sources=workload.sources,
        )
        observer.on_record(record)
    if verify and is_unverified(record):
        observer.verifying(workload, record)
        seed = config.seed + len(record.sweep.curves)
        found = run_trials(workload, record, seed, observer.on_trial, journals(workload, "verify"))
        bounds = verified(record.bounds, found)
        plan = plan_between(workload, config.plan, bounds.base_lr, bounds.max_lr)
        record = replace(record, bounds=bounds, plan=plan, verification=found)
        observer.on_record(record)
    return record


def is_unverified(record: RunRecord) -> bool:
    """Whether there is a plan that short runs have not tried yet."""
    return record.plan is not None and record.verification is None


def check_plan(workload: Workload, wishes: PlanConfig) -> Plan:
    """A plan that is as long as that of any bounds. Raises ConfigError if there can be none."""
    plan = plan_between(workload, wishes, 1.0, 2.0)
    assert plan is not None
    return plan


def plan_between(workload: Workload, wishes: PlanConfig, base_lr: float | None, max_lr: float | None) -> Plan | None:
    """The plan between two bounds, None without them. Raises ConfigError if there can be none."""
    if base_lr is None or max_lr is None:
        return None
    given = {name: value for name, value in wishes.model_dump().items() if value != "auto"}
    with as_config_error("plan: "):
        return make_plan(base_lr, max_lr, workload.iterations_per_epoch, **given)
