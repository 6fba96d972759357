"""A race over the values of another key, each with rates of its own, as a pure function of the runs so far.

A race over rates has found one for the value that the config has. Every value then looks around the best rate of the
value nearest to it; the worse half goes, the rest is trained on at its best rates for twice as long, until two are
left, and other seeds say whether the first of them is better. All are read after as many *samples*, for a batch of
another size makes more or fewer steps of them.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import zip_longest
from typing import Any, NamedTuple

from clrtool.core.planning.sweep_size import LEAST_BUDGET
from clrtool.core.racing import rules
from clrtool.core.racing.probes import Entry, Probe, Run, best_of, has_learned
from clrtool.core.racing.race import outcome
from clrtool.core.racing.result import Race
from clrtool.core.racing.seed import Asking, Seed

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
    """A run of a value, to be trained on to so many iterations from the start."""

    value: int
    run: Run


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
    """

    standings: tuple[Standing, ...]
    order: tuple[int, ...]
    margins: tuple[float, ...]
    gain: float

    @property
    def noise(self) -> float:
        """The lead that is none: the spread of the margins over seeds, or a small part of the gain."""
        spread = max(self.margins) - min(self.margins) if all(map(math.isfinite, self.margins)) else 0.0
        return max(spread, SAME * self.gain)

    @property
    def is_ahead(self) -> bool:
        """Whether the first is better as far as is known: of one seed by more than what favours the other."""
        return self.is_clear or (len(self.margins) == 1 and self.margins[0] > FAVOURED * self.gain)

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
        tuple(contenders), first, entry, found.picks[0], learned * batch_size, max(0, left), keeps_all=keeps_all
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


def next_trial(contest: Contest, readings: Sequence[Reading]) -> Trial | None:
    """The run to begin or to go on with next; None when the race is over."""
    asked = _replay(contest, readings)
    return asked if isinstance(asked, Trial) else None


def ranking(contest: Contest, readings: Sequence[Reading]) -> Ranking:
    """What a race came to that is over. Raises ValueError for one that is not."""
    found = _replay(contest, readings)
    if isinstance(found, Trial):
        raise ValueError("the race is not over")
    return found


def _replay(contest: Contest, readings: Sequence[Reading]) -> Trial | Ranking:
    """Run the race over what is known: what it lacks first, or what it came to."""
    race = _Race(contest).run()
    try:
        trial = next(race)
        for reading in readings:
            trial = race.send(reading.probe.loss)
    except StopIteration as end:
        found: Ranking = end.value
        return found
    return trial


class _Lane(Seed):
    """The runs of one value and one seed."""

    def look(self, power: int, towards: int, horizon: int) -> Asking:
        """From a rate near the best one towards where that is likely, until the best has a worse one on either side."""
        known = yield from self._train([power, power + towards], horizon)
        return (yield from self._climb(known, 1, horizon)) if known else known

    def go_on(self, powers: Sequence[int], horizon: int) -> Asking:
        """Train rates on, as far as the budget goes."""
        return self._train(powers, horizon)

    @property
    def last(self) -> dict[int, float]:
        """Losses at the longest horizon."""
        return self._rounds.get(self.longest, {})

    @property
    def best(self) -> list[int]:
        """The best rates of the longest horizon, the best first."""
        last = self.last
        finite = [power for power in last if math.isfinite(last[power])]
        return sorted(finite, key=lambda power: (last[power], power))[:RATES]

    @property
    def picked(self) -> int:
        """The best of them, or the rate above it that is hardly behind."""
        return self.pick(self.last)

    @property
    def rounds(self) -> int:
        """Horizons at which it was read."""
        return len(self._rounds)

    @property
    def lowest(self) -> float:
        """The lowest loss of the longest horizon."""
        return min(self.last.values(), default=math.inf)


# A part of a race asks for runs of values.
Part = Generator[Trial, float, None]


