"""Built-in transformers: a small ``vit`` for images and a small ``gpt`` for tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from clrtool.engine.models.shapes import Depth, Rate, Shape, Size, image_shape
from clrtool.errors import ConfigError


def vit(
    input_shape: Shape,
    num_classes: int,
    patch: Size = 4,
    depth: Depth = 4,
    width: Size = 96,
    heads: Size = 4,
    dropout: Rate = 0.0,
) -> nn.Module:
    """A vision transformer over patches of ``patch`` pixels a side: (N, C, H, W) -> (N, num_classes).

    Source: Dosovitskiy et al., arXiv 2010.11929, with learned positions and the mean over patches in place of a class
    token (as in its appendix D.3).
    """
    channels, height, pixels = image_shape(input_shape)
    if height % patch or pixels % patch:
        raise ConfigError(f"model.args.patch = {patch} must divide the {height} x {pixels} pixels of the data")
    embed = nn.Sequential(nn.Conv2d(channels, width, patch, patch), nn.Flatten(2), _Transpose())
    places = (height // patch) * (pixels // patch)
    return Transformer(embed, places, num_classes, Blocks(depth, width, heads, dropout, causal=False), pooled=True)


def gpt(
    input_shape: Shape,
    num_classes: int,
    depth: Depth = 2,
    width: Size = 64,
    heads: Size = 4,
    dropout: Rate = 0.0,
) -> nn.Module:
    """A causal transformer over tokens: (N, T) -> (N, T, num_classes), where place t sees tokens 0 to t.

    Source: Radford et al., "Language Models are Unsupervised Multitask Learners", section 2.3: norms before the layers.
    """
    if len(input_shape) != 1:
        raise ConfigError(f"model: gpt needs tokens (length,), the data gives shape {input_shape}")
    embed = nn.Embedding(num_classes, width)
    return Transformer(embed, input_shape[0], num_classes, Blocks(depth, width, heads, dropout, causal=True))


class Transformer(nn.Module):
    """Embedding and positions, the blocks, and a linear layer for each place or for their mean."""

    def __init__(self, embed: nn.Module, places: int, outputs: int, blocks: Blocks, *, pooled: bool = False) -> None:
        super().__init__()
        self.embed, self.blocks, self.pooled = embed, blocks, pooled
        self.position = nn.Parameter(0.02 * torch.randn(places, blocks.width))
        self.head = nn.Linear(blocks.width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = self.blocks(x + self.position[: x.shape[1]])
        logits: Tensor = self.head(x.mean(1) if self.pooled else x)
        return logits


class Blocks(nn.Module):
    """Attention and a network of one hidden layer in turn, each behind a norm and around a shortcut."""

    def __init__(self, depth: int, width: int, heads: int, dropout: float, *, causal: bool) -> None:
        super().__init__()
        if width % heads:
            raise ConfigError(f"model.args.width = {width} must be a multiple of model.args.heads = {heads}")
        self.width = width
        self.layers = nn.ModuleList(
            layer
            for _ in range(depth)
            for layer in (Attention(width, heads, dropout, causal=causal), _hidden(width, dropout))
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2 * depth + 1))

    def forward(self, x: Tensor) -> Tensor:
        for norm, layer in zip(self.norms, self.layers, strict=False):
            x = x + layer(norm(x))
        last: Tensor = self.norms[-1](x)
        return last


class Attention(nn.Module):
    """Multi-head attention of a sequence to itself, (N, T, width) -> (N, T, width)."""

    def __init__(self, width: int, heads: int, dropout: float, *, causal: bool) -> None:
        super().__init__()
        self.project, self.mix = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.heads, self.dropout, self.causal = heads, dropout, causal

    def forward(self, x: Tensor) -> Tensor:
        size, length, width = x.shape
        # (N, T, 3 width) -> three of (N, heads, T, width / heads)
        query, key, value = self.project(x).view(size, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        seen = functional.scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=self.causal)
        mixed: Tensor = self.mix(seen.transpose(1, 2).reshape(size, length, width))
        return mixed


class _Transpose(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)


def _hidden(width: int, dropout: float) -> nn.Module:
    return nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(dropout))
