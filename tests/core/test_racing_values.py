"""The race over values as a pure function: what it asks for, what that costs, what it says, and how rates grow."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clrtool.core.racing.choose import choose
from clrtool.core.racing.contest import Contender, Contest, Reading, contest_of, least_budget, pilot_budget
from clrtool.core.racing.probes import Entry, Probe
from clrtool.core.racing.race import next_run, outcome
from clrtool.core.racing.result import Race
from clrtool.core.racing.values import best_power, next_trial, ranking
from clrtool.core.results.batch_scaling import batch_scaling
from clrtool.core.results.varied import Tried, VaryRecord, VaryVerdict
from tests.conftest import LONG


def contest(
    number=4, batch_sizes=(32,) * 4, first=0, budget=40_000, seeds=2, training=2000, power=-6, learned=0, **more
):
    contenders = tuple(
        Contender((place,), size, training * 32 // size) for place, size in zip(range(number), batch_sizes, strict=True)
    )
    return Contest(contenders, first, Entry(-5, 0, seeds, training, 2.3, 2.4), power, learned, budget, **more)


def raced(begin, loss):
    """A race in which the loss is a function of (value, seed, power, samples)."""
    readings, left = [], {*range(len(begin.contenders))}
    while (trial := next_trial(begin, readings)) is not None:
        value, run, kept = trial
        assert left >= {*kept}, "a value that was dropped comes back"
        assert value in kept
        left = {*kept}
        samples = run.iterations * begin.contenders[value].batch_size
        reached = loss(value, run.seed, run.power, samples)
        taken = run.iterations if math.isfinite(reached) else 1
        readings.append(Reading(value, Probe(*run, taken, reached, None if math.isinf(reached) else 0.5)))
        assert len(readings) < 500
    return readings


def samples_of(begin, readings):
    longest = {}
    for value, probe in readings:
        key = value, probe.seed, probe.power
        longest[key] = max(longest.get(key, 0), probe.taken * begin.contenders[value].batch_size)
    return sum(longest.values())


def bowls(levels, best, fast=3000):
    """Losses that fall to the level of their value, which rises with each factor of two away from its best rate."""

    def loss(value, seed, power, samples):
        return levels[value] + 0.15 * abs(power - best[value]) + 1.8 * math.exp(-samples / fast)

    return loss


@pytest.mark.parametrize("best", range(4))
@pytest.mark.parametrize("shift", [-2, 0, 2])
def test_the_value_of_the_lowest_bowl_wins_at_its_own_rate_wherever_that_lies(best, shift):
    levels = [0.1 + 0.2 * abs(place - best) for place in range(4)]
    begin = contest()
    readings = raced(begin, bowls(levels, [-6 + shift * place for place in range(4)]))
    found = ranking(begin, readings)
    assert found.order[0] == best
    assert found.is_clear
    assert abs(found.standings[best].power - (-6 + shift * best)) <= 1


def test_of_values_that_do_the_same_none_wins():
    begin = contest()
    found = ranking(begin, raced(begin, bowls([0.3] * 4, [-6] * 4)))
    assert not found.is_clear
    assert found.order[0] == begin.first


def test_a_lead_that_another_seed_does_not_see_is_noise():
    def loss(value, seed, power, samples):
        return bowls([0.3] * 4, [-6] * 4)(value, seed, power, samples) - 0.2 * (value == 2 - seed)

    begin = contest()
    assert not ranking(begin, raced(begin, loss)).is_clear


@pytest.mark.parametrize("ahead", [0, 1500])
def test_a_value_that_only_begins_faster_is_not_better_however_alike_the_seeds_are(ahead):
    def loss(value, seed, power, samples):
        """It falls by a power of the samples; one value is so many of them ahead, or better for good."""
        share = (1 + (samples + ahead * (value == 2)) / 1000) ** -0.5
        return 1.8 * share + 0.1 * (value != 2 and not ahead) + 0.15 * abs(power + 6)

    begin = contest()
    found = ranking(begin, raced(begin, loss))
    assert found.order[0] == 2
    assert min(found.margins) > 0.02 * found.gain
    assert found.is_clear == (ahead == 0)


def test_a_value_that_alone_stays_finite_wins():
    begin = contest()
    readings = raced(begin, lambda value, *run: bowls([0.3] * 4, [-6] * 4)(value, *run) if value == 2 else math.inf)
    found = ranking(begin, readings)
    assert found.order[0] == 2
    assert found.is_clear


@pytest.mark.parametrize("keeps_all", [False, True])
def test_a_value_that_is_dropped_is_named_as_such_at_once(keeps_all):
    begin = contest(keeps_all=keeps_all)
    readings = raced(begin, bowls([0.5, 0.4, 0.3, 0.2], [-6] * 4))
    assert {*next_trial(begin, readings[:1]).kept} == {0, 1, 2, 3}
    longer = next(place for place, each in enumerate(readings) if each.probe.iterations * 32 > begin.horizon)
    again = next((place for place, each in enumerate(readings) if each.probe.seed == 1), None)
    if not keeps_all:
        assert {*next_trial(begin, readings[:longer]).kept} == {2, 3}
    assert {*next_trial(begin, readings[:again]).kept} == ({0, 3} if keeps_all else {2, 3})


def test_the_worst_values_are_dropped_early_and_the_best_are_trained_for_longest():
    begin = contest()
    readings = raced(begin, bowls([0.1, 0.5, 0.9, 1.3], [-6] * 4))
    spent = [sum(probe.iterations for value, probe in readings if value == each) for each in range(4)]
    longest = [max(probe.iterations for value, probe in readings if value == each) for each in range(4)]
    assert longest[0] == longest[1] > longest[2] == longest[3]
    assert min(spent[:2]) > max(spent[2:])


@pytest.mark.parametrize("batch_sizes", [(16, 32, 64, 128), (8, 8, 100, 1000)])
def test_values_are_compared_after_as_many_samples_to_half_a_batch(batch_sizes):
    begin = contest(batch_sizes=batch_sizes, budget=300_000, training=20_000)
    readings = raced(begin, bowls([0.3] * 4, [-6] * 4))
    first = {}
    for value, probe in readings:
        first.setdefault(value, probe.iterations)
    for value, iterations in first.items():
        assert abs(iterations * batch_sizes[value] - begin.horizon) <= batch_sizes[value] / 2


def test_no_batch_size_is_dropped_and_both_ends_are_seen_by_another_seed():
    sizes = (16, 32, 64, 128)
    begin = contest(batch_sizes=sizes, budget=80_000, keeps_all=True)
    readings = raced(begin, bowls([0.3, 0.4, 0.5, 0.6], [-7, -6, -5, -4]))
    standings = ranking(begin, readings).standings
    assert [each.power for each in standings] == [-7, -6, -5, -4]
    assert [len(each.losses) for each in standings] == [2, 1, 1, 2]
    assert all(abs(each.samples - begin.horizon) <= size / 2 for each, size in zip(standings, sizes, strict=True))


def test_the_ends_of_batch_sizes_are_the_smallest_and_the_largest_however_they_are_given():
    sizes = (64, 16, 128, 32)
    begin = contest(batch_sizes=sizes, budget=80_000, keeps_all=True)
    standings = ranking(begin, raced(begin, bowls([0.3] * 4, [-6] * 4))).standings
    assert [len(each.losses) for each in standings] == [1, 2, 2, 1]


@pytest.mark.parametrize("learned", [0, 2500, 9000])
def test_values_wait_until_something_is_learned_as_long_as_all_of_them_can(learned):
    begin = contest(budget=40_000, learned=learned)
    found = ranking(begin, raced(begin, bowls([0.1, 0.5, 0.9, 1.3], [-6] * 4)))
    assert begin.horizon >= min(learned, 40_000 / (3.8 * 4) - 1)
    assert all(each.losses for each in found.standings)


LOSSES = st.lists(st.floats(0.01, 5) | st.just(math.inf), min_size=4, max_size=4)


@settings(max_examples=200 if LONG else 50, deadline=None)
@given(LOSSES, st.integers(1, 3), st.integers(0, 60_000), st.integers(0, 3), st.booleans(),
       st.sampled_from([(32,) * 4, (8, 16, 32, 64), (4, 400, 40, 40)]), st.integers(-12, 0))  # fmt: skip
def test_no_race_over_values_costs_more_than_its_budget_and_none_goes_on_for_ever(
    levels, seeds, budget, first, keeps_all, batch_sizes, best
):
    begin = contest(batch_sizes=batch_sizes, budget=budget, seeds=seeds, first=first, keeps_all=keeps_all)
    readings = raced(begin, bowls(levels, [best] * 4))
    assert samples_of(begin, readings) <= budget
    assert len(ranking(begin, readings).standings) == 4


def test_batch_sizes_that_leave_nothing_for_another_seed_are_seen_by_one():
    sizes = (16, 32, 64, 128)
    begin = contest(batch_sizes=sizes, budget=round(3.9 * 4 * 12 * 128), keeps_all=True)
    standings = ranking(begin, raced(begin, bowls([0.3] * 4, [-6] * 4))).standings
    assert [len(each.losses) for each in standings] == [1, 1, 1, 1]


def test_the_least_budget_pays_for_three_rates_of_every_value():
    contenders = contest().contenders
    whole = least_budget(contenders, 0)
    begin = contest(budget=whole - pilot_budget(whole, 32) * 32)
    readings = raced(begin, bowls([0.1, 0.2, 0.3, 0.4], [-6] * 4))
    assert all(len({probe.power for value, probe in readings if value == each}) >= 3 for each in range(4))


def record_of(levels, has_own=True, seeds=2):
    """A whole record, its race over rates included."""
    entry, probes = Entry(-5, 300, 1, 2000, 2.3, 2.4), []
    loss = bowls(levels, [-6] * 4)
    while (run := next_run(entry, probes)) is not None:
        probes.append(Probe(*run, run.iterations, loss(0, 0, run.power, 32 * run.iterations), 0.5))
    tried = tuple(Tried((10.0**-place,), (place,), 32, 50, 2000) for place in range(4))
    pilot = Race(entry, tuple(probes))
    begin = contest_of([each.contender for each in tried], 0, pilot, seeds, 40_000)
    given_ = {
        "keys": ("optimizer.args.weight_decay",),
        "first": 0,
        "has_own": has_own,
        "seeds": seeds,
        "budget": 40_000,
    }
    return VaryRecord(tried=tried, pilot=pilot, readings=tuple(raced(begin, loss)), **given_)


def test_what_the_config_has_stays_where_nothing_is_better_and_the_reason_says_so():
    record = record_of([0.300, 0.2999, 0.9, 0.9])
    assert record.verdict is VaryVerdict.NO_DIFFERENCE
    assert record.chosen == 0
    assert record.share <= 40_000 / (2000 * 32)


def test_a_clear_winner_is_chosen_with_a_quarter_of_its_rate_below():
    record = record_of([0.9, 0.1, 0.9, 0.9])
    assert record.verdict is VaryVerdict.BETTER
    assert record.chosen == 1
    bounds = record.bounds(1)
    assert bounds.max_lr == 2.0**record.contest.power
    assert bounds.base_lr == bounds.max_lr / 4
    assert "weight_decay 0.1 reaches" in record.reason


@pytest.mark.parametrize(
    ("keys", "names"),
    [
        (("optimizer.args.weight_decay", "data.batch_size"), ("weight_decay", "batch_size")),
        (
            ("optimizer.groups.0.lr_ratio", "optimizer.groups.1.lr_ratio"),
            ("groups.0.lr_ratio", "groups.1.lr_ratio"),
        ),
        (("optimizer.0.lr_ratio", "optimizer.1.lr_ratio"), ("optimizer.0.lr_ratio", "optimizer.1.lr_ratio")),
        (("width", "depth"), ("width", "depth")),
    ],
)
def test_two_keys_are_named_by_no_more_words_than_tell_them_apart(keys, names):
    assert replace(record_of([0.9, 0.1, 0.9, 0.9]), keys=keys).names == names


def piloted(loss):
    """A race over rates that batches of 32 are run with first, in which the loss is a function of (power, samples)."""
    entry, probes = Entry(-5, 600, 1, 2000, 2.3, 2.4), []
    while (run := next_run(entry, probes)) is not None:
        probes.append(Probe(*run, run.iterations, loss(run.power, 32 * run.iterations), 0.5))
    return Race(entry, tuple(probes))


@pytest.mark.parametrize(("growth", "told"), [(0, [0, 0, 0, 0]), (1, [-1, 0, 1, 2]), (2, [-1, 0, 1, 2])])
def test_the_rates_of_batch_sizes_lie_on_one_line_that_is_no_steeper_than_the_batch(growth, told):
    sizes = (16, 32, 64, 128)
    longer, shorter = bowls([0.3], [-8]), bowls([0.3] * 4, [-6 + growth * place for place in range(4)])
    tried = tuple(Tried((size,), (place,), size, 1600 // size, 64_000 // size) for place, size in enumerate(sizes))
    pilot, budget = piloted(lambda power, samples: longer(0, 0, power, samples)), 100_000
    begin = contest_of([each.contender for each in tried], 1, pilot, 2, budget, keeps_all=True)
    given_ = {"keys": ("data.batch_size",), "first": 1, "has_own": True, "seeds": 2, "budget": budget}
    record = VaryRecord(tried=tried, pilot=pilot, readings=tuple(raced(begin, shorter)), keeps_all=True, **given_)
    assert -8 <= begin.power <= -7  # the rate above the best is hardly behind
    apart = [math.log2(record.bounds(value).max_lr) - begin.power for value in range(4)]
    assert apart == pytest.approx(told, abs=1e-6)
    assert record.batch_scaling.exponent == pytest.approx(growth)


def test_values_are_tried_around_a_rate_as_far_below_a_cliff_as_a_race_over_rates_goes():
    bowl = bowls([0.3], [-6])
    pilot = piloted(lambda power, samples: 2.35 if power > -6 else bowl(0, 0, power, samples))
    begin = contest_of([Contender((0,), 32, 2000), Contender((1,), 32, 2000)], 0, pilot, 2, 100_000)
    assert outcome(pilot.entry, pilot.probes).cliff == -5
    assert begin.power == math.log2(choose(pilot).max_lr) == -7


def test_values_that_have_learned_nothing_where_they_were_compared_tell_nothing():
    record = record_of([0.9, 0.1, 0.9, 0.9])
    late = {"readings": tuple(raced(record.contest, lambda value, *run: 2.29 - 0.01 * (value == 1)))}
    early = replace(record, **late)
    assert early.verdict is VaryVerdict.NO_DIFFERENCE
    assert early.chosen == 0
    assert "tells nothing: give a larger --budget" in early.reason


def test_a_value_that_was_dropped_before_anything_was_learned_stays():
    def loss(value, seed, power, samples):
        return 2.29 - 0.001 * value if samples <= horizon else 1.0 - 0.1 * value

    record = record_of([0.9, 0.1, 0.9, 0.9])
    horizon = record.contest.horizon
    late = {"readings": tuple(raced(record.contest, loss))}
    found = replace(record, **late)
    assert found.ranking.order[0] == 3
    assert found.verdict is VaryVerdict.NO_DIFFERENCE
    assert found.chosen == 0
    assert "tells nothing" in found.reason


def test_what_tells_values_apart_is_as_much_as_a_race_over_rates_has_to_gain():
    record = record_of([0.9, 0.1, 0.9, 0.9])
    for least, verdict in ((2.1, VaryVerdict.NO_DIFFERENCE), (2.0, VaryVerdict.BETTER)):  # of 2.3, a tenth of it away
        readings = raced(record.contest, bowls([least + 0.1, least, 2.2, 2.2], [-6] * 4, fast=1))
        assert replace(record, readings=tuple(readings)).verdict is verdict


def test_one_seed_is_told_as_such():
    assert record_of([0.9, 0.1, 0.9, 0.9], seeds=1).verdict is VaryVerdict.ONE_SEED


def quadratic(curvatures, noise, lr, batch, samples):
    """The expected loss of plain SGD on a quadratic whose gradient has a known noise, in closed form.

    With x the distance from the minimum along an eigenvector of curvature h, 1 at first, and noise of variance s / B, a
    step makes a E x^2 + lr^2 s / B of E x^2, where a = (1 - lr h)^2; n = samples / B of them make
    a^n + lr^2 s / B (1 - a^n) / (1 - a). The loss is the mean of h E x^2 / 2.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        shrinks = (1 - lr * curvatures) ** 2
        left = shrinks ** (samples // batch)
        square = left + lr**2 * noise / batch * (1 - left) / (1 - shrinks)
    loss = float((curvatures * square).mean() / 2)
    return loss if math.isfinite(loss) and loss < 1e6 else math.inf


def best_by_formula(curvatures, noise, batch, samples):
    powers = np.linspace(-14, 3, 681)
    return float(powers[np.argmin([quadratic(curvatures, noise, 2.0**power, batch, samples) for power in powers])])


@pytest.mark.parametrize("noise", [0.0, 1.0, 30.0, 1000.0])
def test_the_growth_with_the_batch_is_that_of_a_quadratic_with_known_noise(noise):
    curvatures, sizes, horizon = np.geomspace(0.05, 1, 12), (8, 16, 32, 64, 128), 16_384
    true = [best_by_formula(curvatures, noise, size, horizon) for size in sizes]
    slope = np.polyfit(np.log2(sizes), true, 1)[0]
    begin = contest(
        5, sizes, budget=round(horizon * 3.8 * 5 / 0.75), training=40_000, power=round(true[0]), keeps_all=True
    )
    assert begin.horizon == pytest.approx(horizon, rel=0.3)
    loss = lambda value, seed, power, samples: quadratic(curvatures, noise, 2.0**power, sizes[value], samples)  # noqa: E731
    tried = tuple(Tried((size,), (place,), size, 1000, 40_000) for place, size in enumerate(sizes))
    found = scaling_of(begin, raced(begin, loss), tried)
    low, high = found.interval
    assert low <= slope <= high
    assert found.exponent == pytest.approx(slope, abs=0.25)


def scaling_of(begin, readings, tried):
    powers = {}
    for value, each in enumerate(tried):
        found = [best_power(readings, value, seed) for seed in range(begin.entry.seeds)]
        powers[each.batch_size] = [power for power in found if power is not None]
    return batch_scaling(powers)


@pytest.mark.parametrize("noise_scale", [64, 256])
@pytest.mark.parametrize("exponent", [0.5, 1.0])
def test_growth_ends_near_the_noise_scale_of_the_law_by_which_it_does(noise_scale, exponent):
    sizes = [2**power for power in range(2, 14)]
    rates = {size: [math.log2(0.5 / (1 + noise_scale / size) ** exponent)] for size in sizes}
    found = batch_scaling(rates)
    assert noise_scale / 2 <= found.critical <= 4 * noise_scale
    assert found.factor(found.critical, 64 * found.critical) == 1.0


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
def test_growth_by_a_power_has_no_end_within_what_was_measured(exponent):
    found = batch_scaling({size: [exponent * math.log2(size)] for size in (16, 64, 256, 1024)})
    assert found.exponent == pytest.approx(exponent)
    assert found.critical is None
    assert found.factor(16, 16_384) == pytest.approx(1024**exponent)
    assert not found.is_measured(2048)


def test_the_interval_is_wide_where_few_close_sizes_were_measured():
    near, far = (batch_scaling({16: [-6.0], size: [-5.0]}).interval for size in (32, 1024))
    assert near[1] - near[0] > 4 * (far[1] - far[0])


def test_a_growth_that_may_be_none_is_not_told_as_one():
    from clrtool.report.text.vary_table import _growth

    level = batch_scaling({16: [-5.0], 32: [-5.0], 64: [-5.0], 128: [-6.0]})
    assert level.interval[0] < 0 < level.interval[1]
    assert _growth(level).startswith("No growth of the best rate with the batch beyond noise: the exponent is")
    assert _growth(batch_scaling({16: [-5.0], 32: [-4.0], 64: [-3.0]})).startswith("The best rate grows")


def test_one_size_shows_no_growth():
    assert batch_scaling({32: [-4.0]}) is None
