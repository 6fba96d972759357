"""The factories of custom.yaml: replace both bodies by your own; their arguments come from the config's ``args``."""

import math

import torch
from torch import nn


def make_model(width: int) -> nn.Module:
    """Any module whose output is (batch, classes)."""
    return nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2))


def make_data(samples: int):
    """Return (train, heldout), each a pair of tensors (inputs, labels) or a dataset with a length."""
    generator = torch.Generator().manual_seed(0)
    angle = math.pi * torch.rand(samples, generator=generator)
    label = torch.arange(samples) % 2
    moon = torch.stack([angle.cos(), angle.sin()], 1)
    points = torch.where(label[:, None] == 1, torch.tensor([1.0, 0.4]) - moon, moon)
    points += 0.15 * torch.randn(points.shape, generator=generator)
    cut = samples * 3 // 4
    return (points[:cut], label[:cut]), (points[cut:], label[cut:])
