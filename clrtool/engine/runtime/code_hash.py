"""Hashes of the code that a config names, as it would run: read as a syntax tree, and never run.

What counts is the module of each factory and what it imports from its own folder, in these all that an import runs, and
of the functions and classes those that the factories reach, by name. Comments, docstrings, layout and what is never
reached do not count: they change no model.
"""

from __future__ import annotations

import ast
import hashlib
import sysconfig
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import NamedTuple

from clrtool.engine.runtime.imports import find_beside, find_installed, folder_of
from clrtool.files import read_bytes

_STANDARD = Path(sysconfig.get_path("stdlib"))
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
# Where one of these is used, a name may be reached without being written: then everything counts.
_BY_ANY_NAME = {
    "eval", "exec", "getattr", "globals", "locals", "vars", "__dict__", "__getattr__", "__init_subclass__",
    "__subclasses__", "__import__", "import_module", "attrgetter", "methodcaller", "getmembers", "modules",
}  # fmt: skip
# Where one of these is used, any text may be the name of a module.
_IMPORTERS = {
    "__import__", "import_module", "resolve_name", "locate", "run_path", "run_module", "spec_from_file_location",
    "SourceFileLoader", "exec", "instantiate", "get_class", "import_string",
}  # fmt: skip
# Fields of a syntax tree that say nothing, or not in every version of Python.
_SILENT = {"ctx", "kind", "type_comment"}


class _Source(NamedTuple):
    """A module by its file.

    Args:
        tree: None of one that is no Python to read.
        own: the folder of its outermost package, where it is the user's and no installed one.
    """

    content: bytes
    tree: ast.Module | None
    is_package: bool
    own: Path | None


def code_hashes(factories: Iterable[str], folders: Sequence[Path]) -> dict[str, str]:
    """SHA-256 by module of the code of ``pkg.module:callable``; a module that is not there or built in has none.

    Args:
        folders: where modules may lie that are not installed.
    """
    named = [factory.partition(":")[::2] for factory in factories]
    sources: dict[str, _Source] = {}
    for module, _ in named:
        _collect(module, folders, sources)
    reached = _reached(sources, {name for _, name in named})
    return {module: _hash(source, reached.get(module)) for module, source in sources.items()}


def _hash(source: _Source, reached: Sequence[ast.stmt] | None) -> str:
    try:
        content = source.content if reached is None else _canonical(list(reached)).encode()
    except (RecursionError, ValueError):  # nested too deeply, or a whole number too long for a text
        content = source.content
    return hashlib.sha256(content).hexdigest()


def _collect(module: str, folders: Sequence[Path], sources: dict[str, _Source]) -> None:
    """Add a module; of one that is the user's own also the packages around it, and what it imports from its folder."""
    if module in sources:
        return
    top, *inner = module.split(".")
    spec = find_installed(top) or find_beside(top, list(map(str, folders)))
    own = None if spec is None or _is_installed(spec) else folder_of(spec)
    for part in inner:
        if spec is not None and own is not None:
            _add(spec, own, sources)
        places = None if spec is None else spec.submodule_search_locations
        find = PathFinder.find_spec if own is None else find_beside
        spec = None if spec is None or places is None else find(f"{spec.name}.{part}", list(places))
    if spec is None or not _add(spec, own, sources) or own is None:
        return
    for name in _imported(module, sources[module]):
        outer = name.partition(".")[0]
        found = find_installed(outer) or find_beside(outer, [str(own)])
        if found is not None and not _is_installed(found) and folder_of(found) == own:
            _collect(name, [own], sources)


def _add(spec: ModuleSpec, own: Path | None, sources: dict[str, _Source]) -> bool:
    """Read the file of a module. Gives whether it is there, and was not known."""
    if not spec.has_location or spec.origin is None or spec.name in sources:
        return False
    try:
        content = read_bytes(Path(spec.origin))
    except OSError:
        return False
    is_package = spec.submodule_search_locations is not None
    sources[spec.name] = _Source(content, _parsed(content), is_package, own)
    return True


