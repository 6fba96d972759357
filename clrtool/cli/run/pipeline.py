"""The main path of ``clrtool rangetest``: workload -> sweep -> bounds -> plan -> files, interrupted and resumed."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from clrtool.cli.console import Progress, say
from clrtool.cli.run.sharding import JOBS
from clrtool.cli.run.spec import CHECKPOINTS, SWEEP, VERIFY, Job
from clrtool.core.shard import LackingError
from clrtool.errors import ConfigError, MachineError, OutOfMemoryError, as_config_error

if TYPE_CHECKING:
    from clrtool.config.schema import PlanConfig
    from clrtool.core.planning.plan import Plan
    from clrtool.core.reading.curve import Point
    from clrtool.core.results.comparison import Comparison
    from clrtool.core.results.record import RunRecord, SweepRecord
    from clrtool.core.results.verification import Trial
    from clrtool.engine.configured.workload import ConfiguredWorkload
    from clrtool.engine.resume.journal import Journal, Others, Sharing
    from clrtool.engine.training.workload import Workload

T = TypeVar("T")


def is_complete(job: Job, record: RunRecord, *, verify: bool) -> bool:
    """Whether nothing is left to do for a run that was finished before.

    Raises:
        ConfigError: its data is not what it was, or it was not measured as it is asked for now.
    """
    from clrtool.files import temporary_files
    from clrtool.report import lock
    from clrtool.report.run import has_pictures

    if job.source["deterministic"] and not record.environment.get("deterministic"):
        raise ConfigError(f"{job.folder} was measured without --deterministic: --fresh runs it anew")
    check_data_again(job, record)
    left = [
        job.folder / SWEEP,
        job.folder / JOBS,
        job.folder / lock.NAME,
        *temporary_files(job.folder),
    ]  # by a run that was killed
    is_clean = has_pictures(job.folder, record) and not any(path.exists() for path in left)
    return is_clean and not _is_to_verify(record, verify=verify)


def _is_to_verify(record: RunRecord, *, verify: bool) -> bool:
    return verify and record.plan is not None and record.verification is None


def check_data_again(job: Job, record: RunRecord | Comparison) -> None:
    """Hold the data against that of a finished run, if it is there still. Raises ConfigError if it is another."""
    if job.settings.data.name in (None, "digits"):  # code is not run to show a result, and the digits are ours
        return
    from clrtool.engine.configured.build import data_sha256

    try:
        with contextlib.redirect_stdout(sys.stderr):
            found = data_sha256(job.settings, device=job.source["device"], download=job.source["download"])
    except MachineError as error:
        say(f"{error}: {job.folder} is shown without a look at its data", quiet=job.quiet)
        return
    _check_data(job, record, found)


def is_other_data(one: str, other: str) -> bool:
    """Whether two hashes tell two sets apart: hashes of a whole set and of some of one cannot be compared."""
    return one.partition(":")[1] == other.partition(":")[1] and one != other


def _check_data(job: Job, record: RunRecord | Comparison, data_sha256: str) -> None:
    if is_other_data(record.data_sha256, data_sha256):
        raise ConfigError(f"{job.folder} was measured on other data than there is now: --fresh runs it anew")


def measure(job: Job, record: RunRecord | None, *, verify: bool) -> RunRecord:
    """Measure what ``record`` does not hold yet.

    Raises:
        OutOfMemoryError: a batch does not fit; with ``job.accumulate``, not even one sample does.
        Interrupted: a signal asked to stop, and everything is saved.
    """
    if record is not None and not _is_to_verify(record, verify=verify):
        _finish(job, record)
        return record
    say("loading torch and the data", quiet=job.quiet)
    from clrtool.report.run import open_run

    def attempt(parts: int | None) -> RunRecord:
        # after the first attempt the sweep may be finished
        return _measure(job, None if job.fresh else open_run(job.folder, job.settings), parts, verify=verify)

    return in_parts(job, SWEEP if record is None else VERIFY, attempt)


def measure_share(job: Job, command: Sequence[str]) -> None:
    """Train the seeds of a share, and leave what was measured in its checkpoint.

    Args:
        command: what measures a share, but for which; it stays with the share.

    Raises:
        OutOfMemoryError, Interrupted: as for a whole test.
    """
    say("loading torch and the data", quiet=job.quiet)
    from clrtool.engine.runtime.device import device_of

    share, device = job.share, job.source["device"]
    assert share is not None
    if share.job is not None:
        device = device_of(device, share.job.number)

    def attempt(parts: int | None) -> None:
        workload = workload_of(job, parts, device)
        with job.signals.deferred():
            journal = _sweep_journal(job, workload)
            with contextlib.suppress(LackingError):
                _sweep(job, workload, journal)
            folder = str(job.source["folder"].absolute())
            journal.finish(("share", {"shard": str(share.shards[0]), "command": list(command), "folder": folder}))

    in_parts(job, SWEEP, attempt)


def in_parts(job: Job, checkpoint: str, attempt: Callable[[int | None], T]) -> T:
    """Call ``attempt`` with the micro-batches of a batch; where memory is short and it is allowed, with twice as many.

    Args:
        checkpoint: folder of the checkpoints, which know how many it had come to.
        attempt: given None, it takes those of the config.
    """
    from clrtool.engine.resume.checkpoint import CheckpointFolder
    from clrtool.engine.resume.open import saved_parts
    from clrtool.engine.runtime.device import computing_with, free_memory

    folders = [] if job.fresh else [job.folder / checkpoint, *(each / SWEEP for each in job.others())]
    parts = next((known for each in folders if (known := saved_parts(CheckpointFolder(each)))), None)
    while True:
        try:
            with computing_with(job.threads):
                return attempt(parts)
        except OutOfMemoryError as error:
            parts = 2 * (parts or job.settings.training.micro_batches)
            if not job.accumulate or parts > job.settings.data.batch_size:
                raise
            say(f"{error}\n--on-oom accumulate: going on with training.micro_batches={parts}", quiet=job.quiet)
        free_memory()


def _finish(job: Job, record: RunRecord) -> None:
    """What is left to do when everything is measured: the pictures; and the checkpoints go."""
    from clrtool.report.plots import draw_run
    from clrtool.report.run import has_pictures, remove_checkpoint

    if not has_pictures(job.folder, record):
        draw_run(job.folder, record)
    remove_checkpoint(job.folder / SWEEP)
    remove_checkpoint(job.folder / JOBS)
    if record.verification is not None:
        remove_checkpoint(job.folder / VERIFY)


def workload_of(job: Job, parts: int | None = None, device: str | None = None) -> ConfiguredWorkload:
    """The workload of a test, on its own device if no other is given. Raises ConfigError if no plan can be made.

    So what cannot be planned does not fail after the sweep.
    """
    from clrtool.engine.configured.build import build_workload

    source = {**job.source, "device": device or job.source["device"]}
    workload = build_workload(job.settings, **source, micro_batches=parts)
    plan_between(job.settings.plan, workload, 1.0, 2.0)  # those of other bounds are as long
    return workload


def _measure(job: Job, record: RunRecord | None, parts: int | None, *, verify: bool) -> RunRecord:
    from clrtool.report.run import remove_pictures, write_run

    if (ranks := job.source.get("ranks")) is not None:
        ranks.begin(parts)
    workload = workload_of(job, parts)
    if record is not None:
        _check_data(job, record, workload.data_sha256)
        if record.sources and record.sources != workload.sources:
            raise ConfigError(f"{job.folder} was measured with other code or weights: --fresh runs it anew")
    if record is None:
        with job.signals.deferred():
            record = _recorded(job, workload)
            write_run(job.folder, record)
        _finish(job, record)
    if _is_to_verify(record, verify=verify):
        with job.signals.deferred():
            record = _verify(job, workload, record)
            remove_pictures(job.folder)
            write_run(job.folder, record)
        _finish(job, record)
    return record


def _journal(
    job: Job, workload: Workload, name: str, others: Others | None = None, sharing: Sharing | None = None
) -> Journal:
    """The journal of the sweep or of ``--verify``, from a checkpoint if there is one."""
    from clrtool.engine.resume.checkpoint import CheckpointFolder
    from clrtool.engine.resume.open import open_journal

    folder, sha256 = CheckpointFolder(job.folder / name), job.settings.sha256()
    journal, text = open_journal(folder, workload, sha256, job.signals, job.every, others=others, sharing=sharing)
    if text:
        say(text, quiet=job.quiet)
    return journal


def _sweep_journal(job: Job, workload: Workload) -> Journal:
    """The journal of the sweep, with what other processes have measured of it."""
    from clrtool.engine.resume.open import about_test
    from clrtool.engine.resume.sharding import AgreedScout, Collector, Part, known_to, union

    _begin_anew(job)
    about = about_test(workload, job.settings.sha256())
    others = union(job.others(), about)
    if job.share is None:
        return _journal(job, workload, SWEEP, others, None if job.collect is None else Collector(job.collect))
    agreed = AgreedScout(job.share.group, about)
    known = known_to(job.share.siblings(), about, agreed)
    others = replace(others, finished={**known.finished, **others.finished})
    return _journal(job, workload, SWEEP, others, Part(job.share.shards, job.settings.seed, agreed))


def _begin_anew(job: Job) -> None:
    """Remove what an earlier test has left unfinished, where it is to be replaced."""
    from clrtool.report.run import remove_checkpoint

    if job.fresh:
        for name in CHECKPOINTS:
            remove_checkpoint(job.folder / name)
        job.fresh = False


def begin_elsewhere(job: Job) -> None:
    """Make the folder known as that of a run whose seeds are trained by others; a result of before goes.

    But not for a config of which nothing can be trained. It is built here first, and its memory given back.
    """
    say("checking config and data", quiet=job.quiet)
    from clrtool.engine.runtime.device import free_memory
    from clrtool.report.run import CurveLog

    workload_of(job)
    free_memory()
    _begin_anew(job)
    with CurveLog(job.folder, job.settings):
        pass


def _sweep(job: Job, workload: Workload, journal: Journal) -> SweepRecord:
    from clrtool.engine.rangetest.sweep import run_range_test
    from clrtool.report.run import CurveLog

    settings, size = job.settings, workload.sweep_size(job.settings.sweep)
    epochs = size.iterations / workload.iterations_per_epoch
    seeds = size.seeds if job.share is None else job.share.count(size.seeds)
    with (
        CurveLog(job.folder, settings) as log,
        Progress(seeds, epochs, workload.metric.label, quiet=job.quiet, plain=job.plain) as progress,
    ):

        def on_point(seed: int, point: Point) -> None:
            log.append(seed, point)
            progress.update(seed, point)

        return run_range_test(workload, settings.sweep, settings.seed, on_point, journal)


def _recorded(job: Job, workload: Workload) -> RunRecord:
    from clrtool.core.reading.bounds import find_bounds
    from clrtool.core.results.record import RunRecord

    settings, journal = job.settings, _sweep_journal(job, workload)
    sweep = _sweep(job, workload, journal)
    bounds = find_bounds(sweep.curves, sweep.heldout_samples, sweep.chance, sweep.metric)
    return RunRecord(
        sweep=sweep,
        bounds=bounds,
        plan=plan_between(settings.plan, workload, bounds.base_lr, bounds.max_lr),
        environment=journal.environment | {"deterministic": workload.deterministic},
        config_sha256=settings.sha256(),
        data_sha256=workload.data_sha256,
        sources=workload.sources,
    )


def _verify(job: Job, workload: Workload, record: RunRecord) -> RunRecord:
    """Short runs around the bounds, which may move them and the plan."""
    from clrtool.core.results.verification import verified
    from clrtool.engine.rangetest.verify import verify

    assert record.plan is not None
    _announce(job, workload, record)

    def on_trial(trial: Trial) -> None:
        reached = "not finite" if trial.score is None else f"{workload.metric.label} {trial.score:.3f}"
        say(f"  {trial.kind} {trial.max_lr:.2e}  {trial.epochs:.2g} epochs  {reached}", quiet=job.quiet)

    seed, journal = job.settings.seed + len(record.sweep.curves), _journal(job, workload, VERIFY)
    found = verify(workload, record.plan, record.bounds, record.sweep, seed, on_trial, journal)
    bounds = verified(record.bounds, found)
    plan = plan_between(job.settings.plan, workload, bounds.base_lr, bounds.max_lr)
    return replace(record, bounds=bounds, plan=plan, verification=found)


def _announce(job: Job, workload: Workload, record: RunRecord) -> None:
    """What the short runs will cost, before they begin."""
    from clrtool.core.results.verification import FIRST, SECOND
    from clrtool.engine.rangetest.verify import trial_iterations

    assert record.plan is not None
    sweep, (first, second) = record.sweep, trial_iterations(workload, record.plan)
    lengths = (f"{length / workload.iterations_per_epoch:.2g}" for length in (first, second))
    text = f"verifying: {FIRST} runs of {next(lengths)} epochs and {SECOND} of {next(lengths)}"
    if sweep.train_seconds is not None:
        a_step = sweep.train_seconds / (sweep.iterations - sweep.scout_iterations)
        text += f", about {a_step * (FIRST * first + SECOND * second):.0f} s"
    say(text, quiet=job.quiet)


def plan_between(wishes: PlanConfig, workload: Workload, base_lr: float | None, max_lr: float | None) -> Plan | None:
    """The plan between two bounds, None without them. Raises ConfigError if there can be none."""
    from clrtool.core.planning.plan import make_plan

    if base_lr is None or max_lr is None:
        return None
    given = {name: value for name, value in wishes.model_dump().items() if value != "auto"}
    with as_config_error("plan: "):
        return make_plan(base_lr, max_lr, workload.iterations_per_epoch, **given)
