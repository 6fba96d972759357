"""A trainer that branches: both go on by the same numbers, and neither changes the other."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from clrtool.engine.inprocess.build import build_workload
from clrtool.engine.inprocess.loaders import InProcessLoader
from clrtool.engine.inprocess.options import Settings
from clrtool.engine.inprocess.steps import make_steps
from clrtool.engine.training.trainer import Trainer
from tests.engine.workloads import digits

LRS = [0.01, 0.02, 0.05] * 20
OPTIMIZERS = {
    "SGD": lambda model: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
    "AdamW": lambda model: torch.optim.AdamW(model.parameters(), lr=0.1),
}


def of_a_config(optimizer, **changes):
    args = {"momentum": 0.9} if optimizer == "SGD" else {}
    model = {"name": "convnet", "args": {"channels": [4], "batch_norm": True}}
    dropout = {"name": "mlp", "args": {"dropout": 0.3}}
    kinds = {"optimizer": {"name": optimizer, "args": args}, "model": dropout if optimizer == "SGD" else model}
    return digits(**kinds | changes)


def of_a_program(optimizer, train=None):
    torch.manual_seed(0)
    inputs = torch.randn(500, 6)
    data = TensorDataset(inputs, inputs[:, :3].argmax(1))
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))
    # its order is drawn from the global generator, from which dropout draws too
    train = DataLoader(data, 50, shuffle=True) if train is None else train
    steps, settings = make_steps(None, None, None, "auto", None), Settings.of({"evaluations": 5, "accumulate": 2})
    return build_workload(
        model, OPTIMIZERS[optimizer](model), train, DataLoader(data, 100), steps, settings, find_metric=True
    )


def tensors(trainer):
    """All that training changes, as it is now."""
    optimizer = trainer.optimizer.state_dict()["state"]
    return copy.deepcopy({"model": dict(trainer.model.state_dict()), "optimizer": optimizer})


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        if isinstance(value, dict):
            assert_same(value, other[name])
        else:
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(other[name])), name


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("make", [of_a_config, of_a_program])
@pytest.mark.parametrize("branch_first", [True, False])
def test_a_branch_goes_on_as_the_one_it_came_from(make, optimizer, branch_first):
    workload = make(optimizer)
    with workload.on_device():
        alone = Trainer(workload, 2)
        losses, evaluation = alone.train(0, LRS), alone.evaluate()
        trainer = Trainer(workload, 2)
        begun = trainer.train(0, LRS[:17])
        branch = trainer.branch()
        for each in (branch, trainer) if branch_first else (trainer, branch):
            # in two pieces, of which the second begins in another pass over the data
            assert begun + each.train(17, LRS[17:30]) + each.train(30, LRS[30:]) == losses
            assert each.evaluate() == evaluation
        assert_same(tensors(trainer), tensors(alone))
        assert_same(tensors(branch), tensors(alone))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("make", [of_a_config, of_a_program])
def test_what_a_branch_trains_leaves_the_other_untouched(make, optimizer):
    workload = make(optimizer)
    with workload.on_device():
        losses = Trainer(workload, 2).train(0, LRS)
        trainer = Trainer(workload, 2)
        begun = trainer.train(0, LRS[:17])
        before, drawn = tensors(trainer), torch.get_rng_state()
        for lr in (0.001, 0.5):  # several in turn, each from the same state
            branch = trainer.branch()
            assert_same(tensors(branch), before)
            branch.train(17, [lr] * 20)
            branch.evaluate()
            assert any(
                not torch.equal(one, other)
                for one, other in zip(branch.model.parameters(), trainer.model.parameters(), strict=True)
            )
        assert_same(tensors(trainer), before)
        assert torch.equal(torch.get_rng_state(), drawn)
        assert begun + trainer.train(17, LRS[17:]) == losses


def test_branches_in_turn_each_go_on_with_random_numbers_of_their_own():
    workload = of_a_config("SGD")
    with workload.on_device():
        trainer = Trainer(workload, 2)
        trainer.train(0, LRS[:5])
        one, other = trainer.branch(), trainer.branch()
        pieces = [[each.train(start, LRS[start : start + 10]) for each in (one, other)] for start in (5, 15)]
        deeper = one.branch()
        assert [first for first, _ in pieces] == [second for _, second in pieces]
        assert deeper.train(25, LRS[25:]) == other.train(25, LRS[25:]) == one.train(25, LRS[25:])


def test_a_trainer_begins_at_a_state_and_shares_nothing_with_it():
    workload = of_a_config("AdamW")
    with workload.on_device():
        first, second = Trainer(workload, 2), Trainer(workload, 2)
        first.train(0, LRS[:10])
        second.restore(first.state())
        before = tensors(first)
        second.train(10, LRS[10:20])
        assert_same(tensors(first), before)


def test_a_branch_of_half_precision_keeps_its_scale():
    workload = of_a_config("SGD", precision="fp16")
    with workload.on_device():
        trainer = Trainer(workload, 0)
        trainer.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
        trainer.train(0, LRS[:5])
        branch = trainer.branch()
        assert branch.scaler.get_scale() == trainer.scaler.get_scale() < 2.0**40
        assert branch.train(5, LRS[5:15]) == trainer.train(5, LRS[5:15])


@pytest.mark.parametrize("shuffle", [True, False])
def test_a_loader_of_ones_own_is_read_on_to_the_middle(shuffle):
    data = TensorDataset(torch.arange(40))
    for source in (DataLoader(data, 5, shuffle=shuffle), [(torch.arange(4) + start,) for start in range(0, 32, 4)]):
        loader = InProcessLoader(source, 4, 10, torch.device("cpu"), accumulate=2)
        torch.manual_seed(1)
        steps = loader.batches(3, 0)
        whole = [next(steps) for _ in range(11)]
        drawn = torch.get_rng_state()
        for start, end in ((1, 4), (5, 8), (10, 11)):  # each to the end of its pass
            for expected, found in zip(whole[start:end], loader.batches(3, start), strict=False):
                assert all(torch.equal(one[0], other[0]) for one, other in zip(expected, found, strict=True))
            assert torch.equal(torch.get_rng_state(), drawn)
        loader.close()
