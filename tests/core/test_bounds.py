"""Bounds on curves whose answer is known, on curves that others measured, and on curves that hold none."""

import csv

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clrtool.core.bounds import Advice, Bounds, Verdict, find_bounds
from clrtool.core.curve import Curve, SweepOutcome

LRS = np.geomspace(1e-4, 1, 61)


def curve(accuracy, seed=0, outcome=SweepOutcome.COMPLETED, lr=LRS):
    n = len(accuracy)
    return Curve(seed, outcome, range(n), np.arange(n) / 15, lr[:n], np.ones(n), np.ones(n), accuracy)


def hill(start=1e-3, top=1e-2, fall=1e-1, height=0.8, lr=LRS):
    """Accuracy 0.1, rising in a straight line over log LR from ``start`` to ``top``, flat, zero from ``fall`` on."""
    rise = np.interp(np.log(lr), np.log([start, top]), [0.1, 0.1 + height])
    return np.where(lr < fall, rise, 0.1)


def noisy(accuracy, seed, sd=0.01):
    return np.clip(accuracy + np.random.default_rng(seed).normal(0, sd, len(accuracy)), 0, 1)


@given(st.floats(3e-4, 3e-3), st.floats(4, 30), st.floats(0.3, 0.85), st.integers(0, 1000))
def test_bounds_of_a_hill_lie_where_it_starts_and_stops_rising(start, ratio, height, seed):
    curves = [curve(noisy(hill(start, start * ratio, 0.5, height), seed + index), index) for index in range(3)]
    bounds = find_bounds(curves, heldout_samples=2000)
    # The rule reads 10 % and 95 % of the rise. The grid is one step wide, and smoothing rounds a corner by two more.
    off = (LRS[1] / LRS[0]) ** 3
    assert start / off <= bounds.base_lr <= start * ratio**0.1 * off
    assert start * ratio**0.95 / off <= bounds.max_lr <= start * ratio * off


@given(st.lists(st.floats(0, 1), min_size=61, max_size=61), st.integers(1, 5))
def test_bounds_are_ordered_and_inside_their_intervals_whatever_the_curve(accuracy, seeds):
    bounds = find_bounds([curve(noisy(np.array(accuracy), index, 0.05), index) for index in range(seeds)])
    if bounds.base_lr is None:
        assert bounds.verdict is Verdict.INCONCLUSIVE
        return
    assert LRS[0] / 4 <= bounds.base_lr < bounds.max_lr <= LRS[-1]
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
    assert "stops rising" in bounds.max_reason
    assert "falls to 0.1" in bounds.max_reason


def test_one_seed_gives_no_interval_and_says_so():
    bounds = find_bounds([curve(hill())])
    assert bounds.max_lr_interval is None
    assert bounds.advice == (Advice.ONE_SEED,)


def test_accuracy_that_still_rises_at_the_end_is_inconclusive_but_keeps_its_number():
    bounds = find_bounds([curve(hill(top=2.0, fall=5.0), seed) for seed in range(2)])
    assert bounds.verdict is Verdict.INCONCLUSIVE
    assert Advice.STILL_RISING in bounds.advice
    assert bounds.max_lr > 0.5


def test_a_rise_before_the_first_evaluation_leaves_base_lr_open():
    risen = np.where(np.arange(61) == 0, 0.1, 0.8)
    bounds = find_bounds([curve(np.where(LRS < 0.3, risen, 0.1), seed) for seed in range(2)])
    assert Advice.ALREADY_RISEN in bounds.advice
    assert bounds.base_lr == bounds.max_lr / 4


def test_seeds_that_disagree_make_a_weak_verdict():
    bounds = find_bounds([curve(hill(top=2e-3), 0), curve(hill(top=5e-2, fall=0.3), 1)])
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


def test_a_seed_that_breaks_early_counts_as_chance_from_there_on():
    whole, broken = hill(fall=2.0), hill(fall=2.0)[:40]
    alone = find_bounds([curve(whole)])
    both = find_bounds([curve(whole, 0), curve(broken, 1, SweepOutcome.DIVERGED)])
    assert both.max_lr <= alone.max_lr * 1.2
    assert "falls" in both.max_reason


def test_a_curve_that_turns_ragged_says_so():
    ragged = hill(fall=2.0)
    ragged[45:] -= 0.1 * (1 + (-1.0) ** np.arange(16))
    assert "turns ragged" in find_bounds([curve(ragged)]).max_reason


def test_values_that_are_not_finite_are_never_read():
    accuracy = hill()
    accuracy[-5:] = np.nan
    assert find_bounds([curve(accuracy)]).max_lr == find_bounds([curve(hill())]).max_lr


def test_no_point_at_all_is_an_error():
    with pytest.raises(ValueError, match="at least one curve with one point"):
        find_bounds([])


def test_bounds_go_to_plain_types_and_come_back():
    for bounds in (find_bounds([curve(hill(), seed) for seed in range(3)]), find_bounds([curve(np.full(61, 0.1))])):
        assert Bounds.from_dict(bounds.to_dict()) == bounds


@pytest.mark.parametrize(
    ("figure", "base_lr", "max_lr"),
    [("fig3_cifar10", 0.001, 0.006), ("fig7_alexnet", 0.006, 0.015), ("fig11_googlenet", 0.010, 0.026)],
)
def test_the_papers_own_curves_give_what_its_author_read_within_a_factor_of_two(shared, figure, base_lr, max_lr):
    with (shared / "curves" / f"{figure}_lrrange.csv").open() as file:
        rows = list(csv.DictReader(file))
    lr, accuracy = (np.array([float(row[name]) for row in rows]) for name in ("lr", "acc"))
    bounds = find_bounds([curve(accuracy, lr=lr)])
    assert base_lr / 1.25 <= bounds.base_lr <= base_lr * 1.25
    assert max_lr / 2 <= bounds.max_lr <= max_lr * 2
