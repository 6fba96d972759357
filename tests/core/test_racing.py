"""The race for max_lr as a pure function: what it asks for, what that costs, and what it says in the end."""

import dataclasses
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clrtool.core.racing.choose import choose
from clrtool.core.racing.probes import Entry, Probe, contenders, cost, has_learned
from clrtool.core.racing.race import next_run, outcome
from clrtool.core.racing.result import Race
from clrtool.core.racing.rules import HIGHEST, LOWEST
from clrtool.core.reading.bounds import Bounds
from clrtool.core.reading.verdict import Advice, Verdict
from tests.conftest import LONG


def entry(start=-8, budget=400, seeds=1, training=2000, constant=2.3, first=2.4):
    return Entry(start, budget, seeds, training, constant, first)


def raced(begin, loss, spread=lambda power, iterations: None):
    """A race over runs whose loss is a function of (power, iterations), and of the seed where it takes one."""
    probes = []
    while (run := next_run(begin, probes)) is not None:
        value = loss(*run[1:]) if loss.__code__.co_argcount < 3 else loss(*run)
        taken = run.iterations if math.isfinite(value) else 1
        probes.append(Probe(*run, taken, value, None if math.isinf(value) else 0.5, spread(*run[1:])))
        assert len(probes) < 200
    return Race(begin, tuple(probes))


def bowl(best, slope=0.2, fast=60):
    """Losses that fall to a level which rises by ``slope`` with each factor of two away from the best rate."""
    return lambda power, iterations: 0.3 + slope * abs(power - best) + 1.8 * math.exp(-iterations / fast)


def always(value):
    return lambda power, iterations: value


def power_of(race):
    return math.log2(choose(race).max_lr)


@pytest.mark.parametrize("best", range(-12, 3, 2))
@pytest.mark.parametrize("start", [-10, -5])
@pytest.mark.parametrize("seeds", [1, 2])
def test_a_smooth_bowl_is_found_to_a_factor_of_two_from_wherever_the_race_starts(best, start, seeds):
    race = raced(entry(start, budget=1000, seeds=seeds), bowl(best))
    assert abs(power_of(race) - best) <= 1


@pytest.mark.parametrize(("highest", "taken"), [(-6, -7), (-5, -6), (-4, -6)])
@pytest.mark.parametrize("beyond", [2.3, 40.0, math.inf])
def test_max_lr_stays_a_factor_of_four_below_a_rate_that_does_no_better_than_a_constant_answer(highest, taken, beyond):
    def loss(power, iterations):
        return beyond if power > highest else bowl(-6)(power, iterations)

    race = raced(entry(), loss)
    assert power_of(race) == taken
    said = f"At {2.0 ** (highest + 1):.3g} a seed does no better than a constant answer, and max_lr stays a factor of 4"
    assert (said in choose(race).max_reason) is (highest == -6)


def test_a_cliff_that_the_second_seed_alone_falls_off_counts_and_the_seeds_that_agree_are_still_clear():
    def loss(seed, power, iterations):
        return 2.4 if seed == 1 and power > -6 else bowl(-6)(power, iterations)

    race = raced(entry(budget=800, seeds=2), loss)
    assert outcome(race.entry, race.probes).picks == (-6, -6)
    assert power_of(race) == -7
    assert choose(race).verdict is Verdict.CLEAR


def test_a_rate_that_is_slow_to_come_below_a_constant_answer_is_no_cliff():
    def loss(power, iterations):
        return 2.4 if power > -6 and iterations < 90 else bowl(-6)(power, iterations) - 0.02 * (power > -6)

    race = raced(entry(budget=800), loss)
    assert any(probe.loss == 2.4 for probe in race.probes)
    assert outcome(race.entry, race.probes).cliff is None


def test_a_rate_that_is_hardly_behind_and_above_the_best_is_taken_in_its_place():
    level = {-8: 1.3, -7: 1.0, -6: 1.05, -5: 1.5}
    race = raced(entry(), lambda power, iterations: level.get(power, 1.8))
    assert power_of(race) == -6
    assert "0.0156 is above the best of them" in choose(race).max_reason


