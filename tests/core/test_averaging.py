"""AdamW's averaging time: held against torch's own steps, told in the table, linted in scripts and configs."""

import math

import pytest
import torch

from clrtool.core.planning.averaging import averaging_iterations
from clrtool.core.planning.lint import lint_plan
from clrtool.core.planning.make import make_plan
from clrtool.engine.training.joint import JointOptimizer
from clrtool.engine.training.optimizers import describe_groups


def groups_of(*optimizers):
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr_ratio"] = 1.0
    return describe_groups(optimizers[0] if len(optimizers) == 1 else JointOptimizer(optimizers))


def weight():
    return torch.nn.Parameter(torch.ones(2, 2))


@pytest.mark.parametrize(("lr", "decay"), [(1e-2, 0.1), (3e-3, 0.5)])
def test_after_the_averaging_time_an_e_th_of_a_weight_is_left(lr, decay):
    """Of a weight without a gradient torch's own steps leave (1 - lr * weight_decay) each."""
    parameter = weight()
    optimizer = torch.optim.AdamW([parameter], lr=lr, weight_decay=decay)
    for _ in range(round(averaging_iterations(lr, decay))):
        parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
    assert float(parameter[0, 0].detach()) == pytest.approx(math.exp(-1), rel=5e-3)


OPTIMIZERS = {
    "AdamW": (lambda p: torch.optim.AdamW([p], weight_decay=0.1), True),
    "AdamW without decay": (lambda p: torch.optim.AdamW([p], weight_decay=0), False),
    "Adam": (lambda p: torch.optim.Adam([p], weight_decay=0.1), False),
    "SGD": (lambda p: torch.optim.SGD([p], lr=0.1, weight_decay=0.1), False),
    "NAdam that is decoupled": (
        lambda p: torch.optim.NAdam([p], weight_decay=0.1, decoupled_weight_decay=True), True,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_group_says_that_its_decay_is_decoupled_where_a_step_without_gradient_shrinks_a_weight_by_it(name):
    make, decoupled = OPTIMIZERS[name]
    parameter = weight()
    optimizer = make(parameter)
    lr = optimizer.param_groups[0]["lr"]
    (group,) = groups_of(optimizer)
    assert group.decoupled == decoupled
    parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    left = float(parameter[0, 0].detach())
    exact = left == pytest.approx(1 - lr * 0.1, rel=1e-6) and name != "SGD"  # whose decay is the same in one step
    assert exact == decoupled


def test_each_of_several_optimizers_has_a_time_of_its_own():
    first, second = groups_of(torch.optim.AdamW([weight()], weight_decay=0.2), torch.optim.SGD([weight()], lr=0.1))
    assert first.averaging_iterations(0.01) == pytest.approx(500)
    assert second.averaging_iterations(0.01) == math.inf


def findings(lr, decay, optimizer="AdamW"):
    from clrtool.core.planning.finding import Use

    plan = make_plan(lr / 4, lr, 50, epochs=20)
    found = lint_plan(plan, Use(optimizer=optimizer, weight_decay=decay))
    return [each for each in found if each.rule == "averaging time"]


def test_a_time_longer_than_the_training_or_shorter_than_an_epoch_is_found_with_a_decay_that_mends_it():
    (long,), (short,) = findings(1e-3, 0.1), findings(1e-1, 0.5)
    assert "10,000 iterations, 200 epochs: longer than the training of 1,000" in long.cause
    assert "20 iterations, 0.4 epochs: shorter than an epoch of 50" in short.cause
    for lr, finding in ((1e-3, long), (1e-1, short)):
        assert finding.note
        limit = float(finding.fix.split()[3].rstrip(","))
        nearby = limit * (1.1 if "above" in finding.fix else 0.9)
        assert findings(lr, nearby) == []
    assert findings(1e-3, 0.1, "Adam") == findings(1e-3, 0.0) == []


SOURCES = {
    "train.py": "import torch\nmodel = torch.nn.Linear(2, 2)\n"
    "optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01)\n"
    "torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-3, total_steps=1001)\n",
    "ds.json": '{"optimizer": {"type": "AdamW", "params": {"lr": 0.001, "weight_decay": 0.01}}, "scheduler": {"type": '
    '"WarmupDecayLR", "params": {"warmup_max_lr": 0.001, "warmup_num_steps": 10, "total_num_steps": 1000}}}',
    "args.json": '{"learning_rate": 0.001, "weight_decay": 0.01, "max_steps": 1000, "lr_scheduler_type": "cosine", '
    '"per_device_train_batch_size": 8}',
}


@pytest.mark.parametrize("name", SOURCES)
def test_scripts_and_configs_that_name_a_decay_are_linted(cli, tmp_path, name):
    (tmp_path / name).write_text(SOURCES[name])
    shown = " ".join(cli("plan", "--lint", str(tmp_path / name), "--iterations", "1000").out.split())
    assert "averaging time" in shown
    assert "weight_decay = 0.01 averages updates over 1 / (max_lr * weight_decay) = 100," in shown


def test_an_option_names_the_decay_of_adamw_and_the_momentum_of_others(cli):
    words = ["plan", "--base-lr", "0.001", "--max-lr", "0.004", "--iterations-per-epoch", "50", "--lint", "--optimizer"]
    assert "averaging time" in cli(*words, "AdamW:0.001").out
    assert "averaging time" not in cli(*words, "SGD:0.9").out
