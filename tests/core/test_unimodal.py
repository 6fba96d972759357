"""The unimodal fit against a search over every place of its top and against its own definition."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clrtool.core.reading.unimodal import unimodal

VALUES = st.lists(st.floats(-10, 10), min_size=1, max_size=12)


def isotonic(values):
    """The never falling fit by the min-max formula: at i the largest over a <= i of the smallest mean of a..b >= i."""
    n = len(values)
    mean = [[float(np.mean(values[a : b + 1])) if b >= a else 0.0 for b in range(n)] for a in range(n)]
    return np.array([max(min(mean[a][b] for b in range(i, n)) for a in range(i + 1)) for i in range(n)])


def best_error(values):
    """The least squared error over every place of the top, from fits by another formula."""
    errors = []
    for top in range(len(values)):
        left, right = isotonic(values[: top + 1]), isotonic(values[:top:-1])[::-1]
        errors.append(((np.concatenate([left, right]) - values) ** 2).sum())
    return min(errors)


@given(VALUES)
def test_no_rising_and_then_falling_sequence_is_nearer(values):
    values = np.array(values)
    fit = unimodal(values)
    assert ((fit - values) ** 2).sum() == pytest.approx(best_error(values), abs=1e-9)
    top = int(np.argmax(fit))
    assert (np.diff(fit[: top + 1]) >= -1e-12).all()
    assert (np.diff(fit[top:]) <= 1e-12).all()


@given(VALUES)
def test_what_rises_and_then_falls_is_its_own_fit(values):
    ordered = np.concatenate([np.sort(values), np.sort(values)[::-1]])
    np.testing.assert_allclose(unimodal(ordered), ordered, atol=1e-9)


@given(st.integers(1, 20), st.integers(1, 6), st.integers(0, 1000))
def test_rows_are_fitted_as_each_of_them_alone(n, rows, seed):
    values = np.random.default_rng(seed).integers(0, 4, (rows, n)) / 10  # ties, and means that are rounded
    assert unimodal(values).tolist() == [unimodal(row).tolist() for row in values]


def test_nothing_has_no_fit():
    with pytest.raises(ValueError, match="at least one value"):
        unimodal([])
