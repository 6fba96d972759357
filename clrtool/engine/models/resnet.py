"""Residual networks for CIFAR: ``resnet`` of He et al., and ``caffe_resnet``, which showed super-convergence."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from clrtool.engine.models.shapes import Depth, Shape, Size, image_shape
from clrtool.errors import ConfigError


def resnet(input_shape: Shape, num_classes: int, depth: Depth = 20, width: Size = 16) -> nn.Module:
    """The CIFAR residual network: ``depth = 6n + 2`` layers in three journal of ``width``, 2x and 4x channels.

    Source: He et al., arXiv 1512.03385, section 4.2, with its parameter-free shortcuts (option A).
    """
    return _resnet(input_shape, num_classes, depth, width, averages=False)


def caffe_resnet(input_shape: Shape, num_classes: int, depth: Depth = 56) -> nn.Module:
    """``resnet`` as arXiv 1708.07120 ran it in Caffe: other shortcuts, initial weights and running averages.

    Where a shortcut subsamples it averages 3x3 pixels. Convolutions are drawn from N(0, 2 / fan_in), the linear layer
    from U(-a, a) with a = sqrt(3 / fan_in), its bias is 0. Batch norm keeps 0.95 of its averages. Caffe gives its
    convolutions biases, which batch norm takes away again: here they have none.

    Source: Smith and Topin, Resnet56Cifar.prototxt; "msra" and "xavier" of Caffe's filler.hpp; 0.95 is that of their
    short runs.
    """
    network = _resnet(input_shape, num_classes, depth, 16, averages=True)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
        elif isinstance(layer, nn.Linear):
            end = math.sqrt(3 / layer.in_features)
            nn.init.uniform_(layer.weight, -end, end)
            nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 0.05
    return network


def _resnet(input_shape: Shape, num_classes: int, depth: int, width: int, *, averages: bool) -> nn.Module:
    if depth < 8 or (depth - 2) % 6:
        raise ConfigError(f"model.args.depth = {depth} must be 6n + 2: 8, 14, 20, 32, 44, 56 or 110")
    inputs = image_shape(input_shape)[0]
    layers: list[nn.Module] = [nn.Conv2d(inputs, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    inputs = width
    for outputs in (width, 2 * width, 4 * width):
        for block in range((depth - 2) // 6):
            stride = 2 if block == 0 and outputs > width else 1
            layers.append(BasicBlock(inputs, outputs, stride, averages=averages))
            inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, num_classes))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm around a shortcut that subsamples and pads channels with zeros.

    Args:
        averages: whether the shortcut averages 3x3 pixels where it subsamples, a window at the border what it has.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, *, averages: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.stride, self.padding = stride, outputs - inputs
        self.averages = averages and stride > 1

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        if self.averages:
            shortcut = functional.avg_pool2d(x, 3, self.stride, ceil_mode=True)
        else:
            shortcut = x[:, :, :: self.stride, :: self.stride]
        return torch.relu(y + functional.pad(shortcut, (0, 0, 0, 0, 0, self.padding)))
