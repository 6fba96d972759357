"""Jobs made after the constants of the race were chosen, to see whether it serves more than what it was chosen on.

    python -m tests.benchmarks.workloads.oracle --jobs tests/benchmarks/workloads/unseen.py
    python -m tests.benchmarks.workloads.recommend PICKS.json --jobs tests/benchmarks/workloads/unseen.py
    python -m tests.benchmarks.workloads.read_off PICKS.json --jobs tests/benchmarks/workloads/unseen.py

No constant is to be chosen on them: then they would show nothing any more.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.benchmarks.workloads import data, networks
from tests.benchmarks.workloads.data import Data, split
from tests.benchmarks.workloads.jobs import Workload, bce, by, ce, fitted_constant, mse, tokens_loss


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Sine(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(x)


def sine_network() -> nn.Module:
    """A network of sines over coordinates, as images and fields are kept in (arXiv 2006.09661)."""
    layers = (nn.Linear(2, 64), Sine(), nn.Linear(64, 64), Sine(), nn.Linear(64, 64), Sine(), nn.Linear(64, 1))
    model = nn.Sequential(*layers)
    with torch.no_grad():
        layers[0].weight.mul_(10)
    return model


def field() -> Data:
    """Places of a plane and the height of a wavy surface there."""
    x = torch.rand(5000, 2, generator=seeded(3)) * 2 - 1
    across, along = x[:, :1], x[:, 1:]
    return split(x, torch.sin(5 * across) * torch.cos(7 * along) + torch.sin(11 * (across + along)) / 2, 4000)


class Factors(nn.Module):
    """Users and things as vectors whose product is a rating: (batch, 2) -> (batch, 1)."""

    def __init__(self, users: int = 300, things: int = 200, size: int = 16) -> None:
        super().__init__()
        self.users, self.things = nn.Embedding(users, size), nn.Embedding(things, size)
        self.of_user, self.of_thing = nn.Embedding(users, 1), nn.Embedding(things, 1)
        for table in (self.users, self.things):
            nn.init.normal_(table.weight, std=0.1)

    def forward(self, x: Tensor) -> Tensor:
        user, thing = x[:, 0], x[:, 1]
        product = (self.users(user) * self.things(thing)).sum(1, keepdim=True)
        return product + self.of_user(user) + self.of_thing(thing)


def ratings() -> Data:
    """Ratings around 3 that four hidden tastes make, and noise."""
    g = seeded(4)
    users, things = torch.randn(300, 4, generator=g), torch.randn(200, 4, generator=g)
    user, thing = (torch.randint(0, number, (12000,), generator=g) for number in (300, 200))
    y = 3 + (users[user] * things[thing]).sum(1, keepdim=True) + 0.3 * torch.randn(12000, 1, generator=g)
    return split(torch.stack([user, thing], 1), y, 10000)


class Adder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.recurrent, self.head = nn.LSTM(2, 48, batch_first=True), nn.Linear(48, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.recurrent(x)[0][:, -1])


def marked_numbers(rows: int = 5000, length: int = 20) -> Data:
    """The adding problem: rows of numbers of which two are marked, and the sum of these."""
    g = seeded(5)
    values, marks = torch.rand(rows, length, generator=g), torch.zeros(rows, length)
    for row in marks:
        row[torch.randperm(length, generator=g)[:2]] = 1
    return split(torch.stack([values, marks], 2), (values * marks).sum(1, keepdim=True), 4000)


class Siamese(nn.Module):
    """Two images by one network: the nearer, the likelier of the same class."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.bias = networks.mlp(64, 64, 16), nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.bias - ((self.embed(x[:, 0]) - self.embed(x[:, 1])) ** 2).sum(1, keepdim=True)


