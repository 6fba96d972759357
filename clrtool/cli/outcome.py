"""What a range test has found, on stdout, and what to type next, on stderr."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from clrtool.cli.console import draw, show
from clrtool.cli.run.spec import RunSpec
from clrtool.report.text.progress import say
from clrtool.words import argument, shell_command

if TYPE_CHECKING:
    from clrtool.core.results.record import RunRecord

INCONCLUSIVE = 3


def show_run(record: RunRecord, spec: RunSpec) -> None:
    """The result on stdout, and on stderr where it lies and what to type next."""
    from clrtool.report.records.run import to_json
    from clrtool.report.text.chart import range_test_chart
    from clrtool.report.text.tables import result_table

    if spec.display.as_json:
        typer.echo(to_json(record), nl=False)
        return
    if sys.stdout.isatty() and not spec.display.plain:
        draw(partial(range_test_chart, record))
        typer.echo()
    table = result_table(record, spec.folder.resolve().name, verbose=spec.display.verbose)
    show(table, plain=spec.display.plain)
    say(f"in {spec.folder}/: curve.csv, result.json, range_test.png", quiet=spec.display.quiet)
    say(_next(record, spec.folder), quiet=spec.display.quiet)


def check_conclusive(record: RunRecord) -> None:
    """Exit with 3 if the curve does not show both bounds."""
    if record.bounds.verdict.word == "inconclusive":
        raise typer.Exit(INCONCLUSIVE)


def _next(record: RunRecord, folder: Path) -> str:
    """What to type now."""
    if record.plan is None:
        return "next: clrtool guide troubleshooting, which has an entry for every verdict and advice"
    run = argument(folder)
    steps = ("plan", run), ("plan", run, "--format", "torch"), ("plot", run, "-o", folder / "report.html")
    return "next: " + "\n      ".join(shell_command("clrtool", *step) for step in steps)
