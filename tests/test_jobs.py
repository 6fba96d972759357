"""Training jobs as people have them: what steps, evaluates and counts otherwise than one loss and one optimizer."""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import clrtool
from clrtool.errors import ConfigError
from tests.test_api import HELDOUT, QUICK, TRAIN, sgd

TRAINING, HELD = DataLoader(TRAIN, 50), DataLoader(HELDOUT, 100)


def net():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def run(model, optimizer, train=TRAINING, heldout=HELD, **options):
    return clrtool.range_test(model, optimizer, train, heldout, **QUICK | options)


def raced(model, optimizer, **options):
    return clrtool.range_test(model, optimizer, TRAINING, HELD, epochs=2, progress=False, **options)


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
    with pytest.raises(ConfigError, match="test one network while the other stays fixed"):
        run(**given)


class PatchCritic(nn.Sequential):
    """Named for what it is by its class alone."""


def step_of(model, batch):
    return nn.functional.cross_entropy(nn.Sequential(*model.values())(batch[0]), batch[1])


def one_each(model):
    return [torch.optim.SGD(each.parameters(), 0.1) for each in model.children()]


@pytest.mark.parametrize("is_made", [True, False])
@pytest.mark.parametrize(
    "names", [("g", "d"), ("netG", "net_D"), ("generator_a", "discriminator_a"), ("gen", "second")]
)
def test_a_generator_and_its_adversary_with_an_optimizer_each_are_refused_by_name(names, is_made):
    parts = nn.Sequential(nn.Flatten(), nn.Linear(64, 32)), PatchCritic(nn.ReLU(), nn.Linear(32, 10))
    model = nn.ModuleDict(dict(zip(names, parts, strict=True)))
    with pytest.raises(ConfigError, match=f"trains {names[0]} and {names[1]} against each other.* stays fixed"):
        run(model, one_each if is_made else one_each(model), step=step_of)


def test_two_networks_that_descend_one_loss_have_an_optimizer_each():
    parts = nn.Sequential(nn.Flatten(), nn.Linear(64, 32)), nn.Sequential(nn.ReLU(), nn.Linear(32, 10))
    model = nn.ModuleDict(dict(zip(("encoder", "decoder"), parts, strict=True)))
    assert run(model, one_each(model), step=step_of, sweep_epochs=3).max_lr


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
    swept = {"sweep_epochs": 3, "start_lr": 1e-3, "end_lr": 0.1}  # above it a last bit soon makes another training
    plain = run(model, torch.optim.SGD(model.parameters(), 0.1, momentum=0.9), step=sharp_loss, **swept)
    sharp = Sharp(model.parameters(), lr=0.1, momentum=0.9, is_given=is_given)
    found = run(model, sharp, **swept)
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


def inside(model, batch):
    return nn.functional.cross_entropy(model.module(batch[0]), batch[1])


def unsynced(model, batch):
    with model.no_sync():
        return nn.functional.cross_entropy(model(batch[0]), batch[1])


@pytest.mark.parametrize("step", [inside, unsynced])
def test_a_step_that_takes_its_model_to_be_wrapped_for_ranks_is_told_how_to_write_it_for_both(step):
    with pytest.raises(ConfigError, match=r"it is given the model inside .* use getattr\(model, 'module', model\)"):
        run(net, sgd, step=step)


