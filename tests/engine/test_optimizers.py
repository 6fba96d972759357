"""Parameter groups, and steps that do or do not follow the learning rate."""

import numpy as np
import pytest
import torch

from clrtool.config.schema import SweepConfig
from clrtool.engine.rangetest.sweep import run_sweep
from clrtool.engine.training.trainer import Trainer
from clrtool.errors import ConfigError
from tests.engine.workloads import digits

RULES = [
    {"params": ["3.*"], "lr_ratio": 10.0},
    {"params": ["*.bias"], "args": {"weight_decay": 0.0}},
]
ADAMW = {"name": "AdamW", "args": {"weight_decay": 0.1}}


def test_rules_meet_in_groups_whose_rates_keep_their_ratio_through_the_sweep():
    workload = digits(optimizer=ADAMW | {"groups": RULES})
    found = sorted((group.lr_ratio, group.weight_decay, group.tensors, group.parameters) for group in workload.groups)
    assert found == [(1.0, 0.0, 1, 64), (1.0, 0.1, 1, 4096), (10.0, 0.0, 1, 10), (10.0, 0.1, 1, 640)]
    trainer = Trainer(workload, 0)
    for lr in (0.001, 0.003):
        trainer.train(0, [lr])
        assert sorted(group["lr"] for group in trainer.optimizer.param_groups) == pytest.approx(
            [lr, lr, 10 * lr, 10 * lr]
        )


def test_groups_train_as_an_optimizer_that_was_given_them_by_hand():
    workload = digits(optimizer={"name": "SGD", "args": {"weight_decay": 0.01}, "groups": RULES})
    trainer, by_hand = Trainer(workload, 3), Trainer(workload, 3)
    named = dict(by_hand.model.named_parameters())
    by_hand.optimizer = torch.optim.SGD(
        [
            {"params": [named["1.weight"]], "lr": 0.05, "weight_decay": 0.01, "lr_ratio": 1.0},
            {"params": [named["1.bias"]], "lr": 0.05, "weight_decay": 0.0, "lr_ratio": 1.0},
            {"params": [named["3.weight"]], "lr": 0.5, "weight_decay": 0.01, "lr_ratio": 10.0},
            {"params": [named["3.bias"]], "lr": 0.5, "weight_decay": 0.0, "lr_ratio": 10.0},
        ]
    )
    assert trainer.train(0, [0.05] * 40) == pytest.approx(by_hand.train(0, [0.05] * 40))


def own_groups(params):
    params = list(params)
    return torch.optim.SGD([{"params": params[:2], "lr": 0.2}, {"params": params[2:], "lr": 0.05}], lr=1.0)


def test_the_ratios_of_a_factorys_own_groups_are_kept():
    workload = digits()
    recipe = type(workload.make_optimizer)(
        own_groups, workload.make_optimizer.config.model_copy(update={"factory": "a:b", "args": {}})
    )
    optimizer = recipe(workload.make_model())
    assert [group["lr_ratio"] for group in optimizer.param_groups] == pytest.approx([1.0, 0.25])


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (
            {"params": ["head.*"]},
            r"optimizer.groups.0.params: no parameter that is left to train fits 'head.\*'; Valid: 1.bias",
        ),
        (
            {"params": ["*"], "args": {"momentun": 1}},
            r"optimizer.groups.0.args: unknown argument 'momentun'; did you mean",
        ),
        ({"params": ["*"], "args": {"params": 1}}, "unknown argument 'params'"),
        ({"params": ["*"], "args": {"weight_decay": -1.0}}, "Invalid weight_decay value"),
    ],
)
def test_a_rule_that_fits_nothing_is_refused(rule, message):
    with pytest.raises(ConfigError, match=message):
        digits(optimizer={"name": "SGD", "groups": [rule]})


FOLLOWING = ["SGD", "Adam", "AdamW", "Adagrad", "RMSprop", "NAdam", "RAdam", "Adamax", "Adadelta"]


@pytest.mark.parametrize("name", FOLLOWING)
def test_an_optimizer_whose_step_follows_the_learning_rate_gets_no_warning(name):
    assert digits(optimizer={"name": name}).warnings == ()


@pytest.mark.parametrize("name", ["Rprop", "ASGD", "Adafactor"])
def test_an_optimizer_whose_step_does_not_is_warned_of_in_the_record(name):
    workload = digits(optimizer={"name": name})
    assert f"a step of {name} at 4 times the learning rate is" in workload.warnings[0]
    record = run_sweep(workload, SweepConfig(start_lr=0.01, end_lr=0.1, epochs=0.2, seeds=1))
    assert record.warnings == workload.warnings


def test_micro_batches_take_the_step_of_the_whole_batch():
    whole, parts = (digits(training={"micro_batches": number}) for number in (1, 7))
    lrs = np.geomspace(0.001, 0.3, 60).tolist()
    assert Trainer(whole, 1).train(0, lrs) == pytest.approx(Trainer(parts, 1).train(0, lrs), rel=1e-3)
    with pytest.raises(ConfigError, match=r"training.micro_batches = 51 must be at most data.batch_size = 50"):
        digits(training={"micro_batches": 51})


@pytest.mark.parametrize(("clip", "norm"), [({"clip_norm": 0.01}, 2), ({"clip_value": 0.001}, float("inf"))])
def test_a_clipped_step_of_plain_sgd_is_as_long_as_the_clip_says(clip, norm):
    workload = digits(optimizer={"name": "SGD"}, training=clip)
    trainer = Trainer(workload, 0)
    before = torch.cat([each.detach().flatten().clone() for each in trainer.model.parameters()])
    trainer.train(0, [0.5])
    after = torch.cat([each.detach().flatten() for each in trainer.model.parameters()])
    assert (after - before).norm(norm).item() == pytest.approx(0.5 * next(iter(clip.values())), rel=1e-3)


def test_fp16_takes_a_step_that_overflowed_again_so_that_every_iteration_is_one_update():
    workload = digits(precision="fp16")
    with workload.on_device():
        trainer, steps = Trainer(workload, 0), []
        trainer.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)  # overflows half floats at first
        trainer.optimizer.register_step_post_hook(lambda *_: steps.append(1))
        losses = trainer.train(0, [0.05] * 30)
    assert len(losses) == len(steps) == 30
    assert trainer.scaler.get_scale() < 2.0**40
    full = Trainer(digits(), 0).train(0, [0.05] * 30)
    np.testing.assert_allclose(losses, full, atol=0.05)


def test_fp16_that_diverges_ends_as_not_finite():
    workload = digits(precision="fp16", optimizer={"name": "SGD"})
    record = run_sweep(workload, SweepConfig(start_lr=1e3, end_lr=9e3, epochs=1, seeds=1))
    assert record.outcome.word in ("not_finite", "diverged")


def test_the_size_of_a_step_counts_imaginary_parts():
    from clrtool.engine.training.lr_response import global_norm

    assert global_norm([torch.tensor([3 + 4j]), torch.tensor([12.0])]) == pytest.approx(13.0)
