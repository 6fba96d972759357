"""PlanScheduler in real training loops of torch: against the plan, torch's own scheduler, checkpoints and processes."""

import copy
import pickle
import warnings

import numpy as np
import pytest
import torch

from clrtool import PlanScheduler, make_plan, plan_from
from clrtool.core.planning.policies import POLICIES


def make(optimizer=torch.optim.SGD, lrs=(1.0,), **arguments):
    return optimizer([{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in lrs], **arguments)


def follow(optimizer, scheduler, steps):
    seen = []
    for _ in range(steps):
        seen.append([float(group["lr"]) for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    return np.array(seen)


@pytest.mark.parametrize("policy", sorted(set(POLICIES) - {"stages"}))
def test_it_follows_every_policy(policy):
    plan = make_plan(0.001, 0.006, 5, epochs=13, policy=policy, warmup_epochs=1)
    optimizer = make()
    seen = follow(optimizer, PlanScheduler(optimizer, plan), plan.iterations)
    np.testing.assert_allclose(seen[:, 0], plan.lr(range(plan.iterations)), rtol=1e-12, atol=1e-300)


@pytest.mark.parametrize("policy", ["triangular2", "exp_range", "one_cycle"])
def test_a_loop_of_other_iterations_an_epoch_has_the_rates_of_the_plan_at_the_same_epoch(policy):
    plan = make_plan(0.001, 0.006, 44, epochs=8, policy=policy)
    optimizer = make()
    seen = follow(optimizer, PlanScheduler(optimizer, plan, iterations_per_epoch=66), 8 * 66)
    np.testing.assert_allclose(seen[::3, 0], plan.lr(range(0, 8 * 44, 2)), rtol=1e-9)
    with pytest.raises(ValueError, match="iterations_per_epoch = 0 must be at least 1"):
        PlanScheduler(optimizer, plan, iterations_per_epoch=0)


def test_it_gives_what_torchs_cyclic_lr_gives_momentum_too():
    plan = make_plan(0.001, 0.006, 5, epochs=13, momentum=(0.8, 0.9))
    ours, theirs = (make(momentum=0.5) for _ in range(2))
    schedulers = PlanScheduler(ours, plan), torch.optim.lr_scheduler.CyclicLR(theirs, **plan.torch_kwargs())
    for _ in range(plan.iterations):
        for name in ("lr", "momentum"):
            assert ours.param_groups[0][name] == pytest.approx(theirs.param_groups[0][name], rel=1e-12)
        for optimizer, scheduler in zip((ours, theirs), schedulers, strict=True):
            optimizer.step()
            scheduler.step()


def test_the_first_beta_is_the_momentum_of_adam():
    plan = make_plan(0.001, 0.006, 5, epochs=13, momentum=(0.8, 0.9))
    optimizer = make(torch.optim.AdamW, betas=(0.5, 0.99))
    scheduler = PlanScheduler(optimizer, plan)
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.99)
    follow(optimizer, scheduler, plan.stepsize)
    assert optimizer.param_groups[0]["betas"] == (0.8, 0.99)


def test_groups_keep_the_ratios_of_their_learning_rates():
    plan = make_plan(0.001, 0.006, 5, epochs=13)
    optimizer = make(lrs=(0.02, 0.2, 0.0))
    seen = follow(optimizer, PlanScheduler(optimizer, plan), 40)
    np.testing.assert_allclose(seen[:, 0], plan.lr(range(40)))
    np.testing.assert_allclose(seen[:, 1], 10 * seen[:, 0])
    assert np.all(seen[:, 2] == 0)


@pytest.mark.parametrize("at", [0, 1, 17, 30, 59])
@pytest.mark.parametrize("order", ["optimizer first", "scheduler first"])
def test_a_checkpoint_is_one_integer_and_goes_on_in_a_fresh_optimizer(at, order):
    plan = make_plan(0.001, 0.006, 5, epochs=12, momentum=(0.8, 0.9))
    whole = make(lrs=(0.02, 0.2), momentum=0.5)
    expected = follow(whole, PlanScheduler(whole, plan), plan.iterations)

    first = make(lrs=(0.02, 0.2), momentum=0.5)
    scheduler = PlanScheduler(first, plan)
    follow(first, scheduler, at)
    saved = copy.deepcopy({"optimizer": first.state_dict(), "scheduler": scheduler.state_dict()})
    assert saved["scheduler"] == {"last_epoch": at}

    fresh = make(lrs=(0.02, 0.2), momentum=0.5)
    resumed = PlanScheduler(fresh, plan)
    parts = {"optimizer": fresh, "scheduler": resumed}
    for name in ("optimizer", "scheduler") if order == "optimizer first" else ("scheduler", "optimizer"):
        parts[name].load_state_dict(saved[name])
    assert saved["scheduler"] == {"last_epoch": at}  # the caller's own is left alone, and can be loaded again
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(follow(fresh, resumed, plan.iterations - at), expected[at:])
    resumed.load_state_dict(saved["scheduler"])
    assert resumed.get_last_lr() == pytest.approx(list(expected[at]))


def test_last_epoch_resumes_without_a_checkpoint_as_torch_counts_it():
    plan = make_plan(0.001, 0.006, 5, epochs=12)
    optimizer = make()
    scheduler = PlanScheduler(optimizer, plan, last_epoch=16)
    assert scheduler.get_last_lr() == [plan.lr(17)]


def test_past_its_end_it_holds_the_last_value_and_warns_once():
    plan = make_plan(0.001, 0.006, 5, epochs=4)
    optimizer = make()
    scheduler = PlanScheduler(optimizer, plan)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        follow(optimizer, scheduler, plan.iterations)
    optimizer.step()
    with pytest.warns(UserWarning, match="the plan ended after 20 iterations: its last value is held"):
        scheduler.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.all(follow(optimizer, scheduler, 50) == 0.001)


def test_a_schedule_of_another_system_ends_with_its_own_last_value():
    plan = plan_from("torch:CosineAnnealingWarmRestarts", {"T_0": 10, "base_lr": 0.1}, iterations=20)
    optimizer = make()
    scheduler = PlanScheduler(optimizer, plan)
    seen = follow(optimizer, scheduler, 20)
    assert scheduler.get_last_lr() == [seen[-1, 0]]  # not the restart that would come next


def test_a_tensor_learning_rate_is_changed_in_place():
    plan = make_plan(0.001, 0.006, 5, epochs=4)
    optimizer = make(torch.optim.Adam, lrs=(torch.tensor(1.0),), foreach=False)
    tensor = optimizer.param_groups[0]["lr"]
    scheduler = PlanScheduler(optimizer, plan)
    seen = follow(optimizer, scheduler, 10)
    assert optimizer.param_groups[0]["lr"] is tensor
    np.testing.assert_allclose(seen[:, 0], plan.lr(range(10)), rtol=1e-6)


def test_a_step_does_not_read_a_learning_rate_that_is_a_tensor_for_its_device_would_be_waited_for(monkeypatch):
    plan = make_plan(0.1, 0.4, 10, epochs=8)
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.Adam([weight], lr=torch.tensor(0.1), capturable=False, foreach=False)
    scheduler = PlanScheduler(optimizer, plan)
    optimizer.step()

    def waits(tensor):
        raise AssertionError("a tensor was read")

    with monkeypatch.context() as patched:
        for name in ("__float__", "__bool__", "item", "tolist"):
            patched.setattr(torch.Tensor, name, waits)
        for _ in range(5):
            scheduler.step()
    assert float(optimizer.param_groups[0]["lr"]) == pytest.approx(float(plan.lr(5)))


@pytest.mark.gpu
def test_a_tensor_learning_rate_on_the_gpu_is_changed_in_place(gpu):
    plan = make_plan(0.001, 0.006, 5, epochs=4)
    parameter = torch.nn.Parameter(torch.zeros(1, device=gpu.device))
    lr, way = torch.tensor(1.0, device=gpu.device), {"foreach": False} if gpu.is_dry else {"capturable": True}
    optimizer = torch.optim.Adam([parameter], lr=lr, **way)
    tensor = optimizer.param_groups[0]["lr"]
    seen = follow(optimizer, PlanScheduler(optimizer, plan), 10)
    assert optimizer.param_groups[0]["lr"] is tensor
    np.testing.assert_allclose(seen[:, 0], plan.lr(range(10)), rtol=1e-6)


def test_it_can_be_pickled_and_goes_on():
    plan = make_plan(0.001, 0.006, 5, epochs=12)
    optimizer = make()
    scheduler = PlanScheduler(optimizer, plan)
    follow(optimizer, scheduler, 7)
    again = pickle.loads(pickle.dumps(scheduler))  # noqa: S301
    np.testing.assert_allclose(follow(again.optimizer, again, 10)[:, 0], plan.lr(range(7, 17)))


def test_it_is_a_scheduler_to_torch():
    plan = make_plan(0.001, 0.006, 5, epochs=12)
    optimizer = make()
    scheduler = PlanScheduler(optimizer, plan)
    assert isinstance(scheduler, torch.optim.lr_scheduler.LRScheduler)
    with pytest.warns(UserWarning, match=r"lr_scheduler.step\(\)` before `optimizer.step\(\)"):
        scheduler.step()


def test_an_optimizer_that_cannot_follow_is_refused():
    plan = make_plan(0.001, 0.006, 5, epochs=12, momentum=(0.8, 0.9))
    with pytest.raises(ValueError, match="Adagrad has neither momentum nor betas: plan without momentum"):
        PlanScheduler(make(torch.optim.Adagrad), plan)
    with pytest.raises(ValueError, match="the first group's learning rate must be above 0"):
        PlanScheduler(make(lrs=(0.0, 1.0), momentum=0.9), plan)


def sequential(first_is_plan):
    plan = make_plan(0.1, 0.5, 1, cycles=1, stepsize_epochs=4, policy="triangular")
    optimizer = make(lrs=(0.2,))
    theirs = torch.optim.lr_scheduler
    parts = [theirs.LinearLR(optimizer, 0.1, total_iters=4), PlanScheduler(optimizer, plan)]
    if first_is_plan:
        parts = [PlanScheduler(optimizer, plan), theirs.CosineAnnealingLR(optimizer, 20)]
    return optimizer, theirs.SequentialLR(optimizer, parts, milestones=[8 if first_is_plan else 4])


@pytest.mark.parametrize("first_is_plan", [True, False])
@pytest.mark.parametrize("at", [2, 6, 8])
def test_it_is_a_part_of_a_sequential_lr_and_resumes_as_one(first_is_plan, at):
    optimizer, scheduler = sequential(first_is_plan)
    follow(optimizer, scheduler, at)
    saved = copy.deepcopy((optimizer.state_dict(), scheduler.state_dict()))
    expected = follow(optimizer, scheduler, 4)
    fresh, resumed = sequential(first_is_plan)
    for part, state in zip((fresh, resumed), saved, strict=True):
        part.load_state_dict(state)
    np.testing.assert_allclose(follow(fresh, resumed, 4), expected)


def test_the_scheduler_alone_brings_a_fresh_optimizer_to_its_iteration():
    plan = make_plan(0.001, 0.006, 5, epochs=12, momentum=(0.8, 0.9))
    optimizer = make(momentum=0.5)
    PlanScheduler(optimizer, plan).load_state_dict({"last_epoch": 17})
    assert optimizer.param_groups[0]["lr"] == plan.lr(17)
    assert optimizer.param_groups[0]["momentum"] == plan.momentum(17)


def test_what_is_no_plan_and_no_state_is_refused():
    with pytest.raises(TypeError, match="plan must be a Plan"):
        PlanScheduler(make(), "plan.json")
    with pytest.raises(ValueError, match="the state of a PlanScheduler is"):
        PlanScheduler(make(), make_plan(0.001, 0.006, 5)).load_state_dict({})


def test_a_group_that_is_added_later_goes_on_from_the_rate_it_was_given():
    plan = make_plan(0.001, 0.006, 5, epochs=13)
    optimizer = make(lrs=(1.0, 0.1))
    scheduler = PlanScheduler(optimizer, plan)
    follow(optimizer, scheduler, 7)
    now = optimizer.param_groups[0]["lr"]
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))], "lr": now / 4})
    seen = follow(optimizer, scheduler, 40)
    np.testing.assert_allclose(seen / seen[:, :1], np.tile([1, 0.1, 0.25], (40, 1)), rtol=1e-12)
    np.testing.assert_allclose(seen[:, 0], plan.lr(range(7, 47)), rtol=1e-12)


