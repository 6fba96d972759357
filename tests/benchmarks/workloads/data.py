"""What the training jobs learn from: generated, or the digits that clrtool ships; x_train, y_train, x_val, y_val each."""

from __future__ import annotations

import functools
import random
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from clrtool.engine.data import datasets

Data = tuple[Tensor, Tensor, Tensor, Tensor]
TOKENS, PLACES, CHAINS = 12, 16, 6  # of the Markov chains that the transformer is pretrained on
SORTED, SYMBOLS = 8, 16  # how many tokens are sorted, and of how many kinds; one more kind begins an answer
NODES, COMMUNITIES, FEATURES = 900, 6, 12


def split(x: Tensor, y: Tensor, train: int) -> Data:
    """The first ``train`` samples to train on, and the others."""
    return x[:train], y[:train], x[train:], y[train:]


@functools.cache
def digits() -> tuple[Tensor, Tensor]:
    """1,797 images (1, 8, 8), values 0 to 1, shuffled, and their digits."""
    with np.load(Path(datasets.__file__).with_name("digits.npz"), allow_pickle=False) as arrays:
        order = np.random.default_rng(2).permutation(len(arrays["labels"]))
        images = torch.tensor(arrays["images"][order], dtype=torch.float32)[:, None] / 16
        return images, torch.tensor(arrays["labels"][order]).long()


def labelled_digits() -> Data:
    """Digits and what they are."""
    return split(*digits(), 1440)


def digits_as_targets() -> Data:
    """Digits as vectors, to be rebuilt."""
    x = digits()[0].flatten(1)
    return split(x, x, 1440)


@functools.cache
def shaken_digits(copies: int = 8) -> Data:
    """Each digit ``copies`` times, moved by up to a pixel, paler and in noise: enough for thousands of iterations."""
    g = torch.Generator().manual_seed(0)
    x, y = digits()
    x, y, order = x.repeat(copies, 1, 1, 1), y.repeat(copies), torch.randperm(1440 * copies, generator=g)
    shift = torch.randint(-1, 2, (len(x), 2), generator=g)
    pixels = torch.arange(8)
    rows, columns = (pixels - shift[:, :1]) % 8, (pixels - shift[:, 1:]) % 8
    x = x[torch.arange(len(x))[:, None, None], 0, rows[:, :, None], columns[:, None, :]][:, None]
    x = x * (0.5 + 0.5 * torch.rand(len(x), 1, 1, 1, generator=g)) + 0.2 * torch.randn(x.shape, generator=g)
    known = torch.arange(len(y)) % 1797 < 1440  # no held-out digit is a copy of one that was trained on
    return x[known][order], y[known][order], x[~known], y[~known]


def _chains(count: int, length: int, seed: int) -> tuple[Tensor, Tensor]:
    """Tokens (count, length) of Markov chains, the same six whatever the seed, and which chain each row follows."""
    moves = (2.5 * torch.randn(CHAINS, TOKENS, TOKENS, generator=torch.Generator().manual_seed(5))).softmax(-1)
    g = torch.Generator().manual_seed(seed)
    chain = torch.randint(CHAINS, (count,), generator=g)
    steps = [torch.randint(TOKENS, (count,), generator=g)]
    for _ in range(length - 1):
        steps.append(torch.multinomial(moves[chain, steps[-1]], 1, generator=g)[:, 0])
    return torch.stack(steps, 1), chain


@functools.cache
def whole_chains() -> tuple[Tensor, Tensor]:
    """What the transformer is pretrained on: which chain does the whole row follow?"""
    return _chains(12_000, PLACES, seed=0)


