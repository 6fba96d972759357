"""Jobs whose training step is their own, written as tutorials do, that nobody had in view when the race was made.

    python -m tests.benchmarks.workloads.oracle --jobs tests/benchmarks/workloads/unseen_steps.py --beyond 1
    python -m tests.benchmarks.workloads.recommend PICKS.json --jobs tests/benchmarks/workloads/unseen_steps.py
    python -m tests.benchmarks.workloads.read_off PICKS.json --jobs tests/benchmarks/workloads/unseen_steps.py

The list was fixed before any of them was tried with a range test. No constant is to be chosen on them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.benchmarks.workloads import data, networks
from tests.benchmarks.workloads.data import Data, split
from tests.benchmarks.workloads.jobs import Workload, by, ce, fitted_constant, mse
from tests.benchmarks.workloads.unseen import seeded

Batch = Sequence[Tensor]


def pictures() -> Data:
    """Shaken digits, as many held out as fill whole batches."""
    x, y, x_val, y_val = data.shaken_digits(4)
    return x, y, x_val[:1408], y_val[:1408]


class Denoiser(nn.Module):
    """Tells the noise in a digit, of which a step of a diffusion says how much there is (arXiv 2006.11239)."""

    def __init__(self, steps: int = 100, width: int = 64) -> None:
        super().__init__()
        self.steps = steps
        self.register_buffer("kept", torch.cumprod(1 - torch.linspace(1e-4, 0.1, steps), 0))
        self.embed, self.enter, self.leave = nn.Embedding(steps, width), nn.Linear(64, width), nn.Linear(width, 64)
        blocks = (nn.Sequential(nn.LayerNorm(width), networks.mlp(width, width, width, act=nn.SiLU)) for _ in range(2))
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor, step: Tensor) -> Tensor:
        x = self.enter(x) + self.embed(step)
        for block in self.blocks:
            x = x + block(x)
        return self.leave(x)


def denoise(model: nn.Module, batch: Batch) -> Tensor:
    x = batch[0].flatten(1) * 2 - 1
    step, noise = torch.randint(model.steps, (len(x),)), torch.randn_like(x)
    kept = model.kept[step][:, None]
    return mse(model(kept.sqrt() * x + (1 - kept).sqrt() * noise, step), noise)


class Pairing(nn.Module):
    """Images and captions as vectors that are alike where they belong together (arXiv 2103.00020)."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        convolutions = (nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU())
        self.image = nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(128, width))
        self.text = nn.Sequential(nn.EmbeddingBag(48, width), networks.mlp(width, 2 * width, width))
        self.scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def forward(self, images: Tensor, captions: Tensor) -> Tensor:
        seen, read = (functional.normalize(each) for each in (self.image(images), self.text(captions)))
        return self.scale.exp() * seen @ read.T


def captioned() -> Data:
    """Digits, and five words for each: which it is, and how much ink there is in its quarters."""
    x, digit, x_val, digit_val = pictures()

    def words(images: Tensor, digits: Tensor) -> Tensor:
        ink = functional.avg_pool2d(images, 4).flatten(1).mul(10).long().clamp(0, 7)
        return torch.cat([digits[:, None], 16 + ink + 8 * torch.arange(4)], 1)

    return x, words(x, digit), x_val, words(x_val, digit_val)


def contrast(model: nn.Module, batch: Batch) -> Tensor:
    logits = model(*batch)
    own = torch.arange(len(logits))
    return (ce(logits, own) + ce(logits.T, own)) / 2


FRAMES, LETTERS, MOST = 28, 12, 7


@functools.cache
def utterances(number: int = 1920) -> Data:
    """Noisy frames of three to seven letters, and numbers of frames and of letters before the letters themselves."""
    g = seeded(1)
    sounds, x, y = torch.randn(LETTERS, 10, generator=g), torch.zeros(number, FRAMES, 10), torch.zeros(number, 2 + MOST)
    for frames, target in zip(x, y, strict=True):
        letters = torch.randint(1, LETTERS, (int(torch.randint(3, MOST + 1, (1,), generator=g)),), generator=g)
        said = sounds[letters].repeat_interleave(torch.randint(2, 5, letters.shape, generator=g), 0)
        frames[: len(said)] = said + 0.7 * torch.randn(said.shape, generator=g)
        target[: 2 + len(letters)] = torch.cat([torch.tensor([len(said), len(letters)]), letters])
    return split(x, y.long(), 1600)


