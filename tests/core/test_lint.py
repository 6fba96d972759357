"""The linter: each finding where the fault is, and where torch can be asked, what torch does there; none where it is not."""

import math

import numpy as np
import pytest
import torch

from clrtool.core.planning.finding import OPTIMIZERS, WITHOUT_MOMENTUM, Use
from clrtool.core.planning.lint import lint_plan, lint_source, lint_values
from clrtool.core.planning.make import make_plan, plan_stages
from clrtool.core.planning.policies import POLICIES

PER_EPOCH, EPOCHS = 47, 30
N = PER_EPOCH * EPOCHS
QUIET = {"cycle_momentum": False}


def rules(source, params, iterations=N, per_epoch=PER_EPOCH, **use):
    return [finding.rule for finding in lint_source(source, params, iterations, per_epoch, Use(**use))]


def findings(source, params, iterations=N, per_epoch=PER_EPOCH, **use):
    return {finding.rule: finding for finding in lint_source(source, params, iterations, per_epoch, Use(**use))}


def torch_scheduler(name, params, optimizer=torch.optim.SGD, **arguments):
    chosen = optimizer([torch.nn.Parameter(torch.zeros(1))], **({"lr": 0.1} | arguments))
    return chosen, getattr(torch.optim.lr_scheduler, name)(chosen, **params)


@pytest.mark.parametrize(
    ("source", "params"),
    [
        ("torch:CyclicLR", {"base_lr": 0.1, "max_lr": 0.5, "step_size_up": 235} | QUIET),
        ("torch:CosineAnnealingLR", {"T_max": N, "base_lr": 0.1}),
        ("torch:StepLR", {"step_size": 400, "base_lr": 0.1}),
        ("torch:MultiStepLR", {"milestones": [700, 1100], "base_lr": 0.1}),
        ("transformers:cosine", {"base_lr": 0.1, "num_warmup_steps": 40, "num_training_steps": N}),
        ("transformers:linear", {"base_lr": 0.1, "num_warmup_steps": 40, "num_training_steps": N}),
        ("keras:CosineDecay", {"initial_learning_rate": 0.1, "decay_steps": N}),
        ("optax:cosine_onecycle_schedule", {"transition_steps": N, "peak_value": 0.1}),
        ("optax:linear_schedule", {"init_value": 0.0, "end_value": 0.1, "transition_steps": 470}),
        ("torch:LinearLR", {"start_factor": 0.1, "total_iters": 470, "base_lr": 0.1}),
        ("torch:ConstantLR", {"factor": 0.5, "total_iters": 5, "base_lr": 0.1}),
        ("torch:OneCycleLR", {"max_lr": 0.1, "total_steps": N + 1} | QUIET),
        ("torch:CosineAnnealingWarmRestarts", {"T_0": 470, "base_lr": 0.1}),
        ("transformers:cosine", {"base_lr": 0.1, "num_warmup_steps": 0, "num_training_steps": N, "num_cycles": 1.5}),
        ("transformers:cosine_with_restarts", {"base_lr": 0.1, "num_warmup_steps": 0, "num_training_steps": N, "num_cycles": 3}),
        ("transformers:warmup_stable_decay", {"base_lr": 0.1, "num_warmup_steps": 99, "num_training_steps": N, "num_decay_steps": 200}),
        ("deepspeed:OneCycle", {"cycle_min_lr": 0.1, "cycle_max_lr": 0.5, "cycle_first_step_size": 300} | QUIET),
    ],
)  # fmt: skip
def test_a_schedule_that_fits_its_training_has_no_finding(source, params):
    assert rules(source, params) == []


@pytest.mark.parametrize("policy", sorted(set(POLICIES) - {"stages"}))
@pytest.mark.parametrize("warmup_epochs", [0, 4])
@pytest.mark.parametrize("per_epoch", [1, 4, 47])
def test_what_clrtool_plans_has_no_finding(policy, warmup_epochs, per_epoch):
    plan = make_plan(0.001, 0.006, per_epoch, epochs=32 + warmup_epochs, policy=policy, warmup_epochs=warmup_epochs)
    assert lint_plan(plan, Use()) == ()
    assert lint_plan(plan_stages([(0.001, 0.005, 100, 400), (0.0001, 0.0005, 100, 800)], 47), Use()) == ()


