"""The modules that a module may import, as far as its syntax tree tells; nothing is run.

Which of them one imports by a name that is put together, only a run knows. Where one can do so, all count that lie in
its folder and in the packages there, as they stand: to read thousands of them as trees would take long.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache
from importlib.machinery import EXTENSION_SUFFIXES, SOURCE_SUFFIXES, FileFinder, ModuleSpec, PathFinder
from pathlib import Path

from clrtool.engine.runtime.imports import find_beside, find_installed, folder_of, is_installed
from clrtool.files import open_plain, size_of

# What imports modules, or runs files, by a text.
IMPORTERS = {
    "__import__", "import_module", "resolve_name", "locate", "run_path", "run_module", "spec_from_file_location",
    "SourceFileLoader", "exec", "instantiate", "get_class", "import_string", "iter_modules", "walk_packages",
    "exec_module", "load_module",
}  # fmt: skip
_WORD = re.compile(r"[^\W\d]\w*")
# Fields of a syntax tree that say nothing, or not in every version of Python.
_SILENT = {"ctx", "kind", "type_comment"}


class Statement:
    """A statement at the top of a module.

    Args:
        names: all in it that are written, and what it imports.
        words: those in its texts, each of which may be part of a name; docstrings aside.
    """

    def __init__(self, node: ast.stmt) -> None:
        self.node, self.names, self.words = node, set[str](), set[str]()
        self.imports: list[ast.Import | ast.ImportFrom] = []
        remarks = set[int]()
        for each in ast.walk(node):
            match each:
                case ast.Name(id=name) | ast.Attribute(attr=name):
                    self.names.add(name)
                case ast.Expr(value=ast.Constant() as remark):
                    remarks.add(id(remark))
                case ast.Constant(value=str() | bytes() as text) if id(each) not in remarks:
                    self.words.update(_WORD.findall(text if isinstance(text, str) else text.decode("latin-1")))
                case ast.Import() | ast.ImportFrom():
                    self.imports.append(each)
                    self.names.update(alias.name.rpartition(".")[2] for alias in each.names)
                case ast.FunctionDef(name=name) if name.startswith("__"):
                    self.names.add(name)

    @cached_property
    def text(self) -> str:
        """The same in every version of Python, without places and docstrings."""
        return _canonical(self.node)


class Source:
    """A module by its file.

    Args:
        own: the folder of its outermost package, where it is the user's and no installed one.
    """

    def __init__(self, content: bytes, spec: ModuleSpec, own: Path | None) -> None:
        self.content, self.own = content, own
        self.is_package = spec.submodule_search_locations is not None
        self.package = spec.name if self.is_package else spec.name.rpartition(".")[0]
        self.statements = _statements(spec.name, content)
        self.names = set[str]().union(*(each.names for each in self.statements or ()))
        self.words = set[str]().union(*(each.words for each in self.statements or ()))

    def imported(self) -> Iterator[str]:
        """The modules that it may import by names that are written, wherever in it."""
        for statement in self.statements or ():
            for node in statement.imports:
                if isinstance(node, ast.Import):
                    yield from (alias.name for alias in node.names)
                    continue
                around = self.package.split(".")[: len(self.package.split(".")) - node.level + 1] if node.level else []
                base = ".".join([*around, *([node.module] if node.module else [])])
                yield base
                yield from (f"{base}.{alias.name}" for alias in node.names if alias.name != "*")
            if self.is_package and "__all__" in statement.names:  # a star imports what it lists
                yield from (f"{self.package}.{word}" for word in sorted(statement.words))


class Code:
    """The modules that factories may import, by name."""

    def __init__(self) -> None:
        self.sources: dict[str, Source] = {}
        self._installed: dict[str, ModuleSpec | None] = {}
        self._finders: dict[str, FileFinder] = {}
        self._asked: set[str] = set()
        self._whole: dict[Path, set[str]] = {}  # folders of which any module may be imported, with words for others

    def collect(self, module: str, folders: Sequence[Path]) -> None:
        """Add a module; of one that is the user's own also the packages around it, and what it may import."""
        if module in self._asked:
            return
        self._asked.add(module)
        top, *inner = module.split(".")
        spec = self._find(top, folders)
        own = None if spec is None or _is_installed(spec) else folder_of(spec)
        for part in inner:
            if spec is not None and own is not None:
                self._add(spec, own)
            places = None if spec is None else spec.submodule_search_locations
            if spec is None or places is None:
                return
            name = f"{spec.name}.{part}"
            spec = PathFinder.find_spec(name, places) if own is None else find_beside(name, places, self._finders)
        if spec is not None:
            self._add(spec, own)

    def _find(self, top: str, folders: Sequence[Path]) -> ModuleSpec | None:
        if top not in self._installed:
            self._installed[top] = find_installed(top)
        return self._installed[top] or find_beside(top, [*map(str, folders)], self._finders)

    def _add(self, spec: ModuleSpec, own: Path | None) -> None:
        """Read the file of a module, and those of what it may import from its own folder."""
        if not spec.has_location or spec.origin is None or spec.name in self.sources:
            return
        if (content := _content(Path(spec.origin))) is None:
            return
        source = self.sources[spec.name] = Source(content, spec, own)
        if own is None:
            return
        near = [own, *_folders_added(source, own)]
        for name in source.imported():
            found = self._find(name.partition(".")[0], near)
            if found is not None and not _is_installed(found) and folder_of(found) in near:
                self.collect(name, [folder_of(found)])
        for folder in near if source.names & IMPORTERS else ():
            self._whole.setdefault(folder, set()).update(source.words)

    def others(self) -> Iterator[tuple[str, bytes]]:
        """The modules that may be imported by a name that is put together, and their contents."""
        for folder, words in self._whole.items():
            for name, path in _modules_in(folder, words):
                if name not in self.sources and (content := _content(path)) is not None:
                    yield name, content