class Detector(nn.Module):
    """As torchvision's: losses in training, and detections in evaluation."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10))

    def forward(self, images, targets=None):
        outputs = self.net(torch.stack(list(images)))
        if not self.training:
            return [{"labels": each.argmax()[None]} for each in outputs]
        labels = torch.cat([each["labels"] for each in targets])
        return {"class": nn.functional.cross_entropy(outputs, labels), "size": outputs.square().mean() / 100}


def listed(samples, size=16, **options):
    items = [(image, {"labels": label[None]}) for image, label in zip(*samples[:], strict=True)]
    return DataLoader(items, size, collate_fn=lambda batch: tuple(zip(*batch, strict=True)), **options)


def detector_loss(model, batch):
    return sum(model(*batch).values())


def found_labels(model, batch):
    found = model(batch[0])
    return sum(int(each["labels"] == target["labels"]) for each, target in zip(found, batch[1], strict=True)), len(
        found
    )


@pytest.mark.parametrize(
    ("mode", "also"), [("eval", "eval_loss='train' to compute it in training mode, or "), ("train", "")]
)
def test_a_step_that_fails_on_held_out_data_is_told_in_which_mode_and_what_else_there_is(mode, also):
    def step(model, batch):
        if not torch.is_grad_enabled() and mode == "train":
            raise ArithmeticError("of its own")
        return detector_loss(model, batch)

    with pytest.raises(ConfigError) as told:
        run(Detector, sgd, listed(TRAIN, shuffle=True), listed(HELDOUT), step=step, eval_loss=mode)
    before, _, way_out = str(told.value).partition(": give ")
    assert f"where the held-out loss is computed, in {'training' if mode == 'train' else 'evaluation'} mode (" in before
    assert way_out.startswith(f"{also}measure=")


def test_a_step_that_differentiates_by_the_input_does_so_on_held_out_batches_and_for_statistics_too():
    """As a physics-informed network, forces of an energy, or a penalty on gradients."""

    def slope(model, batch):
        inputs = batch[0].flatten(1).requires_grad_()
        (found,) = torch.autograd.grad(model(inputs).sum(), inputs, create_graph=True)
        return (found.sum(1) - 1).square().mean()

    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 1))
    found = raced(model, torch.optim.Adam(model.parameters()), step=slope)
    fresh = copy.deepcopy(model).eval()
    before = sum(slope(fresh, batch).item() for batch in HELD) / len(HELD)
    assert found.record.race.entry.first == pytest.approx(before, rel=1e-4)
    assert found.max_lr is not None


class Observed(nn.Module):
    """As a fake quantizer that observes: what it has seen takes its shape from the first batch."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.ones(1))
        self.net = net()

    def forward(self, inputs):
        outputs = self.net(inputs)
        if self.seen.shape != outputs.shape[1:]:
            self.seen.resize_(outputs.shape[1:]).fill_(1)
        if self.training:
            self.seen.lerp_(outputs.detach().abs().amax(0), 0.1)
        return outputs / self.seen.max()


def test_a_buffer_that_takes_its_shape_from_the_first_batch_goes_with_every_copy():
    model = Observed()
    found = raced(model, torch.optim.SGD(model.parameters(), 0.1))
    assert found.max_lr is not None
    assert model.seen.tolist() == [1.0]


def test_with_a_measure_no_step_is_called_on_held_out_batches():
    sizes = set()

    def step(model, batch):
        sizes.add(len(batch[0]))
        assert model.training
        return detector_loss(model, batch)

    words = {"metric": "labels found", "higher_is_better": True, "measure": found_labels}
    found = run(Detector, sgd, listed(TRAIN, shuffle=True), listed(HELDOUT, 40), step=step, **words)
    assert sizes <= {16, len(TRAIN) % 16}
    sweep = found.record.sweep
    assert (sweep.metric.name, sweep.metric.label, sweep.heldout_samples) == ("labels_found", "labels found", 200)
    assert max(sweep.curves[0].metric) > 0.5
    assert sweep.curves[0].heldout_loss.tolist() == (-sweep.curves[0].metric).tolist()
    assert any("no held-out loss" in each for each in sweep.warnings)


