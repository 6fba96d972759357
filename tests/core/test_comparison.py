"""Who wins a comparison: what noise allows to say, against statistics computed elsewhere."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clrtool.core.planning.make import make_plan
from clrtool.core.reading.curve import Point
from clrtool.core.reading.metric import ACCURACY, LOSS, share_error
from clrtool.core.results.candidates import candidate_plan, fixed_plan
from clrtool.core.results.comparison import (
    BoundsFrom,
    Candidate,
    Comparison,
    Training,
)
from clrtool.core.results.judgement import ComparisonVerdict, judge, sure

stats = pytest.importorskip("scipy.stats")

MANY = 10**9  # held-out samples, so that they add no noise
PLAN = make_plan(0.01, 0.1, 10, epochs=10)
shares = st.lists(st.floats(0.01, 0.99), min_size=4, max_size=4)
tables = st.dictionaries(st.sampled_from("abcde"), shares, min_size=2)


def training(seed, metrics, seconds=None, lr=0.1):
    points = [Point(10 * i, float(i), lr, 1.0, 1.0, metric) for i, metric in enumerate(metrics, 1)]
    return Training(seed, tuple(points), seconds)


def comparison(finals, plans=None, **values):
    candidates = tuple(
        Candidate(name, (plans or {}).get(name, PLAN), tuple(training(s, [0.5, each]) for s, each in enumerate(all_)))
        for name, all_ in finals.items()
    )
    known = {"bounds": BoundsFrom(0.01, 0.1, "--bounds"), "iterations": 20, "iterations_per_epoch": 10}
    return Comparison(candidates=candidates, heldout_samples=100, **known | values)


@pytest.mark.parametrize("seeds", [2, 3, 4, 5, 8, 30])
def test_the_factor_of_few_seeds_is_students_quantile_of_two_normal_standard_errors(seeds):
    expected = stats.t.isf(stats.norm.sf(2), seeds - 1)
    assert sure(seeds) == pytest.approx(expected, rel=4e-3)


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_of_two_equal_policies_one_wins_in_one_comparison_of_twenty(seeds):
    draw = np.random.default_rng(0)
    wins = [
        judge({name: draw.normal(0.5, 0.01, seeds) for name in "ab"}, ACCURACY, MANY).winner is not None
        for _ in range(4000)
    ]
    assert np.mean(wins) == pytest.approx(2 * stats.norm.sf(2), abs=0.012)


@given(tables)
def test_a_winner_is_better_than_every_other_by_a_paired_test_and_the_error_of_the_set(finals):
    found = judge(finals, ACCURACY, 400)
    means = {name: np.mean(each) for name, each in finals.items()}
    assert means[found.best] == max(means.values())
    told_apart = {
        name
        for name, each in finals.items()
        if name != found.best
        and means[found.best] - means[name] > share_error(means[found.best], 400)
        and stats.ttest_rel(finals[found.best], each).pvalue < 2 * stats.norm.sf(2) * 0.98
    }
    assert told_apart <= set(finals) - {found.best} - set(found.within)
    assert (found.winner is None) == bool(found.within)
    assert found.winner in (None, found.best)


@given(tables, st.integers(1, 50))
def test_what_all_policies_gain_in_a_seed_alike_changes_nothing(finals, shift):
    finals = {name: [round(each, 2) for each in every] for name, every in finals.items()}
    moved = {name: [every[0] + shift, *every[1:]] for name, every in finals.items()}
    one, other = judge(finals, LOSS, 1), judge(moved, LOSS, 1)
    assert {one.best, *one.within} & {other.best, *other.within}
    if one.best == other.best:  # rounding may turn two equal means
        assert (set(one.within), one.winner) == (set(other.within), other.winner)


@given(tables)
def test_of_a_loss_the_lowest_wins(finals):
    turned = {name: [1 - each for each in every] for name, every in finals.items()}
    one, other = judge(finals, LOSS, 1), judge(turned, LOSS, 1)
    assert np.mean(finals[one.best]) == min(map(np.mean, finals.values()))
    assert np.mean(turned[other.best]) == min(map(np.mean, turned.values()))


def test_a_clear_difference_wins_and_the_reason_names_both():
    found = judge({"fixed": [0.80, 0.81, 0.79], "cosine": [0.90, 0.91, 0.89], "decay": [0.5] * 3}, ACCURACY, MANY)
    assert (found.verdict, found.winner, found.within) == (ComparisonVerdict.WON, "cosine", ())
    assert "cosine wins" in found.reason
    assert "better than fixed, the next" in found.reason


def test_what_seeds_agree_on_still_needs_more_than_the_error_of_a_small_set():
    finals = {"a": [0.91, 0.92, 0.93], "b": [0.90, 0.91, 0.92]}
    assert judge(finals, ACCURACY, MANY).winner == "a"
    small = judge(finals, ACCURACY, 100)
    assert (small.verdict, small.within) == (ComparisonVerdict.NO_DIFFERENCE, ("b",))
    assert small.noise == pytest.approx(math.sqrt(0.92 * 0.08 / 100))


def test_a_loss_that_differs_by_rounding_alone_has_no_winner():
    finals = {"a": [0.1 + 0.2, 0.1 + 0.2], "b": [0.3, 0.3]}
    assert finals["a"] != finals["b"]
    assert judge(finals, LOSS, 1).winner is None


def test_those_within_noise_are_named_and_those_that_are_worse_too():
    found = judge({"a": [0.9, 0.8, 0.85], "b": [0.85, 0.88, 0.8], "c": [0.1, 0.1, 0.1]}, ACCURACY, 1000)
    assert found.within == ("b",)
    assert "Worse by more than noise: c" in found.reason


def test_one_seed_never_has_a_winner_and_says_how_to_get_one():
    found = judge({"a": [0.99], "b": [0.1]}, ACCURACY, MANY)
    assert (found.verdict, found.best, found.winner) == (ComparisonVerdict.ONE_SEED, "a", None)
    assert "--seeds 3" in found.reason


def test_a_policy_that_broke_in_one_seed_cannot_win():
    found = judge({"a": [0.99, math.nan, 0.99], "b": [0.5, 0.6, 0.5]}, ACCURACY, MANY)
    assert (found.winner, found.within) == ("b", ())
    none = judge({"a": [math.nan] * 2, "b": [math.nan, 0.4]}, ACCURACY, MANY)
    assert (none.verdict, none.best) == (ComparisonVerdict.NOT_FINITE, None)


def test_the_target_is_that_of_fixed_wherever_it_stands_or_of_the_first_that_stayed_finite():
    fixed = fixed_plan(0.03, PLAN)
    finals = {"cosine": [0.9, 0.9], "mine": [0.7, 0.8]}
    assert comparison(finals, {"mine": fixed}).target == pytest.approx(0.75)
    assert comparison(finals).target == pytest.approx(0.9)
    assert comparison(finals, {"mine": fixed}, asked_target=0.6).target == 0.6


def test_a_policy_at_chance_is_no_target_and_none_wins_where_all_are():
    """With chance at 0.1: the fixed rate of a whole class of jobs trains nothing, and everything reached it at once."""
    fixed = fixed_plan(0.03, PLAN)
    one = comparison({"mine": [0.1, 0.11], "b": [0.6, 0.7]}, {"mine": fixed}, constant=0.1)
    assert one.target == pytest.approx(0.65)
    none = comparison({"mine": [0.1, 0.11], "b": [0.12, 0.11]}, {"mine": fixed}, constant=0.1)
    assert (none.target, none.judgement.verdict) == (None, ComparisonVerdict.NOTHING_LEARNED)
    assert "0.115; a constant answer has 0.1" in none.judgement.reason
    losses = comparison({"mine": [2.31, 2.30], "b": [1.1, 1.2]}, {"mine": fixed}, constant=2.3, metric=LOSS)
    assert losses.target == pytest.approx(1.15)


def test_a_target_is_reached_at_the_first_evaluation_that_is_as_good():
    run = training(0, [0.2, 0.6, 0.5, 0.7], seconds=8.0)
    assert [run.reaches(target, ACCURACY) for target in (0.2, 0.6, 0.61, 0.71, None)] == [10, 20, 40, None, None]
    assert run.reaches(0.5, LOSS) == 10
    assert (run.seconds_to(20), run.seconds_to(None)) == (4.0, None)


def test_a_comparison_has_one_length_the_same_seeds_and_different_names():
    good = comparison({"a": [0.5], "b": [0.6]})
    one, other = good.candidates
    for wrong in (
        (one, Candidate("a", PLAN, other.trainings)),
        (one, Candidate("b", PLAN, (training(7, [0.5, 0.5]),))),
        (one, Candidate("b", PLAN, (training(0, [0.5, 0.5, 0.5]),))),
    ):
        with pytest.raises(ValueError, match="the same seeds, and one length"):
            Comparison(candidates=wrong, bounds=good.bounds, iterations=20, iterations_per_epoch=10, heldout_samples=1)


def test_fixed_is_the_middle_of_the_bounds_and_every_other_policy_what_make_plan_makes():
    plan = candidate_plan("fixed", 0.01, 0.09, 50, epochs=8)
    np.testing.assert_allclose(plan.lr([0, 200, 399]), 0.03)
    assert candidate_plan("one_cycle", 0.01, 0.09, 50, epochs=8) == make_plan(
        0.01, 0.09, 50, epochs=8, policy="one_cycle"
    )
    assert candidate_plan("triangular", 0.01, 0.09, 50, epochs=8, stepsize_epochs=2).stepsize == 100
    with pytest.raises(ValueError, match="above 0"):
        fixed_plan(0.0, plan)