class Speech(nn.Module):
    """Convolutions over time: frames (batch, FRAMES, 10) -> logits of letters, of which the first is none."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        layers = (nn.Conv1d(10, width, 5, padding=2), nn.ReLU(), nn.Conv1d(width, width, 5, padding=2), nn.ReLU())
        self.layers = nn.Sequential(*layers, nn.Conv1d(width, LETTERS, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.transpose(1, 2)).transpose(1, 2)


def ctc_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    frames, letters, said = targets[:, 0], targets[:, 1], targets[:, 2:]
    return functional.ctc_loss(outputs.log_softmax(2).transpose(0, 1), said, frames, letters, zero_infinity=True)


def constant_ctc(outputs: Tensor, targets: Tensor) -> Tensor:
    """The loss of one answer for all frames."""
    return ctc_loss(outputs[:, None].expand(-1, FRAMES, -1), targets)


class Experts(nn.Module):
    """Four networks, of which each digit is given to two, and how unevenly they are asked (arXiv 2101.03961)."""

    def __init__(self, width: int = 48, experts: int = 4) -> None:
        super().__init__()
        self.enter, self.gate = nn.Linear(64, width), nn.Linear(width, experts)
        self.experts = nn.ModuleList(networks.mlp(width, 48, width, act=nn.GELU) for _ in range(experts))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 10))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.enter(x.flatten(1))
        shares = self.gate(x).softmax(1)
        best, asked = shares.topk(2)
        weights = torch.zeros_like(shares).scatter(1, asked, best / best.sum(1, keepdim=True))
        answers = torch.stack([expert(x) for expert in self.experts], 1)
        first = functional.one_hot(asked[:, 0], len(self.experts)).float().mean(0)
        outputs = self.head(x + (weights[..., None] * answers).sum(1))
        return outputs, len(self.experts) * (first * shares.mean(0)).sum()


def ask_experts(model: nn.Module, batch: Batch) -> Tensor:
    outputs, uneven = model(batch[0])
    return ce(outputs, batch[1]) + 0.01 * uneven


def clean_digits() -> Data:
    """Digits as they are, as many held out as fill whole batches."""
    x, y, x_val, y_val = data.labelled_digits()
    return x, y, x_val[:352], y_val[:352]


class Masked(nn.Module):
    """Rebuilds the pixels of a digit that it is not shown, most of them (arXiv 2111.06377): images -> squared error."""

    def __init__(self, hidden: float = 0.6) -> None:
        super().__init__()
        self.hidden, self.rebuild = hidden, networks.mlp(128, 96, 96, 64, act=nn.GELU)

    def forward(self, x: Tensor) -> Tensor:
        pixels = x.flatten(1)
        hidden = (torch.rand_like(pixels) < self.hidden).float()
        rebuilt = self.rebuild(torch.cat([pixels * (1 - hidden), hidden], 1))
        return (hidden * (rebuilt - pixels) ** 2).sum() / hidden.sum()


class Flow(nn.Module):
    """Points of a plane through four affine couplings to a normal distribution: their log density (arXiv 1605.08803)."""

    def __init__(self) -> None:
        super().__init__()
        self.couplings = nn.ModuleList(networks.mlp(1, 32, 32, 2) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        kept, moved = x.split(1, 1)
        stretched = torch.zeros(len(x), 1)
        for coupling in self.couplings:
            scale, shift = coupling(kept).chunk(2, 1)
            kept, moved = moved * torch.tanh(scale).exp() + shift, kept
            stretched = stretched + torch.tanh(scale)
        return (stretched - (kept**2 + moved**2) / 2 - math.log(2 * math.pi)).squeeze(1)


def moons() -> Data:
    """Points of two half circles, each coordinate of mean 0 and deviation 1."""
    g = seeded(13)
    angle, upper = math.pi * torch.rand(10240, generator=g), torch.rand(10240, generator=g) < 0.5
    across = torch.where(upper, angle.cos(), 1 - angle.cos())
    x = torch.stack([across, torch.where(upper, angle.sin(), 0.5 - angle.sin())], 1)
    x = x + 0.08 * torch.randn(x.shape, generator=g)
    x = (x - x.mean(0)) / x.std(0)
    return split(x, x, 8192)


@functools.cache
def teacher() -> nn.Module:
    """A network that tells digits apart, trained by random numbers that are its own."""
    x, y, _, _ = pictures()
    with torch.random.fork_rng():
        torch.manual_seed(77)
        model = networks.mlp(64, 128, 128, 10)
        optimizer = torch.optim.Adam(model.parameters(), 2e-3)
        for rows in torch.randint(len(x), (600, 64)):
            optimizer.zero_grad()
            ce(model(x[rows].flatten(1)), y[rows]).backward()
            optimizer.step()
    return model.eval().requires_grad_(False)


def distilled_loss(outputs: Tensor, images: Tensor, targets: Tensor, heat: float = 2.0) -> Tensor:
    """A quarter of what the softened answers of the teacher say, and three of what the labels do."""
    softened = (teacher()(images.flatten(1)) / heat).softmax(1)
    return 0.25 * heat**2 * ce(outputs / heat, softened) + 0.75 * ce(outputs, targets)


class Equilibrium(nn.Module):
    """The fixed point of a layer, with the gradient that it has there (arXiv 1909.01377)."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.enter, self.layer = nn.Linear(64, width), nn.Linear(width, width, bias=False)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)
        nn.init.normal_(self.layer.weight, std=0.05)

    def step(self, state: Tensor, x: Tensor) -> Tensor:
        return self.norm(torch.relu(x + self.layer(state)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x.flatten(1))
        state = torch.zeros_like(x)
        with torch.no_grad():
            for _ in range(12):
                state = self.step(state, x)
        state = self.step(state, x)
        if self.training:
            before = state.detach().requires_grad_()
            after = self.step(before, x)

            def at_fixed_point(gradient: Tensor) -> Tensor:
                found = gradient
                for _ in range(8):
                    found = gradient + torch.autograd.grad(after, before, found, retain_graph=True)[0]
                return found

            state.register_hook(at_fixed_point)
        return self.head(state)


WORDS, TOPICS, AGAINST = 400, 20, 5


class SkipGram(nn.Module):
    """Words as two vectors each, with gradients of the rows that were used alone: pairs -> logits."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.word, self.context = (nn.Embedding(WORDS, width, sparse=True) for _ in range(2))
        nn.init.uniform_(self.word.weight, -0.5 / width, 0.5 / width)
        nn.init.zeros_(self.context.weight)

    def forward(self, words: Tensor, contexts: Tensor) -> Tensor:
        return (self.word(words)[:, None] * self.context(contexts)).sum(2)


def neighbours() -> Data:
    """Words and a neighbour of each, of the same topic."""
    g = seeded(7)
    topic = torch.randint(TOPICS, (34048,), generator=g)
    x, y = (topic * 20 + (torch.rand(34048, generator=g) ** 2 * 20).long() for _ in range(2))
    return split(x, y, 32000)


def tell_from_noise(model: nn.Module, batch: Batch) -> Tensor:
    """The loss of a neighbour and of five random words, which are none."""
    words, contexts = batch
    drawn = torch.randint(WORDS, (len(words), AGAINST))
    logits = model(words, torch.cat([contexts[:, None], drawn], 1))
    signs = torch.tensor([1.0] + AGAINST * [-1.0])
    return -functional.logsigmoid(signs * logits).sum(1).mean()


def counts() -> Data:
    """Counts of 10 to 100, of a rate that depends on the input."""
    g = seeded(11)
    x = torch.rand(8000, 10, generator=g)
    rate = 3 + 1.2 * torch.sin(6 * x[:, :1]) * x[:, 1:2] + 2 * (x[:, 2:3] - 0.5) ** 2 + 0.5 * x[:, 3:4]
    return split(x, torch.poisson(rate.exp(), generator=g), 6400)


def places() -> Data:
    """Points between 0 and 1, at which an equation is to hold."""
    x = torch.rand(2560, 1, generator=seeded(2))
    return split(x, x, 2048)


def force(x: Tensor) -> Tensor:
    return torch.sin(2 * math.pi * x) + torch.sin(6 * math.pi * x)


def solve(model: nn.Module, batch: Batch) -> Tensor:
    """How far a function is from u'' = -force inside, and from 0 at both ends."""
    with torch.enable_grad():
        x = batch[0].clone().requires_grad_()
        (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        (bend,) = torch.autograd.grad(slope.sum(), x, create_graph=True)
        return ((bend + force(x)) ** 2).mean() + 10 * (model(torch.tensor([[0.0], [1.0]])) ** 2).mean()


class ActorCritic(nn.Module):
    """What to do in a state, as logits of six actions, and what that is expected to bring."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(networks.mlp(8, 64, 64, act=nn.Tanh), nn.Tanh())
        self.actor, self.critic = nn.Linear(64, 6), nn.Linear(64, 1)

    def forward(self, states: Tensor) -> tuple[Tensor, Tensor]:
        found = self.body(states)
        return self.actor(found), self.critic(found).squeeze(1)


def states() -> Data:
    """States, and what each of six actions brings there."""
    g = seeded(21)
    weights, x = torch.randn(8, 6, generator=g), torch.randn(6144, 8, generator=g)
    return split(x, torch.tanh(1.5 * (x @ weights)), 5120)


def act(model: nn.Module, batch: Batch) -> Tensor:
    """The policy gradient of an action that is drawn, with the critic's error and a bonus for being undecided."""
    logits, expected = model(batch[0])
    policy = torch.distributions.Categorical(logits=logits)
    action = policy.sample()
    reward = batch[1].take_along_dim(action[:, None], 1).squeeze(1)
    gain = (reward - expected).detach()
    error = mse(expected, reward)
    return -(policy.log_prob(action) * gain).mean() + error / 2 - 0.01 * policy.entropy().mean()


def reward(model: nn.Module, batch: Batch) -> tuple[Tensor, int]:
    """What the likeliest action brings: sum and number."""
    best = model(batch[0])[0].argmax(1, keepdim=True)
    return batch[1].take_along_dim(best, 1).sum(), len(best)


def entropy(share: float) -> float:
    """Of two outcomes."""
    return -share * math.log(share) - (1 - share) * math.log(1 - share)


WORKLOADS: dict[str, Workload] = {
    # No noise is the best guess at what has mean 0 and variance 1.
    "diffusion-adamw": Workload(Denoiser, pictures, by("AdamW"), None, 64, 8, step=denoise, constant_score=1.0),
    # Any of the captions of a batch is as likely.
    "contrast-adamw": Workload(
        Pairing,
        captioned,
        by("AdamW", weight_decay=0.2, betas=(0.9, 0.98), eps=1e-6),
        None,
        32,
        3,
        step=contrast,
        constant_score=math.log(32),
    ),
    # The same letters for every frame.
    "ctc-adam": Workload(
        Speech,
        utterances,
        by("Adam"),
        None,
        16,
        6,
        clip=5.0,
        step=lambda model, batch: ctc_loss(model(batch[0]), batch[1]),
        constant_score=fitted_constant(constant_ctc, utterances()[3], torch.zeros(LETTERS)),
    ),
    # Frequencies of the digits, with all experts asked alike.
    "experts-adamw": Workload(
        Experts,
        pictures,
        by("AdamW"),
        None,
        32,
        3,
        step=ask_experts,
        constant_score=fitted_constant(ce, pictures()[3], torch.zeros(10)) + 0.01,
    ),
    # The mean digit.
    "masked-autoencoder-adamw": Workload(
        Masked,
        clean_digits,
        by("AdamW", betas=(0.9, 0.95), weight_decay=0.05),
        None,
        32,
        12,
        step=lambda model, batch: model(batch[0]),
        constant_score=fitted_constant(mse, clean_digits()[2].flatten(1), torch.zeros(64)),
    ),
    # The normal distribution of the data's mean and deviations.
    "flow-adam": Workload(
        Flow,
        moons,
        by("Adam"),
        None,
        128,
        8,
        step=lambda model, batch: -model(batch[0]).mean(),
        constant_score=1 + math.log(2 * math.pi),
    ),
    # The same ten logits for every image.
    "distillation-sgd": Workload(
        networks.small_convnet,
        pictures,
        by("SGD", momentum=0.9),
        None,
        64,
        8,
        step=lambda model, batch: distilled_loss(model(batch[0]), *batch),
        constant_score=fitted_constant(
            lambda outputs, targets: distilled_loss(outputs, pictures()[2], targets), pictures()[3], torch.zeros(10)
        ),
    ),
    # Frequencies of the digits.
    "equilibrium-sgd": Workload(Equilibrium, pictures, by("SGD", momentum=0.9), ce, 64, 8),
    # One logit for all pairs, of which a sixth are neighbours.
    "skip-gram-sparseadam": Workload(
        SkipGram,
        neighbours,
        by("SparseAdam"),
        None,
        128,
        3,
        step=tell_from_noise,
        constant_score=6 * entropy(1 / 6),
    ),
    # The mean count.
    "counts-sgd": Workload(
        lambda: networks.mlp(10, 64, 64, 1, act=nn.Tanh),
        counts,
        by("SGD", momentum=0.9),
        functional.poisson_nll_loss,
        64,
        7,
        constant_score=fitted_constant(functional.poisson_nll_loss, counts()[3], torch.full((1,), 3.0)),
    ),
    # u = 0 everywhere.
    "equation-adam": Workload(
        lambda: networks.mlp(1, 32, 32, 1, act=nn.Tanh),
        places,
        by("Adam"),
        None,
        64,
        20,
        step=solve,
        constant_score=float((force(places()[2]) ** 2).mean()),
    ),
    # The action that is best on average; the score is a reward.
    "actor-critic-adam": Workload(
        ActorCritic,
        states,
        by("Adam"),
        None,
        128,
        15,
        accuracy=True,
        step=act,
        measure=reward,
        constant_score=float(states()[3].mean(0).max()),
    ),
}
