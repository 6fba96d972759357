"""The networks of the training jobs, in plain PyTorch."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.benchmarks.workloads import data


def mlp(*sizes: int, act: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    """Linear layers of these sizes with ``act`` between them."""
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), act()]
    return nn.Sequential(*layers[:-1])


class Attention(nn.Module):
    """Attention with four heads, from ``x`` to ``memory``; ``bias`` is added to its scores."""

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor, memory: Tensor, bias: Tensor | None = None) -> Tensor:
        q, k, v = (
            layer(of).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, of in ((self.query, x), (self.key, memory), (self.value, memory))
        )
        found = functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.out(found.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """A pre-norm layer of a transformer; with ``crossed`` it also attends to a memory."""

    def __init__(self, width: int, norm: type[nn.Module] = nn.LayerNorm, *, crossed: bool = False) -> None:
        super().__init__()
        self.attention, self.norm = Attention(width), norm(width)
        self.cross, self.cross_norm = (Attention(width), norm(width)) if crossed else (None, None)
        self.feed, self.feed_norm = mlp(width, 3 * width, width, act=nn.GELU), norm(width)

    def forward(self, x: Tensor, bias: Tensor | None = None, memory: Tensor | None = None) -> Tensor:
        normed = self.norm(x)
        x = x + self.attention(normed, normed, bias)
        if self.cross is not None:
            x = x + self.cross(self.cross_norm(x), memory)
        return x + self.feed(self.feed_norm(x))


class Encoder(nn.Module):
    """Tokens (batch, places), or patches that ``embed`` takes -> logits (batch, classes), from the mean over places."""

    def __init__(self, embed: nn.Module, places: int, classes: int, width: int = 32, layers: int = 2) -> None:
        super().__init__()
        self.embed, self.places = embed, nn.Parameter(0.02 * torch.randn(places, width))
        self.blocks = nn.Sequential(*(Block(width) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.embed(x) + self.places)).mean(1))


class Patches(nn.Module):
    """Images (1, 8, 8) -> sixteen vectors, of two by two pixels each."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.project = nn.Conv2d(1, width, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(x).flatten(2).transpose(1, 2)


def vision_transformer() -> nn.Module:
    """A ViT for the digits."""
    return Encoder(Patches(), 16, 10)


def _fresh_encoder() -> Encoder:
    return Encoder(nn.Embedding(data.TOKENS, 32), data.PLACES, data.CHAINS)


