"""``clrtool plot``: pictures from files. Never imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clrtool.cli.complete import runs
from clrtool.cli.console import draw
from clrtool.cli.help import OUTPUT, RUN
from clrtool.errors import ConfigError
from clrtool.files import write_whole
from clrtool.report.text.progress import say

if TYPE_CHECKING:
    from clrtool.core.planning.plan import Plan
    from clrtool.core.results.comparison import Comparison
    from clrtool.core.results.record import RunRecord
    from clrtool.core.results.varied import VaryRecord

    # What is drawn: plans by their titles, or what is finished in a folder.
    Found = dict[str, Plan] | RunRecord | Comparison | VaryRecord

NUMBERS = "Schedule from numbers"
Sources = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[SOURCE | KEY=VALUE]...",
        help="Runs, plan files; parameters of --from.",
        autocompletion=runs,
    ),
]
Others = Annotated[
    list[str] | None,
    typer.Option(
        "--from",
        metavar="SYSTEM:NAME",
        help="Other system's schedule, or one more source.",
        rich_help_panel=RUN,
    ),
]
Iterations = Annotated[
    int | None, typer.Option(metavar="N", help="Length of the schedule of --from.", rich_help_panel=RUN)
]
PerEpoch = Annotated[int | None, typer.Option(metavar="N", help="Optimizer steps per epoch.", rich_help_panel=RUN)]
BaseLr = Annotated[float | None, typer.Option(metavar="LR", help="Lower bound.", rich_help_panel=NUMBERS)]
MaxLr = Annotated[float | None, typer.Option(metavar="LR", help="Upper bound.", rich_help_panel=NUMBERS)]
Policy = Annotated[
    str | None, typer.Option(metavar="NAME", help="Policy.  [default: triangular2]", rich_help_panel=NUMBERS)
]
Epochs = Annotated[
    float | None, typer.Option(metavar="N", help="Length of training.  [default: 30]", rich_help_panel=NUMBERS)
]
Output = Annotated[
    Path | None,
    typer.Option("-o", metavar="FILE", help="Picture: .png, .svg or .pdf; or report: .html.", rich_help_panel=OUTPUT),
]
Term = Annotated[bool, typer.Option("--term", help="Draw in the terminal, as text.", rich_help_panel=OUTPUT)]
Events = Annotated[
    Path | None, typer.Option(metavar="LOGDIR", help="Write TensorBoard events to LOGDIR.", rich_help_panel=OUTPUT)
]


# fmt: off
def plot(
    context: typer.Context, sources: Sources = None, others: Others = None, iterations: Iterations = None,
    iterations_per_epoch: PerEpoch = None, base_lr: BaseLr = None, max_lr: MaxLr = None, policy: Policy = None,
    epochs: Epochs = None, output: Output = None, term: Term = False, tensorboard: Events = None,
) -> None:
    # fmt: on
    """Draw a range test, a comparison, or one or more schedules.

    Examples:
        clrtool plot digits -o report.html
        clrtool plot --from a.json b.json -o both.png
        clrtool plot --base-lr 0.01 --max-lr 0.1 --iterations-per-epoch 500 --term

    A run folder gives the picture of its range test; without -o, of its schedule too, both written into the folder.
    The folder of a comparison or of rangetest --vary gives its picture, a plan file its schedule, several sources
    their schedules in one picture. Beside each picture, NAME.alt.txt describes it. A report is one HTML page that
    loads nothing from elsewhere.
    """
    from clrtool.cli.plan_asked import is_pair
    from clrtool.report.records.run import find_run

    params = list(filter(is_pair, sources or ()))
    names = [*(others or ()), *(word for word in sources or () if word not in params)]
    if numbers := _numbers(context.params):
        if names or params:
            raise ConfigError(f"{', '.join(numbers)}: they are a schedule by themselves; leave out every other source")
        _draw_numbers(context.params, output, term=term)
        return
    if not names:
        raise ConfigError(
            "plot needs a run folder, a plan file, --from SYSTEM:NAME, or --base-lr, --max-lr and "
            "--iterations-per-epoch"
        )
    if not any(map(_is_schedule, names)) and (params or iterations or iterations_per_epoch):
        raise ConfigError("NAME=VALUE, --iterations and --iterations-per-epoch are for --from SYSTEM:NAME")
    place = find_run(names[0]) if len(names) == 1 and not _is_schedule(names[0]) else None
    folder = place if place is not None and place.is_dir() else None
    if tensorboard is not None:
        if output is not None or term:
            raise ConfigError("--tensorboard writes its own files: leave out -o and --term")
        _write_events(folder, tensorboard)
        return
    found: Found = _finished(folder) if folder else _plans(names, params, iterations, iterations_per_epoch)
    if term:
        _draw_here(found, output)
        return
    for path in _write(place, found, output):
        say(f"{path}: written")


def _numbers(params: Mapping[str, Any]) -> list[str]:
    """The options by which a schedule is given as numbers, of those that were used."""
    return [f"--{name.replace('_', '-')}" for name in ("base_lr", "max_lr", "policy", "epochs") if params[name]]


def _draw_numbers(params: Mapping[str, Any], output: Path | None, *, term: bool) -> None:
    from clrtool.cli.plan_asked import NUMBERS, WISHES, Asked
    from clrtool.cli.plan_source import make

    found: Found = {"plan": make(Asked(options={name: params.get(name) for name in (*NUMBERS, *WISHES)}))}
    if term:
        _draw_here(found, output)
        return
    for path in _write(None, found, output):
        say(f"{path}: written")


def _finished(folder: Path) -> RunRecord | Comparison | VaryRecord:
    """The range test, the comparison or the race over values in a folder."""
    from clrtool.report.records.comparison_file import COMPARISON
    from clrtool.report.records.run import read_run
    from clrtool.report.records.vary_file import VARIED

    if (folder / VARIED.result).is_file():
        return VARIED.read(folder)
    return COMPARISON.read(folder) if (folder / COMPARISON.result).is_file() else read_run(folder)


def _write_events(folder: Path | None, logdir: Path) -> None:
    """A range test, for TensorBoard."""
    from clrtool.report.records.comparison_file import COMPARISON
    from clrtool.report.records.vary_file import VARIED

    if folder is None or any((folder / files.result).is_file() for files in (COMPARISON, VARIED)):
        raise ConfigError("--tensorboard takes the run folder of one range test")
    from clrtool.report.pages.tensorboard import write_events

    say(f"{write_events(folder, logdir)}: written")


def _draw_here(found: Found, output: Path | None) -> None:
    """As text on stdout."""
    from clrtool.core.results.record import RunRecord
    from clrtool.core.results.varied import VaryRecord
    from clrtool.report.text import chart

    if isinstance(found, VaryRecord):
        raise ConfigError("--term draws no race over values: -o FILE.png does")
    if output is not None:
        raise ConfigError("--term draws here, into no file: leave out -o")
    if isinstance(found, dict):
        draw(partial(chart.schedules_chart, found))
    elif isinstance(found, RunRecord):
        draw(partial(chart.range_test_chart, found))
    else:
        draw(partial(chart.comparison_chart, found))


def _write(place: Path | None, found: Found, output: Path | None) -> list[Path]:
    """A report or a picture; without a name for it the pictures in a folder, or one beside a plan file."""
    from clrtool.core.results.record import RunRecord
    from clrtool.report import plots

    if output is not None and output.suffix.lower() == ".html":
        write_whole(output, _report(place, found, output))
        return [output]
    if isinstance(found, dict):
        target = output or (place and place.with_suffix(".png"))
        if target is None:
            raise ConfigError("this picture needs a name: -o FILE.png")
        plots.save_figure(plots.plot_schedules(found), target)
        return [target]
    assert place is not None
    if output is None:
        return plots.draw_run(place, found) if isinstance(found, RunRecord) else [plots.draw_result(place, found)]
    plots.save_figure(plots.plot_result(found, place.resolve().name), output)
    return [output]


def _report(place: Path | None, found: Found, output: Path) -> str:
    """The page of a run, a comparison or a plan file."""
    from clrtool.core.results.record import RunRecord
    from clrtool.core.results.varied import VaryRecord
    from clrtool.report.pages.html_report import comparison_report, plan_report, range_test_report

    if place is None:
        raise ConfigError(f"{output}: a report shows one run, comparison or plan file; -o FILE.svg draws any schedules")
    if isinstance(found, VaryRecord):
        raise ConfigError(f"{output}: a race over values has a picture and no report: -o FILE.png")
    title, source = place.resolve().name, str(place)
    if isinstance(found, RunRecord):
        return range_test_report(found, title, source)
    if isinstance(found, dict):
        ((title, plan),) = found.items()
        return plan_report(plan, title, source)
    return comparison_report(found, title, source)


def _plan(name: str, params: list[str], iterations: int | None, iterations_per_epoch: int | None) -> Plan:
    from clrtool.cli.plan_asked import Asked
    from clrtool.cli.plan_bounds import plan_of
    from clrtool.cli.plan_source import make

    if not _is_schedule(name):
        return plan_of(name)
    options = {"iterations_per_epoch": iterations_per_epoch}
    return make(Asked(schedule=name, words=params, iterations=iterations, options=options))


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


def _plans(
    names: list[str], params: list[str], iterations: int | None, iterations_per_epoch: int | None
) -> dict[str, Plan]:
    """The plans by the stems of their files, or by their whole names where two stems are the same."""
    plans = {name: _plan(name, params, iterations, iterations_per_epoch) for name in names}
    short = [name if _is_schedule(name) else Path(name).resolve().stem for name in plans]
    return plans if len(set(short)) < len(short) else dict(zip(short, plans.values(), strict=True))