def test_a_group_that_is_added_without_a_rate_follows_as_those_did_that_were_made_with_the_optimizers():
    plan = make_plan(0.001, 0.006, 5, epochs=13)
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=0.03)
    scheduler = PlanScheduler(optimizer, plan)
    follow(optimizer, scheduler, 12)
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))]})
    seen = follow(optimizer, scheduler, 20)[1:]
    np.testing.assert_allclose(seen[:, 0], seen[:, 1])


def test_a_checkpoint_brings_groups_back_that_were_added_later():
    plan = make_plan(0.001, 0.006, 5, epochs=13)
    optimizer = make()
    scheduler = PlanScheduler(optimizer, plan)
    follow(optimizer, scheduler, 5)
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 0.0005})
    follow(optimizer, scheduler, 9)
    saved = copy.deepcopy((optimizer.state_dict(), scheduler.state_dict()))
    expected = follow(optimizer, scheduler, 10)
    other = make()
    resumed = PlanScheduler(other, plan)
    other.add_param_group({"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 7.0})
    other.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    np.testing.assert_array_equal(follow(other, resumed, 10), expected)


CHAINS = {
    "a linear warm-up": lambda optimizer: torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=20),
    "a decay": lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.99),
}


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("name", CHAINS)
def test_a_chain_of_schedulers_which_would_be_neither_curve_is_refused(name, is_first):
    optimizer, made = make(), []
    for each in (True, False):
        mine = each is is_first
        made.append(
            PlanScheduler(optimizer, make_plan(0.001, 0.006, 5, epochs=13)) if mine else CHAINS[name](optimizer)
        )
    chain = torch.optim.lr_scheduler.ChainedScheduler(made)
    with pytest.raises(ValueError, match="another scheduler moves the learning rates"):
        follow(optimizer, chain, 5)


