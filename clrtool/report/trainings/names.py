"""What names stand for in a Python file that is read and never run: numbers, texts, lists and calls."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterator
from typing import Any

from clrtool.report.trainings.found import Known, Open

_DEPTH, _LARGEST = 20, 10**15
# Where the arguments of a module or of a command line are kept.
_OWN = ("self", "hparams", "self.hparams", "args", "self.args")
_FUNCTIONS: dict[str, Callable[..., Any]] = {"int": int, "float": float, "round": round, "min": min, "max": max}
_OPERATORS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Pow: operator.pow,
}  # fmt: skip
Function = ast.FunctionDef | ast.AsyncFunctionDef


class Names:
    """The assignments of a file. ``self.lr``, ``self.hparams['lr']`` and ``args.lr`` are ``lr``, and ``cfg.lr`` is not.

    A name that is set more than once has no one value, and one that is an argument has its default, if it has one.
    """

    def __init__(self, tree: ast.Module, known: Known) -> None:
        self._known = known
        self._values: dict[str, list[ast.expr]] = {}
        for node in ast.walk(tree):
            for name, value in _assigned(node):
                self._values.setdefault(name, []).append(value)

    def expressions(self, node: ast.expr) -> list[ast.expr]:
        """What a name may stand for; any other expression stands for itself."""
        found, seen = [node], 0
        while seen < _DEPTH and (name := _key(found[0])) in self._values and len(found) == 1:
            found, seen = self._values[name], seen + 1
        return found

    def value(self, node: ast.expr, depth: int = 0) -> Any:
        """The value of an expression; ``Open`` where the file does not say it."""
        told = self._told(node)
        if depth > _DEPTH or told is not None:
            return _open(node) if told is None else told
        match node:
            case ast.Constant(value=bool() | int() | float() | str() | None as value):
                return value
            case ast.List(elts=items) | ast.Tuple(elts=items):
                return [self.value(item, depth + 1) for item in items]
            case ast.Dict(keys=keys, values=values):
                words = [getattr(key, "value", None) for key in keys]
                return {word: self.value(item, depth + 1) for word, item in zip(words, values, strict=True)}
            case ast.Name() | ast.Attribute() | ast.Subscript():
                found = self.expressions(node)
                alone = len(found) == 1 and found[0] is not node
                return self.value(found[0], depth + 1) if alone else _open(node)
        return ast.unparse(node) if isinstance(node, ast.Lambda) else self._computed(node, depth)

    def _computed(self, node: ast.expr, depth: int) -> Any:
        match node:
            case ast.UnaryOp(op=ast.USub(), operand=inner):
                return _number(node, operator.neg, self.value(inner, depth + 1))
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
                sides = (self.value(left, depth + 1), self.value(right, depth + 1))
                return _number(node, _OPERATORS[type(op)], *sides)
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS:
                return _number(node, _FUNCTIONS[name], *(self.value(arg, depth + 1) for arg in args))
        return _open(node)

    def _told(self, node: ast.expr) -> Any:
        """What Lightning's trainer knows and the user may say; None for anything else."""
        if not isinstance(node, ast.Attribute) or "trainer" not in ast.unparse(node.value):
            return None
        known, both = self._known, "--iterations and --iterations-per-epoch"
        values = {
            "estimated_stepping_batches": (known.iterations, "--iterations"),
            "max_steps": (known.iterations, "--iterations"),
            "max_epochs": (known.epochs, both),
            "num_training_batches": (known.iterations_per_epoch, "--iterations-per-epoch"),
        }
        value, option = values.get(node.attr, (None, ""))
        return Open(ast.unparse(node), node.lineno, option) if option and value is None else value


def last_word(node: ast.expr) -> str | None:
    """``CosineAnnealingLR`` of ``torch.optim.lr_scheduler.CosineAnnealingLR``, ``lr`` of ``self.hparams['lr']``."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case ast.Subscript(slice=ast.Constant(value=str() as name)):
            return name
    return None


def _key(node: ast.expr) -> str | None:
    """The name under which an expression is known."""
    word = last_word(node)
    if isinstance(node, ast.Attribute | ast.Subscript) and (base := ast.unparse(node.value)) not in _OWN:
        return word and f"{base}.{word}"
    return word


def _assigned(node: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    match node:
        case ast.Assign(targets=targets, value=value):
            for target in targets:
                if (name := _key(target)) is not None and name != _key(value):
                    yield name, value
        case ast.AnnAssign(target=target, value=ast.expr() as value) if (name := _key(target)) is not None:
            if name != _key(value):
                yield name, value
        case ast.AugAssign(target=target) if (name := _key(target)) is not None:
            yield name, node.target  # its value changes: no one value
            yield name, node.target
        case ast.Call(func=ast.Attribute(attr="add_argument"), args=[*flags, ast.Constant(value=str(flag))]):
            default = next((each.value for each in node.keywords if each.arg == "default"), None)
            if default is not None and flag.startswith("--") and len(flags) < 2:
                yield flag[2:].replace("-", "_"), default
        case ast.FunctionDef(args=args) | ast.AsyncFunctionDef(args=args):
            yield from _defaults(args)


def _defaults(args: ast.arguments) -> Iterator[tuple[str, ast.expr]]:
    places = [*args.posonlyargs, *args.args]
    for place, default in zip(places[len(places) - len(args.defaults) :], args.defaults, strict=True):
        yield place.arg, default
    for place, keyword in zip(args.kwonlyargs, args.kw_defaults, strict=True):
        if keyword is not None:
            yield place.arg, keyword


def _number(node: ast.expr, compute: Callable[..., Any], *values: Any) -> Any:
    """The result of an operation on numbers, unless it is none or too large to be meant."""
    told = next((value.option for value in values if isinstance(value, Open)), "")
    if not all(isinstance(value, int | float) and abs(value) < _LARGEST for value in values):
        return Open(_text(node), node.lineno, told)
    if compute is operator.pow and abs(values[1]) > 100:
        return _open(node)
    try:
        result = compute(*values)
    except (ArithmeticError, TypeError, ValueError):
        return _open(node)
    return result if isinstance(result, int | float) else _open(node)


def _open(node: ast.expr) -> Open:
    return Open(_text(node), node.lineno)


def _text(node: ast.expr) -> str:
    return " ".join(ast.unparse(node).split())
