"""The trainings of a comparison: those of a loop of torch, and the same wherever they are interrupted."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import clrtool.engine.rangetest.compare
from clrtool.core.planning.make import make_plan
from clrtool.core.results.candidates import candidate_plan, fixed_plan
from clrtool.engine.rangetest.compare import EVALUATIONS, compare, constant_metric
from clrtool.engine.resume.journal import Journal
from clrtool.engine.training.cuda_graph import CapturedEnsemble
from clrtool.engine.training.trainer import Trainer
from tests.conftest import LONG
from tests.engine.test_journal import Memory, interrupted
from tests.engine.workloads import digits

ITERATIONS = 60  # two epochs


def plans(*names):
    return {name: candidate_plan(name, 0.01, 0.2, 30, epochs=2) for name in names}


def assert_same(one, other):
    assert [each.name for each in one] == [each.name for each in other]
    for mine, yours in zip(one, other, strict=True):
        for first, second in zip(mine.trainings, yours.trainings, strict=True):
            assert first.seed == second.seed
            np.testing.assert_array_equal(np.array(first.points), np.array(second.points))


def steps(workload, seed, model, optimizer, scheduler):
    """The loss of each iteration after its step, by a loop of torch."""
    for (inputs, targets), _ in zip(workload.loader.batches(seed, 0), range(ITERATIONS), strict=False):
        loss = nn.functional.cross_entropy(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        yield loss.item()


def by_hand(workload, plan, seed):
    """Losses, held-out losses and accuracies after 3, 6, ... iterations, by a loop of torch and torch's own scheduler."""
    torch.manual_seed(seed)
    model = workload.make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.CyclicLR(optimizer, **plan.torch_kwargs())
    losses, found = [], []
    x, y = workload.heldout.inputs, workload.heldout.targets
    for loss in steps(workload, seed, model, optimizer, scheduler):
        losses.append(loss)
        if len(losses) % 3 == 0:
            with torch.no_grad():
                outputs = model(x)
            accuracy = (outputs.argmax(1) == y).double().mean().item()
            found.append((np.mean(losses[-3:]), nn.functional.cross_entropy(outputs, y).item(), accuracy))
    return np.array(found)


def test_a_policy_trains_as_a_loop_of_torch_with_torchs_own_scheduler_does():
    workload = digits()
    (found,) = compare(workload, plans("triangular2"), ITERATIONS, [3, 4])
    for training in found.trainings:
        mine = np.array([(point.train_loss, point.heldout_loss, point.metric) for point in training.points])
        np.testing.assert_allclose(mine, by_hand(workload, found.plan, training.seed), rtol=2e-4, atol=1e-12)


@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
def test_a_plan_that_moves_the_momentum_trains_as_torchs_cyclic_lr_does(optimizer):
    workload = digits(optimizer={"name": optimizer, "args": {"momentum": 0.9} if optimizer == "SGD" else {}})
    plan = make_plan(0.001, 0.01, 30, epochs=2, policy="triangular2", cycles=2, momentum=(0.8, 0.95))
    (found,) = compare(workload, {"cycles": plan}, ITERATIONS, [5])
    torch.manual_seed(5)
    model = workload.make_model()
    made = getattr(torch.optim, optimizer)(model.parameters(), lr=1.0, **workload.make_optimizer.config.args)
    scheduler = torch.optim.lr_scheduler.CyclicLR(made, **plan.torch_kwargs())
    losses = list(steps(workload, 5, model, made, scheduler))
    expected = np.array(losses).reshape(-1, 3).mean(axis=1)
    np.testing.assert_allclose([point.train_loss for point in found.trainings[0].points], expected, rtol=2e-4)


def test_every_policy_gets_the_same_weights_batches_and_iterations():
    workload = digits()
    made = plans("fixed", "cosine")
    made["again"] = made["fixed"]
    fixed, cosine, again = compare(workload, made, ITERATIONS, [0, 1])
    assert_same([fixed], [clrtool.engine.rangetest.compare.Candidate("fixed", again.plan, again.trainings)])
    for each in (fixed, cosine):
        assert [training.seed for training in each.trainings] == [0, 1]
        for training in each.trainings:
            assert [point.iteration for point in training.points] == list(range(3, 61, 3))
            assert len(training.points) == EVALUATIONS
            np.testing.assert_allclose([p.lr for p in training.points], each.plan.lr(np.arange(2, 60, 3)))
    assert fixed.finals != cosine.finals


def test_a_plan_that_ends_sooner_holds_its_last_rate_to_the_end_of_all():
    short = candidate_plan("cosine", 0.01, 0.2, 30, epochs=1)
    (found,) = compare(digits(), {"short": short}, ITERATIONS, [0])
    late = [point.lr for point in found.trainings[0].points if point.iteration > 31]
    assert len(late) == 10
    assert late == pytest.approx([0.01] * 10)