def test_the_loss_of_training_mode_is_that_of_the_batch_without_a_change_of_statistics():
    model = Detector()
    found = run(
        model, torch.optim.SGD(model.parameters(), 0.1), listed(TRAIN, shuffle=True), listed(HELDOUT, 50),
        step=detector_loss, eval_loss="train",
    )  # fmt: skip
    with torch.no_grad():
        expected = [float(detector_loss(copy.deepcopy(model), batch)) for batch in listed(HELDOUT, 50)]
    assert found.curves[0].heldout_loss[0] == pytest.approx(sum(expected) / 4, rel=1e-5)

    def both(kind):
        return run(
            model, torch.optim.SGD(model.parameters(), 0.1), listed(TRAIN, shuffle=True), listed(HELDOUT, 50),
            step=detector_loss, measure=found_labels, metric="found", higher_is_better=True, eval_loss=kind,
        )  # fmt: skip

    looked, apart = both("train"), both("auto")
    assert looked.curves[0].metric.tolist() == apart.curves[0].metric.tolist(), "evaluations change no training"


COUNTED = {
    "images in a list": (([torch.zeros(3, 9, 7)] * 8, [{"boxes": torch.zeros(2, 4)}] * 8), None, 8),
    "images of several sizes": (([torch.zeros(3, 4 + n, 5) for n in range(6)], torch.zeros(6)), None, 6),
    "words before samples": ((torch.zeros(35, 20, 8), torch.zeros(35, 20)), 20, 20),
    "words before samples, one target": ((torch.zeros(35, 20, 8), torch.zeros(20)), None, 20),
    "several inputs": (([torch.zeros(50, 3), torch.zeros(50, 4)], torch.zeros(50)), None, 50),
    "names": ({"x": torch.zeros(7, 2), "who": ["a"] * 7, "scale": torch.tensor(2.0)}, None, 7),
    "an autoencoder's": ((torch.zeros(12, 5), torch.zeros(12, 5)), None, 12),
    "a stream of words": ((torch.zeros(35, 20), torch.zeros(700)), None, None),
    "a list of a few numbers": ([1.0, 2.0], None, 2),
}


@pytest.mark.parametrize("name", COUNTED)
def test_samples_are_counted_in_batches_of_every_make(name):
    from clrtool.engine.inprocess.counting import samples_of

    batch, expected, number = COUNTED[name]
    assert samples_of(batch, expected) == number


def test_where_samples_are_not_known_none_are_shown():
    batches = [(torch.randn(35, 20), torch.randint(10, (700,))) for _ in range(4)]

    def step(model, batch):
        return nn.functional.cross_entropy(model(batch[0].reshape(700, 1)), batch[1])

    found = run(lambda: nn.Linear(1, 10), sgd, batches, batches, step=step)
    assert found.record.sweep.heldout_samples == 0
    assert not [line for line in str(found).splitlines() if "held out" in line and "sample" in line]


class Places(nn.Module):
    """Classes of places along a line, in torch's own order: (batch, classes, length)."""

    def __init__(self, *, last=False):
        super().__init__()
        self.net, self.last = nn.Conv1d(1, 5, 3, padding=1), last

    def forward(self, inputs):
        outputs = self.net(inputs)
        return outputs.movedim(1, -1) if self.last else outputs


@pytest.mark.parametrize("loss", [None, nn.CrossEntropyLoss(ignore_index=-100)])
@pytest.mark.parametrize("shape", [(12,), (5,), (6, 4)])
def test_outputs_in_torchs_order_are_taken_and_their_accuracy_is_that_of_places(loss, shape):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand(80, 1, *shape, generator=generator)
    targets = (inputs[:, 0] * 5).long().clamp(max=4)
    targets[:, 0] = -100
    batches = [(inputs[i : i + 20], targets[i : i + 20]) for i in range(0, 80, 20)]
    kind = {1: nn.Conv1d, 2: nn.Conv2d}[len(shape)]
    model = nn.Sequential(kind(1, 16, 1), nn.ReLU(), kind(16, 5, 1))
    found = run(model, torch.optim.SGD(model.parameters(), 0.1, momentum=0.9), batches, batches, loss=loss)
    notes = [each for each in found.record.sweep.warnings if "may have their classes second or last" in each]
    assert len(notes) == (shape == (5,))
    if shape == (5,) and loss is None:  # both orders fit, and the loss of clrtool's own takes the last
        assert notes[0].endswith("taken to be last.")
        return
    counts = targets != -100
    with torch.no_grad():
        right = ((model(inputs).argmax(1) == targets) & counts).sum() / counts.sum()
        loss_before = nn.functional.cross_entropy(model(inputs), targets)
    assert found.curves[0].metric[0] == pytest.approx(float(right))
    assert found.curves[0].heldout_loss[0] == pytest.approx(float(loss_before), rel=1e-5)
    assert found.record.sweep.heldout_samples == int(counts.sum())


