"""Plans: whole cycles, a stepsize of 2-10 epochs, the paper's own plan, torch's schedule."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clrtool.core.plan import Plan, make_plan
from clrtool.core.policies import POLICIES

budgets = st.floats(0.5, 1000)
per_epoch = st.integers(10, 20_000)


@given(budgets, per_epoch, st.sampled_from([name for name, policy in POLICIES.items() if policy.in_cycles]))
def test_a_plan_is_whole_cycles_within_the_budget_and_ends_at_base_lr(epochs, iterations_per_epoch, policy):
    plan = make_plan(0.001, 0.006, iterations_per_epoch, epochs=epochs, policy=policy)
    assert plan.iterations == 2 * plan.stepsize * plan.num_cycles
    assert plan.iterations <= epochs * iterations_per_epoch * (1 + 2e-15)  # 2.3 * 100 is 230
    assert plan.iterations > epochs * iterations_per_epoch - 2 * plan.num_cycles - 1
    assert plan.lr(plan.iterations) == 0.001


@given(st.floats(4, 1000), per_epoch)
def test_the_stepsize_is_two_to_ten_epochs_wherever_one_such_cycle_fits(epochs, iterations_per_epoch):
    plan = make_plan(0.001, 0.006, iterations_per_epoch, epochs=epochs)
    rounding = 1 / iterations_per_epoch
    assert 2 - rounding <= plan.stepsize_epochs <= 10


@given(st.floats(12, 80), per_epoch)
def test_there_are_at_least_three_cycles_where_the_budget_allows(epochs, iterations_per_epoch):
    assert 3 <= make_plan(0.001, 0.006, iterations_per_epoch, epochs=epochs).num_cycles <= 4


def test_the_cifar_10_plan_of_the_paper_comes_out():
    # Section 3.2: 50,000 images in batches of 100 are 500 iterations; stepsize 2,000 is 4 epochs.
    plan = make_plan(0.001, 0.006, 500, epochs=32, policy="triangular", stepsize_epochs=4)
    assert (plan.stepsize, plan.num_cycles, plan.iterations) == (2000, 4, 16_000)


def test_a_budget_below_one_good_cycle_is_one_short_cycle_and_says_why():
    plan = make_plan(0.001, 0.006, 100, epochs=3)
    assert (plan.num_cycles, plan.stepsize) == (1, 150)
    assert "fewer than the 4 of one cycle" in plan.reasons[0]


def test_what_is_left_of_the_budget_is_said():
    plan = make_plan(0.001, 0.006, 47, epochs=30)
    assert plan.iterations == 1408
    assert "2 of 1,410 iterations are left over" in plan.reasons[1]


def test_exp_range_ends_with_a_tenth_of_its_amplitude():
    plan = make_plan(0.001, 0.006, 100, epochs=40, policy="exp_range")
    assert plan.params["gamma"] ** plan.iterations == pytest.approx(0.1)


@pytest.mark.parametrize("policy", ["triangular", "triangular2", "exp_range"])
def test_torchs_scheduler_built_from_a_plan_follows_it(policy):
    plan = make_plan(0.001, 0.006, 25, epochs=17, policy=policy)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.CyclicLR(optimizer, **plan.torch_kwargs())
    rates = []
    for _ in range(plan.iterations + 1):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    np.testing.assert_allclose(plan.schedule(range(plan.iterations + 1)), rates, rtol=1e-12)
    assert "momentum" in optimizer.param_groups[0]
    assert optimizer.param_groups[0]["momentum"] == 0


@pytest.mark.parametrize(
    ("numbers", "rule"),
    [
        ({"base_lr": 0.0}, "base_lr must be finite and above 0"),
        ({"base_lr": math.nan}, "base_lr must be finite"),
        ({"max_lr": math.inf}, "max_lr must be finite"),
        ({"max_lr": 0.001}, "max_lr = 0.001 must exceed base_lr = 0.001"),
        ({"iterations_per_epoch": 0}, "iterations_per_epoch must be a whole number of at least 1"),
        ({"epochs": -1}, "epochs must be finite and above 0"),
        ({"epochs": 0.001}, "shorter than one cycle"),
        ({"epochs": 6, "stepsize_epochs": 4}, "raise epochs or lower stepsize_epochs"),
        ({"stepsize_epochs": 0}, "stepsize_epochs must be finite and above 0"),
        ({"policy": "triangular3"}, "policy 'triangular3' is unknown; did you mean 'triangular'"),
    ],
)
def test_bad_numbers_are_refused_with_their_rule(numbers, rule):
    with pytest.raises(ValueError, match=rule):
        make_plan(**{"base_lr": 0.001, "max_lr": 0.006, "iterations_per_epoch": 100} | numbers)


def test_a_plan_that_is_not_whole_cycles_cannot_be_made():
    values = make_plan(0.001, 0.006, 100).to_dict()
    with pytest.raises(ValueError, match="a plan is whole cycles"):
        Plan(**values | {"iterations": values["iterations"] - 1})
