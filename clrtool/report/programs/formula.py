"""A schedule as the source of a small Python function of the step, for any library with numpy's function names.

The formula is the schedule's own: its numpy code is run on a term, which writes down what is done to it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from clrtool.core.planning.plan import Plan
from clrtool.core.schedules import (
    Expression,
    Geometric,
    Join,
    Moved,
    Product,
    Raised,
    Repeat,
    Schedule,
    Stepwise,
    Unread,
    Within,
    WithMomentum,
    in_sequence,
)
from clrtool.core.schedules.expression import Scale, scaled
from clrtool.core.schedules.operations import between, ceil_divide, named, pieces, powers, remainder, repeated, restarts
from clrtool.errors import ConfigError

What = Literal["lr", "momentum"]
# For each operator: how closely it binds, how closely what stands on its left and on its right must bind to need no
# brackets, and the number on its right that changes nothing.
_OPERATORS: Mapping[np.ufunc, tuple[str, int, int, int, int | None]] = {
    np.less: ("<", 0, 1, 1, None), np.less_equal: ("<=", 0, 1, 1, None), np.greater: (">", 0, 1, 1, None),
    np.equal: ("==", 0, 1, 1, None), np.greater_equal: (">=", 0, 1, 1, None), np.add: ("+", 1, 1, 1, 0),
    np.subtract: ("-", 1, 1, 2, 0), np.floor_divide: ("//", 2, 2, 4, None), np.remainder: ("%", 2, 2, 4, None),
    np.multiply: ("*", 3, 2, 3, 1), np.divide: ("/", 3, 2, 4, 1), np.power: ("**", 4, 5, 4, 1),
}  # fmt: skip
_SIGN, _ATOM = 4, 5


def functions(plan: Plan, xp: str, what: What = "lr", name: str = "") -> str:
    """The source of ``lr(step)`` or ``momentum(step)``; past the end of the plan it holds the last value.

    Args:
        xp: the name of the array library in the program: ``np``, ``jnp``, ``ops``.
        name: of the function; its own if none is given.

    Raises:
        ConfigError: the schedule holds a Python function, which cannot be written down.
    """
    hold = f"step = xp.minimum(step, {plan.last})"
    return _define(plan.schedule, name or what, what, plan.last, hold).replace("xp.", f"{xp}.")


def _define(schedule: Schedule, name: str, what: What, until: int, *first: str) -> str:
    """A function with its ``first`` lines, after those that it calls."""
    schedule = _reached(schedule, until)
    match schedule:
        case Join():
            parts: Sequence[Schedule] = schedule.parts
            value = _choice(schedule, name)
        case Product() if what == "lr":
            parts = schedule.parts
            value = " * ".join(f"{name}_{number}(step)" for number in range(1, len(parts) + 1))
        case Product():
            moving = [part for part in schedule.parts if part.cycles_momentum]
            return _define(moving[-1], name, what, until, *first)
        case Moved():
            parts, until = [schedule.part], until // schedule.every * schedule.times + schedule.by
            value = f"{name}_1({_moved(schedule)})"
        case Repeat():
            parts, value = [schedule.part], f"{name}_1(step % {schedule.period})"
        case Raised():
            parts, value = [schedule.part], f"{name}_1(step) + {_source(schedule.by)}"
        case Within():
            parts, value = [schedule.part], _held(schedule, f"{name}_1(step)")
        case WithMomentum():
            return _define(schedule.rates if what == "lr" else schedule.momenta, name, "lr", until, *first)
        case _:
            return _written(schedule, name, what, until, *first)
    defined = [_define(part, f"{name}_{number}", what, until) for number, part in enumerate(parts, 1)]
    return "\n\n\n".join([*defined, _function(name, [*first, f"return {value}"])])


def _reached(schedule: Schedule, until: int) -> Schedule:
    """A schedule without the parts that begin later."""
    if not isinstance(schedule, Join) or schedule.begins[-1] <= until:
        return schedule
    parts = sum(begin <= until for begin in schedule.begins)
    return in_sequence(schedule.parts[:parts], schedule.begins[:parts])


def _written(schedule: Schedule, name: str, what: What, until: int, *first: str) -> str:
    if isinstance(schedule, Unread):
        raise ConfigError(f"no program can be written of it: {schedule.reason}")
    if isinstance(schedule, Stepwise):
        raise ConfigError(
            "each of its steps goes on from what the one before left, and no function of the step can be written down: "
            "say it with a LambdaLR or a SequentialLR"
        )
    lines = list(first)
    step: Any = Term("step", lines, until)
    value = schedule.lr_at(step) if what == "lr" else schedule.momentum_at(step)
    return _function(name, [*lines, f"return {_source(value)}"])


def _choice(schedule: Join, name: str) -> str:
    choice = f"{name}_{len(schedule.parts)}(xp.maximum(step - {schedule.begins[-1]}, 0))"
    for number in range(len(schedule.parts) - 1, 0, -1):
        begin, end = schedule.begins[number - 1 : number + 1]
        local = f"xp.maximum(step - {begin}, 0)" if begin else "step"
        choice = f"xp.where(step < {end}, {name}_{number}({local}), {choice})"
    return choice


def _moved(schedule: Moved) -> str:
    step = "step" if schedule.every == 1 else f"(step // {schedule.every})"
    times = f"{schedule.times} * {step}" if schedule.times != 1 else step
    return f"{times} + {schedule.by}" if schedule.by else times


def _held(schedule: Within, value: str) -> str:
    value = value if schedule.least is None else f"xp.maximum({value}, {_source(schedule.least)})"
    return value if schedule.most is None else f"xp.minimum({value}, {_source(schedule.most)})"


def _function(name: str, lines: Iterable[str]) -> str:
    return "\n".join((f"def {name}(step):", *(f"    {line}" for line in lines)))


@dataclass(frozen=True, eq=False)
class Term(NDArrayOperatorsMixin):
    """A value in a program: its source, with ``xp`` for the array library. What numpy makes of a term is a term.

    Args:
        lines: those of the program before it, to which a name adds one.
        until: the greatest step that is asked for.
        binds: how closely the loosest operator of the source binds that stands in no brackets.
    """

    source: str
    lines: list[str]
    until: int
    binds: int = _ATOM
    shape: ClassVar[tuple[()]] = ()

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **_: Any) -> Any:
        if ufunc in _OPERATORS:
            return self._operation(ufunc, *inputs)
        if ufunc is np.negative:
            return replace(self, source=f"-{_source(self, _SIGN)}", binds=_SIGN)
        if ufunc is np.minimum and self.source == "step" and self.until <= _number(inputs[1]):
            return self
        return self._call(ufunc.__name__, inputs)

    def __array_function__(self, function: Callable[..., Any], types: Any, args: Any, kwargs: Any) -> Term:
        return self._call(function.__name__, args)

    def _call(self, name: str, args: Iterable[Any]) -> Term:
        return replace(self, source=f"xp.{name}({', '.join(map(_source, args))})", binds=_ATOM)

    def _operation(self, ufunc: np.ufunc, left: Any, right: Any) -> Any:
        symbol, binds, on_left, on_right, nothing = _OPERATORS[ufunc]
        if _number(right) == nothing or (symbol == "**" and _number(left) == 1):
            return left
        if symbol in ("+", "*") and _number(left) == nothing:
            return right
        if symbol == "**" and _number(left) > 0 and "step" in right.source:
            # Of a number to the power of many steps float32 keeps few digits.
            return np.exp(math.log(left) * right)
        first, second = _source(left, on_left), _source(right, on_right)
        if symbol in ("+", "-") and second.startswith("-") and getattr(right, "binds", _ATOM) > 2:
            symbol, second = "-" if symbol == "+" else "+", second[1:]
        outside = getattr(left, "binds", _ATOM)
        binds = min(binds, outside) if outside >= on_left else binds
        return replace(self, source=f"{first} {symbol} {second}", binds=binds)


@named.register
def _(value: Term, name: str) -> Term:
    value.lines.append(f"{name} = {value.source}")
    return replace(value, source=name, binds=_ATOM)


@between.register
def _(share: Term, start: float, end: float) -> Any:
    return start + (end - start) * share


@ceil_divide.register
def _(t: Term, n: float) -> Any:
    return -(-t // n)  # XLA computes t / n as t * (1 / n), which may lie above a whole number


@powers.register
def _(exponent: Term, base: float) -> Any:
    return base**exponent


@remainder.register
def _(t: Term, n: int) -> Any:
    return t % n


@repeated.register
def _(t: Term, period: int, part: Callable[[Any], Any]) -> Any:
    return part(t % period)


@pieces.register
def _(t: Term, begins: Sequence[float], piece: Callable[[int, Any], Any]) -> Any:
    value = piece(0, t)
    for k, begin in enumerate(begins, 1):
        value = piece(k, t) if begin <= 0 else np.where(t >= begin, piece(k, t), value)
        value = named(value, "value") if k < len(begins) else value
    return value if isinstance(value, Term) else value + 0.0 * t


@restarts.register
def _(t: Term, begins: Callable[[int], list[float]]) -> Any:
    t.lines.append(f"begins = xp.array([{', '.join(map(_source, begins(t.until)))}])")
    t.lines.append("cycle = xp.sum(step >= begins) - 1  # from 0")
    return replace(t, source="cycle"), t - replace(t, source="xp.take(begins, cycle)")


@scaled.register
def _(x: Term, scale: Scale) -> Any:
    if not isinstance(scale, Geometric | Expression):
        raise ConfigError("the scale is a Python function, which cannot be written down: give it as an expression in x")
    step: Any = x
    return scale(step).item()


def _number(value: Any) -> float:
    """A number as it is; NaN, which equals and exceeds none, of a term."""
    return math.nan if isinstance(value, Term) else value


def _source(value: Any, binds: int = 0) -> str:
    """A term, in brackets if it binds less; a number as it is written: 0.1, where arithmetic left 0.09999999999999."""
    if isinstance(value, np.ndarray):
        value = value.item()
    if isinstance(value, Term):
        return f"({value.source})" if value.binds < binds else value.source
    number = repr(value if isinstance(value, int) else float(f"{value:.15g}"))
    return f"({number})" if number.startswith("-") and binds == _ATOM else number