def test_without_a_held_out_loader_a_part_of_the_training_set_is_held_out_and_nothing_is_clear():
    train = DataLoader(TRAIN, 50, shuffle=True, generator=torch.Generator().manual_seed(1))
    before = train.generator.get_state()
    found = clrtool.range_test(net, sgd, train, epochs=12, progress=False)
    assert torch.equal(train.generator.get_state(), before)
    assert (found.record.sweep.heldout_samples, found.record.sweep.iterations_per_epoch) == (60, 12)
    assert found.verdict.word == "weak"
    assert "part of the training set was held out" in str(found).replace("\n", " ").replace("  ", " ") or any(
        each.name == "SPLIT_OFF" for each in found.bounds.advice
    )
    from clrtool.engine.inprocess.heldout import parted

    parts = parted(train, None)
    chosen = {*parts.heldout.loader.dataset.indices}
    assert not chosen & {*parts.train.dataset.indices}
    assert len(chosen) + len(parts.train.dataset) == len(TRAIN)


@pytest.mark.parametrize("kind", ["a list", "a stream"])
def test_what_cannot_be_split_is_read_by_its_training_loss_and_nothing_is_clear(kind):
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(zip(*TRAIN[:], strict=True))

    batches = [TRAIN[i : i + 50] for i in range(0, 600, 50)]
    train = batches if kind == "a list" else DataLoader(Stream(), 50)
    found = clrtool.range_test(net, sgd, train, steps=300, progress=False)
    assert found.verdict.word == "weak"
    assert any(each.name == "TRAINING_LOSS" for each in found.bounds.advice)
    assert found.plan.iterations <= 300 < found.plan.iterations + 20


def test_a_given_held_out_set_is_used_up_to_five_hundred_samples_whatever_the_model_costs():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(1500, 3, 24, 24, generator=generator)
    samples = TensorDataset(images, (images.mean((1, 2, 3)) > 0).long())
    heavy = nn.Sequential(nn.Conv2d(3, 32, 5), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 2))
    train = DataLoader(torch.utils.data.Subset(samples, range(100)), 4)
    for size, expected in ((397, 397), (1500, 500)):
        held = DataLoader(torch.utils.data.Subset(samples, range(size)), 4)
        found = run(heavy, torch.optim.SGD(heavy.parameters(), 0.1), train, held, evaluations="auto", sweep_epochs=0.2)
        assert found.record.sweep.heldout_samples == expected


@pytest.mark.parametrize(("steps", "per_epoch"), [(300, 12), (37, 12), (5, 1)])
def test_a_training_is_as_long_as_its_steps_say(steps, per_epoch):
    found = run(net, sgd, epochs=None, steps=steps, policy="cosine")
    assert (found.plan.iterations, found.plan.iterations_per_epoch) == (steps, per_epoch)


def test_a_pass_that_is_none_is_told_before_anything_trains():
    class Sampler(torch.utils.data.Sampler):
        def __iter__(self):
            while True:
                yield from range(len(TRAIN))

        def __len__(self):
            return 10**10

    endless = DataLoader(TRAIN, 50, sampler=Sampler())
    with pytest.raises(ConfigError, match=r"one pass is 200,000,000 iterations.*give steps=N"):
        run(net, sgd, endless)
    assert run(net, sgd, endless, epochs=None, steps=400, sweep_epochs=1).plan.iterations <= 400


