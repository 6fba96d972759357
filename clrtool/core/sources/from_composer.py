"""``composer.optim`` schedulers with their time strings: "1ep", "100ba", "0.5dur".

They multiply the optimizer's learning rate, ``base_lr``, at every batch. A training takes ``max_duration``, and an
epoch ``batches_per_epoch`` batches.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from clrtool.core.schedules import (
    Cosine,
    Curve,
    Exponential,
    Moved,
    Phases,
    Polynomial,
    Schedule,
    fixed,
    in_sequence,
    piecewise,
    step,
)
from clrtool.core.schedules.checks import check_positive, check_whole
from clrtool.core.sources.registry import source

_PREFIX = "composer.optim."
_TIME = re.compile(r"([0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?)(ep|ba|dur)")


@dataclass(frozen=True)
class _Clock:
    """How long a training and an epoch are, which turn a time into batches."""

    max_duration: str
    batches_per_epoch: int | None

    def batches(self, name: str, time: str) -> int:
        found = _TIME.fullmatch(str(time).strip())
        if found is None:
            raise ValueError(f"{name} must be a time in batches, epochs or shares: 100ba, 1ep or 0.5dur; got {time!r}")
        number, unit = float(found[1]), found[2]
        if unit == "dur":
            if name == "max_duration":
                raise ValueError(f"max_duration must be a time such as 10ep or 5000ba, got {time!r}")
            return int(number * self.batches("max_duration", self.max_duration))
        if unit == "ep":
            if self.batches_per_epoch is None:
                raise ValueError(f"{name}={time} needs batches_per_epoch")
            check_whole("batches_per_epoch", self.batches_per_epoch)
            if number != int(number):
                raise ValueError(f"{name} must be a whole number of epochs, as composer requires, got {time!r}")
            return int(int(number) * self.batches_per_epoch)
        return int(number)


@source(_PREFIX + "StepScheduler")
def step_scheduler(
    step_size: str, max_duration: str = "1ep", gamma: float = 0.1, batches_per_epoch: int | None = None,
    base_lr: float = 1e-3,
) -> Schedule:  # fmt: skip
    clock = _Clock(max_duration, batches_per_epoch)
    return step(base_lr, gamma, every=clock.batches("step_size", step_size))


@source(_PREFIX + "MultiStepScheduler")
def multi_step(
    milestones: Sequence[str], max_duration: str = "1ep", gamma: float = 0.1, batches_per_epoch: int | None = None,
    base_lr: float = 1e-3,
) -> Schedule:  # fmt: skip
    clock = _Clock(max_duration, batches_per_epoch)
    begins = [clock.batches("a milestone", milestone) for milestone in milestones]
    rising = sorted(set(begins))
    drops = [sum(begin <= here for begin in begins) for here in rising]
    return piecewise(rising, [base_lr, *(base_lr * gamma**times for times in drops)])


@source(_PREFIX + "ConstantScheduler")
def constant(
    alpha: float = 1.0, t_max: str = "1dur", max_duration: str = "1ep", batches_per_epoch: int | None = None,
    base_lr: float = 1e-3,
) -> Schedule:  # fmt: skip
    end = _Clock(max_duration, batches_per_epoch).batches("t_max", t_max)
    return piecewise([end], [base_lr * alpha, base_lr])


@source(_PREFIX + "LinearScheduler")
def linear(
    alpha_i: float = 1.0, alpha_f: float = 0.0, t_max: str = "1dur", max_duration: str = "1ep",
    batches_per_epoch: int | None = None, base_lr: float = 1e-3,
) -> Schedule:  # fmt: skip
    return _line(alpha_i, alpha_f, _Clock(max_duration, batches_per_epoch).batches("t_max", t_max), base_lr)


@source(_PREFIX + "ExponentialScheduler")
def exponential(
    gamma: float, decay_period: str = "1ep", max_duration: str = "1ep", batches_per_epoch: int | None = None,
    base_lr: float = 1e-3,
) -> Schedule:  # fmt: skip
    every = _Clock(max_duration, batches_per_epoch).batches("decay_period", decay_period)
    return Exponential(max_lr=base_lr, gamma=gamma, every=every)


@source(_PREFIX + "CosineAnnealingScheduler")
def cosine(
    t_max: str = "1dur", alpha_f: float = 0.0, max_duration: str = "1ep", batches_per_epoch: int | None = None,
    base_lr: float = 1e-3,
) -> Schedule:  # fmt: skip
    length = _Clock(max_duration, batches_per_epoch).batches("t_max", t_max)
    return Cosine(base_lr=base_lr * alpha_f, max_lr=base_lr, iterations=length)


@source(_PREFIX + "CosineAnnealingWarmRestartsScheduler")
def cosine_restarts(
    t_0: str, t_mult: float = 1.0, alpha_f: float = 0.0, max_duration: str = "1ep",
    batches_per_epoch: int | None = None, base_lr: float = 1e-3,
) -> Schedule:  # fmt: skip
    """The length of every fall is rounded down to whole batches before the next is made of it."""
    clock = _Clock(max_duration, batches_per_epoch)
    length, until = clock.batches("t_0", t_0), clock.batches("max_duration", max_duration)
    parts: list[Schedule] = []
    begins, begin = [], 0
    while begin <= until:
        check_positive("the length of a fall, in batches,", length)
        parts.append(Cosine(base_lr=base_lr * alpha_f, max_lr=base_lr, iterations=length))
        begins.append(begin)
        begin, length = begin + length, int(t_mult * length)
    return in_sequence(parts, begins)


@source(_PREFIX + "PolynomialScheduler")
def polynomial(
    power: float, t_max: str = "1dur", alpha_f: float = 0.0, max_duration: str = "1ep",
    batches_per_epoch: int | None = None, base_lr: float = 1e-3,
) -> Schedule:  # fmt: skip
    length = _Clock(max_duration, batches_per_epoch).batches("t_max", t_max)
    return Polynomial(base_lr=base_lr * alpha_f, max_lr=base_lr, iterations=length, power=power)


@source(_PREFIX + "MultiStepWithWarmupScheduler")
def multi_step_with_warmup(
    t_warmup: str, milestones: Sequence[str], gamma: float = 0.1, scale_warmup: bool = False,
    max_duration: str = "1ep", batches_per_epoch: int | None = None, base_lr: float = 1e-3,
) -> Schedule:  # fmt: skip
    """The milestones count from the beginning of the warm-up. ``scale_warmup`` scales with a ratio that is 1 here."""
    warmup = _Clock(max_duration, batches_per_epoch).batches("t_warmup", t_warmup)
    drops = multi_step(milestones, max_duration, gamma, batches_per_epoch, base_lr)
    rise = _line(0.0, 1.0, max(1, warmup), base_lr)
    return in_sequence([rise, Moved(drops, by=warmup)], [0, warmup])


@source(_PREFIX + "ConstantWithWarmupScheduler")
def constant_with_warmup(
    t_warmup: str, alpha: float = 1.0, t_max: str = "1dur", scale_warmup: bool = False, max_duration: str = "1ep",
    batches_per_epoch: int | None = None, base_lr: float = 1e-3,
) -> Schedule:  # fmt: skip
    return linear_with_warmup(t_warmup, alpha, alpha, t_max, scale_warmup, max_duration, batches_per_epoch, base_lr)


@source(_PREFIX + "LinearWithWarmupScheduler")
def linear_with_warmup(
    t_warmup: str, alpha_i: float = 1.0, alpha_f: float = 0.0, t_max: str = "1dur",
    scale_warmup: bool = False,
    max_duration: str = "1ep", batches_per_epoch: int | None = None, base_lr: float = 1e-3,
) -> Schedule:  # fmt: skip
    warmup, left = _lengths(t_warmup, t_max, max_duration, batches_per_epoch)
    fall = _line(alpha_i, alpha_f, left, base_lr) if left else fixed(base_lr * alpha_i)
    return in_sequence([_line(0.0, alpha_i, max(1, warmup), base_lr), fall], [0, warmup])


@source(_PREFIX + "CosineAnnealingWithWarmupScheduler")
def cosine_with_warmup(
    t_warmup: str, t_max: str = "1dur", alpha_f: float = 0.0, scale_warmup: bool = False,
    max_duration: str = "1ep", batches_per_epoch: int | None = None, base_lr: float = 1e-3,
) -> Schedule:  # fmt: skip
    warmup, left = _lengths(t_warmup, t_max, max_duration, batches_per_epoch)
    fall = Curve(start=base_lr, end=base_lr * alpha_f, length=left) if left else fixed(base_lr)
    return in_sequence([_line(0.0, 1.0, max(1, warmup), base_lr), fall], [0, warmup])


@source(_PREFIX + "PolynomialWithWarmupScheduler")
def polynomial_with_warmup(
    t_warmup: str, power: float = 2.0, t_max: str = "1dur", alpha_f: float = 0.0,
    scale_warmup: bool = False,
    max_duration: str = "1ep", batches_per_epoch: int | None = None, base_lr: float = 1e-3,
) -> Schedule:  # fmt: skip
    warmup, left = _lengths(t_warmup, t_max, max_duration, batches_per_epoch)
    low = base_lr * alpha_f
    fall = Polynomial(base_lr=low, max_lr=base_lr, iterations=left, power=power) if left else fixed(base_lr)
    return in_sequence([_line(0.0, 1.0, max(1, warmup), base_lr), fall], [0, warmup])


def _lengths(t_warmup: str, t_max: str, max_duration: str, batches_per_epoch: int | None) -> tuple[int, int]:
    """The warm-up, and what ``t_max`` leaves after it. Raises ValueError where a training is longer than ``t_max``."""
    clock = _Clock(max_duration, batches_per_epoch)
    warmup, end = clock.batches("t_warmup", t_warmup), clock.batches("t_max", t_max)
    if end < clock.batches("max_duration", max_duration):
        raise ValueError(f"t_max = {t_max} must be at least max_duration = {max_duration}, as composer requires")
    return warmup, max(0, end - warmup)


def _line(alpha_i: float, alpha_f: float, length: int, base_lr: float) -> Phases:
    check_positive("t_max, in batches,", length)
    return Phases(knots=(0, length), values=(base_lr * alpha_i, base_lr * alpha_f), shapes=("linear",))
