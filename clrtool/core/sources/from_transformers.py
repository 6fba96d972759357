"""``transformers.get_scheduler``. ``base_lr`` is the optimizer's learning rate, which the schedule multiplies."""

from __future__ import annotations

from clrtool.core.schedules import (
    Cosine,
    CosineRestarts,
    Join,
    Moved,
    Phases,
    Piecewise,
    Schedule,
    Within,
    fixed,
    in_sequence,
    inverse_sqrt,
    linear,
    polynomial,
)
from clrtool.core.schedules.checks import LAST, check_lr, check_whole
from clrtool.core.schedules.phases import Shape
from clrtool.core.sources.registry import source

_PREFIX = "transformers.get_scheduler:"


@source(_PREFIX + "constant")
def constant(base_lr: float) -> Piecewise:
    return fixed(base_lr)


@source(_PREFIX + "constant_with_warmup")
def constant_with_warmup(base_lr: float, num_warmup_steps: int) -> Schedule:
    return _warmed(fixed(base_lr), base_lr, num_warmup_steps)


@source(_PREFIX + "linear")
def linear_with_warmup(base_lr: float, num_warmup_steps: int, num_training_steps: int) -> Schedule:
    return _warmed(linear(0.0, base_lr, _length(num_warmup_steps, num_training_steps)), base_lr, num_warmup_steps)


@source(_PREFIX + "cosine")
def cosine_with_warmup(
    base_lr: float, num_warmup_steps: int, num_training_steps: int, num_cycles: float = 0.5
) -> Schedule:
    """``num_cycles`` counts whole waves; after its end the learning rate goes up again."""
    return cosine_with_min_lr(base_lr, num_warmup_steps, num_training_steps, num_cycles, min_lr=0.0)


@source(_PREFIX + "cosine_with_min_lr")
def cosine_with_min_lr(
    base_lr: float,
    num_warmup_steps: int,
    num_training_steps: int,
    num_cycles: float = 0.5,
    min_lr: float | None = None,
    min_lr_rate: float | None = None,
) -> Schedule:
    """``min_lr`` is a learning rate, ``min_lr_rate`` a share of ``base_lr``; one of them."""
    least = _least(base_lr, min_lr, min_lr_rate)
    wave = _wave(base_lr, least, _length(num_warmup_steps, num_training_steps), num_cycles)
    return _warmed(wave, base_lr, num_warmup_steps)


@source(_PREFIX + "cosine_warmup_with_min_lr")
def cosine_warmup_with_min_lr(
    base_lr: float,
    num_warmup_steps: int,
    num_training_steps: int,
    num_cycles: float = 0.5,
    min_lr: float | None = None,
    min_lr_rate: float | None = None,
    warmup_lr_rate: float | None = None,
) -> Schedule:
    """The warm-up begins at ``warmup_lr_rate * base_lr`` and ends a step early, so the fall is a step ahead."""
    least = _least(base_lr, min_lr, min_lr_rate)
    wave = _wave(base_lr, least, _length(num_warmup_steps, num_training_steps), num_cycles)
    fall = Moved(wave, by=1)
    if num_warmup_steps == 0:
        return fall
    start = 1 / num_warmup_steps if warmup_lr_rate is None else warmup_lr_rate
    if num_warmup_steps == 1:
        return Join((fixed(base_lr * start), fall), (0, 1))
    knots = (0, num_warmup_steps - 1)
    rise = Phases(knots=knots, values=(base_lr * start, base_lr), shapes=("linear",))
    return Join((rise, fall), (0, num_warmup_steps))


@source(_PREFIX + "cosine_with_restarts")
def cosine_with_restarts(
    base_lr: float, num_warmup_steps: int, num_training_steps: int, num_cycles: int = 1
) -> Schedule:
    length = _length(num_warmup_steps, num_training_steps)
    if num_training_steps <= num_warmup_steps:
        return _warmed(Piecewise(boundaries=(1,), values=(base_lr, 0.0)), base_lr, num_warmup_steps)
    falls = CosineRestarts(base_lr=0.0, max_lr=base_lr, period=length, falls=num_cycles, num_cycles=num_cycles)
    return _warmed(falls, base_lr, num_warmup_steps)


@source(_PREFIX + "polynomial")
def polynomial_with_warmup(
    base_lr: float, num_warmup_steps: int, num_training_steps: int, lr_end: float = 1e-7, power: float = 1.0
) -> Schedule:
    if num_training_steps < num_warmup_steps:  # it is over before its rise is
        return _warmed(fixed(lr_end), base_lr, num_warmup_steps)
    check_whole("num_training_steps", num_training_steps, at_least=num_warmup_steps + 1)
    fall = polynomial(lr_end, base_lr, num_training_steps - num_warmup_steps, power)
    return _warmed(fall, base_lr, num_warmup_steps)


