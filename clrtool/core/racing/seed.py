"""The runs of one seed in a race: where something is learned, the best rate, and those around it."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence

from clrtool.core.racing import rules
from clrtool.core.racing.probes import Entry, Probe, Run, best_of, has_learned

# A part of a race asks for runs, and is told what each of them says.
Asking = Generator[Run, Probe, dict[int, float]]


class Seed:
    """The runs of one seed: how far each was trained, what it cost, and what was read.

    Args:
        budget: iterations that they may cost together.
    """

    def __init__(self, entry: Entry, seed: int, budget: int) -> None:
        self._entry, self._seed, self.budget = entry, seed, budget
        self._taken: dict[int, int] = {}
        self._rounds: dict[int, dict[int, float]] = {}
        self._apart, self._spreads = False, dict[int, list[float]]()

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
        while len(self._plateau(field)) > 1:
            waiting = self._waiting(field)
            longer = self._reach(waiting, 2 * horizon)
            if longer < 2 * horizon / rules.WORTH and not has_learned(min(field.values()), self._entry):
                return field  # what is left takes one of them farther
            if longer < rules.WORTH * horizon:
                break
            horizon, found = longer, (yield from self._train(waiting, longer))
            field = field | found if self._apart else found
        field = {power: loss for power, loss in field.items() if self._taken[power] == horizon}
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
        known = dict(field)
        while not has_learned(min(known.values()), self._entry):
            spent = self.spent
            known |= yield from self.longer(self._hopeful(known), [1])
            if self.spent == spent:
                return known
        best = best_of(known)
        field = yield from self._climb({best: known[best]}, 1, self._taken[best], ways=(1,))
        return (yield from self.longer(field, rules.FINALISTS[1:]))

    def _waiting(self, field: Mapping[int, float]) -> list[int]:
        """The rates that wait on a plateau for one that learns, the one with the lowest loss first.

        Where the start is on a plateau these are the start, and the highest rate whose units are alive: that one may
        leave many times sooner, or swing to the end. Lower rates would take many times as long.
        """
        level = self._plateau(field)
        if self._apart:
            alive = [power for power in level if self._spread(power, 1) >= rules.DEAD] or level
            waiting = {max(alive), *(power for power in alive if power == self._entry.start)}
        else:
            below = [level[0] - rules.STRIDE] if level[0] - rules.STRIDE in field else []  # it may just need longer
            waiting = {*[*below, *level][: rules.WAITING]}
        return sorted(waiting, key=lambda power: (field[power], power))

    def _hopeful(self, last: Mapping[int, float]) -> dict[int, float]:
        """The rates that are worth the rest of the budget, after a round in which nothing was learned.

        On a plateau losses mean nothing: there it is the highest waiting rate whose answers differ about as much as
        those of any other.
        """
        if not self._apart or not self._plateau(last):
            return dict(last)
        spreads = {power: self._spread(power, 2) for power in self._waiting(last)}
        highest = max(power for power in spreads if spreads[power] >= rules.LAGGING * max(spreads.values()))
        return {highest: last[highest]}

    def _spread(self, power: int, readings: int) -> float:
        """The least of the last readings of a rate's spread: while it swings, a single one may be large."""
        return min(self._spreads.get(power, [math.inf])[-readings:])

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
        return (yield from self._train(three, horizon)) if horizon >= _least(learned) else {}

    def is_confirmed_by(self, budget: int) -> bool:
        """Whether another seed may train three rates as long as it took this one to learn."""
        return budget // 3 >= _least(self.learned)

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
        if not losses or not self._entry.is_level(min(losses.values())):
            return []
        return sorted(power for power, loss in losses.items() if self._entry.is_level(loss))

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
            probe = yield Run(self._seed, power, horizon)
            losses[power] = self._entry.taken_as(probe.loss)
            self._rounds.setdefault(horizon, {})[power] = losses[power]
            if probe.spread is not None:
                self._spreads.setdefault(power, []).append(probe.spread)
        return losses


def _least(learned: int) -> float:
    """The shortest horizon at which a seed is worth reading, after another took so many iterations to learn."""
    return max(rules.SHORTEST, learned / rules.WORTH)
