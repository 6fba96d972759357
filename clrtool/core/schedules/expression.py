"""A function of x written as a Python expression: read as a tree of known operations, never evaluated as code."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import singledispatch
from typing import Any, ClassVar

import numpy as np

from clrtool.core.schedules.base import FloatArray
from clrtool.core.schedules.whole import floor_divide, modulo, power

Scale = Callable[[Any], Any]

MAX_CHARACTERS, MAX_DEPTH = 300, 30
_OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: np.divide,
    ast.FloorDiv: floor_divide,
    ast.Mod: modulo,
    ast.Pow: power,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}
_COMPARISONS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Lt: np.less, ast.LtE: np.less_equal, ast.Gt: np.greater, ast.GtE: np.greater_equal, ast.Eq: np.equal,
}  # fmt: skip
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "abs": np.abs, "ceil": np.ceil, "cos": np.cos, "exp": np.exp, "floor": np.floor, "log": np.log,
    "log10": np.log10, "log2": np.log2, "max": np.maximum, "min": np.minimum, "pow": power, "sin": np.sin,
    "sqrt": np.sqrt, "tan": np.tan, "tanh": np.tanh,
}  # fmt: skip
_ARGUMENTS = {"max": 2, "min": 2, "pow": 2}
_CONSTANTS = {"pi": math.pi, "e": math.e}


class OfArrays:
    """A scale that is known to take whole arrays, of this kind of numbers, where a Python function has to be tried."""

    takes: ClassVar[type] = np.float64


@dataclass(frozen=True)
class Expression(OfArrays):
    """An element-by-element function of one variable: ``x``, or the one that ``lambda`` names.

    Numbers, ``+ - * / // % **``, ``a if x < b else c``, ``pi``, ``e`` and the common functions, with or without
    ``math.``, ``np.`` or ``numpy.`` in front. Every number is a float, so no power can take forever.

    Raises:
        ValueError: the text is not such an expression; the message names what is not allowed.

    >>> Expression("lambda n: 1 / 2. ** (n - 1)")(np.array([1.0, 2.0, 3.0]))
    array([1.  , 0.5 , 0.25])
    >>> Expression("__import__('os')")
    Traceback (most recent call last):
        ...
    ValueError: scale "__import__('os')": __import__('os') is not allowed; functions: abs, ceil, cos, exp, floor, ...
    """

    text: str
    _function: Callable[[FloatArray], Any] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_function", _read(self.text))

    def __call__(self, x: FloatArray) -> FloatArray:
        with np.errstate(all="ignore"):  # what is not a number is refused by the caller, which knows the rule
            return np.broadcast_to(np.asarray(self._function(x)), x.shape)

    def __reduce__(self) -> tuple[type[Expression], tuple[str]]:
        return Expression, (self.text,)


def function_of(name: str, value: object) -> Scale:
    """A Python function as it is, or the one that a text says; a number, which YAML makes of a text, is a constant.

    Raises:
        ValueError: it is none of them, or the text is no expression.

    >>> function_of("lr_lambda", 0.5)(np.array([1.0, 2.0]))
    array([0.5, 0.5])
    """
    if isinstance(value, str):
        return Expression(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return Expression(repr(float(value)))
    if not callable(value):
        raise ValueError(
            f"{name} must be a function of one number, or the text of one, such as 'lambda x: 0.9 ** x'; got {value!r}"
        )
    return value


def _read(text: str) -> Callable[[FloatArray], Any]:
    tree, variable = _parse(text)
    try:
        return _translate(tree, variable, 0)
    except _NotAllowed as error:
        raise ValueError(f"scale {text!r}: {error} is not allowed; functions: {', '.join(_FUNCTIONS)}") from error


def _parse(text: str) -> tuple[ast.expr, str]:
    """The tree of the expression and the name of its variable."""
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"scale must be at most {MAX_CHARACTERS} characters, got {len(text)}")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise ValueError(f"scale {text!r} is not an expression in x") from error
    variable = "x"
    if isinstance(tree, ast.Lambda):
        if len(tree.args.args) != 1 or ast.unparse(tree.args) != tree.args.args[0].arg:
            raise ValueError(f"scale {text!r} must be a function of one variable")
        variable, tree = tree.args.args[0].arg, tree.body
    return tree, variable


class _NotAllowed(Exception):  # noqa: N818 (it never leaves this file)
    """Something in the text that is none of the known operations."""


def _translate(node: ast.AST, variable: str, depth: int) -> Callable[[FloatArray], Any]:
    """A tree as a function of x, its operations looked up in the tables above."""
    if depth > MAX_DEPTH:
        raise _NotAllowed("nesting this deep")
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            value = float(number) if abs(number) < 1e300 else math.inf
            return lambda x: np.float64(value)  # noqa: ARG005
        case ast.Name(id=name) if name == variable:
            return lambda x: x
        case ast.UnaryOp(op=op, operand=operand):
            function, operands = _OPERATORS.get(type(op)), [operand]
        case ast.BinOp(left=left, op=op, right=right):
            function, operands = _OPERATORS.get(type(op)), [left, right]
        case ast.IfExp(test=ast.Compare(ops=[compared], comparators=[other]) as test, body=body, orelse=orelse):
            operands = [test.left, other, body, orelse]
            function = _choice(_COMPARISONS.get(type(compared)))
        case ast.Call(func=called, args=operands, keywords=[]) if len(operands) == _ARGUMENTS.get(_name(called), 1):
            function = _FUNCTIONS.get(_name(called))
        case _:
            constant = _CONSTANTS.get(_name(node))
            function, operands = (None if constant is None else lambda: constant), []
    if function is None:
        raise _NotAllowed(ast.unparse(node))
    inner = [_translate(operand, variable, depth + 1) for operand in operands]
    return lambda x: function(*(each(x) for each in inner))


def _choice(compare: Callable[..., Any] | None) -> Callable[..., Any] | None:
    if compare is None:
        return None
    return lambda left, right, then, otherwise: np.where(compare(left, right), then, otherwise)


@singledispatch
def scaled(x: Any, scale: Scale) -> FloatArray:
    """``scale`` of x; where x takes few values, as in long cycles, each is computed once and looked up.

    Raises:
        ValueError: a value is not finite.
    """
    first, last = int(x.min()), int(x.max())
    few = last - first < len(x) - 1
    values = _of_numbers(scale, np.arange(first, last + 1) if few else x)
    if not np.all(np.isfinite(values)):
        raise ValueError(f"scale must be finite, got {values[~np.isfinite(values)][0]}")
    return np.asarray(values[x - first]) if few else values


def _of_numbers(scale: Scale, x: Any) -> FloatArray:
    """A function of a number at each x. Most can be asked for a whole array, and are where that gives the same."""
    if isinstance(scale, OfArrays):
        return np.asarray(scale(x.astype(scale.takes, copy=False)))
    few = {0, len(x) // 3, len(x) - 1}
    try:
        asked = np.broadcast_to(np.asarray(scale(x.astype(np.float64)), dtype=np.float64), x.shape)
        if all(_close(asked[k], scale(int(x[k]))) for k in few):
            return asked
    except (ArithmeticError, IndexError, TypeError, ValueError):  # math.sin of an array, max(0, array), ...
        pass
    return np.fromiter(map(scale, x.tolist()), dtype=np.float64, count=len(x))


def _close(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=1e-12) or (math.isnan(one) and math.isnan(other))


def _name(node: ast.AST) -> str:
    """The name of a function or constant, with or without its module; "" for anything else."""
    match node:
        case ast.Name(id=name) | ast.Attribute(value=ast.Name(id="math" | "np" | "numpy"), attr=name):
            return name
    return ""
