"""What is printed of plans in the words of other systems, run as printed in their packages, which are extras."""

import ast
import json
import os
import re

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clrtool.core.planning.make import make_plan, plan_stages
from clrtool.core.planning.plan import plan_from
from clrtool.errors import ConfigError
from clrtool.report.programs.program import to_code
from tests.core.peers import (
    composer_factors,
    deepspeed_values,
    ignite_values,
    mmengine_rates,
    mmengine_values,
    optimizer,
    peer,
    timm_values,
)

many = settings(
    max_examples=int(os.environ.get("CLRTOOL_EXAMPLES", "15")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
MODULES = {
    "timm": "timm.scheduler",
    "ignite": "ignite.handlers",
    "mmengine": "mmengine.optim.scheduler",
    "composer": "composer.optim",
    "deepspeed": "deepspeed.runtime.lr_schedules",
}
each_form = pytest.mark.parametrize("form", MODULES)
LINES = ("triangular", "triangular2", "decay", "linear", "fixed", "step", "multistep", "piecewise")
BENT = ("cosine", "cosine_restarts", "warmup_stable_decay")
# The policies that each system has words for, whatever the numbers are; any other may be refused, or must be right.
HAS = {
    "timm": ("linear", "decay", "fixed", "cosine", "polynomial", "step", "multistep", "exponential"),
    "ignite": (*LINES, *BENT),
    "mmengine": (*LINES, *BENT, "polynomial", "exponential"),
    "composer": ("linear", "fixed", "cosine", "polynomial", "multistep"),
    "deepspeed": (),
}
POLICIES = (*LINES, *BENT, "polynomial", "exponential", "exp_range", "one_cycle", "inverse_time", "sigmoid")


def rates_of(form, text, steps):
    """The learning rates of what was printed, from an optimizer made as it says."""
    said = re.search(r"\blr=([^,)\s]+?)\.?[,)\s]", text)
    lr = float(said[1]) if said else 1.0
    names = {}
    if form == "deepspeed":
        config = json.loads(text)
        lr = config.get("optimizer", {"params": {"lr": lr}})["params"]["lr"]
        return deepspeed_values(config["scheduler"]["type"], config["scheduler"]["params"], steps, lr)[0]
    exec(text, names)  # noqa: S102 (it was just printed)
    if form == "mmengine":
        epoch = re.search(r"An epoch has (\d+)", text)
        return mmengine_rates(names["param_scheduler"], lr, steps, int(epoch[1]) if epoch else 1)
    if form == "composer":
        epoch = re.search(r"An epoch has (\d+)", text)
        duration = re.search(r'max_duration="([^"]+)"', text)[1]
        made = names["make_scheduler"]()
        return [lr * each for each in composer_factors(made, duration, int(epoch[1]) if epoch else steps, steps)]
    sgd = optimizer(lr)
    made = names["make_scheduler"](sgd)
    return {"timm": timm_values, "ignite": ignite_values}[form](made, sgd, steps)


def assert_runs_as_planned(plan, form, text):
    theirs = rates_of(form, text, plan.iterations)
    np.testing.assert_allclose(theirs, plan.lr(range(plan.iterations)), rtol=1e-9, atol=1e-15, err_msg=text)


@each_form
@given(
    st.floats(1e-5, 0.1), st.floats(1.01, 300), st.integers(1, 40), st.integers(4, 20), st.sampled_from(POLICIES),
    st.sampled_from([0, 0, 1, 2]), st.one_of(st.none(), st.integers(1, 9)),
)  # fmt: skip
@many
def test_a_plan_that_a_system_has_words_for_runs_there_as_planned(
    form, low, ratio, per_epoch, epochs, policy, warmup, down
):
    peer(MODULES[form])
    extra = {"stepsize_down": down * per_epoch} if down and policy.startswith("triangular") and epochs > 14 else {}
    try:
        plan = make_plan(low, low * ratio, per_epoch, epochs=epochs, policy=policy, warmup_epochs=warmup, **extra)
    except ValueError:  # no whole cycle fits, or another rule of a policy
        return
    try:
        text = to_code(plan, form)
    except ConfigError as error:
        assert policy not in HAS[form], error
        assert "--format torch" in str(error)
        return
    assert_runs_as_planned(plan, form, text)


@each_form
def test_what_a_system_has_no_words_for_is_refused_with_its_name_and_what_to_do_instead(form):
    plan = make_plan(0.001, 0.006, 50, epochs=20, policy="exp_range")
    with pytest.raises(ConfigError, match=r"has no schedule for exp_range with 1,000 iterations.*--format torch"):
        to_code(plan, form)


def momenta_of(form, text, steps, kind=torch.optim.SGD):
    """The momenta of what was printed, from an optimizer made as it says."""
    names = {}
    exec(text, names)  # noqa: S102 (it was just printed)
    if form == "ignite":
        sgd = optimizer(0.1, momentum=0.5)
        return ignite_values(names["make_scheduler"](sgd), sgd, steps, "momentum")
    first = float(re.search(r"\bmomentum=([-+.e\d]*\d)", text)[1])
    made = optimizer(0.1, kind, **({"momentum": first} if kind is torch.optim.SGD else {"betas": (first, 0.99)}))
    return mmengine_values(names["param_scheduler"], made, steps, name="momentum")


def assert_both_run_as_planned(plan, form):
    text = to_code(plan, form)
    assert_runs_as_planned(plan, form, text)
    expected = plan.momentum(range(plan.iterations))
    np.testing.assert_allclose(momenta_of(form, text, plan.iterations), expected, rtol=1e-9, err_msg=text)
    if form == "mmengine":
        np.testing.assert_allclose(momenta_of(form, text, plan.iterations, torch.optim.Adam), expected, rtol=1e-9)


@pytest.mark.parametrize("form", ["ignite", "mmengine"])
@given(
    st.floats(1e-5, 0.1), st.floats(1.01, 300), st.integers(4, 30), st.integers(4, 12), st.sampled_from(["triangular", "one_cycle"]),
    st.sampled_from([0, 1]), st.floats(0.1, 0.9), st.floats(0.0, 0.09),
)  # fmt: skip
@many
def test_a_plan_that_moves_the_momentum_runs_as_planned_where_a_system_has_words_for_that(
    form, low, ratio, per_epoch, epochs, policy, warmup, momentum, more
):
    peer(MODULES[form])
    extra = {"momentum": (momentum, momentum + more)} | ({"pct_start": 0.25} if policy == "one_cycle" else {})
    try:
        plan = make_plan(low, low * ratio, 4 * per_epoch, epochs=epochs, policy=policy, warmup_epochs=warmup, **extra)
    except ValueError:  # no whole cycle fits
        return
    try:
        assert_both_run_as_planned(plan, form)
    except ConfigError:  # an odd number of iterations has its corners between two
        assert policy == "one_cycle"


@pytest.mark.parametrize("form", ["ignite", "mmengine"])
@pytest.mark.parametrize(
    "plan",
    [
        make_plan(0.001, 0.006, 50, epochs=20, momentum=(0.85, 0.95)),
        plan_from("torch:CyclicLR", {"base_lr": 0.1, "max_lr": 0.5, "step_size_up": 7, "step_size_down": 4}, iterations=60),
        plan_from("torch:OneCycleLR", {"max_lr": 0.2, "total_steps": 40, "pct_start": 0.25}),
        plan_from("torch:OneCycleLR", {"max_lr": 0.2, "total_steps": 40, "pct_start": 0.25, "anneal_strategy": "linear",
                                       "three_phase": True}),
        plan_from("torch:SequentialLR", {"base_lr": 0.3, "milestones": [8], "schedulers": [
                  {"type": "LinearLR", "total_iters": 8}, {"type": "CyclicLR", "base_lr": 0.1, "max_lr": 0.3, "step_size_up": 9}]},
                  iterations=50),
        plan_from("fastai:fit_one_cycle", {"lr_max": 0.2, "n_epoch": 2, "n_iter": 40}),
    ],
    ids=lambda plan: plan.policy,
)  # fmt: skip
def test_the_momentum_of_a_schedule_of_any_system_is_said_in_ignite_and_mmengine(plan, form):
    peer(MODULES[form])
    assert_both_run_as_planned(plan, form)


@pytest.mark.parametrize("form", ["timm", "composer"])
def test_a_plan_that_moves_the_momentum_is_refused_where_it_would_be_left_alone(form):
    for plan, told in (
        (make_plan(0.001, 0.006, 50, epochs=20, momentum=(0.85, 0.95)), "plan without --momentum"),
        (plan_from("torch:OneCycleLR", {"max_lr": 0.1, "total_steps": 30}), "cycle_momentum=false"),
    ):
        with pytest.raises(ConfigError, match=told):
            to_code(plan, form)


STAGES = plan_stages([(0.001, 0.005, 10, 40), (0.0001, 0.0005, 5, 60), (1e-5, 5e-5, 3, 78)])


@pytest.mark.parametrize("form", ["ignite", "mmengine"])
@pytest.mark.parametrize(
    "plan",
    [
        STAGES,
        plan_from("transformers:linear", {"base_lr": 0.1, "num_warmup_steps": 9, "num_training_steps": 60}),
        plan_from("transformers:warmup_stable_decay", {"base_lr": 0.1, "num_warmup_steps": 9, "num_decay_steps": 20,
                  "num_training_steps": 60, "decay_type": "linear"}),
        plan_from("optax:piecewise_interpolate_schedule", {"interpolate_type": "linear", "init_value": 0.1,
                  "boundaries_and_scales": {10: 3.0, 30: 0.01}}, iterations=50),
        plan_from("torch:CyclicLR", {"base_lr": 0.5, "max_lr": 0.1, "step_size_up": 7, "step_size_down": 4,
                  "cycle_momentum": False}, iterations=60),
        plan_from("torch:SequentialLR", {"base_lr": 0.3, "milestones": [8], "schedulers": [
                  {"type": "LinearLR", "total_iters": 8}, {"type": "StepLR", "step_size": 9}]}, iterations=50),
        plan_from("timm:CosineLRScheduler", {"t_initial": 20, "warmup_t": 5, "warmup_prefix": True, "cycle_limit": 2,
                  "cycle_decay": 0.5, "base_lr": 0.3}, iterations=70),
        plan_from("deepspeed:WarmupDecayLR", {"total_num_steps": 30, "warmup_num_steps": 9, "warmup_type": "linear"},
                  iterations=44),
        plan_from("fastai:fit_flat_cos", {"lr": 0.2, "n_epoch": 2, "n_iter": 40}),
        plan_from("torch:OneCycleLR", {"max_lr": 0.2, "total_steps": 40, "pct_start": 0.25, "cycle_momentum": False}),
        plan_from("ignite:PiecewiseLinear", {"milestones_values": [(5, 0.0), (9, 1.0), (9, 0.2), (30, 0.1)]}, iterations=40),
    ],
    ids=lambda plan: plan.policy,
)  # fmt: skip
def test_lines_and_cosines_of_any_system_are_said_in_ignite_and_mmengine(plan, form):
    peer(MODULES[form])
    assert_runs_as_planned(plan, form, to_code(plan, form))


@pytest.mark.parametrize(
    ("form", "source", "params"),
    [
        ("timm", "timm:CosineLRScheduler", {"t_initial": 20, "warmup_t": 5, "cycle_limit": 2, "k_decay": 2.0, "base_lr": 0.3}),
        ("timm", "timm:TanhLRScheduler", {"t_initial": 20, "lb": -5.0, "warmup_t": 3, "base_lr": 0.3}),
        ("timm", "timm:MultiStepLRScheduler", {"decay_t": [9, 20], "decay_rate": 0.3, "warmup_t": 3, "base_lr": 0.3}),
        ("ignite", "ignite:LinearCyclicalScheduler", {"start_value": 1.0, "end_value": 0.1, "cycle_size": 8, "cycle_mult": 2.0,
                                                      "monotonic": True, "warmup_duration": 3}),
        ("ignite", "ignite:create_lr_scheduler_with_warmup", {"warmup_start_value": 0.0, "warmup_duration": 8, "base_lr": 0.4,
                                                              "lr_scheduler": {"type": "ExponentialLR", "gamma": 0.9}}),
        ("ignite", "ignite:ConcatScheduler", {"durations": [9, 11], "schedulers": [
            {"type": "ConcatScheduler", "durations": [4], "schedulers": [
                {"type": "PiecewiseLinear", "milestones_values": [[0, 0.1], [4, 1.0]]},
                {"type": "CosineAnnealingScheduler", "start_value": 1.0, "end_value": 0.1, "cycle_size": 5}]},
            {"type": "LRScheduler", "lr_scheduler": {"type": "StepLR", "step_size": 4}},
            {"type": "LinearCyclicalScheduler", "start_value": 0.3, "end_value": 0.1, "cycle_size": 8}], "base_lr": 0.7}),
        ("mmengine", "mmengine:param_scheduler", {"base_lr": 0.2, "epoch_length": 7, "schedulers": [
            {"type": "LinearLR", "start_factor": 0.1, "by_epoch": False, "begin": 0, "end": 9},
            {"type": "MultiStepLR", "milestones": [3, 5], "gamma": 0.1}]}),
        ("mmengine", "mmengine:param_scheduler", {"base_lr": 0.2, "epoch_length": 7, "schedulers": [
            {"type": "CosineAnnealingLR", "T_max": 5, "eta_min": 0.01, "convert_to_iter_based": True}]}),
        ("composer", "composer:CosineAnnealingWithWarmupScheduler", {"t_warmup": "2ep", "alpha_f": 0.1, "base_lr": 0.2,
                                                                     "max_duration": "5ep", "batches_per_epoch": 9}),
        ("composer", "composer:MultiStepScheduler", {"milestones": ["0.5dur", "2ep"], "max_duration": "40ba",
                                                     "batches_per_epoch": 9, "base_lr": 0.2}),
        ("composer", "composer:CosineAnnealingWarmRestartsScheduler", {"t_0": "7ba", "t_mult": 1.5, "max_duration": "40ba",
                                                                       "base_lr": 0.2}),
        ("deepspeed", "deepspeed:WarmupLR", {"warmup_num_steps": 9, "base_lr": 0.2}),
        ("deepspeed", "deepspeed:WarmupCosineLR", {"warmup_num_steps": 9, "total_num_steps": 30, "base_lr": 0.2}),
        ("deepspeed", "deepspeed:OneCycle", {"cycle_min_lr": 0.1, "cycle_max_lr": 0.5, "cycle_first_step_size": 9,
                                             "cycle_first_stair_count": 3, "decay_lr_rate": 0.1, "decay_step_size": 4}),
        ("deepspeed", "deepspeed:LRRangeTest", {"lr_range_test_step_size": 7, "lr_range_test_staircase": True}),
    ],
)  # fmt: skip
def test_a_plan_that_was_read_in_the_words_of_a_system_is_printed_in_them(form, source, params):
    peer(MODULES[form])
    plan = plan_from(source, params, iterations=40)
    text = to_code(plan, form)
    assert source.split(":")[1] in text
    assert_runs_as_planned(plan, form, text)


def test_one_triangle_is_the_warmup_and_the_line_of_timm():
    peer("timm.scheduler")
    plan = make_plan(0.001, 0.006, 10, cycles=1, stepsize_epochs=3, policy="triangular")
    assert_runs_as_planned(plan, "timm", to_code(plan, "timm"))


def test_a_function_inside_a_scheduler_of_torch_is_refused_by_ignite():
    part = {"type": "LambdaLR", "lr_lambda": "lambda x: 0.9 ** x"}
    params = {"lr_scheduler": part, "warmup_start_value": 0.0, "warmup_duration": 8, "base_lr": 0.4}
    with pytest.raises(ConfigError, match="ITERATION_COMPLETED"):
        to_code(plan_from("ignite:create_lr_scheduler_with_warmup", params, iterations=40), "ignite")


@pytest.mark.parametrize("form", ["timm", "ignite", "mmengine"])
def test_a_long_plan_is_printed_in_a_moment_and_short(form):
    plan = make_plan(0.001, 0.006, 400_000, epochs=90, policy="cosine", warmup_epochs=2)
    assert len(to_code(plan, form).splitlines()) < 30


@pytest.mark.parametrize("form", ["ignite", "mmengine"])
def test_a_plan_that_is_too_long_to_be_looked_through_has_the_knots_of_its_corners(form):
    text = to_code(make_plan(0.001, 0.006, 400_000, epochs=90, warmup_epochs=2), form)
    assert len(text.splitlines()) < 60
    assert all(f"{turn + (form == 'mmengine')}," in text for turn in (800_000, 4_320_000, 36_000_000))


@pytest.mark.parametrize(
    ("form", "source", "params"),
    [
        ("composer", "composer:CosineAnnealingScheduler", {"max_duration": "40ba", "batches_per_epoch": "TEXT"}),
        ("ignite", "ignite:ConcatScheduler", {"base_lr": "TEXT", "durations": [5], "schedulers": [
            {"type": "PiecewiseLinear", "milestones_values": [[0, 0.1], [9, 1.0]]}] * 2}),
        ("ignite", "ignite:PiecewiseLinear", {"milestones_values": [[0, 0.1], [9, 1.0]], "param_name": "TEXT"}),
        ("timm", "timm:StepLRScheduler", {"decay_t": 5, "t_in_epochs": "TEXT"}),
        ("timm", "timm:CosineLRScheduler", {"t_initial": 5, "t_in_epochs": "TEXT"}),
        ("deepspeed", "deepspeed:WarmupLR", {"warmup_type": "TEXT"}),
    ],
)  # fmt: skip
def test_no_text_of_a_plan_becomes_code_of_what_is_printed(form, source, params):
    text = 'lr", 1)\n"""\nraise SystemExit("run")\n"""\n\'\'\'\nraise SystemExit("run")\n'
    params = {name: text if value == "TEXT" else value for name, value in params.items()}
    try:
        printed = to_code(plan_from(source, params, iterations=40), form)
    except (ConfigError, ValueError):
        return
    if form != "deepspeed":
        tree = ast.parse(printed)
        assert not [node for node in ast.walk(tree) if isinstance(node, ast.Raise)]
    else:
        assert json.loads(printed)["scheduler"]["params"]["warmup_type"] == text
