"""A schedule as the source of a small Python function of the step, for any library with numpy's function names."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import singledispatch
from typing import Literal

from clrtool.core.planning.plan import Plan
from clrtool.core.schedules import (
    Cosine,
    CosineRestarts,
    Cyclical,
    Exponential,
    Expression,
    Geometric,
    Inverse,
    Join,
    Phases,
    Piecewise,
    Polynomial,
    Schedule,
    Sigmoid,
)
from clrtool.core.schedules.phases import Shape
from clrtool.errors import ConfigError

What = Literal["lr", "momentum"]
# In the templates below the array library is ``xp``: np, jnp or ops.
Lines = list[str]


def functions(plan: Plan, xp: str, what: What = "lr") -> str:
    """The source of ``lr(step)`` or ``momentum(step)``; past the end of the plan it holds the last value.

    Args:
        xp: the name of the array library in the program: ``np``, ``jnp``, ``ops``.

    Raises:
        ConfigError: the schedule holds a Python function, which cannot be written down.
    """
    hold = f"step = xp.minimum(step, {plan.last})"
    return _define(plan.schedule, what, what, plan.last, hold).replace("xp.", f"{xp}.")


def _define(schedule: Schedule, name: str, what: What, until: int, *first: str) -> str:
    """A function with its ``first`` lines, after those that it calls."""
    if not isinstance(schedule, Join):
        return _function(name, [*first, *_body(schedule, what, until)])
    parts = [_define(part, f"{name}_{number}", what, until) for number, part in enumerate(schedule.parts, 1)]
    choice = f"{name}_{len(schedule.parts)}(xp.maximum(step - {schedule.begins[-1]}, 0))"
    for number in range(len(schedule.parts) - 1, 0, -1):
        begin, end = schedule.begins[number - 1 : number + 1]
        local = f"xp.maximum(step - {begin}, 0)" if begin else "step"
        choice = f"xp.where(step < {end}, {name}_{number}({local}), {choice})"
    return "\n\n\n".join([*parts, _function(name, [*first, f"return {choice}"])])


def _function(name: str, lines: Iterable[str]) -> str:
    return "\n".join((f"def {name}(step):", *(f"    {line}" for line in lines)))


@singledispatch
def _body(schedule: Schedule, what: What, until: int) -> Lines:
    """The lines of a function of ``step``, which is never asked for more than ``until``."""
    raise ConfigError(f"{type(schedule).__name__} has no formula")


@_body.register
def _(schedule: Cyclical, what: What, until: int) -> Lines:
    up, period = schedule.stepsize, schedule.period
    base, top = _bounds(schedule, what)
    scale = _scale(schedule)
    lines = [f"cycle = step // {period}  # from 0"] if "cycle" in scale else []
    lines += [
        f"phase = step % {period}",
        f"height = xp.minimum(phase / {up}, ({period} - phase) / {period - up})",
    ]
    if schedule.decay_base and what == "lr":
        return [*lines, f"return {scale} * ({_line(base, top - base, 'height')})"]
    return [*lines, f"return {_line(base, top - base, f'height * {scale}' if scale else 'height')}"]


@_body.register
def _(schedule: Phases, what: What, until: int) -> Lines:
    values = schedule.values if what == "lr" else schedule.momenta or ()
    lines = [f"value = {_n(values[0])} + 0.0 * step"]
    for k, shape in enumerate(schedule.shapes):
        begin, end = schedule.knots[k : k + 2]
        phase = _line(values[k], values[k + 1] - values[k], _share(begin, end, shape))
        if k == 0 and begin <= 0:
            lines = [f"value = {phase}"]
        else:
            lines.append(f"value = xp.where(step >= {_n(begin)}, {phase}, value)")
    return [*lines, f"return xp.where(step >= {_n(schedule.knots[-1])}, {_n(values[-1])}, value)"]


@_body.register
def _(schedule: Piecewise, what: What, until: int) -> Lines:
    lines = [f"value = {_n(schedule.values[0])} + 0.0 * step"]
    for boundary, value in zip(schedule.boundaries, schedule.values[1:], strict=True):
        lines.append(f"value = xp.where(step >= {boundary}, {_n(value)}, value)")
    return [*lines, "return value"]


@_body.register
def _(schedule: Exponential, what: What, until: int) -> Lines:
    # A power of gamma itself would lose its digits in float32.
    exponent = _line(0, math.log(schedule.gamma), _decays(schedule.every, staircase=schedule.staircase))
    lr = f"{_n(schedule.max_lr)} * xp.exp({exponent})"
    return [f"return xp.maximum({lr}, {_n(schedule.base_lr)})" if schedule.base_lr else f"return {lr}"]


@_body.register
def _(schedule: Polynomial, what: What, until: int) -> Lines:
    n = _n(schedule.iterations)
    lines = [f"length = {n} * xp.maximum(-(-step // {n}), 1)"] if schedule.cycle else []
    left = "(1 - step / length)" if schedule.cycle else f"(1 - {_at_most(schedule.iterations, until)} / {n})"
    power = f"{left} ** {_n(schedule.power)}" if schedule.power != 1 else left
    return [*lines, f"return {_line(schedule.base_lr, schedule.max_lr - schedule.base_lr, power)}"]


@_body.register
def _(schedule: Inverse, what: What, until: int) -> Lines:
    decays = _line(1, schedule.rate, _decays(schedule.every, staircase=schedule.staircase))
    return [f"return {_n(schedule.max_lr)} * ({decays}) ** -{_n(schedule.power)}"]


@_body.register
def _(schedule: Sigmoid, what: What, until: int) -> Lines:
    exponent = f"{_n(-schedule.gamma)} * (step - {_n(schedule.center)})"
    return [f"return {_n(schedule.max_lr)} / (1 + xp.exp({exponent}))"]


@_body.register
def _(schedule: Cosine, what: What, until: int) -> Lines:
    n = schedule.iterations
    done = f"(step % {_n(2 * n)})" if schedule.wave else _at_most(n, until)
    share = f"(1 + xp.cos({_n(math.pi / n)} * {done})) / 2"
    power = f"({share}) ** {_n(schedule.exponent)}" if schedule.exponent != 1 else share
    return [f"return {_line(schedule.base_lr, schedule.max_lr - schedule.base_lr, power)}"]


@_body.register
def _(schedule: CosineRestarts, what: What, until: int) -> Lines:
    period = _n(schedule.period)
    t = f"{schedule.falls} * step" if schedule.falls > 1 else "step"
    lines = [f"cycle = {t} // {period}", f"done = {t} % {period} / {period}"]
    if schedule.t_mul != 1:
        begins = ", ".join(map(_n, map(float, schedule.begins(until))))
        lines = [
            f"begins = xp.array([{begins}])",
            "cycle = xp.sum(step >= begins) - 1  # from 0",
            f"done = (step - xp.take(begins, cycle)) / ({period} * {_n(float(schedule.t_mul))} ** cycle)",
        ]
    share = f"(1 + xp.cos({math.pi!r} * done)) / 2"
    height = f"{_n(schedule.m_mul)} ** cycle * {share}" if schedule.m_mul != 1 else share
    base, top = _bounds(schedule, what)
    value = _line(base, top - base, height)
    if schedule.num_cycles is not None:
        value = f"xp.where(cycle < {schedule.num_cycles}, {value}, {_n(base)})"
    return [*lines, f"return {value}"]


def _bounds(schedule: Cyclical | CosineRestarts, what: What) -> tuple[float, float]:
    """The values at height 0 and at height 1: the momentum moves against the learning rate."""
    if what == "lr":
        return schedule.base_lr, schedule.max_lr
    low, high = schedule.momentum_bounds or (0.0, 0.0)
    return high, low


def _share(begin: float, end: float, shape: Shape) -> str:
    """The share of a phase that is done."""
    since = f"(step - {_n(begin)})" if begin > 0 else f"(step + {_n(-begin)})" if begin < 0 else "step"
    if shape == "cosine":
        return f"(1 - xp.cos({_n(math.pi / (end - begin))} * {since})) / 2"
    done = f"{since} / {_n(end - begin)}"
    return f"xp.sqrt(xp.maximum({done}, 0))" if shape == "1-sqrt" else done


def _at_most(length: float, until: int) -> str:
    """The step, held at ``length`` where it goes beyond."""
    return "step" if until <= length else f"xp.minimum(step, {_n(length)})"


def _decays(every: float, *, staircase: bool) -> str:
    if staircase:
        return f"(step // {_n(every)})"
    return f"step / {_n(every)}" if every != 1 else "step"


def _scale(schedule: Cyclical) -> str:
    """The scale in terms of ``cycle`` (from 0) or ``step``; nothing for 1."""
    scale, x = schedule.scale, "cycle" if schedule.per == "cycle" else "step"
    if scale is None or (isinstance(scale, Geometric) and scale.ratio == 1):
        return ""
    if isinstance(scale, Geometric):
        shift = scale.first - (schedule.per == "cycle")
        power = f"({x} - {shift})" if shift else x
        return f"{_n(scale.ratio)}**{power}" if x == "cycle" else f"xp.exp({_line(0, math.log(scale.ratio), power)})"
    if isinstance(scale, Expression):
        return f"({scale.source('(cycle + 1)' if x == 'cycle' else x, 'xp')})"
    raise ConfigError("the scale is a Python function, which cannot be written down: give it as an expression in x")


def _line(start: float, slope: float, x: str) -> str:
    """``start + slope * x``, without a sign after a sign or a sum with 0."""
    rise = f"{_n(abs(slope))} * {x}"
    if not slope:
        return f"{_n(start)} + 0.0 * step"
    if not start:
        return f"-{rise}" if slope < 0 else rise
    return f"{_n(start)} {'-' if slope < 0 else '+'} {rise}"


def _n(number: float) -> str:
    """A number as it is written: 0.1, where arithmetic left 0.09999999999999998."""
    return repr(number if isinstance(number, int) else float(f"{number:.15g}"))