def _content(path: Path) -> bytes | None:
    """What a file holds, of any size; None of one that cannot be read."""
    try:
        with open_plain(path) as file:
            return file.read(size_of(file))
    except OSError:
        return None


def _folders_added(source: Source, own: Path) -> list[Path]:
    """Where else one that changes ``sys.path`` may have modules looked for: in the folders near it that it names."""
    if not ({"sys", "path"} <= source.names or "addsitedir" in source.names):
        return []
    above = [own.parent] if source.names & {"parent", "parents", "dirname", "pardir"} else []
    return [*above, *_folders_named(own, source.words)]


def _folders_named(folder: Path, words: set[str]) -> Iterator[Path]:
    for path in _inside(folder):
        if path.name in words and path.is_dir() and not _is_around(path, folder):
            yield path
            yield from _folders_named(path, words)


def _modules_in(folder: Path, named: set[str], prefix: str = "") -> Iterator[tuple[str, Path]]:
    """The modules in a folder, in its packages, and in those of its folders that are named."""
    for path in _inside(folder):
        stem, _, ending = path.name.partition(".")
        if not stem.isidentifier():
            continue
        if f".{ending}" in (*SOURCE_SUFFIXES, *EXTENSION_SUFFIXES):
            yield (prefix[:-1] if stem == "__init__" and prefix else f"{prefix}{stem}"), path
        elif not ending and ((path / "__init__.py").exists() or stem in named) and not _is_around(path, folder):
            yield from _modules_in(path, named, f"{prefix}{stem}.")


def _inside(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _is_around(path: Path, folder: Path) -> bool:
    """Whether a path is a link that leads back to where it lies."""
    return path.is_symlink() and path.resolve() in (folder.resolve(), *folder.resolve().parents)


def _is_installed(spec: ModuleSpec) -> bool:
    """Whether a module comes with Python or a package."""
    places = [spec.origin] if spec.has_location else list(spec.submodule_search_locations or ())
    return not places or any(is_installed(Path(place or "")) for place in places)


@lru_cache(maxsize=256)
def _statements(_module: str, content: bytes) -> list[Statement] | None:
    """Read the statements of a module once for all workloads that use it; None if the file is not Python.

    The name is part of the key, for statements are compared by identity: two modules of the same content share none.
    """
    try:
        return [*map(Statement, ast.parse(content).body)]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


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
        return f"[{','.join(_canonical(each) for each in node if not is_remark(each))}]"
    return repr(node)


def is_remark(node: object) -> bool:
    """Whether a statement is a text that nothing is done with."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
