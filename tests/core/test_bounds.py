"""Bounds on curves whose answer is known, on curves that others measured, and on curves that hold none."""

import csv

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clrtool.core.reading.bounds import Bounds
from clrtool.core.reading.curve import Curve, SweepOutcome
from clrtool.core.reading.metric import ACCURACY, LOSS
from clrtool.core.reading.paper import find_bounds, has_broken
from clrtool.core.reading.verdict import Advice, Verdict

LRS = np.geomspace(1e-4, 1, 61)


def curve(accuracy, seed=0, outcome=SweepOutcome.COMPLETED, lr=LRS, every=1000):
    n = len(accuracy)
    return Curve(seed, outcome, every * np.arange(n), np.arange(n) / 15, lr[:n], np.ones(n), np.ones(n), accuracy)


def hill(start=1e-3, top=2e-2, fall=1e-1, height=0.8, lr=LRS):
    """Accuracy 0.1, rising in a straight line over log LR from ``start`` to ``top``, flat, 0.1 from ``fall`` on."""
    rise = np.interp(np.log(lr), np.log([start, top]), [0.1, 0.1 + height])
    return np.where(lr < fall, rise, 0.1)


def noisy(accuracy, seed, sd=0.01):
    return np.clip(accuracy + np.random.default_rng(seed).normal(0, sd, len(accuracy)), 0, 1)


@given(st.floats(3e-4, 3e-3), st.floats(4, 30), st.floats(0.3, 0.85), st.integers(0, 1000))
def test_base_lr_is_where_a_hill_starts_to_rise_and_max_lr_keeps_its_distance_from_the_edge(start, ratio, height, seed):
    curves = [curve(noisy(hill(start, start * ratio, 0.2, height), seed + index), index) for index in range(3)]
    bounds = find_bounds(curves, heldout_samples=2000)
    # The grid is one step wide, and the median of seven rounds a corner by less than two more.
    off = (LRS[1] / LRS[0]) ** 3
    assert max(start, 0.035 * 0.2) / off <= bounds.base_lr <= max(start * ratio**0.1, 0.035 * 0.2) * off
    assert 0.35 * 0.2 / off <= bounds.max_lr <= 0.35 * 0.2 * off


@given(st.floats(0, 0.03), st.integers(0, 1000))
def test_the_interval_holds_the_truth_that_noise_hides(sd, seed):
    """An edge that falls over a factor of 3: its reading without noise is the truth."""
    edge = np.interp(np.log(LRS), np.log([1e-3, 1e-2, 0.1, 0.3]), [0.1, 0.9, 0.9, 0.1])
    truth = find_bounds([curve(edge)]).max_lr
    bounds = find_bounds([curve(noisy(edge, 10 * seed + index, sd), index) for index in range(3)])
    step = LRS[1] / LRS[0]
    assert bounds.max_lr_interval[0] / step <= truth <= bounds.max_lr_interval[1] * step


@given(st.lists(st.floats(0, 1), min_size=61, max_size=61), st.integers(1, 5))
def test_bounds_are_ordered_and_inside_their_intervals_whatever_the_curve(accuracy, seeds):
    bounds = find_bounds([curve(noisy(np.array(accuracy), index, 0.05), index) for index in range(seeds)])
    if bounds.base_lr is None:
        assert bounds.verdict is Verdict.INCONCLUSIVE
        return
    assert LRS[0] / 25 <= bounds.base_lr < bounds.max_lr <= LRS[-1]
    for lr, interval in ((bounds.base_lr, bounds.base_lr_interval), (bounds.max_lr, bounds.max_lr_interval)):
        assert interval is None or interval[0] <= lr <= interval[1]


@given(st.floats(1e-3, 1e3))
def test_multiplying_all_learning_rates_multiplies_both_bounds(factor):
    plain = find_bounds([curve(noisy(hill(), 1))])
    scaled = find_bounds([curve(noisy(hill(), 1), lr=LRS * factor)])
    assert scaled.base_lr == pytest.approx(plain.base_lr * factor)
    assert scaled.max_lr == pytest.approx(plain.max_lr * factor)


def test_seeds_that_agree_on_a_whole_hill_give_a_clear_verdict():
    bounds = find_bounds([curve(noisy(hill(), seed), seed) for seed in range(3)], heldout_samples=2000)
    assert (bounds.verdict, bounds.advice) == (Verdict.CLEAR, ())
    assert "starts to rise" in bounds.base_reason
    assert "breaks above LR 0.0" in bounds.max_reason


