"""The runs of a race, and what was read in them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from clrtool.core.racing import rules


class Run(NamedTuple):
    """A run at ``lr = 2**power``, to be trained on to so many iterations from the start.

    Args:
        seed: of weights and batches, counted from 0.
    """

    seed: int
    power: int
    iterations: int

    @property
    def lr(self) -> float:
        return 2.0**self.power


@dataclass(frozen=True)
class Probe:
    """What a run says after so many iterations at one rate: held-out scores of the running average of its weights.

    Args:
        seed, power, iterations: of the run, see :class:`Run`.
        taken: iterations, fewer where a loss was not finite and ended the run.
        loss: held-out loss, infinite where it is not finite.
        metric: what the curves of the sweep show; None where the loss is not finite.
        spread: how far the answers of the last layer differ from input to input, as a share of what they do before any
            training; None where the loss says more than that of a constant answer, and where no layer is heard.
    """

    seed: int
    power: int
    iterations: int
    taken: int
    loss: float
    metric: float | None
    spread: float | None = None

    @property
    def lr(self) -> float:
        return 2.0**self.power


@dataclass(frozen=True)
class Entry:
    """Where a race starts, and what it may cost.

    Args:
        start: power of two of the first rate.
        budget: iterations of all runs together.
        seeds: starts that are tried.
        training: iterations of the training that is planned; no run is longer.
        constant: held-out loss of the best constant answer; the first loss where that is not known.
        first: held-out loss before any training.
        still: held-out loss of a run of no step, whose batch norm has new statistics as in every run, for they alone
            may lower it; infinite without batch norm.
    """

    start: int
    budget: int
    seeds: int
    training: int
    constant: float
    first: float
    still: float = math.inf

    @property
    def before(self) -> float:
        """The held-out loss without any training: the lower of both readings."""
        return min(self.first, self.still)

    @property
    def floor(self) -> float:
        """What gains count from: the lowest loss that takes no training."""
        return min(self.constant, self.before)

    def gain(self, loss: float) -> float:
        """What a loss has gained over the constant answer, as a share of its loss; all, where there is none."""
        if math.isinf(self.constant):
            return 1.0
        return (self.floor - loss) / (abs(self.constant) or 1.0)

    def is_level(self, loss: float) -> bool:
        """Whether a loss is about that of a constant answer, where the lowest loss does not show the best rate."""
        size = abs(self.constant)
        return math.isfinite(size) and -rules.LEFT * size <= loss - self.constant <= rules.LEVEL * size

    def taken_as(self, loss: float) -> float:
        """A loss as a race ranks it: infinite where it has exploded."""
        if not math.isfinite(self.constant + self.first):
            return loss
        most = max(self.constant, self.first) + rules.EXPLODED * max(abs(self.constant), abs(self.first))
        return loss if loss <= most else math.inf


def cost(probes: Sequence[Probe]) -> int:
    """Iterations of all runs: each is gone on with, so its last length counts."""
    longest: dict[tuple[int, int], int] = {}
    for probe in probes:
        run = probe.seed, probe.power
        longest[run] = max(probe.taken, longest.get(run, 0))
    return sum(longest.values())


def contenders(probes: Sequence[Probe]) -> set[tuple[int, int]]:
    """Seed and power of the runs that may continue: those of this seed that are near the best of any horizon.

    All of them while they are few: on a plateau they lie far apart, and losses do not show the best.
    """
    if not probes:
        return set()
    seed = probes[-1].seed
    rounds = by_horizon(probes, seed).values()
    near = {power for losses in rounds for power in losses if abs(power - best_of(losses)) <= rules.NEAR}
    all_of_them = {power for losses in rounds for power in losses}
    return {(seed, power) for power in (near if len(all_of_them) > rules.WAITING else all_of_them)}


def by_horizon(probes: Sequence[Probe], seed: int = 0) -> dict[int, dict[int, float]]:
    """Losses of a seed by iterations, and by power of two."""
    rounds: dict[int, dict[int, float]] = {}
    for probe in probes:
        if probe.seed == seed:
            rounds.setdefault(probe.iterations, {})[probe.power] = probe.loss
    return rounds


def best_of(losses: Mapping[int, float]) -> int:
    """The power of the lowest loss, the lowest of those."""
    return min(losses, key=lambda power: (losses[power], power))


def has_learned(loss: float, entry: Entry) -> bool:
    """Whether a loss is well below that of the constant answer, and below the first; finite, where neither is."""
    if math.isinf(entry.constant):
        return math.isfinite(loss)
    return entry.gain(loss) > 0 and entry.constant - loss > rules.LEARNED * abs(entry.constant)