def test_a_plan_of_epochs_is_never_taken_for_one_of_iterations():
    plan = make_plan(0.0223, 0.134, 37, policy="exp_range", epochs=25, stepsize_epochs=0.2609)
    assert [finding.rule for finding in lint_plan(plan, Use())] == ["stepsize"]


@pytest.mark.parametrize(
    ("source", "params", "fix"),
    [
        ("torch:OneCycleLR", {"max_lr": 0.1, "total_steps": EPOCHS} | QUIET, "a length of 1,410 iterations"),
        ("torch:CosineAnnealingLR", {"T_max": EPOCHS}, "a length of 1,410 iterations"),
        ("torch:CyclicLR", {"base_lr": 0.1, "max_lr": 0.5, "step_size_up": 5} | QUIET, "a stepsize of 235 iterations for 5 epochs"),
        ("torch:StepLR", {"step_size": 10}, "multiply by 47"),
        ("torch:MultiStepLR", {"milestones": [10, 20]}, "multiply by 47"),
        ("keras:PolynomialDecay", {"initial_learning_rate": 0.1, "decay_steps": EPOCHS}, "a length of 1,410 iterations"),
        ("torch:CosineAnnealingWarmRestarts", {"T_0": 10}, "multiply by 47"),
        ("keras:PolynomialDecay", {"initial_learning_rate": 0.1, "decay_steps": 10, "cycle": True}, "multiply by 47"),
        ("transformers:cosine_with_restarts", {"base_lr": 0.1, "num_warmup_steps": 0, "num_training_steps": EPOCHS}, "a length of 1,410"),
    ],
)  # fmt: skip
def test_epochs_taken_for_iterations_are_found(source, params, fix):
    assert fix in findings(source, params)["counted in epochs"].fix


@pytest.mark.parametrize(
    ("source", "params"),
    [
        ("torch:OneCycleLR", {"max_lr": 0.1, "total_steps": N} | QUIET),
        ("torch:CosineAnnealingLR", {"T_max": N}),
        ("torch:CyclicLR", {"base_lr": 0.1, "max_lr": 0.5, "step_size_up": 235} | QUIET),
        ("torch:StepLR", {"step_size": 400}),
        ("torch:MultiStepLR", {"milestones": [700, 1100]}),
        ("torch:CosineAnnealingWarmRestarts", {"T_0": 470}),
    ],
)
def test_iterations_stepped_once_per_epoch_are_found(source, params):
    found = findings(source, params, stepped="epoch")
    assert "scheduler.step() after every batch" in found["counted in iterations"].fix
    assert "30 steps" in found["counted in iterations"].cause


def test_epochs_stepped_once_per_epoch_are_no_finding():
    assert rules("torch:StepLR", {"step_size": 10}, stepped="epoch") == []
    assert rules("torch:CosineAnnealingLR", {"T_max": EPOCHS}, stepped="epoch") == []
    assert rules("torch:CyclicLR", {"base_lr": 0.1, "max_lr": 0.5, "step_size_up": 5} | QUIET, stepped="epoch") == []


def test_a_length_that_does_not_match_is_found_on_both_sides():
    short, long = ({"T_max": length} for length in (1000, 2000))
    assert "rises again" in findings("torch:CosineAnnealingLR", short)["length"].cause
    assert "before its end" in findings("torch:CosineAnnealingLR", long)["length"].cause
    assert "stays at" in findings("torch:PolynomialLR", {"total_iters": 1000})["length"].cause


@pytest.mark.parametrize(
    ("source", "params", "rule"),
    [
        ("transformers:cosine_with_restarts", {"base_lr": 0.1, "num_warmup_steps": 0, "num_training_steps": 500}, "length"),
        ("transformers:constant_with_warmup", {"base_lr": 0.1, "num_warmup_steps": 2000}, "length"),
        ("caffe:multistep", {"base_lr": 0.1, "gamma": 0.1, "stepvalue": [1000, 5000]}, "length"),
        ("torch:StepLR", {"step_size": 5000}, "length"),
        ("torch:CyclicLR", {"base_lr": 0.1, "max_lr": 0.5, "step_size_up": 235, "mode": "exp_range", "gamma": 0.9} | QUIET, "decayed away"),
        ("torch:CyclicLR", {"base_lr": 0.1, "max_lr": 0.5, "step_size_up": 235, "mode": "exp_range"} | QUIET, "no decay"),
    ],
)  # fmt: skip
def test_what_is_never_reached_or_soon_gone_is_found(source, params, rule):
    assert rules(source, params) == [rule]


