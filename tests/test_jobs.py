"""Training jobs as people have them: what steps, evaluates and counts otherwise than one loss and one optimizer."""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

import clrtool
from clrtool.errors import ConfigError
from tests.test_api import HELDOUT, QUICK, TRAIN, sgd

TRAINING, HELD = DataLoader(TRAIN, 50), DataLoader(HELDOUT, 100)


def net():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def run(model, optimizer, train=TRAINING, heldout=HELD, **options):
    return clrtool.range_test(model, optimizer, train, heldout, **QUICK | options)


def losses(found):
    return [curve.heldout_loss.tolist() for curve in found.curves]


def by_rank(model):
    """Matrices, and the rest."""
    parameters = [*model.parameters()]
    return [each for each in parameters if each.ndim == 2], [each for each in parameters if each.ndim != 2]


def two_sgd(model):
    matrices, rest = by_rank(model)
    return [torch.optim.SGD(matrices, 0.1, momentum=0.9), torch.optim.SGD(rest, 0.02, momentum=0.9)]


def grouped_sgd(model):
    matrices, rest = by_rank(model)
    groups = [{"params": matrices}, {"params": rest, "lr": 0.02}]
    return torch.optim.SGD(groups, 0.1, momentum=0.9)


@pytest.mark.parametrize("are_made", [True, False])
def test_two_optimizers_train_as_the_groups_of_one(are_made):
    model = net()
    found, expected = (run(model, make if are_made else make(model), sweep_epochs=3) for make in (two_sgd, grouped_sgd))
    assert losses(found) == losses(expected)
    assert [group.lr_ratio for group in found.record.sweep.groups] == [1.0, pytest.approx(0.2)]


def test_two_kinds_of_optimizers_race_from_states_of_their_own():
    model = net()
    matrices, rest = by_rank(model)
    both = [torch.optim.AdamW(rest, 1e-3), torch.optim.SGD(matrices, 0.1, momentum=0.9)]
    for inputs, targets in TRAINING:
        nn.functional.cross_entropy(model(inputs), targets).backward()
        [each.step() for each in both]
    before = copy.deepcopy([each.state_dict() for each in both])
    found = clrtool.range_test(model, both, TRAINING, HELD, epochs=12, progress=False)
    assert found.max_lr is not None
    assert repr([each.state_dict() for each in both]) == repr(before)
    scheduler = found.scheduler(both)
    for _ in range(found.plan.stepsize):
        [each.step() for each in both]
        scheduler.step()
    rates = [each.param_groups[0]["lr"] for each in both]
    assert rates == pytest.approx([found.max_lr, 100 * found.max_lr])


def test_a_parameter_of_two_optimizers_is_refused():
    model = net()
    with pytest.raises(ConfigError, match="each parameter belong to one"):
        run(model, [sgd(model), sgd(model)])


@pytest.mark.parametrize("what", ["model", "optimizer"])
def test_two_networks_with_two_losses_are_refused_with_what_to_do(what):
    given = {"model": net(), "optimizer": sgd} | {what: {"generator": net(), "critic": net()}}
    with pytest.raises(ConfigError, match="test one network with the other held as it is"):
        run(**given)


class Sharp(torch.optim.Optimizer):
    """Sharpness-aware: it wraps another optimizer, and needs a closure.

    Args:
        is_given: whether it takes the gradients that are there for those of the first pass.
    """

    def __init__(self, parameters, rho=0.05, is_given=False, **words):
        super().__init__(parameters, words)
        self.inner, self.rho, self.is_given = torch.optim.SGD(self.param_groups, **words), rho, is_given
        self.param_groups = self.inner.param_groups
        self.steps = 0

    @torch.no_grad()
    def step(self, closure=None):
        assert closure is not None, "a closure is needed"
        if not self.is_given:
            closure()
        parameters = [each for group in self.param_groups for each in group["params"]]
        moves = [self.rho * each.grad / (each.grad.norm() + 1e-12) for each in parameters]
        for each, move in zip(parameters, moves, strict=True):
            each.add_(move)
        closure()
        for each, move in zip(parameters, moves, strict=True):
            each.sub_(move)
        self.inner.step()
        self.steps += 1


def sharp_loss(model, batch, rho=0.05):
    """The gradient of the same, by a plain step."""
    inputs, targets = batch
    if not model.training:
        return nn.functional.cross_entropy(model(inputs), targets)
    parameters = dict(model.named_parameters())
    first = torch.autograd.grad(nn.functional.cross_entropy(model(inputs), targets), parameters.values())
    moved = {
        name: each + rho * grad / (grad.norm() + 1e-12)
        for (name, each), grad in zip(parameters.items(), first, strict=True)
    }
    return nn.functional.cross_entropy(torch.func.functional_call(model, moved, (inputs,)), targets)


@pytest.mark.parametrize("is_given", [True, False])
def test_an_optimizer_that_needs_a_closure_computes_the_gradient_where_it_moved_to(is_given):
    model = net()
    plain = run(model, torch.optim.SGD(model.parameters(), 0.1, momentum=0.9), step=sharp_loss, sweep_epochs=3)
    sharp = Sharp(model.parameters(), lr=0.1, momentum=0.9, is_given=is_given)
    found = run(model, sharp, sweep_epochs=3)
    for one, other in zip(losses(found), losses(plain), strict=True):
        assert one == pytest.approx(other, rel=1e-4)
    assert sharp.steps == 0


