"""Small real problems whose best learning rate is known, as factories for a config: eight here, six beside the project.

The eight are of other kinds than the six, on which the rule was made: recurrent networks, a transformer, tables,
optimizers without momentum or with a rate of their own.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from clrtool.engine.data import datasets

HERE = Path(__file__).resolve().parent
SHARED = HERE.parents[3] / "shared" / "regret"
Split = tuple[Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Workload:
    """``data()`` gives x_train, y_train, x_val, y_val; ``epochs`` is the training that a recommendation is scored in."""

    model: Callable[[], nn.Module]
    data: Callable[[], Split]
    optimizer_spec: dict[str, Any]
    batch_size: int
    epochs: int
    channels_last: bool = field(default=False)

    def optimizer(self, params: Any, lr: float) -> torch.optim.Optimizer:
        made: torch.optim.Optimizer = getattr(torch.optim, self.optimizer_spec["name"])(
            params, lr=lr, **self.optimizer_spec["args"]
        )
        return made


class Recurrent(nn.Module):
    """A recurrent layer over the rows, and a linear one over its last state."""

    def __init__(self, kind: type[nn.RNNBase], inputs: int, outputs: int, hidden: int = 48) -> None:
        super().__init__()
        self.recurrent = kind(inputs, hidden, batch_first=True)  # type: ignore[arg-type]
        self.head = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.recurrent(x.squeeze(1) if x.ndim == 4 else x)[0][:, -1])  # type: ignore[no-any-return]


class Transformer(nn.Module):
    """Two layers of attention over the rows, and a linear one over their mean."""

    def __init__(self, inputs: int = 8, length: int = 8, outputs: int = 10, width: int = 48) -> None:
        super().__init__()
        self.embed = nn.Linear(inputs, width)
        self.position = nn.Parameter(0.02 * torch.randn(1, length, width))
        layer = nn.TransformerEncoderLayer(
            width, 4, 2 * width, 0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x.squeeze(1) if x.ndim == 4 else x) + self.position
        return self.head(self.norm(self.layers(x)).mean(1))  # type: ignore[no-any-return]


def perceptron(inputs: int, outputs: int, activation: type[nn.Module] = nn.ReLU, *, norm: bool = False) -> nn.Module:
    """Two hidden layers of 64."""
    layers: list[nn.Module] = [nn.Flatten()]
    for size in (inputs, 64):
        layers += [nn.Linear(size, 64), *([nn.BatchNorm1d(64)] if norm else []), activation()]
    return nn.Sequential(*layers, nn.Linear(64, outputs))


@functools.cache
def digits() -> Split:
    """1,500 and 297 images of handwritten digits, (1, 8, 8), 0 to 1."""
    arrays = np.load(Path(datasets.__file__).with_name("digits.npz"))
    order = np.random.default_rng(1).permutation(len(arrays["labels"]))
    x = torch.tensor(arrays["images"][order], dtype=torch.float32)[:, None] / 16
    y = torch.tensor(arrays["labels"][order]).long()
    return x[:1500], y[:1500], x[1500:], y[1500:]


@functools.cache
def table() -> Split:
    """4,800 and 1,200 rows of 20 columns, every third one skewed, labelled by a random network with noise."""
    g = torch.Generator().manual_seed(7)
    x = torch.randn(6000, 20, generator=g)
    x[:, ::3] = x[:, ::3].exp()
    first, second = torch.randn(20, 32, generator=g) / 20**0.5, torch.randn(32, 5, generator=g)
    x = (x - x.mean(0)) / x.std(0)
    y = (torch.tanh(2 * x @ first) @ second + 0.8 * torch.randn(6000, 5, generator=g)).argmax(1)
    return x[:4800], y[:4800], x[4800:], y[4800:]


@functools.cache
def waves() -> Split:
    """4,000 and 1,000 noisy sines of 24 steps in six classes of frequency."""
    g = torch.Generator().manual_seed(3)
    y = torch.randint(0, 6, (5000,), generator=g)
    turn = 6.28 * (1 + 0.7 * y.float()[:, None]) * torch.arange(24) / 24
    phase = 6.28 * torch.rand(5000, 1, generator=g)
    x = torch.stack([torch.sin(turn + phase), torch.cos(turn / 2 + phase)], -1)
    x = x + 0.6 * torch.randn(5000, 24, 2, generator=g)
    return x[:4000], y[:4000], x[4000:], y[4000:]


def _with(name: str, **args: Any) -> dict[str, Any]:
    return {"name": name, "args": args}


NESTEROV = _with("SGD", momentum=0.9, nesterov=True, weight_decay=1e-3)
OURS = {
    "digits-gru-adam": Workload(lambda: Recurrent(nn.GRU, 8, 10), digits, _with("Adam"), 64, 10),
    "digits-transformer-adamw": Workload(Transformer, digits, _with("AdamW", weight_decay=0.05), 64, 10),
    "digits-linear-sgd": Workload(
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), digits, _with("SGD", momentum=0.9), 32, 10
    ),
    "table-mlp-sgd": Workload(lambda: perceptron(20, 5), table, _with("SGD"), 64, 10),
    "table-mlp-rmsprop": Workload(lambda: perceptron(20, 5), table, _with("RMSprop"), 64, 10),
    "table-mlp-adagrad": Workload(lambda: perceptron(20, 5, nn.Tanh), table, _with("Adagrad"), 64, 10),
    "table-mlpbn-nesterov": Workload(lambda: perceptron(20, 5, norm=True), table, NESTEROV, 64, 10),
    "waves-lstm-adam": Workload(lambda: Recurrent(nn.LSTM, 2, 6), waves, _with("Adam"), 64, 8),
}


@functools.cache
def problems() -> dict[str, Any]:
    """All problems by name: those beside the project, where they are, and those here."""
    if not SHARED.is_dir():
        return dict(OURS)
    sys.path.insert(0, str(SHARED))
    from problems import PROBLEMS  # type: ignore[import-not-found]

    return {**PROBLEMS, **OURS}


def oracle() -> dict[str, Any]:
    """For each problem ``best_accuracy`` and ``grid``, the accuracy at powers of two of max_lr with base_lr a quarter."""
    files = [HERE / "oracle.json", *([SHARED / "oracle.json"] if SHARED.is_dir() else [])]
    return {name: known for file in files for name, known in json.loads(file.read_text()).items()}


def model(name: str) -> nn.Module:
    """The factory of a config's model."""
    made: nn.Module = problems()[name].model()
    return made


def data(name: str) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The factory of a config's data."""
    x_train, y_train, x_val, y_val = problems()[name].data()
    return (x_train, y_train), (x_val, y_val)
