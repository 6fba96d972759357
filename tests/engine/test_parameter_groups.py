"""Lists by which a schedule gives each parameter group values of its own, against torch's own classes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clrtool.core.planning.plan import plan_from
from clrtool.engine.training.scheduler import PlanScheduler
from clrtool.report.programs.program import to_code
from tests.core.systems import group_rates, stepped_groups

STEPS = 60
FACTORS = {"0.9 ** x": lambda x: 0.9**x, "1 / (1 + x)": lambda x: 1 / (1 + x), "lambda x: 0.5": lambda x: 0.5}
rates, whole = st.floats(1e-6, 10), st.integers(1, 40)


def optimizer(lrs):
    return torch.optim.SGD([{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in lrs], momentum=0.9)


@st.composite
def schedules(draw):
    """A scheduler of torch, its parameters with lists, and the learning rates that its groups are made with."""
    groups = draw(st.integers(2, 4))

    def each(values):
        return draw(st.lists(values, min_size=groups, max_size=groups))

    def maybe(values):
        return each(values) if draw(st.booleans()) else draw(values)

    kind = draw(
        st.sampled_from(["CyclicLR", "OneCycleLR", "LambdaLR", "MultiplicativeLR", "StepLR", "CosineAnnealingLR"])
    )
    lrs, momenta = each(rates), {"base_momentum": maybe(st.floats(0, 0.9)), "max_momentum": maybe(st.floats(0, 0.99))}
    params = {
        "CyclicLR": {"base_lr": maybe(rates), "max_lr": each(rates), "step_size_up": draw(whole)} | momenta,
        "OneCycleLR": {"max_lr": each(rates), "total_steps": STEPS} | momenta,
        "LambdaLR": {"lr_lambda": each(st.sampled_from([*FACTORS]))},
        "MultiplicativeLR": {"lr_lambda": each(st.sampled_from([*FACTORS]))},
        "StepLR": {"step_size": draw(whole)},
        "CosineAnnealingLR": {"T_max": draw(whole), "eta_min": draw(rates)},
    }[kind]
    return kind, params, lrs


def planned(kind, params, lrs):
    optimizers = {} if "max_lr" in params else {"base_lr": lrs}
    return plan_from(f"torch:{kind}", params | optimizers, iterations=STEPS)


def torchs(kind, params, lrs):
    made = {k: [FACTORS[each] for each in v] if k == "lr_lambda" else v for k, v in params.items()}
    return group_rates(kind, made, lrs, STEPS)


@given(schedules())
@settings(max_examples=40, deadline=None)
def test_every_parameter_group_has_torchs_values_as_a_plan_by_its_scheduler_and_by_the_printed_program(asked):
    plan = planned(*asked)
    lrs, momenta = torchs(*asked)
    near = {"rtol": 1e-9, "atol": 1e-11 * lrs.max()}
    np.testing.assert_allclose(np.stack([group.lr(range(STEPS)) for group in plan.groups], 1), lrs, **near)
    sgd = optimizer(asked[2])
    by_scheduler = stepped_groups(PlanScheduler(sgd, plan), sgd, STEPS)
    np.testing.assert_allclose(by_scheduler[0], lrs, **near)
    np.testing.assert_allclose(by_scheduler[1], momenta, rtol=1e-9, atol=1e-12)
    if asked[0] != "MultiplicativeLR":  # no function of the step
        names = {}
        exec(text := to_code(plan, "torch"), names)  # noqa: S102 (it was just printed)
        sgd = optimizer(asked[2] if "lambda" not in text else [1.0] * len(plan.groups))
        by_program = stepped_groups(names["make_scheduler"](sgd), sgd, STEPS)
        np.testing.assert_allclose(by_program[0], lrs, **near)
        np.testing.assert_allclose(by_program[1], momenta, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("source", "params"),
    [
        ("transformers:cosine", {"num_warmup_steps": 7, "num_training_steps": STEPS}),
        ("timm:CosineLRScheduler", {"t_initial": 40, "warmup_t": 5, "lr_min": 0.001}),
        ("mmengine:param_scheduler", {"schedulers": [{"type": "PolyLR", "by_epoch": False, "end": 50, "power": 2.0}]}),
        ("composer:LinearWithWarmupScheduler", {"t_warmup": "9ba", "max_duration": f"{STEPS}ba"}),
        ("torch:CosineAnnealingWarmRestarts", {"T_0": 5, "T_mult": 2}),
    ],
)
def test_the_printed_program_gives_each_group_of_any_system_what_it_has_alone(source, params):
    lrs = [0.3, 0.02, 0.1]
    alone = [plan_from(source, params | {"base_lr": lr}, iterations=STEPS) for lr in lrs]
    plan, names = plan_from(source, params | {"base_lr": lrs}, iterations=STEPS), {}
    exec(text := to_code(plan, "torch"), names)  # noqa: S102 (it was just printed)
    sgd = optimizer([1.0] * 3 if "lambda" in text else lrs)
    theirs, _ = stepped_groups(names["make_scheduler"](sgd), sgd, STEPS)
    np.testing.assert_allclose(theirs, np.stack([each.lr(range(STEPS)) for each in alone], 1), rtol=1e-9, atol=1e-12)


def test_lists_inside_a_sequence_are_a_schedule_for_each_group():
    lrs, factors = [0.3, 0.02], [*FACTORS][:2]
    parts = [{"type": "LinearLR", "total_iters": 9}, {"type": "LambdaLR", "lr_lambda": factors}]
    plan = plan_from("torch:SequentialLR", {"schedulers": parts, "milestones": [9], "base_lr": lrs}, iterations=STEPS)
    sgd = optimizer(lrs)
    made = [
        torch.optim.lr_scheduler.LinearLR(sgd, total_iters=9),
        torch.optim.lr_scheduler.LambdaLR(sgd, [FACTORS[each] for each in factors]),
    ]
    theirs, _ = stepped_groups(torch.optim.lr_scheduler.SequentialLR(sgd, made, [9]), sgd, STEPS)
    np.testing.assert_allclose(np.stack([group.lr(range(STEPS)) for group in plan.groups], 1), theirs, rtol=1e-12)
    parts[0] = {"type": "CyclicLR", "base_lr": 0.1, "max_lr": [0.2, 0.3, 0.4]}
    with pytest.raises(ValueError, match=r"parts of schedulers have \[2, 3\]"):
        plan_from("torch:SequentialLR", {"schedulers": parts, "milestones": [9]})


def test_a_one_cycle_that_is_longer_than_its_own_moves_every_groups_rate_and_momentum_to_the_end_of_the_plan():
    plan = plan_from(
        "torch:OneCycleLR", {"max_lr": [0.1, 0.4], "total_steps": 20, "base_momentum": [0.7, 0.8]}, iterations=30
    )
    names = {}
    exec(to_code(plan, "torch"), names)  # noqa: S102 (it was just printed)
    sgd = optimizer([1.0, 1.0])
    lrs, momenta = stepped_groups(names["make_scheduler"](sgd), sgd, 30)
    for number, group in enumerate(plan.groups):
        np.testing.assert_allclose(lrs[:, number], group.lr(range(30)), rtol=1e-12)
        np.testing.assert_allclose(momenta[:, number], group.momentum(range(30)), rtol=1e-12)


def test_groups_that_the_optimizer_does_not_have_are_refused_and_a_state_goes_on_in_all():
    plan = plan_from("torch:StepLR", {"base_lr": [0.4, 0.1], "step_size": 5}, iterations=STEPS)
    with pytest.raises(ValueError, match="each of 2 parameter groups, and the optimizer has 3"):
        PlanScheduler(optimizer([1.0, 1.0, 1.0]), plan)
    scheduler = PlanScheduler(sgd := optimizer([1.0, 1.0]), plan)
    scheduler.load_state_dict({"last_epoch": 7})
    assert [group["lr"] for group in sgd.param_groups] == pytest.approx([0.04, 0.01])
    sgd.step()
    sgd.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))]})
    with pytest.raises(ValueError, match="the optimizer has 3"):
        scheduler.step()


def test_a_plan_of_groups_says_so_wherever_one_schedule_is_needed():
    plan = plan_from("torch:StepLR", {"base_lr": [0.4, 0.1], "step_size": 5})
    with pytest.raises(ValueError, match="has a schedule for each of 2 parameter groups, and here one is needed"):
        plan.lr(0)
    with pytest.raises(ValueError, match=r"group 2: max_lr must be a finite number"):
        plan_from("torch:CosineAnnealingLR", {"base_lr": [0.4, True], "T_max": 5})
