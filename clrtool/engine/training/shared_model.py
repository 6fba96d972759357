"""One model that several trainers train in turn, as a sharded one, which cannot be copied: its weights change hands."""

from __future__ import annotations

from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn

from clrtool.engine.runtime.sharded import Shard, forget_gathered, local, local_tensors, named_tensors
from clrtool.engine.training.in_place import copies_of, copy_all


class SharedModel:
    """A model, and of each player who has not the turn a copy of what this rank holds of weights and buffers.

    A player is a trainer. Of one that is dropped nothing is kept.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._holder: ref[object] | None = None
        self._kept: WeakKeyDictionary[object, list[Tensor]] = WeakKeyDictionary()

    @property
    def _tensors(self) -> list[Tensor]:
        return [*local_tensors(self.model).values()]

    def state_of(self, player: object) -> dict[str, Shard]:
        """What a player has, wherever it lies: who holds the turn has it in the model."""
        there = named_tensors(self.model)
        own = self._kept.get(player, map(local, there.values()))
        return {name: Shard(part, like) for part, (name, like) in zip(own, there.items(), strict=True)}

    def pass_to(self, player: object) -> None:
        """Have the model be a player's: as it was left, or at first as it is."""
        holder = None if self._holder is None else self._holder()
        if holder is player:
            return
        kept = self._kept.pop(player, None)
        if kept is None:
            self.vacate()
        elif holder is None:
            copy_all(kept, self._tensors)
        else:
            exchange(kept, self._tensors)
            self._kept[holder] = kept
        forget_gathered(self.model)
        self._holder = ref(player)

    def vacate(self) -> None:
        """Put away what is there: somebody writes into the model."""
        if self._holder is not None and (holder := self._holder()) is not None:
            self._kept[holder] = copies_of(self._tensors)
        self._holder = None


@torch.no_grad()
def exchange(first: list[Tensor], second: list[Tensor]) -> None:
    """Exchange what tensors hold, one pair after the other: the memory of one is all that it takes."""
    for one, other in zip(first, second, strict=True):
        before = one.clone()
        one.copy_(other)
        other.copy_(before)
