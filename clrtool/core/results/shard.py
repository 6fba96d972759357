"""Shards: the seeds of one range test shared out, every n-th of them to one of n processes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

# More processes than a test may have seeds have nothing to do.
MOST = 1000


@dataclass(frozen=True)
class Shard:
    """One of ``of`` shards, numbered from 1.

    >>> [position for position in range(8) if Shard(2, 3).has(position)]
    [1, 4, 7]
    """

    number: int
    of: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.of <= MOST:
            raise ValueError(f"a shard is K/N with 1 <= K <= N <= {MOST:,}, got {self}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """A shard as it is typed, ``2/8``. Raises ValueError for anything else."""
        if not (match := re.fullmatch(r"(\d{1,9})/(\d{1,9})", text, re.ASCII)):
            raise ValueError(f"a shard is K/N, such as 2/8, got {text[:40]!r}")
        return cls(int(match[1]), int(match[2]))

    @property
    def folder(self) -> str:
        """The name of its folder."""
        return f"{self.number}-of-{self.of}"

    def has(self, position: int) -> bool:
        """Whether the seed at this position, from 0, is one of its own."""
        return position % self.of == self.number - 1

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


def have(shards: Sequence[Shard], position: int) -> bool:
    """Whether a seed is in a shard, or in the shard of a shard.

    >>> [position for position in range(12) if have([Shard(1, 2), Shard(2, 3)], position)]
    [2, 8]
    """
    for shard in shards:
        if not shard.has(position):
            return False
        position //= shard.of
    return True


def owned(shards: Sequence[Shard], seeds: int) -> int:
    """How many of the seeds of a test are in a shard, or in the shard of a shard."""
    return sum(have(shards, position) for position in range(seeds))


class LackingError(Exception):
    """Seeds are lacking that other processes have to train; all that was to be trained here is finished."""

    def __init__(self, seeds: Sequence[int]) -> None:
        super().__init__(f"seeds {', '.join(map(str, seeds))} are lacking")
        self.seeds = tuple(seeds)