def test_on_a_plateau_rates_wait_until_one_learns_and_the_slow_ones_are_not_taken_for_it():
    def loss(power, iterations):  # nothing shows before 90 iterations; what never moves looks best until then
        if power < -10:
            return 2.31
        return 0.5 if iterations >= 90 and abs(power + 6) <= 1 else 2.42

    race = raced(entry(-10, budget=500), loss)
    assert -7 <= power_of(race) <= -5


def test_where_all_rates_are_still_far_from_a_constant_the_best_goes_on_alone_until_it_is_past_it():
    far = entry(budget=360, seeds=2, first=100.0)
    race = raced(far, lambda power, iterations: 100 * math.exp(-iterations / (40 + 20 * abs(power + 8))) + 0.1)
    longest = max(race.probes, key=lambda probe: probe.iterations)
    assert longest.iterations > race.iterations / 3
    assert longest.loss < far.constant
    assert choose(race).max_lr is not None


def test_the_mean_of_what_two_seeds_prefer_is_taken_and_is_not_clear():
    race = raced(entry(budget=800, seeds=2), lambda seed, power, iterations: bowl(-6 - seed)(power, iterations))
    bounds = choose(race)
    assert math.log2(bounds.max_lr) == pytest.approx(-6.5)
    assert bounds.verdict is Verdict.WEAK
    assert Advice.CLOSE_RACE in bounds.advice
    assert "Another seed prefers 0.00781." in bounds.max_reason


def test_two_seeds_that_agree_are_clear():
    bounds = choose(raced(entry(budget=800, seeds=2), bowl(-6)))
    assert bounds.verdict is Verdict.CLEAR
    assert bounds.advice == ()


def test_the_interval_is_as_wide_where_the_race_tried_nothing_that_far():
    race = raced(entry(), lambda power, iterations: math.inf if power > -6 else bowl(-6)(power, iterations))
    low, high = choose(race).max_lr_interval
    assert low == 2.0**-9
    assert high == 2.0**-4.5 > 2.0 ** max(probe.power for probe in race.probes if math.isfinite(probe.loss))


def test_two_seeds_that_agree_are_not_clear_where_the_first_has_left_gaps_of_more_than_a_factor_of_two():
    def late(power, iterations):
        return 2.2 + 0.01 * abs(power + 8) if iterations < 70 else 1.5 + 0.1 * abs(power + 8)

    race = raced(entry(start=-8, budget=400, seeds=2), late)
    found = outcome(race.entry, race.probes)
    assert found.picks == (-8, -8)
    assert not {-9, -7} & {probe.power for probe in race.probes if probe.seed == 0}
    assert choose(race).advice == (Advice.GAPS,)


def test_one_seed_is_never_clear():
    assert Advice.ONE_SEED in choose(raced(entry(budget=5000), bowl(-6))).advice


LOSSES = st.dictionaries(
    st.integers(LOWEST, HIGHEST), st.floats(0.01, 50) | st.just(math.inf), min_size=1, max_size=HIGHEST - LOWEST
)


@settings(max_examples=300 if LONG else 75, deadline=None)
@given(LOSSES, st.integers(0, 3000), st.integers(1, 4), st.integers(1, 5000), st.integers(-20, 5), st.floats(0.1, 20))
def test_no_race_costs_more_than_its_budget_and_none_goes_on_for_ever(known, budget, seeds, training, start, constant):
    begin = Entry(start, budget, seeds, training, constant, 2 * constant)
    race = raced(begin, lambda power, iterations: known.get(power, 3.0) * (1 + 10 / iterations))
    assert cost(race.probes) == race.iterations <= budget
    bounds = choose(race)
    if bounds.max_lr is not None:
        powers = [probe.power for probe in race.probes]
        assert min(powers) - 1e-9 <= math.log2(bounds.max_lr) <= max(powers) + 1e-9
        assert has_learned(min(outcome(begin, race.probes).last.values()), begin)


