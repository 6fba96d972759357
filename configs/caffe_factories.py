"""Caffe's networks for CIFAR-10 and its SGD: the factories of cifar10-full, cifar10-sigmoid-bn and cifar10-resnet56.

Layers have Caffe's names, so that its ``lr_mult`` and ``decay_mult`` are rules of ``optimizer.groups``:
cifar10-full.yaml states them. For other images than those of CIFAR-10 give ``input_shape`` and ``num_classes``.

Source: Caffe, examples/cifar10, from where the paper takes its architecture (arXiv 1506.01186, section 3.1).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.optimizer import Optimizer, ParamsT

Shape = tuple[int, int, int]
Activation = Literal["relu", "sigmoid"]
Norm = Literal["lrn", "batch"]

CIFAR: Shape = (3, 32, 32)
ACTIVATIONS: dict[Activation, type[nn.Module]] = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid}
# Outputs of each convolution, and the standard deviation that its weights are drawn with.
CONVOLUTIONS = ((32, 1e-4), (32, 0.01), (64, 0.01))
# Three poolings halve the sides: less than this leaves nothing.
LEAST_PIXELS = 8


def cifar10_full(
    input_shape: Shape = CIFAR, num_classes: int = 10, activation: Activation = "relu", norm: Norm = "lrn"
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


def cifar10_quick(input_shape: Shape = CIFAR, num_classes: int = 10) -> nn.Module:
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
    inputs, height, width = input_shape
    if min(height, width) < LEAST_PIXELS:
        raise ValueError(f"three poolings leave nothing of {height} x {width} pixels; it needs {LEAST_PIXELS} a side")
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


def caffe_resnet(input_shape: Shape = CIFAR, num_classes: int = 10, depth: int = 56) -> nn.Module:
    """The residual network with which super-convergence was found: (N, C, H, W) -> (N, num_classes).

    ``depth = 6n + 2`` layers in three stages of 16, 32 and 64 channels. Convolutions are drawn from N(0, 2 / fan_in),
    the linear layer from U(-a, a) with a = sqrt(3 / fan_in), its bias is 0. Batch norm keeps 0.95 of its averages.
    Caffe gives its convolutions biases, which batch norm takes away again: here they have none.

    Source: Smith and Topin, arXiv 1708.07120, Resnet56Cifar.prototxt; "msra" and "xavier" of Caffe's filler.hpp; 0.95
    is that of their short runs. It is the network of He et al., arXiv 1512.03385, section 4.2, but for its shortcuts.
    """
    if depth < 8 or (depth - 2) % 6:
        raise ValueError(f"depth = {depth} must be 6n + 2: 8, 14, 20, 32, 44, 56 or 110")
    inputs = 16
    first = nn.Conv2d(input_shape[0], inputs, 3, padding=1, bias=False)
    layers: list[nn.Module] = [first, nn.BatchNorm2d(inputs), nn.ReLU()]
    for outputs in (16, 32, 64):
        for _ in range((depth - 2) // 6):
            layers.append(ResidualBlock(inputs, outputs))
            inputs = outputs
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, num_classes))
    network.apply(_begin_as_caffe)
    return network


def _begin_as_caffe(layer: nn.Module) -> None:
    """Draw the weights of one layer by Caffe's fillers."""
    if isinstance(layer, nn.Conv2d):
        nn.init.kaiming_normal_(layer.weight)
    elif isinstance(layer, nn.Linear):
        end = math.sqrt(3 / layer.in_features)
        nn.init.uniform_(layer.weight, -end, end)
        nn.init.zeros_(layer.bias)
    elif isinstance(layer, nn.BatchNorm2d):
        layer.momentum = 0.05


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm around a shortcut: y = relu(F(x) + shortcut(x)).

    A block with more outputs than inputs halves the pixels: its shortcut averages 3x3 of them by steps of 2, a window
    at the border what it has, and pads the channels with zeros.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.stride, self.padding = 2 if outputs > inputs else 1, outputs - inputs
        self.conv1 = nn.Conv2d(inputs, outputs, 3, self.stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        shortcut = functional.avg_pool2d(x, 3, self.stride, ceil_mode=True) if self.stride > 1 else x
        return torch.relu(y + functional.pad(shortcut, (0, 0, 0, 0, 0, self.padding)))


class CaffeSGD(Optimizer):
    """SGD with momentum, weight decay as part of the gradient, and the learning rate inside the buffer.

    v <- momentum * v + lr * (gradient + weight_decay * w)
    w <- w - v, with ``nesterov`` w <- w - (1 + momentum) * v + momentum * v_before

    ``torch.optim.SGD`` keeps v <- momentum * v + gradient and multiplies by the learning rate of today. The two are
    one while the learning rate is constant. Where it changes, a gradient here goes on with the rate that it was met
    with, and there with the rate of each later step: along a sweep, in every cycle, after every drop.

    Args:
        params: parameters, or groups of them with options of their own.
        lr: learning rate, at least 0; a tensor is read where it lies.
        momentum: from 0 to below 1.
        weight_decay: at least 0.
        nesterov: Caffe's ``Nesterov`` solver.

    Raises:
        ValueError: a value is out of its range.

    Source: Caffe, sgd_solver.cpp and nesterov_solver.cpp.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 0.001,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        if not lr >= 0:
            raise ValueError(f"lr = {lr} must be at least 0")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum = {momentum} must be from 0 to below 1")
        if not weight_decay >= 0:
            raise ValueError(f"weight_decay = {weight_decay} must be at least 0")
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "nesterov": nesterov}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for w in group["params"]:
                if w.grad is not None:
                    _update(w, w.grad, self.state[w], group)
        return loss


caffe_sgd = CaffeSGD  # as the other factories are spelt


def _update(w: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    """One parameter in place; its buffer v is made in its first step."""
    if not state:
        state["momentum_buffer"] = torch.zeros_like(w)
    v, momentum = state["momentum_buffer"], group["momentum"]
    moved = gradient.add(w, alpha=group["weight_decay"]) * group["lr"]
    v.mul_(momentum).add_(moved)
    # (1 + momentum) v - momentum v_before is momentum v + moved, for momentum v_before is v - moved.
    w.sub_(moved.add(v, alpha=momentum) if group["nesterov"] else v)