def test_steps_and_epochs_together_are_refused_and_a_warm_up_is_planned():
    with pytest.raises(ConfigError, match="epochs: leave it out beside steps"):
        run(net, sgd, steps=400)
    assert run(net, sgd, warmup_epochs=2).plan.lr([0, 24])[0] < 1e-3


def test_a_step_may_skip_batches_and_one_that_skips_all_of_them_ends_as_a_loss_that_is_not_finite():
    taken = []

    def step(model, batch):
        loss = nn.functional.cross_entropy(model(batch[0]), batch[1])
        if model.training:
            taken.append(batch[1][0])
        return None if model.training and len(taken) % 3 == 1 else loss

    assert max(run(net, sgd, step=step, metric="accuracy").curves[0].metric) > 0.3

    def guarded(model, batch):
        loss = nn.functional.cross_entropy(model(batch[0]), batch[1])
        return loss if loss < 20 else None

    found = run(net, sgd, step=guarded, end_lr=1e4, evaluations=20)
    assert found.record.sweep.outcome.word in ("not_finite", "diverged")


class Averaged(torch.optim.SGD):
    """Schedule-free: the weights to evaluate are the average of those in training."""

    def __init__(self, parameters, lr):
        super().__init__(parameters, lr)
        self.is_training = True
        for group in self.param_groups:
            for each in group["params"]:
                self.state[each] = {"average": each.detach().clone()}

    def swap(self):
        with torch.no_grad():
            for each, kept in self.state.items():
                old = each.clone()
                each.copy_(kept["average"])
                kept["average"].copy_(old)
        self.is_training = not self.is_training

    def train(self):
        if not self.is_training:
            self.swap()

    def eval(self):
        if self.is_training:
            self.swap()

    def step(self, closure=None):
        assert self.is_training
        super().step()
        for each, kept in self.state.items():
            kept["average"].lerp_(each.detach(), 0.1)


def test_an_optimizer_without_a_schedule_is_tested_in_its_modes_and_says_that_it_has_none():
    found = clrtool.range_test(
        net, lambda model: Averaged(model.parameters(), 0.1), TRAINING, HELD, epochs=12, progress=False
    )
    assert found.max_lr is not None
    assert any("needs no schedule" in each for each in found.record.sweep.warnings)


def test_what_cannot_be_called_as_batches_are_taken_names_step():
    with pytest.raises(ConfigError, match=r"cannot be called with a batch.*give step=\(model, batch\) -> loss"):
        run(Detector, sgd, listed(TRAIN), listed(HELDOUT))
    triples = [(TRAIN[:20][0],) * 3] * 4
    with pytest.raises(ConfigError, match="give step="):
        run(net, sgd, triples, triples, loss=nn.TripletMarginLoss())


def test_batch_norm_of_a_last_batch_of_one_sample_names_drop_last():
    def normed():
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 10))

    train = DataLoader(torch.utils.data.Subset(TRAIN, range(101)), 25, shuffle=True)
    with pytest.raises(ConfigError, match="batch norm has no statistics: drop_last=True"):
        run(normed, sgd, train, sweep_epochs=3)


def test_results_and_errors_speak_of_pythons_options():
    from clrtool.core.reading.verdict import Advice
    from clrtool.words import in_python

    spoken = [in_python(each.value) for each in Advice]
    assert not [each for each in spoken if "--" in each or "sweep." in each or "plan." in each]
    text = str(run(net, sgd, seeds=1, sweep_epochs=1))
    assert "--" not in text
    assert "sweep." not in text
    with pytest.raises(ConfigError, match=r"end_lr = 0.001 must be at least 1.5 times start_lr"):
        run(net, sgd, end_lr=1e-3)


def test_the_rates_of_several_groups_are_told_of_beside_the_bounds():
    model = net()
    text = " ".join(str(run(model, grouped_sgd(model))).split())
    assert "2 groups" in text
    assert "0.2 times" in text


