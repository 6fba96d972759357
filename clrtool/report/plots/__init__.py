"""The pictures: a range test, a comparison, and one schedule or several. Only here is matplotlib imported."""

from __future__ import annotations

from pathlib import Path

from clrtool.core.comparison import Comparison
from clrtool.core.record import RunRecord
from clrtool.report.comparison_file import PICTURE
from clrtool.report.plots.comparison import plot_comparison as plot_comparison
from clrtool.report.plots.range_test import plot_range_test as plot_range_test
from clrtool.report.plots.schedule import plot_schedules as plot_schedules
from clrtool.report.plots.style import save_figure as save_figure


def draw_run(folder: Path, record: RunRecord) -> list[Path]:
    """Draw the pictures of a run into its folder, and name them."""
    title = folder.resolve().name
    pictures = {folder / "range_test.png": plot_range_test(record, title)}
    if record.plan is not None:
        pictures[folder / "schedule.png"] = plot_schedules({title: record.plan})
    for path, figure in pictures.items():
        save_figure(figure, path)
    return list(pictures)


def draw_comparison(folder: Path, record: Comparison) -> Path:
    """Draw the picture of a comparison into its folder, and name it."""
    save_figure(plot_comparison(record, folder.resolve().name), folder / PICTURE)
    return folder / PICTURE
