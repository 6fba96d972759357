"""What short runs may move and what they may not."""

from dataclasses import replace

import numpy as np
import pytest

from clrtool.core.reading.bounds import find_bounds
from clrtool.core.reading.curve import Curve, SweepOutcome
from clrtool.core.reading.metric import ACCURACY, LOSS
from clrtool.core.results.record import SweepRecord, Trial, Verification
from clrtool.core.results.verification import candidates, decide, survivors, verified

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


def runs(record, scores, late):
    """A verification whose first round scored ``scores`` and whose second ``late``: pick, rival, fixed."""
    bounds = bounds_of(record)
    first = [
        Trial(kind, 1, lr, 1.0, score) for (kind, lr), score in zip(candidates(bounds.max_lr), scores, strict=True)
    ]
    last = survivors(first, bounds.max_lr, record.metric)
    return decide([*first, *(Trial(kind, 2, lr, 2.0, score) for (kind, lr), score in zip(last, late, strict=True))],
                  bounds, record)  # fmt: skip


@pytest.mark.parametrize(
    ("scores", "late", "moved"),
    [
        ((0.5, 0.7, 0.6, 0.1, 0.5, 0.5), (0.7, 0.9, 0.6), 0.5),  # beaten from below, twice and by more than noise
        ((0.5, 0.7, 0.6, 0.1, 0.5, 0.5), (0.85, 0.88, 0.6), 1),  # within the noise of 400 samples
        ((0.5, 0.6, 0.7, 0.1, 0.5, 0.5), (0.7, 0.9, 0.6), 1),  # beaten once only
        ((0.5, 0.5, 0.6, 0.8, 0.5, 0.5), (0.6, 0.9, 0.6), 1),  # short runs flatter large rates, and the sweep broke
        ((0.5, 0.4, None, None, 0.5, 0.5), (None, 0.6, 0.6), 0.25),  # the pick does not even end
        ((0.9, 0.9, 0.9, 0.9, 0.8, 0.8), (None, 0.9, 0.8), 0.25),  # nor here, though it began no worse
        ((0.5, 0.4, 0.3, 0.2, 0.5, 0.5), (None, None, 0.6), 1),  # nothing is better than the pick
    ],
)
def test_a_pick_moves_down_when_it_is_beaten_and_never_up_where_the_sweep_broke(scores, late, moved):
    record = sweep()
    found = runs(record, scores, late)
    assert found.max_lr / found.read_lr == pytest.approx(moved)
    after, before = verified(bounds_of(record), found), bounds_of(record)
    assert after.max_lr / before.max_lr == pytest.approx(moved)
    assert after.base_lr / before.base_lr == pytest.approx(moved)
    assert after.max_lr_interval[0] <= after.max_lr


def test_a_pick_moves_up_where_nothing_broke():
    found = runs(sweep(fall=5.0), (0.5, 0.5, 0.6, 0.8, 0.5, 0.5), (0.6, 0.9, 0.6))
    assert found.max_lr == pytest.approx(2 * found.read_lr)


def test_a_loss_is_better_when_it_is_lower():
    found = runs(sweep(metric=LOSS), (0.5, 0.2, 0.4, 0.9, 0.5, 0.5), (0.4, 0.1, 0.5))
    assert found.max_lr == pytest.approx(found.read_lr / 2)


def test_a_fixed_rate_that_wins_is_told():
    assert "whichever wins can be used" in runs(sweep(), (0.5, 0.6, 0.7, 0.1, 0.5, 0.5), (0.7, 0.7, 0.9)).reason


def test_a_verification_goes_to_plain_types_and_comes_back():
    found = runs(sweep(), (0.5, 0.6, 0.7, None, 0.5, 0.5), (0.7, 0.7, 0.6))
    assert Verification.from_dict(found.to_dict()) == found
    assert found.cost_epochs == 6 * 1 + 3 * 2
    with pytest.raises(ValueError, match="a trial is"):
        replace(found.trials[0], kind="walk")