def test_one_seed_has_an_interval_of_its_noise_but_cannot_show_how_seeds_agree():
    bounds = find_bounds([curve(noisy(hill(), 0))])
    assert bounds.max_lr_interval[0] <= bounds.max_lr <= bounds.max_lr_interval[1]
    assert (bounds.verdict, bounds.advice) == (Verdict.WEAK, (Advice.ONE_SEED,))


def test_accuracy_that_still_rises_at_the_end_is_inconclusive_but_keeps_its_number():
    bounds = find_bounds([curve(hill(top=2.0, fall=5.0), seed) for seed in range(2)])
    assert (bounds.verdict, bounds.advice[0]) == (Verdict.INCONCLUSIVE, Advice.STILL_RISING)
    assert bounds.max_lr == pytest.approx(0.5)


def test_a_plateau_that_nothing_breaks_keeps_half_of_the_largest_rate_and_an_open_interval():
    bounds = find_bounds([curve(hill(fall=5.0), seed) for seed in range(2)])
    assert bounds.max_lr == pytest.approx(0.5)
    assert bounds.max_lr_interval == pytest.approx((0.5 * LRS[0] / LRS[1], 1.0))
    assert bounds.verdict is Verdict.WEAK
    assert Advice.UNBROKEN in bounds.advice


def test_a_plateau_of_more_than_a_decade_that_ends_is_wide_and_says_from_where_to_where():
    bounds = find_bounds([curve(noisy(hill(1e-4, 1e-3, 0.1), seed), seed) for seed in range(3)], 2000)
    assert (bounds.verdict, bounds.advice) == (Verdict.WIDE, (Advice.INSENSITIVE,))
    assert "within 10% of its best gain from LR 0.0008" in bounds.max_reason


def test_a_network_that_is_right_at_once_has_bounds_and_a_wide_verdict():
    risen = np.where(np.arange(61) == 0, 0.1, 1.0)
    bounds = find_bounds([curve(np.where(LRS < 0.3, risen, 0.1), seed) for seed in range(2)], 500)
    assert bounds.verdict is Verdict.WIDE
    assert bounds.base_lr == pytest.approx(bounds.max_lr / 10)


def test_a_rise_before_the_first_evaluation_that_leaves_base_lr_open_says_so():
    lr = np.linspace(0.05, 0.5, 61)
    risen = np.where(np.arange(61) == 0, 0.5, 0.8)
    bounds = find_bounds([curve(np.where(lr < 0.3, risen, 0.1), seed, lr=lr) for seed in range(2)])
    assert Advice.ALREADY_RISEN in bounds.advice


def test_bounds_without_a_cycle_between_them_fall_back_to_a_quarter():
    steep = np.where((LRS > 0.05) & (LRS < 0.15), 0.9, 0.1)
    bounds = find_bounds([curve(steep, seed) for seed in range(2)])
    assert bounds.base_lr == bounds.max_lr / 4
    assert "within a factor of 1.4" in bounds.base_reason


def test_what_needs_a_hundred_iterations_to_show_is_put_down_to_the_rate_of_a_hundred_before():
    slow, fast = (find_bounds([curve(hill(fall=0.8, top=0.5, start=0.1), every=every)]) for every in (1000, 20))
    assert slow.base_lr == pytest.approx(0.117, rel=0.1)
    assert fast.base_lr == pytest.approx(slow.base_lr * (LRS[0] / LRS[1]) ** 5, rel=0.1)
    assert fast.max_lr == pytest.approx(slow.max_lr * (LRS[0] / LRS[1]) ** 0.25, rel=0.01)


def test_seeds_that_disagree_make_a_weak_verdict():
    bounds = find_bounds([curve(hill(top=2e-3, fall=0.02), 0), curve(hill(fall=0.5), 1)])
    assert bounds.verdict is Verdict.WEAK
    assert Advice.SEEDS_DISAGREE in bounds.advice


def test_noise_around_chance_is_never_learned():
    generator = np.random.default_rng(0)
    curves = [curve(generator.binomial(300, 0.1, 61) / 300, seed) for seed in range(3)]
    bounds = find_bounds(curves, heldout_samples=300)
    assert (bounds.base_lr, bounds.verdict, bounds.advice) == (None, Verdict.INCONCLUSIVE, (Advice.NEVER_LEARNED,))


def test_answering_the_commonest_class_is_not_learning():
    curves = [curve(noisy(hill(height=0.5), seed), seed) for seed in range(3)]
    assert find_bounds(curves, 300, chance=0.1).verdict is Verdict.CLEAR
    assert find_bounds(curves, 300, chance=0.58).advice == (Advice.NEVER_LEARNED,)