class _Race:
    """The lanes of a race, what they cost together, and who is left."""

    def __init__(self, contest: Contest) -> None:
        self._contest = contest
        self._lanes: dict[tuple[int, int], _Lane] = {}

    def run(self) -> Generator[Trial, float, Ranking]:
        """The whole race."""
        contest = self._contest
        yield from self._look()
        if contest.keeps_all:
            for seed in range(1, contest.entry.seeds):
                yield from self._confirm_ends(seed)
        else:
            finalists = yield from self._halve()
            for seed in range(1, contest.entry.seeds):
                yield from self._confirm(finalists, seed)
        return self._ranking()

    def _look(self) -> Part:
        """Every value at the rates around the best of the nearest, from the first on outwards."""
        places = [each.place for each in self._contest.contenders]
        apart = [[_distance(one, other) for other in places] for one in places]
        order = sorted(range(len(places)), key=lambda value: (apart[value][self._contest.first], value))
        horizon, budget = self._contest.horizon, self._contest.budget
        kept = min(self._contest.reserved * budget, max(0.0, budget - LOOKED * len(places) * horizon))
        for number, value in enumerate(order):
            known = [each for each in order[:number] if self._lane(each).best]
            nearest = min(known, key=lambda each: apart[value][each], default=None)
            power = self._contest.power if nearest is None else self._lane(nearest).best[0]
            # a smaller batch wants a lower rate, if any; up is as good as down for all else
            sizes = [
                self._contest.contenders[each].batch_size for each in (value, order[0] if nearest is None else nearest)
            ]
            towards = -1 if sizes[0] < sizes[1] else 1
            share = self._left - kept - FEWEST * horizon * (len(order) - number - 1)
            look = partial(self._lane(value).look, power, towards)
            yield from self._train(value, 0, look, horizon, share)

    def _halve(self) -> Generator[Trial, float, list[int]]:
        """Train the better half on, for twice as long, while there is budget for that and for other seeds after it."""
        horizon = self._contest.horizon
        kept = self._by_loss(range(len(self._contest.contenders)))
        while True:
            kept = kept[: max(FINALISTS, math.ceil(len(kept) / 2))]
            longer = self._reach(len(kept), horizon) if kept else 0
            if longer < rules.WORTH * horizon:
                return kept[:FINALISTS]
            for value in kept:
                go_on = partial(self._lane(value).go_on, self._lane(value).best)
                yield from self._train(value, 0, go_on, longer, self._left)
            horizon, kept = longer, self._by_loss(kept)

    def _reach(self, number: int, horizon: int) -> int:
        """Samples to which so many values can be trained on from a horizon, and the best of them by other seeds."""
        seeds = self._contest.entry.seeds - 1
        rates = RATES * (number + FINALISTS * seeds)
        affordable = int((self._left + RATES * number * horizon) / rates)
        return min(2 * horizon, affordable, *(each.samples for each in self._contest.contenders))

    def _confirm(self, finalists: Sequence[int], seed: int) -> Part:
        """The best rates of the last values with another seed, for as long."""
        for number, value in enumerate(finalists):
            first = self._lane(value)
            horizon = first.longest * self._contest.contenders[value].batch_size
            share = self._left / ((len(finalists) - number) * (self._contest.entry.seeds - seed))
            go_on = partial(self._lane(value, seed).go_on, first.best)
            yield from self._train(value, seed, go_on, horizon, share)

    def _confirm_ends(self, seed: int) -> Part:
        """Both ends of the batch sizes with another seed, at their own rates and those around, if they can be paid."""
        contenders = self._contest.contenders
        by_size = sorted(range(len(contenders)), key=lambda value: contenders[value].batch_size)
        ends = by_size[0], by_size[-1]
        if self._left < 3 * len(ends) * (self._contest.horizon + contenders[ends[1]].batch_size):
            return  # not all of them can be paid, and fewer rates show no best one
        for number, value in enumerate(ends):
            for power in self._lane(value).best[:1]:
                share = self._left / ((len(ends) - number) * (self._contest.entry.seeds - seed))
                horizon = self._lane(value).longest * contenders[value].batch_size
                go_on = partial(self._lane(value, seed).go_on, [power, power - 1, power + 1])
                yield from self._train(value, seed, go_on, horizon, share)

    def _train(self, value: int, seed: int, part: partial[Asking], samples: int, share: float) -> Part:
        """A part of a lane up to a horizon in samples, within its share of what is left."""
        contender, lane = self._contest.contenders[value], self._lane(value, seed)
        lane.budget = lane.spent + int(min(share, self._left) / contender.batch_size)
        asking = part(min(round(samples / contender.batch_size), contender.training))
        try:
            run = next(asking)
            while True:
                loss = yield Trial(value, run)
                run = asking.send(loss)
        except StopIteration:
            return

    def _lane(self, value: int, seed: int = 0) -> _Lane:
        if (value, seed) not in self._lanes:
            contest = self._contest
            entry = contest.entry
            own = Entry(contest.power, 0, 1, contest.contenders[value].training, entry.constant, entry.first)
            self._lanes[value, seed] = _Lane(own, seed, 0)
        return self._lanes[value, seed]

    @property
    def _left(self) -> float:
        """Samples that are left of the budget."""
        contenders = self._contest.contenders
        return self._contest.budget - sum(
            lane.spent * contenders[value].batch_size for (value, _), lane in self._lanes.items()
        )

    def _by_loss(self, values: Sequence[int] | range) -> list[int]:
        """The values with a finite loss, the best first; among those that are alike, the first of the contest."""
        losses = {value: self._lane(value).lowest for value in values if self._lane(value).best}
        first, entry = self._contest.first, self._contest.entry
        if first in losses:
            losses[first] -= FAVOURED * max(0.0, min(entry.constant, entry.first) - min(losses.values()))
        return sorted(losses, key=lambda value: (losses[value], value))

    def _ranking(self) -> Ranking:
        standings = tuple(map(self._standing, range(len(self._contest.contenders))))
        first, *others = order = sorted(standings, key=self._rank)
        # a second that is not finite in a seed loses by all that there is
        pairs = zip_longest(first.losses, others[0].losses, fillvalue=math.inf) if others and first.losses else ()
        entry = self._contest.entry
        gain = max(0.0, min(entry.constant, entry.first) - first.loss)
        return Ranking(standings, tuple(each.value for each in order), tuple(b - a for a, b in pairs), gain)

    def _rank(self, standing: Standing) -> tuple[float, ...]:
        """Who was seen by more seeds and trained on more often is before others; all are alike if none is dropped."""
        if self._contest.keeps_all:
            return min(standing.losses[:1], default=math.inf), standing.value
        return -len(standing.losses), -self._lane(standing.value).rounds, standing.loss, standing.value

    def _standing(self, value: int) -> Standing:
        seeds = [self._lanes[value, seed] for seed in range(self._contest.entry.seeds) if (value, seed) in self._lanes]
        lanes = [lane for lane in seeds if lane.best]
        samples = self._contest.contenders[value].batch_size * (lanes[0].longest if lanes else 0)
        return Standing(value, tuple(lane.picked for lane in lanes), tuple(lane.lowest for lane in lanes), samples)


def _distance(one: Sequence[int], other: Sequence[int]) -> int:
    return sum(abs(a - b) for a, b in zip(one, other, strict=True))


def best_power(readings: Sequence[Reading], value: int, seed: int) -> float | None:
    """The power of two at which the loss of a value is lowest, between the rates that were tried.

    The vertex of the parabola through the best rate of the longest horizon at which both of its neighbours are known,
    within half a power of it; the best rate itself beside one at which the loss is not finite; None where no horizon
    has all three.
    """
    rounds: dict[int, dict[int, float]] = {}
    for reading in readings:
        if reading.value == value and reading.probe.seed == seed:
            rounds.setdefault(reading.probe.iterations, {})[reading.probe.power] = reading.probe.loss
    for horizon in sorted(rounds, reverse=True):
        losses = rounds[horizon]
        middle = best_of(losses)
        if math.isfinite(losses[middle]) and {middle - 1, middle + 1} <= losses.keys():
            below, level, above = (losses[middle + step] for step in (-1, 0, 1))
            bend = below - 2 * level + above
            sure = math.isfinite(bend) and bend > 0
            return middle + (max(-0.5, min(0.5, (below - above) / (2 * bend))) if sure else 0.0)
    return None
