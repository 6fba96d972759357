"""``clrtool compare``: a config and policies -> each trained from the same seeds, and which of them won."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clrtool.cli.complete import runs
from clrtool.cli.console import Format, Plain, readable_or_not, show
from clrtool.cli.help import MACHINES, OUTPUT, RUN, rare
from clrtool.cli.options import (
    AllowImport,
    Config,
    Deterministic,
    Device,
    Download,
    Every,
    Fresh,
    OnOom,
    OnOomOption,
    Overrides,
    Quiet,
    build_options,
    display_of,
)
from clrtool.cli.outcome import INCONCLUSIVE
from clrtool.cli.run.attempts import Attempts
from clrtool.cli.run.folder import ResultFolder, RunFolder, is_other_data
from clrtool.cli.run.measure import measure
from clrtool.cli.run.seed_share import SWEEP
from clrtool.cli.run.spec import RunSpec, read_spec
from clrtool.report.text.progress import ComparisonProgress, say
from clrtool.words import argument, shell_command

if TYPE_CHECKING:
    from clrtool.cli.compare_request import Request
    from clrtool.core.results.comparison import BoundsFrom, Comparison
    from clrtool.engine.training.workload import Workload

POLICIES = "fixed,triangular2,exp_range,one_cycle"
Policies = Annotated[
    str,
    typer.Option(
        metavar="NAMES",
        help="Policies to compare.",
        rich_help_panel=RUN,
    ),
]
TargetAccuracy = Annotated[
    float | None,
    typer.Option(
        metavar="VALUE",
        help="Metric value to reach.  [default: what fixed, or else the first policy, ends with]",
        rich_help_panel=rare(RUN),
    ),
]
Trainings = Annotated[
    int, typer.Option(metavar="N", min=1, max=1000, help="Training runs per policy.", rich_help_panel=MACHINES)
]
Epochs = Annotated[
    float | None,
    typer.Option(metavar="N", help="Length of each training.  [default: plan.epochs]", rich_help_panel=RUN),
]
Bounds = Annotated[
    str | None,
    typer.Option(metavar="BASE,MAX", help="base_lr and max_lr, without a range test.", rich_help_panel=RUN),
]
Run = Annotated[
    str | None,
    typer.Option(
        metavar="RUN",
        help="Range test with the bounds.  [default: runs/CONFIG]",
        autocompletion=runs,
        rich_help_panel=RUN,
    ),
]
Output = Annotated[
    Path | None,
    typer.Option("-o", metavar="DIR", help="Output folder.  [default: runs/CONFIG-compare]", rich_help_panel=RUN),
]
Json = Annotated[bool, typer.Option("--json", help="Print compare.json and nothing else.", rich_help_panel=OUTPUT)]


# fmt: off
def compare(  # an option that is not named below is read from the context, by its name
    context: typer.Context, config: Config, overrides: Overrides = None, policies: Policies = POLICIES,
    epochs: Epochs = None, bounds: Bounds = None, run: Run = None, output: Output = None, fresh: Fresh = False,
    allow_import: AllowImport = None, download: Download = False, target_accuracy: TargetAccuracy = None,
    checkpoint_every: Every = 15, device: Device = "auto", on_oom: OnOomOption = OnOom.stop,
    deterministic: Deterministic = False, seeds: Trainings = 3, as_json: Json = False, quiet: Quiet = False,
    plain: Plain = False, form: Format = None,
) -> None:
    # fmt: on
    """Train with several policies from the same seeds, and say which won.

    Examples:
        clrtool compare digits
        clrtool compare mine.yaml --policies fixed,triangular2,cosine --seeds 5
        clrtool compare mine.yaml --policies fixed:0.01,one_cycle --epochs 10

    --policies takes names of policies with commas between them, fixed for the geometric mean of the bounds, fixed:0.01
    for a constant rate of your own, and plan files or run folders.

    The bounds come from a finished range test of the same config; if there is none, one is run first. A policy wins
    only if its lead is larger than the noise between seeds. The output folder gets config.yaml, runs.csv,
    compare.json and compare.png. The same command, without --fresh, resumes an interrupted comparison and shows a
    finished one again.
    """
    from clrtool.cli.compare_request import InconclusiveError, read_request
    from clrtool.config.file import find_config, run_name
    from clrtool.report.records.comparison_file import COMPARISON

    path = find_config(config)
    place = output or Path("runs") / f"{run_name(path)}-compare"
    spec = read_spec(path, overrides or (), place, build_options(context.params, path), display_of(context.params),
                     checkpoint_every=checkpoint_every, accumulate=on_oom is OnOom.accumulate,
                     fresh=fresh)  # fmt: skip
    folder = ResultFolder(spec, context.obj, COMPARISON)
    try:
        record = _compare(folder, read_request(spec, context.params))
    except InconclusiveError as error:
        if as_json:
            with readable_or_not():
                typer.echo(json.dumps({"status": "inconclusive", "code": INCONCLUSIVE, "message": str(error)}))
        else:
            say(str(error))
        raise typer.Exit(INCONCLUSIVE) from error
    _show(record, spec)


def _compare(folder: ResultFolder[Comparison], request: Request) -> Comparison:
    """Bounds, trainings, files: what is not there yet.

    Raises:
        OutOfMemoryError: a batch does not fit.
        Interrupted: a signal asked to stop, and everything is saved.
    """
    spec, given = folder.spec, request.given
    wanted = None if given is None else request.sha256(spec, given)
    if (finished := folder.finished(wanted, asked_target=request.target)) is not None:
        return finished
    with folder.held():
        bounds = given or _measured_bounds(folder)
        record = folder.open(request.sha256(spec, bounds))
        if record is None:
            record = _trained(folder, request, bounds)
        elif record.asked_target != request.target:
            record = replace(record, asked_target=request.target)
            folder.write(record)
        folder.finish(record)
        return record


def _measured_bounds(folder: ResultFolder[Comparison]) -> BoundsFrom:
    """The bounds of a range test in the folder of the comparison, which goes on if it was interrupted."""
    from clrtool.cli.compare_request import bounds_of
    from clrtool.files import refuse_links
    from clrtool.report.records.comparison_file import RANGE_TEST

    refuse_links(folder.path, RANGE_TEST)
    own = replace(folder.spec, folder=folder.path / RANGE_TEST, fresh=folder.fresh)
    folder.say(f"{own.folder}: running a range test first, for the bounds")
    return bounds_of(measure(RunFolder(own, folder.signals)), own.folder, RANGE_TEST)


def _trained(folder: ResultFolder[Comparison], request: Request, bounds: BoundsFrom) -> Comparison:
    """Every policy, trained; what was trained before an interruption is not trained again."""
    folder.say("loading torch and the data")
    for attempt in Attempts(folder, SWEEP):
        with attempt as tried:
            workload = folder.spec.build(micro_batches=tried.micro_batches, epochs=request.epochs)
            tried.workload = workload
            with folder.signals.deferred():
                record = _train(folder, request, bounds, workload)
                folder.write(record)
            return record
    raise AssertionError("attempts end with a record or an error")


def _train(
    folder: ResultFolder[Comparison], request: Request, bounds: BoundsFrom, workload: Workload
) -> Comparison:
    from clrtool.engine.rangetest.compare import check_momentum, compared

    spec, config = folder.spec, folder.spec.config
    plans, iterations = request.plans(config.plan, bounds, workload.iterations_per_epoch)
    check_momentum(workload, plans.values())
    request_sha256, seeds = request.sha256(spec, bounds), range(config.seed, config.seed + request.seeds)
    journal = folder.opened_journal(workload, SWEEP, request_sha256, what=folder.files.another)
    folder.files.begin(folder.path, config)
    label, how = workload.metric.label, {"quiet": spec.display.quiet, "plain": spec.display.plain}
    with ComparisonProgress(list(plans), len(seeds), iterations, label, **how) as progress:
        record = compared(workload, plans, iterations, seeds, bounds, progress.tell, journal)
    return replace(
        record,
        asked_target=request.target,
        request_sha256=request_sha256,
        config_sha256=config.sha256(),
        warnings=(*record.warnings, *_other_data(bounds, workload.data_sha256)),
    )


def _other_data(bounds: BoundsFrom, data_sha256: str) -> list[str]:
    if bounds.data_sha256 is None or not is_other_data(bounds.data_sha256, data_sha256):
        return []
    text = f"The bounds from {bounds.source} were measured with different data than this comparison"
    return [f"{text}: clrtool rangetest CONFIG --fresh measures them again."]


def _show(record: Comparison, spec: RunSpec) -> None:
    from clrtool.report.records.comparison_file import COMPARISON
    from clrtool.report.text.comparison_table import comparison_table

    if spec.display.as_json:
        typer.echo(COMPARISON.to_json(record), nl=False)
        return
    show(comparison_table(record, spec.folder.resolve().name), plain=spec.display.plain)
    say(f"in {spec.folder}/: {', '.join(COMPARISON.names[1:])}", quiet=spec.display.quiet)
    if (best := record.judgement.best) is not None:
        command = shell_command("clrtool", "plan", argument(spec.folder / COMPARISON.result))
        say(f"next, for the plan of {best}: {command}", quiet=spec.display.quiet)
