"""What a race over the values of another key is given, and what comes of it: frozen records, and what it may cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from clrtool.core.planning.sweep_size import LEAST_BUDGET
from clrtool.core.racing import rules
from clrtool.core.racing.probes import Entry, Probe, Run, has_learned
from clrtool.core.racing.race import outcome
from clrtool.core.racing.result import Race

# What the race over rates takes of the budget, and at the least what any range test does: all rates are told by the one
# that it finds, for its runs are longer than those of the values.
PILOT = 0.4
# Rates that a value looks at, on average: the one that it is given, one on either side, and often one more.
LOOKED = 3.8
# Of them the fewest that show a best one; what the others can spare is for a value whose best rate lies farther off.
FEWEST = 3
# Part of the rest for what follows the looks: the best are trained on, and other seeds have a say.
RESERVED = 0.45
# Rates at which a value is trained on, and values that other seeds are asked about.
RATES, FINALISTS = 2, 2
# Of the gain; a rate above the best of a value is taken that is behind by no more. With the share of a race over rates,
# a value whose rate lies a factor of 16 or more off is not followed as far as that.
FORGIVEN = 0.1
# Of the gain; a smaller lead is none, however alike the seeds are.
SAME = 0.005
# Of the gain so far; the first value, that of the config, goes on ahead of who leads it by less.
FAVOURED = 0.02


class Contender(NamedTuple):
    """A value, or a pair of values, in the terms of a race.

    Args:
        place: of its values among those of each key.
        batch_size: samples of a step.
        training: steps of the training that is planned with it.
    """

    place: tuple[int, ...]
    batch_size: int
    training: int

    @property
    def samples(self) -> int:
        """Samples of the training that is planned with it."""
        return self.batch_size * self.training


@dataclass(frozen=True)
class Contest:
    """Where a race over values starts, and what it may cost.

    Args:
        contenders: the values.
        first: which of them the race over rates was run with.
        entry: of that race: the losses that gains count from, and the seeds.
        power: of two, the rate that it found.
        learned: samples after which it had learned something; nothing shorter tells values apart.
        budget: samples of all runs together.
        keeps_all: whether no value is dropped, for each wants its own rate, as batch sizes do.
    """

    contenders: tuple[Contender, ...]
    first: int
    entry: Entry
    power: int
    learned: int
    budget: int
    keeps_all: bool = False

    @property
    def horizon(self) -> int:
        """Samples after which the values are first compared.

        As many as the looks may take, and as something has been learned after, if all of the budget pays for that.
        """
        least = max(rules.SHORTEST * each.batch_size for each in self.contenders)
        affordable = self.budget / (LOOKED * len(self.contenders))
        wanted = max((1 - self.reserved) * affordable, min(self.learned, affordable))
        return min(max(least, int(wanted)), *(each.samples for each in self.contenders))

    @property
    def reserved(self) -> float:
        """Part of the budget for what follows the looks."""
        return reserved(len(self.contenders), keeps_all=self.keeps_all)


class Trial(NamedTuple):
    """A run of a value, to be trained on to so many iterations from the start.

    Args:
        kept: the values that may still be trained; the others have been dropped.
    """

    value: int
    run: Run
    kept: tuple[int, ...]


class Reading(NamedTuple):
    """What a run of a value says."""

    value: int
    probe: Probe

    def plain(self) -> tuple[Any, ...]:
        """In plain types."""
        return self.value, *vars(self.probe).values()

    @classmethod
    def of(cls, plain: Sequence[Any]) -> Reading:
        """What :meth:`plain` gave."""
        return cls(plain[0], Probe(*plain[1:]))


class Standing(NamedTuple):
    """How far a value came.

    Args:
        value: which of the contenders.
        powers: the rate that each seed prefers, as a power of two; none where nothing was finite.
        losses: the lowest of each seed, at the longest horizon of the value.
        samples: of that horizon.
    """

    value: int
    powers: tuple[int, ...]
    losses: tuple[float, ...]
    samples: int

    @property
    def loss(self) -> float:
        """The mean over seeds."""
        return sum(self.losses) / len(self.losses) if self.losses else math.inf

    @property
    def power(self) -> float | None:
        """The mean over seeds; None where nothing was finite."""
        return sum(self.powers) / len(self.powers) if self.powers else None


@dataclass(frozen=True)
class Ranking:
    """What a race over values came to.

    Args:
        standings: of every value, in their order.
        order: the values, the best first: who went on for longer is before who did not.
        margins: by how much the second loses against the first, for each seed that saw both.
        gain: of the first over the constant answer, in loss.
        drift: what the lead loses until the end of the training, if it goes on to shrink as it did in longer runs: a
            value that only begins faster is caught up with. Infinite where that was not seen.
    """

    standings: tuple[Standing, ...]
    order: tuple[int, ...]
    margins: tuple[float, ...]
    gain: float
    drift: float

    @property
    def noise(self) -> float:
        """The lead that is none: the spread of the margins over seeds, a part of the gain, or what it will lose."""
        spread = max(self.margins) - min(self.margins) if all(map(math.isfinite, self.margins)) else 0.0
        return max(spread, SAME * self.gain, self.drift)

    @property
    def is_ahead(self) -> bool:
        """Whether the first is better as far as is known: of one seed by more than what favours the other."""
        return self.is_clear or (len(self.margins) == 1 and self.margins[0] > max(FAVOURED * self.gain, self.drift))

    @property
    def is_clear(self) -> bool:
        """Whether the first is better than the second by more than noise, which takes two seeds to be known."""
        return len(self.margins) > 1 and sum(self.margins) / len(self.margins) > self.noise


def contest_of(
    contenders: Sequence[Contender], first: int, pilot: Race, seeds: int, budget: int, *, keeps_all: bool = False
) -> Contest:
    """The race over values that follows one over rates.

    Args:
        pilot: of the contender ``first``, with one seed.
        seeds: starts that the values are tried with.
        budget: samples of both races together.

    Raises:
        ValueError: no rate of the pilot learned anything.
    """
    found, batch_size = outcome(pilot.entry, pilot.probes), contenders[first].batch_size
    if not found.picks:
        raise ValueError("no run of the race over rates does better than a constant answer")
    learned = min(probe.iterations for probe in pilot.probes if has_learned(probe.loss, pilot.entry))
    if learned == min(probe.iterations for probe in pilot.probes):
        learned = 0  # and perhaps before the first look
    left = budget - pilot.iterations * batch_size
    entry = replace(pilot.entry, seeds=seeds)
    return Contest(
        tuple(contenders), first, entry, round(found.power), learned * batch_size, max(0, left), keeps_all=keeps_all
    )


def reserved(number: int, *, keeps_all: bool) -> float:
    """Part of the budget for what follows the looks of so many values; three rates at both ends, if none is dropped."""
    ends = 3 * FINALISTS / (LOOKED * number)
    return ends / (1 + ends) if keeps_all else RESERVED


def least_budget(contenders: Sequence[Contender], first: int, *, keeps_all: bool = False) -> int:
    """Samples below which the race over rates finds none, or not all values have the shortest runs paid after it."""
    shortest = rules.SHORTEST * max(each.batch_size for each in contenders)
    looks = LOOKED * len(contenders) * shortest / (1 - (0.0 if keeps_all else RESERVED))
    return math.ceil(looks) + LEAST_BUDGET * contenders[first].batch_size


def pilot_budget(samples: int, batch_size: int) -> int:
    """Iterations of the race over rates, of the samples that all may take."""
    return max(LEAST_BUDGET, int(PILOT * samples / batch_size))
