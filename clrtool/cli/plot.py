"""``clrtool plot``: pictures from files. Never imports torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clrtool.cli.console import say


def plot(
    source: Annotated[
        str, typer.Argument(help="A run folder, a JSON file with a plan, or the name of a run in runs/.")
    ],
    output: Annotated[Path | None, typer.Option("-o", help="The picture: .png, .svg or .pdf.")] = None,
) -> None:
    """Draw a range test or a schedule.

    A run folder gives its range test; without -o, its schedule too, both into the folder. A JSON file gives the
    schedule of its plan.

    Examples: clrtool plot runs/digits -o digits.svg

    clrtool plot plan.json -o schedule.png
    """
    from clrtool.report.plots import draw_run, plot_range_test, plot_schedule, save_figure
    from clrtool.report.run import find_run, read_plan, read_run

    place = find_run(source)
    if place.is_file():
        target = output or place.with_suffix(".png")
        save_figure(plot_schedule(read_plan(place), place.stem), target)
        written = [target]
    elif output is not None:
        save_figure(plot_range_test(read_run(place), place.name), output)
        written = [output]
    else:
        written = draw_run(place, read_run(place))
    for path in written:
        say(f"{path}: written")