@functools.cache
def _pretrained() -> dict[str, Tensor]:
    """Weights of an encoder that tells the chains apart; a file keeps them, for what it takes to make them anew."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "clrtool-benchmarks"
    sources = b"".join(Path(file).read_bytes() for file in (__file__, data.__file__))
    file = cache / f"encoder-{sha256(sources + torch.__version__.encode()).hexdigest()[:16]}.pt"
    if file.is_file():
        return torch.load(file, weights_only=True)  # type: ignore[no-any-return]
    weights = _pretrain()
    cache.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(f".{os.getpid()}")
    torch.save(weights, part)
    part.replace(file)
    return weights


def _pretrain(epochs: int = 8, top: float = 4e-3) -> dict[str, Tensor]:
    """Train it, by AdamW and one cycle, with random numbers that are its own."""
    x, y = data.whole_chains()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, order = _fresh_encoder(), torch.Generator().manual_seed(0)
        optimizer = torch.optim.AdamW(model.parameters(), top)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, top, total_steps=epochs * (len(x) // 64 + 1))
        for _ in range(epochs):
            for part in torch.randperm(len(x), generator=order).split(64):
                optimizer.zero_grad()
                functional.cross_entropy(model(x[part]), y[part]).backward()
                optimizer.step()
                schedule.step()
    return model.state_dict()


def pretrained_encoder() -> Encoder:
    """The encoder that tells the chains apart, with a new head."""
    model = _fresh_encoder()
    head = model.head.state_dict()
    model.load_state_dict(_pretrained())
    model.head.load_state_dict(head)
    return model


class LowRank(nn.Module):
    """A frozen linear layer with a trained addition of rank ``rank``, nought at first."""

    def __init__(self, base: nn.Linear, rank: int = 4, alpha: float = 8.0) -> None:
        super().__init__()
        self.base, self.scale = base.requires_grad_(False), alpha / rank
        self.down = nn.Parameter(torch.randn(rank, base.in_features) / base.in_features**0.5)
        self.up = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.scale * (x @ self.down.T) @ self.up.T


def adapted_encoder() -> nn.Module:
    """The pretrained encoder, frozen, with LoRA in its linear layers and a head to train."""
    model = pretrained_encoder().requires_grad_(False)
    model.head.requires_grad_(True)
    for block in model.blocks:
        for name in ("query", "key", "value", "out"):
            setattr(block.attention, name, LowRank(getattr(block.attention, name)))
        block.feed[0], block.feed[2] = LowRank(block.feed[0]), LowRank(block.feed[2])
    return model


class Characters(nn.Module):
    """A recurrent language model: tokens (batch, length) -> logits (batch, length, tokens)."""

    def __init__(self, tokens: int = 40, width: int = 64) -> None:
        super().__init__()
        self.embed, self.recurrent = nn.Embedding(tokens, 32), nn.GRU(32, width, batch_first=True)
        self.head = nn.Linear(width, tokens)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.recurrent(self.embed(x))[0])


def convolution(before: int, after: int, stride: int = 1) -> nn.Sequential:
    """A convolution of three by three and batch norm."""
    return nn.Sequential(nn.Conv2d(before, after, 3, stride, padding=1, bias=False), nn.BatchNorm2d(after))


def detector() -> nn.Module:
    """Images (1, 16, 16) -> two logits and a box, in one vector of five."""
    layers = [convolution(1, 8), nn.ReLU(), nn.MaxPool2d(2), convolution(8, 16), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, convolution(16, 16), nn.ReLU(), nn.Flatten(), nn.Linear(256, 5))


class Variational(nn.Module):
    """A variational autoencoder: (batch, 64) -> pixels, and means and log variances of a code, side by side."""

    def __init__(self, hidden: int = 6) -> None:
        super().__init__()
        self.encode, self.decode = mlp(64, 64, 2 * hidden), mlp(hidden, 64, 64)

    def forward(self, x: Tensor) -> Tensor:
        mean, log_variance = self.encode(x).chunk(2, 1)
        hidden = mean + (log_variance / 2).exp() * torch.randn_like(mean) if self.training else mean
        return torch.cat([self.decode(hidden), mean, log_variance], 1)


class SequenceToSequence(nn.Module):
    """An encoder and a decoder, pre-norm with RMSNorm and biases by distance: source and answer so far -> logits."""

    def __init__(self, width: int = 32, layers: int = 1) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(data.SYMBOLS + 1, width), nn.Linear(width, data.SYMBOLS)
        self.encoder = nn.ModuleList(Block(width, nn.RMSNorm) for _ in range(layers))
        self.decoder = nn.ModuleList(Block(width, nn.RMSNorm, crossed=True) for _ in range(layers))
        self.norms = nn.ModuleList(nn.RMSNorm(width) for _ in range(2))
        self.distances = nn.ParameterList(torch.zeros(4, 2 * data.SORTED) for _ in range(2))
        place = torch.arange(data.SORTED)
        self.register_buffer("apart", place[:, None] - place + data.SORTED)
        self.register_buffer(
            "hidden", torch.zeros(data.SORTED, data.SORTED).masked_fill(self.apart < data.SORTED, -1e9)
        )

    def forward(self, x: Tensor) -> Tensor:
        source, answer = self.embed(x).split(data.SORTED, 1)
        for block in self.encoder:
            source = block(source, self.distances[0][:, self.apart])
        source = self.norms[0](source)
        for block in self.decoder:
            answer = block(answer, self.distances[1][:, self.apart] + self.hidden, source)
        return self.head(self.norms[1](answer))


class GraphNetwork(nn.Module):
    """Three graph convolutions: numbers of nodes -> logits of their blocks; the graph is a buffer."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        graph, features, _ = data.communities()
        self.register_buffer("graph", graph)
        self.register_buffer("features", graph @ features)
        self.layers = nn.ModuleList([nn.Linear(data.FEATURES, width), nn.Linear(width, width)])
        self.head = nn.Linear(width, data.COMMUNITIES)

    def forward(self, nodes: Tensor) -> Tensor:
        x = functional.relu(self.layers[0](self.features))
        return self.head(self.graph[nodes] @ functional.relu(self.layers[1](self.graph @ x)))


class Residual(nn.Module):
    """Two convolutions around which their input goes, through a convolution of one by one where the shape changes."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.path = nn.Sequential(convolution(before, after, stride), nn.ReLU(), convolution(after, after))
        same = stride == 1 and before == after
        self.around = nn.Identity() if same else nn.Conv2d(before, after, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.path(x) + self.around(x))


def resnet() -> nn.Module:
    """A residual network for the digits."""
    blocks = [Residual(8, 8, 1), Residual(8, 16, 2), Residual(16, 32, 2)]
    return nn.Sequential(
        convolution(1, 8), nn.ReLU(), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)
    )


def small_convnet() -> nn.Module:
    """Two convolutions and two linear layers for the digits, without batch norm."""
    layers = [nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