def test_one_order_of_the_samples_for_every_seed_is_never_clear():
    model = net()
    train = DataLoader(TRAIN, 50)
    found = clrtool.range_test(model, torch.optim.SGD(model.parameters(), 0.1), train, HELD, epochs=12, progress=False)
    assert found.verdict.word == "weak"
    assert any(each.name == "ALIKE_SEEDS" for each in found.bounds.advice)
    shuffled = DataLoader(TRAIN, 50, shuffle=True)
    found = run(model, torch.optim.SGD(model.parameters(), 0.1), shuffled)
    assert not any(each.name == "ALIKE_SEEDS" for each in found.bounds.advice)


def test_a_set_that_is_sorted_by_class_is_warned_of_and_one_class_alone_is_named():
    inputs, targets = TRAIN[:]
    order = targets.argsort()
    in_order = DataLoader(TensorDataset(inputs[order], targets[order]), 10)
    assert any("as if sorted by class: shuffle=True" in each for each in run(net, sgd, in_order).record.sweep.warnings)
    same = DataLoader(TensorDataset(inputs[:50], torch.full((50,), 3)), 10)
    assert any("class 3 alone" in each for each in run(net, sgd, TRAINING, same).record.sweep.warnings)
    assert not [each for each in run(net, sgd).record.sweep.warnings if "alone" in each]


def cross_entropy_of(model, batch):
    assert model.training, "with a measure it is called in training alone"
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def test_a_metric_of_a_whole_set_is_that_of_torchmetrics_and_the_programs_own_is_untouched():
    torchmetrics = pytest.importorskip("torchmetrics")
    model = net()
    names = {"task": "multiclass", "num_classes": 10}
    metrics = [
        torchmetrics.F1Score(average="macro", **names),
        torchmetrics.AUROC(**names),
        torchmetrics.Accuracy(average="macro", **names),
        torchmetrics.JaccardIndex(**names),
    ]
    for metric in metrics:
        before = copy.deepcopy(metric.state_dict()), metric.update_count
        found = run(model, torch.optim.SGD(model.parameters(), 0.1), measure=metric, sweep_epochs=1)
        assert (metric.state_dict(), metric.update_count) == before
        with torch.no_grad():
            expected = copy.deepcopy(metric)(model(HELDOUT[:][0]), HELDOUT[:][1])
        assert found.curves[0].metric[0] == pytest.approx(float(expected), rel=1e-5), metric
        assert found.record.sweep.metric.higher_is_better
        assert found.record.sweep.metric.name in type(metric).__name__
        stepped = run(
            model, torch.optim.SGD(model.parameters(), 0.1), measure=metric, step=cross_entropy_of, sweep_epochs=1
        )
        assert stepped.curves[0].metric.tolist() == found.curves[0].metric.tolist()
        assert stepped.record.sweep.heldout_samples == found.record.sweep.heldout_samples == 200
        assert stepped.curves[0].heldout_loss.tolist() == (-stepped.curves[0].metric).tolist()


def test_a_metric_that_is_better_when_lower_says_so_itself_and_one_of_several_numbers_is_refused():
    torchmetrics = pytest.importorskip("torchmetrics")
    targets = TRAIN[:][1].float()[:, None]
    values = DataLoader(TensorDataset(TRAIN[:][0], targets), 50, shuffle=True)

    def line():
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 1))

    found = run(line, sgd, values, values, loss=nn.MSELoss(), measure=torchmetrics.MeanAbsoluteError(), end_lr=0.05)
    assert not found.record.sweep.metric.higher_is_better
    assert found.curves[0].metric[0] ** 2 < found.curves[0].heldout_loss[0]
    each = torchmetrics.Accuracy(task="multiclass", num_classes=10, average=None)
    with pytest.raises(ConfigError, match=r"must give one number.*set its average"):
        run(net, sgd, measure=each)


