"""Learning rates that somebody else computed, read from a CSV file."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np

from clrtool.core.schedules import FloatArray
from clrtool.errors import ConfigError
from clrtool.files import read_text
from clrtool.words import shown


def read_rates(file: Path) -> FloatArray:
    """The column ``lr`` of a CSV file with a header, or the last column of one without.

    Raises:
        ConfigError: the file cannot be read, holds no rows, or a value is no number; the message gives the line.
    """
    try:
        lines = io.StringIO(read_text(file).removeprefix("\ufeff"), newline="")
        rows = [(number, row) for number, row in enumerate(csv.reader(lines), 1) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{file}: cannot be read: {error}") from error
    column, names = -1, [name.strip().lower() for name in rows[0][1]] if rows else []
    if names and not _is_number(names[-1]):
        column = names.index("lr") if "lr" in names else -1
        rows = rows[1:]
    if not rows:
        raise ConfigError(f"{file}: holds no learning rates")
    rates = []
    for number, row in rows:
        try:
            rates.append(float(row[column]))
        except (IndexError, ValueError) as error:
            raise ConfigError(f"{file}:{number}: no learning rate: {shown(','.join(row))}") from error
    return np.array(rates)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
