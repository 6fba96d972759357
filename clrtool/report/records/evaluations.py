"""Evaluations in a CSV file: what they belong to, the columns of a point, and the metric by its name."""

from __future__ import annotations

import csv
import hashlib
import io
import math
from collections.abc import Iterable, Sequence
from typing import Any

from clrtool.core.reading.curve import Point


def columns(keys: Sequence[str], metric: str) -> tuple[str, ...]:
    """The header of a table of evaluations."""
    return (*keys, *Point._fields[:-1], metric)


def csv_text(rows: Iterable[Sequence[Any]]) -> str:
    """Rows as text; a float as the shortest text that reads back to it, NaN as nothing."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    for row in rows:
        writer.writerow(["" if isinstance(value, float) and math.isnan(value) else value for value in row])
    return stream.getvalue()


def to_point(numbers: Sequence[str]) -> Point:
    """A point from its cells. Raises TypeError or ValueError where they are none."""
    iteration, *rest = numbers
    return Point(int(iteration), *(float(text) if text else math.nan for text in rest))


def text_sha256(text: str) -> str:
    """Hash of a text, however its lines end."""
    return hashlib.sha256("\n".join(text.splitlines()).encode()).hexdigest()