def pairs(number: int = 6000) -> Data:
    """Pairs of digits, half of them of one class, and whether they are."""
    (images, classes), g = data.digits(), seeded(6)
    first, second = (torch.randint(0, len(images), (number,), generator=g) for _ in range(2))
    for row in torch.nonzero(torch.rand(number, generator=g) < 0.5)[:, 0]:
        alike = torch.nonzero(classes == classes[first[row]])[:, 0]
        second[row] = alike[torch.randint(0, len(alike), (1,), generator=g)]
    x, same = images.flatten(1), (classes[first] == classes[second]).float()
    return split(torch.stack([x[first], x[second]], 1), same[:, None], 5000)


class Mixer(nn.Module):
    """An MLP-Mixer over the 16 patches of a digit (arXiv 2105.01601)."""

    def __init__(self, depth: int = 3, patches: int = 16, width: int = 32) -> None:
        super().__init__()

        def mixing(size: int) -> nn.Module:
            layers = (nn.LayerNorm(size), nn.Linear(size, 2 * patches), nn.GELU(), nn.Linear(2 * patches, size))
            return nn.Sequential(*layers)

        self.embed, self.head = nn.Linear(4, width), nn.Linear(width, 10)
        self.across = nn.ModuleList(mixing(patches) for _ in range(depth))
        self.within = nn.ModuleList(mixing(width) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x.reshape(-1, 8, 8).unfold(1, 2, 2).unfold(2, 2, 2).reshape(len(x), 16, 4))
        for across, within in zip(self.across, self.within, strict=True):
            x = x + across(x.transpose(1, 2)).transpose(1, 2)
            x = x + within(x)
        return self.head(x.mean(1))


def quantile_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """The pinball loss of a lower, a middle and an upper quantile."""
    shares, above = torch.tensor([0.1, 0.5, 0.9]), targets - outputs
    return torch.maximum(shares * above, (shares - 1) * above).mean()


def uneven_noise() -> Data:
    """Values near 20 whose noise depends on the input."""
    g = seeded(7)
    x = torch.randn(5000, 8, generator=g)
    middle = 20 + 10 * torch.tanh(x[:, :1] * x[:, 1:2]) + 5 * x[:, 2:3]
    return split(x, middle + (1 + 2 * x[:, 3:4].abs()) * torch.randn(5000, 1, generator=g), 4000)


def smoothed_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(outputs, targets, label_smoothing=0.1)


class LanguageModel(nn.Module):
    """A causal transformer over characters, of torch's own layers."""

    def __init__(self, tokens: int = 64, width: int = 48) -> None:
        super().__init__()
        self.embed, self.places = nn.Embedding(tokens, width), nn.Parameter(torch.randn(1, 64, width) * 0.02)
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, 0.0, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, tokens)

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[1]
        later = torch.triu(torch.ones(length, length, dtype=torch.bool), 1)
        return self.head(self.blocks(self.embed(x) + self.places[:, :length], mask=later, is_causal=True))


WORKLOADS: dict[str, Workload] = {
    "siren-adam": Workload(sine_network, field, by("Adam"), mse, 64, 8),
    "factors-adagrad": Workload(Factors, ratings, by("Adagrad"), mse, 128, 16),
    "adding-lstm-rmsprop": Workload(Adder, marked_numbers, by("RMSprop"), mse, 64, 8, clip=1.0),
    "siamese-sgd": Workload(Siamese, pairs, by("SGD", momentum=0.9), bce, 64, 7),
    "mixer-nadam": Workload(Mixer, data.labelled_digits, by("NAdam"), ce, 32, 10),
    "quantiles-adam": Workload(
        lambda: networks.mlp(8, 64, 64, 3),
        uneven_noise,
        by("Adam"),
        quantile_loss,
        64,
        8,
        constant_score=fitted_constant(quantile_loss, uneven_noise()[3], torch.full((3,), 20.0)),
    ),
    "smooth-cnn-nesterov-sgd": Workload(
        networks.resnet,
        lambda: data.shaken_digits(2),
        by("SGD", momentum=0.9, nesterov=True, weight_decay=1e-4),
        smoothed_loss,
        64,
        6,
        constant_score=2.3026,
    ),
    "gpt-sgd": Workload(LanguageModel, data.text, by("SGD", momentum=0.9), tokens_loss, 32, 6, clip=1.0),
}
