"""Schedules against torch's own, against np.linspace, and against their properties."""

import csv
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
    cosine,
    cosine_restarts,
    cyclical,
    decay,
    exp_range,
    exponential,
    fixed,
    inv,
    inverse_sqrt,
    inverse_time,
    linear,
    linear_sweep,
    make_sweep,
    multistep,
    one_cycle,
    one_cycle_smith,
    piecewise,
    polynomial,
    sigmoid,
    stages,
    step,
    triangular,
    triangular2,
    warmup_stable_decay,
    with_warmup,
)
from clrtool.core.schedules.cyclical import check_momentum

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
        (lambda: triangular(0.1, math.nan, 5), "max_lr must be a finite number"),
        (lambda: triangular(0.1, math.inf, 5), "max_lr must be a finite number"),
        (lambda: triangular(0.1, 0.2, 0), "stepsize must be a whole number of at least 1"),
        (lambda: triangular(0.1, 0.2, 2.5), "stepsize must be a whole number"),
        (lambda: exp_range(0.1, 0.2, 5, -0.5), "must be finite and at least 0"),
        (lambda: linear_sweep(0.1, 0.2, 1), "num_iterations must be at least 2"),
        (lambda: linear_sweep(0.2, 0.1, 5), "0 < start_lr < end_lr"),
        (lambda: ExponentialSweep(0.0, 0.1, 5), "0 < start_lr < end_lr"),
        (lambda: triangular(0.1, 0.2, 5)(-1), "iteration must be at least 0"),
        (
            lambda: Cyclical(base_lr=0.1, max_lr=0.2, stepsize=5, scale=lambda x: math.inf * x)(3),
            "scale must be finite, got inf",
        ),
    ],
)
def test_bad_numbers_are_refused_with_their_rule(make, rule):
    with pytest.raises(ValueError, match=rule):
        make()


CYCLICAL = {
    "triangular": triangular,
    "triangular2": triangular2,
    "exp_range": lambda low, high, up, down: exp_range(low, high, up, 0.999, down),
    "slower decay": lambda low, high, up, down: cyclical(low, high, up, math.log(2), "cycle", down),
    "sine": lambda low, high, up, down: cyclical(low, high, up, "0.5 * (1 + sin(x * pi / 2))", "cycle", down),
    "function": lambda low, high, up, down: cyclical(low, high, up, lambda x: 1 / (1 + x), "iteration", down),
}
halves = st.one_of(st.none(), stepsizes)


