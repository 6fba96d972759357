"""Hashes of the code that a config names, as it would run: read as a syntax tree, and never run.

What counts is the module of each factory and what it imports from its own folder, in these all that an import runs, and
of the functions and classes those that the factories reach, by name. Comments, docstrings, layout and what is never
reached do not count: they change no model.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from clrtool.engine.runtime.code_modules import IMPORTERS, Code, Source, Statement, is_remark

_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
# Where one of these is used, a name may be reached without being written: then everything counts.
_BY_ANY_NAME = IMPORTERS | {
    "eval", "getattr", "globals", "locals", "vars", "__dict__", "__getattr__", "__init_subclass__", "__subclasses__",
    "attrgetter", "methodcaller", "getmembers", "modules", "__globals__", "f_globals", "f_locals", "dir",
}  # fmt: skip
# Bases that do nothing with the classes made of them. Any other may keep a list of them, and reach them by it.
_PLAIN_BASES = {
    "object", "Module", "Sequential", "ModuleList", "ModuleDict", "LightningModule", "LightningDataModule", "Dataset",
    "IterableDataset", "Sampler", "Optimizer", "LRScheduler", "Function", "Exception", "ABC", "Generic", "Protocol",
    "NamedTuple", "TypedDict", "Enum",
}  # fmt: skip


def code_hashes(factories: Iterable[str], folders: Sequence[Path]) -> dict[str, str]:
    """SHA-256 by module of the code of ``pkg.module:callable``; a module that is not there or built in has none.

    Args:
        folders: where modules may lie that are not installed.
    """
    named = [factory.partition(":")[::2] for factory in factories]
    code = Code()
    for module, _ in named:
        code.collect(module, folders)
    reached = _reached(code.sources, {name for _, name in named})
    found = {module: _hash(source, reached.get(module)) for module, source in code.sources.items()}
    return {**{module: _sha256(content) for module, content in code.others()}, **found}


def _hash(source: Source, reached: Sequence[Statement] | None) -> str:
    try:
        return _sha256(source.content if reached is None else f"[{','.join(each.text for each in reached)}]".encode())
    except (RecursionError, ValueError):  # nested too deeply, or a whole number too long for a text
        return _sha256(source.content)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _reached(sources: Mapping[str, Source], wanted: set[str]) -> dict[str, list[Statement]]:
    """Of each module the statements that run: on import, or because one that runs names them."""
    bodies = {module: source.statements for module, source in sources.items() if source.statements is not None}
    own = [each for module, body in bodies.items() if sources[module].own is not None for each in body]
    plain = _plain_classes([each.node for each in own if isinstance(each.node, ast.ClassDef)])
    waiting = [each for each in own if isinstance(each.node, _DEFINITIONS) and _waits(each.node, plain)]
    skipped = {id(each) for each in waiting}
    running = [each for body in bodies.values() for each in body if id(each) not in skipped]
    running = [each for each in running if not _is_script(each.node)]
    names, words = wanted.union(*(each.names for each in running)), set[str]().union(*(each.words for each in running))
    while found := [
        each for each in waiting if getattr(each.node, "name", "") in names | words or names & _BY_ANY_NAME
    ]:
        names, words = names.union(*(each.names for each in found)), words.union(*(each.words for each in found))
        waiting = [each for each in waiting if each not in found]
    never = {id(each) for each in waiting}
    return {
        module: [each for each in body if not (id(each) in never or _is_script(each.node) or is_remark(each.node))]
        for module, body in bodies.items()
    }


def _plain_classes(own: Sequence[ast.ClassDef]) -> set[str]:
    """The bases that do nothing with the classes made of them, those of the user's own among them."""
    plain = _PLAIN_BASES - {each.name for each in own}
    while True:
        doubtful = {each.name for each in own if each.keywords or not {*map(_base, each.bases)} <= plain}
        if (found := plain | {each.name for each in own} - doubtful) == plain:
            return plain
        plain = found


def _base(node: ast.expr) -> str | None:
    """The name of a base, without what stands in brackets behind it."""
    node = node.value if isinstance(node, ast.Subscript) else node
    return getattr(node, "attr", getattr(node, "id", None))


def _waits(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef, plain: set[str]) -> bool:
    """Whether a definition does nothing by itself: nobody gets it, Python does not call it, and it calls nothing."""
    if isinstance(node, ast.ClassDef):
        alone = not node.decorator_list and not node.keywords and {*map(_base, node.bases)} <= plain
    else:
        alone = not node.decorator_list and not node.name.startswith("__")
    return alone and not any(_acts(each) for part in _evaluated(node) for each in ast.walk(part))


def _evaluated(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> Iterator[ast.AST]:
    """What of a definition runs where it stands, and not only when what it defines is used."""
    if not isinstance(node, ast.ClassDef):
        yield from (each for each in (*node.args.defaults, *node.args.kw_defaults) if each is not None)
        return
    yield from node.bases
    for each in node.body:
        if isinstance(each, _DEFINITIONS):
            yield from (*each.decorator_list, *_evaluated(each))
        else:
            yield each


def _acts(node: ast.AST) -> bool:
    """Whether a piece of code may do something to what is around it."""
    is_place = isinstance(node, ast.Attribute | ast.Subscript) and not isinstance(node.ctx, ast.Load)
    return isinstance(node, ast.Call) or is_place


def _is_script(node: ast.stmt) -> bool:
    """Whether a statement is ``if __name__ == "__main__"``, which no import runs."""
    match node:
        case ast.If(ast.Compare(ast.Name("__name__"), [ast.Eq()], [ast.Constant("__main__")]), orelse=[]):
            return True
    return False
