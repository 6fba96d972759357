"""Plans: whole cycles, a stepsize of 2-10 epochs, the paper's own plan, torch's schedule."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clrtool.core.planning.make import make_plan, plan_stages
from clrtool.core.planning.plan import Plan, plan_from
from clrtool.core.planning.policies import POLICIES
from clrtool.report.records.plan_file import plan_to_json, plan_to_yaml, read_plan

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
        ({"iterations_per_epoch": 0}, "iterations_per_epoch must be finite and above 0"),
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
    del values["epochs"], values["stepsize_epochs"]  # they follow from the others
    with pytest.raises(ValueError, match="a plan is whole cycles"):
        Plan(**values | {"iterations": values["iterations"] - 1})


PLANNABLE = sorted(set(POLICIES) - {"stages"})


@pytest.mark.parametrize("policy", PLANNABLE)
def test_every_policy_is_planned_from_two_bounds_and_a_budget_and_stays_between_them(policy):
    plan = make_plan(0.001, 0.006, 47, epochs=30, policy=policy)
    lrs = plan.lr(range(plan.iterations + 1))
    tail = policy in ("one_cycle", "one_cycle_smith", "warmup_stable_decay")  # these go below base_lr by their nature
    assert lrs.min() >= (0 if tail else 0.001 * (1 - 1e-12))
    assert lrs.max() <= 0.006 * (1 + 1e-12)
    reached = {
        "exp_range": 0.001 + 0.005 * 0.1 ** (1 / 8),
        "sigmoid": lrs[0],
    }  # after one of eight halves; at its start
    assert lrs.max() == pytest.approx(reached.get(policy, 0.006), rel=1e-3)
    if policy != "fixed":
        assert lrs[-1] <= 0.001 * (1 + 1e-9)
    assert len(plan.reasons) >= 1
    assert plan.lr(plan.iterations + 1000) == plan.lr(plan.iterations)


@pytest.mark.parametrize("policy", PLANNABLE)
def test_a_plan_goes_through_json_and_yaml_and_comes_back_equal(policy, tmp_path):
    momentum = {"momentum": (0.85, 0.95)} if policy in ("triangular2", "one_cycle") else {}
    plan = make_plan(0.001, 0.006, 47, epochs=30, policy=policy, warmup_epochs=1, **momentum)
    for name, text in (("a.json", plan_to_json(plan)), ("a.yaml", plan_to_yaml(plan))):
        (tmp_path / name).write_text(text)
        again = read_plan(tmp_path / name)
        assert again == plan
        assert np.array_equal(again.lr(range(plan.iterations)), plan.lr(range(plan.iterations)))


@pytest.mark.parametrize(
    "plan",
    [
        plan_from("torch:OneCycleLR", {"max_lr": 0.1, "total_steps": 50}, iterations_per_epoch=5),
        plan_from("tfa:CyclicalLearningRate", {"initial_learning_rate": 0.1, "maximal_learning_rate": 0.2, "step_size": 5, "scale_fn": "lambda x: 1/(2.**(x-1))"}),
        plan_from("optax:piecewise_constant_schedule", {"init_value": 0.1, "boundaries_and_scales": {"10": 0.5}}),
        plan_stages([(0.001, 0.005, 10, 40), (0.0001, 0.0005, 5, 60)], 10, momentum=(0.8, 0.9)),
    ],
    ids=lambda plan: plan.policy,
)  # fmt: skip
def test_a_plan_of_another_system_goes_through_json_and_yaml_and_comes_back_equal(plan, tmp_path):
    for name, text in (("a.json", plan_to_json(plan)), ("a.yaml", plan_to_yaml(plan))):
        (tmp_path / name).write_text(text)
        assert read_plan(tmp_path / name) == plan


@given(budgets, per_epoch, st.one_of(st.none(), st.integers(1, 20)), st.one_of(st.none(), st.floats(0.1, 20)))
def test_the_budgets_that_are_offered_leave_nothing_over(epochs, iterations_per_epoch, cycles, stepsize_epochs):
    wishes = {"cycles": cycles, "stepsize_epochs": stepsize_epochs, "policy": "triangular"}
    try:
        plan = make_plan(0.001, 0.006, iterations_per_epoch, epochs=epochs, **wishes)
    except ValueError as error:
        assert "needs: raise epochs" in str(error) or "shorter than one cycle" in str(error)
        return
    left = [reason for reason in plan.reasons if "left over" in reason]
    assert bool(left) == (plan.iterations < math.floor(epochs * iterations_per_epoch * (1 + 1e-15)))
    if not left or (cycles and stepsize_epochs):
        return
    words = left[0].split("cycle. ")[1].removesuffix(" epochs would leave none over.").split(" or ")
    for budget in map(float, words):
        fitting = make_plan(0.001, 0.006, iterations_per_epoch, epochs=budget, **wishes)
        assert not any("left over" in reason for reason in fitting.reasons), budget
    if len(words) == 2:
        assert float(words[0]) <= epochs <= float(words[1])


def test_the_two_nearest_budgets_are_offered():
    plan = make_plan(0.001, 0.006, 47, epochs=30)
    assert "24 or 32 epochs would leave none over" in " ".join(plan.reasons)
    plan = make_plan(0.001, 0.006, 100, epochs=30, stepsize_epochs=4)
    assert "24 or 32 epochs would leave none over" in " ".join(plan.reasons)
    assert "600 of 3,000 iterations are left over" in " ".join(plan.reasons)


def test_a_number_of_cycles_that_makes_the_stepsize_unwise_is_planned_and_said():
    plan = make_plan(0.001, 0.006, 100, epochs=30, cycles=15)
    assert (plan.num_cycles, plan.stepsize) == (15, 100)
    assert "A stepsize of 1 epochs is outside the paper's 2 to 10." in plan.reasons


def test_cycles_and_stepsize_together_fix_the_budget():
    plan = make_plan(0.001, 0.006, 100, cycles=3, stepsize_epochs=4)
    assert (plan.num_cycles, plan.epochs, plan.asked["epochs"]) == (3, 24, 24)


def test_every_rounding_is_said():
    plan = make_plan(0.001, 0.006, 47, epochs=30.5, stepsize_epochs=2.5)
    text = " ".join(plan.reasons)
    assert "epochs = 30.5 is 1,433.5 iterations, rounded to 1,433." in text
    assert "stepsize_epochs = 2.5 is 117.5 iterations, rounded to 118." in text


@given(st.floats(4, 200), per_epoch, st.floats(0, 3))
def test_a_warm_up_is_part_of_the_budget(epochs, iterations_per_epoch, warmup_epochs):
    plan = make_plan(0.001, 0.006, iterations_per_epoch, epochs=epochs, warmup_epochs=warmup_epochs)
    assert plan.warmup == round(warmup_epochs * iterations_per_epoch)
    assert plan.iterations == plan.warmup + 2 * plan.stepsize * plan.num_cycles <= epochs * iterations_per_epoch + 1
    assert plan.lr(0) == (0 if plan.warmup else 0.001)


def test_numbers_of_numpy_and_whole_floats_become_plain_ones(tmp_path):
    plan = make_plan(np.float64(0.001), np.float32(0.5), np.int64(47), cycles=4.0, momentum=np.array([0.8, 0.9]))
    (tmp_path / "a.json").write_text(plan_to_json(plan))
    (tmp_path / "a.yaml").write_text(plan_to_yaml(plan))
    assert read_plan(tmp_path / "a.json") == read_plan(tmp_path / "a.yaml") == plan
    boundaries = {"init_value": 0.1, "boundaries_and_scales": {10: np.float64(0.5)}}
    plan = plan_from("optax:piecewise_constant_schedule", boundaries)
    (tmp_path / "b.json").write_text(plan_to_json(plan))
    assert read_plan(tmp_path / "b.json") == plan
    assert hash(plan) == hash(read_plan(tmp_path / "b.json"))


def test_a_reason_is_given_for_what_was_given_and_not_for_what_would_have_been_fitted():
    reasons = " ".join(make_plan(0.001, 0.006, 47, policy="exp_range", gamma=0.999).reasons)
    assert "gamma was given." in reasons
    assert "leaves 0.1" not in reasons


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "scale",
    ["0x" + "f" * 290, "0x" + "f" * 5000, "x*1e300", "1e400", "x**(10**10)", "'open", "(", "x;x", "x-x+1\\\n", "\0", "é", "1j",
     "-" * 290 + "x"],
)  # fmt: skip
def test_a_scale_of_any_text_is_a_value_error_and_no_warning(scale):
    with pytest.raises(ValueError, match="scale"):
        make_plan(0.001, 0.006, 47, policy="cyclical", scale=scale)


def test_a_scale_that_leaves_its_range_later_in_the_plan_is_refused_at_once():
    with pytest.raises(ValueError, match=r"scale must stay in \[0, 1\]"):
        make_plan(0.001, 0.006, 47, policy="cyclical", scale="2 - x")


def test_a_stage_that_ends_inside_a_cycle_is_refused_with_the_nearest_end():
    with pytest.raises(ValueError, match="ends at iteration 15000, not at the end of a cycle; 16000 would be one"):
        plan_stages([(0.001, 0.005, 2000, 15_000)])


@pytest.mark.parametrize(
    ("wishes", "rule"),
    [
        ({"cycles": 0}, "cycles must be a whole number of at least 1, got 0"),
        ({"cycles": 2.5}, "cycles must be a whole number"),
        ({"warmup_epochs": -1}, "warmup_epochs must be finite and above 0, got -1"),
        ({"warmup_epochs": 30}, "3,000 iterations, shorter than one cycle after 3,000 of warm-up: raise epochs"),
        ({"stepsize_down": 5}, "stepsize_down needs stepsize_epochs"),
        ({"gama": 0.5, "policy": "exp_range"}, "exp_range has no parameter 'gama'; did you mean 'gamma'"),
        ({"gamma": 1.5, "policy": "exp_range"}, "must be above 0 and at most 1, got 1.5"),
        ({"momentum": (0.9, 0.8)}, "momentum must be LOW, HIGH with 0 <= LOW <= HIGH < 1, got 0.9, 0.8"),
        ({"policy": "stages"}, "give the stages instead"),
        ({"policy": None}, "policy None is unknown"),
        ({"policy": "cosine", "cycles": 3}, "cycles has no meaning with the policy cosine, which has no cycles"),
        ({"policy": "cosine_restarts", "t_mul": 2}, "has no parameter 't_mul'"),
        ({"policy": "multistep", "milestones": 7}, "multistep: "),
        ({"policy": "exp_range", "decay_base": "maybe"}, "decay_base must be true or false, got 'maybe'"),
        ({"momentum": 3}, "triangular2: "),
        ({"base_lr": 1e-200, "policy": "inverse_sqrt"}, "no schedule leads from max_lr = 0.006 to base_lr = 1e-200"),
        ({"policy": "cyclical", "scale": "import os"}, "is not an expression in x"),
    ],
)
def test_bad_wishes_are_refused_with_their_rule(wishes, rule):
    with pytest.raises(ValueError, match=rule):
        make_plan(**{"base_lr": 0.001, "max_lr": 0.006, "iterations_per_epoch": 100} | wishes)
