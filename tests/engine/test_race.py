"""The race of a range test: its runs, the running average that they are read on, and the constant answer."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from clrtool.config.schema import SweepConfig
from clrtool.core.racing.probes import by_horizon
from clrtool.engine.rangetest.flat_run import WARM_UP
from clrtool.engine.rangetest.race import USUAL, USUAL_ADAPTIVE, run_race, usual_power
from clrtool.engine.resume.journal import Journal
from clrtool.engine.training.average import GAMMA, RunningAverage
from clrtool.engine.training.constant import Answers, constant_loss
from clrtool.engine.training.joint import JointOptimizer
from clrtool.engine.training.trainer import READ_EVERY, Trainer
from clrtool.errors import ConfigError
from tests.conftest import LONG
from tests.engine.test_journal import WORKLOADS, interrupted
from tests.engine.workloads import digits

BUDGET = 260
NORMED = {"model": {"name": "convnet", "args": {"channels": [4, 8, 8], "batch_norm": True}}}


def race(workload, journal=None, seeds=(3, 4), budget=BUDGET, told=None):
    return run_race(workload, seeds, budget, (told if told is not None else []).append, journal or Journal())


@pytest.mark.long
@pytest.mark.short(1)
@pytest.mark.parametrize("changes", [NORMED, *WORKLOADS.values()], ids=["batch norm", *WORKLOADS])
@settings(max_examples=3 if LONG else 2, deadline=None)
@given(looks=st.lists(st.integers(1, 120), min_size=1, max_size=4))
def test_a_race_interrupted_anywhere_reads_what_one_that_was_not_reads(changes, looks):
    workload = digits(**changes)
    found, _ = interrupted(lambda journal: race(workload, journal), looks)
    assert found == race(workload)


def test_a_race_stays_within_its_budget_and_tells_every_reading():
    told = []
    found = race(digits(), told=told)
    assert tuple(told) == found.probes
    assert 0 < found.iterations <= BUDGET


def test_a_reading_is_that_of_a_run_trained_on_its_own_from_the_same_start():
    """Beside the race: a trainer at one rate, whose weights are averaged here by the weights of the formula."""
    workload = digits()
    found = race(workload, seeds=(3,))
    probe = max(found.probes, key=lambda probe: probe.iterations)
    with workload.on_device():
        trainer = Trainer(workload, 3)
        iterates = []
        for step in range(probe.iterations):
            trainer.train(step, [probe.lr * min(1.0, (step + 1) / WARM_UP)])
            iterates.append([weight.detach().double().clone() for weight in trainer.model.parameters()])
        with torch.no_grad():
            for place, weight in enumerate(trainer.model.parameters()):
                shares = weights_of(probe.iterations)
                weight.copy_(sum(share * each[place] for share, each in zip(shares, iterates, strict=True)))
        loss, metric = trainer.evaluate()
    assert probe.loss == pytest.approx(loss, rel=1e-4)
    assert probe.metric == pytest.approx(metric, abs=2 / workload.heldout_samples)


def weights_of(number):
    """What each of so many iterates weighs in the average: its share, less what those after it take away."""
    shares = [min(1.0, (GAMMA + 1) / (step + GAMMA)) for step in range(1, number + 1)]
    return [share * math.prod(1 - later for later in shares[step:]) for step, share in enumerate(shares, 1)]


def test_the_average_weighs_late_iterates_by_the_power_gamma():
    weights = np.array(weights_of(200))
    assert weights.sum() == pytest.approx(1)
    ratio = weights[150:] / weights[149]
    steps = np.arange(151, 201) / 150
    np.testing.assert_allclose(ratio, steps**GAMMA, rtol=0.03)


def test_reading_the_average_leaves_weights_statistics_and_random_numbers_as_they_were():
    workload = digits(**NORMED)
    with workload.on_device():
        trainer = Trainer(workload, 0)
        trainer.average = RunningAverage(trainer.model)
        trainer.train(0, [0.1] * 8)
        before = {name: each.clone() for name, each in trainer.state()["tensors"].items()}
        random = torch.get_rng_state()
        trainer.evaluate_average()
        after = trainer.state()["tensors"]
        assert all(torch.equal(before[name], after[name]) for name in before)
        assert torch.equal(random, torch.get_rng_state())


def test_statistics_of_batch_norm_follow_from_the_averaged_weights():
    workload = digits(**NORMED)
    with workload.on_device():
        trainer = Trainer(workload, 0)
        trainer.average = RunningAverage(trainer.model)
        trainer.train(0, [0.5] * 12)
        with trainer.average.in_place():
            own = trainer.evaluate()
        assert trainer.evaluate_average()[0] < own[0]


def test_an_average_in_half_precision_moves_by_its_last_iterates():
    model = nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    average = RunningAverage(model)
    for step in range(2000):
        with torch.no_grad():
            model.weight.fill_(1.0 if step < 1000 else 2.0)
        average.update()
    assert float(average.weights["weight"]) > 1.9


def answers(loss, outputs, targets):
    return Answers(loss, outputs, [targets[:30], targets[30:]])


def test_the_constant_answer_of_classes_is_the_entropy_of_their_frequencies():
    targets = torch.tensor([0] * 50 + [1] * 30 + [2] * 20)[torch.randperm(100)]
    share = np.array([0.5, 0.3, 0.2])
    found = constant_loss(answers(functional.cross_entropy, torch.randn(30, 3), targets))
    assert found == pytest.approx(-(share * np.log(share)).sum(), abs=1e-4)


def test_the_constant_answer_of_tokens_is_the_entropy_of_all_places_together():
    targets = torch.randint(0, 5, (100, 7))
    share = np.bincount(targets.flatten().numpy()) / targets.numel()
    found = constant_loss(
        answers(lambda outputs, each: functional.cross_entropy(outputs.flatten(0, 1), each.flatten()),
                torch.randn(30, 7, 5), targets)
    )  # fmt: skip
    assert found == pytest.approx(-(share * np.log(share)).sum(), abs=1e-4)


@pytest.mark.parametrize(
    ("loss", "answer", "around"),
    [(functional.mse_loss, np.mean, np.square), (functional.l1_loss, np.median, np.abs)],
)
def test_the_constant_answer_of_a_regression_is_the_mean_or_the_median(loss, answer, around):
    targets = 100 + torch.distributions.Exponential(torch.tensor(0.5)).sample((100, 2))
    values = targets.numpy()
    expected = around(values - answer(values, axis=0)).mean()
    assert constant_loss(answers(loss, torch.zeros(30, 2), targets)) == pytest.approx(expected, rel=2e-3)


def test_the_constant_answer_of_several_labels_has_the_frequency_of_each():
    targets = (torch.rand(100, 4) < torch.tensor([0.1, 0.3, 0.5, 0.9])).float()
    share = targets.mean(0).clamp(1e-6, 1 - 1e-6).numpy()
    expected = -(share * np.log(share) + (1 - share) * np.log(1 - share)).mean()
    found = constant_loss(answers(functional.binary_cross_entropy_with_logits, torch.zeros(30, 4), targets))
    assert found == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("outputs", "targets"),
    [(torch.randn(30, 3), torch.randint(0, 2, (100, 9, 9))), (torch.randn(12, 3), torch.randn(100, 3))],
)
def test_targets_that_do_not_lie_in_the_outputs_have_no_constant_answer(outputs, targets):
    assert constant_loss(answers(functional.mse_loss, outputs, targets)) is None


def test_a_loss_that_takes_no_such_outputs_has_no_constant_answer():
    def loss(outputs, targets):
        mean, deviation = outputs  # of a model that gives two
        return ((mean - targets) / deviation).mean()

    assert constant_loss(answers(loss, torch.randn(30, 3), torch.randn(100, 3))) is None


def test_a_run_that_breaks_is_infinite_and_is_not_trained_on(monkeypatch):
    workload, steps = digits(), []
    step = type(workload).train_step

    def breaking(self, trainer, batch):
        steps.append(trainer.optimizer.param_groups[0]["lr"])
        loss = step(self, trainer, batch)
        return loss * math.inf if steps[-1] > 0.3 else loss

    monkeypatch.setattr(type(workload), "train_step", breaking)
    found = race(workload)
    broken = [probe for probe in found.probes if math.isinf(probe.loss)]
    assert broken
    assert all(probe.metric is None and probe.taken < probe.iterations for probe in broken)
    runs = {(probe.seed, probe.power) for probe in broken}
    assert sum(rate > 0.3 for rate in steps) <= READ_EVERY * len(runs)  # a loss is read once in so many iterations
    assert all(math.isfinite(min(losses.values())) for losses in by_horizon(found.probes).values())


@pytest.mark.parametrize("section", [{"epochs": 8}, {"seeds": 6}, {"epochs": 3, "seeds": 3}])
def test_sweeps_that_leave_too_little_of_the_budget_are_refused_before_anything_is_trained(section):
    workload = digits()
    with pytest.raises(ConfigError, match=r"^sweep: the scout and \d sweeps of .* half of the 500 .* larger budget"):
        workload.sweep_size(SweepConfig(method="race", **section))
    assert workload.sweep_size(SweepConfig(method="race", budget=1.0, **section)).budget == 900


class Wrapper(torch.optim.Optimizer):
    """An optimizer that steps one inside, as those of sharpness, of lookahead and of gradient surgery do."""

    def __init__(self, inner):
        super().__init__(inner.param_groups, {})
        self.base_optimizer = inner


def made(kind):
    return kind([nn.Parameter(torch.zeros(2, 2))], lr=0.1)


@pytest.mark.parametrize(
    ("make", "power"),
    [
        (lambda: Wrapper(made(torch.optim.SGD)), USUAL),
        (lambda: Wrapper(made(torch.optim.RMSprop)), USUAL_ADAPTIVE),
        (lambda: Wrapper(Wrapper(made(torch.optim.Adagrad))), USUAL),
        (lambda: JointOptimizer([made(torch.optim.SGD), made(torch.optim.NAdam)]), USUAL),
        (lambda: JointOptimizer([made(torch.optim.SparseAdam), made(torch.optim.SGD)]), USUAL_ADAPTIVE),
        (lambda: JointOptimizer([made(torch.optim.SGD), made(torch.optim.SGD)]), USUAL),
    ],
    ids=["SGD in one", "RMSprop in one", "Adagrad in two", "SGD and NAdam", "SparseAdam and SGD", "SGD twice"],
)
def test_a_race_starts_at_the_usual_rate_of_the_optimizer_that_takes_the_steps_of_the_first_group(make, power):
    assert usual_power(make()) == power
