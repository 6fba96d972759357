"""Files of clrtool's own, JSON or YAML: read whole, with one clear message when they are not what they should be.

A result carries a hash of itself, so that a number which a disk or a hand has changed is never taken for one that was
measured. A file with a plan alone has none: it is meant to be edited.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError

from clrtool.core.results.record import PLAN_VERSION, SCHEMA_VERSION
from clrtool.errors import ConfigError, MachineError, reason
from clrtool.files import read_text
from clrtool.words import is_newer, shown

YAML_ENDINGS = (".yaml", ".yml")
CONFIG = "config.yaml"
# What reading a file that was changed by hand or by a bad disk can raise.
DAMAGED = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


def load(file: Path) -> dict[str, Any]:
    """The values of a file, by its ending. Raises ConfigError if it cannot be read or is of another version."""
    with reading(file):
        try:
            text = read_text(file)
        except FileNotFoundError as error:
            raise ConfigError(_missing(file)) from error
        values = _from_yaml(text, file) if file.suffix.lower() in YAML_ENDINGS else _from_json(text)
    if not isinstance(values, dict):
        raise ConfigError(f"{file}: must hold one JSON object")
    version = values.get("schema_version")
    if is_newer(version, SCHEMA_VERSION):
        raise ConfigError(
            f"{file}: was written by a newer clrtool: schema_version is {shown(version)}, at most "
            f"{SCHEMA_VERSION} is read here: upgrade clrtool"
        )
    if type(version) is not int or version not in {PLAN_VERSION, SCHEMA_VERSION}:
        raise ConfigError(f"{file}: schema_version must be {PLAN_VERSION} or {SCHEMA_VERSION}, it is {version!r:.40}")
    if (version > PLAN_VERSION or "sha256" in values) and values.get("sha256") != sha256_of(values):
        raise changed(file)
    return values


def _missing(file: Path) -> str:
    if file.name != "result.json":
        return f"{file}: no such file"
    begun = (file.parent / "curve.csv").exists()
    return f"{file.parent} is not a finished run" + (
        "; the command that started it, without --fresh, resumes it" if begun else ""
    )


def own_files(folder: Path, names: Sequence[str], header: str, writer: str) -> list[str]:
    """Which of the files are in a folder, before any of them is read or replaced.

    Raises:
        ConfigError: they are not ours, by the first line of the config.
        MachineError: one of them is a link, which may lead to files of others, or no file.
    """
    saved, found = folder / CONFIG, [name for name in names if os.path.lexists(folder / name)]
    for place in (folder / name for name in found):
        if not stat.S_ISREG(place.lstat().st_mode):
            raise MachineError(
                f"{place}: is no plain file, so clrtool did not write it: remove it, or give another folder with -o DIR"
            )
    if found and not (saved.is_file() and saved.read_bytes().startswith(header.encode())):
        held = ", ".join(found)
        raise ConfigError(f"{folder} holds a {held} that {writer} did not write: give another folder with -o DIR")
    return found


def sealed(values: Mapping[str, Any], *, sort_keys: bool = False) -> str:
    """The text of a result, with the hash of itself."""
    whole = {**values, "sha256": sha256_of(values)}
    return json.dumps(whole, indent=2, sort_keys=sort_keys, allow_nan=False) + "\n"


def sha256_of(values: Mapping[str, Any]) -> str:
    """Hash of a result: of all its values but the hash itself, whatever the file looks like."""
    rest = {name: value for name, value in values.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def changed(file: Path) -> ConfigError:
    """The message for a file whose content is not what clrtool wrote."""
    return ConfigError(
        f"{file}: was changed since clrtool wrote it, for its sha256 is another: restore the file, or move it away and "
        "measure again with --fresh"
    )


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Turn what can be wrong with a file, and with the texts in it, into a ConfigError that names it."""
    try:
        yield
    except ConfigError:
        raise
    except (OSError, csv.Error, RecursionError, *DAMAGED) as error:
        raise ConfigError(f"{file}: cannot be read: {reason(error)}") from error


@contextmanager
def intact(file: Path) -> Iterator[None]:
    """Turn a rule that the values of a file break into a ConfigError that names it."""
    try:
        yield
    except ConfigError:
        raise
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"{file}: {'.'.join(('plan', *map(str, first['loc'])))}: {first['msg']}") from error
    except DAMAGED as error:
        what = f"it has no {error}" if isinstance(error, KeyError) else reason(error)
        if isinstance(error, AttributeError | TypeError):  # in words of Python about types
            what = "a value is of another kind than clrtool writes"
        raise ConfigError(f"{file}: is damaged or no result of clrtool: {what}") from error


def _from_json(text: str) -> Any:
    def refuse(number: str) -> NoReturn:
        raise ValueError(f"{number} is no number of JSON")

    return json.loads(text, parse_constant=refuse)


def _from_yaml(text: str, file: Path) -> Any:
    from clrtool.config.strict_yaml import read_yaml  # noqa: PLC0415 (ruamel.yaml takes 20 ms, and most files are JSON)

    document = read_yaml(text, str(file))
    if document.faults:
        raise ConfigError(*(f"{place}: {what}" for place, what in document.faults))
    return document.value
