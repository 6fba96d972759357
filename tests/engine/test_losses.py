"""Losses and metrics against torch and against counting by hand; a regression and a language model from end to end."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from clrtool.config.components import Component
from clrtool.config.schema import RangeTestConfig, SweepConfig
from clrtool.core.reading.metric import ACCURACY, LOSS, TOKEN_ACCURACY, TOP5
from clrtool.core.reading.paper import find_bounds
from clrtool.engine.configured.build import build_workload
from clrtool.engine.configured.losses import make_loss
from clrtool.engine.data.tensors import Samples, Task, check_pair
from clrtool.engine.models.forward import logits
from clrtool.engine.rangetest.sweep import run_sweep
from clrtool.engine.training.losses import chance, count_in_top5, count_right, count_tokens
from clrtool.engine.training.trainer import Trainer
from clrtool.errors import ConfigError

CPU = torch.device("cpu")
OUTPUTS = torch.tensor([[9.0, 1, 2, 3, 4, 5, 0], [6, 5, 4, 3, 2, 1, 0], [0, 1, 2, 3, 4, 5, 6]])


def test_right_answers_are_counted_as_by_hand():
    assert [int(each) for each in count_right(OUTPUTS, torch.tensor([0, 1, 6]))] == [2, 3]
    assert [int(each) for each in count_in_top5(OUTPUTS, torch.tensor([6, 4, 2]))] == [2, 3]
    assert [int(each) for each in count_in_top5(OUTPUTS[:, :3], torch.tensor([0, 1, 2]))] == [3, 3]
    tokens = torch.tensor([[0, -100, 6]])
    assert [int(each) for each in count_tokens(OUTPUTS[None], tokens)] == [2, 2]


def test_chance_is_the_share_of_the_commonest_answers():
    targets = torch.tensor([0, 0, 0, 1, 1, 2, 3, 4, 5, 6])
    assert chance(ACCURACY, targets) == pytest.approx(0.3)
    assert chance(TOP5, targets) == pytest.approx(0.8)
    assert chance(TOKEN_ACCURACY, torch.tensor([[1, 1, -100], [1, 0, -100]])) == pytest.approx(0.75)
    assert chance(LOSS, targets.float()) is None


def test_a_token_loss_is_the_mean_over_tokens_and_leaves_out_the_ignored():
    loss = make_loss(Component(name="cross_entropy"), Task.TOKENS, None, CPU)
    outputs, targets = torch.randn(3, 4, 5), torch.randint(0, 5, (3, 4))
    targets[0, :2] = -100
    expected = nn.functional.cross_entropy(outputs.transpose(1, 2), targets)
    assert loss(outputs, targets).item() == pytest.approx(expected.item())


def test_micro_batches_of_tokens_weigh_by_the_tokens_that_count():
    workload = build_workload(tokens_config(), device="cpu", allow_import=["tests.*"])
    parts = build_workload(tokens_config(training={"micro_batches": 20}), device="cpu", allow_import=["tests.*"])
    whole, split = (Trainer(each, 0).train(0, [0.1] * 20) for each in (workload, parts))
    np.testing.assert_allclose(whole, split, rtol=1e-5)


def tokens(size=200):
    """Next tokens of a cycle of five; a sequence counts from a place of its own on."""
    places = (torch.arange(size)[:, None] + torch.arange(9)) % 5
    targets = places[:, 1:].clone()
    targets[torch.arange(8) < torch.arange(size)[:, None] % 9] = -100  # of some sequences none counts
    return places[:, :-1], targets


def tokens_config(**sections):
    return RangeTestConfig.model_validate(
        {"model": {"name": "gpt", "args": {"depth": 1, "width": 8, "heads": 2}}, "metric": "token_accuracy",
         "data": {"factory": "tests.engine.test_losses:tokens", "batch_size": 20}} | sections
    )  # fmt: skip


def test_tokens_that_are_their_own_labels_are_refused():
    inputs = torch.randint(0, 9, (50, 6))
    with pytest.raises(ConfigError, match="the labels are the tokens themselves, which a model would learn to copy"):
        check_pair(Samples(inputs, inputs), Samples(inputs, inputs))


def test_outputs_that_would_be_broadcast_against_the_targets_are_refused():
    with pytest.raises(ConfigError, match="loss: UserWarning: Using a target size"):
        build_workload(
            config(
                data={"factory": "tests.engine.test_losses:broadcast", "batch_size": 32},
                model={"factory": "tests.engine.test_losses:one_output"},
                metric="loss",
            ),
            device="cpu",
            allow_import=["tests.*"],
        )


def broadcast():
    x, _ = regression()
    return x, x[:, :3]


def one_output():
    return nn.Linear(5, 1)


@pytest.mark.parametrize(("name", "expected"), [("mse", 1.0), ("L1Loss", 1.0), ("SmoothL1Loss", 0.5), ("huber", 0.5)])
def test_values_of_shape_n_meet_outputs_of_shape_n_1_without_broadcasting(name, expected):
    loss = make_loss(Component(name=name), Task.VALUES, None, CPU)
    assert loss(torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([2.0, 3.0, 4.0])).item() == pytest.approx(expected)


def test_a_loss_that_does_not_fit_the_targets_or_does_not_exist_is_refused():
    with pytest.raises(ConfigError, match="needs class numbers, the targets are real numbers; try mse"):
        make_loss(Component(name="cross_entropy"), Task.VALUES, None, CPU)
    with pytest.raises(ConfigError, match="did you mean 'MSELoss'"):
        make_loss(Component(name="MSELos"), Task.VALUES, None, CPU)


def test_logits_are_found_in_what_models_return():
    class Output:
        logits = OUTPUTS

    for made in (OUTPUTS, {"logits": OUTPUTS}, (OUTPUTS, None), Output()):
        assert logits(made) is OUTPUTS


def regression(size=600):
    """y = a line through five inputs and a little noise, as (inputs, values)."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(size, 5)).astype(np.float32)
    y = x @ np.array([1, -2, 3, 0, 0.5], dtype=np.float32) + 0.1 * generator.normal(size=size).astype(np.float32)
    return x, y


