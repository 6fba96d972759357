"""Modules that lie beside a config: found by their file, while no folder of theirs is ever on ``sys.path``.

A folder on ``sys.path`` lends its files to every import of every module: an optional import of an installed package,
which most of them make, would run a file of that name beside the config that nobody has allowed. So a module of the
user's is found for the one who was asked to import it, and what else lies in its folder for itself alone.

What is not installed is compiled from its source each time, wherever it lies: that is what a person reads who allows
it. Python takes compiled code that lies beside a file for that of the file where size and time agree, as they may after
an edit, and the hash of the source would be that of other code than what runs. It would also write into the folder of
the config. And it takes a library by the name of a module before its source; here it is taken where there is no source.
"""

from __future__ import annotations

import importlib
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import (
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    ModuleSpec,
    SourceFileLoader,
)
from pathlib import Path
from types import CodeType, FrameType, ModuleType
from typing import Any

_LOADERS = (SourceFileLoader, SOURCE_SUFFIXES), (ExtensionFileLoader, EXTENSION_SUFFIXES)
_STANDARD = Path(sysconfig.get_path("stdlib"))
_PACKAGE = Path(__file__).parents[2]


class _OwnFolder:
    """The last of the finders of Python, so that no file can take the place of what is installed."""

    def __init__(self) -> None:
        self._named: dict[str, list[str]] = {}
        self._folders: dict[str, str] = {}

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: object = None) -> ModuleSpec | None:  # noqa: ARG002
        """The module by that name, where the module that imports it was found here, or a config has named it."""
        if path is not None:  # a part of a package, which knows where its parts are
            return None
        folder = self._folders.get(_importer())
        folders = self._named.get(name) or ([] if folder is None else [folder])
        spec = find_beside(name, folders)
        if spec is not None:
            self._folders[name] = str(folder_of(spec))
        return spec

    @contextmanager
    def named(self, name: str, folders: Sequence[Path]) -> Iterator[None]:
        """Where a module may be found that a config has named, by whoever imports it now."""
        self._named = {name: list(map(str, folders))}
        try:
            yield
        finally:
            self._named = {}


_OWN = _OwnFolder()


def places_of_code(folder: Path) -> list[Path]:
    """Where code may lie that a config in ``folder`` names and that is not installed."""
    return [folder.resolve(), Path.cwd()]


def import_module(name: str, folders: Sequence[Path]) -> ModuleType:
    """Import an installed module, or one that lies in one of the folders. Raises whatever the module raises."""
    top = name.partition(".")[0]
    if _OWN not in sys.meta_path:
        sys.meta_path.append(_OWN)
        _read_sources()
    importlib.invalidate_caches()  # a file may be younger than the last look into its folder
    with _OWN.named(top, folders):
        return importlib.import_module(name)


def is_installed(place: Path) -> bool:
    """Whether what lies there comes with Python or a package, whose version the environment tells."""
    return bool({"site-packages", "dist-packages"} & {*place.parts}) or place.is_relative_to(_STANDARD)


def is_users(place: Path) -> bool:
    """Whether what lies there is the user's own: neither installed nor ours."""
    return not is_installed(place) and not place.is_relative_to(_PACKAGE)


def find_installed(top: str) -> ModuleSpec | None:
    """Where Python itself finds a module that is no part of a package; nothing is run."""
    finders = (finder for finder in sys.meta_path if finder is not _OWN and hasattr(finder, "find_spec"))
    return next((spec for finder in finders if (spec := finder.find_spec(top, None)) is not None), None)


def find_beside(name: str, folders: Iterable[str], finders: dict[str, FileFinder] | None = None) -> ModuleSpec | None:
    """Where a module lies in one of the folders, as the last part of its name; nothing is run.

    Args:
        finders: what was seen in folders, by one who looks into them again and again.
    """
    finders = {} if finders is None else finders
    found = [finders.setdefault(folder, FileFinder(folder, *_LOADERS)).find_spec(name) for folder in folders]
    specs = [spec for spec in found if spec is not None]
    if whole := next((spec for spec in specs if spec.loader is not None), None):
        return whole
    if not specs:
        return None
    spec = ModuleSpec(name, None, is_package=True)  # without an __init__: in every folder of that name
    spec.submodule_search_locations = [place for each in specs for place in each.submodule_search_locations or ()]
    return spec


def folder_of(spec: ModuleSpec) -> Path:
    """The folder in which a module or a package lies."""
    places = spec.submodule_search_locations
    return Path(next(iter(places)) if places else spec.origin or "").absolute().parent


def _read_sources() -> None:
    """Have Python take no compiled code for what is not installed, and write none, whoever finds and loads it."""
    known, in_folder = SourceFileLoader.get_code, FileFinder.path_hook(*_LOADERS)

    def get_code(loader: SourceFileLoader, name: str) -> CodeType | None:
        path = loader.get_filename(name)
        return loader.source_to_code(loader.get_data(path), path) if is_users(Path(path)) else known(loader, name)

    def finder(folder: str) -> Any:
        if not is_users(Path(folder)):
            raise ImportError(folder)  # it is left to the finders of Python
        return in_folder(folder)

    SourceFileLoader.get_code = get_code  # type: ignore[method-assign, assignment]
    sys.path_hooks.insert(0, finder)
    for folder in filter(lambda each: is_users(Path(each)), [*sys.path_importer_cache]):
        del sys.path_importer_cache[folder]


def _importer() -> str:
    """The package of whoever imports: the first frame that is none of the import system's."""
    frame: FrameType | None = sys._getframe(1)  # no finder is told who asks
    while frame is not None:
        name = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if name != "importlib" and frame.f_globals is not globals():
            return name
        frame = frame.f_back
    return ""
