"""The modules that a module may import, as far as its syntax tree tells; nothing is run.

Some are named by a text, and some by what only a run knows, as ``import_module(f"nets.{kind}")`` does: then all count
that lie where they may come from.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from importlib.machinery import EXTENSION_SUFFIXES, SOURCE_SUFFIXES
from pathlib import Path

# What imports a module, or runs a file, by a text.
_IMPORTERS = {
    "__import__", "import_module", "resolve_name", "locate", "run_path", "run_module", "spec_from_file_location",
    "SourceFileLoader", "exec", "instantiate", "get_class", "import_string", "attach",
}  # fmt: skip
# Those of them whose first text is a name for the module, and not where it is.
_BY_FILE = {"spec_from_file_location", "SourceFileLoader"}
_WORD = re.compile(r"[^\W\d]\w*")


def imported(tree: ast.Module, package: str, own: Path) -> Iterator[str]:
    """The names of all that a module may import, wherever in it that is written.

    Args:
        package: the package that it belongs to, "" for none.
        own: the folder in which it, or the outermost package around it, lies.
    """
    within = f"{package}." if package else ""
    for node in ast.walk(tree):
        match node:
            case ast.Import():
                yield from (alias.name for alias in node.names)
            case ast.ImportFrom():
                around = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
                base = ".".join([*around, *([node.module] if node.module else [])])
                yield from (base, *(f"{base}.{alias.name}" for alias in node.names if alias.name != "*"))
            case ast.Name(id="__all__"):  # a star imports what it lists
                yield from (f"{within}{text}" for text in texts(tree) if text.isidentifier())
            case ast.FunctionDef(name="__getattr__") if node in tree.body and package:
                yield from _modules_in(own / package.partition(".")[0], set(), package.partition(".")[0])
    if _IMPORTERS & {*_called(tree, plain=True), *_called(tree, plain=False)}:
        yield from (f"{start}{name}" for text in texts(tree) for name in _as_modules(text) for start in {"", within})
    if _IMPORTERS & {*_called(tree, plain=False)}:
        yield from _modules_in(own, {word for text in texts(tree) for word in words_of(text)})


def folders_added(tree: ast.Module, own: Path) -> list[Path]:
    """Where else a module may have others looked for: the folders that one which changes ``sys.path`` names."""
    names = {getattr(node, "attr", getattr(node, "id", None)) for node in ast.walk(tree)}
    if not ({"sys", "path"} <= names or "addsitedir" in names):
        return []
    above = [own.parent] if names & {"parent", "parents", "dirname", "pardir"} else []
    named = [base / text for base in (own, *above) for text in texts(tree) if text and "\0" not in text]
    return [*above, *(folder.absolute() for folder in named if _is_folder(folder))]


def texts(tree: ast.AST) -> Iterator[str]:
    """All texts in a piece of code but those that are remarks, such as docstrings."""
    remarks = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and id(node) not in remarks and isinstance(node.value, str | bytes):
            yield node.value if isinstance(node.value, str) else node.value.decode("latin-1")


def words_of(text: str) -> list[str]:
    """The names that a text may spell, alone or in a path of modules, of attributes or of a file.

    >>> words_of("nets.big:Net"), words_of("parts/x.py")
    (['nets', 'big', 'Net'], ['parts', 'x', 'py'])
    """
    return _WORD.findall(text)


def _called(tree: ast.AST, *, plain: bool) -> Iterator[str]:
    """Names that are called with a text as their first argument, or else all that are used in another way."""
    with_text = {
        id(node.func)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant)
        if getattr(node.func, "attr", getattr(node.func, "id", None)) not in _BY_FILE
    }
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name):
                if (id(node) in with_text) == plain:
                    yield name
            case ast.alias(name=name, asname=str()) if not plain:
                yield name.rpartition(".")[2]


def _as_modules(text: str) -> Iterator[str]:
    """The modules that a text may name: ``a.b`` as a and a.b, ``a:b`` the same way, ``./a.py`` and ``.a`` as a."""
    parts = text.removeprefix("./").removesuffix(".py").replace(":", ".").replace("/", ".").lstrip(".").split(".")
    if all(part.isidentifier() for part in parts):
        yield from (".".join(parts[:end]) for end in range(1, len(parts) + 1))


def _modules_in(folder: Path, named: set[str], prefix: str = "") -> Iterator[str]:
    """The modules in a folder, in its packages, and in those of its folders that are named."""
    for path in _inside(folder):
        stem, ending = path.name.partition(".")[0], "".join(path.name.partition(".")[1:])
        name = f"{prefix}.{stem}" if prefix else stem
        if not stem.isidentifier() or stem == "__init__":
            continue
        if ending in (*SOURCE_SUFFIXES, *EXTENSION_SUFFIXES):
            yield name
        elif not ending and ((path / "__init__.py").exists() or stem in named) and not _is_around(path, folder):
            yield name
            yield from _modules_in(path, named, name)


def _inside(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _is_around(path: Path, folder: Path) -> bool:
    """Whether a path is a link that leads back to where it lies."""
    return path.resolve() in (folder.resolve(), *folder.resolve().parents)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # a text may be too long for a name
        return False
