"""A range test over the values of one or two more keys: what was measured, and which value to take with which rate.

Smith, arXiv 1803.09820, section 4: range tests of several weight decays, batch sizes and momenta over one another, of
which the pair is taken.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from statistics import fmean
from typing import Any, NamedTuple

from clrtool.core.racing.contest import Contender, Contest, Ranking, Reading, Standing, contest_of
from clrtool.core.racing.going_on import GAINED, Start
from clrtool.core.racing.probes import has_learned
from clrtool.core.racing.race import outcome
from clrtool.core.racing.result import Race
from clrtool.core.racing.rules import ABOVE, BASE, BELOW, CLEAR_GAIN
from clrtool.core.racing.values import best_power, ranking
from clrtool.core.reading.metric import ACCURACY, Metric
from clrtool.core.results.batch_scaling import BatchScaling, batch_scaling
from clrtool.words import Sentence, count

# The format of vary.json.
VARY_VERSION = 1
# Keys and pairs at the most: more would leave nothing of the budget for any of them.
MOST_KEYS, MOST_PAIRS = 2, 24
# The budget of a whole axis, as a share of the planned training, and seeds: one finds, another has a say.
BUDGET, SEEDS = 0.5, 2


class VaryVerdict(Sentence):
    """What a race over values came to."""

    BETTER = "One value is better than the next by more than noise."
    NO_DIFFERENCE = "No difference beyond noise between the best values."
    ONE_SEED = "One seed does not show the noise, so the best value may be no better."
    EACH_ITS_OWN = "Each batch size has a rate of its own; which to take is a matter of speed and memory."
    NOTHING_LEARNED = "No rate does better than a constant answer within the budget."
    BETTER_STOPPED = "No value makes the held-out loss lower than it is, so stopping here is as good."


class Tried(NamedTuple):
    """A value, or a pair of values, that took part.

    Args:
        values: of each key.
        place: of each among those of its key.
        batch_size: samples of an optimizer step.
        iterations_per_epoch, training: optimizer steps of an epoch, and of the training that is planned.
    """

    values: tuple[Any, ...]
    place: tuple[int, ...]
    batch_size: int
    iterations_per_epoch: int
    training: int

    @property
    def contender(self) -> Contender:
        """The same in the terms of a race."""
        return Contender(self.place, self.batch_size, self.training)

    @property
    def names(self) -> tuple[str, ...]:
        """The values as people read them."""
        return tuple(map(shown_value, self.values))


class Bounds(NamedTuple):
    """The bounds of one value, each with its interval."""

    base_lr: float
    max_lr: float
    base_lr_interval: tuple[float, float]
    max_lr_interval: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class VaryRecord:
    """Everything that is known of one finished race over values.

    Args:
        keys: what is varied, one or two.
        tried: every value or pair.
        first: the one that the race over rates was run with: that of the config, if it is among them.
        has_own: whether it is.
        pilot: that race.
        readings: of the race over values, in its order; none where nothing was learned.
        seeds: starts that it might use.
        budget: samples of both races together.
        keeps_all: whether no value was dropped.
        metric: what was read beside the loss.
        start: where all runs went on from; None of a training that begins.
        environment, config_sha256, data_sha256, sources, request_sha256, warnings: as of a comparison.
    """

    keys: tuple[str, ...]
    tried: tuple[Tried, ...]
    first: int
    has_own: bool
    pilot: Race
    readings: tuple[Reading, ...]
    seeds: int
    budget: int
    keeps_all: bool = False
    metric: Metric = ACCURACY
    start: Start | None = None
    environment: Mapping[str, Any] = field(default_factory=dict)
    config_sha256: str = ""
    data_sha256: str = ""
    sources: Mapping[str, str] = field(default_factory=dict)
    request_sha256: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def has_learned(self) -> bool:
        """Whether some rate of the first race does better than a constant answer."""
        return bool(outcome(self.pilot.entry, self.pilot.probes).picks)

    @cached_property
    def contest(self) -> Contest:
        """The race over values as it was started. Raises ValueError where nothing was learned."""
        contenders = [each.contender for each in self.tried]
        return contest_of(contenders, self.first, self.pilot, self.seeds, self.budget, keeps_all=self.keeps_all)

    @cached_property
    def ranking(self) -> Ranking:
        """What it came to. Raises ValueError where nothing was learned."""
        return ranking(self.contest, self.readings)

    @property
    def verdict(self) -> VaryVerdict:
        if self.chosen is None:
            return VaryVerdict.BETTER_STOPPED if self._is_better_stopped else VaryVerdict.NOTHING_LEARNED
        if self.keeps_all:
            return VaryVerdict.EACH_ITS_OWN
        if self._is_early:
            return VaryVerdict.NO_DIFFERENCE
        if len(self.ranking.margins) < 2:
            return VaryVerdict.ONE_SEED
        return VaryVerdict.BETTER if self.ranking.is_clear else VaryVerdict.NO_DIFFERENCE

    @property
    def chosen(self) -> int | None:
        """The value to take: the best; the first, that of the config, where two are alike or nothing is told."""
        if not self.has_learned or not self.standing(self.ranking.order[0]).losses or self._is_better_stopped:
            return None
        best, *others = self.ranking.order
        unknown = self.keeps_all or self._is_early
        alike = unknown or (self.first in others[:1] and not self.ranking.is_ahead)
        return self.first if alike else best

    @property
    def _is_better_stopped(self) -> bool:
        """Whether no value lowers the loss that a training under way has by enough with every seed that saw it."""
        entry = self.pilot.entry
        if self.start is None or not self.has_learned or entry.first > entry.constant:
            return False
        reached = min(max(each.losses, default=math.inf) for each in self.ranking.standings)
        return entry.before - reached < GAINED * abs(entry.before)

    @property
    def order(self) -> tuple[int, ...]:
        """The values as they are told: the best first, and batch sizes as they were given."""
        return tuple(range(len(self.tried))) if self.keeps_all else self.ranking.order

    @property
    def batch_scaling(self) -> BatchScaling | None:
        """How the best rate grows with the batch size; None where that is not what was varied."""
        if not self.keeps_all or not self.has_learned:
            return None
        powers = {tried.batch_size: self._best_powers(value) for value, tried in enumerate(self.tried)}
        return batch_scaling(powers)

    def _best_powers(self, value: int) -> list[float]:
        """The best rate of each seed that shows one, between those that were tried."""
        found = (best_power(self.readings, value, seed) for seed in range(self.seeds))
        return [power for power in found if power is not None]

    @property
    def _standings(self) -> list[tuple[Tried, Standing]]:
        return list(zip(self.tried, self.ranking.standings, strict=True))

    def standing(self, value: int) -> Standing:
        return self.ranking.standings[value]

    def bounds(self, value: int) -> Bounds | None:
        """The bounds of a value; None where none of its runs was finite.

        The rate of the first is that of the race over rates, whose runs are longer than those of the values: of the
        others only the distance from it counts, at the horizon at which all were compared. Batch sizes lie on the line
        through all of them, for the largest has taken a few steps by then.
        """
        power = self.standing(value).power
        if power is None:
            return None
        own, first = self._best_powers(value), self._best_powers(self.first)
        if (scaling := self.batch_scaling) is not None:
            sizes = self.tried[self.first].batch_size, self.tried[value].batch_size
            power = self.contest.power + math.log2(scaling.factor(*sizes))
        elif first and own:
            power = self.contest.power + fmean(own) - fmean(first)
        elif (known := self.standing(self.first).power) is not None:
            power += self.contest.power - known
        low, high, max_lr = 2.0 ** (power - BELOW), 2.0 ** (power + ABOVE), 2.0**power
        return Bounds(BASE * max_lr, max_lr, (BASE * low, BASE * high), (low, high))

    def iterations(self, value: int) -> int:
        """Optimizer steps of all runs of a value in the race over values."""
        longest: dict[tuple[int, int], int] = {}
        for reading in self.readings:
            if reading.value == value:
                run = reading.probe.seed, reading.probe.power
                longest[run] = max(reading.probe.taken, longest.get(run, 0))
        return sum(longest.values())

    def epochs(self, value: int) -> float:
        """The same in passes over the training set."""
        return self.iterations(value) / self.tried[value].iterations_per_epoch

    def after_epochs(self, value: int) -> float:
        """The longest horizon of a value, in passes over the training set."""
        tried = self.tried[value]
        return self.standing(value).samples / (tried.iterations_per_epoch * tried.batch_size)

    @property
    def compared_epochs(self) -> float:
        """The horizon at which all values are compared, in passes over the training set."""
        first = self.tried[self.first]
        return self.contest.horizon / (first.iterations_per_epoch * first.batch_size)

    @property
    def samples(self) -> int:
        """Samples of all runs together, with those of the race over rates."""
        steps = [self.iterations(value) * each.batch_size for value, each in enumerate(self.tried)]
        return sum(steps) + self.pilot.iterations * self.tried[self.first].batch_size

    @property
    def share(self) -> float:
        """The same as a share of the training that is planned."""
        first = self.tried[self.first]
        return self.samples / (first.training * first.batch_size)

    @property
    def reason(self) -> str:
        """The numbers behind the verdict, in sentences."""
        entry = self.pilot.entry
        if self._is_better_stopped:
            return f"Before going on it is {entry.first:.4g}; {self._told}"
        if self.chosen is None:
            best = min((probe.loss for probe in self.pilot.probes), default=math.inf)
            return f"The lowest held-out loss is {best:.4g}, a constant answer has {entry.constant:.4g}."
        if self._is_early:
            early = "They were compared before any rate had learned much, which tells nothing: give a larger --budget."
            return f"{self._told} {early}"
        return self._told

    @property
    def _is_early(self) -> bool:
        """Whether too little was learned yet where values were compared, or where one was dropped.

        Too little is less than what a race over rates has to gain to be clear; of a training under way any gain counts.
        """
        entry, sizes = self.contest.entry, [tried.batch_size for tried in self.tried]
        dropped = min(each.samples for each in self.ranking.standings if each.losses)
        seen = (
            each.probe.loss
            for each in self.readings
            if each.probe.iterations * sizes[each.value] < dropped + max(sizes)
        )
        most = max(self.standing(self.ranking.order[0]).loss, min(seen))
        return not has_learned(most, entry) or (self.start is None and entry.gain(most) < CLEAR_GAIN)

    @property
    def _told(self) -> str:
        """What the values reached."""
        if self.keeps_all:
            known = [(tried.names[0], each.losses[0]) for tried, each in self._standings if each.losses]
            reached = (f"{name} {loss:.4g}" for name, loss in known)
            return f"After {self.compared_epochs:.3g} epochs, the held-out loss is: {', '.join(reached)}."
        return self._margin(*self.ranking.order[:2])

    def _margin(self, best: int, other: int | None = None) -> str:
        """What the best and the next reached, and whether the lead is noise."""
        reason = f"{self.named(best)} reaches a held-out loss of {self.standing(best).loss:.4g}"
        if other is None:
            return f"{reason}."
        if not self.standing(other).losses:
            return f"{reason}; no run of {self.named(other)} stayed finite."
        seeds = count(len(self.ranking.margins), "seed")
        reason += f", {self.named(other)} {self.standing(other).loss:.4g}"
        reason += f", after {self.after_epochs(best):.3g} epochs with {seeds}"
        if len(self.ranking.margins) > 1:
            lead = sum(self.ranking.margins) / len(self.ranking.margins)
            reason += f": a lead of {lead:.2g}, where up to {self.ranking.noise:.2g} is noise"
        whose = "is what the config has" if self.has_own else "is the first of those given"
        kept = f" {self.named(self.first)} {whose}, and stays." if self.chosen != best else ""
        return f"{reason}.{kept}"

    @property
    def names(self) -> tuple[str, ...]:
        """The end of each key: its last word, or as many as tell two keys apart.

        Beside the ratio of another group, ``optimizer.groups.0.lr_ratio`` is called ``groups.0.lr_ratio``.
        """
        parts = [key.split(".") for key in self.keys]
        for words in range(1, max(map(len, parts))):
            ends = [each[-words:] for each in parts]
            if len({*map(tuple, ends)}) == len(ends) and not any(each[0].isdigit() for each in ends):
                return tuple(map(".".join, ends))
        return self.keys

    def named(self, value: int) -> str:
        """A value with the name of its key, or a pair."""
        return ", ".join(f"{key} {name}" for key, name in zip(self.names, self.tried[value].names, strict=True))


def shown_value(value: Any) -> str:
    """A value as a config has it.

    >>> shown_value(1e-4), shown_value(32), shown_value("bf16"), shown_value([0.9, 0.99])
    ('0.0001', '32', 'bf16', '[0.9, 0.99]')
    """
    return f"{value:.6g}" if isinstance(value, float) else str(value)
