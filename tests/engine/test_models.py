"""The built-in models: shapes, sizes that the papers state, and rules."""

from itertools import product

import numpy as np
import pytest
import torch
from torch import nn

from clrtool.engine.models.builtin import MODELS, caffe_resnet, convnet, mlp, resnet
from clrtool.engine.models.resnet import BasicBlock
from clrtool.errors import ConfigError


def size(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", sorted(set(MODELS) - {"gpt"}))
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32)])
def test_every_model_gives_one_output_a_class(name, shape):
    assert MODELS[name](shape, 7)(torch.zeros(2, *shape)).shape == (2, 7)


def test_an_mlp_takes_vectors():
    assert mlp((5,), 3, hidden=[4, 4], activation="tanh", dropout=0.5)(torch.zeros(2, 5)).shape == (2, 3)


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)])
def test_the_cifar_resnet_has_the_size_of_its_paper(depth, millions):
    # He et al., arXiv 1512.03385, table 6.
    assert size(resnet((3, 32, 32), 10, depth=depth)) / 1e6 == pytest.approx(millions, abs=0.03)


def test_the_residual_network_of_caffe_averages_windows_in_its_shortcuts_by_hand():
    block = BasicBlock(2, 4, stride=2, averages=True).eval()
    nn.init.zeros_(block.norm2.weight)  # leaves the shortcut
    x = torch.rand(1, 2, 6, 6, generator=torch.Generator().manual_seed(0))
    y = block(x).detach().numpy()
    for row, column in product(range(3), range(3)):  # Caffe divides by the pixels that a window has
        window = x[:, :, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3].numpy()
        np.testing.assert_allclose(y[:, :2, row, column], window.mean(axis=(2, 3)), rtol=1e-6)
    assert not y[:, 2:].any()


def test_the_residual_network_of_caffe_begins_with_its_fillers_and_keeps_its_averages():
    torch.manual_seed(0)
    model = caffe_resnet((3, 32, 32), 10)
    assert size(model) == size(resnet((3, 32, 32), 10, depth=56))
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d) and layer.weight.numel() > 5000:
            deviation = (2 / (layer.in_channels * 9)) ** 0.5
            assert layer.weight.std().item() == pytest.approx(deviation, rel=0.05)
        elif isinstance(layer, nn.BatchNorm2d):
            assert layer.momentum == 0.05
    linear = model[-1]
    assert linear.weight.abs().max().item() == pytest.approx((3 / 64) ** 0.5, rel=0.02)
    assert linear.weight.std().item() == pytest.approx((1 / 64) ** 0.5, rel=0.05)
    assert not linear.bias.any()


def test_the_sizes_of_mlp_and_convnet_are_their_sums():
    assert size(mlp((1, 8, 8), 10, hidden=[64])) == 64 * 64 + 64 + 64 * 10 + 10
    assert size(convnet((3, 32, 32), 10, channels=[16, 32])) == 3 * 9 * 16 + 16 + 16 * 9 * 32 + 32 + 32 * 64 * 10 + 10


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        (lambda: resnet((3, 32, 32), 10, depth=21), "must be 6n"),
        (lambda: convnet((1, 8, 8), 10, channels=[4] * 4), "4 poolings leave nothing"),
        (lambda: convnet((64,), 10), "needs images"),
    ],
)
def test_what_cannot_be_built_is_refused_with_its_rule(make, rule):
    with pytest.raises(ConfigError, match=rule):
        make()
