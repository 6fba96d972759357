"""``param_scheduler`` of mmengine: schedulers that act from their ``begin`` to their ``end``, in turn or at once.

``base_lr`` is the optimizer's. ``by_epoch`` counts epochs, of ``epoch_length`` iterations with
``convert_to_iter_based``; without it a step is an epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clrtool.core.schedules import (
    Cosine,
    Exponential,
    Phases,
    Polynomial,
    Product,
    Schedule,
    fixed,
    in_sequence,
    piecewise,
    step,
)
from clrtool.core.schedules.checks import check_whole
from clrtool.core.sources.from_torch import multi_step_lr, one_cycle_lr
from clrtool.core.sources.registry import source

_FOREVER = 10**9  # mmengine's own INF


@dataclass(frozen=True)
class _Window:
    """Where a scheduler acts, and what it makes of the learning rate that it finds."""

    begin: int
    end: int
    scales: bool
    make: Callable[[float], Schedule]

    def over(self, found: float) -> Schedule:
        """What it makes of what it finds, from its begin on; after its end its last value is held."""
        made, length = self.make(found), self.end - self.begin
        if length >= _FOREVER:
            return made
        return in_sequence([made, fixed(float(made([length - 1])[0]))], [0, length])

    def factor(self) -> Schedule:
        return in_sequence([fixed(1.0), self.over(1.0)], [0, self.begin])


@source("mmengine.param_scheduler")
def param_scheduler(
    schedulers: Sequence[Mapping[str, Any]], base_lr: float = 1e-3, epoch_length: int | None = None
) -> Schedule:
    """The list as a config holds it: ``{type: LinearLR, start_factor: 0.001, by_epoch: false, begin: 0, end: 500}``.

    Those that multiply may act at once. One with an ``eta_min`` acts alone.
    """
    if isinstance(schedulers, Mapping):
        schedulers = [schedulers]
    windows = [_window(dict(given), epoch_length) for given in schedulers]
    factors = [window.factor() for window in windows if window.scales]
    result: Schedule = Product((fixed(base_lr), *factors))
    for window in sorted((window for window in windows if not window.scales), key=lambda window: window.begin):
        later = [other for other in windows if other is not window and other.end > window.begin and other.scales]
        if later:
            raise ValueError(
                "a scheduler of mmengine with an eta_min cannot act together with, or before, one that scales"
            )
        found = float(result([window.begin])[0])
        result = in_sequence([result, window.over(found)], [0, window.begin])
    return result


def _window(given: dict[str, Any], epoch_length: int | None) -> _Window:
    kind = given.pop("type", None)
    if kind not in _KINDS:
        raise ValueError(f"a scheduler of mmengine has a type, one of {', '.join(_KINDS)}; got {kind!r}")
    by_epoch, convert = given.pop("by_epoch", True), given.pop("convert_to_iter_based", False)
    times = 1
    if by_epoch and (convert or epoch_length is not None):
        if epoch_length is None:
            raise ValueError("convert_to_iter_based needs epoch_length, the iterations of an epoch")
        times = epoch_length
    begin, end = given.pop("begin", 0), given.pop("end", _FOREVER)
    check_whole("begin", begin, at_least=0)
    check_whole("end", end, at_least=begin + 1)
    begin, end = int(begin * times), int(end * times) if end != _FOREVER else _FOREVER
    for name in ("T_max", "step_size", "total_steps"):
        if name in given and given[name] is not None:
            given[name] = given[name] * times
    if "milestones" in given:
        given["milestones"] = [milestone * times for milestone in given["milestones"]]
    return _KINDS[kind](begin, end, **given)


def _constant(begin: int, end: int, factor: float = 1 / 3) -> _Window:
    return _Window(begin, end, True, lambda found: piecewise([max(1, end - begin - 1)], [found * factor, found]))


def _linear(begin: int, end: int, start_factor: float = 1 / 3, end_factor: float = 1.0) -> _Window:
    knots, values = (0, max(1, end - begin - 1)), (start_factor, end_factor)
    line = Phases(knots=knots, values=values, shapes=("linear",))
    return _Window(begin, end, True, lambda found: Product((fixed(found), line)))


def _exponential(begin: int, end: int, gamma: float) -> _Window:
    return _Window(begin, end, True, lambda found: Exponential(max_lr=found, gamma=gamma))


def _step(begin: int, end: int, step_size: int, gamma: float = 0.1) -> _Window:
    return _Window(begin, end, True, lambda found: step(found, gamma, every=step_size))


def _multi_step(begin: int, end: int, milestones: Sequence[int], gamma: float = 0.1) -> _Window:
    return _Window(begin, end, True, lambda found: multi_step_lr(milestones, gamma, base_lr=found))


def _cosine(
    begin: int,
    end: int,
    T_max: int | None = None,  # noqa: N803 (mmengine's name)
    eta_min: float | None = None,
    eta_min_ratio: float | None = None,
) -> _Window:
    def make(found: float) -> Schedule:
        low = found * eta_min_ratio if eta_min_ratio is not None else eta_min or 0.0
        return Cosine(base_lr=low, max_lr=found, iterations=T_max or end - begin, wave=True)

    return _Window(begin, end, False, make)


def _poly(begin: int, end: int, eta_min: float = 0.0, power: float = 1.0) -> _Window:
    length = max(1, end - begin - 1)
    return _Window(
        begin, end, False, lambda found: Polynomial(base_lr=eta_min, max_lr=found, iterations=length, power=power)
    )


def _one_cycle(begin: int, end: int, eta_max: float, total_steps: int | None = None, **given: Any) -> _Window:
    total = total_steps or end - begin
    return _Window(begin, end, False, lambda _: one_cycle_lr(eta_max, total_steps=total, cycle_momentum=False, **given))


def _restarts(
    begin: int,
    end: int,
    periods: Sequence[int],
    restart_weights: Sequence[float] = (1,),
    eta_min: float | None = None,
    eta_min_ratio: float | None = None,
) -> _Window:
    def make(found: float) -> Schedule:
        low = found * eta_min_ratio if eta_min_ratio is not None else eta_min or 0.0
        falls: list[Schedule] = [
            Cosine(base_lr=low, max_lr=found * weight, iterations=period, wave=True)
            for weight, period in zip(restart_weights, periods, strict=True)
        ]
        return in_sequence(falls, [sum(periods[:number]) for number in range(len(periods))])

    return _Window(begin, end, False, make)


_KINDS: dict[str, Callable[..., _Window]] = {
    "ConstantLR": _constant, "LinearLR": _linear, "ExponentialLR": _exponential, "StepLR": _step,
    "MultiStepLR": _multi_step, "CosineAnnealingLR": _cosine, "PolyLR": _poly, "OneCycleLR": _one_cycle,
    "CosineRestartLR": _restarts,
}  # fmt: skip
