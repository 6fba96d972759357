"""``param_scheduler`` of mmengine: schedulers that act from their ``begin`` to their ``end``, in turn or at once.

``base_lr`` is the optimizer's. One that is ``by_epoch``, as they are where nothing is said, is stepped at the end of an
epoch of ``epoch_length`` iterations; with ``convert_to_iter_based`` at every iteration. Where all are by epoch and no
length is given a step is an epoch.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

from clrtool.core.schedules import (
    Cosine,
    Exponential,
    Moved,
    Phases,
    Polynomial,
    Product,
    Schedule,
    fixed,
    in_sequence,
    piecewise,
    step,
)
from clrtool.core.schedules.checks import check_whole, is_number
from clrtool.core.sources.from_torch import multi_step_lr, one_cycle_lr
from clrtool.core.sources.registry import source
from clrtool.words import nearest

_FOREVER = 10**9  # mmengine's own INF


@dataclass(frozen=True)
class _Window:
    """Where a scheduler acts, in its own steps of ``every`` iterations, and what it makes of what it finds.

    That is the learning rate at its begin, and the one that the optimizer was made with.
    """

    begin: int
    end: int
    scales: bool
    make: Callable[[float, float], Schedule]
    every: int = 1

    @property
    def first(self) -> int:
        """The iteration at which it begins."""
        return self.begin * self.every

    @property
    def last(self) -> int:
        """The iteration of its last step."""
        return (self.end - 1) * self.every

    def over(self, found: float, base: float) -> Schedule:
        """What it makes of what it finds, from its begin on; after its end its last value is held."""
        made, length = self.make(found, base), self.end - self.begin
        if length < _FOREVER:
            made = in_sequence([made, fixed(float(made([length - 1])[0]))], [0, length])
        return made if self.every == 1 else Moved(made, every=self.every)

    def factor(self) -> Schedule:
        return in_sequence([fixed(1.0), self.over(1.0, 1.0)], [0, self.first])


@source("mmengine.param_scheduler")
def param_scheduler(
    schedulers: Sequence[Mapping[str, Any]], base_lr: float = 1e-3, epoch_length: int | None = None
) -> Schedule:
    """The list as a config holds it: ``{type: LinearLR, start_factor: 0.001, by_epoch: false, begin: 0, end: 500}``.

    Those that multiply may act at once. One with an ``eta_min`` acts where none of these does.
    """
    schedulers = [schedulers] if isinstance(schedulers, Mapping) else schedulers
    windows = _read(schedulers, epoch_length)
    _check_apart(windows)
    result: Schedule = fixed(base_lr)
    for window in sorted(windows, key=lambda window: window.first):
        if window.scales:
            before = result.parts if isinstance(result, Product) else (result,)
            result = Product((*before, window.factor()))
        else:
            found = float(result([window.first])[0])
            result = in_sequence([result, window.over(found, base_lr)], [0, window.first])
    return result


def _check_apart(windows: Sequence[_Window]) -> None:
    """Raise ValueError where one that sets the learning rate acts while another scales it.

    A step may be the last of the one and the first of the other: the first of one that sets it changes nothing, and
    what scales after it in the list finds what it has set.
    """
    for setting, window in enumerate(windows):
        for scaling, other in enumerate(windows):
            before = other.last <= window.first
            after = window.last <= other.first - (setting > scaling)
            if not window.scales and other.scales and not (before or after):
                raise ValueError("a scheduler of mmengine with an eta_min cannot act together with one that scales")


def _read(schedulers: Sequence[Mapping[str, Any]], epoch_length: int | None) -> list[_Window]:
    if not isinstance(schedulers, list | tuple) or not all(isinstance(given, Mapping) for given in schedulers):
        raise ValueError(f"schedulers must be a list of {{type: NAME, parameters ...}}, got {schedulers!r}")
    for given in schedulers:
        for name in ("by_epoch", "convert_to_iter_based"):
            if not isinstance(given.get(name, True), bool):
                raise ValueError(f"{name} must be true or false, got {given[name]!r}")
    if epoch_length is not None:
        check_whole("epoch_length", epoch_length)
    by_epoch = [given.get("by_epoch", True) for given in schedulers]
    converts = any(given.get("convert_to_iter_based", False) for given in schedulers)
    if any(by_epoch) and (converts or not all(by_epoch)) and epoch_length is None:
        raise ValueError(
            "some schedulers of mmengine count epochs and some iterations: give epoch_length, the iterations of one"
        )
    return [_window(dict(given), epoch_length or 1) for given in schedulers]


def _window(given: dict[str, Any], epoch_length: int) -> _Window:
    kind = given.pop("type", None)
    if kind == "ReduceOnPlateauLR":
        raise ValueError(f"{kind} follows a metric: what it does is not known before the training")
    if kind not in _KINDS:
        raise ValueError(f"a scheduler of mmengine has a type, one of {', '.join(_KINDS)}; got {kind!r}")
    by_epoch, convert = given.pop("by_epoch", True), given.pop("convert_to_iter_based", False)
    times = epoch_length if by_epoch and convert else 1
    begin, end = given.pop("begin", 0), given.pop("end", _FOREVER)
    check_whole("begin", begin, at_least=0)
    check_whole("end", end, at_least=begin + 1)
    begin, end = int(begin * times), int(end * times) if end != _FOREVER else _FOREVER
    for name in ("T_max", "step_size", "total_steps"):
        if name in given and given[name] is not None:
            given[name] = given[name] * times
    for name in ("milestones", "periods"):
        if name in given:
            if not isinstance(given[name], list | tuple) or not all(map(is_number, given[name])):
                raise ValueError(f"{name} of {kind} must be a list of numbers, got {given[name]!r}")
            given[name] = [each * times for each in given[name]]
    valid = list(inspect.signature(_KINDS[kind]).parameters)[2:]
    for name in given:
        if name not in valid:
            raise ValueError(f"{kind} of mmengine has no parameter {name!r}; {nearest(name, valid)}")
    window = _KINDS[kind](begin, end, **given)
    return replace(window, every=epoch_length) if by_epoch and not convert else window


def _constant(begin: int, end: int, factor: float = 1 / 3) -> _Window:
    last = _needed(begin, end)
    return _Window(begin, end, True, lambda found, _: piecewise([max(1, last)], [found * factor, found]))


def _linear(begin: int, end: int, start_factor: float = 1 / 3, end_factor: float = 1.0) -> _Window:
    knots, values = (0, max(1, _needed(begin, end))), (start_factor, end_factor)
    line = Phases(knots=knots, values=values, shapes=("linear",))
    return _Window(begin, end, True, lambda found, _: Product((fixed(found), line)))


def _exponential(begin: int, end: int, gamma: float) -> _Window:
    return _Window(begin, end, True, lambda found, _: Exponential(max_lr=found, gamma=gamma))


def _step(begin: int, end: int, step_size: int, gamma: float = 0.1) -> _Window:
    return _Window(begin, end, True, lambda found, _: step(found, gamma, every=step_size))


def _multi_step(begin: int, end: int, milestones: Sequence[int], gamma: float = 0.1) -> _Window:
    return _Window(begin, end, True, lambda found, _: multi_step_lr(milestones, gamma, base_lr=found))


def _cosine(
    begin: int,
    end: int,
    T_max: int | None = None,  # noqa: N803 (mmengine's name)
    eta_min: float | None = None,
    eta_min_ratio: float | None = None,
) -> _Window:
    """What rises again after ``T_max`` rises to the learning rate that the optimizer was made with."""
    half = T_max or _needed(begin, end) + 1

    def make(found: float, base: float) -> Schedule:
        low = _low(base, eta_min, eta_min_ratio)
        fall, wave = (Cosine(base_lr=low, max_lr=top, iterations=half, wave=True) for top in (found, base))
        return in_sequence([fall, Moved(wave, by=half)], [0, half]) if found != base else wave

    return _Window(begin, end, False, make)


def _poly(begin: int, end: int, eta_min: float = 0.0, power: float = 1.0) -> _Window:
    length = max(1, _needed(begin, end))
    return _Window(
        begin, end, False, lambda found, _: Polynomial(base_lr=eta_min, max_lr=found, iterations=length, power=power)
    )


def _one_cycle(
    begin: int,
    end: int,
    eta_max: float,
    total_steps: int | None = None,
    pct_start: float = 0.3,
    anneal_strategy: str = "cos",
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
    three_phase: bool = False,
) -> _Window:
    steps = total_steps or _needed(begin, end) + 1
    made = one_cycle_lr(eta_max, steps, pct_start=pct_start, anneal_strategy=anneal_strategy, cycle_momentum=False,
                        div_factor=div_factor, final_div_factor=final_div_factor, three_phase=three_phase)  # fmt: skip
    return _Window(begin, end, False, lambda *_: made)


def _restarts(
    begin: int,
    end: int,
    periods: Sequence[int],
    restart_weights: Sequence[float] = (1,),
    eta_min: float | None = None,
    eta_min_ratio: float | None = None,
) -> _Window:
    """After the last of its periods it leaves the learning rate where it is."""
    if not periods or len(restart_weights) != len(periods):
        raise ValueError(
            f"restart_weights must be as many as periods, at least one, got {restart_weights!r}, {periods!r}"
        )

    def make(found: float, base: float) -> Schedule:
        low = _low(base, eta_min, eta_min_ratio)
        falls: list[Schedule] = [
            Cosine(base_lr=low, max_lr=base * weight, iterations=period)
            for weight, period in zip(restart_weights, periods, strict=True)
        ]
        held = fixed(float(falls[-1]([periods[-1] - 1])[0]))
        return in_sequence([*falls, held], [0, *accumulate(periods)])

    return _Window(begin, end, False, make)


def _low(base: float, eta_min: float | None, eta_min_ratio: float | None) -> float:
    return base * eta_min_ratio if eta_min_ratio is not None else eta_min or 0.0


def _needed(begin: int, end: int) -> int:
    """The steps to the last one of a scheduler of which the end changes what it does."""
    if end == _FOREVER:
        raise ValueError(
            "a scheduler of mmengine without an end goes on for as long as the training: give its end, or its length"
        )
    return end - begin - 1


_KINDS: dict[str, Callable[..., _Window]] = {
    "ConstantLR": _constant, "LinearLR": _linear, "ExponentialLR": _exponential, "StepLR": _step,
    "MultiStepLR": _multi_step, "CosineAnnealingLR": _cosine, "PolyLR": _poly, "OneCycleLR": _one_cycle,
    "CosineRestartLR": _restarts,
}  # fmt: skip
