"""The built-in models: shapes, sizes that the papers state, and rules."""

import pytest
import torch

from clrtool.engine.models.builtin import MODELS, convnet, mlp, resnet
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