def _is_installed(spec: ModuleSpec) -> bool:
    """Whether a module comes with Python or a package, whose version the environment tells."""
    places = [spec.origin] if spec.has_location else list(spec.submodule_search_locations or ())
    return not places or any(
        {"site-packages", "dist-packages"} & {*Path(place or "").parts} or Path(place or "").is_relative_to(_STANDARD)
        for place in places
    )


def _parsed(content: bytes) -> ast.Module | None:
    try:
        return ast.parse(content)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _imported(module: str, source: _Source) -> Iterator[str]:
    """The modules that a module may import, wherever in it that is written."""
    package = module if source.is_package else module.rpartition(".")[0]
    for node in ast.walk(source.tree) if source.tree is not None else ():
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            around = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*around, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names if alias.name != "*")
    if source.tree is not None and _IMPORTERS & _names(source.tree):
        yield from _named_by_text(source.tree)


def _named_by_text(tree: ast.AST) -> Iterator[str]:
    """The modules that a text may name: ``a.b`` as a and a.b, ``a:b`` the same way, and ``./a.py`` as a."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            parts = node.value.removeprefix("./").removesuffix(".py").replace(":", ".").split(".")
            if all(part.isidentifier() for part in parts):
                yield from (".".join(parts[:end]) for end in range(1, len(parts) + 1))


def _reached(sources: Mapping[str, _Source], wanted: set[str]) -> dict[str, list[ast.stmt]]:
    """Of each module the statements that run: on import, or because one that runs names them."""
    bodies = {module: source.tree.body for module, source in sources.items() if source.tree is not None}
    own = [body for module, body in bodies.items() if sources[module].own is not None]
    waiting = [each for body in own for each in body if isinstance(each, _DEFINITIONS) and _waits(each)]
    skipped = {id(each) for each in waiting}
    running = [each for body in bodies.values() for each in body if id(each) not in skipped and not _is_script(each)]
    names = wanted.union(*map(_names, running))
    while found := [each for each in waiting if each.name in names or names & _BY_ANY_NAME]:
        names = names.union(*map(_names, found))
        waiting = [each for each in waiting if each not in found]
    never = {id(each) for each in waiting}
    return {
        module: [each for each in body if id(each) not in never and not _is_script(each)]
        for module, body in bodies.items()
    }


def _waits(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> bool:
    """Whether a definition does nothing by itself: no decorator nor metaclass gets it, and it calls nothing."""
    alone = not node.decorator_list and not getattr(node, "keywords", None)
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
    return isinstance(node, ast.If) and not node.orelse and ast.unparse(node.test) == "__name__ == '__main__'"


def _names(node: ast.AST) -> set[str]:
    """All names in a piece of code, those in texts and of what it defines among them."""
    found: set[str] = set()
    for each in ast.walk(node):
        match each:
            case ast.Name(id=name) | ast.Attribute(attr=name):
                found.add(name)
            case ast.Constant(value=str() as text) if text.isidentifier():
                found.add(text)
            case ast.alias(name=name):
                found.add(name.rpartition(".")[2])
            case ast.FunctionDef(name=name) if name.startswith("__"):
                found.add(name)
    return found


def _canonical(node: object) -> str:
    """A syntax tree as a text that is the same in every version of Python, without places and docstrings."""
    if isinstance(node, ast.AST):
        fields = (
            f"{name}={_canonical(value)}"
            for name, value in ast.iter_fields(node)
            if value is not None and value != [] and name not in _SILENT
        )
        return f"{type(node).__name__}({','.join(fields)})"
    if isinstance(node, list):
        return f"[{','.join(_canonical(each) for each in node if not _is_remark(each))}]"
    return repr(node)


def _is_remark(node: object) -> bool:
    """Whether a statement is a text that nothing is done with."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