@settings(max_examples=100, deadline=None)
@given(LOSSES, st.integers(100, 3000), st.integers(1, 3))
def test_what_is_asked_for_next_follows_from_what_was_measured_alone(known, budget, seeds):
    begin = entry(budget=budget, seeds=seeds)
    race = raced(begin, lambda power, iterations: known.get(power, 3.0) * (1 + 10 / iterations))
    for place, probe in enumerate(race.probes):
        assert next_run(begin, race.probes[:place]) == (probe.seed, probe.power, probe.iterations)


@settings(max_examples=100, deadline=None)
@given(LOSSES, st.integers(100, 3000), st.integers(1, 3))
def test_runs_that_go_on_are_among_those_that_were_kept(known, budget, seeds):
    begin, probes, kept = entry(budget=budget, seeds=seeds), [], set()
    while (run := next_run(begin, probes)) is not None:
        if any((probe.seed, probe.power) == run[:2] for probe in probes):
            assert run[:2] in kept
        kept = {run[:2]} | (kept & contenders(probes)) if probes else {run[:2]}
        loss = known.get(run.power, 3.0) * (1 + 10 / run.iterations)
        probes.append(Probe(*run, run.iterations, loss, 0.5))


@settings(max_examples=100, deadline=None)
@given(LOSSES, st.dictionaries(st.integers(-14, 2), st.floats(0, 2)), st.integers(100, 3000), st.integers(1, 3))
def test_runs_that_go_on_from_a_plateau_are_among_those_that_were_kept(known, spreads, budget, seeds):
    begin, probes, kept = entry(-5, budget, seeds), [], set()
    while (run := next_run(begin, probes)) is not None:
        if any((probe.seed, probe.power) == run[:2] for probe in probes):
            assert run[:2] in kept
        kept = {run[:2]} | (kept & contenders(probes)) if probes else {run[:2]}
        loss = known.get(run.power, 3.0) if run.iterations > 100 else 2.3
        probes.append(Probe(*run, run.iterations, loss, 0.5, spreads.get(run.power)))
    assert cost(probes) <= budget


def test_what_never_beats_a_constant_answer_is_never_recommended_and_both_numbers_are_said():
    bounds = choose(raced(entry(), always(2.29)))
    assert bounds.verdict is Verdict.INCONCLUSIVE
    assert bounds.advice == (Advice.NOTHING_LEARNED,)
    assert "does at least 2% better than a constant answer: the lowest held-out loss is 2.29," in bounds.max_reason
    assert "a constant answer has 2.3," in bounds.max_reason


def test_a_collapse_to_the_constant_answer_is_no_gain_however_bad_the_first_loss_was():
    bounds = choose(raced(entry(constant=1.04, first=101.0), lambda power, iterations: 1.03 if power > -6 else 60.0))
    assert bounds.max_lr is None


def test_losses_that_are_all_infinite_have_a_reason_of_their_own():
    assert choose(raced(entry(), always(math.inf))).advice == (Advice.NOTHING_FINITE,)


def test_losses_that_explode_and_end_infinite_are_told_by_the_lowest_of_them():
    race = raced(entry(), lambda power, iterations: math.inf if iterations > 60 else 1e5 - power)
    bounds = choose(race)
    assert bounds.advice == (Advice.NOTHING_LEARNED,)
    assert f"the lowest held-out loss is {min(probe.loss for probe in race.probes):.4g}," in bounds.max_reason


@pytest.mark.parametrize("start", [-5, -8])
def test_rates_that_explode_and_stay_finite_are_no_valley(start):
    """Of a Poisson regression: the higher of two rates that explode may have the lower loss."""
    exploded = {-3: math.inf, -4: 8e5, -5: 4e5, -6: 1e9, -7: 2e10, -8: 3e12}

    def loss(power, iterations):
        return exploded.get(power, math.inf) if power > -9 else 10 * bowl(-11)(power, iterations) - 115

    race = raced(entry(start, constant=-93.0, first=-60.0), loss)
    assert abs(power_of(race) + 11) <= 1


