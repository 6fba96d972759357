"""``paddle.optimizer.lr``, stepped once per iteration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from clrtool.core.schedules import (
    Cosine,
    CosineRestarts,
    Cyclical,
    Exponential,
    Inverse,
    Moved,
    Phases,
    Piecewise,
    Polynomial,
    Scaled,
    Schedule,
    cosine_restarts,
    exponential,
    fixed,
    in_sequence,
    inverse_sqrt,
    inverse_time,
    multiplied,
    piecewise,
    step,
)
from clrtool.core.schedules.checks import check_lr, check_positive, check_rising, check_whole
from clrtool.core.schedules.expression import Scale, function_of
from clrtool.core.schedules.phases import Anneal
from clrtool.core.sources.from_torch import cyclic_lr
from clrtool.core.sources.parts import read_part
from clrtool.core.sources.registry import source

_PREFIX = "paddle.optimizer.lr."
# Restarts after this iteration are never reached.
_FAR = 2**40


@source(_PREFIX + "PiecewiseDecay")
def piecewise_decay(boundaries: Sequence[int], values: Sequence[float]) -> Piecewise:
    return piecewise(list(boundaries), list(values))


@source(_PREFIX + "NoamDecay")
def noam_decay(d_model: int, warmup_steps: int, learning_rate: float = 1.0) -> Schedule:
    """A rise from 0, then the inverse of a square root, as in arXiv 1706.03762."""
    check_positive("d_model", d_model)
    check_whole("warmup_steps", warmup_steps)
    top = learning_rate / math.sqrt(d_model * warmup_steps)
    rise = Phases(knots=(0, warmup_steps), values=(0.0, top), shapes=("linear",))
    return in_sequence([rise, inverse_sqrt(top, warmup_steps)], [0, warmup_steps])


@source(_PREFIX + "MultiplicativeDecay")
def multiplicative_decay(learning_rate: float, lr_lambda: str | Scale) -> Schedule:
    """A factor of the learning rate of the step before."""
    return multiplied(learning_rate, function_of("lr_lambda", lr_lambda))


@source(_PREFIX + "NaturalExpDecay")
def natural_exp_decay(learning_rate: float, gamma: float) -> Exponential:
    """``learning_rate * e^(-gamma * t)``."""
    check_positive("gamma", gamma)
    return exponential(learning_rate, math.exp(-gamma))


@source(_PREFIX + "InverseTimeDecay")
def inverse_time_decay(learning_rate: float, gamma: float) -> Inverse:
    return inverse_time(learning_rate, gamma, 1)


@source(_PREFIX + "PolynomialDecay")
def polynomial_decay(
    learning_rate: float, decay_steps: int, end_lr: float = 1e-4, power: float = 1.0, cycle: bool = False
) -> Polynomial:
    return Polynomial(base_lr=end_lr, max_lr=learning_rate, iterations=decay_steps, power=power, cycle=cycle)


@source(_PREFIX + "LinearWarmup")
def linear_warmup(learning_rate: Any, warmup_steps: int, start_lr: float, end_lr: float) -> Schedule:
    """A straight rise from ``start_lr`` to ``end_lr``, then ``learning_rate``: a number or a schedule of paddle."""
    check_whole("warmup_steps", warmup_steps)
    later = fixed(learning_rate) if isinstance(learning_rate, int | float) else read_part(learning_rate, "paddle")
    later = _by_logarithm(later) if isinstance(later, CosineRestarts) and later.t_mul > 1 else later
    rise = Phases(knots=(0, warmup_steps), values=(start_lr, end_lr), shapes=("linear",))
    return in_sequence([rise, later], [0, warmup_steps])


def _by_logarithm(falls: CosineRestarts) -> Schedule:
    """Falls of which paddle works out by a logarithm which one it is, as it does where it is told the iteration.

    Where the logarithm of a restart is rounded below a whole number, that iteration is the end of the fall before.
    """
    length, mult = int(falls.period), int(falls.t_mul)
    parts: list[Schedule] = []
    begins: list[int] = []
    for begin in map(int, falls.begins(_FAR)):
        late = begin > 0 and int(math.log(begin / int(falls.period) * (mult - 1) + 1, mult)) < len(parts)
        fall = Cosine(base_lr=falls.base_lr, max_lr=falls.max_lr, iterations=length)
        parts.append(Moved(fall, by=1) if late else fall)
        begins.append(begin + late)
        length *= mult
    return in_sequence(parts, begins)


@source(_PREFIX + "ExponentialDecay")
def exponential_decay(learning_rate: float, gamma: float) -> Exponential:
    return exponential(learning_rate, gamma)


@source(_PREFIX + "MultiStepDecay")
def multi_step_decay(learning_rate: float, milestones: Sequence[int], gamma: float = 0.1) -> Piecewise:
    check_lr("gamma", gamma)
    check_rising("milestones", tuple(milestones))
    return piecewise(list(milestones), [learning_rate * gamma**times for times in range(len(milestones) + 1)])


@source(_PREFIX + "StepDecay")
def step_decay(learning_rate: float, step_size: int, gamma: float = 0.1) -> Exponential:
    check_whole("step_size", step_size)
    return step(learning_rate, gamma, every=step_size)


@source(_PREFIX + "LambdaDecay")
def lambda_decay(learning_rate: float, lr_lambda: str | Scale) -> Schedule:
    return Scaled(learning_rate, function_of("lr_lambda", lr_lambda))


@source(_PREFIX + "CosineAnnealingDecay")
def cosine_annealing_decay(
    learning_rate: float,
    T_max: int,  # noqa: N803 (paddle's name)
    eta_min: float = 0.0,
) -> Cosine:
    """After ``T_max`` it goes up again."""
    check_whole("T_max", T_max)
    return Cosine(base_lr=eta_min, max_lr=learning_rate, iterations=T_max, wave=True)


@source(_PREFIX + "OneCycleLR")
def one_cycle_lr(
    max_learning_rate: float,
    total_steps: int,
    divide_factor: float = 25.0,
    end_learning_rate: float = 1e-4,
    phase_pct: float = 0.3,
    anneal_strategy: str = "cos",
    three_phase: bool = False,
) -> Phases:
    """It ends at ``end_learning_rate``, in ``total_steps - 1`` steps."""
    check_whole("total_steps", total_steps, at_least=2)
    check_positive("divide_factor", divide_factor)
    if anneal_strategy not in ("cos", "linear"):
        raise ValueError(f"anneal_strategy must be 'cos' or 'linear', got {anneal_strategy!r}")
    last, top = total_steps - 1, phase_pct * total_steps - 1
    if not 0 < top < last or (three_phase and phase_pct >= 0.5):
        raise ValueError(
            f"phase_pct = {phase_pct!r} of {total_steps} steps must leave the rise and the fall a step each, and be "
            "below 0.5 with three_phase"
        )
    start = max_learning_rate / divide_factor
    knots = (0.0, top, 2 * top, float(last)) if three_phase else (0.0, top, float(last))
    values = (start, max_learning_rate, *((start,) if three_phase else ()), end_learning_rate)
    shape: Anneal = "cosine" if anneal_strategy == "cos" else "linear"
    return Phases(knots=knots, values=values, shapes=(shape,) * (len(knots) - 1), iterations=total_steps)


@source(_PREFIX + "CyclicLR")
def paddle_cyclic_lr(
    base_learning_rate: float,
    max_learning_rate: float,
    step_size_up: int,
    step_size_down: int | None = None,
    mode: str = "triangular",
    exp_gamma: float = 1.0,
    scale_fn: str | Scale | None = None,
    scale_mode: str = "cycle",
) -> Cyclical:
    return cyclic_lr(base_learning_rate, max_learning_rate, step_size_up, step_size_down, mode, exp_gamma, scale_fn,
                     scale_mode, cycle_momentum=False)  # fmt: skip


@source(_PREFIX + "LinearLR")
def linear_lr(learning_rate: float, total_steps: int, start_factor: float = 1 / 3, end_factor: float = 1.0) -> Phases:
    check_whole("total_steps", total_steps)
    ends = (learning_rate * start_factor, learning_rate * end_factor)
    return Phases(knots=(0, total_steps), values=ends, shapes=("linear",))


@source(_PREFIX + "CosineAnnealingWarmRestarts")
def warm_restarts(
    learning_rate: float,
    T_0: int,  # noqa: N803
    T_mult: int = 1,  # noqa: N803
    eta_min: float = 0.0,
) -> CosineRestarts:
    check_whole("T_0", T_0)
    check_whole("T_mult", T_mult)
    return cosine_restarts(eta_min, learning_rate, T_0, T_mult)


@source(_PREFIX + "ReduceOnPlateau")
def reduce_on_plateau(**_: object) -> Schedule:
    """It follows a metric."""
    raise ValueError("ReduceOnPlateau follows a metric: what it does is not known before the training")
