"""Two networks that are trained against each other, as a GAN's are: two losses, and no one rate that trains both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from clrtool.errors import ConfigError

WAY_OUT = "test one network while the other stays fixed: its module, its optimizer, and a step that gives its loss"
# What the two are called in programs, as a name of the module or a part of its class's name. Structure does not tell
# them: an encoder and a decoder with an optimizer each look the same, and descend one loss.
GENERATORS, ADVERSARIES = ("generator", "gen", "netg", "g"), ("discriminator", "critic", "disc", "netd", "d")
SHORTEST_PART = 4  # a shorter name is a part of too many others


def two_networks(given: Any) -> str:
    """What to add to an error about several things in a mapping."""
    return f". Of two networks that are trained against each other {WAY_OUT}" if isinstance(given, Mapping) else ""


def check_one_loss(model: nn.Module, optimizer: Optimizer) -> None:
    """Raise ConfigError for a generator and an adversary with an optimizer each."""
    parts = getattr(optimizer, "optimizers", ())
    for generator, adversary in _pairs(model) if len(parts) > 1 else ():
        if _trains_alone(parts, generator[1]) and _trains_alone(parts, adversary[1]):
            raise ConfigError(
                f"optimizer: trains {generator[0]} and {adversary[0]} against each other, by two losses of which a "
                f"step gives one: {WAY_OUT}"
            )


def _pairs(model: nn.Module) -> Iterator[tuple[tuple[str, nn.Module], tuple[str, nn.Module]]]:
    children = dict(model.named_children()).items()
    for generator in children:
        for adversary in children:
            if generator is not adversary and _is_one_of(GENERATORS, generator) and _is_one_of(ADVERSARIES, adversary):
                yield generator, adversary


def _is_one_of(names: tuple[str, ...], child: tuple[str, nn.Module]) -> bool:
    name, kind = child[0].lower().replace("_", ""), type(child[1]).__name__.lower()
    return name in names or any(each in kind or each in name for each in names if len(each) > SHORTEST_PART)


def _trains_alone(optimizers: tuple[Optimizer, ...], network: nn.Module) -> bool:
    """Whether one of the optimizers has parameters of this network, and of no other."""
    own = {id(each) for each in network.parameters()}
    held = [{id(each) for group in one.param_groups for each in group["params"]} for one in optimizers]
    return any(each and each <= own for each in held)