def explained(outputs, targets):
    """Share of the variance explained, 1 at best."""
    return 1 - (outputs.squeeze(1) - targets).square().mean() / targets.var()


def explained_factory():
    return explained


def config(**sections):
    return RangeTestConfig.model_validate(
        {"model": {"name": "mlp"}, "data": {"factory": "tests.engine.test_losses:regression", "batch_size": 32},
         "loss": "mse", "sweep": {"start_lr": 1e-4, "end_lr": 10.0, "epochs": 8, "seeds": 2}} | sections
    )  # fmt: skip


METRICS = [
    ("loss", "Held-out loss starts to fall", "Held-out loss breaks above"),
    (
        {"factory": "tests.engine.test_losses:explained_factory", "higher_is_better": True},
        "Metric starts to rise",
        "Metric breaks above",
    ),
]


@pytest.mark.parametrize(("metric", "base", "top"), METRICS)
def test_a_regression_has_bounds_from_its_loss_or_from_a_metric_of_ones_own(metric, base, top):
    settings = config(metric=metric)
    record = run_sweep(build_workload(settings, device="cpu", allow_import=["tests.*"]), settings.sweep)
    assert record.standard_error is None
    bounds = find_bounds(record.curves, record.heldout_samples, record.chance, record.metric)
    assert bounds.base_reason.startswith(base)
    assert bounds.max_reason.startswith(top)
    # SGD with momentum breaks near 0.3 here (the scale of the workload is 1), and 120 steps of 1e-4 begin to learn.
    assert 1e-4 < bounds.base_lr < 5e-3
    assert 2e-3 < bounds.max_lr < 0.3


def test_a_language_model_learns_to_tell_the_next_byte(tmp_path):
    (tmp_path / "text.txt").write_bytes(b"the quick brown fox jumps over the lazy dog. " * 400)
    values = {
        "model": {"name": "gpt", "args": {"depth": 1, "width": 32, "heads": 2}},
        "data": {"name": "text", "args": {"path": str(tmp_path / "text.txt"), "length": 32}, "batch_size": 16},
        "optimizer": "AdamW", "metric": "token_accuracy",
    }  # fmt: skip
    workload = build_workload(RangeTestConfig.model_validate(values), device="cpu")
    record = run_sweep(workload, SweepConfig(start_lr=1e-4, end_lr=0.03, epochs=3, seeds=1))
    curve = record.curves[0]
    assert record.heldout_samples == workload.heldout.targets.numel()
    assert curve.metric[0] < 0.15
    assert curve.metric.max() > 0.9
    assert curve.heldout_loss[0] == pytest.approx(math.log(123), rel=0.2)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"metric": "accuracy"}, "for real numbers set metric: loss"),
        (
            {"metric": "token_accuracy"},
            "metric.name: token_accuracy needs class numbers, a sequence per sample; the targets are real",
        ),
        ({"metric": "loss", "loss": "cross_entropy"}, "try mse"),
    ],
)
def test_a_metric_that_does_not_fit_the_targets_is_refused(sections, message):
    with pytest.raises(ConfigError, match=message):
        build_workload(config(**sections), device="cpu", allow_import=["tests.*"])