class Speaks(nn.Module):
    """A model that gives its own loss, as transformers' do: that of the next token, or of a label for each.

    Args:
        ahead: whether it shifts the labels inside, as one that writes the next token does.
    """

    def __init__(self, ahead):
        super().__init__()
        self.inner, self.out, self.ahead = nn.Embedding(12, 16), nn.Linear(16, 12), ahead

    def forward(self, tokens, labels):
        outputs = self.out(self.inner(tokens))
        one, other = (outputs[:, :-1], labels[:, 1:]) if self.ahead else (outputs, labels)
        loss = nn.functional.cross_entropy(one.flatten(0, 1), other.flatten())
        return {"loss": loss, "logits": outputs}


def sentences(ahead, number=60, length=9):
    """Texts in which a token is five times the one before it and one more, padded; or labels that are three more."""
    random = torch.Generator().manual_seed(int(ahead))
    tokens = [torch.randint(12, (number,), generator=random)]
    for _ in range(length - 1):
        tokens.append((5 * tokens[-1] + 1) % 12)
    tokens = torch.stack(tokens, 1)
    labels = tokens.clone() if ahead else (tokens + 3) % 12
    labels[torch.arange(length) >= torch.randint(3, length, (number, 1), generator=random)] = -100
    return [{"tokens": tokens[at : at + 12], "labels": labels[at : at + 12]} for at in range(0, number, 12)]


@pytest.mark.parametrize("ahead", [True, False])
def test_token_accuracy_of_a_model_that_gives_its_own_loss_leaves_out_padding_and_is_shifted_as_the_loss_is(ahead):
    from clrtool.core.reading.metric import TOKEN_ACCURACY
    from clrtool.engine.inprocess.supervised import SupervisedSteps

    torch.manual_seed(4)
    model, batch = Speaks(ahead), sentences(ahead)[0]
    right, number = SupervisedSteps(None, TOKEN_ACCURACY).metric_sums(model, batch)
    answers, labels = model(**batch)["logits"].argmax(-1).tolist(), batch["labels"].tolist()
    pairs = [
        (row[place - ahead], wanted[place])
        for row, wanted in zip(answers, labels, strict=True)
        for place in range(int(ahead), len(row))
        if wanted[place] != -100
    ]
    assert (int(right), int(number)) == (sum(one == other for one, other in pairs), len(pairs))
    found = run(model, torch.optim.Adam(model.parameters(), 0.01), train=sentences(ahead), heldout=sentences(ahead),
                metric="token_accuracy", end_lr=1.0, sweep_epochs=12)  # fmt: skip
    assert max(found.curves[0].metric) > 0.8


def test_token_accuracy_of_a_loss_that_is_no_cross_entropy_of_the_outputs_is_refused():
    class Contrasts(Speaks):
        def forward(self, tokens, labels):
            outputs = super().forward(tokens, labels)
            return {"loss": 3 + outputs["logits"].square().mean(), "logits": outputs["logits"]}

    model = Contrasts(ahead=False)
    with pytest.raises(ConfigError, match="metric: token_accuracy cannot be measured on these batches, loss can"):
        run(model, torch.optim.Adam(model.parameters(), 0.01), train=sentences(ahead=False),
            heldout=sentences(ahead=False), metric="token_accuracy")  # fmt: skip


def test_shares_of_classes_as_targets_are_refused_with_the_loss_that_takes_them_and_trained_by_it():
    inputs, targets = TRAIN[:]
    shares = 0.9 * nn.functional.one_hot(targets.long(), 10).float() + 0.01
    softened = DataLoader(TensorDataset(inputs, shares), 50, shuffle=True)
    with pytest.raises(ConfigError, match=r"or, of shares of the classes, torch\.nn\.CrossEntropyLoss\(\)"):
        run(net(), sgd, softened, softened)
    found = run(net(), sgd, softened, softened, loss=nn.CrossEntropyLoss())
    assert min(found.curves[0].heldout_loss) < found.curves[0].heldout_loss[0]
