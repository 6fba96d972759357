"""The two bounds of a cycle, with what they rest on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from clrtool.core.reading.verdict import FORMER, Advice, Verdict

Interval = tuple[float, float]


@dataclass(frozen=True)
class Bounds:
    """The two bounds of a cycle, with intervals, reasons and a verdict.

    Args:
        base_lr, max_lr: the bounds as learning rates; None if the measurements do not show them.
        base_lr_interval, max_lr_interval: (low, high). By the paper's method, where 95 % of resampled curves put the
            bound, widened by one evaluation; by a race, the factors that the benchmark supports. None if the bound is.
        base_reason, max_reason: why each bound is where it is, with numbers.
        verdict: how far to trust them.
        advice: what to do next, most important first.

    Raises:
        ValueError: the bounds are not ``0 < base_lr < max_lr``, each inside its interval.
    """

    base_lr: float | None
    max_lr: float | None
    base_lr_interval: Interval | None
    max_lr_interval: Interval | None
    base_reason: str
    max_reason: str
    verdict: Verdict
    advice: tuple[Advice, ...] = ()

    def __post_init__(self) -> None:
        if self.base_lr is None or self.max_lr is None:
            ordered = self.base_lr is self.max_lr is None and self.verdict is Verdict.INCONCLUSIVE
        else:
            ordered = 0 < self.base_lr < self.max_lr < math.inf
        for lr, span in ((self.base_lr, self.base_lr_interval), (self.max_lr, self.max_lr_interval)):
            ordered &= span is None or (lr is not None and span[0] <= lr <= span[1])
        if not ordered:
            raise ValueError("bounds must be finite, 0 < base_lr < max_lr, each inside its interval")

    def doubted(self, reasons: tuple[Advice, ...]) -> Bounds:
        """The same bounds, with a verdict that is weak at best if there are doubts."""
        if not reasons:
            return self
        verdict = Verdict.INCONCLUSIVE if self.verdict is Verdict.INCONCLUSIVE else Verdict.WEAK
        return replace(self, verdict=verdict, advice=(*self.advice, *reasons))

    def to_dict(self) -> dict[str, Any]:
        """The bounds in plain types, for JSON."""
        values = vars(self) | {"verdict": self.verdict.word, "advice": [each.value for each in self.advice]}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Bounds:
        """The bounds of :meth:`to_dict`. Raises KeyError, TypeError or ValueError for anything else."""
        intervals = {
            name: None if values[name] is None else (float(values[name][0]), float(values[name][1]))
            for name in ("base_lr_interval", "max_lr_interval")
        }
        verdict = Verdict[values["verdict"].upper()]
        advice = tuple(FORMER.get(each) or Advice(each) for each in values["advice"])
        return cls(**(dict(values) | intervals | {"verdict": verdict, "advice": advice}))
