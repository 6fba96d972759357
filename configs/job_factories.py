"""The factories of lstm.yaml, autoencoder.yaml, multilabel.yaml and siamese.yaml, each with data that it draws."""

import torch
from torch import nn
from torch.utils.data import Dataset

# What share of the samples is trained on.
TRAINED = 0.8


def generator() -> torch.Generator:
    """The same numbers each time."""
    return torch.Generator().manual_seed(0)


def parted(inputs: torch.Tensor, targets: torch.Tensor):
    """(train, heldout), each a pair of tensors."""
    cut = int(TRAINED * len(inputs))
    return (inputs[:cut], targets[:cut]), (inputs[cut:], targets[cut:])


class StatefulLSTM(nn.Module):
    """An LSTM that begins a batch with the state in which the batch before ended, without its gradients.

    In evaluation every sequence begins with an empty state. The state is a buffer, so that it is part of checkpoints.
    """

    def __init__(self, lanes: int, width: int) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(3, width, batch_first=True), nn.Linear(width, 2)
        self.register_buffer("state", torch.zeros(2, 1, lanes, width))

    def forward(self, inputs: torch.Tensor):
        """(batch, length, 3) -> (batch, length, 2)."""
        if not self.training:
            return self.head(self.lstm(inputs)[0])
        outputs, state = self.lstm(inputs, tuple(self.state.clone()))
        self.state.copy_(torch.stack(state).detach())
        return self.head(outputs)


def stateful_lstm(lanes: int, width: int):
    """``lanes`` is the batch size: each of that many streams goes on in the next batch."""
    return StatefulLSTM(lanes, width)


def streams(lanes: int, length: int, parts: int):
    """A switch that is set to 0 or 1 now and then, and has to be known in between; streams cut into parts.

    Samples are in the order (part, lane), so that with ``shuffle: false`` each batch goes on where the last one ended.
    """
    events = torch.rand(lanes, parts * length, generator=generator())
    event = (events > 0.85).long() + (events > 0.925).long()  # 0 for none
    place = torch.where(event > 0, torch.arange(parts * length), -1).cummax(1).values
    last = torch.where(place < 0, 1, event.gather(1, place.clamp(min=0)))

    def cut(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.unflatten(1, (parts, length)).transpose(0, 1).flatten(0, 1)

    return parted(cut(nn.functional.one_hot(event, 3).float()), cut(last - 1))


def autoencoder(inside: int):
    """64 numbers through ``inside`` of them."""
    return nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, inside), nn.Linear(inside, 48), nn.ReLU(),
                         nn.Linear(48, 64))  # fmt: skip


def themselves(samples: int):
    """Inputs that are their own targets, and follow from 4 numbers each."""
    random = generator()
    inputs = torch.tanh(torch.randn(samples, 4, generator=random) @ torch.randn(4, 64, generator=random))
    return parted(inputs, inputs)


def tagger(labels: int):
    """A score for each label."""
    return nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, labels))


def tagged(samples: int, labels: int):
    """Any number of labels a sample, as 0 and 1 in float32, which a binary cross entropy takes."""
    random = generator()
    inputs = torch.randn(samples, 16, generator=random)
    hidden = torch.tanh(inputs @ torch.randn(16, 12, generator=random))
    return parted(inputs, (hidden @ torch.randn(12, labels, generator=random) > 1.5).float())


class Siamese(nn.Module):
    """The distance of two inputs, each by the same network."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 8))

    def forward(self, first: torch.Tensor, second: torch.Tensor):
        """Two of (batch, 20) -> (batch,)."""
        return (self.net(first) - self.net(second)).norm(dim=1)


def siamese():
    """A module that is called with both inputs."""
    return Siamese()


class Pairs(Dataset):
    """((first, second), whether both are of one class)."""

    def __init__(self, inputs: torch.Tensor, classes: torch.Tensor, random: torch.Generator) -> None:
        self.inputs, self.classes = inputs, classes
        self.other = torch.randint(len(inputs), (len(inputs),), generator=random)
        same = torch.rand(len(inputs), generator=random) < 0.5  # half of the pairs, or few would be of one class
        for place in same.nonzero().flatten():
            alike = (classes == classes[place]).nonzero().flatten()
            self.other[place] = alike[self.other[place] % len(alike)]

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, place: int) -> tuple[tuple[torch.Tensor, torch.Tensor], torch.Tensor]:
        other = self.other[place]
        return (self.inputs[place], self.inputs[other]), (self.classes[place] == self.classes[other]).float()


def pairs(samples: int):
    """Points around 6 places."""
    random = generator()
    classes = torch.randint(6, (samples,), generator=random)
    inputs = torch.randn(6, 20, generator=random)[classes] + 0.9 * torch.randn(samples, 20, generator=random)
    cut = int(TRAINED * samples)
    return Pairs(inputs[:cut], classes[:cut], random), Pairs(inputs[cut:], classes[cut:], random)


def contrastive(margin: float):
    """Draws pairs of one class together, and others apart as far as ``margin``."""

    def loss(distances: torch.Tensor, same: torch.Tensor) -> torch.Tensor:
        return (same * distances**2 + (1 - same) * (margin - distances).clamp(min=0) ** 2).mean()

    return loss


def told_apart(margin: float):
    """The share of pairs on the right side of half the margin."""
    return lambda distances, same: ((distances < margin / 2) == (same > 0.5)).float().mean()
