"""``clrtool.vary``: options of an optimizer, batch sizes, whatever a program builds; and that nothing of it changes."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import clrtool
from clrtool.errors import ConfigError
from tests.documents import snippet


def job(batch_size=32, hidden=16):
    torch.manual_seed(5)
    x = torch.randn(640, 8, generator=torch.Generator().manual_seed(0))
    data = TensorDataset(x, (x @ torch.randn(8, 4, generator=torch.Generator().manual_seed(1))).argmax(1))
    model = nn.Sequential(nn.Linear(8, hidden), nn.ReLU(), nn.Linear(hidden, 4))
    loader = DataLoader(data, batch_size, shuffle=True, drop_last=True)
    return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), loader, DataLoader(data, 200)


def test_an_option_of_the_optimizer_is_set_in_every_group_of_the_copies_and_nothing_else_changes():
    model, optimizer, loader, held = job()
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    found = clrtool.vary(model, optimizer, loader, held, {"weight_decay": [0.0, 3.0]}, epochs=60)
    assert found.chosen == {"weight_decay": 0.0}
    assert found.verdict.word == "better"
    assert found.max_lr == 4 * found.base_lr
    seeds = {(value, probe.seed): probe.loss for value, probe in found.record.readings if probe.power == -3}
    assert len({*seeds.values()}) == len(seeds)  # whose batches come in another order each
    assert all(torch.equal(before[name], each) for name, each in model.state_dict().items())
    assert optimizer.param_groups[0]["weight_decay"] == 0
    assert torch.equal(random, torch.get_rng_state())


def test_batch_sizes_make_loaders_of_their_own_and_show_how_the_rate_grows(tmp_path):
    model, optimizer, loader, held = job()
    found = clrtool.vary(model, optimizer, loader, held, {"batch_size": [16, 32, 64]}, epochs=80)
    assert [each.batch_size for each in found.record.tried] == [16, 32, 64]
    assert [each.iterations_per_epoch for each in found.record.tried] == [40, 20, 10]
    assert found.batch_scaling.batch_sizes == (16, 32, 64)
    assert "growth" in str(found)
    found.plot(tmp_path / "sizes.png")
    assert (tmp_path / "sizes.png").stat().st_size > 10_000


def test_a_value_may_stand_for_arguments_of_its_own():
    model, optimizer, loader, held = job()
    widths = {
        width: {
            "model": lambda width=width: nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 4)),
            "optimizer": lambda model: torch.optim.Adam(model.parameters()),
        }
        for width in (1, 64)
    }
    found = clrtool.vary(model, optimizer, loader, held, {"width": widths}, epochs=60)
    assert found.chosen == {"width": 64}


def test_the_block_of_the_guide_runs_as_it_stands():
    model, optimizer, train_loader, heldout_loader = job()
    names = {"clrtool": clrtool, "model": model, "optimizer": optimizer, "train_loader": train_loader}
    exec(snippet("clrtool.vary("), names := {**names, "heldout_loader": heldout_loader})  # noqa: S102
    assert names["found"].chosen["weight_decay"] in (0.0, 1e-4, 1e-2)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({}, "one or two names"),
        ({"weight_decay": [0.0]}, "two or more different values"),
        ({"weight_decay": [0.0, 0.0]}, "two or more different values"),
        ({"weight_dekay": [0.0, 1.0]}, "did you mean 'weight_decay'?"),
        ({"batch_size": [32, "many"]}, "whole numbers of at least 1"),
        ({"width": {1: {"net": nn.Linear}, 2: {}}}, "may replace model, optimizer"),
        ({"width": {1: 3, 2: 4}}, "must be a mapping of arguments"),
        ({"a": [1, 2], "b": [1, 2], "c": [1, 2]}, "one or two names, it has 3"),
    ],
)
def test_what_cannot_be_varied_is_refused_in_the_words_of_python(values, says):
    with pytest.raises(ConfigError) as refused:
        clrtool.vary(*job(), values, epochs=20)
    assert says in str(refused.value)
    assert "--" not in str(refused.value)


def test_loaders_that_cannot_be_made_again_are_asked_for():
    model, optimizer, loader, held = job()
    with pytest.raises(ConfigError, match="give the loaders"):
        clrtool.vary(model, optimizer, list(loader), held, {"batch_size": [16, 32]}, epochs=20)
