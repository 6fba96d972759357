"""The race for max_lr: short runs at flat rates from one start, of which the worse are dropped and the better go on.

A pure function of what was measured: :func:`next_run` says what to train next, :func:`outcome` which rate won. Rates
are powers of two, so that seeds, machines and budgets meet on the same ones. The first seed looks for the best rate,
the others train that and its neighbours, and the mean of what each prefers is taken.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from clrtool.core.racing import rules
from clrtool.core.racing.probes import Entry, Probe, Run, has_learned
from clrtool.core.racing.seed import Seed


@dataclass(frozen=True)
class Outcome:
    """What a race came to.

    Args:
        picks: the power that each seed prefers, those that learned nothing left out.
        refused: whether another seed has lost much of its gain at the pick of the first.
        cliff: power of the rate that max_lr stays below by ``rules.BELOW_CLIFF``; None without one.
        coarse: whether the first seed has not read a rate within a factor of two of its pick, as the others have.
        last: losses of the last round of the first seed, by power.
        horizon: iterations of the longest runs among them.
    """

    picks: tuple[int, ...]
    refused: bool
    cliff: int | None
    coarse: bool
    last: Mapping[int, float]
    horizon: int

    @property
    def power(self) -> float:
        """Of the rate that won: the mean over seeds, without the first where its pick is refused, and below a cliff.

        Raises:
            ValueError: nothing learned.
        """
        if not self.picks:
            raise ValueError("no run of the race does better than a constant answer")
        preferred = fmean(self.picks[self.refused :])
        return preferred if self.cliff is None else min(preferred, self.cliff - rules.BELOW_CLIFF)


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


def _replay(entry: Entry, probes: Sequence[Probe]) -> Run | Outcome:
    """Run the race over what is known: what it lacks first, or what it came to."""
    race = _race(entry)
    try:
        run = next(race)
        for probe in probes:
            run = race.send(probe)
    except StopIteration as end:
        found: Outcome = end.value
        return found
    return run


def _race(entry: Entry) -> Generator[Run, Probe, Outcome]:
    """The search of the first seed, and what the others say of its pick."""
    share = rules.FIRST if entry.seeds > 1 else 1.0
    first = Seed(entry, 0, int(share * entry.budget))
    last = yield from first.search()
    others = (entry.budget - first.spent) // max(1, entry.seeds - 1)
    if last and not (has_learned(min(last.values()), entry) and first.is_confirmed_by(others)):
        first.budget = entry.budget
        last = yield from first.alone(last)
    if not last or not has_learned(min(last.values()), entry):
        return Outcome((), False, None, False, last, first.longest)
    picks, left, refused = [first.pick(last, rules.FORGIVEN)], entry.budget - first.spent, False
    seeds = [first]
    for seed in range(1, entry.seeds):
        other = Seed(entry, seed, left // (entry.seeds - seed))
        around = yield from other.confirm(picks[0], 1 if first.has_near(picks[0]) else rules.STRIDE, first.learned)
        left -= other.spent
        seeds.append(other)
        if len(around) > 1 and has_learned(min(around.values()), entry):
            picks.append(other.pick(around, rules.FORGIVEN))
            lost = around.get(picks[0], math.inf) - min(around.values())
            refused |= lost > rules.REFUSED * (entry.floor - min(around.values()))
    return Outcome(
        tuple(picks),
        refused,
        _cliff(seeds, fmean(picks[refused:])),
        not first.has_near(picks[0], 1),
        last,
        first.longest,
    )


def _cliff(seeds: Sequence[Seed], power: float) -> int | None:
    """The lowest rate above a power at which a seed has fallen; None where it is far, or all below it is untried."""
    cliff = min((each for seed in seeds for each in seed.fallen if each > power), default=math.inf)
    lowest = min(each for seed in seeds for each in seed.powers)
    return int(cliff) if lowest <= cliff - rules.BELOW_CLIFF < power else None