@pytest.mark.parametrize(("still", "learned"), [(math.inf, True), (1.5, False), (2.5, True)])
def test_what_statistics_of_batch_norm_gain_by_themselves_is_no_gain_of_a_rate(still, learned):
    begin = dataclasses.replace(entry(), still=still)
    race = raced(begin, lambda power, iterations: 1.5 + 0.01 * abs(power + 6))
    assert (choose(race).max_lr is not None) is learned
    assert Race.from_dict(json.loads(json.dumps(race.to_dict()))) == race


def test_a_race_without_a_budget_says_that_nothing_was_learned():
    race = raced(entry(budget=0), bowl(-6))
    assert race.probes == ()
    assert choose(race).verdict is Verdict.INCONCLUSIVE


def test_a_race_is_the_same_after_it_was_written_and_read():
    begin = entry(first=math.inf, seeds=2)
    race = raced(begin, lambda power, iterations: math.inf if power > -4 else bowl(-6)(power, iterations))
    again = Race.from_dict(race.to_dict())
    assert again == race
    assert Bounds.from_dict(choose(race).to_dict()) == choose(again)


def test_the_reason_is_true_of_the_probes():
    race = raced(entry(seeds=2), bowl(-6))
    bounds, found = choose(race), outcome(race.entry, race.probes)
    assert f"After up to {max(probe.iterations for probe in race.probes if probe.seed == 0)}" in bounds.max_reason
    for power, loss in found.last.items():
        assert f"{loss:.4g} at {2.0**power:.3g}" in bounds.max_reason
        assert any(probe.power == power and probe.loss == loss for probe in race.probes)


@pytest.mark.parametrize("first", [0.0, -0.25, 2.4])
def test_a_score_that_no_rate_moves_is_told_from_one_that_no_rate_betters(first):
    still = choose(raced(entry(constant=first - 0.1, first=first), always(first)))
    assert still.advice == (Advice.NOTHING_MOVED,)
    assert f"is {first:.4g} at every rate" in still.max_reason
    worse = choose(raced(entry(constant=first - 0.1, first=first), lambda power, _: first + 2.0**power))
    assert worse.advice == (Advice.NOTHING_LEARNED,)


def test_a_race_that_is_not_over_has_no_outcome():
    with pytest.raises(ValueError, match="not over"):
        outcome(entry(), ())


def test_where_no_loss_is_known_to_gain_from_what_is_finite_is_a_gain():
    race = raced(entry(constant=math.inf, first=math.inf), bowl(-6))
    assert abs(power_of(race) + 6) <= 1


def plateau(power, iterations):
    """A start that 2^-5 leaves after 200 iterations, 2^-8 after 1,600, and 2^-2 never."""
    return 1.5 if (power == -5 and iterations > 200) or (power == -8 and iterations > 1600) else 2.3


def on_a_plateau(budget, **more):
    return entry(start=-5, budget=budget, seeds=2, constant=2.29, first=2.31, **more)


def dead(after, highest=-2):
    """Answers that differ no more at the highest rate after so many iterations."""
    return lambda power, iterations: 0.01 if power >= highest and iterations > after else 1.2


@pytest.mark.parametrize(("budget", "after"), [(400, 0), (400, 20), (500, 100), (700, 200), (1000, 200)])
def test_on_a_plateau_the_budget_goes_to_the_highest_rate_whose_answers_differ(budget, after):
    race = raced(on_a_plateau(budget), plateau, dead(after))
    assert outcome(race.entry, race.probes).picks[0] == -5
    assert max(probe.iterations for probe in race.probes if probe.power == -8) < 70, "it takes eight times as long"


def test_on_a_plateau_a_rate_above_the_start_whose_answers_differ_is_trained_the_longest():
    race = raced(on_a_plateau(900), always(2.3), dead(0, highest=-1))
    assert max(race.probes, key=lambda probe: probe.iterations).power == -2


