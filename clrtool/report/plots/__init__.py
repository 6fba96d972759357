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
from clrtool.report.records import vary_file
from clrtool.report.records.comparison_file import PICTURE


def plot_range_test(record: RunRecord, title: str) -> Figure:
    """The picture of a range test: of its race and the sweep before it, or of the sweep alone."""
    if record.race is None or not record.race.probes:
        return plot_sweep(record, title)
    return plot_race(record, record.race, title)


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


def draw_comparison(folder: Path, record: Comparison) -> Path:
    """Draw the picture of a comparison into its folder, and name it."""
    save_figure(plot_comparison(record, folder.resolve().name), folder / PICTURE)
    return folder / PICTURE


def draw_vary(folder: Path, record: VaryRecord) -> Path:
    """Draw the picture of a race over values into its folder, and name it."""
    save_figure(plot_vary(record, folder.resolve().name), folder / vary_file.PICTURE)
    return folder / vary_file.PICTURE
