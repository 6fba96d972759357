"""Ways in which a Python file binds a name to, or changes it into, what only a run of the file would tell."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator

from clrtool.report.trainings.scopes import Function, Scope

# Methods that change the list or the dict that they are called on.
_CHANGES = {
    "append", "clear", "extend", "insert", "pop", "popitem", "remove", "reverse", "setdefault", "sort", "update",
}  # fmt: skip
# Decorators that call a function with what it is called with.
_HARMLESS = {"staticmethod", "classmethod", "no_grad", "inference_mode", "enable_grad", "override", "abstractmethod"}


def also_bound(node: ast.AST) -> Iterator[str]:
    """The names that a statement binds without assigning to them: imports, definitions, patterns and others."""
    match node:
        case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
            yield from (each.asname or each.name.partition(".")[0] for each in aliases if each.name != "*")
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            yield name
        case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
            yield name
        case ast.MatchMapping(rest=str(name)) | ast.Name(id=name, ctx=ast.Del()):
            yield name


def open_changed(nodes: Iterable[ast.AST], scopes: dict[int, Scope]) -> None:
    """Leave open what is changed after it was bound; once every assignment of the file is kept."""
    for node in nodes:
        for each in _changed(node, scopes):
            _open(each, scopes)
        _set_elsewhere(node, scopes[id(node)])


def _changed(node: ast.AST, scopes: dict[int, Scope]) -> list[ast.expr]:
    """What a call or an assignment changes in place."""
    match node:
        case ast.Call(func=ast.Attribute(value=base, attr=method)) if method in _CHANGES:
            return [base]
        case ast.Subscript(value=base, ctx=ast.Store() | ast.Del(), slice=key):
            # an entry is kept under the name that sets it, and other names of the same dict would miss it
            return _others(base, scopes) if _is_text(key) else [base]
    return []


def _set_elsewhere(node: ast.AST, scope: Scope) -> None:
    """Leave open what is set by another file, or in another function."""
    match node:
        case ast.ImportFrom(names=[ast.alias(name="*")], lineno=line):
            for name, values in scope.table.items():
                if any(value is not None and value.lineno < line for value in values):
                    scope.bind(name, None)
        case ast.Global(names=names):
            scope.share(names, scope.outermost)
        case ast.Nonlocal(names=names):
            for name in names:
                scope.share([name], scope.outer and scope.outer.home(name))


def called_by_others(nodes: Iterable[ast.AST]) -> set[str]:
    """The functions that are passed around or decorated: who calls them, and with what, the file does not say."""
    listed = list(nodes)
    aside = {id(node.func) for node in listed if isinstance(node, ast.Call)}
    aside |= {id(node.value) for node in listed if isinstance(node, ast.Attribute)}
    passed = {node.id for node in listed if isinstance(node, ast.Name) and id(node) not in aside}
    decorated = {
        node.name for node in listed if isinstance(node, Function) and not all(map(_harmless, node.decorator_list))
    }
    return passed | decorated


def _open(base: ast.expr, scopes: dict[int, Scope]) -> None:
    """Leave a name open, and the other names of what it is bound to."""
    name, home = _home(base, scopes)
    if home is not None and name in home.table and None not in home.table[name]:
        others = _others(base, scopes)
        home.bind(name, None)
        for other in others:
            _open(other, scopes)


def _others(base: ast.expr, scopes: dict[int, Scope]) -> list[ast.expr]:
    """Names and attributes that a name is bound to: what is changed by the one is changed by the other."""
    name, home = _home(base, scopes)
    values = [] if home is None else home.table.get(name, [])
    return [each for each in values if isinstance(each, ast.Name | ast.Attribute) and id(each) in scopes]


def _home(base: ast.expr, scopes: dict[int, Scope]) -> tuple[str, Scope | None]:
    """A name, or an attribute of the object, and the scope that keeps it; no scope for anything else."""
    match base:
        case ast.Name(id=name):
            return name, scopes[id(base)].home(name)
        case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name):
            return name, scopes[id(base)].around(ast.ClassDef)
    return "", None


def _is_text(key: ast.expr) -> bool:
    return isinstance(key, ast.Constant) and isinstance(key.value, str)


def _harmless(decorator: ast.expr) -> bool:
    """Whether a decorator leaves the arguments alone."""
    made = decorator.func if isinstance(decorator, ast.Call) else decorator
    return getattr(made, "attr", getattr(made, "id", None)) in {*_HARMLESS, "property"}
