"""What a shell completes: names of configs and of runs, without a library that would make it wait."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from clrtool.config.shipped import shipped_configs
from clrtool.report.programs.formats import FORMATS


def configs(incomplete: str) -> list[str]:
    """Shipped configs by name, and YAML files by path."""
    return _beginning([*shipped_configs(), *_paths(incomplete, (".yaml", ".yml"))], incomplete)


def runs(incomplete: str) -> list[str]:
    """Finished runs in ``runs/`` by name, and folders and files by path."""
    names = sorted(path.parent.name for path in Path("runs").glob("*/result.json"))
    return _beginning([*names, *_paths(incomplete, (".json", ".yaml"))], incomplete)


def formats(incomplete: str) -> list[str]:
    """What a plan can be printed as."""
    return _beginning(("table", *FORMATS), incomplete)


def _paths(incomplete: str, endings: tuple[str, ...]) -> Iterable[str]:
    """Folders, and files with one of the endings, in the folder of what was typed so far."""
    folder = Path(incomplete if incomplete.endswith("/") else Path(incomplete).parent)
    found = sorted(folder.glob("[!.]*")) if folder.is_dir() else []
    yield from (f"{path}/" for path in found if path.is_dir())
    yield from (str(path) for path in found if path.suffix in endings)


def _beginning(names: Iterable[str], incomplete: str) -> list[str]:
    """The names that go on as was typed. A folder alone is left to the shell, which puts no space behind it."""
    found = [name for name in names if name.startswith(incomplete)]
    return [] if len(found) == 1 and found[0].endswith("/") else found
