"""The bounds that follow from a race: the peak that won, a quarter of it, and how far to trust them."""

from __future__ import annotations

import math

from clrtool.core.planning.sweep_size import MOST_BUDGET
from clrtool.core.racing import rules
from clrtool.core.racing.probes import Entry, best_of
from clrtool.core.racing.race import Outcome, outcome
from clrtool.core.racing.result import Race
from clrtool.core.reading.bounds import Bounds
from clrtool.core.reading.verdict import Advice, Verdict

# What a larger budget is advised for.
LONGER = {
    Advice.LITTLE_LEARNED,
    Advice.SHORT_RUNS,
    Advice.ONE_SEED,
    Advice.GAPS,
    Advice.BROKE_BELOW,
    Advice.NOTHING_LEARNED,
}


def choose(race: Race, swept: Bounds | None = None) -> Bounds:
    """Read both bounds off a race.

    ``max_lr`` is the rate that won, ``base_lr`` a quarter of it. Where the sweep breaks so early that its own max_lr is
    lower, ``max_lr`` is the geometric mean of both: runs of a few dozen iterations stay on a cliff that a training
    falls off, and a short sweep tells where it is to a factor of two. It tells nothing from a start that has learned:
    its curve falls where a rate throws the model back, which is far below any cliff. There are no bounds where no rate
    did better than a constant answer.

    Args:
        swept: what the curves of the sweep give alone, None without them.
    """
    found = outcome(race.entry, race.probes)
    if not found.picks:
        return _nothing(race, found)
    power, broken = found.power, math.inf if _has_learned_before(race.entry) else _broken(swept)
    apart = max(0.0, power - broken)
    power -= apart / 2
    max_lr, advice = 2.0**power, _advice(race, found, apart)
    low, high = 2.0 ** min(power - rules.BELOW, broken), 2.0 ** (power + rules.ABOVE)
    return Bounds(
        base_lr=rules.BASE * max_lr,
        max_lr=max_lr,
        base_lr_interval=(rules.BASE * low, rules.BASE * high),
        max_lr_interval=(low, high),
        base_reason="A quarter of max_lr, the paper's rule of thumb.",
        max_reason=_reason(race, found, 2.0**broken if apart else None) + longer(race, advice),
        verdict=Verdict.WEAK if advice else Verdict.CLEAR,
        advice=advice,
    )


def _has_learned_before(entry: Entry) -> bool:
    """Whether the start, a checkpoint say, is as far below the constant answer as a clear race has to come."""
    return entry.constant - entry.first >= rules.CLEAR_GAIN * abs(entry.constant) and math.isfinite(entry.constant)


def _broken(swept: Bounds | None) -> float:
    """The power of the sweep's own max_lr where its curve broke; infinite where it did not."""
    if swept is None or swept.max_lr is None or {Advice.UNBROKEN, Advice.STILL_RISING} & {*swept.advice}:
        return math.inf
    return math.log2(swept.max_lr)


def _advice(race: Race, found: Outcome, apart: float) -> tuple[Advice, ...]:
    """What keeps a race from being clear; ``apart`` is by how many powers the sweep broke below what won."""
    agreed = len({*found.picks}) == 1
    advice = {
        Advice.LITTLE_LEARNED: race.entry.gain(min(found.last.values())) < rules.CLEAR_GAIN,
        Advice.ONE_SEED: len(found.picks) < 2,
        Advice.GAPS: len(found.picks) > 1 and agreed and found.coarse,
        Advice.CLOSE_RACE: not agreed,
        Advice.BROKE_BELOW: apart > 1,
    }
    return tuple(each for each, applies in advice.items() if applies)


def _reason(race: Race, found: Outcome, broken: float | None) -> str:
    """The last round with its losses, what other seeds and the sweep prefer, and why a pick is not the best."""
    reached = ", ".join(f"{found.last[each]:.4g} at {2.0**each:.3g}" for each in sorted(found.last))
    reason = (
        f"After up to {found.horizon} iterations at a constant rate, the held-out loss is {reached}; a constant "
        f"answer has {race.entry.constant:.4g}."
    )
    best, (first, *others) = best_of(found.last), found.picks
    if first != best:
        reason += (
            f" {2.0**first:.3g} is above the best of them and was chosen because a schedule comes down from its peak."
        )
    if others:
        reason += f" {'Another seed prefers' if len(others) == 1 else 'Other seeds prefer'} "
        reason += ", ".join(f"{2.0**each:.3g}" for each in others) + "."
    if found.refused:
        reason += f" {2.0**first:.3g} is left out: another seed loses much of its gain there."
    if found.cliff is not None:
        reason += (
            f" At {2.0**found.cliff:.3g} a seed does no better than a constant answer, and max_lr stays a factor of "
            f"{2**rules.BELOW_CLIFF} below."
        )
    if broken is not None:
        reason += f" The sweep broke early and gives {broken:.3g}: max_lr is the geometric mean of both."
    return reason


def longer(race: Race, advice: tuple[Advice, ...]) -> str:
    """Which budget makes the race about twice as long: what it had at the least can be far above what was asked for."""
    budget = rules.TWICE * race.entry.budget / max(1, race.entry.training)
    if not LONGER & {*advice} or budget > MOST_BUDGET:
        return ""
    return f" A budget of {budget:.2g} makes the race about twice as long."


def _nothing(race: Race, found: Outcome) -> Bounds:
    """No bounds, and the numbers that say why."""
    entry, losses = race.entry, {probe.loss for probe in race.probes if math.isfinite(probe.loss)}
    best = min([*filter(math.isfinite, found.last.values())] or losses, default=math.inf)
    powers = [probe.power for probe in race.probes]
    tried = f"from {2.0 ** min(powers):.2g} to {2.0 ** max(powers):.2g}" if powers else "within the budget"
    if best == math.inf and powers:
        reason = f"No run of the race has a finite loss, {tried}."
        return Bounds(None, None, None, None, reason, reason, Verdict.INCONCLUSIVE, (Advice.NOTHING_FINITE,))
    if losses == {entry.first}:
        reason = f"The held-out loss is {entry.first:.4g} at every rate {tried}, the same as before training."
        return Bounds(None, None, None, None, reason, reason, Verdict.INCONCLUSIVE, (Advice.NOTHING_MOVED,))
    reason = (
        f"No rate {tried} does at least {rules.LEARNED:.0%} better than a constant answer: the lowest held-out loss is "
        f"{best:.4g}, a constant answer has {entry.constant:.4g}, and the untrained model {entry.first:.4g}."
    )
    advice = (Advice.NOTHING_LEARNED,)
    return Bounds(None, None, None, None, reason, reason + longer(race, advice), Verdict.INCONCLUSIVE, advice)
