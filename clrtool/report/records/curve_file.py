"""CSV files of others: curves that they measured, read for their bounds, and learning rates that they computed."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from clrtool.core.reading.curve import Curve, SweepOutcome
from clrtool.core.reading.metric import ACCURACY, LOSS, Metric
from clrtool.core.schedules import FloatArray
from clrtool.errors import ConfigError
from clrtool.files import read_text
from clrtool.report.records.record_file import reading
from clrtool.words import shortened, shown

# The names by which a column is known, capitals aside; the first that there is counts.
LR = ("lr", "learning_rate")
HIGHER = ("accuracy", "acc", "test_acc", "test_accuracy", "val_acc", "val_accuracy", "heldout_accuracy", "valid_acc")
LOWER = ("loss", "heldout_loss", "test_loss", "val_loss", "valid_loss")
ITERATION, SEED = ("iteration", "step", "iter"), ("seed",)
NAMES = f"{LR[0]}, and {HIGHER[0]}, {HIGHER[1]}, {HIGHER[2]}, {HIGHER[4]} or {LOWER[0]}"
# As many as a config can ask for.
MAX_SEEDS = 1000


class CurveFile(NamedTuple):
    """What a file holds: a curve for each seed, what was measured, and whether iterations are known."""

    curves: tuple[Curve, ...]
    metric: Metric
    timed: bool


def read_curves(file: Path) -> CurveFile:
    """Read ``lr,acc``, ``iteration,lr,test_acc,test_loss`` or clrtool's own ``curve.csv``, by the names of columns.

    Rows are in the order of the sweep; with a column ``seed`` there is a curve for each. Without accuracies the loss is
    read. An empty cell is a value that was not finite.

    Raises:
        ConfigError: the file cannot be read, a column is missing, or a cell is no number.
    """
    header, *rows = _rows(file) or [[]]
    columns = _columns(_names(header), file)
    values = list(_numbers(rows, columns, file))
    if len(values) < 3:
        raise ConfigError(f"{file}: a curve needs at least 3 rows, it has {len(values)}")
    metric = ACCURACY if "accuracy" in columns else LOSS
    if metric is ACCURACY and any(row["accuracy"] > 1 for row in values):
        values = [row | {"accuracy": row["accuracy"] / 100} for row in values]  # per cent
    by_seed: dict[int, list[dict[str, float]]] = {}
    for row in values:
        by_seed.setdefault(int(row.get("seed", 0)), []).append(row)
    if len(by_seed) > MAX_SEEDS:
        raise ConfigError(f"{file}: holds {len(by_seed):,} seeds; at most {MAX_SEEDS:,} are read")
    curves = [_curve(seed, rows, metric, file) for seed, rows in by_seed.items()]
    longest = max(curves, key=lambda curve: len(curve.lr))
    for curve in curves:
        if not np.allclose(curve.lr, longest.lr[: len(curve.lr)], rtol=1e-3):
            raise ConfigError(
                f"{file}: seeds {curve.seed} and {longest.seed} were not swept over the same learning rates"
            )
    return CurveFile(tuple(curves), metric, "iteration" in columns)


def read_rates(file: Path) -> FloatArray:
    """The column ``lr`` of a CSV file with a header, or the last column of one without.

    Raises:
        ConfigError: the file cannot be read, holds no rows, or a value is no number; the message gives the line.
    """
    rows = [(number, row) for number, row in enumerate(_rows(file), 1) if row]
    column, names = -1, _names(rows[0][1]) if rows else []
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


def _rows(file: Path) -> list[list[str]]:
    with reading(file):
        return list(csv.reader(io.StringIO(read_text(file), newline="")))


def _names(row: Sequence[str]) -> list[str]:
    return [name.strip().lower() for name in row]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _columns(header: Sequence[str], file: Path) -> Mapping[str, int]:
    """The place of each column that is known."""
    known = {"lr": LR, "accuracy": HIGHER, "loss": LOWER, "iteration": ITERATION, "seed": SEED}
    places = {what: header.index(name) for what, names in known.items() for name in reversed(names) if name in header}
    if "lr" not in places or not {"accuracy", "loss"} & places.keys():
        raise ConfigError(f"{file}:1: needs the columns {NAMES}; it has {shortened(', '.join(header)) or 'none'}")
    return places


def _numbers(rows: Iterable[list[str]], columns: Mapping[str, int], file: Path) -> Iterator[dict[str, float]]:
    for number, row in enumerate(rows, 2):
        if not row:
            continue
        try:
            cells = {what: row[place].strip() for what, place in columns.items()}
            found = {what: float(cell) if cell else math.nan for what, cell in cells.items()}
            int(found.get("seed", 0)), int(found.get("iteration", 0))
            yield found
        except (IndexError, OverflowError, ValueError) as error:
            raise ConfigError(f"{file}:{number}: not a row of numbers: {shown(','.join(row))}") from error


def _curve(seed: int, rows: Sequence[Mapping[str, float]], metric: Metric, file: Path) -> Curve:
    values = np.array([row["accuracy" if metric is ACCURACY else "loss"] for row in rows])
    unknown = np.full(len(rows), math.nan)
    try:
        if metric is ACCURACY and not ((values >= 0) & (values <= 1) | np.isnan(values)).all():
            raise ValueError("an accuracy is a share from 0 to 1, or per cent")
        if not np.isfinite(values[0]):
            raise ValueError("the first value must be finite")
        return Curve(
            seed=seed,
            outcome=SweepOutcome.COMPLETED,
            iteration=np.array([row.get("iteration", index) for index, row in enumerate(rows)]),
            epoch=unknown,
            lr=np.array([row["lr"] for row in rows]),
            train_loss=unknown,
            heldout_loss=np.zeros(len(rows)),  # finite: what is not measured cannot make a point unusable
            metric=values,
        )
    except ValueError as error:
        raise ConfigError(f"{file}: {error}") from error
