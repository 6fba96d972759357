"""``transformers.get_scheduler``. ``base_lr`` is the optimizer's learning rate, which the schedule multiplies."""

from __future__ import annotations

from itertools import accumulate

from clrtool.core.schedules import (
    Cosine,
    CosineRestarts,
    Join,
    Phases,
    Piecewise,
    Schedule,
    fixed,
    inverse_sqrt,
    linear,
    polynomial,
    with_warmup,
)
from clrtool.core.schedules.checks import check_positive, check_whole
from clrtool.core.schedules.phases import Shape
from clrtool.core.sources.registry import source

_PREFIX = "transformers.get_scheduler:"


@source(_PREFIX + "constant")
def constant(base_lr: float) -> Piecewise:
    return fixed(base_lr)


@source(_PREFIX + "constant_with_warmup")
def constant_with_warmup(base_lr: float, num_warmup_steps: int) -> Schedule:
    return with_warmup(fixed(base_lr), num_warmup_steps)


@source(_PREFIX + "linear")
def linear_with_warmup(base_lr: float, num_warmup_steps: int, num_training_steps: int) -> Schedule:
    fall = linear(0.0, base_lr, int(_fall(num_warmup_steps, num_training_steps)))
    return with_warmup(fall, num_warmup_steps)


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
    if (min_lr is None) == (min_lr_rate is None):
        raise ValueError("cosine_with_min_lr needs one of min_lr and min_lr_rate")
    least = base_lr * min_lr_rate if min_lr_rate is not None else min_lr
    assert least is not None
    half = _fall(num_warmup_steps, num_training_steps, 2 * num_cycles)
    return with_warmup(Cosine(base_lr=least, max_lr=base_lr, iterations=half, wave=True), num_warmup_steps)


@source(_PREFIX + "cosine_with_restarts")
def cosine_with_restarts(
    base_lr: float, num_warmup_steps: int, num_training_steps: int, num_cycles: int = 1
) -> Schedule:
    length = int(_fall(num_warmup_steps, num_training_steps))
    falls = CosineRestarts(base_lr=0.0, max_lr=base_lr, period=length, falls=num_cycles, num_cycles=num_cycles)
    return with_warmup(falls, num_warmup_steps)


@source(_PREFIX + "polynomial")
def polynomial_with_warmup(
    base_lr: float, num_warmup_steps: int, num_training_steps: int, lr_end: float = 1e-7, power: float = 1.0
) -> Schedule:
    length = _fall(num_warmup_steps, num_training_steps)
    return with_warmup(polynomial(lr_end, base_lr, length, power), num_warmup_steps)


@source(_PREFIX + "inverse_sqrt")
def inverse_sqrt_with_warmup(base_lr: float, num_warmup_steps: int, timescale: int | None = None,
                             num_training_steps: int | None = None) -> Schedule:  # fmt: skip
    """``num_training_steps`` has no effect."""
    return with_warmup(inverse_sqrt(base_lr, timescale or num_warmup_steps or 10_000), num_warmup_steps)


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
) -> Schedule:
    """The stable part is ``num_stable_steps``, or what ``num_training_steps`` leaves; it begins and ends low."""
    if (num_training_steps is None) == (num_stable_steps is None):
        raise ValueError("warmup_stable_decay needs one of num_training_steps and num_stable_steps")
    if warmup_type == "1-sqrt":
        raise ValueError("warmup_type must be 'linear' or 'cosine', got '1-sqrt'")
    if num_stable_steps is None:
        num_stable_steps = (num_training_steps or 0) - num_warmup_steps - num_decay_steps
    lengths = {"warmup": num_warmup_steps, "stable": num_stable_steps, "decay": num_decay_steps}
    for name, length in lengths.items():
        check_whole(f"num_{name}_steps", length, at_least=0)
    low = base_lr * min_lr_ratio
    rise = (
        Phases(knots=(0, num_warmup_steps), values=(low, base_lr), shapes=(warmup_type,)) if num_warmup_steps else None
    )
    fall = Phases(knots=(0, num_decay_steps), values=(base_lr, low), shapes=(decay_type,)) if num_decay_steps else None
    parts = [(rise, num_warmup_steps), (fixed(base_lr), num_stable_steps), (fall or fixed(low), 1)]
    taken = [(part, length) for part, length in parts if part is not None and length]
    begins = accumulate((length for _, length in taken[:-1]), initial=0)
    return Join(tuple(part for part, _ in taken), tuple(begins))


def _fall(num_warmup_steps: int, num_training_steps: int, falls: float = 1) -> float:
    """What the warm-up leaves, for so many falls."""
    check_whole("num_warmup_steps", num_warmup_steps, at_least=0)
    check_whole("num_training_steps", num_training_steps, at_least=num_warmup_steps + 1)
    check_positive("num_cycles", falls)
    return (num_training_steps - num_warmup_steps) / falls
