"""The curve record, and when a loss has diverged."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from clrtool.core.reading.curve import Curve, Point, SweepOutcome, has_diverged

widths = st.integers(0, 30)
values = st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=200)


def curve(**changes):
    n = 5
    columns = {
        "iteration": range(n), "epoch": np.arange(n) / 2, "lr": np.linspace(0.1, 0.5, n),
        "train_loss": np.ones(n), "heldout_loss": np.ones(n), "metric": np.ones(n),
    }  # fmt: skip
    return Curve(0, SweepOutcome.COMPLETED, **columns | changes)


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
    assert made.finite.tolist() == [True, False]
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
