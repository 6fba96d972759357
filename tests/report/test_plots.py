"""Pictures: the right things in them, nothing overlapping, the same bytes for the same run."""

import dataclasses
import itertools
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from PIL import Image

from clrtool.core.bounds import find_bounds
from clrtool.core.curve import Curve, SweepOutcome
from clrtool.core.plan import make_plan, plan_from
from clrtool.errors import ConfigError
from clrtool.report.plots import plot_range_test, plot_schedules, save_figure
from clrtool.report.run import read_run


def texts(figure):
    return " | ".join(text.get_text() for text in figure.findobj(Text) if text.get_text())


def overlaps(figure, texts):
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    boxes = [text.get_window_extent(renderer) for text in texts]
    return [(a, b) for a, b in itertools.combinations(boxes, 2) if a.overlaps(b)]


def test_the_range_test_shows_both_bounds_the_verdict_and_every_seed(digits_run):
    record = read_run(digits_run)
    figure = plot_range_test(record, "digits")
    shown = texts(figure)
    for word in ("base_lr", "max_lr", "held-out accuracy", "training loss", record.bounds.verdict.word, "2 seeds"):
        assert word in shown
    top = figure.axes[0]
    assert sum(len(line.get_xdata()) == 11 for line in top.lines) == 4  # two seeds, their mean and the fit


@pytest.mark.parametrize("ratio", [1.05, 2, 30])
@pytest.mark.parametrize("place", [1.1e-3, 0.02, 0.9])
def test_the_labels_of_the_bounds_never_overlap_or_leave_the_picture(digits_run, ratio, place):
    record = read_run(digits_run)
    base_lr = place / ratio
    intervals = {"base_lr_interval": (base_lr / 1.2, base_lr * 1.2), "max_lr_interval": (place / 1.2, place * 1.2)}
    bounds = dataclasses.replace(record.bounds, base_lr=base_lr, max_lr=place, **intervals)
    figure = plot_range_test(dataclasses.replace(record, bounds=bounds), "digits")
    labels = [text for text in figure.axes[0].texts if "_lr" in text.get_text()]
    assert len(labels) == 2
    assert not overlaps(figure, [*labels, figure._suptitle])
    renderer = FigureCanvasAgg(figure).get_renderer()
    for label in labels:
        box = label.get_window_extent(renderer)
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.x1


def test_a_run_without_bounds_and_with_values_that_are_not_finite_is_drawn(digits_run, tmp_path):
    record = read_run(digits_run)
    broken = Curve(0, SweepOutcome.NOT_FINITE, [0, 5], [0, 0.1], [1e-3, 2e-3], [np.nan] * 2, [2.3, np.nan], [0.1, 0.1])
    sweep = dataclasses.replace(record.sweep, curves=(broken,))
    none = dataclasses.replace(record, sweep=sweep, bounds=find_bounds([broken], 100), plan=None)
    figure = plot_range_test(none, "broken")
    save_figure(figure, tmp_path / "a.png")
    assert "inconclusive" in texts(figure)


def test_a_hostile_title_is_shown_as_it_is(digits_run, tmp_path):
    figure = plot_range_test(read_run(digits_run), "$\\frac{$ \x1b[2J")
    save_figure(figure, tmp_path / "a.png")
    assert "\x1b" not in texts(figure)


def test_the_schedule_passes_through_every_peak_and_names_its_numbers():
    plan = make_plan(1e-3, 1e-2, 470, epochs=30)
    figure = plot_schedules({"digits": plan})
    x, y = figure.axes[0].lines[0].get_data()
    assert max(y) == 1e-2
    assert np.interp(plan.stepsize_epochs, x, y) == pytest.approx(1e-2)
    for word in ("base_lr\n0.001", "max_lr\n0.01", "triangular2", "4 cycles", "epoch", "iteration"):
        assert word in texts(figure)


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_the_same_run_gives_the_same_bytes_in_two_processes(digits_run, tmp_path, suffix):
    pictures = []
    for hash_seed in ("1", "2"):
        target = tmp_path / f"{hash_seed}{suffix}"
        command = [sys.executable, "-m", "clrtool", "plot", str(digits_run), "-o", str(target)]
        subprocess.run(command, env={"PYTHONHASHSEED": hash_seed}, check=True, capture_output=True)
        pictures.append(target.read_bytes())
    assert pictures[0] == pictures[1]