ONCE = {
    "of a chain, at a milestone": lambda optimizer: torch.optim.lr_scheduler.MultiStepLR(optimizer, [9], 0.1).step,
    "by hand": lambda optimizer: lambda: optimizer.param_groups[0].update(lr=0.3),
}


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("name", ONCE)
def test_a_single_change_by_another_which_would_last_one_iteration_is_refused(name, is_first):
    optimizer = make(lrs=(1.0, 0.1))
    scheduler = PlanScheduler(optimizer, make_plan(0.001, 0.006, 5, epochs=13))
    change = ONCE[name](optimizer)
    follow(optimizer, scheduler, 8)
    steps = (change, scheduler.step) if is_first else (scheduler.step, change)

    def train():
        for _ in range(12):
            optimizer.step()
            for step in steps:
                step()

    with pytest.raises(ValueError, match=r"they were \[0\.0.* and are \[.* at iteration (8|9|1\d)\. "):
        train()


def test_the_rate_of_another_group_that_a_callback_sets_once_an_epoch_is_set_again_by_its_ratio():
    plan = make_plan(0.001, 0.006, 5, epochs=13)
    optimizer = make(lrs=(1.0, 0.1))
    scheduler = PlanScheduler(optimizer, plan)
    for start in range(0, 20, 5):
        seen = follow(optimizer, scheduler, 5)
        np.testing.assert_allclose(seen[1:, 1] / seen[1:, 0], 0.1, rtol=1e-12)
        np.testing.assert_allclose(seen[:, 0], plan.lr(range(start, start + 5)), rtol=1e-12)
        optimizer.param_groups[1]["lr"] = 0.01


