"""The grids that recommendations are held against: what a job's own step trains, and where a grid begins and ends."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

from tests.benchmarks.workloads.jobs import Workload, constant
from tests.benchmarks.workloads.oracle import best_of, measured
from tests.benchmarks.workloads.score import _held_out, train

X = torch.randn(128, 4, generator=torch.Generator().manual_seed(2))
Y = X @ torch.tensor([[1.0], [2.0], [-1.0], [0.5]])
JOB = Workload(
    model=lambda: nn.Linear(4, 1),
    data=lambda: (X[:96], Y[:96], X[96:], Y[96:]),
    optimizer=lambda model, lr: torch.optim.SGD(model.parameters(), lr=lr),
    loss=mse_loss,
    batch_size=16,
    epochs=4,
)
STEP = replace(
    JOB, loss=None, step=lambda model, batch: mse_loss(model(batch[0]), batch[1]), constant_score=constant(JOB)
)


def test_a_step_that_says_what_a_loss_does_is_trained_and_scored_alike():
    assert train(STEP, "cosine", 0.01, 0.04, 0) == pytest.approx(train(JOB, "cosine", 0.01, 0.04, 0), rel=1e-5)


def test_random_numbers_of_a_step_are_the_same_for_every_score_and_leave_those_outside_alone():
    noisy = replace(STEP, step=lambda model, batch: STEP.step(model, batch) + torch.rand(()))
    model, held = JOB.model(), JOB.data()[2:]
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first = _held_out(noisy, model, *held)
    assert torch.equal(torch.rand(1), expected)
    assert first == _held_out(noisy, model, *held) > _held_out(STEP, model, *held)


def test_a_measure_is_what_counts_and_more_of_it_is_better():
    near = replace(
        STEP, accuracy=True, measure=lambda model, batch: (-STEP.step(model, batch) * len(batch[0]), len(batch[0]))
    )
    assert train(near, "cosine", 0.01, 0.04, 0) == pytest.approx(-train(STEP, "cosine", 0.01, 0.04, 0), rel=1e-5)


def test_a_grid_that_begins_where_every_training_breaks_goes_down_to_where_something_is_learned():
    grid = measured(JOB, "cosine", 8, seeds=1, beyond=1, clearly=30.0)
    best = best_of(JOB, grid)
    assert [*grid] == [*range(min(grid), 10)]
    assert min(grid) < best < 2
    assert grid[best][0] < 0.01 * constant(JOB)
    assert grid[min(grid)][0] > grid[best][0] + 0.3 * (constant(JOB) - grid[best][0])
