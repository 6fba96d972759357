"""What a range test sweeps next, for sweeps that break anywhere: never more than it said before it began."""

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from clrtool.config.schema import SweepConfig
from clrtool.core.planning.sweep_size import SEEDS, race_size, sweep_size
from clrtool.core.reading.curve import Curve, Point, SweepOutcome
from clrtool.core.reading.metric import ACCURACY
from clrtool.engine.rangetest.ramp import ends_of
from clrtool.engine.rangetest.rounds import Round, Rounds
from clrtool.engine.rangetest.scout import Scout
from tests.conftest import LONG


def rounds_of(config, size):
    found = None if "auto" not in (config.start_lr, config.end_lr) else Scout(1e-3, 1.0, size.scout)
    return Rounds(config, size, 20, ends_of(config, found), 0, 200, ACCURACY)


def measured(wanted, lengths, rises):
    """The curves of a round whose sweeps stop early, after having learned something or nothing."""
    curves = []
    for seed, length in zip(wanted.seeds, lengths, strict=False):
        ramp = wanted.ramp
        stops = [stop for stop in ramp.stops if stop <= max(length * len(ramp.lrs), ramp.stops[1])]
        outcome = SweepOutcome.COMPLETED if stops[-1] == ramp.stops[-1] else SweepOutcome.DIVERGED
        high = 0.9 if rises else 0.1
        points = [Point(at, at / 10, float(ramp.lrs[max(0, at - 1)]), 1.0, 1.0, high if at else 0.1) for at in stops]
        curves.append(Curve.from_points(seed, outcome, points))
    return replace(wanted, curves=tuple(curves))


@settings(max_examples=200 if LONG else 50)
@given(
    start_lr=st.sampled_from(["auto", "auto", 1e-4]), end_lr=st.sampled_from(["auto", 0.5]), seeds=st.sampled_from(["auto", 1, 2, 5]),
    per_epoch=st.integers(1, 400), plan_epochs=st.integers(2, 60), epochs=st.sampled_from(["auto", "auto", "auto", 3]),
    budget=st.sampled_from([None, None, 0.25, 1]), data=st.data(),
)  # fmt: skip
def test_sweeps_that_are_begun_again_or_added_take_no_more_iterations_than_there_are(
    start_lr, end_lr, seeds, per_epoch, plan_epochs, epochs, budget, data
):
    config = SweepConfig(start_lr=start_lr, end_lr=end_lr, seeds=seeds, epochs=epochs)
    size_of = sweep_size if budget is None else lambda *sizes: race_size(*sizes[:2], budget, *sizes[2:])
    asked = None if epochs == "auto" else epochs, None if seeds == "auto" else seeds
    try:
        size = size_of(per_epoch, plan_epochs, *asked)
    except ValueError:
        return  # the sweeps leave nothing for a race
    rounds, done = rounds_of(config, size), list[Round]()
    while (wanted := rounds.next(done)) is not None:
        share = st.sampled_from([0.0, 0.5, 0.97, 1.0])
        lengths = data.draw(st.lists(share, min_size=len(wanted.seeds), max_size=len(wanted.seeds)))
        done.append(measured(wanted, lengths, rises=data.draw(st.booleans())))
    assert rounds.spent(done) <= (size.budget or size.run)
    assert len(rounds.result(done)[0].curves) <= max(SEEDS, size.seeds)


def test_sweeps_that_broke_late_are_begun_again_in_what_is_left_and_over_the_whole_range():
    config, size = SweepConfig(), sweep_size(44, 30, None, 3)
    rounds = rounds_of(config, size)
    first = rounds.next([])
    done = [measured(first, [0.5, 0.5, 0.9], rises=False)]
    again = rounds.next(done)
    left = size.run - rounds.spent(done)
    assert 0.9 * left <= 3 * len(again.ramp.lrs) <= left < 3 * len(first.ramp.lrs)
    np.testing.assert_allclose((again.ramp.lrs[0], again.ramp.lrs[again.ramp.planned - 1]), (1e-4, 1e-2))


def test_nothing_is_begun_again_where_a_training_run_is_used_up():
    rounds = rounds_of(SweepConfig(), sweep_size(44, 30, None, 3))
    done = [measured(rounds.next([]), [0.97, 1.0, 1.0], rises=False)]
    assert done[0].curves[0].outcome is SweepOutcome.DIVERGED
    assert rounds.next(done) is None
