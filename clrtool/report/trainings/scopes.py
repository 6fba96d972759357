"""Where the names of a Python file are bound: by the module, a class or a function, each with a table of its own."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field

Function = ast.FunctionDef | ast.AsyncFunctionDef
# What names are bound to; None for a value that only a run of the file would tell.
Bound = list[ast.expr | None]


@dataclass(eq=False)
class Scope:
    """The names that a module, a class or a function binds, and the scope around it."""

    node: ast.AST
    outer: Scope | None = None
    table: dict[str, Bound] = field(default_factory=dict)

    def bind(self, name: str, value: ast.expr | None) -> None:
        """Add a value; a constant that is bound again is the same value."""
        values = self.table.setdefault(name, [])
        if not (isinstance(value, ast.Constant) and any(_same(value, each) for each in values)):
            values.append(value)

    def share(self, names: list[str], owner: Scope | None) -> None:
        """Names that are those of another scope; what is set here is left open: it depends on when this is called."""
        if owner is None or owner is self:
            return
        for name in names:
            sets = self.table.get(name)
            values = owner.table.setdefault(name, [])
            if sets and None not in values:
                values.append(None)
            self.table[name] = values

    def find(self, name: str) -> Bound | None:
        """The values of a name as Python finds it: here, then in the scopes around that are not classes."""
        home = self.home(name)
        return None if home is None else home.table[name]

    def home(self, name: str) -> Scope | None:
        """The scope in which Python finds a name."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.table and (scope is self or not isinstance(scope.node, ast.ClassDef)):
                return scope
            scope = scope.outer
        return None

    @property
    def outermost(self) -> Scope:
        """The scope of the module."""
        return self if self.outer is None else self.outer.outermost

    def around(self, kind: type[ast.AST]) -> Scope | None:
        """The nearest scope of a kind: this one or one around it."""
        scope: Scope | None = self
        while scope is not None and not isinstance(scope.node, kind):
            scope = scope.outer
        return scope


def scopes_of(tree: ast.Module) -> dict[int, Scope]:
    """The scope of each node by its id.

    A loop and no recursion: a sum of a thousand terms is a thousand nodes deep.
    """
    scopes: dict[int, Scope] = {}
    waiting: list[tuple[ast.AST, Scope]] = [(tree, Scope(tree))]
    while waiting:
        node, scope = waiting.pop()
        scopes[id(node)] = scope
        inner = Scope(node, scope) if isinstance(node, Function | ast.ClassDef | ast.Lambda) else scope
        for part, children in ast.iter_fields(node):
            home, listed = inner if part == "body" else scope, children if isinstance(children, list) else [children]
            waiting += [(child, home) for child in listed if isinstance(child, ast.AST)]
    return scopes


def parameters(function: Function | ast.Lambda, calls: list[ast.Call], *, bound: bool) -> Iterator[tuple[str, Bound]]:
    """The parameters of a function with what the file's calls of it pass, else their defaults.

    ``bound`` is True for a method, of which no call passes the first parameter.
    """
    args = function.args
    places = [*args.posonlyargs, *args.args]
    defaults: list[ast.expr | None] = [None] * (len(places) - len(args.defaults)) + list(args.defaults)
    for at, (place, default) in enumerate(zip(places, defaults, strict=True)):
        yield place.arg, [_passed(call, place.arg, at - bound, default) for call in calls] or [default]
    for place, default in zip(args.kwonlyargs, args.kw_defaults, strict=True):
        yield place.arg, [_passed(call, place.arg, None, default) for call in calls] or [default]
    for rest in (args.vararg, args.kwarg):
        if rest is not None:
            yield rest.arg, [None]


def pairs(target: ast.expr, value: ast.expr) -> Iterator[tuple[ast.expr, ast.expr | None]]:
    """Each target of an assignment with its value; what accelerate's ``prepare`` is given comes back wrapped."""
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and value.func.attr == "prepare":
        value = value.args[0] if len(value.args) == 1 else ast.Tuple(value.args, ast.Load())
    if not isinstance(target, ast.Tuple | ast.List):
        yield target, value
        return
    known = isinstance(value, ast.Tuple | ast.List) and len(value.elts) == len(target.elts)
    values = value.elts if known and isinstance(value, ast.Tuple | ast.List) else [None] * len(target.elts)
    yield from zip(target.elts, values, strict=True)


def _passed(call: ast.Call, name: str, at: int | None, default: ast.expr | None) -> ast.expr | None:
    given = {each.arg: each.value for each in call.keywords}
    if name in given:
        return given[name]
    if None in given or any(isinstance(each, ast.Starred) for each in call.args):
        return None
    return call.args[at] if at is not None and 0 <= at < len(call.args) else default


def _same(one: ast.expr, other: ast.expr | None) -> bool:
    return other is not None and ast.dump(one) == ast.dump(other)
