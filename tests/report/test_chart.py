"""The chart for a terminal: its dots against the curve, at several widths, and in letters that any terminal has."""

import math

import numpy as np
import pytest

from clrtool.core.planning.make import make_plan
from clrtool.errors import ConfigError
from clrtool.report.records.run import read_run
from clrtool.report.text.canvas import HEIGHT, LABEL, Axis, Canvas
from clrtool.report.text.chart import comparison_chart, range_test_chart, schedules_chart, sweep_chart
from tests.core.test_comparison import comparison
from tests.report.test_plots import RACES, raced


@pytest.fixture(scope="module")
def record(digits_run):
    return read_run(digits_run)


def dots(chart):
    """The dots of the Braille letters as (column, row), from the left and from the top."""
    found = set()
    for y, line in enumerate(chart.splitlines()[1 : HEIGHT + 1]):
        for x, letter in enumerate(line[9:]):
            bits = ord(letter) - 0x2800 if ord(letter) >= 0x2800 else 0
            for number, (dx, dy) in enumerate([(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (0, 3), (1, 3)]):
                if bits >> number & 1:
                    found.add((2 * x + dx, 4 * y + dy))
    return found


@pytest.mark.parametrize("width", [60, 80, 160])
def test_the_dots_are_the_mean_curve_over_the_learning_rate_as_it_was_swept(record, width):
    found, sweep = dots(range_test_chart(record, width)), record.sweep
    columns = 2 * (width - 9)
    length = min(len(curve.lr) for curve in sweep.curves)
    mean = np.mean([curve.metric[:length] for curve in sweep.curves], axis=0)
    for lr, value in zip(sweep.curves[0].lr[:length], mean, strict=True):
        share = math.log(lr / sweep.start_lr) / math.log(sweep.end_lr / sweep.start_lr)
        x = round(min(max(share, 0), 1) * (columns - 1))
        y = (4 * HEIGHT - 1) * (mean.max() - value) / (mean.max() - mean.min())
        near = [row for column, row in found if abs(column - x) <= 1]
        assert min(abs(row - y) for row in near) <= 2.5


@pytest.mark.parametrize("width", [1, 40, 60, 80, 160])
@pytest.mark.parametrize("ascii_only", [False, True])
def test_no_line_is_wider_than_the_terminal_and_both_bounds_are_pointed_at(record, width, ascii_only):
    chart = range_test_chart(record, width, ascii_only=ascii_only)
    assert max(map(len, chart.splitlines())) <= max(width, 40)
    assert f"base_lr {record.bounds.base_lr:.3g}" in chart
    assert f"max_lr {record.bounds.max_lr:.3g}" in chart
    arrows = [line.index("^") for line in chart.splitlines() if "^" in line]
    bars = {place for line in chart.splitlines()[1 : HEIGHT + 1] for place, letter in enumerate(line) if letter in "│|"}
    assert set(arrows) <= bars
    assert chart.isascii() is ascii_only


@pytest.mark.parametrize("name", [name for name in RACES if name != "no run at all"])
@pytest.mark.parametrize("width", [1, 40, 80])
@pytest.mark.parametrize("ascii_only", [False, True])
def test_the_chart_of_a_race_has_a_letter_for_each_horizon_within_the_terminal(record, name, width, ascii_only):
    race, raced_record = RACES[name], raced(record, RACES[name])
    chart = range_test_chart(raced_record, width, ascii_only=ascii_only)
    lines, legend = chart.splitlines(), " ".join(chart.split())
    assert max(map(len, lines)) <= max(width, 40)
    for letter, horizon in zip("abcdefgh", sorted({p.iterations for p in race.probes if p.seed == 0}), strict=False):
        assert f"{letter} {horizon:,}" in legend
    assert raced_record.bounds.max_lr is None or f"max_lr {raced_record.bounds.max_lr:.3g}" in chart
    drawn = {letter for line in lines[1 : HEIGHT + 1] for letter in line[9:] if letter.isalpha() or letter == "*"}
    assert bool(drawn) is any(math.isfinite(probe.loss) for probe in race.probes)
    assert chart.isascii() or not ascii_only


def test_a_line_has_no_gaps_however_steep_it_is(record):
    found = dots(range_test_chart(record, 80))
    for x in range(max(column for column, _ in found)):
        here, there = ({row for column, row in found if column == at} for at in (x, x + 1))
        assert min(abs(one - other) for one in here for other in there) <= 1


def rows_of(chart, letter):
    """The rows in which a letter is drawn, from the top, by column."""
    lines = chart.splitlines()[1 : HEIGHT + 1]
    return {x: y for y, line in enumerate(lines) for x, found in enumerate(line[LABEL + 1 :]) if found == letter}


def test_policies_are_told_apart_by_letters_and_the_better_is_above_the_worse():
    chart = comparison_chart(comparison({"good": [0.9, 0.92], "bad": [0.3, 0.32]}), 60)
    assert max(map(len, chart.splitlines())) <= 60
    good, bad = rows_of(chart, "a"), rows_of(chart, "b")
    assert all(good[x] <= bad[x] for x in good.keys() & bad.keys())
    assert good[max(good)] == 0, "the best is the end of the axis"
    assert bad[max(bad)] == HEIGHT - 1
    assert "a = good, ends at 0.91\nb = bad, ends at 0.31" in chart


def test_a_schedule_peaks_where_its_plan_does_and_several_have_a_letter_each():
    plan = make_plan(0.01, 0.1, 100, policy="triangular", epochs=8, cycles=2)
    found = dots(schedules_chart({"mine": plan}, 80))
    columns = 2 * (80 - 9)
    top = {column for column, row in found if row == 0}
    peaks = [int(i) for i in range(plan.last + 1) if plan.lr(np.array([i]))[0] == plan.max_lr]
    assert all(min(abs(column - peak / plan.last * (columns - 1)) for column in top) <= 1 for peak in peaks)
    several = schedules_chart({"one": plan, "two": make_plan(0.01, 0.05, 100, policy="triangular", epochs=8)}, 60)
    assert {"a = one", "b = two"} <= {line.partition(",")[0] for line in several.splitlines()}
    with pytest.raises(ConfigError, match="26 schedules"):
        schedules_chart({str(number): plan for number in range(27)})


def test_what_is_not_finite_is_left_out_and_nothing_at_all_is_an_empty_frame():
    rates, nan = [0.001, 0.01, 0.1], math.nan
    assert dots(sweep_chart([(rates, [0.1, 0.5, nan])], "accuracy", 60))
    for values in ([nan, nan, nan], []):
        assert not dots(sweep_chart([(rates[: len(values)], values)], "accuracy", 60))


@pytest.mark.parametrize("is_log", [False, True])
def test_a_bar_stands_behind_the_curve_at_its_place(is_log):
    x, y = np.geomspace(1, 1000, 50), np.linspace(0, 1, 50)
    canvas = Canvas(Axis(1, 1000, is_log), Axis(0, 1), 59)
    canvas.line(x, y)
    chart = canvas.framed("title", "x", {"here": 10.0})
    arrow = next(line.index("^") for line in chart.splitlines() if "here" in line) - LABEL - 1
    assert arrow == round(49 / 3 if is_log else 49 * 9 / 999)
    column = [line[LABEL + 1 + arrow] for line in chart.splitlines()[1 : HEIGHT + 1]]
    assert all(letter == "│" or letter > "\u2800" for letter in column)
    assert column.count("│") > HEIGHT / 2


def test_plot_term_draws_the_chart_and_writes_no_file(cli, digits_run, record):
    before = sorted(path.name for path in digits_run.iterdir())
    done = cli("plot", digits_run, "--term")
    assert done.code == 0
    assert done.out.splitlines()[0] == "accuracy, mean of 2 seeds"
    assert done.out.rstrip() in (range_test_chart(record, 100), range_test_chart(record, 100, ascii_only=True))
    assert sorted(path.name for path in digits_run.iterdir()) == before
    assert cli("plot", digits_run, "--term", "-o", "x.png").code == 2
    plans = cli("plot", "--from", digits_run / "result.json", digits_run, "--term").out
    assert "learning rate of 2 schedules" in plans
