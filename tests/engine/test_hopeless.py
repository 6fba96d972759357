"""Jobs of which nothing can be learned, or nothing more: the right verdict, and the reason with its numbers."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import clrtool
from clrtool.core.reading.verdict import Advice, Verdict

GENERATOR = torch.Generator().manual_seed(3)
X = torch.randn(600, 6, generator=GENERATOR)
CLASSES = (X[:, 0] + X[:, 1] > 0).long() + (X[:, 2] > 0.5).long()


def net(outputs=3):
    return nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, outputs))


def searched(targets, make=net, loss=None, samples=600, **options):
    """A range test of the first samples, a quarter of them held out."""
    x, y, cut = X[:samples], targets[:samples], max(1, 3 * samples // 4)
    loaders = (
        DataLoader(TensorDataset(x[part], y[part]), 20, shuffle=begin == 0)
        for begin, part in ((0, slice(0, cut)), (1, slice(cut, None)))
    )
    optimizer = options.pop("optimizer", lambda model: torch.optim.Adam(model.parameters(), lr=1e-3))
    return clrtool.range_test(make, optimizer, *loaders, loss=loss, epochs=30, progress=False, **options)


def test_shuffled_labels_are_never_learned_and_the_constant_answer_says_so():
    shuffled = CLASSES[torch.randperm(600, generator=torch.Generator().manual_seed(1))]
    found = searched(shuffled)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.bounds.advice == (Advice.NOTHING_LEARNED,)
    constant = found.record.race.entry.constant
    shares = torch.bincount(shuffled[450:]) / 150
    assert constant == pytest.approx(float(-(shares * shares.log()).sum()), abs=0.05)  # of those that were taken
    assert f"a constant answer has {constant:.4g}" in found.bounds.max_reason


def test_constant_targets_leave_nothing_to_gain():
    found = searched(torch.full((600, 1), 7.0), lambda: net(1), functional.mse_loss)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.record.race.entry.constant == pytest.approx(0, abs=1e-6)


def test_one_class_leaves_nothing_to_gain():
    assert searched(torch.zeros(600, dtype=torch.long)).verdict is Verdict.INCONCLUSIVE


class Broken(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = net()

    def forward(self, x):
        return self.layers(x) * math.nan


def test_a_model_that_gives_nan_at_once_is_named_as_what_it_is():
    found = searched(CLASSES, Broken)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.bounds.advice == (Advice.NOTHING_FINITE,)


class Deaf(nn.Module):
    """Its outputs do not depend on its inputs."""

    def __init__(self):
        super().__init__()
        self.outputs = nn.Parameter(torch.randn(3))

    def forward(self, x):
        return self.outputs.expand(len(x), 3)


def test_a_model_that_cannot_learn_ends_at_the_constant_answer():
    found = searched(CLASSES, Deaf)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.bounds.advice == (Advice.NOTHING_LEARNED,)


def test_a_start_that_is_right_already_has_bounds_that_do_not_ruin_it():
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(300):
        optimizer.zero_grad()
        functional.cross_entropy(model(X[:450]), CLASSES[:450]).backward()
        optimizer.step()
    found = searched(CLASSES, model, optimizer=torch.optim.Adam(model.parameters(), lr=0.01))
    race = found.record.race
    assert found.max_lr is None or (min(probe.loss for probe in race.probes) <= race.entry.first and found.max_lr < 0.1)


def test_data_of_two_samples_ends_without_a_clear_verdict():
    found = searched(torch.tensor([0, 1, *[0] * 598]), lambda: net(2), samples=2)
    assert found.verdict is not Verdict.CLEAR


def test_what_can_be_learned_is_recommended_between_what_was_trained_at():
    found = searched(CLASSES)
    rates = [probe.lr for probe in found.record.race.probes]
    assert min(rates) <= found.max_lr <= max(rates)
    assert found.base_lr == pytest.approx(found.max_lr / 4)
