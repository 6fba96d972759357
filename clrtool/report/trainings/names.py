"""What names stand for in a Python file that is read and never run: numbers, texts, lists and calls."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterator
from typing import Any

from clrtool.report.trainings.found import Known, Open
from clrtool.report.trainings.rebound import also_bound, called_by_others, open_changed
from clrtool.report.trainings.scopes import Function, Scope, pairs, parameters, scopes_of

_DEPTH, _LARGEST = 20, 10**15
# Where the attributes of an object, and where the arguments of a command line are kept.
_SELF, _ARGUMENTS = ("self", "cls", "self.hparams", "hparams"), ("args", "self.args", "hparams")
_FUNCTIONS: dict[str, Callable[..., Any]] = {"int": int, "float": float, "round": round, "min": min, "max": max}
_OPERATORS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Pow: operator.pow,
}  # fmt: skip


class Names:
    """The assignments of a file, each in the scope that Python keeps it in.

    ``self.lr`` is shared by the methods of a class, and is the parameter ``lr`` of its ``__init__`` where nothing sets
    it, as Lightning's ``save_hyperparameters`` has it; ``args.lr`` is the default of ``--lr``. A name that is bound to
    several values in one scope has no one value; a parameter has what the file's calls pass, or else its default.
    """

    def __init__(self, tree: ast.Module, known: Known) -> None:
        self._known = known
        self._scopes = scopes_of(tree)
        self._flags = Scope(tree)
        self._opened = {id(scope.node): scope for scope in self._scopes.values()}
        nodes = list(ast.walk(tree))
        calls: dict[str, list[ast.Call]] = {}
        for call in (node for node in nodes if isinstance(node, ast.Call)):
            calls.setdefault(last_word(call.func) or "", []).append(call)
        seen: set[int] = set()
        self._passed = called_by_others(nodes)
        for node in nodes:
            self._assign(node, seen)
            self._parameters(node, calls)
            for name in also_bound(node):
                self._scopes[id(node)].bind(name, None)
        open_changed(nodes, self._scopes)

    def _assign(self, node: ast.AST, seen: set[int]) -> None:
        """Keep what a statement binds; any other place where a name is stored binds it to what is not known."""
        for flag in _flags(node):
            self._flags.bind(*flag)
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        value = node.value if isinstance(node, ast.Assign | ast.AnnAssign | ast.NamedExpr) else None
        for target, given in (pair for each in targets if each and value for pair in pairs(each, value)):
            seen.add(id(target))
            if given is None or ast.unparse(target) != ast.unparse(given):
                self._bind(target, given)
        stored = isinstance(getattr(node, "ctx", None), ast.Store) and not isinstance(node, ast.Tuple | ast.List)
        declared = isinstance(node, ast.AnnAssign) and node.value is None
        if declared and isinstance(node, ast.AnnAssign):
            seen.add(id(node.target))
        elif stored and id(node) not in seen and isinstance(node, ast.expr):
            self._bind(node, None)

    def _bind(self, target: ast.expr, value: ast.expr | None) -> None:
        scope, word = self._scopes[id(target)], last_word(target)
        if word is None:
            return
        if isinstance(target, ast.Name):
            scope.bind(word, value)
        elif isinstance(target, ast.Attribute | ast.Subscript):
            base = ast.unparse(target.value)
            home = scope.around(ast.ClassDef) if base in _SELF else self._flags if base in _ARGUMENTS else None
            (home or scope).bind(word if home else f"{base}.{word}", value)

    def _parameters(self, node: ast.AST, calls: dict[str, list[ast.Call]]) -> None:
        if not isinstance(node, Function | ast.Lambda) or id(node) not in self._opened:
            return
        owner = self._scopes[id(node)].node
        name = "" if isinstance(node, ast.Lambda) else node.name
        bound = isinstance(owner, ast.ClassDef)
        made = owner.name if isinstance(owner, ast.ClassDef) and name == "__init__" else name
        for word, values in parameters(node, calls.get(made, []) if made else [], bound=bound):
            for value in [*values, *([None] if name in self._passed else [])]:
                self._opened[id(node)].bind(word, value)

    def _find(self, node: ast.expr) -> list[ast.expr | None] | None:
        """What a name, an attribute or an entry is bound to, None where the file binds it nowhere."""
        scope, word = self._scopes.get(id(node)), last_word(node)
        if scope is None or word is None:
            return None
        if not isinstance(node, ast.Attribute | ast.Subscript):
            return scope.find(word)
        base, own = ast.unparse(node.value), scope.around(ast.ClassDef)
        if base in _SELF and own is not None and (found := self._attribute(own, word)) is not None:
            return found
        if base in (*_SELF, *_ARGUMENTS) and word in self._flags.table:
            return self._flags.table[word]
        found = [*(scope.find(f"{base}.{word}") or []), *(self._entry(node.value, word) or [])]
        return found or None

    def _attribute(self, own: Scope, word: str) -> list[ast.expr | None] | None:
        """An attribute of a class, or the parameter of its ``__init__`` with that name."""
        if word in own.table or not isinstance(own.node, ast.ClassDef):
            return own.table.get(word)
        starts = (each for each in own.node.body if isinstance(each, Function) and each.name == "__init__")
        return next((self._opened[id(each)].table.get(word) for each in starts if id(each) in self._opened), None)

    def _entry(self, base: ast.expr, word: str) -> list[ast.expr | None] | None:
        """An entry of a dict of the file, or an attribute of a class of it or of what one makes of no arguments."""
        (made, *others) = self.expressions(base)
        match made:
            case ast.Dict(keys=keys, values=values) if not others:
                return [value for key, value in zip(keys, values, strict=True) if getattr(key, "value", None) == word]
            case ast.Call(func=ast.Name(id="dict"), args=[], keywords=words) if not others:
                return [each.value for each in words if each.arg == word]
            case ast.Call(func=ast.Name(id=name), args=[], keywords=[]) | ast.Name(id=name) if not others:
                classes = (each for each in self._opened.values() if isinstance(each.node, ast.ClassDef))
                own = next((each for each in classes if each.node.name == name), None)  # type: ignore[attr-defined]
                return self._attribute(own, word) if own is not None else None
        return None

    def expressions(self, node: ast.expr) -> list[ast.expr]:
        """What a name may stand for; any other expression stands for itself."""
        found, seen = [node], 0
        while seen < _DEPTH and len(found) == 1 and (bound := self._find(found[0])):
            if None in bound:
                return [node]
            found, seen = [each for each in bound if each is not None], seen + 1
        return found

    def keywords(self, call: ast.Call) -> dict[str, ast.expr]:
        """What a call is given by name, the entries of a dict after ``**`` among it.

        Where the file does not say them all, what is after the ``**`` has the name ``**``, and so has a ``*``.
        """
        starred = next((each for each in call.args if isinstance(each, ast.Starred)), None)
        given: dict[str, ast.expr] = {} if starred is None else {"**": starred}
        for each in call.keywords:
            (made, *others) = self.expressions(each.value)
            known = None if others or self._filled(each.value) else entries(made)
            given |= {each.arg: each.value} if each.arg else {"**": each.value} if known is None else known
        return given

    def _filled(self, node: ast.expr) -> bool:
        """Whether an entry of the dict that a name stands for is set after it was made."""
        base, scope = ast.unparse(node), self._scopes.get(id(node))
        first = base.partition(".")[0]
        if scope is None:
            return False
        own, home = first in _SELF and scope.around(ast.ClassDef), scope.home(first)
        return any(
            word.startswith(f"{base}.")
            for each in self._opened.values()
            if (each.around(ast.ClassDef) is own if own else each.home(first) is home)
            for word in each.table
        )

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
            case ast.Dict(keys=keys, values=values) if None not in keys:
                words = [getattr(key, "value", None) for key in keys]
                return {word: self.value(item, depth + 1) for word, item in zip(words, values, strict=True)}
            case ast.Name() | ast.Attribute() | ast.Subscript():
                found = self.expressions(node)
                alone = len(found) == 1 and found[0] is not node
                alone = alone and not (entries(found[0]) is not None and self._filled(node))
                return self.value(found[0], depth + 1) if alone else _open(node)
        return ast.unparse(node) if isinstance(node, ast.Lambda) else self._computed(node, depth)

    def _computed(self, node: ast.expr, depth: int) -> Any:
        match node:
            case ast.UnaryOp(op=ast.USub(), operand=inner):
                return _number(node, operator.neg, self.value(inner, depth + 1))
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
                sides = (self.value(left, depth + 1), self.value(right, depth + 1))
                return _number(node, _OPERATORS[type(op)], *sides)
            case ast.Call(func=ast.Name(id="dict"), args=[], keywords=words) if all(each.arg for each in words):
                return {each.arg: self.value(each.value, depth + 1) for each in words}
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


def entries(node: ast.AST) -> dict[str, ast.expr] | None:
    """The entries of ``{"lr": 0.1}`` or ``dict(lr=0.1)``; None for anything else, and where not all have names."""
    match node:
        case ast.Dict(keys=keys, values=values):
            words = [key.value if isinstance(key, ast.Constant) else None for key in keys]
        case ast.Call(func=ast.Name(id="dict"), args=[], keywords=given):
            words, values = [each.arg for each in given], [each.value for each in given]
        case _:
            return None
    named = {word: value for word, value in zip(words, values, strict=True) if isinstance(word, str)}
    return named if len(named) == len(words) else None


def _flags(node: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """The names and the defaults of arguments of a command line."""
    match node:
        case ast.Call(func=ast.Attribute(attr="add_argument"), args=[*flags, ast.Constant(value=str(flag))]):
            default = next((each.value for each in node.keywords if each.arg == "default"), None)
            if default is not None and flag.startswith("--") and len(flags) < 2:
                yield flag[2:].replace("-", "_"), default
        case ast.Call(func=ast.Attribute(attr="set_defaults"), keywords=defaults):
            yield from ((each.arg, each.value) for each in defaults if each.arg)


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
