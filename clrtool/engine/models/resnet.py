"""The residual network of He et al. for CIFAR."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from clrtool.engine.models.shapes import Depth, Shape, Size, image_shape
from clrtool.errors import ConfigError


def resnet(input_shape: Shape, num_classes: int, depth: Depth = 20, width: Size = 16) -> nn.Module:
    """The CIFAR residual network: ``depth = 6n + 2`` layers in three stages of ``width``, 2x and 4x channels.

    Source: He et al., arXiv 1512.03385, section 4.2, with its parameter-free shortcuts (option A).
    """
    if depth < 8 or (depth - 2) % 6:
        raise ConfigError(f"model.args.depth = {depth} must be 6n + 2: 8, 14, 20, 32, 44, 56 or 110")
    inputs = image_shape(input_shape)[0]
    layers: list[nn.Module] = [nn.Conv2d(inputs, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    inputs = width
    for outputs in (width, 2 * width, 4 * width):
        for block in range((depth - 2) // 6):
            stride = 2 if block == 0 and outputs > width else 1
            layers.append(BasicBlock(inputs, outputs, stride))
            inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, num_classes))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm around a shortcut that subsamples and pads channels with zeros."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.stride, self.padding = stride, outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        shortcut = x[:, :, :: self.stride, :: self.stride]
        return torch.relu(y + functional.pad(shortcut, (0, 0, 0, 0, 0, self.padding)))
