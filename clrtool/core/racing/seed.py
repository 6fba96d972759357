"""The runs of one seed in a race: where something is learned, the best rate, and those around it."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from statistics import fmean

from clrtool.core.racing import rules
from clrtool.core.racing.probes import Entry, Run, best_of, has_learned

# A part of a race asks for runs, and is told the loss of each.
Asking = Generator[Run, float, dict[int, float]]


class Seed:
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
        horizon = min(max(rules.SHORTEST, self.budget // rules.PARTS), self._entry.training)
        field = yield from self._open(horizon)
        while len(level := self._plateau(field)) > 1:
            below = [level[0] - rules.STRIDE] if level[0] - rules.STRIDE in field else []  # it may just need longer
            waiting = sorted([*below, *level][: rules.WAITING], key=lambda power: field[power])
            longer = self._reach(waiting, 2 * horizon)
            if longer < 2 * horizon / rules.WORTH and not has_learned(min(field.values()), self._entry):
                return field  # what is left takes one of them farther
            if longer < rules.WORTH * horizon:
                break
            horizon, field = longer, (yield from self._train(waiting, longer))
        if not field:
            return field
        best = best_of(field)
        if self.budget - self.spent >= rules.AROUND * horizon and 2 * horizon <= self._entry.training:
            horizon = 2 * horizon
            field = yield from self._train([best], horizon)
        field = yield from self._climb(field, 1, horizon)
        return (yield from self.longer(field, rules.FINALISTS))

    def longer(self, field: Mapping[int, float], numbers: Sequence[int]) -> Asking:
        """Train the best of a round for twice as long, so many of them, and so on."""
        for number in numbers:
            finite = [power for power in field if math.isfinite(field[power])]
            if not (few := sorted(finite, key=lambda power: (field[power], power))[:number]):
                break
            taken, most = max(self._taken[power] for power in few), self._reach(few, self._entry.training)
            horizon = min(2 * taken, most)
            if number == 1 and most < rules.WORTH * horizon:  # too little for another round
                horizon = most
            if horizon >= rules.WORTH * taken:
                field = yield from self._train(few, horizon)
        return dict(field)

    def alone(self, field: Mapping[int, float]) -> Asking:
        """Train the best of a round alone until it has learned; then what lies above it as long, while that is better.

        Other seeds would need as long at several rates, which is rarely left.
        """
        while not has_learned(min(field.values()), self._entry):
            taken = self.longest
            field = yield from self.longer(field, [1])
            if self.longest == taken:
                return dict(field)
        field = yield from self._climb(field, 1, self.longest, ways=(1,))
        return (yield from self.longer(field, rules.FINALISTS[1:]))

    def hopeful(self, last: Mapping[int, float]) -> dict[int, float]:
        """Those of a round in which nothing was learned that are worth the rest of the budget.

        What has just left the constant answer; else, of rates far apart on a plateau, the highest that is not behind:
        it is across many times sooner than the next.
        """
        leaving = {power: loss for power, loss in last.items() if self._entry.gain(loss) > 0}
        if leaving or not self._apart or not (level := self._plateau(last)):
            return leaving or dict(last)
        most = rules.UNHARMED * abs(self._entry.constant)
        highest = max(power for power in level if self._harm(power) <= most)
        return {highest: last[highest]}

    def _harm(self, power: int) -> float:
        """By how much a rate is behind the best of the last round or, where that is less, of its rounds on average.

        One reading says little on a plateau, and what swings at first may have settled.
        """
        rounds = [self._rounds[each] for each in sorted(self._rounds) if power in self._rounds[each]]
        behind = [losses[power] - min(losses.values()) for losses in rounds]
        return min(behind[-1], fmean(behind))

    @property
    def powers(self) -> set[int]:
        """The rates that were read, as powers of two."""
        return {power for losses in self._rounds.values() for power in losses}

    @property
    def fallen(self) -> set[int]:
        """Rates that end no better than a constant answer, where another has left that far behind in the same time."""
        constant, falls = self._entry.constant, dict[int, bool]()
        for _, losses in sorted(self._rounds.items()):
            left = constant - min(losses.values()) > rules.LEFT * abs(constant)
            falls |= {power: left and loss >= constant for power, loss in losses.items()}
        return {power for power, fell in falls.items() if fell}

    def has_near(self, power: int, stride: int = rules.STRIDE) -> bool:
        """Whether a rate near this one was read; not where those that waited on a plateau were far apart to the end."""
        return any(0 < abs(each - power) <= stride for each in self._taken)

    @property
    def learned(self) -> int:
        """The shortest horizon at which a rate has learned."""
        losses = self._rounds.items()
        return min((horizon for horizon, each in losses if has_learned(min(each.values()), self._entry)), default=0)

    def confirm(self, power: int, stride: int, learned: int) -> Asking:
        """Train a rate and those beside it as long as there is budget for all three: about as long as to learn took."""
        three = [power, power - stride, power + stride]
        horizon = self._reach(three, self._entry.training)
        return (yield from self._train(three, horizon)) if horizon >= max(rules.SHORTEST, learned / rules.WORTH) else {}

    def pick(self, last: Mapping[int, float], forgiven: float) -> int:
        """The best of the last round, or the rate above it that is behind by no more than a share of the gain."""
        power = best_of(last)
        while self._is_forgiven(power, forgiven):
            power += 1
        return power

    def _is_forgiven(self, power: int, forgiven: float) -> bool:
        """Whether the next rate is hardly behind, at the longest horizon at which both were read."""
        for _, losses in sorted(self._rounds.items(), reverse=True):
            if {power, power + 1} <= losses.keys():
                gain = self._entry.floor - min(losses.values())
                behind = losses[power + 1] - losses[power]
                return 0 < gain < math.inf and behind <= min(forgiven * gain, rules.DEARER * abs(losses[power]))
        return False

    def _open(self, horizon: int) -> Asking:
        """The first rates: a climb from the start by factors of four; a few far apart where it is on a plateau."""
        start = self._entry.start
        losses = yield from self._train([start], horizon)
        if self._plateau(losses):
            self._apart = True
            return losses | (yield from self._train([start + rules.APART, start - rules.APART], horizon))
        return (yield from self._climb(losses, rules.STRIDE, horizon)) if losses else losses

    def _climb(self, known: Mapping[int, float], stride: int, horizon: int, ways: tuple[int, ...] = (-1, 1)) -> Asking:
        """From what is known on both ways, until the best has a worse one on either side; on a plateau to its top."""
        losses = dict(known)
        while True:
            level = self._plateau(losses) if stride > 1 else []
            around = [level[-1] + stride] if level else [best_of(losses) + way * stride for way in ways]
            wanted = [power for power in around if power not in losses and rules.LOWEST <= power <= rules.HIGHEST][:1]
            found = yield from self._train(wanted, horizon)
            if not found:
                return losses
            losses |= found

    def _plateau(self, losses: Mapping[int, float]) -> list[int]:
        """The rates that say about as much as a constant, where none says more: which is best there means nothing."""
        constant = self._entry.constant
        if not losses or math.isinf(constant) or constant - min(losses.values()) > rules.LEFT * abs(constant):
            return []
        return sorted(power for power, loss in losses.items() if loss <= constant + rules.LEVEL * abs(constant))

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
            losses[power] = self._entry.taken_as((yield Run(self._seed, power, horizon)))
            self._rounds.setdefault(horizon, {})[power] = losses[power]
        return losses
