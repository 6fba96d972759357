"""The rule on curves whose edge is known, and its constants against what they promise."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clrtool.core.planning.sweep_size import sweep_size
from clrtool.core.reading.fit import Axis, interval, medians, read, resample

LRS = np.geomspace(1e-3, 10, 81)


def axis(lr=LRS, every=None):
    return Axis.of(lr, None if every is None else every * np.arange(len(lr)))


def edge(at, width=3.0):
    """Accuracy that is 0.9 until ``at`` and falls to 0.1 in a straight line over log LR, a factor of ``width`` long."""
    return np.interp(np.log(LRS), np.log([2e-3, 1e-2, at, at * width]), [0.1, 0.9, 0.9, 0.1])[None]


@given(st.floats(0.05, 1), st.floats(1.5, 5))
def test_what_breaks_is_a_third_down_the_edge(at, width):
    # an edge from 100 % to 0 falls through 70 % to 60 % at 0.3 to 0.4 of its length, 0.35 in the mean
    assert read(axis(), edge(at, width)).breaks == pytest.approx(at * width**0.35, rel=0.12)


@given(st.floats(0.05, 1), st.integers(0, 500))
def test_dents_of_single_evaluations_do_not_move_what_breaks(at, seed):
    dented = edge(at).copy()
    places = np.random.default_rng(seed).choice(len(LRS) // 9, 3, replace=False) * 9
    dented[:, places] = 0.1
    step = LRS[1] / LRS[0]
    assert read(axis(), dented).breaks == pytest.approx(read(axis(), edge(at)).breaks, rel=step**2 - 1)


def test_a_running_median_takes_out_dents_and_leaves_edges():
    values = np.array([[0, 0, 5, 0, 0, 1, 1, 9, 1, 1.0]])
    assert medians(values, 1).tolist() == [[0, 0, 0, 0, 0, 1, 1, 1, 1, 1]]


def test_a_median_is_no_number_where_one_of_its_neighbours_is_none():
    values = np.array([[1, 2, np.nan, 4, 5, 6.0], [1, 2, 3, 4, 5, 6]])
    none = np.isnan(medians(values, 1))
    assert none.tolist() == [[False, True, True, True, False, False], [False] * 6]


def test_a_rate_of_five_iterations_ago_is_what_broke():
    slow, fast = read(axis(every=1000), edge(0.3)), read(axis(every=5), edge(0.3))
    assert fast.breaks == pytest.approx(slow.breaks * LRS[0] / LRS[1], rel=1e-2)


def test_a_sweep_from_zero_has_a_logarithm():
    lr = np.linspace(0, 1, 81)
    assert np.isfinite(Axis.of(lr, None).broke).all()
    assert Axis.of(lr, None).end == 1


def test_resampled_curves_scatter_as_repeated_measurements_do():
    """The bootstrap of one measurement against 200 measurements of the same edge."""
    generator = np.random.default_rng(0)

    def measured():
        return edge(0.3).repeat(3, axis=0) + generator.normal(0, 0.05, (3, len(LRS)))

    repeated = np.log([read(axis(), measured()).max_lr for _ in range(200)])
    scores = measured()
    resampled = np.log([each.max_lr for each in resample(axis(), scores)])
    # noise is added to medians that have some: the interval is on the wide side
    assert 0.7 < resampled.std() / repeated.std() < 2.5


def test_an_interval_is_never_narrower_than_from_one_evaluation_to_the_next():
    step = LRS[1] / LRS[0]
    assert interval(axis(), [0.1] * 9, 0.1, 3) == pytest.approx((0.1 / step, 0.1 * step))


@given(st.integers(1, 2000), st.floats(1, 100))
def test_a_range_test_left_to_itself_costs_one_training_run_at_most(iterations_per_epoch, epochs):
    size = sweep_size(iterations_per_epoch, epochs, None, None)
    assert size.iterations <= size.most
    assert size.run <= max(epochs * iterations_per_epoch, 2 * 40 + 100)


def test_a_size_that_is_given_is_kept():
    size = sweep_size(50, 30, 2.0, 5)
    assert (size.iterations, size.seeds) == (100, 5)
