"""``clrtool compare``: a config and policies -> each trained from the same seeds, and which of them won."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from clrtool.cli.compare_request import (
    InconclusiveError,
    Request,
    bounds_of,
    check_epochs,
    check_target,
    known_bounds,
    read_policies,
)
from clrtool.cli.complete import configs, runs
from clrtool.cli.console import Plain, Progress, say, show
from clrtool.cli.rangetest import (
    CONFIG_HELP,
    INCONCLUSIVE,
    AllowImport,
    Deterministic,
    Every,
    OnOom,
    OnOomOption,
    Overrides,
    alone,
    make_job,
)
from clrtool.cli.run.pipeline import check_data_again, in_parts, is_other_data
from clrtool.cli.run.spec import Job
from clrtool.errors import ConfigError

if TYPE_CHECKING:
    from clrtool.core.reading.curve import Point
    from clrtool.core.results.comparison import BoundsFrom, Comparison
    from clrtool.engine.resume.journal import Journal
    from clrtool.engine.training.workload import Workload

# Folder of the checkpoints, there only while the comparison is unfinished.
CHECKPOINT = "checkpoint"
POLICIES = "fixed,triangular2,exp_range,one_cycle"
POLICIES_HELP = (
    "Names, with commas: also fixed:0.01 for a rate of your own, or a plan file or run folder. fixed is the geometric "
    "mean of the bounds."
)
TargetAccuracy = Annotated[
    float | None, typer.Option(help="Metric to reach.  [default: what fixed, or the first policy, ends with]")
]
Output = Annotated[Path | None, typer.Option("-o", help="The folder.  [default: runs/<config name>-compare]")]


def compare(
    context: typer.Context,
    config: Annotated[str, typer.Argument(help=CONFIG_HELP, autocompletion=configs)],
    overrides: Overrides = None,
    policies: Annotated[str, typer.Option(help=POLICIES_HELP)] = POLICIES,
    target_accuracy: TargetAccuracy = None,
    seeds: Annotated[int, typer.Option(min=1, max=1000, help="Trainings of each policy.")] = 3,
    epochs: Annotated[float | None, typer.Option(help="Length of each training.  [default: plan.epochs]")] = None,
    bounds: Annotated[str | None, typer.Option(metavar="BASE,MAX", help="base_lr and max_lr.")] = None,
    run: Annotated[
        str | None, typer.Option(help="A finished range test.  [default: runs/<config name>]", autocompletion=runs)
    ] = None,
    output: Output = None,
    device: Annotated[str, typer.Option(help="auto (CUDA if there is any), cpu, cuda or cuda:N.")] = "auto",
    fresh: Annotated[bool, typer.Option("--fresh", help="Replace what the folder holds.")] = False,
    download: Annotated[bool, typer.Option("--download", help="Let torchvision fetch a dataset.")] = False,
    allow_import: AllowImport = None,
    deterministic: Deterministic = False,
    on_oom: OnOomOption = OnOom.stop,
    checkpoint_every: Every = 15,
    as_json: Annotated[bool, typer.Option("--json", help="Print compare.json on stdout and nothing else.")] = False,
    quiet: Annotated[bool, typer.Option("-q", help="No progress.")] = False,
    plain: Plain = False,
) -> None:
    """Train the same workload under several policies, as long and from the same seeds, and say which won.

    The bounds come from a finished range test of the same config; if there is none, one is run first. A policy wins
    only if it is better by more than noise. Writes config.yaml, runs.csv, compare.json and compare.png; the same
    command goes on where it was interrupted, and shows a finished comparison again.

    Example: clrtool compare digits --policies fixed,triangular2,one_cycle,cosine --seeds 5
    """
    from clrtool.config.file import find_config, located, run_name

    path, wishes = find_config(config), overrides or ()
    folder = output or Path("runs") / f"{run_name(path)}-compare"
    job = make_job(path, wishes, folder, context.obj, device=device, allow_import=allow_import, download=download,
                   deterministic=deterministic, every=checkpoint_every, on_oom=on_oom, fresh=fresh,
                   quiet=quiet or as_json, plain=plain)  # fmt: skip
    try:
        length = check_epochs(job.settings.plan.epochs if epochs is None else epochs)
        request = Request(read_policies(policies), seeds, length,
                          check_target(job, target_accuracy), known_bounds(job, bounds, run, path.stem))  # fmt: skip
        record = _finished(job, request)
        if record is None:
            with alone(job), located(path, wishes):
                record = _compare(job, request)
    except InconclusiveError as error:
        _show_inconclusive(str(error), as_json=as_json)
    _show(record, job, as_json=as_json)


def _finished(job: Job, request: Request) -> Comparison | None:
    """A finished comparison of the same request, with nothing left to do. Raises ConfigError if it is another one."""
    from clrtool.files import temporary_files
    from clrtool.report import lock
    from clrtool.report.comparison_file import PICTURE, open_comparison

    wanted = None if request.given is None else request.sha256(job, request.given)
    record = open_comparison(job.folder, wanted, fresh=job.fresh)
    if record is None:
        return None
    if job.source["deterministic"] and not record.environment.get("deterministic"):
        raise ConfigError(f"{job.folder} was measured without --deterministic: --fresh runs it anew")
    check_data_again(job, record)
    left = [job.folder / CHECKPOINT, job.folder / lock.NAME, *temporary_files(job.folder)]  # by one that was killed
    if any(path.exists() for path in left) or not (job.folder / PICTURE).exists():
        return None
    if record.asked_target != request.target:
        return None
    say(f"{job.folder}: finished before with this request, shown again; --fresh runs it anew", quiet=job.quiet)
    return record


def _compare(job: Job, request: Request) -> Comparison:
    """Bounds, trainings, files: what is not there yet.

    Raises:
        OutOfMemoryError: a batch does not fit.
        Interrupted: a signal asked to stop, and everything is saved.
    """
    from clrtool.report.comparison_file import open_comparison, write_comparison

    bounds = request.given or _measured_bounds(job)
    record = open_comparison(job.folder, request.sha256(job, bounds), fresh=job.fresh)
    if record is None:
        say("loading torch and the data", quiet=job.quiet)
        from clrtool.engine.configured.build import build_workload

        def attempt(parts: int | None) -> Comparison:
            workload = build_workload(job.settings, **job.source, micro_batches=parts, epochs=request.epochs)
            with job.signals.deferred():
                made = _train(job, request, bounds, workload)
                write_comparison(job.folder, made)
            return made

        record = in_parts(job, CHECKPOINT, attempt)
    elif record.asked_target != request.target:
        record = replace(record, asked_target=request.target)
        write_comparison(job.folder, record)
    _finish(job, record)
    return record


def _measured_bounds(job: Job) -> BoundsFrom:
    """The bounds of a range test in the folder of the comparison, which goes on if it was interrupted."""
    from clrtool.cli.run.pipeline import measure
    from clrtool.files import sweep_orphans
    from clrtool.report.comparison_file import RANGE_TEST
    from clrtool.report.run import open_run

    own = replace(job, folder=job.folder / RANGE_TEST)
    for folder in (own.folder, own.folder / CHECKPOINT):
        sweep_orphans(folder)
    say(f"{own.folder}: a range test first, for the bounds", quiet=job.quiet)
    record = open_run(own.folder, job.settings, fresh=job.fresh)
    return bounds_of(measure(own, record, verify=False), own.folder, RANGE_TEST)


def _train(job: Job, request: Request, bounds: BoundsFrom, workload: Workload) -> Comparison:
    from clrtool.core.results.comparison import Comparison
    from clrtool.engine.rangetest.compare import check_momentum
    from clrtool.engine.rangetest.compare import compare as train
    from clrtool.engine.runtime.device import environment
    from clrtool.report.comparison_file import begin_comparison

    per_epoch, seeds = workload.iterations_per_epoch, range(job.settings.seed, job.settings.seed + request.seeds)
    plans, iterations = request.plans(job.settings.plan, bounds, per_epoch)
    check_momentum(workload, plans.values())
    request_sha256 = request.sha256(job, bounds)
    journal = _journal(job, workload, request_sha256)
    begin_comparison(job.folder, job.settings)
    label, how = workload.metric.label, {"quiet": job.quiet, "plain": job.plain}
    with ComparisonProgress(list(plans), len(seeds), iterations, label, **how) as progress:
        candidates = train(workload, plans, iterations, seeds, progress.tell, journal)
    return Comparison(
        candidates=candidates,
        bounds=bounds,
        iterations=iterations,
        iterations_per_epoch=per_epoch,
        heldout_samples=workload.heldout_samples,
        metric=workload.metric,
        asked_target=request.target,
        request_sha256=request_sha256,
        environment=environment(workload.device) | {"deterministic": workload.deterministic},
        config_sha256=job.settings.sha256(),
        data_sha256=workload.data_sha256,
        sources=workload.sources,
        warnings=(*workload.warnings, *journal.warnings, *_other_data(bounds, workload.data_sha256)),
    )


def _other_data(bounds: BoundsFrom, data_sha256: str) -> list[str]:
    if bounds.data_sha256 is None or not is_other_data(bounds.data_sha256, data_sha256):
        return []
    text = f"The bounds of {bounds.source} were measured on other data than the policies were compared on"
    return [f"{text}: clrtool rangetest CONFIG --fresh measures them anew."]


def _journal(job: Job, workload: Workload, request_sha256: str) -> Journal:
    """The journal of the comparison, from a checkpoint if there is one that is wanted."""
    from clrtool.engine.resume.checkpoint import CheckpointFolder
    from clrtool.engine.resume.open import open_journal
    from clrtool.report.comparison_file import ANOTHER
    from clrtool.report.run import remove_checkpoint

    if job.fresh:
        remove_checkpoint(job.folder / CHECKPOINT)
        job.fresh = False
    folder = CheckpointFolder(job.folder / CHECKPOINT)
    journal, text = open_journal(folder, workload, request_sha256, job.signals, job.every, ANOTHER)
    if text:
        say(text, quiet=job.quiet)
    return journal


def _finish(job: Job, record: Comparison) -> None:
    """What is left to do when everything is measured: the picture; and the checkpoints go."""
    from clrtool.report.comparison_file import PICTURE
    from clrtool.report.plots import draw_comparison
    from clrtool.report.run import remove_checkpoint

    if not (job.folder / PICTURE).exists():
        draw_comparison(job.folder, record)
    remove_checkpoint(job.folder / CHECKPOINT)


class ComparisonProgress(Progress):
    """One live line on a terminal, one plain line every 10 seconds elsewhere, over all trainings."""

    def __init__(self, names: Sequence[str], seeds: int, iterations: int, metric: str, **how: bool) -> None:
        super().__init__(seeds, 0.0, metric, **how)
        self._names, self._iterations = names, iterations
        self._done: dict[tuple[str, int], float] = {}

    def tell(self, name: str, seed: int, point: Point) -> None:
        """Take note of an evaluation. A training that broke is done."""
        self._done[name, seed] = point.iteration / self._iterations if math.isfinite(point.train_loss) else 1.0
        done = sum(self._done.values()) / (len(self._names) * self._seeds)
        begun = sum(known == name for known, _ in self._done)
        self._show(
            done,
            f"{name} ({self._names.index(name) + 1}/{len(self._names)})  seed {begun}/{self._seeds}  epoch "
            f"{point.epoch:.1f}  lr {point.lr:.2e}  {self._metric} {point.metric:.3f}",
        )


def _show_inconclusive(message: str, *, as_json: bool) -> NoReturn:
    if as_json:
        typer.echo(json.dumps({"status": "inconclusive", "code": INCONCLUSIVE, "message": message}))
    else:
        say(message)
    raise typer.Exit(INCONCLUSIVE)


def _show(record: Comparison, job: Job, *, as_json: bool) -> None:
    from clrtool.report.comparison_file import FILES, comparison_to_json
    from clrtool.report.comparison_table import comparison_table

    if as_json:
        typer.echo(comparison_to_json(record), nl=False)
        return
    show(comparison_table(record, job.folder.resolve().name), plain=job.plain)
    say(f"in {job.folder}/: {', '.join(FILES[1:])}", quiet=job.quiet)
    if record.judgement.best is not None:
        say(f"next: clrtool plan {job.folder}/{FILES[2]}, the plan of {record.judgement.best}", quiet=job.quiet)
