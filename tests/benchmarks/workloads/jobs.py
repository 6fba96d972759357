"""Small real training jobs of many kinds, each with a best learning rate that is known, in plain PyTorch.

``WORKLOADS[name]`` hands everything to any tool as factories: ``model()``, ``data()`` -> (x_train, y_train, x_val,
y_val), ``optimizer(model, lr)``, and ``loss(outputs, targets)`` or ``step(model, (x, y)) -> loss``; ``clip`` is the
norm that gradients are cut to, or None. The score is the mean held-out loss; where ``accuracy`` is true the accuracy or,
with ``measure(model, (x, y)) -> (sum, number)``, the mean of that. ``constant`` is what the best constant answer scores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.benchmarks.workloads import data, networks
from tests.benchmarks.workloads.data import Data

Loss = Callable[[Tensor, Tensor], Tensor]
Step = Callable[[nn.Module, Sequence[Tensor]], Tensor]
Measure = Callable[[nn.Module, Sequence[Tensor]], tuple[Tensor, int]]


@dataclass(frozen=True)
class Workload:
    """A training job: what is trained, on what, how and for how long."""

    model: Callable[[], nn.Module]
    data: Callable[[], Data]
    optimizer: Callable[[nn.Module, float], torch.optim.Optimizer]
    loss: Loss | None
    batch_size: int
    epochs: int
    accuracy: bool = False
    clip: float | None = None
    constant_score: float | None = None  # where the loss is none of those that `constant` knows
    step: Step | None = None  # in place of a loss; a held-out batch is as large as one that is trained on
    measure: Measure | None = None


def by(name: str, **options: Any) -> Callable[[nn.Module, float], torch.optim.Optimizer]:
    """Make the optimizer of this name for the parameters that are trained."""

    def make(model: nn.Module, lr: float) -> torch.optim.Optimizer:
        trained = [p for p in model.parameters() if p.requires_grad]
        return getattr(torch.optim, name)(trained, lr=lr, **options)  # type: ignore[no-any-return]

    return make


def tokens_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of every place of a sequence."""
    return functional.cross_entropy(outputs.flatten(0, 1), targets.flatten())


def detection_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of the class and twenty times a smooth distance of the boxes."""
    box = functional.smooth_l1_loss(outputs[:, 2:], targets[:, 1:], beta=0.1)
    return functional.cross_entropy(outputs[:, :2], targets[:, 0].long()) + 20 * box


def variational_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """For each pixel, the likelihood of a normal one of deviation 0.15 and the divergence of the code from normal."""
    pixels, code = outputs[:, :64], outputs[:, 64:]
    mean, log_variance = code.chunk(2, 1)
    divergence = (mean**2 + log_variance.exp() - 1 - log_variance).sum(1).mean() / 2
    return mse(pixels, targets) / (2 * 0.15**2) + divergence / 64


def fitted_constant(loss: Loss, targets: Tensor, start: Tensor) -> float:
    """The loss of the best constant output, found from ``start`` for a convex loss."""
    output = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([output], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(output.expand(len(targets), -1), targets)
        value.backward()
        return value

    optimizer.step(closure)  # type: ignore[arg-type]
    return float(closure().detach())


mse, bce, ce = functional.mse_loss, functional.binary_cross_entropy_with_logits, functional.cross_entropy
smooth = functional.smooth_l1_loss

WORKLOADS: dict[str, Workload] = {
    "transformer-finetune-adamw": Workload(
        networks.pretrained_encoder, data.joined_chains, by("AdamW"), ce, 16, 6, accuracy=True
    ),
    "lora-adamw": Workload(networks.adapted_encoder, lambda: data.joined_chains(1600), by("AdamW"), ce, 16, 4),
    "gru-lm-adam": Workload(networks.Characters, data.text, by("Adam"), tokens_loss, 32, 6, clip=1.0),
    "detector-adam": Workload(
        networks.detector,
        data.objects,
        by("Adam"),
        detection_loss,
        32,
        8,
        constant_score=fitted_constant(detection_loss, data.objects()[3], torch.zeros(5)),
    ),
    "vae-adam": Workload(
        networks.Variational,
        data.digits_as_targets,
        by("Adam"),
        variational_loss,
        32,
        12,
        constant_score=fitted_constant(variational_loss, data.digits_as_targets()[3], torch.zeros(64 + 12)),
    ),
    "vit-adamw": Workload(networks.vision_transformer, data.labelled_digits, by("AdamW", weight_decay=0.05), ce, 32, 6),
    "seq2seq-adam": Workload(networks.SequenceToSequence, data.tokens_to_sort, by("Adam"), tokens_loss, 16, 2),
    "gcn-adam": Workload(networks.GraphNetwork, data.nodes, by("Adam"), ce, 48, 30),
    "deep-mlp-rmsprop": Workload(
        lambda: networks.mlp(6, 64, 64, 64, 64, 1),
        data.heavy_tails,
        by("RMSprop"),
        smooth,
        32,
        10,
        constant_score=fitted_constant(smooth, data.heavy_tails()[3], torch.full((1,), 100.0)),
    ),
    "resnet-sgd": Workload(
        networks.resnet, data.labelled_digits, by("SGD", momentum=0.9, weight_decay=5e-4), ce, 32, 6
    ),
    "long-cnn-sgd": Workload(networks.small_convnet, data.shaken_digits, by("SGD", momentum=0.9), ce, 16, 7),
}


def constant(workload: Workload) -> float:
    """What the best constant answer scores on the held-out set; a network that does no better is not trained."""
    _, _, _, y = workload.data()
    if workload.constant_score is not None:
        return workload.constant_score
    if workload.accuracy:
        return float(torch.bincount(y).max()) / len(y)
    if workload.loss is mse:
        return float(((y - y.mean(0)) ** 2).mean())
    if workload.loss is bce:
        share = y.mean(0).clamp(1e-6, 1 - 1e-6) if y.dim() == 2 else y.mean().clamp(1e-6, 1 - 1e-6)
        return float(-(share * share.log() + (1 - share) * (1 - share).log()).mean())
    share = torch.bincount(y.flatten()).float() / y.numel()
    return float(-(share[share > 0] * share[share > 0].log()).sum())
