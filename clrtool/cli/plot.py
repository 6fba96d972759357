"""``clrtool plot``: pictures from files. Never imports torch."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clrtool.cli.console import draw
from clrtool.cli.plan_source import Asked, is_pair, make
from clrtool.errors import ConfigError
from clrtool.report.text.progress import say

if TYPE_CHECKING:
    from clrtool.core.planning.plan import Plan


Sources = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="SOURCE|KEY=VALUE", help="Run folders, files with a plan, names of runs in runs/; parameters of --from."
    ),
]
Output = Annotated[Path | None, typer.Option("-o", help="The picture: .png, .svg or .pdf; or a report: .html.")]


def plot(
    sources: Sources = None,
    others: Annotated[
        list[str] | None,
        typer.Option("--from", metavar="SOURCE", help="One more source, or another system's schedule. Repeatable."),
    ] = None,
    iterations: Annotated[int | None, typer.Option(help="Length of another system's schedule.")] = None,
    iterations_per_epoch: Annotated[int | None, typer.Option(help="For its axis in epochs.")] = None,
    output: Output = None,
    term: Annotated[bool, typer.Option("--term", help="Draw it here, as text.")] = False,
    tensorboard: Annotated[
        Path | None, typer.Option(metavar="LOGDIR", help="Write a range test here for TensorBoard.")
    ] = None,
) -> None:
    """Draw a range test, a comparison or a schedule, or overlay several schedules.

    A run folder gives its range test; without -o, its schedule too, both into the folder. The folder of a comparison
    gives its picture, a plan file its schedule, several sources their schedules in one picture. What a picture shows
    in words is beside it, in NAME.alt.txt. A report of a run, a comparison or a plan is one page that loads nothing.

    Examples: clrtool plot runs/digits -o digits.svg

    clrtool plot runs/digits -o report.html

    clrtool plot --from a.json b.json -o both.png

    clrtool plot --from torch:OneCycleLR max_lr=0.1 total_steps=1410 --iterations-per-epoch 47 -o one_cycle.png
    """
    from clrtool.report.records.run import find_run

    params = list(filter(is_pair, sources or ()))
    names = [*(others or ()), *(word for word in sources or () if word not in params)]
    if not names:
        raise ConfigError("plot needs a run folder, a plan file, or --from SYSTEM:NAME")
    if not any(map(_is_schedule, names)) and (params or iterations or iterations_per_epoch):
        raise ConfigError("NAME=VALUE, --iterations and --iterations-per-epoch are for --from SYSTEM:NAME")
    place = find_run(names[0]) if len(names) == 1 and not _is_schedule(names[0]) else None
    folder = place if place is not None and place.is_dir() else None
    if tensorboard is not None:
        if output is not None or term:
            raise ConfigError("--tensorboard writes its own files: leave out -o and --term")
        _write_events(folder, tensorboard)
        return
    several = {} if folder else dict.fromkeys(names)
    plans = _titled({name: _plan(name, params, iterations, iterations_per_epoch) for name in several})
    if term:
        _draw_here(folder, plans, output)
        return
    for path in _write(place, plans, output):
        say(f"{path}: written")


def _write(place: Path | None, plans: dict[str, Plan], output: Path | None) -> list[Path]:
    """A report, or pictures: of what is in a folder, or of schedules."""
    if output is not None and output.suffix.lower() == ".html":
        return _write_report(place, plans, output)
    if place is not None and place.is_dir():
        return _draw_run(place, output)
    return _draw_plans(plans, output, place)


def _write_report(place: Path | None, plans: dict[str, Plan], output: Path) -> list[Path]:
    """The page of a run, a comparison or a plan file."""
    from clrtool.files import write_whole
    from clrtool.report.pages.html_report import comparison_report, plan_report, range_test_report
    from clrtool.report.records.comparison_file import RESULT, read_comparison
    from clrtool.report.records.run import read_run

    if place is None:
        raise ConfigError(f"{output}: a report is of one run, comparison or plan file; -o FILE.svg draws any schedules")
    title, source = place.resolve().name, str(place)
    if not place.is_dir():
        ((title, plan),) = plans.items()
        report = plan_report(plan, title, source)
    elif (place / RESULT).is_file():
        report = comparison_report(read_comparison(place), title, source)
    else:
        report = range_test_report(read_run(place), title, source)
    write_whole(output, report)
    return [output]


def _write_events(folder: Path | None, logdir: Path) -> None:
    """A range test, for TensorBoard."""
    from clrtool.report.records.comparison_file import RESULT

    if folder is None or (folder / RESULT).is_file():
        raise ConfigError("--tensorboard takes the run folder of one range test")
    from clrtool.report.pages.tensorboard import write_events

    say(f"{write_events(folder, logdir)}: written")


def _draw_here(folder: Path | None, plans: dict[str, Plan], output: Path | None) -> None:
    """A run, a comparison or schedules, as text on stdout."""
    from clrtool.report.records.comparison_file import RESULT, read_comparison
    from clrtool.report.records.run import read_run
    from clrtool.report.text import chart

    if output is not None:
        raise ConfigError("--term draws here, into no file: leave out -o")
    if folder is None:
        draw(partial(chart.schedules_chart, plans))
    elif (folder / RESULT).is_file():
        draw(partial(chart.comparison_chart, read_comparison(folder)))
    else:
        draw(partial(chart.range_test_chart, read_run(folder)))


def _draw_plans(plans: dict[str, Plan], output: Path | None, place: Path | None) -> list[Path]:
    """One picture of all schedules, beside the plan file if it has no name of its own."""
    from clrtool.report.plots import plot_schedules, save_figure

    if output is None and place is None:
        raise ConfigError("this picture needs a name: -o FILE.png")
    target = output or place.with_suffix(".png")  # type: ignore[union-attr]
    save_figure(plot_schedules(plans), target)
    return [target]


def _draw_run(place: Path, output: Path | None) -> list[Path]:
    """The pictures of a folder: those of a range test, or that of a comparison."""
    from clrtool.report.plots import draw_comparison, draw_run, plot_comparison, plot_range_test, save_figure
    from clrtool.report.records.comparison_file import RESULT, read_comparison
    from clrtool.report.records.run import read_run

    if (place / RESULT).is_file():
        comparison = read_comparison(place)
        if output is None:
            return [draw_comparison(place, comparison)]
        save_figure(plot_comparison(comparison, place.resolve().name), output)
        return [output]
    record = read_run(place)
    if output is None:
        return draw_run(place, record)
    save_figure(plot_range_test(record, place.resolve().name), output)
    return [output]


def _plan(name: str, params: list[str], iterations: int | None, iterations_per_epoch: int | None) -> Plan:
    from clrtool.report.records.plan_file import read_plan
    from clrtool.report.records.run import find_run

    if _is_schedule(name):
        return make(Asked(schedule=name, words=params, iterations=iterations,
                          numbers={"iterations_per_epoch": iterations_per_epoch}))  # fmt: skip
    place = find_run(name)
    return read_plan(place / "result.json" if place.is_dir() else place)


def _is_schedule(name: str) -> bool:
    """Whether a name is another system's schedule, torch:CyclicLR or torch.optim.lr_scheduler.CyclicLR."""
    if Path(name).exists() or (Path("runs") / name).is_dir():
        return False
    from clrtool.core.sources import find_source

    try:
        find_source(name)
    except ValueError:
        return ":" in name  # it will be refused with the names that are known
    return True


def _titled(plans: dict[str, Plan]) -> dict[str, Plan]:
    """The plans by the stems of their files, or by their whole names where two stems are the same."""
    short = [name if _is_schedule(name) else Path(name).resolve().stem for name in plans]
    return plans if len(set(short)) < len(short) else dict(zip(short, plans.values(), strict=True))
