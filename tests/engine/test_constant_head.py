"""The constant answer of a step that keeps its targets to itself, held against that of targets that are known."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from clrtool.engine.inprocess.build import build_workload
from clrtool.engine.inprocess.options import Settings
from clrtool.engine.inprocess.steps import make_steps
from clrtool.engine.rangetest.race import run_race
from clrtool.engine.resume.journal import Journal
from clrtool.engine.training.constant import constant_loss
from clrtool.engine.training.constant_head import STEPS, constant_head_loss
from clrtool.engine.training.trainer import Trainer

GENERATOR = torch.Generator().manual_seed(5)
SERIES = torch.randn(400, 6, generator=GENERATOR)
CLASSES = (SERIES[:, 0] > 0.8).long() + (SERIES[:, 1] > 1.2).long()  # the first of them is by far the commonest
IMAGES = torch.randn(400, 1, 6, 6, generator=GENERATOR)
TOKENS = torch.randint(0, 3, (400, 8), generator=GENERATOR) ** 2


class Head(nn.Sequential):
    """Noise on the way, as batch norm and dropout make it."""

    def __init__(self, outputs):
        super().__init__(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, outputs))


class Language(nn.Module):
    """A next-token model whose last layer has no bias, as those of transformers."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 12)
        self.head = nn.Linear(12, 5, bias=False)

    def forward(self, tokens):
        return self.head(self.embedding(tokens))


KINDS = {
    "classes": (lambda: Head(3), functional.cross_entropy, SERIES, CLASSES),
    "values": (lambda: Head(2), functional.mse_loss, SERIES, SERIES[:, :2] * 3 + 7),
    "medians": (lambda: Head(1), functional.l1_loss, SERIES, SERIES[:, :1].exp()),
    "pixels": (lambda: nn.Conv2d(1, 2, 3, padding=1), functional.cross_entropy, IMAGES, (IMAGES[:, 0] > 1).long()),
    "tokens": (Language, lambda out, y: functional.cross_entropy(out.flatten(0, 1), y.flatten()), TOKENS, TOKENS),
}


def trainer(kind, step=None, loss=None, **settings):
    """A trainer of a program's pieces, which knows its loss or has a step of its own."""
    make, _, *data = KINDS[kind]
    return trainer_of(make, TensorDataset(*data), step, loss, **settings)


def trainer_of(make, data, step, loss=None, batch=200, heldout=100, **settings):
    torch.manual_seed(1)
    model = make()
    workload = build_workload(
        model,
        torch.optim.Adam(model.parameters()),
        DataLoader(data, batch, shuffle=True),
        DataLoader(data, heldout),
        make_steps(loss, step, None, "loss" if step else "auto", None),
        Settings.of({"evaluations": 5} | settings),
        find_metric=step is None,
    )
    return Trainer(workload, 3)


def own_step(kind):
    loss = KINDS[kind][1]
    return lambda model, batch: loss(model(batch[0]), batch[1])


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_of_ones_own_has_the_constant_answer_of_its_targets(kind):
    known = trainer(kind, loss=KINDS[kind][1])
    expected = constant_loss(known.workload.answers(known.model))
    if kind == "tokens":  # a loss that flattens does not say how targets lie in its outputs
        frequencies = torch.bincount(TOKENS.flatten()) / TOKENS.numel()
        expected = -sum(float(each * each.log()) for each in frequencies if each)
    found = constant_head_loss(trainer(kind, step=own_step(kind)))
    assert found == pytest.approx(expected, rel=0.03)


def test_small_batches_of_many_classes_say_no_less_than_that_all_are_alike():
    data = TensorDataset(SERIES, torch.arange(400) % 200)
    step = lambda model, batch: functional.cross_entropy(model(batch[0]), batch[1])  # noqa: E731
    found = constant_head_loss(trainer_of(lambda: nn.Linear(6, 200), data, step, batch=16))
    assert found == pytest.approx(math.log(200), rel=0.02)


class Pairs(nn.Linear):
    """What belongs together of a batch, with a parameter beside the layers: as many logits as samples."""

    def __init__(self):
        super().__init__(6, 6, bias=False)
        self.other, self.scale = nn.Linear(6, 6), nn.Parameter(torch.tensor(3.0))

    def forward(self, x):
        return self.scale * functional.linear(x, self.weight) @ self.other(x).T


def test_where_outputs_are_the_samples_of_a_batch_each_is_as_likely_in_a_smaller_last_batch_too():
    step = lambda model, batch: functional.cross_entropy(model(batch[0]), torch.arange(len(batch[0])))  # noqa: E731
    found = constant_head_loss(trainer_of(Pairs, TensorDataset(SERIES), step, batch=32, heldout=32))
    sizes = 12 * [32] + [16]
    assert found == pytest.approx(sum(size * math.log(size) for size in sizes) / 400, rel=0.02)


def test_a_step_that_differentiates_by_its_input_has_the_answer_whose_derivatives_are_nought():
    def step(model, batch):  # f' = x and f(0) = 2
        with torch.enable_grad():
            x = batch[0].clone().requires_grad_()
            (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
            return ((slope - x) ** 2).mean() + ((model(torch.zeros(1, 6)) - 2) ** 2).mean()

    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))
    found = constant_head_loss(trainer_of(lambda: model, TensorDataset(SERIES), step))
    assert found == pytest.approx(float((SERIES**2).mean()), rel=1e-4)


def test_looking_for_it_changes_neither_the_trainer_nor_the_random_numbers_around():
    start = trainer("classes", step=own_step("classes"))
    before = {name: value.clone() for name, value in start.model.state_dict().items()}
    random = torch.get_rng_state()
    constant_head_loss(start)
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(before[name], value) for name, value in start.model.state_dict().items())
    assert all(not module._forward_hooks for module in start.model.modules())
    assert all(parameter.grad is None for parameter in start.model.parameters())


def test_what_the_fit_takes_comes_off_the_budget_of_the_race():
    found = {}
    for step in (None, own_step("classes")):
        start = trainer("classes", step=step, loss=None if step else KINDS["classes"][1])
        race = run_race(start.workload, (3, 4), 200, lambda probe: None, Journal())
        found[step is None] = race.entry.budget
        assert race.iterations <= race.entry.budget
    assert found == {True: 200, False: 200 - STEPS}


def test_a_step_that_does_not_ask_its_last_layer_has_no_such_answer():
    def aside(model, batch):
        return (next(model.parameters()) ** 2).sum() + 0 * batch[0].sum()

    assert constant_head_loss(trainer("classes", step=aside)) is None
