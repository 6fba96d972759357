"""``clrtool rangetest``: config -> sweep -> bounds -> plan -> files."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clrtool.cli.console import Progress, console, say
from clrtool.errors import ConfigError, as_config_error

if TYPE_CHECKING:
    from clrtool.config import PlanConfig, RangeTestConfig
    from clrtool.core.curve import Point
    from clrtool.core.plan import Plan
    from clrtool.core.record import RunRecord
    from clrtool.engine.problem import Problem

INCONCLUSIVE, INTERRUPTED = 3, 130


def rangetest(
    config: Annotated[str, typer.Argument(help="A YAML file, or the name of a shipped config such as digits.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Values over those of the file: sweep.epochs=2")
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", help="The run folder.  [default: runs/<config name>]")] = None,
    seeds: Annotated[int | None, typer.Option(help="Sweeps with different seeds; short for sweep.seeds=N.")] = None,
    device: Annotated[str, typer.Option(help="auto (CUDA if there is any), cpu, cuda or cuda:N.")] = "auto",
    verify: Annotated[
        bool, typer.Option("--verify", help="Try other peaks and fixed rates by short runs that cost one training run.")
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Replace what the run folder holds.")] = False,
    download: Annotated[bool, typer.Option("--download", help="Let torchvision fetch a dataset.")] = False,
    allow_import: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Let the config import this code: 'pkg.module:*', 'pkg.*'. Repeatable."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print result.json on stdout and nothing else.")] = False,
    quiet: Annotated[bool, typer.Option("-q", help="No progress.")] = False,
) -> None:
    """Sweep the learning rate over a few epochs and read base_lr and max_lr off the held-out accuracy.

    Any model, data, optimizer and loss of torch, or factories of your own; another metric if the config names one.

    Writes config.yaml, curve.csv, result.json, range_test.png and schedule.png into the run folder. A finished run
    of the same config is shown again, not repeated. Exit code 3: the curve does not show both bounds.

    Example: clrtool rangetest digits sweep.epochs=2 --seeds 5 -o runs/short
    """
    from clrtool.config_file import find_config, load_config, located
    from clrtool.report.run import open_run

    quiet = quiet or as_json
    path = find_config(config)
    wishes = [*(overrides or ()), *([f"sweep.seeds={seeds}"] if seeds is not None else ())]
    settings = load_config(path, wishes)
    folder = output or Path("runs") / path.stem
    record = open_run(folder, settings, fresh=fresh)
    to_verify = verify and (record is None or (record.plan is not None and record.verification is None))
    if record is None or to_verify:
        source = {"device": device, "allow_import": allow_import or (), "download": download, "folder": path.parent}
        # stdout is for the result, whatever a user's factory prints
        with contextlib.redirect_stdout(sys.stderr), located(path, wishes):
            record = _measure(settings, folder, source, record, verify=verify, quiet=quiet)
    else:
        verified = "; there is no bound to verify" if verify and record.plan is None else ""
        say(f"{folder}: finished before with this config, shown again; --fresh runs it anew{verified}", quiet=quiet)
    _show(record, folder, as_json=as_json, quiet=quiet)
    if record.bounds.verdict.word == "inconclusive":
        raise typer.Exit(INCONCLUSIVE)


def _show(record: RunRecord, folder: Path, *, as_json: bool, quiet: bool) -> None:
    from clrtool.report.run import to_json
    from clrtool.report.tables import result_table

    if as_json:
        typer.echo(to_json(record), nl=False)
        return
    console().print(result_table(record, folder.resolve().name))
    say(f"in {folder}/: curve.csv, result.json, range_test.png", quiet=quiet)
    if record.plan is not None:
        say(f"next: clrtool plan {folder}", quiet=quiet)


def _measure(
    settings: RangeTestConfig,
    folder: Path,
    source: Mapping[str, Any],
    record: RunRecord | None,
    *,
    verify: bool,
    quiet: bool,
) -> RunRecord:
    """Config -> problem -> sweep -> bounds -> plan -> files; what is finished of it in ``record`` is kept."""
    from clrtool.report.plots import draw_run
    from clrtool.report.run import write_run

    say("loading torch and the data", quiet=quiet)
    from clrtool.engine.build import build_problem

    problem = build_problem(settings, **source)
    if record is not None and record.data_sha256 != problem.data_sha256:
        raise ConfigError(f"{folder} was measured on other data than there is now: --fresh runs it anew")
    _plan(settings.plan, problem, 1.0, 2.0)  # what cannot be planned should not fail after the sweep
    try:
        if record is None:
            record = _sweep(settings, problem, folder, quiet=quiet)
            write_run(folder, record)
            draw_run(folder, record)
        if verify and record.plan is not None:
            record = _verify(settings, problem, record, quiet=quiet)
            write_run(folder, record)
            draw_run(folder, record)
    except KeyboardInterrupt:
        goes = "starts over" if record is None else "tries the short runs again"
        say(f"interrupted; what was measured is in {folder / 'curve.csv'}, and the same command {goes}")
        raise typer.Exit(INTERRUPTED) from None
    return record


def _sweep(settings: RangeTestConfig, problem: Problem, folder: Path, *, quiet: bool) -> RunRecord:
    from clrtool.core.bounds import find_bounds
    from clrtool.core.record import RunRecord
    from clrtool.engine.problem import environment
    from clrtool.engine.sweep import run_range_test
    from clrtool.report.run import CurveLog

    size = problem.sweep_size(settings.sweep)
    epochs = size.iterations / problem.iterations_per_epoch
    with (
        CurveLog(folder, settings) as log,
        Progress(size.seeds, epochs, problem.metric.label, quiet=quiet) as progress,
    ):

        def on_point(seed: int, point: Point) -> None:
            log.append(seed, point)
            progress.update(seed, point)

        sweep = run_range_test(problem, settings.sweep, settings.seed, on_point)
    bounds = find_bounds(sweep.curves, sweep.heldout_samples, sweep.chance, sweep.metric)
    return RunRecord(
        sweep=sweep,
        bounds=bounds,
        plan=_plan(settings.plan, problem, bounds.base_lr, bounds.max_lr),
        environment=environment(problem.device),
        config_sha256=settings.sha256(),
        data_sha256=problem.data_sha256,
    )


def _verify(settings: RangeTestConfig, problem: Problem, record: RunRecord, *, quiet: bool) -> RunRecord:
    """Short runs around the bounds, which may move them and the plan."""
    from clrtool.core.verification import FIRST, SECOND, Trial, verified
    from clrtool.engine.verify import trial_iterations, verify

    assert record.plan is not None
    sweep, (first, second) = record.sweep, trial_iterations(problem, record.plan)
    seconds = sweep.train_seconds / (sweep.iterations - sweep.scout_iterations) * (FIRST * first + SECOND * second)
    lengths = (f"{length / problem.iterations_per_epoch:.2g}" for length in (first, second))
    say(
        f"verifying: {FIRST} runs of {next(lengths)} epochs and {SECOND} of {next(lengths)}, about {seconds:.0f} s",
        quiet=quiet,
    )

    def on_trial(trial: Trial) -> None:
        reached = "not finite" if trial.score is None else f"{problem.metric.label} {trial.score:.3f}"
        say(f"  {trial.kind} {trial.max_lr:.2e}  {trial.epochs:.2g} epochs  {reached}", quiet=quiet)

    seed = settings.seed + len(sweep.curves)
    found = verify(problem, record.plan, record.bounds, sweep, seed, on_trial)
    bounds = verified(record.bounds, found)
    plan = _plan(settings.plan, problem, bounds.base_lr, bounds.max_lr)
    return replace(record, bounds=bounds, plan=plan, verification=found)


def _plan(wishes: PlanConfig, problem: Problem, base_lr: float | None, max_lr: float | None) -> Plan | None:
    from clrtool.core.plan import make_plan

    if base_lr is None or max_lr is None:
        return None
    given = {name: value for name, value in wishes.model_dump().items() if value != "auto"}
    with as_config_error("plan: "):
        return make_plan(base_lr, max_lr, problem.iterations_per_epoch, **given)