@given(
    rates, rates, stepsizes, halves, st.sampled_from(sorted(CYCLICAL)), st.lists(st.integers(0, 10**15), max_size=20)
)
def test_no_cyclical_policy_ever_leaves_its_bounds_and_a_whole_array_equals_its_elements(one, other, up, down, name, t):
    low, high = sorted((one, other))
    schedule = CYCLICAL[name](low, high, up, down)
    lrs = schedule(t)
    assert np.all((low <= lrs) & (lrs <= high))
    np.testing.assert_array_max_ulp(lrs, np.array([float(schedule(one)) for one in t]).reshape(lrs.shape), maxulp=4)
    assert schedule(schedule.period * (10**15 // schedule.period)) == low


@given(rates, rates, stepsizes, halves, st.integers(0, 10**15))
def test_every_cyclical_policy_peaks_exactly_at_its_stepsize_and_repeats_its_heights(one, other, up, down, t):
    low, high = sorted((one, other))
    plain = triangular(low, high, up, down)
    assert plain(up) == plain(10**15 // plain.period * plain.period + up) == high
    assert plain(t) == plain(t + plain.period)
    halved = triangular2(low, high, up, down)
    first = 10 * plain.period  # a power of two scales exactly: what is over base_lr halves from cycle to cycle
    over = [float(halved(first + t % plain.period + cycle * plain.period)) - low for cycle in (0, 1)]
    assert over[1] == pytest.approx(over[0] / 2, abs=1e-15 * high, rel=1e-6)


@given(rates, rates, stepsizes, halves, st.floats(0, 0.5), st.floats(0.5, 0.99), st.integers(0, 10**9))
def test_momentum_moves_against_the_learning_rate_with_the_same_height(one, other, up, down, calm, keen, t):
    low, high = min(one, other), max(one, other) * 1.01
    schedule = triangular2(low, high, up, down, momentum=(calm, keen))
    height = (float(schedule(t)) - low) / (high - low)
    assert float(schedule.momentum(t)) == pytest.approx(keen - (keen - calm) * height, abs=1e-9)


def test_momentum_moves_against_a_cosine_as_far_as_the_cosine_does():
    schedule = cosine_restarts(0.1, 0.5, 10, m_mul=0.5, num_cycles=3, momentum=(0.8, 0.9))
    t = range(40)
    np.testing.assert_allclose(schedule.momentum(t), 0.9 - 0.1 * (schedule(t) - 0.1) / 0.4, rtol=1e-12)
    assert schedule.momentum([0, 10, 30]).tolist() == pytest.approx([0.8, 0.85, 0.9])


def test_both_bounds_decay_in_the_papers_words_and_the_amplitude_alone_in_the_libraries():
    # 0.001-0.006, gamma 0.99994, iteration 44,000 is 7.1e-5 against 1.0e-3
    arguments = {"base_lr": 0.001, "max_lr": 0.006, "stepsize": 2000, "gamma": 0.99994}
    assert float(exp_range(**arguments, decay_base=True)(44_000)) == pytest.approx(7.1e-5, rel=0.01)
    assert float(exp_range(**arguments)(44_000)) == pytest.approx(1e-3)


def test_smiths_one_cycle_is_the_one_of_his_logs():
    base, top, size, low, high = 0.08, 0.8, 41, 0.85, 0.95
    schedule = one_cycle_smith(base, top, size, 95, momentum=(low, high))

    def logged(t):
        if t <= size:
            return base + (top - base) * t / size, high - (high - low) * t / size
        if t <= 2 * size:
            return max(base / 1000, top * (1 - (t - size) / size)), low + (high - low) * (t - size) / size
        return base / 1000, high - (high - low) * (t - 2 * size) / (2 * size)

    expected = np.array([logged(t) for t in range(96)])
    np.testing.assert_allclose(schedule(range(96)), expected[:, 0], rtol=1e-12)
    np.testing.assert_allclose(schedule.momentum(range(96)), expected[:, 1], rtol=1e-12)


def test_what_smith_logged_in_caffe_is_what_the_schedules_give():
    """Iterations, learning rates and momenta as his published logs print them, to six digits.

    github.com/lnsmith54/hyperParam1, Cifar/results/wide32cifar_Wide1CycLR.1001CM0.95.85WD1e-4Epoch50BS128a_1 (1cycle),
    and github.com/lnsmith54/super-convergence, Results/clr3SS5kFig1a (CLR, 0.1 to 3, stepsize 5,000).
    """
    cycle = one_cycle_smith(0.1, 1.0, 2246, 4882, momentum=(0.85, 0.95))
    logged = {
        2000: (0.901425, 0.860953), 2200: (0.981567, 0.852048), 2400: (0.931434, 0.856857), 3000: (0.664292, 0.883571),
        3800: (0.308103, 0.91919), 4400: (0.0409617, 0.945904), 4600: (0.0001, 0.947596), 4800: (0.0001, 0.943143),
    }  # fmt: skip
    lrs, momenta = zip(*logged.values(), strict=True)
    np.testing.assert_allclose(cycle([*logged]), lrs, rtol=2e-6)
    np.testing.assert_allclose(cycle.momentum([*logged]), momenta, rtol=2e-6)
    logged = {8400: 1.028, 8500: 0.97, 8600: 0.912, 9000: 0.68, 9100: 0.622, 9500: 0.39, 9800: 0.216, 9900: 0.158}
    np.testing.assert_allclose(triangular(0.1, 3.0, 5000)([*logged]), [*logged.values()], rtol=2e-6)


@given(st.floats(1e-5, 1e-2), st.floats(1.5, 30), st.integers(1, 3000), st.integers(0, 20_000))
def test_the_cycles_are_those_of_the_papers_appendix(base_lr, ratio, stepsize, iteration):
    """Its code for Caffe (arXiv 1506.01186, appendix A), whole numbers where that has them."""
    max_lr = base_lr * ratio
    cycle = iteration // (2 * stepsize)
    x = (iteration - (2 * cycle + 1) * stepsize) / stepsize
    height = max(0.0, 1 - abs(x))
    assert float(triangular(base_lr, max_lr, stepsize)(iteration)) == pytest.approx(
        base_lr + (max_lr - base_lr) * height, rel=1e-12
    )
    assert float(triangular2(base_lr, max_lr, stepsize)(iteration)) == pytest.approx(
        base_lr + (max_lr - base_lr) * min(1.0, max(0.0, (1 - abs(x)) * 0.5**cycle)), rel=1e-12
    )


@pytest.mark.parametrize(
    ("log", "top", "iterations"),
    [("range3Iter5kFig2b", 3, 5000), ("range3Iter100kFig2b", 3, 100_000), ("range2Res20Fig4b", 2, 80_000),
     ("range2SS80kRes56LR", 2, 80_000), ("lrRange3SS520kDropuoutFig10a", 3, 20_000),
     ("lrRange3SS520kClip10Fig12b", 3, 20_000), ("lrRange3SS520kClip2Fig12a", 3, 20_000)],
)  # fmt: skip
def test_smiths_range_tests_are_the_rise_of_a_triangle(shared, log, top, iterations):
    with (shared / "curves" / f"{log}.csv").open() as file:
        rows = [(int(row["iteration"]), float(row["lr"])) for row in csv.DictReader(file)]
    assert len(rows) > 40
    at, lrs = zip(*rows, strict=True)
    np.testing.assert_allclose(triangular(0.0, top, iterations)(at), lrs, rtol=1e-4)


def test_the_momentum_of_smiths_one_cycle_stays_in_its_range_however_long_the_tail_is():
    momentum = one_cycle_smith(0.1, 1.0, 10, 200, momentum=(0.8, 0.95)).momentum(range(300))
    assert (momentum.min(), momentum.max()) == (0.8, 0.95)
    assert one_cycle_smith(1e-14, 1.0, 10, 200)(range(300)).max() == 1.0


def test_lists_and_tuples_make_the_same_value():
    assert piecewise([10], [0.1, 0.2]) == piecewise((10,), (0.1, 0.2))
    assert triangular(0.1, 0.2, 5, momentum=[0.8, 0.9]) == triangular(0.1, 0.2, 5, momentum=(0.8, 0.9))
    assert hash(piecewise([10], [0.1, 0.2])) == hash(piecewise((10,), (0.1, 0.2)))


def test_a_join_of_joins_is_one_join():
    inner = with_warmup(fixed(0.5), 10)
    outer = with_warmup(inner, 20, 0.0)
    assert len(outer.parts) == 3
    assert outer.begins == (0, 20, 30)
    np.testing.assert_array_equal(outer(range(20, 60)), inner(range(40)))


def test_the_papers_decay_falls_over_one_stepsize_and_stays():
    np.testing.assert_allclose(decay(0.1, 0.5, 4)([0, 1, 2, 3, 4, 5, 10**15]), [0.5, 0.4, 0.3, 0.2, 0.1, 0.1, 0.1])


def test_the_stages_of_table_2_of_the_paper():
    plan = stages([(1e-3, 5e-3, 2000, 16_000), (1e-4, 5e-4, 1000, 22_000), (1e-5, 5e-5, 500, 25_000)])
    each = [
        triangular(1e-3, 5e-3, 2000)(range(16_000)),
        triangular(1e-4, 5e-4, 1000)(range(6000)),
        triangular(1e-5, 5e-5, 500)(range(3000)),
    ]
    np.testing.assert_array_equal(plan(range(25_000)), np.concatenate(each))
    assert plan.cycle_ends(25_000) == [4000, 8000, 12_000, 16_000, 18_000, 20_000, 22_000, 23_000, 24_000, 25_000]


@given(st.integers(0, 50), st.floats(0, 1), st.integers(0, 300))
def test_a_warm_up_is_a_line_and_then_the_schedule_itself(warmup, start, t):
    schedule = triangular2(0.5, 2.0, 20, momentum=(0.8, 0.9))
    warm = with_warmup(schedule, warmup, start)
    assert warm(warmup + t) == schedule(t)
    assert warm.momentum(warmup + t) == schedule.momentum(t)
    if warmup:
        np.testing.assert_allclose(warm(range(warmup + 1)), np.linspace(start, 0.5, warmup + 1))
        assert np.all(warm.momentum(range(warmup)) == 0.9)


FAMILIES = [
    triangular2(0.1, 0.9, 37, 11), exp_range(0.1, 0.9, 37, 0.999, momentum=(0.8, 0.9)), decay(0.1, 0.9, 37),
    one_cycle(0.1, 0.9, 500, momentum=(0.8, 0.9)), one_cycle_smith(0.1, 0.9, 100, 250), step(0.9, 0.5, 30),
    multistep(0.9, 0.5, [20, 70]), exponential(0.9, 0.99), polynomial(0.1, 0.9, 300), inverse_time(0.9, 0.1), inv(0.9, 1e-3, 0.75),
    piecewise([10, 90], [0.9, 0.5, 0.1]), cosine(0.1, 0.9, 300), cosine_restarts(0.1, 0.9, 20, t_mul=2, m_mul=0.9), linear(0.1, 0.9, 300),
    inverse_sqrt(0.9, 50), warmup_stable_decay(0.1, 0.9, 300, 30, 60), sigmoid(0.9, -0.05, 150), fixed(0.9),
    stages([(0.1, 0.5, 10, 100), (0.05, 0.1, 10, 300)]), ExponentialSweep(1e-5, 10.0, 10**6),
]  # fmt: skip


@pytest.mark.parametrize("schedule", FAMILIES, ids=lambda schedule: type(schedule).__name__)
def test_any_order_any_shape_and_a_range_give_the_same_as_one_by_one(schedule):
    one_by_one = np.array([float(schedule(t)) for t in range(400)])
    order = np.random.default_rng(0).permutation(400)
    for asked, expected in (
        (range(400), one_by_one), (np.arange(400, dtype=np.uint16), one_by_one), (order.reshape(20, 20), one_by_one[order].reshape(20, 20)),
        (range(7, 400, 13), one_by_one[7::13]), (order.astype(float), one_by_one[order]), ([], one_by_one[:0]),
    ):  # fmt: skip
        np.testing.assert_array_max_ulp(schedule(asked), expected, maxulp=8)
    assert np.all((one_by_one >= 0) & (one_by_one <= 0.9))
    assert schedule.preview >= 1


@pytest.mark.parametrize("schedule", FAMILIES, ids=lambda schedule: type(schedule).__name__)
def test_a_million_iterations_take_the_memory_of_less_than_three_arrays(schedule):
    import tracemalloc

    iterations = 10**6
    tracemalloc.start()
    try:
        schedule(range(iterations))
        assert tracemalloc.get_traced_memory()[1] < 3 * 8 * iterations
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("schedule", FAMILIES, ids=lambda schedule: type(schedule).__name__)
def test_a_schedule_is_a_value_that_can_be_pickled_and_never_steps(schedule):
    import copy
    import pickle

    before = schedule(range(100))
    assert np.array_equal(pickle.loads(pickle.dumps(schedule))(range(100)), before)  # noqa: S301
    assert copy.deepcopy(schedule) == schedule
    with pytest.raises(AttributeError):
        schedule.base_lr = 0.5


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (lambda: triangular(0.1, 0.2, 5, 0), "stepsize_down must be a whole number of at least 1, got 0"),
        (lambda: check_momentum((0.9, 0.8)), "momentum must be LOW, HIGH with 0 <= LOW <= HIGH < 1, got 0.9, 0.8"),
        (lambda: check_momentum((0.9, 1.0)), "momentum must be LOW, HIGH with 0 <= LOW <= HIGH < 1, got 0.9, 1.0"),
        (lambda: triangular(0.1, 0.2, 5, momentum=(0.9,)), "momentum must be two numbers"),
        (lambda: triangular(True, 2, 5), "base_lr must be a finite number, got True"),
        (lambda: triangular(0.1, 0.2, 5)(0.5), "iteration must be a whole number, got"),
        (lambda: triangular(0.1, 0.2, 5)(2**62 + 1), "iteration must be at least 0 and at most"),
        (lambda: triangular(0.1, 0.2, 5)([True]), "iteration must be a whole number"),
        (lambda: triangular(0.1, 0.2, 5)(math.inf), "iteration must be a whole number"),
        (lambda: one_cycle(0.1, 0.2, 10, momentum=(0.8, math.nan)), "the high momentum must be a finite number"),
        (lambda: cyclical(0.1, 0.2, 5, "x", per="epoch"), "per must be 'cycle' or 'iteration', got 'epoch'"),
        (lambda: cyclical(0.1, 0.2, 5, "log(0 - x)")(3), "scale must be finite, got nan"),
        (lambda: exponential(0.1, -0.5, every=2), "gamma must be finite and at least 0, got -0.5; below 0 it has no power"),
        (lambda: step(0.1, 0.5, 0), "every, the iterations of one decay, must be finite and above 0, got 0"),
        (lambda: multistep(0.1, 0.5, [30, 20]), r"boundaries must be finite and rise from each to the next, got \[30, 20\]"),
        (lambda: piecewise([10], [0.1]), "values must be one more than boundaries, got 1, 1"),
        (lambda: one_cycle(0.1, 0.2, 10, pct_start=0.1), "a rise of no length .torch divides by zero.; got 0.1 [*] 10; raise pct_start to 0.2"),
        (lambda: one_cycle(0.1, 0.2, 10, pct_start=1.5), "pct_start must be from 0 to 1, got 1.5"),
        (lambda: one_cycle_smith(0.1, 0.2, 10, 19), "iterations must be a whole number of at least 20, got 19"),
        (lambda: cosine_restarts(0.1, 0.2, 0), "period must be finite and above 0, got 0"),
        (lambda: polynomial(0.1, 0.2, 10, math.nan), "power must be a finite number, got nan"),
        (lambda: warmup_stable_decay(0.1, 0.2, 10, 6, 5), "iterations must be a whole number of at least 11, got 10"),
        (lambda: stages([(0.1, 0.2, 10)]), "a stage is four numbers"),
        (lambda: stages([(0.1, 0.2, 10, 40), (0.1, 0.2, 10, 30)]), "the ends of the stages must be finite and rise"),
        (lambda: stages([(0.1, 0.2, 10, 40)], shape="sine"), "shape must be one of triangular, triangular2, got 'sine'"),
        (lambda: with_warmup(fixed(0.1), -1), "warmup must be a whole number of at least 0, got -1"),
    ],
)  # fmt: skip
def test_bad_numbers_of_the_other_families_are_refused_with_their_rule(make, rule):
    with pytest.raises(ValueError, match=rule):
        make()
