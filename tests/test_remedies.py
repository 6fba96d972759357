"""Each advice comes up where it is true, and obeying it changes the verdict: range tests of small networks, for real."""

import math
import re

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import clrtool
from clrtool.core.reading.verdict import Advice, Verdict

from .test_api import HELDOUT, TRAIN

HELD = DataLoader(HELDOUT, 500)


def batches(data=TRAIN, number=32):
    return DataLoader(data, number, shuffle=True, drop_last=True)


def shuffled(data):
    inputs, targets = data.tensors
    return TensorDataset(inputs, targets[torch.randperm(len(targets), generator=torch.Generator().manual_seed(1))])


def deep(depth, width=32, activation=nn.Sigmoid):
    """A network whose start is a plateau that grows with its depth."""

    def build():
        layers = [nn.Flatten(), nn.Linear(64, width), activation()]
        for _ in range(depth - 1):
            layers += [nn.Linear(width, width), activation()]
        return nn.Sequential(*layers, nn.Linear(width, 10))

    return build


class Broken(nn.Module):
    """What divides by a number that is 0."""

    def __init__(self, by):
        super().__init__()
        self.net, self.by = deep(1, activation=nn.ReLU)(), by

    def forward(self, inputs):
        return self.net(inputs) / self.by


class Beside(nn.Module):
    """One layer is used, and another only where the model trains, to no effect."""

    def __init__(self):
        super().__init__()
        self.net, self.beside = deep(1, activation=nn.ReLU)(), nn.Linear(64, 10)

    def forward(self, inputs):
        return self.net(inputs) + 0 * self.beside(inputs.flatten(1))


