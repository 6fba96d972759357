"""The file of a config: YAML and the command line -> the tree, every fault reported at its file, line and column."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unicodedata import category

from pydantic import ValidationError

from clrtool.config.errors import dotted, explain, reading_order
from clrtool.config.schema import RangeTestConfig
from clrtool.config.shipped import shipped_configs
from clrtool.config.strict_yaml import MAX_CHARACTERS, MAX_DEPTH, Document, KeyPath, read_yaml
from clrtool.errors import ConfigError, MachineError, reason
from clrtool.files import read_text
from clrtool.words import count, nearest, shown

# Four bytes a character, of the most characters that are read.
MAX_BYTES = 4 * MAX_CHARACTERS
MAX_OVERRIDES = 500
# Characters in the name of a run folder.
MAX_NAME = 64
# Faults that are told at once; more would push the first off the screen.
SHOWN_FAULTS = 20


def find_config(source: str) -> Path:
    """A config by its path, or by the name of a shipped one. Raises ConfigError if there is neither."""
    if (path := Path(source)).is_file():
        return path
    shipped = shipped_configs()
    if path.is_dir() and source not in shipped:
        raise ConfigError(f"{source}: is a folder; give a YAML file or the name of a shipped config")
    if source not in shipped:
        what = "is no plain file" if path.exists() else "no such file"
        raise ConfigError(f"{source}: {what} and no shipped config; {nearest(source, shipped)}")
    return shipped[source]


def run_name(path: Path, fix: str = "give the folder with -o DIR") -> str:
    """The name of a config's own run folder: that of its file without the ending. ``fix`` is what a person may do.

    >>> run_name(Path("configs/my net-2.yaml"))
    'my net-2'

    Raises:
        ConfigError: it would name a hidden folder, one outside of ``runs/``, or one that is awkward to type.
    """
    name = path.stem
    if not names_a_run(path):
        raise ConfigError(
            f"{path}: {shown(name)} cannot name a run folder: letters, digits and ' ', '-', '_', '.' within them, at "
            f"most {MAX_NAME} in all; {fix}"
        )
    return name


def names_a_run(path: Path) -> bool:
    """Whether a run folder may be called as a config is.

    >>> names_a_run(Path("my net-2.yaml")), names_a_run(Path("-x.yaml"))
    (True, False)
    """
    name = path.stem
    plain = all(letter.isalnum() or letter in "._- " or category(letter).startswith("M") for letter in name)
    return plain and bool(name) and name[0] not in ".- " and name[-1] not in ". " and len(name) <= MAX_NAME


def load_config(path: Path, overrides: Sequence[str] = ()) -> RangeTestConfig:
    """Read and validate a config.

    Args:
        path: the YAML file.
        overrides: ``KEY=VALUE`` with a dotted key, typed as in YAML; they win over the file.

    Raises:
        ConfigError: with every fault of file and overrides, each at its place.
    """
    return _validate(_read(path, overrides))


@contextmanager
def located(path: Path, overrides: Sequence[str]) -> Iterator[None]:
    """Put its place in the config in front of every fault that is found later, with the config in use.

    A fault begins with the dotted name of its field; one that names no field of the config stays as it is.
    """
    try:
        yield
    except (ConfigError, MachineError) as error:
        places = _read(path, overrides).places
        told = [_with_place(fault, places) for fault in str(error).split("\n")]
        raise type(error)(*(told if isinstance(error, ConfigError) else ["\n".join(told)])) from error


def _with_place(fault: str, places: Mapping[KeyPath, tuple[str, str]]) -> str:
    names = re.split(r"[^\w.]", fault, maxsplit=1)[0].split(".")
    parts = tuple(int(name) if name.isdecimal() else name for name in names)
    known = [parts[:end] for end in range(len(parts), 0, -1) if parts[:end] in places]
    return f"{places[known[0]][1]}: {fault}" if known else fault


def _read(path: Path, overrides: Sequence[str]) -> Document:
    try:
        text = read_text(path, MAX_BYTES)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {reason(error)}") from error
    document = read_yaml(text, str(path))
    document.value = {} if document.value is None else document.value
    if not isinstance(document.value, dict):
        raise ConfigError(f"{path}:1:1: a config is a mapping of keys such as 'model:' and 'data:'")
    if len(overrides) > MAX_OVERRIDES or sum(map(len, overrides)) > MAX_CHARACTERS:
        raise ConfigError(
            f"command line: at most {MAX_OVERRIDES} overrides of {MAX_CHARACTERS:,} characters in all are read; put "
            "them into the file"
        )
    for override in overrides:
        _override(document, override)
    return document


def _override(document: Document, override: str) -> None:
    key, equals, text = override.partition("=")
    place = f"command line, {shown(override)}"
    path = tuple(key.split("."))
    if not equals or not all(path) or not key.isprintable() or len(path) > MAX_DEPTH:
        document.faults.append((place, "an override is KEY=VALUE with a dotted key, for example sweep.epochs=2"))
        return
    steps = _steps(document.value, path)
    value = read_yaml(text, place, at=steps)
    document.faults += value.faults
    document.faulty |= value.faulty
    target = document.value
    for depth, step in enumerate(steps[:-1], 1):
        document.places.setdefault(steps[:depth], (place, place))
        target = target.setdefault(step, {}) if isinstance(target, dict) else target[step]
        following = steps[depth]
        if isinstance(target, list) and not isinstance(following, int):
            fault = f"{dotted(steps[:depth])} is a list of {len(target)}, counted from 0, and {following} is not in it"
            document.faults.append((place, fault))
            return
        if not isinstance(target, dict | list):
            document.faults.append((place, f"{dotted(steps[:depth])} holds one value, not keys"))
            return
    target[steps[-1]] = value.value
    document.places |= value.places


def _steps(value: Any, parts: Sequence[str]) -> KeyPath:
    """The parts of a key, with the place in a list as a number.

    >>> _steps({"groups": [{"lr_ratio": 1}]}, ("groups", "0", "lr_ratio")), _steps({"a": [1]}, ("a", "1"))
    (('groups', 0, 'lr_ratio'), ('a', '1'))
    """
    steps: list[str | int] = []
    for part in parts:
        is_place = isinstance(value, list) and part.isdecimal() and int(part) < len(value)
        steps.append(int(part) if is_place else part)
        value = value[int(part)] if is_place else value.get(part) if isinstance(value, dict) else None
    return tuple(steps)


def _validate(document: Document) -> RangeTestConfig:
    config, faults = None, list(document.faults)
    try:
        config = RangeTestConfig.model_validate(document.value)
    except ValidationError as invalid:
        faults += explain(invalid, document, RangeTestConfig)
    if config is None or faults:
        told = [f"{place}: {message}" for place, message in sorted(faults, key=reading_order)]
        more = [f"and {count(len(told) - SHOWN_FAULTS, 'more fault')}"] if len(told) > SHOWN_FAULTS else []
        raise ConfigError(*told[:SHOWN_FAULTS], *more)
    _check_saved(config, document)
    return config


def _check_saved(config: RangeTestConfig, document: Document) -> None:
    """Raise ConfigError for a config that cannot be read again as it is saved with its run, every default in it."""
    try:
        read_yaml(config.to_yaml(), document.name)
    except ConfigError as error:
        what = str(error).removeprefix(f"{document.name}: ")
        raise ConfigError(f"{document.name}: with every default written out it is too large: {what}") from error