def test_every_stage_is_looked_at():
    plan = plan_stages([(0.001, 0.005, 2, 376), (0.0001, 0.0005, 94, 752)], 47)
    assert [finding.rule for finding in lint_plan(plan, Use())] == ["counted in epochs"]


def test_following_the_fix_of_a_finding_removes_it():
    cyclic = {"base_lr": 0.1, "max_lr": 0.5, "step_size_up": 200} | QUIET
    steps = int(findings("torch:CyclicLR", cyclic)["unfinished cycle"].fix.split()[2].replace(",", ""))
    assert rules("torch:CyclicLR", cyclic, steps) == []
    total = int(
        findings("torch:OneCycleLR", {"max_lr": 0.1, "total_steps": N} | QUIET)["after the end"]
        .fix.split("=")[1]
        .split(",")[0]
    )
    assert rules("torch:OneCycleLR", {"max_lr": 0.1, "total_steps": total} | QUIET) == []


def test_the_optimizers_are_those_of_torch():
    classes = {
        name
        for name, kind in vars(torch.optim).items()
        if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)
    }
    assert set(OPTIMIZERS) == classes - {"Optimizer"}


@pytest.mark.parametrize("anneal", ["cos", "linear"])
def test_what_one_cycle_leaves_after_its_last_step_is_what_torch_leaves(anneal):
    params = {"max_lr": 1.0, "total_steps": 10, "anneal_strategy": anneal} | QUIET
    optimizer, scheduler = torch_scheduler("OneCycleLR", params)
    for _ in range(10):
        optimizer.step()
        scheduler.step()
    left = optimizer.param_groups[0]["lr"]
    found = findings("torch:OneCycleLR", params, 10, 1)["after the end"]
    assert found.note  # nothing is wrong unless training goes on
    assert not findings("torch:OneCycleLR", params, 12, 1)["after the end"].note
    assert f"leaves a learning rate of {left:.3g}, {'negative' if anneal == 'linear' else 'risen again'}" in found.cause
    assert math.isclose(left, 0.0495, rel_tol=0.01) if anneal == "cos" else left < 0
    optimizer.step()
    with pytest.raises(ValueError, match="Tried to step 11 times"):
        scheduler.step()


def test_a_rise_of_no_length_is_found_where_torch_divides_by_zero():
    params = {"max_lr": 1.0, "total_steps": 10, "pct_start": 0.1}
    with pytest.raises(ZeroDivisionError):
        torch_scheduler("OneCycleLR", params)
    found = findings("torch:OneCycleLR", params)["pct_start"]
    fixed = float(found.fix.split("=")[1].split()[0])
    torch_scheduler("OneCycleLR", params | {"pct_start": fixed})


def test_momentum_turned_on_for_plain_sgd_is_found_and_is_what_torch_does():
    params = {"base_lr": 0.1, "max_lr": 0.5, "step_size_up": 235}
    optimizer, _ = torch_scheduler("CyclicLR", params, momentum=0.0)
    assert optimizer.param_groups[0]["momentum"] == 0.9
    assert rules("torch:CyclicLR", params, optimizer="SGD") == ["momentum turned on"]
    assert "0.9" in findings("torch:CyclicLR", params, optimizer="SGD")["momentum turned on"].cause
    assert rules("torch:CyclicLR", params) == ["momentum turned on"]
    assert rules("torch:CyclicLR", params, optimizer="SGD", momentum=0.9) == []
    assert rules("torch:CyclicLR", params, optimizer="AdamW") == []
    assert rules("torch:CyclicLR", params | QUIET, optimizer="SGD") == []


@pytest.mark.parametrize("name", sorted(WITHOUT_MOMENTUM))
def test_momentum_cycling_without_momentum_is_found_where_torch_refuses_it(name):
    params = {"base_lr": 0.1, "max_lr": 0.5, "step_size_up": 235}
    with pytest.raises(ValueError, match="must support momentum or beta1"):
        torch_scheduler("CyclicLR", params, getattr(torch.optim, name))
    assert rules("torch:CyclicLR", params, optimizer=name) == ["no momentum"]


