"""What a repository keeps of a range test, and whether one that was run again still says the same."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from clrtool.core.planning.plan import Plan
from clrtool.core.racing.race import outcome
from clrtool.core.racing.rules import BASE
from clrtool.core.reading.bounds import Bounds
from clrtool.core.reading.paper import find_bounds
from clrtool.core.results.judgement import sure
from clrtool.core.results.record import RunRecord

# A bound that is this much larger or smaller is the same for a training: the bounds of one problem vary by more from
# seed to seed.
TOLERANCE = 0.15
# Of the way in which bounds are read off curves; another way gives other bounds.
RULE_VERSION = 3

Pair = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """The bounds and the plan of a range test, and all that they follow from.

    Args:
        config: the resolved config in plain types, without its seed.
        seed: of the config, which may change; a set that has to be split is split by it.
        data_sha256, sources: hashes of the data, and of the code and weights that the config names.
        seeds: (base_lr, max_lr) as each seed alone shows them, None where it shows none.
        bounds, plan: of all seeds together.
        environment: what else a result depends on, in its last digits.
        tolerance: by which share a bound may change.
        rule: how the bounds were read, see ``RULE_VERSION``.
    """

    config: Mapping[str, Any]
    seed: int
    data_sha256: str
    sources: Mapping[str, str]
    seeds: Mapping[int, Pair | None]
    bounds: Bounds
    plan: Plan | None
    environment: Mapping[str, Any] = field(default_factory=dict)
    tolerance: float = TOLERANCE
    rule: int = RULE_VERSION


@dataclass(frozen=True)
class Change:
    """One bound as it is kept and as it was measured again.

    Args:
        allowed: the factor that the tolerance allows.
        noise: the factor that the scatter of the seeds explains; None where there are too few to tell.
    """

    name: str
    old: float
    new: float
    allowed: float
    noise: float | None

    @property
    def factor(self) -> float:
        """How far apart the two are, at least 1."""
        return max(self.old, self.new) / min(self.old, self.new)

    @property
    def has_drifted(self) -> bool:
        """Whether both the tolerance and the scatter of the seeds are exceeded."""
        return self.factor > self.allowed and (self.noise is None or self.factor > self.noise)


def recommendation(record: RunRecord, config: Mapping[str, Any]) -> Recommendation:
    """What is worth keeping of a run.

    Args:
        config: the resolved config of the run in plain types.
    """
    return Recommendation(
        config={name: value for name, value in config.items() if name != "seed"},
        seed=config["seed"],
        data_sha256=record.data_sha256,
        sources=record.sources,
        seeds=_alone(record, config["seed"]),
        bounds=record.bounds,
        plan=record.plan,
        environment=record.environment,
    )


def _alone(record: RunRecord, seed: int) -> dict[int, Pair | None]:
    """Both bounds as each seed alone shows them: its pick of a race from ``seed`` on, or what its curve says."""
    sweep = record.sweep
    if record.race is not None:
        picks = outcome(record.race.entry, record.race.probes).picks
        return {seed + place: (BASE * 2.0**power, 2.0**power) for place, power in enumerate(picks)}
    return {
        curve.seed: _pair(find_bounds([curve], sweep.heldout_samples, sweep.chance, sweep.metric))
        for curve in sweep.curves
    }


def changed_inputs(old: Mapping[str, Any], new: Mapping[str, Any], place: str = "") -> Iterator[str]:
    """What differs between two configs, a line for each value: ``data.batch_size: 32 -> 256``.

    >>> list(changed_inputs({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}))
    ['a.c: 2 -> 3']
    """
    for name in [*old, *(name for name in new if name not in old)]:
        before, now, at = old.get(name), new.get(name), f"{place}{name}"
        if isinstance(before, Mapping) and isinstance(now, Mapping):
            yield from changed_inputs(before, now, f"{at}.")
        elif before != now:
            yield f"{at}: {before} -> {now}"


def changes(old: Recommendation, new: Recommendation) -> list[Change]:
    """Both bounds, kept and measured again.

    From the same seeds in the same environment and with ``--deterministic`` they have to be equal. Else, with l[s] the
    logarithm of a bound in seed s, n of them kept and m measured, it is noise up to the factor::

        exp(sure * sd * sqrt(1/n + 1/m)),   sd^2 = (sum of squares within both) / (n + m - 2)

    ``sure`` is Student's quantile at 2 standard errors, see ``clrtool.core.results.judgement``.

    Raises:
        ValueError: one of them has no bounds.
    """
    exact = old.environment == new.environment and bool(old.environment.get("deterministic"))
    exact &= old.seeds.keys() == new.seeds.keys()
    found = []
    for which, name in enumerate(("base_lr", "max_lr")):
        before, now = getattr(old.bounds, name), getattr(new.bounds, name)
        if before is None or now is None:
            raise ValueError("a recommendation without bounds cannot be compared")
        if exact:
            found.append(Change(name, before, now, 1.0, None))
            continue
        logs = [[math.log(pair[which]) for pair in each.seeds.values() if pair] for each in (old, new)]
        found.append(Change(name, before, now, 1 + old.tolerance, _noise(*logs)))
    return found


def _noise(old: Sequence[float], new: Sequence[float]) -> float | None:
    if min(len(old), len(new)) < 2:
        return None
    number = len(old) + len(new)
    variance = sum(len(each) * float(np.var(each)) for each in (old, new)) / (number - 2)
    return math.exp(sure(number - 1) * math.sqrt(variance * (1 / len(old) + 1 / len(new))))


def _pair(bounds: Bounds) -> Pair | None:
    return None if bounds.base_lr is None or bounds.max_lr is None else (bounds.base_lr, bounds.max_lr)
