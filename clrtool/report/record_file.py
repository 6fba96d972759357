"""Files of clrtool's own, JSON or YAML: read whole, with one clear message when they are not what they should be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from clrtool.core.record import SCHEMA_VERSION
from clrtool.errors import ConfigError
from clrtool.files import read_text

YAML_ENDINGS = (".yaml", ".yml")
# What reading a file that was changed by hand or by a bad disk can raise.
DAMAGED = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


def load(file: Path) -> dict[str, Any]:
    """The values of a file, by its ending. Raises ConfigError if it cannot be read or is of another version."""
    try:
        text = read_text(file)
        values = _from_yaml(text, file) if file.suffix.lower() in YAML_ENDINGS else json.loads(text)
    except ConfigError:
        raise
    except FileNotFoundError as error:
        what = f"{file.parent} is not a finished run" if file.name == "result.json" else f"{file}: no such file"
        raise ConfigError(what) from error
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise ConfigError(f"{file}: cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{file}: must hold one JSON object")
    if values.get("schema_version") != SCHEMA_VERSION:
        found = values.get("schema_version")
        raise ConfigError(f"{file}: schema_version must be {SCHEMA_VERSION}, it is {found!r}")
    return values


def damaged(file: Path, error: Exception) -> ConfigError:
    """The message for a file whose values break a rule."""
    if isinstance(error, ConfigError):
        return error
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return ConfigError(f"{file}: {'.'.join(('plan', *map(str, first['loc'])))}: {first['msg']}")
    what = f"it has no {error}" if isinstance(error, KeyError) else str(error)
    return ConfigError(f"{file}: is damaged or no result of clrtool: {what}")


def _from_yaml(text: str, file: Path) -> Any:
    from clrtool.strict_yaml import read_yaml  # noqa: PLC0415 (ruamel.yaml takes 20 ms, and most files are JSON)

    document = read_yaml(text, str(file))
    if document.faults:
        raise ConfigError(*(f"{place}: {what}" for place, what in document.faults))
    return document.value