def test_pictures_have_the_size_that_is_read_on_a_page(digits_run):
    for name, size in (("range_test.png", (1200, 960)), ("schedule.png", (1200, 600))):
        with Image.open(digits_run / name) as picture:
            assert picture.size == size


def test_another_ending_is_refused(digits_run, tmp_path):
    with pytest.raises(ConfigError, match=r"ends in .png, .svg, .pdf"):
        save_figure(plot_schedules({"a": make_plan(1e-3, 1e-2, 10)}), tmp_path / "a.bmp")


def schedules(*policies, **extra):
    return {policy: make_plan(1e-3, 1e-2, 47, epochs=32, policy=policy, **extra) for policy in policies}


def test_several_schedules_are_one_line_each_with_dots_at_the_ends_of_their_cycles():
    figure = plot_schedules(schedules("triangular2", "one_cycle", "cosine_restarts"))
    (axes,) = figure.axes
    lines = [line for line in axes.lines if line.get_linestyle() == "-"]
    assert [line.get_label() for line in lines] == ["triangular2", "one_cycle", "cosine_restarts"]
    assert len({line.get_color() for line in lines}) == 3
    dots = [line.get_xdata().tolist() for line in axes.lines if line.get_marker() == "o"]
    assert dots == [[8, 16, 24, 32]] * 2
    assert axes.get_xlabel() == "epoch (dots: ends of cycles)"
    assert [child.get_xlabel() for child in axes.child_axes] == ["iteration"]


def test_the_curve_in_the_picture_is_the_plan_peaks_and_all():
    plan = make_plan(1e-3, 1e-2, 47, epochs=400, policy="triangular")
    figure = plot_schedules({"a": plan})
    line = next(line for line in figure.axes[0].lines if line.get_linestyle() == "-")
    iterations = np.rint(line.get_xdata() * 47).astype(int)
    np.testing.assert_allclose(line.get_ydata(), plan.lr(iterations))
    assert np.sum(np.isclose(line.get_ydata(), 1e-2, rtol=1e-12)) >= plan.num_cycles


def test_a_momentum_that_moves_has_a_panel_of_its_own():
    figure = plot_schedules(schedules("triangular2", "one_cycle", momentum=(0.85, 0.95)))
    top, below = figure.axes
    assert (top.get_ylabel(), below.get_ylabel()) == ("learning rate", "momentum")
    assert len(below.lines) == 2
    assert below.lines[0].get_ydata().min() == pytest.approx(0.85)
    assert top.get_xlim() == below.get_xlim()
    assert len(plot_schedules(schedules("triangular2")).axes) == 1
    FigureCanvasAgg(figure).draw()
    assert top.get_position().height > 0.4
    assert below.get_position().height > 0.1


def test_the_axis_is_in_iterations_where_the_epochs_are_not_known():
    plan = plan_from("torch:OneCycleLR", {"max_lr": 0.1, "total_steps": 100, "cycle_momentum": False})
    (axes,) = plot_schedules({"a": plan}).axes
    assert axes.get_xlabel() == "iteration"
    assert axes.get_xlim() == (0, 100)
    assert not axes.child_axes


def test_more_schedules_than_colours_are_refused():
    plan = make_plan(1e-3, 1e-2, 47)
    with pytest.raises(ConfigError, match="room for 8 schedules, not 9"):
        plot_schedules({str(number): plan for number in range(9)})
