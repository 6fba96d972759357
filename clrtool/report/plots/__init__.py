"""The pictures: range tests, comparisons, races over values, schedules. Only here is matplotlib imported."""

from __future__ import annotations

from pathlib import Path

import clrtool.report.plots.own_defaults  # noqa: F401 (before anything imports matplotlib)

# isort: split
from matplotlib.figure import Figure as Figure

from clrtool.core.results.comparison import Comparison
from clrtool.core.results.record import RunRecord
from clrtool.core.results.varied import VaryRecord
from clrtool.report.plots.comparison import plot_comparison as plot_comparison
from clrtool.report.plots.race import plot_race
from clrtool.report.plots.range_test import plot_sweep
from clrtool.report.plots.schedule import plot_schedules as plot_schedules
from clrtool.report.plots.style import drawn as drawn
from clrtool.report.plots.style import save_figure as save_figure
from clrtool.report.plots.vary import plot_vary as plot_vary
from clrtool.report.records.comparison_file import COMPARISON
from clrtool.report.records.vary_file import VARIED


def plot_range_test(record: RunRecord, title: str) -> Figure:
    """The picture of a range test: of its race and the sweep before it, or of the sweep alone."""
    if record.race is None or not record.race.probes:
        return plot_sweep(record, title)
    return plot_race(record, record.race, title)


def plot_result(record: RunRecord | Comparison | VaryRecord, title: str) -> Figure:
    """The picture of any result."""
    if isinstance(record, RunRecord):
        return plot_range_test(record, title)
    return plot_comparison(record, title) if isinstance(record, Comparison) else plot_vary(record, title)


def draw_run(folder: Path, record: RunRecord) -> list[Path]:
    """Draw the pictures of a run into its folder, and name them."""
    pictures = {folder / f"{name}.png": figure for name, figure in run_figures(record, folder.resolve().name).items()}
    for path, figure in pictures.items():
        save_figure(figure, path)
    return list(pictures)


def run_figures(record: RunRecord, title: str) -> dict[str, Figure]:
    """The pictures of a run by their names: ``range_test``, and ``schedule`` if there is a plan."""
    figures = {"range_test": plot_range_test(record, title)}
    return figures if record.plan is None else figures | {"schedule": plot_schedules({title: record.plan})}


def draw_result(folder: Path, record: Comparison | VaryRecord) -> Path:
    """Draw the picture of a comparison or of a race over values into its folder, and name it."""
    path = folder / (COMPARISON if isinstance(record, Comparison) else VARIED).picture
    save_figure(plot_result(record, folder.resolve().name), path)
    return path
