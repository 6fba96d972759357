"""What this version reads off a finished run: its race, or its curves as the short runs of earlier versions moved them."""

import math
from dataclasses import replace

import numpy as np
import pytest

from clrtool.core.racing.choose import choose
from clrtool.core.racing.probes import Entry, Probe
from clrtool.core.racing.race import next_run
from clrtool.core.racing.result import Race
from clrtool.core.reading.curve import Curve, SweepOutcome
from clrtool.core.reading.metric import ACCURACY, LOSS
from clrtool.core.reading.paper import find_bounds
from clrtool.core.results.record import RunRecord, SweepRecord, Trial, Verification
from clrtool.core.results.verification import read_again, verified

LRS = np.geomspace(1e-4, 1, 61)


def sweep(fall=0.1, metric=ACCURACY):
    accuracy = np.where((LRS > 1e-3) & (fall > LRS), 0.9, 0.1)
    values = accuracy if metric is ACCURACY else 1 - accuracy
    curves = [Curve(seed, SweepOutcome.COMPLETED, 1000 * np.arange(61), np.zeros(61), LRS, np.ones(61), np.ones(61), values)
              for seed in range(2)]  # fmt: skip
    return SweepRecord(
        start_lr=1e-4, end_lr=1.0, spacing="exponential", epochs=4, iterations=100, scout_iterations=0,
        iterations_per_epoch=10, heldout_samples=400, chance=0.1 if metric is ACCURACY else None, train_seconds=1.0, evaluation_seconds=1.0,
        curves=tuple(curves), metric=metric,
    )  # fmt: skip


def bounds_of(record):
    return find_bounds(record.curves, record.heldout_samples, record.chance, record.metric)


def runs(read_lr, factor):
    """Nine short runs of an earlier version, which moved the pick by a factor."""
    first = [Trial("cycle", 1, share * read_lr, 1.0, 0.5) for share in (0.25, 0.5, 1.0, 2.0)]
    first += [Trial("fixed", 1, share * read_lr, 1.0, None) for share in (0.25, 0.5)]
    late = (("cycle", 1), ("cycle", factor), ("fixed", 0.5))
    last = [Trial(kind, 2, share * read_lr, 2.0, 0.6) for kind, share in late]
    return Verification((*first, *last), read_lr, factor * read_lr, "Why it did.")


def record_of(swept, **more):
    return RunRecord(sweep=swept, bounds=bounds_of(swept), plan=None, environment={}, config_sha256="", data_sha256="",
                     **more)  # fmt: skip


@pytest.mark.parametrize("metric", [ACCURACY, LOSS])
@pytest.mark.parametrize("factor", [0.25, 0.5, 1.0, 2.0])
def test_both_bounds_move_as_the_short_runs_of_an_earlier_version_moved_the_pick(factor, metric):
    swept = sweep(metric=metric)
    before = bounds_of(swept)
    after = read_again(record_of(swept, verification=runs(before.max_lr, factor)))
    assert after == verified(before, runs(before.max_lr, factor))
    assert after.max_lr / before.max_lr == pytest.approx(factor)
    assert after.base_lr / before.base_lr == pytest.approx(factor)
    for name in ("base_lr", "max_lr"):
        low, high = getattr(after, f"{name}_interval")
        assert low <= getattr(after, name) <= high
        assert low <= getattr(before, f"{name}_interval")[0]
        assert high >= getattr(before, f"{name}_interval")[1]
    assert ("Short runs moved it" in after.max_reason) is (factor != 1)


def test_short_runs_move_by_a_factor_what_a_later_version_reads_elsewhere():
    now = bounds_of(sweep())
    assert verified(now, runs(3 * now.max_lr, 0.5)).max_lr == pytest.approx(now.max_lr / 2)


def test_where_there_is_no_bound_there_is_none_to_move():
    flat = sweep(fall=0.0)
    assert bounds_of(flat).max_lr is None
    assert read_again(record_of(flat, verification=runs(0.1, 0.5))) == bounds_of(flat)


def test_a_run_is_read_off_its_curves_alone_where_there_was_nothing_else():
    assert read_again(record_of(sweep())) == bounds_of(sweep())


def test_a_run_with_a_race_is_read_off_the_race_and_where_its_curves_broke():
    entry = Entry(start=-8, budget=800, seeds=2, training=2000, constant=2.3, first=2.4)
    probes = []
    while (run := next_run(entry, probes)) is not None:
        loss = 0.3 + 0.2 * abs(run.power + 9) + 1.8 * math.exp(-run.iterations / 60)
        probes.append(Probe(*run, run.iterations, loss, 0.5))
    race = Race(entry, tuple(probes))
    found = read_again(record_of(sweep(), race=race))
    assert found == choose(race, bounds_of(sweep()))
    assert choose(race).max_lr == 2**-9


def test_a_verification_goes_to_plain_types_and_comes_back():
    found = runs(0.1, 0.5)
    assert Verification.from_dict(found.to_dict()) == found
    assert found.cost_epochs == 6 * 1 + 3 * 2
    with pytest.raises(ValueError, match="a trial is"):
        replace(found.trials[0], kind="walk")


def test_the_cost_of_a_run_is_that_of_all_that_was_trained():
    swept = sweep()
    assert record_of(swept).cost_epochs == swept.cost_epochs == 10
    assert record_of(swept, verification=runs(0.1, 1.0)).cost_epochs == 10 + 12
    probes = tuple(Probe(0, -5, iterations, iterations, 1.0, 0.5) for iterations in (20, 40))
    race = Race(Entry(-5, 100, 1, 1000, 2.3, 2.4), probes)
    assert record_of(swept, race=race).iterations == 100 + 40, "a run that went on counts once"
    assert record_of(swept, race=race).cost_epochs == 14
