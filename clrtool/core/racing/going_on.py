"""What a race means to a training that is under way: not to train on is a floor too, and a rate may need a warm-up."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean, stdev
from typing import Any

from clrtool.core.racing.choose import choose, longer
from clrtool.core.racing.probes import best_of, by_horizon
from clrtool.core.racing.result import Race
from clrtool.core.reading.bounds import Bounds
from clrtool.core.reading.verdict import Advice, Verdict

# Every seed must have lowered the held-out loss by so much of itself, or stopping is as good; a gain that is clear is
# ten times of it.
GAINED, CLEAR = 0.002, 0.02
# The longest run must be so much of what is left: of 14 tests that were clear with shorter ones, 4 lost more than 5 %
# of the gain.
TOLD = 0.5
# What the comparison of two beginnings takes of a race's budget, and iterations of one run: fewer end before anything
# has settled, and the warm-up is half of them.
SHARE, SHORTEST, LONGEST = 0.2, 12, 200
# Going to a rate at once does lasting harm where its training loss stays so much of itself, and so many standard
# errors, above that after a warm-up.
HARM, SURE = 0.05, 2.0


@dataclass(frozen=True)
class Start:
    """Where a training stands that is under way.

    Args:
        source: what it was read from.
        optimizer_state: tensors of the optimizer's state, momenta and second moments; 0 where there are none.
        epochs: that are done; None where nothing says so.
        is_sure: whether nothing speaks against counting them so; a loop may begin at 0 or at 1.
    """

    source: str
    optimizer_state: int
    epochs: float | None = None
    is_sure: bool = True


@dataclass(frozen=True)
class WarmUp:
    """Runs that go to a rate at once beside runs that rise to it linearly, from one state and by the same batches.

    Args:
        iterations: of the rise.
        at_once, warmed: mean training loss of each seed over as many iterations after it; infinite where a loss was
            not finite.
        needed: whether going to it at once does lasting harm.
    """

    iterations: int
    at_once: tuple[float, ...]
    warmed: tuple[float, ...]
    needed: bool

    @property
    def cost(self) -> int:
        """Optimizer steps of all runs, at the most."""
        return 2 * len(self.at_once) * 2 * self.iterations


@dataclass(frozen=True)
class GoingOn:
    """A training that goes on.

    Args:
        start: where it stands.
        loss: its held-out loss there.
        warm_up: what a rise to the rate that won is good for; None where that was not tried.
    """

    start: Start
    loss: float
    warm_up: WarmUp | None = None

    def to_dict(self) -> dict[str, Any]:
        """In plain types, for JSON: a loss that is not finite is None."""
        values = asdict(self)
        if self.warm_up is not None:
            for name in ("at_once", "warmed"):
                values["warm_up"][name] = [each if math.isfinite(each) else None for each in values["warm_up"][name]]
        return values | {"loss": self.loss if math.isfinite(self.loss) else None}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GoingOn:
        """What :meth:`to_dict` gave. Raises KeyError, TypeError or ValueError for anything else."""
        warm_up = values["warm_up"]
        if warm_up is not None:
            losses = {name: tuple(map(_number, warm_up[name])) for name in ("at_once", "warmed")}
            warm_up = WarmUp(**(warm_up | losses))
        return cls(Start(**values["start"]), _number(values["loss"]), warm_up)


def continued(race: Race, swept: Bounds | None = None) -> Bounds:
    """The bounds of a race that began where a training stands.

    As :func:`choose`, and there are none where a seed does not come below the held-out loss that is there already.
    """
    found, before = choose(race, swept), race.entry.first
    if before > race.entry.constant:  # as of other labels: it begins no better than a constant answer
        return found
    gain = _gain(race)
    if found.max_lr is None or gain < GAINED:
        return found if found.advice == (Advice.NOTHING_FINITE,) else _stop(race)
    if (power := _harmless(race, math.log2(found.max_lr))) is None:
        return _stop(race)
    reason = f"{found.max_reason.removesuffix(longer(race, found.advice))} Before going on it is {before:.4g}."
    if power < math.log2(found.max_lr):
        reason += f" Above {2.0**power:.3g} a seed makes it higher than that, so max_lr is no higher."
        found = _at(found, 2.0**power)
    advice = (*_doubts(race, gain), *(each for each in found.advice if each is not Advice.LITTLE_LEARNED))
    reason += longer(race, advice)
    return replace(found, max_reason=reason, verdict=Verdict.WEAK if advice else Verdict.CLEAR, advice=advice)


def _harmless(race: Race, power: float) -> float | None:
    """The power of a rate, or the next below it at which no seed ends above the loss that was there; None without."""
    rounds = _last_rounds(race)
    most = race.entry.before + GAINED * abs(race.entry.before)
    harmful = {each for losses in rounds for each, loss in losses.items() if loss > most}
    if not harmful & {math.floor(power), math.ceil(power)}:
        return power
    return max((each for losses in rounds for each in losses if each <= power and each not in harmful), default=None)


def _doubts(race: Race, gain: float) -> tuple[Advice, ...]:
    """Why longer runs may rank the rates differently."""
    if gain < CLEAR or _is_moving(race):
        return (Advice.LITTLE_LEARNED,)
    longest = max(probe.iterations for probe in race.probes)
    return (Advice.SHORT_RUNS,) if longest < TOLD * race.entry.training else ()


def _is_moving(race: Race) -> bool:
    """Whether another rate was best in runs of half the longest: it throws a model back less, and gains less."""
    rounds = by_horizon(race.probes)
    best = best_of(rounds[max(rounds)])
    shorter = [each for each in rounds if 2 * each <= max(rounds) and best in rounds[each]]
    return bool(shorter) and best_of(rounds[max(shorter)]) != best


def _at(found: Bounds, max_lr: float) -> Bounds:
    """The same bounds for a lower max_lr, with intervals that hold it."""
    assert found.max_lr is not None
    assert found.base_lr is not None
    share = max_lr / found.max_lr
    low, high = ((span[0] * share, span[1]) for span in (found.base_lr_interval, found.max_lr_interval) if span)
    return replace(found, max_lr=max_lr, base_lr=found.base_lr * share, base_lr_interval=low, max_lr_interval=high)


def _gain(race: Race) -> float:
    """What the seed that gains least has gained over the state at its longest horizon, as a share of the loss there."""
    before, lowest = race.entry.before, max((min(losses.values()) for losses in _last_rounds(race)), default=math.inf)
    return (before - lowest) / (abs(before) or 1.0)


def _last_rounds(race: Race) -> list[dict[int, float]]:
    """The losses of each seed at its longest horizon, by power; at shorter ones a rate may still be on its way down."""
    rounds = [by_horizon(race.probes, seed) for seed in sorted({probe.seed for probe in race.probes})]
    return [each[max(each)] for each in rounds]


def _stop(race: Race) -> Bounds:
    """No bounds, and the numbers that say why."""
    powers = [probe.power for probe in race.probes]
    lowest = min((probe.loss for probe in race.probes), default=math.inf)
    tried = f"from {2.0 ** min(powers):.2g} to {2.0 ** max(powers):.2g}" if powers else "within the budget"
    reason = (
        f"No rate {tried} makes the held-out loss at least {GAINED:.1%} lower with every seed: the lowest is "
        f"{lowest:.4g}, and before going on it is {race.entry.first:.4g}."
    )
    return Bounds(None, None, None, None, reason, reason, Verdict.INCONCLUSIVE, (Advice.BETTER_STOPPED,))


def compared_length(budget: int, seeds: int) -> int:
    """Iterations of each of the runs that tell whether a warm-up is needed; 0 where the budget has no room for them.

    >>> compared_length(400, 2), compared_length(10_000, 2), compared_length(100, 2)
    (20, 200, 0)
    """
    length = min(int(SHARE * budget) // (2 * seeds), LONGEST)
    return length if length >= SHORTEST else 0


def rise(lr: float, iterations: int, warm_up: int) -> list[float]:
    """A rate that is reached linearly, in so many iterations; at once in none.

    >>> rise(1.0, 4, 2), rise(1.0, 2, 0)
    ([0.5, 1.0, 1.0, 1.0], [1.0, 1.0])
    """
    return [lr * min(1.0, (place + 1) / (warm_up or 1)) for place in range(iterations)]


def judge_warm_up(iterations: int, at_once: Sequence[Sequence[float]], warmed: Sequence[Sequence[float]]) -> WarmUp:
    """Whether a warm-up is needed, from the training losses of both beginnings, seed by seed on the same batches.

    >>> calm, thrown = [2.0, 1.0, 0.9, 0.9], [2.0, 4.0, 3.0, 3.1]
    >>> judge_warm_up(2, [calm], [calm]).needed, judge_warm_up(2, [thrown], [calm]).needed
    (False, True)
    """
    after = [tuple(zip(once[iterations:], slow[iterations:], strict=False)) for once, slow in _pairs(at_once, warmed)]
    means = [tuple(fmean(side) for side in zip(*pairs, strict=True)) for pairs in after if pairs]
    behind = [once - slow for pairs in after for once, slow in pairs]
    told = tuple(_settled(each, iterations) for each in at_once), tuple(_settled(each, iterations) for each in warmed)
    if not all(map(math.isfinite, told[0])):
        return WarmUp(iterations, *told, needed=all(map(math.isfinite, told[1])))
    level = abs(fmean(slow for _, slow in means)) if means else 0.0
    error = stdev(behind) / math.sqrt(len(behind)) if len(behind) > 1 else 0.0
    return WarmUp(iterations, *told, needed=bool(behind) and fmean(behind) > max(HARM * level, SURE * error))


def _pairs(*sides: Sequence[Sequence[float]]) -> list[tuple[Sequence[float], ...]]:
    """The runs of each seed whose losses are all finite."""
    return [each for each in zip(*sides, strict=True) if all(math.isfinite(loss) for run in each for loss in run)]


def _settled(losses: Sequence[float], iterations: int) -> float:
    """The mean loss after the rise; infinite of a run that broke."""
    return fmean(losses[iterations:]) if len(losses) > iterations and math.isfinite(losses[-1]) else math.inf


def _number(value: Any) -> float:
    return math.inf if value is None else float(value)
