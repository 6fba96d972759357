"""How far the answers of a network differ from input to input, held against numpy on what the network itself says."""

import numpy as np
import pytest
import torch
from torch import nn

from clrtool.engine.rangetest.race import run_race
from clrtool.engine.resume.journal import Journal
from clrtool.engine.training.last_layer import spread_of_answers
from tests.engine.test_constant_head import KINDS, trainer
from tests.engine.workloads import digits

DEEP = {"model": {"name": "mlp", "args": {"hidden": [16] * 10}}, "optimizer": {"name": "SGD"}}


@pytest.mark.parametrize("kind", KINDS)
def test_the_spread_is_the_deviation_of_answers_over_the_samples_of_a_batch_and_changes_nothing(kind):
    begun, drawn = trainer(kind, loss=KINDS[kind][1]), torch.get_rng_state()
    before = {name: value.clone() for name, value in begun.model.state_dict().items()}
    found = spread_of_answers(begun)
    ((inputs, _),) = begun.first_batches(1)[0]  # of one micro-batch
    begun.model.eval()
    answers = begun.model(inputs).detach().double().numpy()
    assert found == pytest.approx(np.std(answers, axis=0).mean(), rel=1e-4)
    assert found > 0
    assert all(torch.equal(value, before[name]) for name, value in begun.model.state_dict().items())
    assert torch.equal(drawn, torch.get_rng_state())


def test_a_network_of_dead_units_says_the_same_whatever_it_is_given():
    begun = trainer("classes")
    with torch.no_grad():
        begun.model[0].bias.fill_(-1e6)
        begun.model[1].reset_running_stats()
    assert spread_of_answers(begun) == 0


def test_nothing_is_heard_of_a_network_without_layers():
    class Bare(nn.Module):
        def forward(self, x):
            return x

    begun = trainer("classes")
    begun.model = Bare()
    assert spread_of_answers(begun) is None


def differentiates(model, batch):
    inputs = batch[0].clone().requires_grad_()
    return torch.autograd.grad(model(inputs).sum(), inputs, create_graph=True)[0].square().mean()


def has_losses_in_training_alone(model, batch):
    answers = model(batch[0])
    return (answers if model.training else {"boxes": answers}).square().mean()


@pytest.mark.parametrize("step", [differentiates, has_losses_in_training_alone])
def test_a_step_that_fails_without_training_is_heard_as_far_as_its_network_answers(step):
    found = spread_of_answers(trainer("classes", step=step, eval_loss="train"))
    assert found == pytest.approx(spread_of_answers(trainer("classes")))


def test_a_race_reads_how_answers_differ_where_a_loss_says_no_more_than_a_constant_and_only_there():
    race = run_race(digits(**DEEP), (3, 4), 400, lambda probe: None, Journal())
    level = {probe: race.entry.is_level(probe.loss) for probe in race.probes}
    assert sum(level.values()) > 4
    assert all((probe.spread is not None) is level[probe] for probe in race.probes)
    by_rate = {probe.power: probe.spread for probe in race.probes if probe.iterations < 40 and probe.spread is not None}
    assert by_rate[min(by_rate)] == pytest.approx(1, abs=0.1)  # it has hardly moved
