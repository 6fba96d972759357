"""How many evaluations a sweep makes, of how many samples: counted, and held against a clock."""

import pytest
import torch
from torch import nn

from clrtool.config.schema import RangeTestConfig, SweepConfig
from clrtool.core.planning.sweep_size import READINGS, SWEEP_POINTS
from clrtool.engine.configured.build import build_workload
from clrtool.engine.models.builtin import convnet, mlp
from clrtool.engine.rangetest.sweep import run_sweep
from clrtool.engine.training.evaluation_budget import (
    LEAST,
    MOST,
    PASS,
    SMALLEST_HELDOUT,
    evaluation_batch,
    evaluation_budget,
    flops_per_sample,
)
from tests.engine.workloads import digits


def test_operations_are_two_for_each_weight_that_a_sample_meets():
    model = mlp((3, 4), 5, hidden=[7])
    assert flops_per_sample(model, torch.zeros(8, 3, 4)) == 2 * (12 * 7 + 7 * 5)
    conv = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1, bias=False))
    assert flops_per_sample(conv, torch.zeros(4, 2, 6, 6)) == 2 * (2 * 3 * 9) * 36


@pytest.mark.parametrize(
    ("samples", "heldout", "expected"),
    [
        (50_000, 2500, (40, 2500)),
        (5_000, 1000, (21, 477)),
        (500, 100, (LEAST, SMALLEST_HELDOUT)),
        (500_000, 2500, (MOST, 2500)),
    ],
)
def test_evaluations_of_a_network_take_a_fifth_of_its_sweep_by_the_count(samples, heldout, expected):
    model, inputs = convnet((3, 32, 32), 10), torch.zeros(128, 3, 32, 32)
    paper = SweepConfig(method="paper")
    number, size = evaluation_budget(model, inputs, paper, 4 * (samples // 128), heldout, len(inputs))
    assert (number, size) == pytest.approx(expected, abs=3, rel=0.1)


@pytest.mark.parametrize(
    ("iterations", "heldout", "is_whole"), [(2000, 2500, True), (500, 2500, False), (500, 300, True), (20, 900, False)]
)
def test_evaluations_of_a_race_and_of_the_sweep_before_it_take_a_fifth_of_both_by_the_count(
    iterations, heldout, is_whole
):
    model, inputs = convnet((3, 32, 32), 10), torch.zeros(128, 3, 32, 32)
    number, size = evaluation_budget(model, inputs, SweepConfig(), iterations, heldout, len(inputs))
    flops = flops_per_sample(model, inputs)
    training = iterations * (1.5 * PASS + 2 * flops * len(inputs))

    def share(samples):
        spent = (SWEEP_POINTS + READINGS) * (-(-samples // 500) * PASS + flops * samples)
        return spent / (spent + training)

    assert number == SWEEP_POINTS
    assert (size == heldout) is is_whole
    assert share(size) <= 0.2 or size == SMALLEST_HELDOUT
    assert is_whole or share(size / 0.89) > 0.2


def test_large_samples_are_evaluated_few_at_once_but_never_fewer_than_are_trained_on():
    small, large = torch.zeros(2, 3, 32, 32), torch.zeros(2, 3, 224, 224)
    assert evaluation_batch(small, 32, "cpu") == 500
    assert evaluation_batch(large, 8, "cpu") == 2**21 // (3 * 224 * 224) == 13
    assert evaluation_batch(large, 64, "cpu") == evaluation_batch(large, 64, "cuda") == 64


def test_what_the_config_states_is_obeyed():
    assert evaluation_budget(nn.Flatten(), torch.zeros(2, 3), SweepConfig(evaluations=77), 10, 5000, 2) == (77, 5000)


def test_a_network_too_small_to_fill_a_pass_still_gets_a_whole_curve_and_its_share_is_measured():
    workload = digits(sweep={"epochs": 4})
    assert (workload.evaluations, len(workload.heldout)) == (37, 297)
    record = run_sweep(workload, SweepConfig(start_lr=1e-3, end_lr=0.1, epochs=4, seeds=2))
    whole = record.train_seconds + record.evaluation_seconds
    assert record.evaluation_share == pytest.approx(record.evaluation_seconds / whole)
    assert record.standard_error == pytest.approx(0.029, abs=0.001)


def test_a_comparison_evaluates_more_than_a_sweep_that_is_short_beside_it_can_afford():
    config = RangeTestConfig.model_validate(
        {
            "model": {"name": "convnet"},
            "data": {"name": "digits", "batch_size": 50, "heldout": 700},
            "sweep": {"epochs": 1},
        }
    )
    assert len(build_workload(config, device="cpu").heldout) < 300
    assert len(build_workload(config, device="cpu", epochs=40).heldout) == 700


@pytest.mark.parametrize(("batch_size", "epochs", "is_told"), [(512, 1, True), (16, 30, False)])
def test_a_held_out_set_of_which_a_part_is_used_is_said_with_the_reason(batch_size, epochs, is_told):
    settings = {"model": {"name": "mlp"}, "data": {"name": "digits", "batch_size": batch_size}}
    config = RangeTestConfig.model_validate(settings | {"sweep": {"epochs": epochs}})
    workload = build_workload(config, device="cpu")
    told = [each for each in workload.warnings if "of the 359 held-out samples" in each]
    assert bool(told) is is_told
    assert (len(workload.heldout) < 359) is is_told
    assert all(f"Evaluations use {len(workload.heldout)} of" in each for each in told)
