"""``clrtool plan --curve``: the bounds of a curve that somebody else measured."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import typer

from clrtool.cli.console import show
from clrtool.cli.outcome import INCONCLUSIVE
from clrtool.cli.plan_source import Asked
from clrtool.core.reading.paper import find_bounds
from clrtool.errors import ConfigError, as_config_error
from clrtool.report.records.curve_file import read_curves
from clrtool.report.text.progress import say
from clrtool.report.text.tables import bounds_table


def with_bounds(asked: Asked, file: Path, form: str, *, to_file: bool, linted: bool, plain: bool) -> Asked:
    """What was asked for, with the bounds of a curve.

    They are shown as a table if the plan is, as JSON if nothing else is asked for, and then it exits; with 3 if there
    are none.
    """
    if asked.source is not None or asked.schedule is not None or asked.stages or asked.csv is not None:
        raise ConfigError(f"bounds come from --curve {file}: leave out every other source")
    asked.refuse("--curve", "base_lr", "max_lr")
    alone = asked.iterations_per_epoch is None
    for_plan = asked.given() or asked.params() or asked.iterations or linted or to_file
    if alone and (for_plan or form not in ("table", "json")):
        raise ConfigError("a plan from --curve needs --iterations-per-epoch")
    found = read_curves(file)
    with as_config_error(f"{file}: "):
        bounds = find_bounds(found.curves, metric=found.metric, timed=found.timed)
    if form == "table" and not to_file:
        show(bounds_table(bounds, file.name), plain=plain)
    elif alone:
        sys.stdout.write(json.dumps({"bounds": bounds.to_dict()}, indent=2) + "\n")
    elif bounds.verdict.word == "inconclusive":
        say(f"warning: {file} is inconclusive: {bounds.advice[0].value}")
    if bounds.max_lr is None:
        raise typer.Exit(INCONCLUSIVE)
    if alone:
        say("next: add --iterations-per-epoch N for a plan")
        raise typer.Exit
    return replace(asked, options={**asked.options, "base_lr": bounds.base_lr, "max_lr": bounds.max_lr})