def step(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def flawless(model, batch):
    """Whether a batch is without a mistake: of 500, one never is."""
    return float((model(batch[0]).argmax(1) == batch[1]).all()), 1


def shallow():
    return deep(1, activation=nn.ReLU)()


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def range_test(model=shallow, optimizer=sgd, train=TRAIN, heldout=HELD, **options):
    train = batches(train) if isinstance(train, TensorDataset) else train
    return clrtool.range_test(model, optimizer, train, heldout, progress=False, **{"epochs": 120, **options})


def adam(model):
    return torch.optim.Adam(model.parameters())


class Stream:
    """The same samples in the same order for who asks, or others each time."""

    def __init__(self, differ):
        self.differ = differ

    def __iter__(self):
        order = torch.randperm(len(TRAIN), generator=None if self.differ else torch.Generator().manual_seed(1))
        return iter([TRAIN[order[start : start + 32]] for start in range(0, 576, 32)])

    def __len__(self):
        return 18


# The advice, what it is given for, and what is different where it is obeyed.
PAPER = {"method": "paper", "epochs": 20}
CASES = {
    "a plateau, longer": (Advice.NOTHING_LEARNED, {"model": deep(3), "budget": 0.1}, {"budget": 1.0}),
    "labels that say nothing, mended": (
        Advice.NOTHING_LEARNED,
        {"train": shuffled(TRAIN), "heldout": DataLoader(shuffled(HELDOUT), 500)},
        {"train": TRAIN, "heldout": HELD},
    ),
    "a score that only much training moves, and the loss beside it": (
        Advice.NOTHING_MOVED,
        {"step": step, "measure": flawless, "metric": "flawless", "higher_is_better": True},
        {"eval_loss": "eval"},
    ),
    "a part that does not reach the outputs, all of it": (
        Advice.NOTHING_MOVED,
        {"model": Beside, "optimizer": lambda model: torch.optim.SGD(model.beside.parameters(), 0.1)},
        {"optimizer": sgd},
    ),
    "NaN, mended": (Advice.NOTHING_FINITE, {"model": lambda: Broken(0.0)}, {"model": lambda: Broken(1.0)}),
    "little learned, longer": (
        Advice.LITTLE_LEARNED,
        {"model": deep(3), "optimizer": adam, "budget": 0.25},
        {"budget": 0.5},
    ),
    "one seed, two": (Advice.ONE_SEED, {"seeds": 1}, {"seeds": 2}),
    "one seed that learned, longer": (
        Advice.ONE_SEED,
        {"model": deep(2), "optimizer": lambda model: torch.optim.SGD(model.parameters(), 0.1), "budget": 0.1},
        {"budget": 1.0},
    ),
    "seeds that agree across gaps, as long as the reason names": (
        Advice.GAPS,
        {"model": deep(2, width=28), "budget": 0.1, "seed": 2},
        {"budget": 0.42},
    ),
    "split off, given": (Advice.SPLIT_OFF, {"heldout": None}, {"heldout": HELD}),
    "training loss, held out": (
        Advice.TRAINING_LOSS,
        {"train": [TRAIN[at : at + 30] for at in range(0, 600, 30)], "heldout": None},
        {"heldout": HELD},
    ),
    "one stream, seeded": (Advice.ALIKE_SEEDS, {"model": shallow(), "train": Stream(False)}, {"train": Stream(True)}),
    "paper: above all that trains, lower": (
        Advice.BROKE_AT_ONCE,
        PAPER | {"start_lr": 300.0, "end_lr": 3e3},
        {"start_lr": 1e-4, "end_lr": 10.0},
    ),
    "paper: below all that trains, higher": (
        Advice.NEVER_LEARNED,
        PAPER | {"start_lr": 1e-9, "end_lr": 1e-7},
        {"end_lr": 10.0},
    ),
    "paper: still rising, further": (Advice.STILL_RISING, PAPER | {"start_lr": 1e-5, "end_lr": 3e-3}, {"end_lr": 10.0}),
    "paper: unbroken, further": (Advice.UNBROKEN, PAPER | {"start_lr": 1e-3, "end_lr": 0.1}, {"end_lr": 100.0}),
    "paper: risen from the start, lower": (
        Advice.ALREADY_RISEN,
        PAPER | {"start_lr": 0.1, "end_lr": 100.0},
        {"start_lr": 1e-5},
    ),
    "paper: wide, raced": (Advice.INSENSITIVE, PAPER, {"method": "race"}),
}


@pytest.mark.short(6)
@pytest.mark.parametrize("case", CASES)
def test_an_advice_is_given_for_its_cause_and_is_gone_where_it_is_obeyed(case):
    advice, given, obeyed = CASES[case]
    before = range_test(**given).bounds
    assert advice in before.advice
    after = range_test(**given | obeyed).bounds
    assert advice not in after.advice
    assert after.max_lr is not None
    assert math.isfinite(after.max_lr)


@pytest.mark.short(1)
@pytest.mark.parametrize("epochs", [20, 120, 1000])
def test_the_budget_that_is_named_makes_the_race_about_twice_as_long(epochs):
    first = range_test(epochs=epochs, seeds=1, method="race")
    named = float(re.search(r"A budget of (\S+) makes", first.bounds.max_reason)[1])
    longer = range_test(epochs=epochs, seeds=1, method="race", budget=named)
    assert 1.7 <= longer.record.race.entry.budget / first.record.race.entry.budget <= 2.6


@pytest.mark.short(1)
@pytest.mark.parametrize("method", ["race", "paper"])
def test_labels_that_say_nothing_are_called_that_and_no_budget_or_range_is_blamed(method):
    given = {"train": shuffled(TRAIN), "heldout": DataLoader(shuffled(HELDOUT), 500), "method": method}
    for options in ({}, {"budget": 1.0} if method == "race" else {"start_lr": 1e-6, "end_lr": 1e3}):
        bounds = range_test(**given, **options).bounds
        assert bounds.verdict is Verdict.INCONCLUSIVE
        assert bounds.advice[0] in (Advice.NOTHING_LEARNED, Advice.NEVER_LEARNED)
