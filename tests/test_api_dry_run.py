"""The dry run of a program: what it tells, against the range test itself, and that nothing is changed."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

import clrtool
from clrtool.errors import ConfigError
from tests.test_api import HELDOUT, TRAIN, Used, sgd

TRAINING, HELD = DataLoader(TRAIN, 50), DataLoader(HELDOUT, 100)


@pytest.fixture(autouse=True)
def quickly_timed(monkeypatch):
    monkeypatch.setattr("clrtool.engine.rangetest.estimate.SECONDS", 0.02)


def net():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


class Stream(IterableDataset):
    def __iter__(self):
        return iter(TRAIN)


@pytest.mark.parametrize(
    "options", [{}, {"budget": 1, "epochs": 60}, {"method": "paper"}, {"sweep_epochs": 2, "seeds": 2}, {"steps": 900}]
)
def test_a_range_test_takes_no_more_than_a_dry_run_says(options):
    told = clrtool.dry_run(net, sgd, TRAINING, HELD, **options)
    taken = clrtool.range_test(net, sgd, TRAINING, HELD, progress=False, **options).record
    assert 0.3 * told.iterations < taken.iterations <= told.iterations
    assert told.epochs == told.iterations / taken.sweep.iterations_per_epoch


def test_everything_of_the_program_is_as_it_was_and_the_numbers_are_shown():
    used = Used()
    before = used.hash()
    told = clrtool.dry_run(used.model, used.optimizer, used.train, used.heldout, epochs=100)
    assert used.hash() == before
    assert told.seconds > 0 < told.peak_bytes
    shown = " ".join(str(told).split())
    assert "data 600 samples in batches of 50, 12 iterations per epoch; 200 held out" in shown
    assert "total at most 500 iterations, 41.7 epochs" in shown
    assert "disk" not in shown
    assert "<td" in told._repr_html_()
    assert repr(told).startswith("DryRun(iterations=500, epochs=41.67, seconds=")


def test_a_stream_with_a_step_of_its_own_is_told_of_as_far_as_it_is_known():
    loader = DataLoader(Stream(), 60)
    told = clrtool.dry_run(net(), lambda model: torch.optim.Adam(model.parameters()), loader, [*HELD], steps=4000,
                           step=lambda model, batch: nn.functional.cross_entropy(model(batch[0]), batch[1]))  # fmt: skip
    assert told.iterations == 1000
    assert told.estimate.batch_size == 60
    with pytest.raises(ConfigError, match="has no length: give steps=N"):
        clrtool.dry_run(net, sgd, loader, HELD)
