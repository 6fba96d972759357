"""``clrtool plan``: bounds -> a schedule in whole cycles. Never imports torch."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clrtool.cli.console import console, say
from clrtool.errors import ConfigError

if TYPE_CHECKING:
    from clrtool.core.plan import Plan

# Rows of a CSV that are computed at a time: the memory of a plan of any length stays that of one block.
CSV_BLOCK = 100_000


class Policy(StrEnum):
    """Schedule families."""

    triangular = "triangular"
    triangular2 = "triangular2"
    exp_range = "exp_range"


class Format(StrEnum):
    """What a plan is printed as."""

    table = "table"
    json = "json"
    csv = "csv"
    yaml = "yaml"


def plan(
    source: Annotated[
        str | None, typer.Argument(help="A run folder, a JSON file with a plan, or the name of a run in runs/.")
    ] = None,
    base_lr: Annotated[float | None, typer.Option(help="Lower bound, in place of a source.")] = None,
    max_lr: Annotated[float | None, typer.Option(help="Upper bound, in place of a source.")] = None,
    iterations_per_epoch: Annotated[
        int | None, typer.Option(help="Optimizer steps in an epoch, in place of a source.")
    ] = None,
    policy: Annotated[Policy | None, typer.Option(help="Schedule family.  [default: triangular2]")] = None,
    epochs: Annotated[
        float | None, typer.Option(help="Budget in epochs.  [default: 30, or that of the source]")
    ] = None,
    stepsize_epochs: Annotated[
        float | None, typer.Option(help="Half a cycle in epochs.  [default: 2 to 10, chosen for 4 cycles]")
    ] = None,
    form: Annotated[Format, typer.Option("--format", help="csv has one row per iteration.")] = Format.table,
    output: Annotated[Path | None, typer.Option("-o", help="Write to this file, not to stdout.")] = None,
) -> None:
    """Plan a training schedule in whole cycles that end at base_lr.

    The bounds come from a run, from a JSON file, or from three numbers. Options replace what the source planned.

    Examples: clrtool plan runs/digits --epochs 50

    clrtool plan --base-lr 0.001 --max-lr 0.006 --iterations-per-epoch 500 --epochs 32 --format json -o plan.json
    """
    from clrtool.core.plan import make_plan

    numbers = {"base_lr": base_lr, "max_lr": max_lr, "iterations_per_epoch": iterations_per_epoch}
    wishes = {"policy": policy, "epochs": epochs, "stepsize_epochs": stepsize_epochs}
    given = {name: value for name, value in (numbers | wishes).items() if value is not None}
    before, known = _find_plan(source) if source is not None else (None, {})
    if missing := [f"--{name.replace('_', '-')}" for name in numbers if name not in known | given]:
        what = "a run, a JSON file, or three numbers" if source is None else f"bounds, and {source} has none"
        raise ConfigError(f"plan needs {what}; missing: {', '.join(missing)}")
    if before is not None and not given:
        made = before
    else:
        try:
            made = make_plan(**(known | given))
        except ValueError as error:
            raise ConfigError(str(error)) from error
    _show(made, Path(source).resolve().stem if source else "plan", form, output)


def _find_plan(source: str) -> tuple[Plan | None, dict[str, Any]]:
    """The plan of a source and its numbers; of a run without a plan, the one number that it knows."""
    from clrtool.report.run import find_run, read_plan, read_run

    place = find_run(source)
    if place.is_file():
        made: Plan | None = read_plan(place)
        known = {}
    else:
        run = read_run(place)
        made, known = run.plan, {"iterations_per_epoch": run.sweep.iterations_per_epoch}
        if run.bounds.verdict.word == "inconclusive":
            say(f"warning: {place} is inconclusive: {run.bounds.advice[0].value}")
    names = ("base_lr", "max_lr", "iterations_per_epoch", "policy", "epochs")
    return made, {name: getattr(made, name) for name in names} if made else known


def _show(made: Plan, title: str, form: Format, output: Path | None) -> None:
    if output is not None:
        form = _form_of(output, form)
    if form is Format.table:
        from clrtool.report.tables import plan_table

        console().print(plan_table(made, title))
        return
    blocks = _blocks(made, form)
    if output is None:
        sys.stdout.writelines(blocks)
        return
    from clrtool.report.files import write_whole

    write_whole(output, "".join(blocks))
    say(f"{output}: written")


def _form_of(output: Path, form: Format) -> Format:
    """A file is for programs: its ending says which form, and an option may not contradict it."""
    endings = {".json": Format.json, ".csv": Format.csv, ".yaml": Format.yaml, ".yml": Format.yaml}
    by_ending = endings.get(output.suffix.lower())
    if by_ending is None or form not in (Format.table, by_ending):
        option = "" if form is Format.table else f" and --format {form}"
        raise ConfigError(f"-o {output}{option}: the file ends in {', '.join(endings)}, by its format")
    return by_ending


def _blocks(made: Plan, form: Format) -> Iterator[str]:
    from clrtool.report.run import plan_to_json

    if form is Format.csv:
        yield "iteration,lr\n"
        for start in range(0, made.iterations + 1, CSV_BLOCK):
            iterations = range(start, min(start + CSV_BLOCK, made.iterations + 1))
            lrs = made.schedule(iterations).tolist()
            yield "".join(f"{iteration},{lr!r}\n" for iteration, lr in zip(iterations, lrs, strict=True))
    elif form is Format.yaml:
        import io

        from ruamel.yaml import YAML

        stream = io.StringIO()
        YAML().dump(made.to_dict(), stream)
        yield stream.getvalue()
    else:
        yield plan_to_json(made)
