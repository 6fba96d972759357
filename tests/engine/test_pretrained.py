"""Weights from files, what is drawn anew, and what does not train."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from clrtool.config.components import ModelConfig
from clrtool.engine.models.pretrained import keep_frozen_statistics, read_weights, with_weights
from clrtool.engine.training.trainer import Trainer
from clrtool.errors import ConfigError, MachineError
from tests.engine.workloads import digits


def network():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 10))


def _with(state):
    model = network()
    model.load_state_dict(state)
    return model


def made(path, **changes):
    return with_weights(network, ModelConfig(name="mlp", weights=str(path), **changes))()


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": {f"module.{name}": value for name, value in state.items()}},
        lambda state: {"net": state, "acc": 93.1, "epoch": 3},
        lambda state: torch.optim.swa_utils.AveragedModel(_with(state)).state_dict(),
    ],
)
def test_weights_come_from_a_file_of_torch_in_the_forms_that_people_save(tmp_path, wrapped):
    state = network().state_dict()
    torch.save(wrapped(state), tmp_path / "a.pt")
    for name, value in made(tmp_path / "a.pt").state_dict().items():
        assert torch.equal(value, state[name])


def test_weights_come_from_safetensors_and_fresh_ones_are_drawn_anew(tmp_path):
    state = network().state_dict()
    save_file(state, tmp_path / "a.safetensors")
    model = made(tmp_path / "a.safetensors", fresh=["3.*"]).state_dict()
    assert torch.equal(model["0.weight"], state["0.weight"])
    assert not torch.equal(model["3.weight"], state["3.weight"])


def test_a_head_of_another_size_is_named_with_what_to_do(tmp_path):
    state = network().state_dict() | {"3.weight": torch.zeros(1000, 144), "extra": torch.zeros(1)}
    del state["0.bias"]
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(ConfigError) as caught:
        made(tmp_path / "a.pt")
    for part in (
        "has no 0.bias",
        "has extra, which the model lacks",
        "has 3.weight as (1000, 144), the model as (10, 144)",
        "model.fresh",
    ):
        assert part in str(caught.value)


class Exploit:
    def __reduce__(self):
        return print, ("run",)


def test_a_file_that_would_run_code_or_is_no_weights_is_refused(tmp_path, capsys):
    torch.save({"a": Exploit()}, tmp_path / "code.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({3: torch.ones(1)}, tmp_path / "number.pt")
    torch.save({"a": torch.tensor([float("nan")])}, tmp_path / "nan.pt")
    (tmp_path / "text.pt").write_text("hello")
    (tmp_path / "text.safetensors").write_text("hello")
    for name in ("code.pt", "list.pt", "number.pt", "nan.pt", "text.pt", "text.safetensors"):
        with pytest.raises(ConfigError, match=r"model.weights: .*" + name):
            read_weights(tmp_path / name)
    assert capsys.readouterr().out == ""
    with pytest.raises(MachineError, match="does not exist"):
        read_weights(tmp_path / "none.pt")


def test_a_file_that_was_cut_short_or_is_of_another_kind_is_told_from_one_that_would_run_code(tmp_path):
    torch.save(network().state_dict(), tmp_path / "a.pt")
    save_file(network().state_dict(), tmp_path / "a.safetensors")
    for name in ("a.pt", "a.safetensors"):
        file = tmp_path / name
        file.write_bytes(file.read_bytes()[:-100])
    (tmp_path / "b.pt").write_text("hello\n")
    for name in ("a.pt", "a.safetensors", "b.pt"):
        with pytest.raises(ConfigError, match="cut short"):
            made(tmp_path / name)


def test_several_state_dicts_under_names_of_their_own_are_refused_by_name(tmp_path):
    state = network().state_dict()
    torch.save({"generator": state, "critic": state}, tmp_path / "a.pt")
    with pytest.raises(ConfigError, match="alone or as state_dict; it holds generator, critic"):
        made(tmp_path / "a.pt")
    torch.save({"weight": torch.ones(2, 2), "epoch": 3}, tmp_path / "a.pt")
    with pytest.raises(ConfigError, match="it holds weight, epoch"):
        made(tmp_path / "a.pt")


def test_what_is_frozen_does_not_change_not_even_its_statistics():
    workload = digits(
        model={"name": "convnet", "args": {"channels": [4], "batch_norm": True}, "freeze": ["0.*", "1.*"]}
    )
    with workload.on_device():
        trainer = Trainer(workload, 0)
        before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
        trainer.train(0, [0.1] * 5)
        changed = {name for name, value in trainer.model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"5.weight", "5.bias"}
    assert sum(group.parameters for group in workload.groups) == sum(before[name].numel() for name in changed)


def test_a_batch_norm_without_parameters_or_with_one_that_trains_keeps_learning_its_statistics():
    model = nn.Sequential(nn.BatchNorm2d(4, affine=False), nn.BatchNorm2d(4)).train()
    model[1].weight.requires_grad = False
    keep_frozen_statistics(model)
    assert model[0].training
    assert model[1].training


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"freeze": ["conv*"]}, r"model.freeze: no parameter of the model fits 'conv\*'"),
        ({"freeze": ["*"]}, "has no parameter to train"),
        ({"fresh": ["1.*"]}, "there are no model.weights"),
    ],
)
def test_a_pattern_that_fits_nothing_or_all_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        digits(model={"name": "mlp"} | changes | {"args": {}})