def test_an_optimizer_that_takes_no_step_says_so_itself():
    class Broken(torch.optim.SGD):
        def step(self, closure=None):
            raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        run(net, lambda model: Broken(model.parameters(), 0.1))


class Signed(torch.optim.Optimizer):
    """An optimizer with a rule that it was given, a counter, and slow weights by parameter, none of it in its state."""

    def __init__(self, parameters, lr, rule):
        super().__init__(parameters, {"lr": lr})
        self.rule, self.steps = rule, 0
        self.slow = {each: each.detach().clone() for group in self.param_groups for each in group["params"]}

    @torch.no_grad()
    def step(self, closure=None):
        self.steps += 1
        for group in self.param_groups:
            for each in group["params"]:
                each.sub_(group["lr"] * self.rule(each.grad))
                if self.steps % 5 == 0:
                    each.copy_(self.slow[each].lerp_(each, 0.5))


def test_what_an_optimizer_keeps_beside_its_state_goes_with_every_copy():
    from clrtool.engine.training.copies import carry_extras, copy_optimizer

    model = net()
    optimizer = Signed(model.parameters(), 0.01, torch.sign)
    other = net()
    copied = copy_optimizer(optimizer, dict(zip(model.parameters(), other.parameters(), strict=True)))
    assert [*copied.slow] == [*other.parameters()] or all(
        one is two for one, two in zip(copied.slow, other.parameters(), strict=True)
    )
    optimizer.steps = 7
    carry_extras(optimizer, copied)
    assert (copied.steps, copied.rule) == (7, torch.sign)
    weights = [each.clone() for each in model.parameters()]
    made = run(model, lambda fresh: Signed(fresh.parameters(), 0.01, torch.sign), sweep_epochs=3)
    assert losses(run(model, optimizer, sweep_epochs=3))[0][0] == losses(made)[0][0]
    assert all(map(torch.equal, weights, model.parameters()))


def test_an_optimizer_that_chooses_its_own_rate_is_refused():
    def relative(model):
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        optimizer.param_groups[0]["relative_step"] = True
        return optimizer

    with pytest.raises(ConfigError, match="chooses its own learning rate"):
        run(net, relative)


CRITIC = nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
CRITIC_STEPS = torch.optim.Adam(CRITIC.parameters(), 1e-2)


def train_critic(inputs):
    CRITIC_STEPS.zero_grad()
    CRITIC(inputs).square().mean().backward()
    CRITIC_STEPS.step()


class Adversary:
    def __init__(self):
        self.critic = nn.Sequential(nn.Flatten(), nn.Linear(64, 1), nn.BatchNorm1d(1))

    def loss(self, model, batch):
        return nn.functional.cross_entropy(model(batch[0]), batch[1]) + self.critic(batch[0]).mean()


def second_optimizer(model, batch):
    train_critic(batch[0])
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


@pytest.mark.parametrize("kind", ["an optimizer inside", "statistics of another", "the model itself"])
def test_a_step_that_changes_another_network_is_refused_and_that_network_put_back(kind):
    adversary, own = Adversary(), net()
    average = partial(decayed, own)
    step, name, network = {
        "an optimizer inside": (second_optimizer, "CRITIC", CRITIC),
        "statistics of another": (adversary.loss, "critic", adversary.critic),
        "the model itself": (average, "model", own),
    }[kind]
    before = copy.deepcopy((network.state_dict(), CRITIC_STEPS.state_dict()))
    gradients = [each.grad for each in network.parameters()]
    with pytest.raises(ConfigError, match=f"step: changes .*{name}.*, which it was not given"):
        run(own, sgd, step=step)
    assert all(map(torch.equal, network.state_dict().values(), before[0].values()))
    assert all(one is other for one, other in zip(gradients, (p.grad for p in network.parameters()), strict=True))
    if kind == "an optimizer inside":
        assert CRITIC_STEPS.state_dict()["state"] == before[1]["state"] == {}


def decayed(kept, model, batch):
    with torch.no_grad():
        for each, new in zip(kept.parameters(), model.parameters(), strict=True):
            each.lerp_(new, 0.01)
            each.add_(1e-6)
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def test_a_teacher_that_is_only_asked_is_no_fault():
    teacher = net().eval()

    def step(model, batch):
        return nn.functional.mse_loss(model(batch[0]), teacher(batch[0]).detach())

    assert run(net, sgd, step=step).record.sweep.metric.name == "loss"


def test_a_loss_that_a_grad_scaler_multiplied_is_refused_and_precision_scales_it():
    scaler = torch.amp.GradScaler("cpu")

    def step(model, batch, scale=True):
        loss = nn.functional.cross_entropy(model(batch[0]).float(), batch[1])
        return scaler.scale(loss) if scale else loss

    with pytest.raises(ConfigError, match="precision='fp16'"):
        run(net, sgd, step=step)
    model = net()
    half, full = (
        run(model, sgd, step=partial(step, scale=False), precision=each, sweep_epochs=4) for each in ("fp16", None)
    )
    for one, other in zip(losses(half), losses(full), strict=True):
        assert one[:4] == pytest.approx(other[:4], rel=0.02)
        assert one != other
    with pytest.raises(ConfigError, match="precision = 'half' must be one of fp32, bf16, fp16"):
        run(net, sgd, precision="half")


def test_a_step_that_takes_the_gradients_itself_is_told_not_to():
    def step(model, batch):
        loss = nn.functional.cross_entropy(model(batch[0]), batch[1])
        if model.training:
            loss.backward()
        return loss

    with pytest.raises(ConfigError, match="step: calls backward"):
        run(net, sgd, step=step)