def test_on_a_plateau_the_rate_below_has_its_turn_where_all_above_say_the_same():
    race = raced(on_a_plateau(3000), plateau, dead(100, highest=-5))
    assert outcome(race.entry, race.probes).picks == (-8,)


def test_on_a_plateau_without_answers_to_hear_the_highest_rate_is_trained_the_longest():
    race = raced(on_a_plateau(900), always(2.3))
    assert max(race.probes, key=lambda probe: probe.iterations).power == -2


def test_on_a_plateau_all_that_is_left_goes_to_one_rate_and_none_to_rounds_that_are_hardly_longer():
    race = raced(on_a_plateau(360), always(2.3), dead(0))
    longest = max(race.probes, key=lambda probe: probe.iterations)
    assert (longest.power, race.iterations) == (-5, 360)
    waited = {power: max(probe.iterations for probe in race.probes if probe.power == power) for power in (-8, -2)}
    assert longest.iterations == 360 - sum(waited.values())


@pytest.mark.parametrize(("above", "taken"), [(1.1, -1), (2.02, -1), (2.2, -2)])
def test_a_rate_that_has_left_a_plateau_is_trained_no_farther_before_the_next_one_up_is_as_far(above, taken):
    def loss(power, iterations):
        if iterations < 200 or power not in (-2, -1):
            return 2.3 - 0.01 * (power == -2)
        return 2.0 if power == -2 else above

    race = raced(entry(start=-5, budget=768, seeds=2, constant=2.29, first=2.34), loss)
    alone, up, *_ = [probe for probe in race.probes if probe.iterations >= 200 and probe.power > -5]
    assert (alone.power, up.power) == (-2, -1)
    assert alone.iterations == up.iterations < 300
    assert power_of(race) == taken


def test_other_seeds_are_not_asked_where_they_could_not_be_trained_as_long_as_the_first_needed_to_learn():
    def loss(seed, power, iterations):
        return 1.0 + 0.1 * abs(power + 5) if iterations > 100 else 2.3

    for budget, seeds in ((500, {0}), (3000, {0, 1})):
        race = raced(entry(start=-5, budget=budget, seeds=2, constant=2.29, first=2.34), loss)
        assert {probe.seed for probe in race.probes} == seeds
        assert (Advice.ONE_SEED in choose(race).advice) is (seeds == {0})


def swept(power, *advice):
    """What curves give alone that broke, or did not, where advice says so."""
    rate = 2.0**power
    return Bounds(rate / 10, rate, (rate / 20, rate / 5), (rate / 2, rate * 2), "", "", Verdict.WEAK, advice)


def test_a_sweep_that_broke_below_the_rate_that_won_pulls_max_lr_half_of_the_way():
    race = raced(entry(seeds=2), bowl(-6, slope=0.4))
    for below, advice in ((1, ()), (3, (Advice.BROKE_BELOW,))):
        bounds = choose(race, swept(-6 - below))
        assert math.log2(bounds.max_lr) == pytest.approx(-6 - below / 2)
        assert bounds.base_lr == pytest.approx(bounds.max_lr / 4)
        assert bounds.max_lr_interval[0] <= 2.0 ** (-6 - below)
        assert bounds.advice == advice
        assert f"gives {2.0 ** (-6 - below):.3g}" in bounds.max_reason


@pytest.mark.parametrize(("first", "counts"), [(2.35, True), (2.1, True), (2.0, False), (1.2, False)])
def test_a_sweep_from_a_start_that_has_learned_says_nothing_of_a_cliff(first, counts):
    """Its curve falls where a rate throws the model back; a constant answer has 2.29."""
    race = raced(entry(seeds=2, constant=2.29, first=first), bowl(-6, slope=0.4))
    assert (choose(race, swept(-9)) != choose(race)) is counts


@pytest.mark.parametrize("curves", [None, swept(-4), swept(-9, Advice.UNBROKEN), swept(-9, Advice.STILL_RISING)])
def test_a_sweep_that_broke_above_or_not_at_all_changes_nothing(curves):
    race = raced(entry(seeds=2), bowl(-6))
    assert choose(race, curves) == choose(race)
