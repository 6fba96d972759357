"""The rate that falls from block to block: held against the groups that a person would write for known networks."""

import pytest
import torch
import torchvision
from torch import nn

import clrtool
from clrtool.config.components import OptimizerConfig
from clrtool.engine.inprocess.variants import with_value
from clrtool.engine.training.layers import depths
from clrtool.engine.training.optimizers import OptimizerRecipe
from clrtool.errors import ConfigError


def names_of(model):
    return [name for name, _ in model.named_parameters()]


def test_blocks_of_a_residual_network_are_counted_from_its_head_down():
    found = depths(names_of(torchvision.models.resnet18()))
    blocks = [f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1)]
    for name, depth in found.items():
        wanted = 0 if name.startswith("fc") else 9 if name.startswith(("conv1", "bn1")) else None
        assert depth == (8 - blocks.index(name[:8]) if wanted is None else wanted)


def test_layers_of_bert_are_counted_as_discriminative_fine_tuning_does():
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(num_hidden_layers=3, hidden_size=8, num_attention_heads=2, intermediate_size=8)
    found = depths(names_of(transformers.BertForSequenceClassification(config)))
    for name, depth in found.items():
        layer = name.partition("encoder.layer.")[2]
        assert depth == (3 - int(layer[0]) if layer else 4 if "embeddings" in name else 0)


def test_a_sequence_has_a_block_a_layer_also_within_another_and_modules_without_numbers_are_blocks():
    inner = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    for model in (inner, nn.Sequential(nn.Flatten(), inner)):
        assert [*depths(names_of(model)).values()] == [2, 2, 1, 1, 0, 0]
    assert depths(["one.weight", "one.bias", "two.weight"]) == {"one.weight": 1, "one.bias": 1, "two.weight": 0}
    assert depths(["weight", "bias"]) == {"weight": 0, "bias": 0}


def recipe(**more):
    return OptimizerRecipe(torch.optim.AdamW, OptimizerConfig(name="AdamW", **more))


def test_a_config_and_a_program_give_every_parameter_the_rate_that_its_depth_says():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    wanted = {name: 0.5 ** (2 - int(name[0])) for name in names_of(model)}
    groups = [{"params": ["*.bias"], "lr_ratio": 4.0}]
    made = recipe(layer_decay=0.5, groups=groups)(model)
    program = torch.optim.AdamW(model.parameters(), lr=0.1)
    mine = with_value({"model": model, "optimizer": program}, "layer_decay", 0.5, None)["optimizer"](model)
    assert mine.param_groups[0]["lr"] == 0.1  # of the head, to which all ratios are
    for name, parameter in model.named_parameters():
        (group,) = (each for each in made.param_groups if any(parameter is one for one in each["params"]))
        assert group["lr_ratio"] == wanted[name] * (4 if name.endswith("bias") else 1)
        (group,) = (each for each in mine.param_groups if any(parameter is one for one in each["params"]))
        assert group["lr"] == pytest.approx(0.1 * wanted[name])


def test_a_decay_of_one_changes_no_hash_and_one_layer_has_nothing_below_it():
    assert "layer_decay" not in OptimizerConfig().model_dump()
    assert OptimizerConfig(layer_decay=0.9).model_dump()["layer_decay"] == 0.9
    with pytest.raises(ConfigError, match="single layer"):
        recipe(layer_decay=0.5)(nn.Sequential(nn.Linear(4, 2)))


def test_a_decay_by_layer_is_varied_in_a_program():
    x = torch.randn(512, 4, generator=torch.Generator().manual_seed(0))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, x.argmax(1)), 32, shuffle=True)
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    found = clrtool.vary(model, optimizer, loader, loader, {"layer_decay": [1.0, 1e-6]}, epochs=40)
    assert set(found.chosen) == {"layer_decay"}
    with pytest.raises(ConfigError, match="at most 1"):
        clrtool.vary(model, optimizer, loader, loader, {"layer_decay": [1.0, 2.0]}, epochs=40)
