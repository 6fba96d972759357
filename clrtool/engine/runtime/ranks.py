"""The processes of one range test: what each of them asks of all, and the answers of one that runs alone.

What a test decides it decides from numbers that were summed over all ranks, so all decide alike; what comes from
outside, a signal or the clock, is asked of all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


class Ranks:
    """All ranks of a test that runs in one process: that process. What it has is what all have.

    Args:
        rank: of this process, from 0, among those that take batches of their own.
        world: how many of these there are: one for all the ranks that share each batch, as in tensor parallelism.
        matters: whether another number of ranks makes another test, and not the same one up to rounding.
    """

    rank: int = 0
    world: int = 1
    matters: bool = False

    @property
    def process(self) -> int:
        """The number of this process, from 0: the first speaks and writes."""
        return self.rank

    @property
    def processes(self) -> int:
        """How many train together."""
        return self.world

    @property
    def facts(self) -> dict[str, str | int]:
        """What a result depends on, for its record."""
        return {}

    @property
    def engine(self) -> str:
        """How the steps are run, for the record."""
        return "eager"

    def shard(self, size: int) -> range:
        """The indices of this rank, of so many."""
        return range(self.rank * size // self.world, (self.rank + 1) * size // self.world)

    def data_parallel(self, model: nn.Module) -> nn.Module:
        """The model as it is trained, with gradients that are the means over all ranks."""
        return model

    def seed_rank(self, seed: int) -> None:
        """Let every rank but the first draw numbers of its own from here on: dropout, say."""

    def average_gradients(self, parameters: Iterable[nn.Parameter], *, skips: bool) -> bool:  # noqa: ARG002
        """Have every gradient be the mean over all ranks; those of shards are when they are made.

        Args:
            skips: whether this rank has no loss for its batch.

        Returns:
            Whether all have one; else no gradient was touched, and the step is to be skipped.
        """
        return not skips

    def align(self, model: nn.Module) -> None:
        """Give every rank the weights and buffers of the first, but for those of which each holds a shard."""

    def sum(self, values: Tensor) -> Tensor:
        return values

    def mean(self, values: Tensor) -> Tensor:
        return values

    def numbers(self, values: Tensor) -> Any:
        """Values as plain numbers, in lists as deep as they have dimensions; the device is waited for."""
        return values.tolist()

    def any(self, flag: bool) -> bool:
        return flag

    def max(self, number: int | None) -> int | None:
        return number

    def broadcast_buffers(self, model: nn.Module) -> None:
        """Give every rank the buffers of the first: the averages of batch norm, for an evaluation."""

    def all_gather(self, state: Mapping[str, Any]) -> Any:
        """The states of all ranks, for a checkpoint."""
        return state

    def gather(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Small tensors of all that take batches of their own, in their order; those of others on the CPU."""
        return [*tensors]

    def of_this_rank(self, states: Any) -> Any:
        """The state of this rank in :meth:`all_gather`; None if there were fewer ranks."""
        states = states if isinstance(states, list) else [states]
        return states[self.process] if self.process < len(states) else None

    def broadcast(self, values: Any) -> Any:
        """The values that the first rank has."""
        return values

    def differing(self, hashes: Mapping[str, str]) -> list[str]:  # noqa: ARG002
        """The names of hashes that are not the same on all ranks."""
        return []

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """Let one rank of each machine do first what the others then find done."""
        yield


SINGLE_PROCESS = Ranks()