@functools.cache
def joined_chains(rows: int = 800) -> Data:
    """What it is fine-tuned on: the chain of the second half alone, after a first half of another."""
    (first, _), (second, chain) = (_chains(rows + 1000, PLACES // 2, seed) for seed in (1, 2))
    return split(torch.cat([first, second], 1), chain, rows)


def sentences(count: int) -> str:
    """Text of a small probabilistic grammar, the same everywhere."""
    draw = random.Random(0)  # noqa: S311 (words, no secrets)
    pick = lambda *words: words[int(draw.random() * len(words))]  # noqa: E731

    def noun() -> str:
        article, kind = pick("the", "a", "this", "every"), pick("", "", "small ", "old ", "green ", "quiet ")
        return f"{article} {kind}{pick('dog', 'river', 'teacher', 'engine', 'house', 'storm', 'garden', 'letter')}"

    def clause() -> str:
        verb = pick("sees", "finds", "follows", "carries", "leaves", "paints")
        end = pick("", "", f" near {noun()}", f" with {noun()}", " at night", " again")
        return f"{noun()} {verb} {noun()}{end}"

    def sentence() -> str:
        joined = pick("", "", f", and {clause()}", f", but {clause()}", f" because {clause()}")
        return f"{clause()}{joined}{pick('.', '.', '?', '!')}"

    return " ".join(sentence() for _ in range(count))


@functools.cache
def text() -> Data:
    """Rows of 24 characters of the grammar's text, and the ones after them."""
    written = sentences(1200)
    known = {c: i for i, c in enumerate(sorted(set(written)))}
    tokens = torch.tensor([known[c] for c in written])
    rows = tokens[: (len(tokens) - 1) // 24 * 24 + 1]
    x, y = rows[:-1].reshape(-1, 24), rows[1:].reshape(-1, 24)
    return x[:1600], y[:1600], x[-400:], y[-400:]


@functools.cache
def objects(count: int = 1700, size: int = 16) -> Data:
    """Images of a disc or a square in noise; targets are its class and its box as middle and half sizes, 0 to 1."""
    g = torch.Generator().manual_seed(0)
    half = torch.randint(2, 5, (count,), generator=g).float()
    middle = half[:, None] + torch.rand(count, 2, generator=g) * (size - 1 - 2 * half[:, None])
    kind, pixels = torch.randint(2, (count,), generator=g), torch.arange(size).float()
    rows, columns = (pixels - middle[:, :1])[:, :, None], (pixels - middle[:, 1:])[:, None, :]
    disc = (rows**2 + columns**2).sqrt() <= half[:, None, None]
    square = torch.maximum(rows.abs(), columns.abs()) <= half[:, None, None] * 0.89  # as large as the disc
    seen = torch.where(kind[:, None, None] == 0, disc, square).float()[:, None]
    x = seen + 0.3 * torch.randn(count, 1, size, size, generator=g)
    return split(x, torch.cat([kind[:, None].float(), middle / size, half[:, None] / size], 1), 1280)


@functools.cache
def tokens_to_sort() -> Data:
    """Eight tokens followed by the answer as far as it is known, (16,); the target is the eight tokens in order."""
    source = torch.randint(SYMBOLS, (3000, SORTED), generator=torch.Generator().manual_seed(0))
    answer = source.sort(1).values
    begun = torch.cat([torch.full((len(source), 1), SYMBOLS), answer[:, :-1]], 1)
    return split(torch.cat([source, begun], 1), answer, 2560)


@functools.cache
def communities() -> tuple[Tensor, Tensor, Tensor]:
    """A stochastic block model: normalised adjacency with self-loops, weak features of the nodes, and their blocks."""
    g = torch.Generator().manual_seed(0)
    block = torch.randint(COMMUNITIES, (NODES,), generator=g)
    chance = torch.where(block[:, None] == block[None], 0.035, 0.006)
    edges = (torch.rand(NODES, NODES, generator=g) < chance).triu(1).float()
    edges = edges + edges.T + torch.eye(NODES)
    degree = edges.sum(1).rsqrt()
    centres = torch.randn(COMMUNITIES, FEATURES, generator=g)
    return degree[:, None] * edges * degree, 0.4 * centres[block] + torch.randn(NODES, FEATURES, generator=g), block


@functools.cache
def nodes() -> Data:
    """Numbers of nodes, and the block of each."""
    return split(torch.arange(NODES), communities()[2], 480)


@functools.cache
def heavy_tails() -> Data:
    """Values around 100 of deviation 9, whose noise has no variance: Student's t with 2 degrees of freedom."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(3200, 6, generator=g)
    clean = 6 * x[:, :1] + 8 * torch.sin(1.5 * x[:, 1:2]) + 5 * x[:, 2:3].abs() + 4 * x[:, 3:4] * (x[:, 4:5] > 0)
    normal, two = torch.randn(3200, 1, generator=g), torch.randn(3200, 2, generator=g)
    return split(x, 100 + clean + normal / (two**2).mean(1, keepdim=True).sqrt(), 2400)