def test_a_momentum_that_reaches_1_is_found_with_its_iteration_and_torch_refuses_it_too():
    grown = {"cycle_min_lr": 0.1, "cycle_max_lr": 0.5, "cycle_first_step_size": 300, "cycle_max_mom": 0.99}
    growing = grown | {"decay_mom_rate": 0.1, "decay_step_size": 10}
    assert "the momentum is 1" in findings("deepspeed:OneCycle", growing)["momentum"].cause
    assert "momentum" not in rules("deepspeed:OneCycle", grown)
    wide = {"base_lr": 0.1, "max_lr": 0.5, "step_size_up": 235, "max_momentum": 1.5}
    assert "is 1.5 at iteration 0 and at most 1.5" in findings("torch:CyclicLR", wide)["momentum"].cause
    with pytest.raises(ValueError, match="Invalid beta"):
        torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], betas=(1.5, 0.9))


def test_an_unfinished_cycle_is_found_with_the_nearest_whole_one():
    params = {"base_lr": 0.1, "max_lr": 0.5, "step_size_up": 200} | QUIET
    found = findings("torch:CyclicLR", params)["unfinished cycle"]
    assert "3.52 cycles" in found.cause
    assert "train for 1,600 steps" in found.fix
    assert rules("torch:CosineAnnealingWarmRestarts", {"T_0": 300, "base_lr": 0.1}) == ["unfinished cycle"]
    assert rules("torch:CosineAnnealingWarmRestarts", {"T_0": 470, "base_lr": 0.1}) == []


@pytest.mark.parametrize("stepsize", [47, 705])
def test_a_stepsize_outside_two_to_ten_epochs_is_found(stepsize):
    assert rules("torch:CyclicLR", {"base_lr": 0.1, "max_lr": 0.5, "step_size_up": stepsize} | QUIET) == ["stepsize"]


def test_a_decay_to_nothing_is_found():
    assert rules("torch:ExponentialLR", {"gamma": 0.97, "base_lr": 0.1}) == ["decayed away"]
    assert rules("torch:ExponentialLR", {"gamma": 0.97 ** (1 / PER_EPOCH), "base_lr": 0.1}) == []


def test_bounds_that_were_meant_are_held_against_the_schedule():
    params = {"base_lr": 0.1, "max_lr": 0.5, "step_size_up": 235} | QUIET
    assert rules("torch:CyclicLR", params, base_lr=0.1, max_lr=0.4) == ["outside the bounds"]
    assert rules("torch:CyclicLR", params, base_lr=0.2, max_lr=0.6) == ["outside the bounds"]
    assert rules("torch:CyclicLR", params, base_lr=0.1, max_lr=0.5) == []


def test_the_formula_of_a_well_known_blog_is_found_out():
    # (initial + max) / step_size * value in place of (max - initial) * height
    initial, top, step_size = 0.001, 0.006, 20
    blog = []
    for t in range(160):
        value = t % (2 * step_size) if t % (2 * step_size) <= step_size else 2 * step_size - t % (2 * step_size)
        blog.append(
            initial + (initial + top) / step_size * value if t < 80 else initial - (initial + top) / step_size * value
        )
    found = {finding.rule: finding for finding in lint_values(np.array(blog), Use(base_lr=initial, max_lr=top))}
    assert {"negative", "outside the bounds"} <= set(found)
    assert "max_lr - base_lr, not their sum" in found["outside the bounds"].fix
    assert [finding.rule for finding in lint_values(np.array(blog), Use())] == ["negative"]
    right = make_plan(initial, top, 20, epochs=8).lr(range(161))
    assert lint_values(right, Use(base_lr=initial, max_lr=top)) == ()


def test_a_value_that_is_no_number_is_found_first():
    assert [finding.rule for finding in lint_values(np.array([0.1, math.nan]), Use())] == ["not finite"]


def test_without_iterations_per_epoch_nothing_is_said_of_epochs():
    assert rules("torch:CyclicLR", {"base_lr": 0.1, "max_lr": 0.5, "step_size_up": 5} | QUIET, 1410, None) == []
