"""The gate of ``--check``: on numbers whose answer is known, and on what real range tests measure."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clrtool.config.file import find_config, load_config
from clrtool.core.racing.choose import choose
from clrtool.core.racing.probes import Entry, Probe
from clrtool.core.racing.race import next_run
from clrtool.core.racing.result import Race
from clrtool.core.reading.bounds import Bounds
from clrtool.core.reading.verdict import Verdict
from clrtool.core.results.recommendation import Recommendation, changed_inputs, changes, recommendation
from clrtool.core.results.record import RunRecord
from clrtool.engine.configured.build import build_workload
from clrtool.engine.rangetest.pipeline import range_test
from tests.conftest import LONG

stats = pytest.importorskip("scipy.stats")


def bounds(base_lr, max_lr):
    return Bounds(base_lr, max_lr, None, None, "", "", Verdict.CLEAR)


def kept(base_lr, max_lr, seeds, **more):
    values = {"config": {}, "seed": 0, "data_sha256": "", "sources": {}, "plan": None} | more
    return Recommendation(bounds=bounds(base_lr, max_lr), seeds=dict(enumerate(seeds)), **values)


def measured(*words):
    config = load_config(find_config("digits"), words)
    record = range_test(build_workload(config, device="cpu"), config)
    return recommendation(replace(record, environment={}), config.model_dump(mode="json"))


@given(st.lists(st.floats(-0.5, 0.5), min_size=2, max_size=6), st.lists(st.floats(-0.5, 0.5), min_size=2, max_size=6))
def test_the_noise_is_that_of_a_t_test_of_two_samples(old, new):
    one, other = (kept(0.01, 0.1, [(0.01 * math.exp(x), 0.1 * math.exp(x)) for x in logs]) for logs in (old, new))
    noise = changes(one, other)[1].noise
    pooled = (np.var(old, ddof=1) * (len(old) - 1) + np.var(new, ddof=1) * (len(new) - 1)) / (len(old) + len(new) - 2)
    quantile = stats.t.ppf(stats.norm.cdf(2), len(old) + len(new) - 2)
    expected = quantile * math.sqrt(pooled * (1 / len(old) + 1 / len(new)))
    assert math.log(noise) == pytest.approx(expected, rel=5e-3, abs=1e-6)


@pytest.mark.parametrize(
    ("factor", "scatter", "drifted"), [(1.1, 0.0, False), (1.2, 0.0, True), (1.2, 0.3, False), (3.0, 0.3, True)]
)
def test_a_bound_has_drifted_only_beyond_the_tolerance_and_the_scatter_of_the_seeds(factor, scatter, drifted):
    around = [math.exp(x * scatter) for x in (-1, 0, 1)]
    old = kept(0.01, 0.1, [(0.01 * x, 0.1 * x) for x in around])
    new = kept(0.01, 0.1 * factor, [(0.01 * x, 0.1 * factor * x) for x in around])
    base, top = changes(old, new)
    assert (base.has_drifted, top.has_drifted) == (False, drifted)
    assert top.factor == pytest.approx(factor)
    assert changes(new, old)[1].has_drifted is drifted


def test_one_seed_tells_no_noise_and_the_tolerance_alone_decides():
    old, new = kept(0.01, 0.1, [(0.01, 0.1)]), kept(0.01, 0.12, [(0.01, 0.12), None])
    top = changes(old, new)[1]
    assert (top.noise, top.has_drifted) == (None, True)


def test_the_same_seeds_in_the_same_environment_have_to_give_the_same_numbers_exactly():
    same = {"environment": {"torch": "2", "deterministic": True}}
    old = kept(0.01, 0.1, [(0.01, 0.1), (0.02, 0.3)], **same)
    new = replace(old, bounds=bounds(0.01, 0.1 * (1 + 1e-9)))
    assert [each.has_drifted for each in changes(old, new)] == [False, True]
    for other in ({"environment": {"torch": "3", "deterministic": True}}, {"environment": {"deterministic": False}}):
        assert not any(each.has_drifted for each in changes(replace(old, **other), replace(new, **other | same)))
    elsewhere = replace(new, seeds={7: (0.01, 0.1), 8: (0.02, 0.3)})
    assert not any(each.has_drifted for each in changes(old, elsewhere))


def test_bounds_that_are_not_there_cannot_be_compared():
    none = Bounds(None, None, None, None, "", "", Verdict.INCONCLUSIVE)
    with pytest.raises(ValueError, match="without bounds"):
        changes(kept(0.01, 0.1, []), replace(kept(0.01, 0.1, []), bounds=none))


def test_what_differs_between_two_configs_is_named_value_by_value():
    old = {"data": {"batch_size": 32, "args": {}}, "plan": {"epochs": 30}, "gone": 1}
    new = {"data": {"batch_size": 256, "args": {"limit": 5}}, "plan": {"epochs": 30}, "metric": None, "came": [1]}
    assert list(changed_inputs(old, new)) == [
        "data.batch_size: 32 -> 256", "data.args.limit: None -> 5", "gone: 1 -> None", "came: None -> [1]",
    ]  # fmt: skip


@pytest.mark.short(1)
@pytest.mark.parametrize("method", ["race", "paper"])
def test_other_seeds_raise_no_alarm_and_another_problem_does(method):
    method = f"sweep.method={method}"
    first = measured(method)
    others = [changes(first, measured(method, f"seed={seed}")) for seed in range(1000, 11_000 if LONG else 5000, 1000)]
    alarms = sum(any(each.has_drifted for each in found) for found in others)
    assert alarms <= 1  # of 10, or 4 in the short form; of 20 there was none
    for word in ("data.batch_size=256", "model={name: mlp, args: {hidden: [64], activation: sigmoid}}"):
        assert all(each.has_drifted for each in changes(first, measured(method, word)))


def test_the_bounds_of_a_seed_of_a_race_are_those_that_its_own_runs_prefer():
    entry = Entry(start=-8, budget=800, seeds=2, training=2000, constant=2.3, first=2.4)
    probes = []
    while (run := next_run(entry, probes)) is not None:
        loss = 0.3 + 0.2 * abs(run.power + 6 + run.seed) + 1.8 * math.exp(-run.iterations / 60)
        probes.append(Probe(*run, run.iterations, loss, 0.5))
    race = Race(entry, tuple(probes))
    record = RunRecord(sweep=None, bounds=choose(race), plan=None, environment={}, config_sha256="", data_sha256="",
                       race=race)  # fmt: skip
    found = recommendation(record, {"seed": 7})
    assert found.seeds == {7: (2**-8, 2**-6), 8: (2**-9, 2**-7)}
    assert found.bounds.max_lr == pytest.approx(2**-6.5)
