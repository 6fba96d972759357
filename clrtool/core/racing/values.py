"""A race over the values of another key, each with rates of its own, as a pure function of the runs so far.

A race over rates has found one for the value that the config has. Every value then looks around the best rate of the
value nearest to it; the worse half goes, the rest is trained on at its best rates for twice as long, until two are
left, and other seeds say whether the first of them is better. All are read after as many *samples*, for a batch of
another size makes more or fewer steps of them.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import replace
from functools import partial
from itertools import zip_longest
from statistics import fmean

from clrtool.core.racing import rules
from clrtool.core.racing.contest import (
    FAVOURED,
    FEWEST,
    FINALISTS,
    FORGIVEN,
    LOOKED,
    RATES,
    Contest,
    Ranking,
    Reading,
    Standing,
    Trial,
)  # fmt: skip
from clrtool.core.racing.probes import Probe, best_of
from clrtool.core.racing.seed import Asking, Seed


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
            trial = race.send(reading.probe)
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

    def see(self, powers: Sequence[int], horizon: int) -> Asking:
        """The same of another seed, read half way too: whether a lead grows."""
        yield from self._train(powers, max(1, horizon // 2))
        return (yield from self._train(powers, horizon))

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
        return self.pick(self.last, FORGIVEN)

    @property
    def horizons(self) -> list[int]:
        """Iterations after which it was read, the longest last."""
        return sorted(self._rounds)

    @property
    def lowest(self) -> list[float]:
        """The lowest loss of each of them."""
        return [min(self._rounds[horizon].values()) for horizon in self.horizons]


# A part of a race asks for runs of values.
Part = Generator[Trial, Probe, None]


class _Race:
    """The lanes of a race, what they cost together, and who is left."""

    def __init__(self, contest: Contest) -> None:
        self._contest = contest
        self._kept = tuple(range(len(contest.contenders)))
        self._lanes: dict[tuple[int, int], _Lane] = {}

    def run(self) -> Generator[Trial, Probe, Ranking]:
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

    def _halve(self) -> Generator[Trial, Probe, list[int]]:
        """Train the better half on, for twice as long, while there is budget for that and for other seeds after it."""
        horizon = self._contest.horizon
        kept = self._by_loss(range(len(self._contest.contenders)))
        while True:
            kept = kept[: max(FINALISTS, math.ceil(len(kept) / 2))]
            self._kept = tuple(kept)
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
        self._kept = tuple(finalists)
        for number, value in enumerate(finalists):
            first = self._lane(value)
            horizon = first.longest * self._contest.contenders[value].batch_size
            share = self._left / ((len(finalists) - number) * (self._contest.entry.seeds - seed))
            yield from self._train(value, seed, partial(self._lane(value, seed).see, first.best), horizon, share)

    def _confirm_ends(self, seed: int) -> Part:
        """Both ends of the batch sizes with another seed, at their own rates and those around, if they can be paid."""
        contenders = self._contest.contenders
        by_size = sorted(range(len(contenders)), key=lambda value: contenders[value].batch_size)
        ends = by_size[0], by_size[-1]
        if self._left < 3 * len(ends) * (self._contest.horizon + contenders[ends[1]].batch_size):
            return  # not all of them can be paid, and fewer rates show no best one
        self._kept = ends
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
                run = asking.send((yield Trial(value, run, self._kept)))
        except StopIteration:
            return

    def _lane(self, value: int, seed: int = 0) -> _Lane:
        if (value, seed) not in self._lanes:
            contest = self._contest
            entry = contest.entry
            training = contest.contenders[value].training
            own = replace(entry, start=contest.power, budget=0, seeds=1, training=training)
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
        losses = {value: self._lane(value).lowest[-1] for value in values if self._lane(value).best}
        first, entry = self._contest.first, self._contest.entry
        if first in losses:
            losses[first] -= FAVOURED * max(0.0, entry.floor - min(losses.values()))
        return sorted(losses, key=lambda value: (losses[value], value))

    def _ranking(self) -> Ranking:
        standings = tuple(map(self._standing, range(len(self._contest.contenders))))
        first, *others = order = sorted(standings, key=self._rank)
        # a second that is not finite in a seed loses by all that there is
        pairs = zip_longest(first.losses, others[0].losses, fillvalue=math.inf) if others and first.losses else ()
        entry = self._contest.entry
        gain = max(0.0, entry.floor - first.loss)
        margins = tuple(b - a for a, b in pairs)
        drift = self._drift(first.value, others[0].value) if all(map(math.isfinite, margins)) and margins else 0.0
        return Ranking(standings, tuple(each.value for each in order), margins, gain, drift)

    def _drift(self, first: int, second: int) -> float:
        """What a lead loses until the end of the training, if it goes on to shrink with each doubling of the runs.

        Of all seeds that read both values after shorter runs too; infinite, where none did.
        """
        lost, training = list[float](), self._contest.contenders[first].training
        for seed in range(self._contest.entry.seeds):
            one, other = self._lane(first, seed), self._lane(second, seed)
            leads = [b - a for a, b in zip(one.lowest[-2:], other.lowest[-2:], strict=False)]
            if len(leads) == 2:
                before, longest = one.horizons[-2:]
                lost.append((leads[0] - leads[1]) * math.log2(training / longest) / math.log2(longest / before))
        return max(0.0, fmean(lost)) if lost else math.inf

    def _rank(self, standing: Standing) -> tuple[float, ...]:
        """Who was seen by more seeds and trained on more often is before others; all are alike if none is dropped."""
        if self._contest.keeps_all:
            return min(standing.losses[:1], default=math.inf), standing.value
        return -len(standing.losses), -len(self._lane(standing.value).lowest), standing.loss, standing.value

    def _standing(self, value: int) -> Standing:
        seeds = [self._lanes[value, seed] for seed in range(self._contest.entry.seeds) if (value, seed) in self._lanes]
        lanes = [lane for lane in seeds if lane.best]
        samples = self._contest.contenders[value].batch_size * (lanes[0].longest if lanes else 0)
        return Standing(value, tuple(lane.picked for lane in lanes), tuple(lane.lowest[-1] for lane in lanes), samples)


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