def test_fewer_iterations_than_evaluations_are_evaluated_after_each():
    (found,) = compare(digits(), plans("fixed"), 7, [0])
    assert [point.iteration for point in found.trainings[0].points] == list(range(1, 8))


def test_every_policy_has_to_beat_the_commonest_class_or_the_best_constant_output():
    classes = digits()
    labels = classes.heldout.targets
    assert constant_metric(classes) == pytest.approx(float(torch.bincount(labels).max()) / len(labels))
    values = line()
    targets = values.heldout.targets
    assert constant_metric(values) == pytest.approx(float(((targets - targets.mean()) ** 2).mean()), rel=1e-3)


def test_a_loss_that_is_not_finite_ends_its_training_and_is_a_result_with_its_rate():
    workload = line()
    like = candidate_plan("fixed", 0.01, 0.04, workload.iterations_per_epoch, epochs=ITERATIONS)
    high, low = compare(workload, {"high": fixed_plan(1e4, like), "low": fixed_plan(1e-3, like)}, 200, [0, 1])
    for training in high.trainings:
        assert not training.is_finite
        assert math.isnan(training.final)
        assert training.points[-1].iteration < 200
        assert training.points[-1].lr == 1e4
    assert high.mean is None
    assert all(training.is_finite and training.points[-1].iteration == 200 for training in low.trainings)


def line():
    """A straight line through values."""
    return digits(loss={"name": "MSELoss"}, data={"factory": "tests.engine.test_compare:make_values"},
                  model={"factory": "tests.engine.test_compare:make_line"}, metric="loss", allow_import=["tests.*"])  # fmt: skip


def make_values():
    x = torch.linspace(-1, 1, 200)[:, None]
    return (x, 2 * x), (x[::4], 2 * x[::4])


def make_line():
    return nn.Linear(1, 1)


@pytest.mark.short(1)
@pytest.mark.parametrize(
    "model", [{"name": "mlp", "args": {"dropout": 0.3}}, {"name": "convnet", "args": {"channels": [4, 8, 8]}}]
)
@settings(max_examples=4 if LONG else 2, deadline=None)
@given(looks=st.lists(st.integers(1, 150), min_size=1, max_size=4))
def test_a_comparison_interrupted_anywhere_measures_what_one_that_was_not_measures(model, looks):
    workload, made = digits(model=model), plans("fixed", "triangular2")
    found, _ = interrupted(lambda journal: compare(workload, made, 40, [0, 1], journal=journal), looks)
    assert_same(found, compare(workload, made, 40, [0, 1]))


def test_what_is_finished_is_never_trained_again_and_is_told_again(monkeypatch):
    workload, store, made = digits(), Memory(), plans("fixed", "cosine")
    whole = compare(workload, made, 40, [0, 1], journal=Journal(store))
    monkeypatch.setattr(Trainer, "train", lambda *_: pytest.fail("it trains again"))
    monkeypatch.setattr(Trainer, "evaluate", lambda *_: pytest.fail("it evaluates again"))
    told = []
    again = compare(workload, made, 40, [0, 1], lambda *point: told.append(point), Journal(saved=store.values))
    assert_same(whole, again)
    assert len(told) == 2 * 2 * 20
    for one, other in zip(whole, again, strict=True):
        assert [each.seconds for each in one.trainings] == [each.seconds for each in other.trainings]


def test_the_seconds_of_all_trainings_add_up_to_those_of_the_stages():
    journal = Journal()
    found = compare(digits(), plans("fixed", "cosine"), 40, [0, 1], journal=journal)
    spent = [training.seconds for each in found for training in each.trainings]
    assert min(spent) > 0
    assert sum(spent) == pytest.approx(journal.seconds["train"])
    repeated = compare(digits(deterministic=True), plans("fixed"), 10, [0])
    assert repeated[0].trainings[0].seconds is None


def test_seeds_in_one_team_measure_what_they_measure_one_after_the_other(monkeypatch):
    workload, made = digits(), plans("fixed", "triangular2")
    alone = compare(workload, made, 40, [0, 1])

    def together(workload, lrs, seeds, engine, momenta, captures):
        yield CapturedEnsemble(workload, seeds, lrs, graph=False)

    monkeypatch.setattr(clrtool.engine.rangetest.compare, "make_ensembles", together)
    for one, other in zip(alone, compare(workload, made, 40, [0, 1]), strict=True):
        assert other.engine == "uncaptured"
        for mine, yours in zip(one.trainings, other.trainings, strict=True):
            np.testing.assert_allclose(np.array(mine.points), np.array(yours.points), rtol=1e-3, atol=5e-3)
        first, second = other.trainings
        assert first.seconds == second.seconds