@source(_PREFIX + "inverse_sqrt")
def inverse_sqrt_with_warmup(base_lr: float, num_warmup_steps: int, timescale: int | None = None,
                             num_training_steps: int | None = None) -> Schedule:  # fmt: skip
    """``num_training_steps`` has no effect."""
    timescale = (num_warmup_steps or 10_000) if timescale is None else timescale
    return _warmed(inverse_sqrt(base_lr, timescale), base_lr, num_warmup_steps)


@source(_PREFIX + "warmup_stable_decay")
def warmup_stable_decay(
    base_lr: float,
    num_warmup_steps: int,
    num_decay_steps: int,
    num_training_steps: int | None = None,
    num_stable_steps: int | None = None,
    warmup_type: Shape = "linear",
    decay_type: Shape = "cosine",
    min_lr_ratio: float = 0.0,
    num_cycles: float = 0.5,
) -> Schedule:
    """The stable part is ``num_stable_steps``, or what ``num_training_steps`` leaves; it begins and ends low."""
    if num_stable_steps is None:
        if num_training_steps is None:
            raise ValueError("warmup_stable_decay needs num_training_steps or num_stable_steps")
        num_stable_steps = num_training_steps - num_warmup_steps - num_decay_steps
    for name, shape in (("warmup_type", warmup_type), ("decay_type", decay_type)):
        if shape not in ("linear", "cosine", "1-sqrt"):
            raise ValueError(f"{name} must be 'linear', 'cosine' or '1-sqrt', got {shape!r}")
    lengths = {"warmup": num_warmup_steps, "stable": num_stable_steps, "decay": num_decay_steps}
    for name, length in lengths.items():
        check_whole(f"num_{name}_steps", length, at_least=0 if name != "stable" else -LAST)
    low = base_lr * min_lr_ratio
    begins = [0, num_warmup_steps, num_warmup_steps + num_stable_steps]
    begins.append(begins[-1] + num_decay_steps)
    rise: Shape = "1-sqrt-up" if warmup_type == "1-sqrt" else warmup_type
    parts = [
        _half(low, base_lr, num_warmup_steps, rise),
        fixed(base_lr),
        _wave(base_lr, low, max(1, num_decay_steps), num_cycles)
        if decay_type == "cosine"
        else _half(base_lr, low, num_decay_steps, decay_type),
        fixed(low),
    ]
    return in_sequence(parts, [max(0, begin) for begin in begins])


def _half(start: float, end: float, steps: int, shape: Shape) -> Schedule:
    return Phases(knots=(0, max(1, steps)), values=(start, end), shapes=(shape,))


def _least(base_lr: float, min_lr: float | None, min_lr_rate: float | None) -> float:
    if min_lr is not None and min_lr_rate is None:
        return min_lr
    if min_lr_rate is None or min_lr is not None:
        raise ValueError("give one of min_lr and min_lr_rate")
    return base_lr * min_lr_rate


def _wave(high: float, low: float, steps: int, num_cycles: float) -> Schedule:
    """So many whole waves in so many steps; never below 0."""
    check_lr("num_cycles", num_cycles)
    if num_cycles == 0:
        return fixed(high)
    wave = Cosine(base_lr=low, max_lr=high, iterations=steps / abs(2 * num_cycles), wave=True)
    return Within(wave, least=0.0) if low < 0 else wave


def _warmed(schedule: Schedule, base_lr: float, num_warmup_steps: int) -> Schedule:
    """A straight rise from 0 to ``base_lr``, then the schedule."""
    check_whole("num_warmup_steps", num_warmup_steps, at_least=0)
    return in_sequence([_half(0.0, base_lr, num_warmup_steps, "linear"), schedule], [0, num_warmup_steps])


def _length(num_warmup_steps: int, num_training_steps: int) -> int:
    """What the warm-up leaves, at least a step."""
    check_whole("num_warmup_steps", num_warmup_steps, at_least=0)
    check_whole("num_training_steps", num_training_steps, at_least=0)
    return max(1, num_training_steps - num_warmup_steps)


@source(_PREFIX + "reduce_lr_on_plateau")
def reduce_lr_on_plateau(**_: object) -> Schedule:
    """It follows a metric."""
    raise ValueError("reduce_lr_on_plateau follows a metric: what it does is not known before the training")


@source(_PREFIX + "greedy")
def greedy(**_: object) -> Schedule:
    """It follows a metric."""
    raise ValueError("greedy follows a metric: what it does is not known before the training")