def test_a_seed_that_breaks_at_once_says_so():
    curves = [curve([0.1, np.nan], seed, SweepOutcome.NOT_FINITE) for seed in range(2)]
    assert find_bounds(curves, 300).advice == (Advice.BROKE_AT_ONCE,)


def test_seeds_that_go_to_great_rates_and_learn_nothing_are_not_told_to_begin_lower():
    generator = np.random.default_rng(1)
    curves = [
        curve([*(generator.binomial(300, 0.1, 50) / 300), np.nan], seed, SweepOutcome.NOT_FINITE) for seed in range(3)
    ]
    assert find_bounds(curves, 300).advice == (Advice.NEVER_LEARNED,)


def test_a_seed_that_breaks_early_counts_as_chance_from_there_on():
    whole, broken = hill(fall=2.0), hill(fall=2.0)[:40]
    alone = find_bounds([curve(whole)])
    both = find_bounds([curve(whole, 0), curve(broken, 1, SweepOutcome.DIVERGED)])
    assert both.max_lr <= alone.max_lr


@pytest.mark.parametrize(("shape", "broken"), [(hill(), True), (hill(fall=0.9), False), (np.full(61, 0.1), None)])
def test_a_sweep_has_broken_when_it_stays_below_half_over_a_factor_of_two(shape, broken):
    assert has_broken(curve(shape), 500, ACCURACY) is broken


def test_a_dent_is_not_a_break():
    dented = hill(fall=2.0)
    dented[58:] = 0.1  # three points: less than a factor of 2 in the learning rate
    assert has_broken(curve(dented), 500, ACCURACY) is False


def test_values_that_are_not_finite_are_never_read():
    accuracy = hill()
    accuracy[-5:] = np.nan
    assert find_bounds([curve(accuracy)]).max_lr == find_bounds([curve(hill())]).max_lr


@pytest.mark.parametrize("metric", [ACCURACY, LOSS])
@pytest.mark.parametrize("value", [0.1, 0.7, 3e5])
def test_a_metric_that_never_changes_has_no_bounds(metric, value):
    assert find_bounds([curve(np.full(60, value), seed) for seed in range(2)], metric=metric).max_lr is None


def test_no_point_at_all_is_an_error():
    with pytest.raises(ValueError, match="at least one curve with one point"):
        find_bounds([])


def test_bounds_go_to_plain_types_and_come_back():
    for bounds in (find_bounds([curve(hill(), seed) for seed in range(3)]), find_bounds([curve(np.full(61, 0.1))])):
        assert Bounds.from_dict(bounds.to_dict()) == bounds


def recorded(shared, name):
    """A curve that somebody else measured, with its own iterations where the file has them."""
    with (shared / "curves" / f"{name}.csv").open() as file:
        rows = list(csv.DictReader(file))
    lr = np.array([float(row["lr"]) for row in rows])
    accuracy = np.array([float(row.get("acc") or row["test_acc"]) for row in rows])
    return curve(accuracy, lr=lr, every=100)


@pytest.mark.parametrize(
    ("figure", "base_lr", "max_lr"),
    [("fig3_cifar10", (0, 0.002), 0.006), ("fig7_alexnet", (0.004, 0.009), 0.015),
     ("fig11_googlenet", (0.0067, 0.015), 0.026)],
)  # fmt: skip
def test_the_papers_own_curves_give_what_its_author_read(shared, figure, base_lr, max_lr):
    bounds = find_bounds([recorded(shared, f"{figure}_lrrange")], timed=False)
    assert base_lr[0] <= bounds.base_lr <= base_lr[1]
    assert max_lr / 2 <= bounds.max_lr <= max_lr * 2


@pytest.mark.parametrize(
    ("log", "least"),
    [("lrRange3SS520kDropuoutFig10a", 1.2), ("range3Iter100kFig2b", 1.2), ("range3Iter5kFig2b", 1.2),
     ("range2Res20Fig4b", 1.0), ("range2SS80kRes56LR", 1.0)],
)  # fmt: skip
def test_a_recorded_plateau_up_to_the_end_keeps_half_of_it(shared, log, least):
    assert find_bounds([recorded(shared, log)]).max_lr >= least * (1 - 1e-9)


@pytest.mark.parametrize("log", ["lrRange3SS520kClip10Fig12b", "lrRange3SS520kClip2Fig12a"])
def test_a_recorded_collapse_is_kept_away_from(shared, log):
    bounds = find_bounds([recorded(shared, log)])
    assert 0.2 <= bounds.max_lr <= 0.45
    assert "breaks above" in bounds.max_reason