def test_rates_of_a_checkpoint_of_the_optimizer_alone_are_no_change_by_another():
    plan = make_plan(0.001, 0.006, 5, epochs=13)
    optimizer = make()
    scheduler = PlanScheduler(optimizer, plan)
    best = copy.deepcopy(optimizer.state_dict())
    follow(optimizer, scheduler, 6)
    optimizer.load_state_dict(best)  # weights and momenta of the best epoch; the plan goes on
    np.testing.assert_allclose(follow(optimizer, scheduler, 9)[1:, 0], plan.lr(range(7, 15)), rtol=1e-12)


def test_one_after_the_other_is_no_chain():
    plan = make_plan(0.001, 0.006, 5, epochs=13)
    optimizer = make()
    warm_up = CHAINS["a linear warm-up"](optimizer)
    both = torch.optim.lr_scheduler.SequentialLR(optimizer, [warm_up, PlanScheduler(optimizer, plan)], milestones=[6])
    seen = follow(optimizer, both, 30)
    np.testing.assert_allclose(seen[6:, 0], plan.lr(range(24)), rtol=1e-12)


@pytest.mark.parametrize("kind", [list, tuple])
def test_several_optimizers_follow_one_plan_each_at_its_ratio(kind):
    plan = make_plan(0.001, 0.006, 5, epochs=13)
    both = kind([make(lrs=(1.0, 0.3)), make(torch.optim.AdamW, lrs=(0.02,))])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scheduler, seen = PlanScheduler(both, plan), []
        for _ in range(30):
            seen.append([group["lr"] for each in both for group in each.param_groups])
            for each in both:
                each.step()
            scheduler.step()
    np.testing.assert_allclose(np.array(seen), np.outer(plan.lr(range(30)), [1, 0.3, 0.02]), rtol=1e-12)
