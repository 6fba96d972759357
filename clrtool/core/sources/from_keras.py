"""``keras.optimizers.schedules`` and the cyclical schedules of TensorFlow Addons."""

from __future__ import annotations

import math
from collections.abc import Sequence

from clrtool.core.schedules import (
    CosineRestarts,
    Cyclical,
    Exponential,
    Inverse,
    Piecewise,
    Polynomial,
    Schedule,
    cosine,
    cosine_restarts,
    exponential,
    inverse_time,
    with_warmup,
)
from clrtool.core.schedules.checks import check_lr, check_rising
from clrtool.core.schedules.expression import Scale
from clrtool.core.sources.from_torch import cyclic_lr
from clrtool.core.sources.registry import source

_PREFIX = "keras.optimizers.schedules."


@source(_PREFIX + "CosineDecay")
def cosine_decay(
    initial_learning_rate: float,
    decay_steps: int,
    alpha: float = 0.0,
    warmup_target: float | None = None,
    warmup_steps: int = 0,
) -> Schedule:
    """``alpha`` is a share of the peak; the fall takes ``decay_steps`` after the warm-up."""
    peak = initial_learning_rate if warmup_target is None else warmup_target
    fall = cosine(alpha * peak, peak, decay_steps)
    return fall if warmup_target is None else with_warmup(fall, warmup_steps, initial_learning_rate)


@source(_PREFIX + "CosineDecayRestarts")
def cosine_decay_restarts(
    initial_learning_rate: float,
    first_decay_steps: int,
    t_mul: float = 2.0,
    m_mul: float = 1.0,
    alpha: float = 0.0,
) -> CosineRestarts:
    """``alpha`` is a share of the first peak, and ``m_mul`` does not lower it."""
    return cosine_restarts(alpha * initial_learning_rate, initial_learning_rate, first_decay_steps, t_mul, m_mul)


@source(_PREFIX + "ExponentialDecay")
def exponential_decay(
    initial_learning_rate: float, decay_steps: int, decay_rate: float, staircase: bool = False
) -> Exponential:
    return exponential(initial_learning_rate, decay_rate, decay_steps, staircase)


@source(_PREFIX + "PolynomialDecay")
def polynomial_decay(
    initial_learning_rate: float,
    decay_steps: int,
    end_learning_rate: float = 1e-4,
    power: float = 1.0,
    cycle: bool = False,
) -> Polynomial:
    return Polynomial(
        base_lr=end_learning_rate, max_lr=initial_learning_rate, iterations=decay_steps, power=power, cycle=cycle
    )


@source(_PREFIX + "InverseTimeDecay")
def inverse_time_decay(
    initial_learning_rate: float, decay_steps: int, decay_rate: float, staircase: bool = False
) -> Inverse:
    return inverse_time(initial_learning_rate, decay_rate, decay_steps, staircase)


@source(_PREFIX + "PiecewiseConstantDecay")
def piecewise_constant_decay(boundaries: Sequence[int], values: Sequence[float]) -> Piecewise:
    """Keras drops after a boundary, not at it."""
    for boundary in boundaries:
        check_lr("a boundary", boundary)
    check_rising("boundaries", tuple(boundaries))
    if len(values) != len(boundaries) + 1:
        raise ValueError(f"values must be one more than boundaries, got {len(values)}, {len(boundaries)}")
    # of two boundaries between the same iterations the later one counts, and so before the first of all
    begins = dict(zip((max(0, math.floor(boundary) + 1) for boundary in boundaries), values[1:], strict=True))
    return Piecewise(boundaries=tuple(begins), values=(values[0], *begins.values()))


@source("tfa.optimizers.CyclicalLearningRate")
def cyclical_learning_rate(
    initial_learning_rate: float,
    maximal_learning_rate: float,
    step_size: int,
    scale_fn: str | Scale,
    scale_mode: str = "cycle",
) -> Cyclical:
    low, high = initial_learning_rate, maximal_learning_rate
    return cyclic_lr(low, high, step_size, scale_fn=scale_fn, scale_mode=scale_mode, cycle_momentum=False)


@source("tfa.optimizers.TriangularCyclicalLearningRate")
def triangular_cyclical(
    initial_learning_rate: float, maximal_learning_rate: float, step_size: int, scale_mode: str = "cycle"
) -> Cyclical:
    return cyclical_learning_rate(initial_learning_rate, maximal_learning_rate, step_size, "1", scale_mode)


@source("tfa.optimizers.Triangular2CyclicalLearningRate")
def triangular2_cyclical(
    initial_learning_rate: float, maximal_learning_rate: float, step_size: int, scale_mode: str = "cycle"
) -> Cyclical:
    return cyclical_learning_rate(initial_learning_rate, maximal_learning_rate, step_size, "0.5 ** (x - 1)", scale_mode)


@source("tfa.optimizers.ExponentialCyclicalLearningRate")
def exponential_cyclical(
    initial_learning_rate: float,
    maximal_learning_rate: float,
    step_size: int,
    scale_mode: str = "iterations",
    gamma: float = 1.0,
) -> Cyclical:
    """x is the iteration by default; the example in its own docstring passes the cycle, another curve."""
    scale = f"{gamma!r} ** x"
    return cyclical_learning_rate(initial_learning_rate, maximal_learning_rate, step_size, scale, scale_mode)
