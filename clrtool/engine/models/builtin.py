"""Built-in models: ``mlp`` and ``convnet``, beside the residual network and the transformers."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import wraps
from typing import Any, Literal

import torch
from torch import nn

from clrtool.engine.models.resnet import resnet
from clrtool.engine.models.shapes import Rate, Shape, Sizes, image_shape
from clrtool.engine.models.transformer import gpt, vit
from clrtool.engine.runtime.hardware import total_memory
from clrtool.errors import ConfigError, MachineError

Activation = Literal["relu", "gelu", "silu", "tanh", "sigmoid"]

ACTIVATIONS: dict[Activation, type[nn.Module]] = {
    "relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid
}  # fmt: skip


def mlp(
    input_shape: Shape,
    num_classes: int,
    hidden: Sizes = (64,),
    activation: Activation = "relu",
    dropout: Rate = 0.0,
) -> nn.Module:
    """Fully connected layers of ``hidden`` widths over the flattened input (N, ...) -> (N, num_classes)."""
    layers: list[nn.Module] = [nn.Flatten()]
    width = math.prod(input_shape)
    for outputs in hidden:
        layers += [nn.Linear(width, outputs), ACTIVATIONS[activation]()]
        layers += [nn.Dropout(dropout)] if dropout else []
        width = outputs
    return nn.Sequential(*layers, nn.Linear(width, num_classes))


def convnet(
    input_shape: Shape, num_classes: int, channels: Sizes = (16, 32, 32), batch_norm: bool = False
) -> nn.Module:
    """For each entry of ``channels`` a 3x3 convolution, ReLU and 2x2 max pooling, then one linear layer."""
    inputs, height, width = image_shape(input_shape)
    layers: list[nn.Module] = []
    for outputs in channels:
        layers.append(nn.Conv2d(inputs, outputs, 3, padding=1, bias=not batch_norm))
        layers += [nn.BatchNorm2d(outputs)] if batch_norm else []
        layers += [nn.ReLU(), nn.MaxPool2d(2)]
        inputs, height, width = outputs, height // 2, width // 2
    if height * width == 0:
        raise ConfigError(f"model.args.channels: {len(channels)} poolings leave nothing of {input_shape[1:]} pixels")
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(inputs * height * width, num_classes))


def sized(make: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """The same model, but MachineError before any memory is taken for one that could not be trained here."""

    @wraps(make)
    def build(*args: Any, **options: Any) -> nn.Module:
        with torch.device("meta"):
            size = sum(parameter.numel() for parameter in make(*args, **options).parameters())
        # of 4 bytes each: the weights, their gradient, and an average of it
        if 12 * size > total_memory():
            raise MachineError(
                f"model.args: training {size:,} parameters takes {12 * size / 1e9:,.3g} GB of memory, this machine has "
                f"{total_memory() / 1e9:,.3g}; make the model smaller"
            )
        return make(*args, **options)

    return build


MODELS = {make.__name__: sized(make) for make in (mlp, convnet, resnet, vit, gpt)}
