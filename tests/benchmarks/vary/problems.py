"""Small real jobs with a second value beside the rate, as configs whose factories stand here.

``PROBLEMS[name]`` is a config as a file would hold it, the key that is varied, and its values. The training to the end
in :mod:`tests.benchmarks.vary.grids` reads the same config in plain PyTorch.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.benchmarks.workloads import data as sets
from tests.benchmarks.workloads import networks

HERE = "tests.benchmarks.vary.problems"
# What unpack_cifar10.py writes; none of it belongs to the project.
CIFAR = Path(__file__).resolve().parents[3] / "runs" / "cifar10" / "cifar10.npz"


@functools.cache
def small_cifar(train: int = 4000, heldout: int = 1000) -> sets.Data:
    """The first images of CIFAR-10 in a random order, each channel with mean 0 and deviation 1."""
    with np.load(CIFAR, allow_pickle=False) as arrays:
        order = np.random.default_rng(0).permutation(len(arrays["y_train"]))[: train + heldout]
        x = torch.tensor(arrays["x_train"][order]).permute(0, 3, 1, 2).float() / 255
        y = torch.tensor(arrays["y_train"][order]).long()
    return sets.split((x - x.mean((0, 2, 3), keepdim=True)) / x.std((0, 2, 3), keepdim=True), y, train)


def cifar_convnet() -> nn.Module:
    """Three strided convolutions with batch norm, for CIFAR-10."""
    layers = (each for sizes in ((3, 16), (16, 32), (32, 32)) for each in (networks.convolution(*sizes, 2), nn.ReLU()))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 10))


DATA: Mapping[str, Callable[[], sets.Data]] = {
    "digits": sets.labelled_digits,
    "shaken": sets.shaken_digits,
    "heavy_tails": sets.heavy_tails,
    "chains": sets.joined_chains,
    "cifar": small_cifar,
}
MODELS: Mapping[str, Callable[[], nn.Module]] = {
    "mlp": lambda: nn.Sequential(nn.Flatten(), networks.mlp(64, 64, 64, 10)),
    "convnet": networks.small_convnet,
    "transformer": networks.vision_transformer,
    "regression": lambda: networks.mlp(6, 64, 64, 1),
    "pretrained": networks.pretrained_encoder,
    "lora": networks.adapted_encoder,
    "cifar": cifar_convnet,
}


def model(name: str) -> nn.Module:
    """The factory of a config's model."""
    return MODELS[name]()


def data(name: str) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The factory of a config's data."""
    x, y, x_held, y_held = DATA[name]()
    return (x, y), (x_held, y_held)


@dataclass(frozen=True)
class Problem:
    """A config, a key of it, and the values of that key that are tried."""

    config: Mapping[str, Any]
    key: str
    values: Sequence[float]

    def with_value(self, value: float) -> dict[str, Any]:
        """The config with a value of the key."""
        changed = copy.deepcopy(dict(self.config))
        *above, last = self.key.split(".")
        place: Any = changed
        for name in above:
            place = place[int(name)] if isinstance(place, list) else place.setdefault(name, {})
        place[last] = value
        return changed

    @property
    def own(self) -> float:
        """The value that the config itself has; the first, where it leaves it out."""
        place: Any = self.config
        for name in self.key.split("."):
            place = place[int(name)] if isinstance(place, list) else place.get(name, {})
        return self.values[0] if place == {} else place


def job(
    network: str, samples: str, optimizer: str, batch_size: int, epochs: float, loss: str = "cross_entropy", **args: Any
) -> dict[str, Any]:
    """A config of one of the jobs."""
    return {
        "model": {"factory": f"{HERE}:model", "args": {"name": network}},
        "data": {"factory": f"{HERE}:data", "args": {"name": samples}, "batch_size": batch_size},
        "optimizer": {"name": optimizer, "args": args},
        "loss": {"name": loss},
        "metric": "accuracy" if loss == "cross_entropy" else "loss",
        "plan": {"epochs": epochs},
    }


def grouped(config: dict[str, Any], *patterns: str) -> dict[str, Any]:
    """The same with a group of the optimizer's for some of the parameters."""
    return {**config, "optimizer": config["optimizer"] | {"groups": [{"params": [*patterns], "lr_ratio": 1.0}]}}


MLP = job("mlp", "digits", "SGD", 32, 24, momentum=0.9)
DECAY, MOMENTUM, BATCH = "optimizer.args.weight_decay", "optimizer.args.momentum", "data.batch_size"
RATIO, LAYERS, RATIOS = "optimizer.groups.0.lr_ratio", "optimizer.layer_decay", (0.25, 1.0, 4.0)
PROBLEMS: Mapping[str, Problem] = {
    "mlp-sgd-decay": Problem(MLP, DECAY, (0, 1e-4, 1e-3, 1e-2)),
    "mlp-sgd-batch": Problem(job("mlp", "shaken", "SGD", 32, 8, momentum=0.9), BATCH, (16, 32, 64, 128)),
    "regression-adam-batch": Problem(
        job("regression", "heavy_tails", "Adam", 32, 40, "SmoothL1Loss"), BATCH, (16, 32, 64, 128)
    ),
    "convnet-sgd-momentum": Problem(
        job("convnet", "digits", "SGD", 32, 24, momentum=0.9), MOMENTUM, (0.5, 0.8, 0.9, 0.95)
    ),
    "finetune-adamw-decay": Problem(job("pretrained", "chains", "AdamW", 16, 20), DECAY, (0, 0.01, 0.1, 1.0)),
    "transformer-adamw-decay": Problem(job("transformer", "digits", "AdamW", 32, 24), DECAY, (0, 0.01, 0.1, 1.0)),
    "digits-convnet-batch": Problem(job("convnet", "digits", "SGD", 32, 24, momentum=0.9), BATCH, (16, 32, 64, 128)),
    "cifar-convnet-batch": Problem(job("cifar", "cifar", "SGD", 32, 8, momentum=0.9), BATCH, (16, 32, 64, 128)),
    "finetune-sgd-momentum": Problem(
        job("pretrained", "chains", "SGD", 16, 20, momentum=0.9), MOMENTUM, (0.5, 0.8, 0.9, 0.95)
    ),
    "regression-sgd-momentum": Problem(
        job("regression", "heavy_tails", "SGD", 32, 24, "SmoothL1Loss", momentum=0.9), MOMENTUM, (0.5, 0.8, 0.9, 0.95)
    ),
    "regression-adamw-decay": Problem(
        job("regression", "heavy_tails", "AdamW", 32, 24, "SmoothL1Loss"), DECAY, (0, 0.01, 0.1, 1.0)
    ),
    "finetune-adamw-head": Problem(grouped(job("pretrained", "chains", "AdamW", 16, 20), "head.*"), RATIO, RATIOS),
    "lora-adamw-up": Problem(grouped(job("lora", "chains", "AdamW", 16, 20), "*.up"), RATIO, RATIOS),
    "finetune-adamw-layers": Problem(job("pretrained", "chains", "AdamW", 16, 20), LAYERS, (1.0, 0.7, 0.5)),
}
