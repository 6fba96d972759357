"""The curve record and the smoothing that moves nothing."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view

from clrtool.core.curve import Curve, Point, SweepOutcome, has_diverged, smooth

widths = st.integers(0, 30)
values = st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=200)


def curve(**changes):
    n = 5
    columns = {
        "iteration": range(n), "epoch": np.arange(n) / 2, "lr": np.linspace(0.1, 0.5, n),
        "train_loss": np.ones(n), "heldout_loss": np.ones(n), "metric": np.ones(n),
    }  # fmt: skip
    return Curve(0, SweepOutcome.COMPLETED, **columns | changes)


@given(st.integers(1, 200), st.floats(-10, 10), st.floats(-10, 10), widths)
def test_smoothing_leaves_a_straight_line_where_it_is_to_its_ends(n, slope, start, width):
    line = start + slope * np.arange(n)
    np.testing.assert_allclose(smooth(line, width), line, atol=1e-9)


@given(st.integers(40, 100), st.integers(0, 8), st.data())
def test_smoothing_does_not_move_the_bottom_of_a_valley(n, width, data):
    bottom = data.draw(st.integers(2 * width, n - 1 - 2 * width))
    valley = np.abs(np.arange(n) - bottom).astype(float)
    assert np.argmin(smooth(valley, width)) == bottom


@given(st.integers(20, 100), st.integers(0, 8), st.data())
def test_smoothing_crosses_the_middle_of_a_step_where_the_step_is(n, width, data):
    at = data.draw(st.integers(width + 1, n - width - 1))
    step = (np.arange(n) >= at).astype(float)
    assert np.argmax(smooth(step, width) >= 0.5) == at


@given(values, widths)
def test_smoothing_stays_between_the_lowest_and_the_highest_value(values, width):
    smoothed = smooth(values, width)
    assert len(smoothed) == len(values)
    assert np.all(smoothed >= min(values) - 1e-9)
    assert np.all(smoothed <= max(values) + 1e-9)


def test_smoothing_is_the_mean_of_a_sliding_window_away_from_the_ends():
    noise = np.random.default_rng(0).normal(size=100)
    np.testing.assert_allclose(smooth(noise, 3)[3:-3], sliding_window_view(noise, 7).mean(1), atol=1e-12)


def test_a_curve_cannot_be_changed_and_does_not_follow_its_source():
    source = np.linspace(0.1, 0.5, 5)
    made = curve(lr=source)
    source[0] = 0.0
    assert made.lr[0] == 0.1
    with pytest.raises(ValueError, match="read-only"):
        made.metric[0] = 0.5


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"lr": [0.1, 0.2]}, "one length"),
        ({"lr": [0.1, 0.3, 0.2, 0.4, 0.5]}, "lr must not decrease"),
        ({"iteration": [0, 1, 1, 2, 3]}, "iteration must increase"),
    ],
)
def test_a_curve_that_runs_backwards_is_refused(changes, rule):
    with pytest.raises(ValueError, match=rule):
        curve(**changes)


def test_points_make_a_curve_and_come_back():
    points = [Point(0, 0.0, 0.1, math.nan, 2.3, 0.1), Point(5, 0.5, 0.2, 2.2, math.inf, math.nan)]
    made = Curve.from_points(3, SweepOutcome.NOT_FINITE, points)
    assert repr(made.points()) == repr(points)
    assert made.measured.tolist() == [True, False]
    assert len(Curve.from_points(3, SweepOutcome.COMPLETED, []).lr) == 0


@given(st.floats(-30, 30), st.floats(0.1, 10), st.floats(0, 100))
def test_adding_a_constant_does_not_change_whether_a_loss_that_learned_diverged(shift, fall, rise):
    first = fall / 2
    assume(abs(first + shift) <= 3 * fall)
    assume(not math.isclose(rise, 3 * fall, rel_tol=1e-6))
    expected = rise > 3 * fall
    assert has_diverged(first, first - fall, first + rise) == expected
    assert has_diverged(first + shift, first + shift - fall, first + shift + rise) == expected


def test_a_constant_negative_loss_has_not_diverged():
    assert not has_diverged(-1.0, -1.0, -1.0)


def test_noise_before_anything_is_learned_has_not_diverged():
    assert not has_diverged(2.30, 2.29, 2.5)


def test_every_outcome_reads_as_a_sentence():
    for outcome in SweepOutcome:
        assert outcome.value.endswith(".")
        assert outcome.word == outcome.name.lower()
