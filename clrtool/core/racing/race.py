"""The race for max_lr: short runs at flat rates from one start, of which the worse are dropped and the better go on.

A pure function of what was measured: :func:`next_run` says what to train next, :func:`outcome` which rate won. Rates
are powers of two, so that seeds, machines and budgets meet on the same ones. The first seed looks for the best rate,
the others train that and its neighbours, and the mean of what each prefers is taken.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

# What the first seed takes of the budget, if there are more: with less it cannot wait on a plateau.
FIRST = 0.62
# Its part is cut into so many first runs: the shortest horizon is the 16th part, 16 iterations of 250. Below 12
# iterations the first steps decide, and not the rate.
PARTS, SHORTEST = 16, 12
# First steps between rates, in powers of two; a look around the best fills in what they leave out.
STRIDE = 2
# Losses up to so much above the constant answer's say nothing where nothing has been learned: a start swings. So many
# rates wait there for one that learns, the lower of those that a climb has found.
LEVEL, WAITING = 0.2, 3
# Where the start itself is on such a plateau, nothing tells the way: it waits with two so many powers above and below.
APART = 3
# On it losses differ by so much, and that is noise.
UNHARMED = 0.001
# A plateau is left when so much of the constant answer's loss is gone.
LEFT = 0.075
# Runs within so many powers of the best of any horizon may be gone on with: up to so many at once.
NEAR = 4
HELD = 2 * NEAR + 1
# The first look around the best takes so many horizons: its own as long again, and two neighbours twice as long. Where
# that is not left, neighbours are trained as long as it was.
AROUND = 5
# How many go on to each of the rounds that follow; the horizon doubles from round to round, or is what is left of the
# budget. It has to grow by this factor to tell more.
FINALISTS, WORTH = (3, 2, 2), 1.25
# A finalist must have closed so much of the constant answer's loss; less is noise of a start that learns nothing yet.
LEARNED = 0.02
# How many go on, and how often, where none has: as long as the budget lasts.
STUBBORN = (3, 3, 2, 2, 2, 2, 2, 2)
# A rate above the best is taken in its place where it lies behind by at most so much of the gain and of the loss, at
# the longest of so many horizons that know both: a schedule comes down from its peak and forgives what a flat run
# cannot. Not where runs saw most of the training: there it is as it is.
FORGIVEN, DEARER, RECENT, SEEN = 0.1, 0.3, 3, 0.7
# A pick at which another seed loses so much of its gain is not taken, whatever the first seed made of it: a cliff.
REFUSED = 0.3
# Rates as powers of two beyond which nothing is tried: 1e-8 does not move float32 weights, 1e3 moves all too far.
LOWEST, HIGHEST = -26, 10


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
    """

    seed: int
    power: int
    iterations: int
    taken: int
    loss: float
    metric: float | None

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
    """

    start: int
    budget: int
    seeds: int
    training: int
    constant: float
    first: float

    def gain(self, loss: float) -> float:
        """What a loss has gained over the constant answer, as a share of its loss; all, where there is none."""
        if math.isinf(self.constant):
            return 1.0
        return (min(self.constant, self.first) - loss) / (abs(self.constant) or 1.0)


@dataclass(frozen=True)
class Outcome:
    """What a race came to.

    Args:
        picks: the power that each seed prefers, those that learned nothing left out.
        refused: whether another seed has lost much of its gain at the pick of the first.
        last: losses of the last round of the first seed, by power.
        horizon: iterations of the longest runs among them.
    """

    picks: tuple[int, ...]
    refused: bool
    last: Mapping[int, float]
    horizon: int

    @property
    def power(self) -> float:
        """Of the rate that won: the mean over seeds, without the first where its pick is refused.

        Raises:
            ValueError: nothing learned.
        """
        if not self.picks:
            raise ValueError("no run of the race does better than a constant answer")
        kept = self.picks[self.refused :]
        return sum(kept) / len(kept)


# A part of a race asks for runs, and is told the loss of each.
Asking = Generator[Run, float, dict[int, float]]


def next_run(entry: Entry, probes: Sequence[Probe]) -> Run | None:
    """The run to begin or to go on with next; None when the race is over."""
    asked = _replay(entry, probes)
    return asked if isinstance(asked, Run) else None


def outcome(entry: Entry, probes: Sequence[Probe]) -> Outcome:
    """What a race came to that is over. Raises ValueError for one that is not."""
    found = _replay(entry, probes)
    if isinstance(found, Run):
        raise ValueError("the race is not over")
    return found


def cost(probes: Sequence[Probe]) -> int:
    """Iterations of all runs: each is gone on with, so its last length counts."""
    longest: dict[tuple[int, int], int] = {}
    for probe in probes:
        run = probe.seed, probe.power
        longest[run] = max(probe.taken, longest.get(run, 0))
    return sum(longest.values())


def contenders(probes: Sequence[Probe]) -> set[tuple[int, int]]:
    """Seed and power of the runs that may be gone on with: of this seed and near the best of any horizon."""
    if not probes:
        return set()
    seed, kept = probes[-1].seed, set[int]()
    for losses in by_horizon(probes, seed).values():
        kept |= {power for power in losses if abs(power - best_of(losses)) <= NEAR}
    return {(seed, power) for power in kept}


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
    return entry.gain(loss) > 0 and entry.constant - loss > LEARNED * abs(entry.constant)


def _replay(entry: Entry, probes: Sequence[Probe]) -> Run | Outcome:
    """Run the race over what is known: what it lacks first, or what it came to."""
    race = _race(entry)
    try:
        run = next(race)
        for probe in probes:
            run = race.send(probe.loss)
    except StopIteration as end:
        found: Outcome = end.value
        return found
    return run


def _race(entry: Entry) -> Generator[Run, float, Outcome]:
    """The search of the first seed, and what the others say of its pick."""
    share = FIRST if entry.seeds > 1 else 1.0
    first = _Seed(entry, 0, int(share * entry.budget))
    last = yield from first.search()
    if last and not has_learned(min(last.values()), entry):  # there is nothing to confirm yet
        first.budget = entry.budget
        last = yield from first.longer(first.hopeful(last), STUBBORN)
    if not last or not has_learned(min(last.values()), entry):
        return Outcome((), False, last, first.longest)
    picks, left, refused = [first.pick(last)], entry.budget - first.spent, False
    for seed in range(1, entry.seeds):
        other = _Seed(entry, seed, left // (entry.seeds - seed))
        around = yield from other.confirm(picks[0], 1 if first.has_near(picks[0]) else STRIDE)
        left -= other.spent
        if len(around) > 1 and has_learned(min(around.values()), entry):
            picks.append(other.pick(around))
            lost = around.get(picks[0], math.inf) - min(around.values())
            refused |= lost > REFUSED * (min(entry.constant, entry.first) - min(around.values()))
    return Outcome(tuple(picks), refused, last, first.longest)


class _Seed:
    """The runs of one seed: how far each was trained, what it cost, and what was read.

    Args:
        budget: iterations that they may cost together.
    """

    def __init__(self, entry: Entry, seed: int, budget: int) -> None:
        self._entry, self._seed, self.budget = entry, seed, budget
        self._taken: dict[int, int] = {}
        self._rounds: dict[int, dict[int, float]] = {}
        self._apart = False

    @property
    def spent(self) -> int:
        return sum(self._taken.values())

    @property
    def longest(self) -> int:
        return max(self._rounds, default=0)

    def search(self) -> Asking:
        """Find where something is learned, look around the best, and train the best few for longer."""
        horizon = min(max(SHORTEST, self.budget // PARTS), self._entry.training)
        field = yield from self._open(horizon)
        while len(level := self._plateau(field)) > 1:
            below = [level[0] - STRIDE] if level[0] - STRIDE in field else []  # it may just need longer
            waiting = sorted([*below, *level][:WAITING], key=lambda power: field[power])
            longer = self._reach(waiting, 2 * horizon)
            if longer < WORTH * horizon:
                break
            horizon, field = longer, (yield from self._train(waiting, longer))
        if not field:
            return field
        best = best_of(field)
        if self.budget - self.spent >= AROUND * horizon and 2 * horizon <= self._entry.training:
            horizon = 2 * horizon
            field = yield from self._train([best], horizon)
        field = yield from self._climb(field, 1, horizon)
        return (yield from self.longer(field, FINALISTS))

    def longer(self, field: Mapping[int, float], numbers: Sequence[int]) -> Asking:
        """Train the best of a round for twice as long, so many of them, and so on."""
        for number in numbers:
            finite = [power for power in field if math.isfinite(field[power])]
            few = sorted(finite, key=lambda power: (field[power], power))[:number]
            taken = max((self._taken[power] for power in few), default=0)
            horizon = self._reach(few, 2 * taken) if few else 0
            if horizon >= WORTH * taken > 0:
                field = yield from self._train(few, horizon)
        return dict(field)

    def hopeful(self, last: Mapping[int, float]) -> dict[int, float]:
        """Those of a round in which nothing was learned that are worth the rest of the budget.

        What has just left the constant answer; else, of rates far apart on a plateau, the highest that has done no harm
        against the lowest, which has hardly moved: it is across many times sooner than the next.
        """
        leaving = {power: loss for power, loss in last.items() if self._entry.gain(loss) > 0}
        if leaving or not self._apart or not (level := self._plateau(last)):
            return leaving or dict(last)
        highest = max(power for power in level if last[power] <= last[level[0]] + UNHARMED * abs(last[level[0]]))
        return {highest: last[highest]}

    def has_near(self, power: int) -> bool:
        """Whether a rate near this one was read; not where those that waited on a plateau were far apart to the end."""
        return any(0 < abs(each - power) <= STRIDE for each in self._taken)

    def confirm(self, power: int, stride: int) -> Asking:
        """Train a rate and those beside it as long as there is budget for all three."""
        three = [power, power - stride, power + stride]
        horizon = self._reach(three, self._entry.training)
        return (yield from self._train(three, horizon)) if horizon >= SHORTEST else {}

    def pick(self, last: Mapping[int, float]) -> int:
        """The best of the last round, or the rate above it that is hardly behind."""
        power = best_of(last)
        if self.longest <= SEEN * self._entry.training:
            while self._is_forgiven(power):
                power += 1
        return power

    def _is_forgiven(self, power: int) -> bool:
        """Whether the next rate is hardly behind, at the longest horizon at which both were read."""
        for horizon in sorted(self._rounds, reverse=True)[:RECENT]:
            losses = self._rounds[horizon]
            if {power, power + 1} <= losses.keys():
                gain = min(self._entry.constant, self._entry.first) - min(losses.values())
                behind = losses[power + 1] - losses[power]
                return 0 < gain < math.inf and behind <= min(FORGIVEN * gain, DEARER * abs(losses[power]))
        return False

    def _open(self, horizon: int) -> Asking:
        """The first rates: a climb from the start by factors of four; a few far apart where it is on a plateau."""
        start = self._entry.start
        losses = yield from self._train([start], horizon)
        if self._plateau(losses):
            self._apart = True
            return losses | (yield from self._train([start + APART, start - APART], horizon))
        return (yield from self._climb(losses, STRIDE, horizon)) if losses else losses

    def _climb(self, known: Mapping[int, float], stride: int, horizon: int) -> Asking:
        """From what is known on both ways, until the best has a worse one on either side; on a plateau to its top."""
        losses = dict(known)
        while True:
            level = self._plateau(losses) if stride > 1 else []
            around = [level[-1] + stride] if level else [best_of(losses) - stride, best_of(losses) + stride]
            wanted = [power for power in around if power not in losses and LOWEST <= power <= HIGHEST][:1]
            found = yield from self._train(wanted, horizon)
            if not found:
                return losses
            losses |= found

    def _plateau(self, losses: Mapping[int, float]) -> list[int]:
        """The rates that say about as much as a constant, where none says more: which is best there means nothing."""
        constant = self._entry.constant
        if not losses or math.isinf(constant) or constant - min(losses.values()) > LEFT * abs(constant):
            return []
        return sorted(power for power, loss in losses.items() if loss <= constant + LEVEL * abs(constant))

    def _reach(self, powers: Sequence[int], wanted: int) -> int:
        """To which horizon all of some rates can be trained on: the wanted one, or what is left allows."""
        taken = sum(self._taken.get(power, 0) for power in powers)
        return min(wanted, self._entry.training, (self.budget - self.spent + taken) // len(powers))

    def _train(self, powers: Sequence[int], horizon: int) -> Asking:
        """Rates that are trained on to a horizon, as far as the budget goes."""
        losses: dict[int, float] = {}
        for power in powers:
            taken = self._taken.get(power, 0)
            if horizon > taken and self.spent + horizon - taken > self.budget:
                break
            self._taken[power] = max(horizon, taken)
            losses[power] = yield Run(self._seed, power, horizon)
            self._rounds.setdefault(horizon, {})[power] = losses[power]
        return losses
