"""Caffe's networks for CIFAR-10, layer for layer: ``cifar10_full``, which the paper trains, and ``cifar10_quick``.

Source: Caffe, examples/cifar10; the paper takes the architecture from there (section 3.1). Layers have Caffe's names,
so that its ``lr_mult`` and ``decay_mult`` are rules of ``optimizer.groups``: configs/cifar10-full.yaml states them.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from clrtool.engine.models.shapes import Shape, image_shape
from clrtool.errors import ConfigError

Activation = Literal["relu", "sigmoid"]
Norm = Literal["lrn", "batch"]

ACTIVATIONS: dict[Activation, type[nn.Module]] = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid}
# Outputs of each convolution, and the standard deviation that its weights are drawn with.
CONVOLUTIONS = ((32, 1e-4), (32, 0.01), (64, 0.01))
# Three poolings halve the sides: less than this leaves nothing.
LEAST_PIXELS = 8


def cifar10_full(
    input_shape: Shape, num_classes: int, activation: Activation = "relu", norm: Norm = "lrn"
) -> nn.Module:
    """Three 5x5 convolutions, each pooled 3x3 by steps of 2, and a linear layer: (N, C, H, W) -> (N, num_classes).

    32x32 -> 16x16 -> 8x8 -> 4x4 pixels. Weights are drawn from N(0, std^2), biases are 0; with 3 channels and 10
    classes it has 89,578 parameters. ``activation: sigmoid`` with ``norm: batch`` is the network of the paper's
    section 4.1.1 (Fig. 6), whose convolutions have no bias.

    Source: Caffe, cifar10_full_train_test.prototxt and cifar10_full_sigmoid_train_test_bn.prototxt, as it is for
    Caffe's own BatchNorm layer.
    """
    layers, features = _features(input_shape, activation, norm)
    layers["ip1"] = gaussian(nn.Linear(features, num_classes), 0.01)
    return nn.Sequential(OrderedDict(layers))


def cifar10_quick(input_shape: Shape, num_classes: int) -> nn.Module:
    """``cifar10_full`` without its norms, with 64 linear units before the outputs: (N, C, H, W) -> (N, num_classes).

    Nothing stands between the two linear layers. With 3 channels and 10 classes it has 145,578 parameters.

    Source: Caffe, cifar10_quick_train_test.prototxt.
    """
    layers, features = _features(input_shape, "relu", None)
    layers["ip1"] = gaussian(nn.Linear(features, 64), 0.1)
    layers["ip2"] = gaussian(nn.Linear(64, num_classes), 0.1)
    return nn.Sequential(OrderedDict(layers))


def _features(input_shape: Shape, activation: Activation, norm: Norm | None) -> tuple[dict[str, nn.Module], int]:
    """The layers by name up to the flattened features, and the number of those."""
    inputs, height, width = image_shape(input_shape)
    if min(height, width) < LEAST_PIXELS:
        raise ConfigError(
            f"model: three poolings leave nothing of {height} x {width} pixels; it needs {LEAST_PIXELS} a side"
        )
    layers: dict[str, nn.Module] = {}
    for number, (outputs, std) in enumerate(CONVOLUTIONS, 1):
        # A batch norm takes any bias away again.
        layers[f"conv{number}"] = gaussian(nn.Conv2d(inputs, outputs, 5, padding=2, bias=norm != "batch"), std)
        # ceil_mode is Caffe's rule: the last window may stand over the border, and an average is that of its pixels.
        kind = nn.MaxPool2d if number == 1 else nn.AvgPool2d
        pool: dict[str, nn.Module] = {f"pool{number}": kind(3, stride=2, ceil_mode=True)}
        active: dict[str, nn.Module] = {f"bn{number}": RunningNorm(outputs)} if norm == "batch" else {}
        active[f"{activation}{number}"] = ACTIVATIONS[activation]()
        layers |= (pool | active) if number == 1 else (active | pool)
        if norm == "lrn" and number < len(CONVOLUTIONS):
            layers[f"norm{number}"] = WithinChannelNorm()
        inputs = outputs
    layers["flatten"] = nn.Flatten()
    return layers, inputs * (height // 8) * (width // 8)


def gaussian(layer: nn.Conv2d | nn.Linear, std: float) -> nn.Module:
    """The layer with weights drawn from N(0, std^2) and biases of 0."""
    nn.init.normal_(layer.weight, std=std)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class WithinChannelNorm(nn.Module):
    """Local response normalisation within a channel: y = x * (1 + alpha * mean(x^2))^-beta.

    The mean is over the ``size`` x ``size`` window around a pixel; pixels outside the image count as zeros, so that it
    always divides by size^2. torch's ``LocalResponseNorm`` is the other kind, across channels.

    Source: Caffe, lrn_layer.cpp, ``WITHIN_CHANNEL``, which takes its k as 1 whatever it is set to.
    """

    def __init__(self, size: int = 3, alpha: float = 5e-5, beta: float = 0.75) -> None:
        super().__init__()
        self.size, self.alpha, self.beta = size, alpha, beta

    def forward(self, x: Tensor) -> Tensor:
        mean = functional.avg_pool2d(x * x, self.size, stride=1, padding=self.size // 2, count_include_pad=True)
        return x * (1 + self.alpha * mean).pow(-self.beta)


class RunningNorm(nn.Module):
    """Batch normalisation without scale and shift, y = (x - mean) / sqrt(var + eps), evaluated with running averages.

    After t batches the running average of a statistic s is sum_i f^(t-i) s_i / sum_i f^(t-i), f the ``fraction``: of
    the batches seen alone. torch's ``BatchNorm2d`` averages its initial 0 and 1 in too, and with Caffe's 0.999 they
    would still be a third of it after 1,000 iterations, a good part of a range test.

    Source: Caffe, batch_norm_layer.cpp.
    """

    running_mean: Tensor
    running_var: Tensor
    weight_sum: Tensor

    def __init__(self, channels: int, fraction: float = 0.999, eps: float = 1e-5) -> None:
        super().__init__()
        self.fraction, self.eps = fraction, eps
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))  # before any batch; Caffe's is 0
        self.register_buffer("weight_sum", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return functional.batch_norm(x, self.running_mean, self.running_var, eps=self.eps)
        # With a momentum of 1 these two become the statistics of the batch, the variance the unbiased one.
        mean, var = torch.zeros_like(self.running_mean), torch.zeros_like(self.running_var)
        y = functional.batch_norm(x, mean, var, training=True, momentum=1.0, eps=self.eps)
        with torch.no_grad():
            self.weight_sum.mul_(self.fraction).add_(1)
            self.running_mean.lerp_(mean, 1 / self.weight_sum)
            self.running_var.lerp_(var, 1 / self.weight_sum)
        return y
