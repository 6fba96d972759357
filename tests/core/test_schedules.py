"""Schedules against torch's own, against np.linspace, and against their properties."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clrtool.core.schedules import (
    Cyclical,
    ExponentialSweep,
    Geometric,
    exp_range,
    linear_sweep,
    make_sweep,
    triangular,
    triangular2,
)

rates = st.floats(1e-8, 1e3)
stepsizes = st.integers(1, 5000)


def torch_rates(num, **arguments):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.CyclicLR(optimizer, cycle_momentum=False, **arguments)
    rates = []
    for _ in range(num):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(
    ("schedule", "mode", "extra"),
    [(triangular, "triangular", {}), (triangular2, "triangular2", {}), (exp_range, "exp_range", {"gamma": 0.99})],
)
@pytest.mark.parametrize("stepsize", [1, 7, 50])
def test_each_policy_equals_torchs_cyclic_lr(schedule, mode, extra, stepsize):
    ours = schedule(0.001, 0.006, stepsize, **extra)(range(300))
    theirs = torch_rates(300, base_lr=0.001, max_lr=0.006, step_size_up=stepsize, mode=mode, **extra)
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)


@given(rates, rates, stepsizes)
def test_a_triangle_is_two_linspace_halves(one, other, stepsize):
    base_lr, max_lr = sorted((one, other))
    up, down = np.linspace(base_lr, max_lr, stepsize + 1), np.linspace(max_lr, base_lr, stepsize + 1)
    cycle = triangular(base_lr, max_lr, stepsize)(np.arange(2 * stepsize + 1))
    np.testing.assert_allclose(cycle, np.concatenate((up, down[1:])), rtol=1e-12)


@given(rates, rates, stepsizes, st.sampled_from([triangular, triangular2]), st.integers(0, 10**15))
def test_a_cycle_stays_within_its_bounds_and_touches_both_exactly(one, other, stepsize, policy, iteration):
    base_lr, max_lr = sorted((one, other))
    schedule = policy(base_lr, max_lr, stepsize)
    assert base_lr <= schedule(iteration) <= max_lr
    assert schedule(stepsize) == max_lr
    assert schedule(0) == schedule(2 * stepsize) == schedule(10**15 // stepsize * 2 * stepsize) == base_lr


@given(stepsizes, st.integers(0, 10**12))
def test_a_triangle_repeats_after_two_stepsizes(stepsize, iteration):
    schedule = triangular(0.1, 0.9, stepsize)
    assert schedule(iteration) == schedule(iteration + 2 * stepsize)


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=50))
def test_a_whole_array_equals_its_elements_one_by_one(iterations):
    for schedule in (
        triangular2(0.1, 0.9, 37),
        exp_range(0.1, 0.9, 37, 0.999),
        ExponentialSweep(1e-5, 10.0, 10**9 + 1),
    ):
        one_by_one = np.array([schedule(iteration) for iteration in iterations])
        # numpy's power of an array and of a number may differ in the last bits.
        np.testing.assert_array_max_ulp(schedule(iterations), one_by_one, maxulp=4)


@given(rates, rates, st.integers(2, 100_000), st.sampled_from(["linear", "exponential"]))
def test_a_sweep_begins_and_ends_exactly_and_never_falls(one, other, num_iterations, spacing):
    start_lr, end_lr = min(one, other), max(one, other) * 1.01
    schedule = make_sweep(spacing, start_lr, end_lr, num_iterations)
    assert schedule(0) == start_lr
    assert schedule(num_iterations - 1) == end_lr
    lrs = schedule(np.linspace(0, num_iterations - 1, 100).astype(int))
    assert np.all(np.diff(lrs) >= -1e-15 * end_lr)


def test_an_exponential_sweep_equals_numpys_geomspace():
    np.testing.assert_allclose(ExponentialSweep(1e-6, 10, 141)(range(141)), np.geomspace(1e-6, 10, 141), rtol=1e-12)


def test_a_linear_sweep_equals_numpys_linspace():
    np.testing.assert_allclose(linear_sweep(1e-4, 0.02, 4000)(range(4000)), np.linspace(1e-4, 0.02, 4000), rtol=1e-12)


def test_any_scale_may_be_given_per_cycle_or_per_iteration():
    sine = Cyclical(base_lr=0.1, max_lr=1.1, stepsize=10, scale=lambda x: 0.5 * (1 + np.sin(x * math.pi / 2)))
    expected = torch_rates(
        60, base_lr=0.1, max_lr=1.1, step_size_up=10, scale_fn=lambda x: 0.5 * (1 + math.sin(x * math.pi / 2))
    )
    np.testing.assert_allclose(sine(range(60)), expected, rtol=1e-12)
    slower = Cyclical(base_lr=0.0, max_lr=1.0, stepsize=5, scale=Geometric(math.log(2)))
    np.testing.assert_allclose(slower([5, 15, 25]), [1, 0.693147, 0.480453], rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (lambda: triangular(0.2, 0.1, 5), "max_lr must be finite and at least 0.2"),
        (lambda: triangular(-0.1, 0.1, 5), "base_lr must be finite and at least 0.0"),
        (lambda: triangular(0.1, math.nan, 5), "max_lr must be finite"),
        (lambda: triangular(0.1, math.inf, 5), "max_lr must be finite"),
        (lambda: triangular(0.1, 0.2, 0), "stepsize must be a whole number of at least 1"),
        (lambda: triangular(0.1, 0.2, 2.5), "stepsize must be a whole number"),
        (lambda: exp_range(0.1, 0.2, 5, 1.5), "must be above 0 and at most 1"),
        (lambda: linear_sweep(0.1, 0.2, 1), "num_iterations must be at least 2"),
        (lambda: linear_sweep(0.2, 0.1, 5), "0 < start_lr < end_lr"),
        (lambda: ExponentialSweep(0.0, 0.1, 5), "0 < start_lr < end_lr"),
        (lambda: triangular(0.1, 0.2, 5)(-1), "iteration must be at least 0"),
        (
            lambda: Cyclical(base_lr=0.1, max_lr=0.2, stepsize=5, scale=lambda x: 2 * x)(3),
            r"scale must stay in \[0, 1\]",
        ),
    ],
)
def test_bad_numbers_are_refused_with_their_rule(make, rule):
    with pytest.raises(ValueError, match=rule):
        make()
