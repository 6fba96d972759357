"""The chart for a terminal: its dots against the curve, at several widths, and in letters that any terminal has."""

import math

import numpy as np
import pytest

from clrtool.report.chart import HEIGHT, range_test_chart
from clrtool.report.run import read_run


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


def test_a_line_has_no_gaps_however_steep_it_is(record):
    found = dots(range_test_chart(record, 80))
    for x in range(max(column for column, _ in found)):
        here, there = ({row for column, row in found if column == at} for at in (x, x + 1))
        assert min(abs(one - other) for one in here for other in there) <= 1


def test_plot_term_draws_the_chart_and_writes_no_file(cli, digits_run, record):
    before = sorted(path.name for path in digits_run.iterdir())
    done = cli("plot", digits_run, "--term")
    assert done.code == 0
    assert done.out.splitlines()[0] == "accuracy, mean of 2 seeds"
    assert done.out.rstrip() in (range_test_chart(record, 100), range_test_chart(record, 100, ascii_only=True))
    assert sorted(path.name for path in digits_run.iterdir()) == before
    assert cli("plot", digits_run, "--term", "-o", "x.png").code == 2
