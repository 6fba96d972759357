"""Operators on whole numbers, and steps one after another, against numpy's own and a plain loop."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clrtool.core.schedules import Stepwise
from clrtool.core.schedules.whole import floor_divide, modulo, power

WHOLE = st.lists(st.integers(-(2**53), 2**53), min_size=1, max_size=30)
ANY = st.lists(st.floats(), min_size=1, max_size=30)


@given(left=WHOLE | ANY, right=st.integers(-(2**53), 2**53) | st.floats())
@pytest.mark.parametrize(("ours", "numpys"), [(floor_divide, np.floor_divide), (modulo, np.mod)])
def test_a_quotient_and_a_remainder_are_numpys_to_the_last_bit(ours, numpys, left, right):
    left = np.array(left, dtype=np.float64)
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(ours(left, np.float64(right)), numpys(left, np.float64(right)))


@given(right=st.integers(1, 10**6), times=st.integers(1, 10**9), off=st.sampled_from([-1, 0, 1]))
def test_a_quotient_is_exact_on_both_sides_of_a_multiple(right, times, off):
    left = np.array([right * times + off], dtype=np.float64)
    assert floor_divide(left, float(right))[0] == (right * times + off) // right
    assert modulo(left, float(right))[0] == (right * times + off) % right


@given(base=st.floats(-2, 2), least=st.integers(-50, 50), many=st.integers(1, 200), kinds=st.integers(1, 12))
def test_a_power_is_numpys_where_exponents_repeat_and_where_they_do_not(base, least, many, kinds):
    exponents = (least + np.arange(many) % kinds).astype(np.float64)
    with np.errstate(all="ignore"):
        np.testing.assert_allclose(power(np.float64(base), exponents), np.power(base, exponents), rtol=1e-15)


@given(
    seed=st.integers(0, 10**6),
    share=st.sampled_from([0, 0.001, 0.01, 0.1, 1]),
    sets=st.booleans(),
    around=st.sampled_from([0.01, 0.9]),
)
def test_steps_that_seldom_or_often_add_are_those_of_a_plain_loop(seed, share, sets, around):
    random = np.random.default_rng(seed)
    p, q = (
        random.uniform(1 - around, 1 + around, 20_001),
        np.where(random.random(20_001) < share, random.random(20_001), 0.0),
    )
    if sets:  # what is added takes the place of what was found
        p[q > 0] = 0
    schedule = Stepwise(0.5, lambda t: (p[t % 20_001], None if share == 0 else q[t % 20_001]))
    value, expected = 0.5, [0.5]
    for k in range(1, 20_001):
        value = p[k] * value + q[k]
        expected.append(value)
    np.testing.assert_allclose(schedule(range(20_001)), expected, rtol=1e-11)
