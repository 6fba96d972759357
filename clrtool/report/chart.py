"""The curve of a range test as text, for a terminal: no colours, and plain letters where there are no others."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from clrtool.core.record import RunRecord, SweepRecord
from clrtool.core.schedules import FloatArray
from clrtool.words import shortened

HEIGHT = 10
LEAST_WIDTH, LABEL = 40, 8
# Dots of a Braille letter by row and column, from the base of its block.
_BRAILLE, _DOTS = 0x2800, ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))


def range_test_chart(record: RunRecord, width: int = 80, *, ascii_only: bool = False) -> str:
    """Metric against learning rate, the mean over seeds as far as all of them went, and both bounds as lines.

    Args:
        width: letters in a line, 40 at the least.
        ascii_only: stars in place of Braille dots.
    """
    columns = max(width, LEAST_WIDTH) - LABEL - 1
    sweep, bounds = record.sweep, record.bounds
    lr, metric = _mean(sweep)
    low, high = float(metric.min()), float(metric.max())
    span = high - low or 1.0
    scale, dots = (1, 1) if ascii_only else (2, 4)
    at = _positions(lr, sweep, columns * scale)
    xs = np.arange(int(at.max()) + 1)
    rows = (HEIGHT * dots - 1) * (high - np.interp(xs, at, metric)) / span
    cells = _ascii(rows, columns) if ascii_only else _braille(rows, columns)
    marks = {"base_lr": bounds.base_lr, "max_lr": bounds.max_lr}
    places = {name: _place(value, sweep, columns) for name, value in marks.items() if value is not None}
    for place in places.values():
        for line in cells:
            line[place] = ("|" if ascii_only else "│") if line[place] == " " else line[place]
    return "\n".join(_framed(cells, low, high, sweep, places, marks, ascii_only=ascii_only))


def _mean(sweep: SweepRecord) -> tuple[FloatArray, FloatArray]:
    length = min(len(curve.lr) for curve in sweep.curves)
    return sweep.curves[0].lr[:length], np.mean([curve.metric[:length] for curve in sweep.curves], axis=0)


def _positions(lr: FloatArray, sweep: SweepRecord, columns: int) -> FloatArray:
    """Where learning rates lie among the columns, from the start to the end of the sweep."""
    ends = np.array([sweep.start_lr, sweep.end_lr])
    if sweep.spacing == "exponential":
        lr, ends = np.log(lr), np.log(ends)
    share = np.clip((lr - ends[0]) / (ends[1] - ends[0]), 0, 1)
    return np.asarray(share * (columns - 1))


def _place(lr: float, sweep: SweepRecord, columns: int) -> int:
    return int(_positions(np.array([lr]), sweep, columns)[0].round())


def _line(rows: FloatArray) -> Iterator[tuple[int, int]]:
    """The places of a line without gaps: where it is steep, those between a column and the one before."""
    whole = rows.round().astype(int).tolist()
    for x, (before, row) in enumerate(zip([whole[0], *whole], whole, strict=False)):
        step = 1 if row >= before else -1
        yield from ((x, between) for between in [*range(before + step, row, step), row])


def _ascii(rows: FloatArray, columns: int) -> list[list[str]]:
    cells = [[" "] * columns for _ in range(HEIGHT)]
    for x, row in _line(rows):
        cells[row][x] = "*"
    return cells


def _braille(rows: FloatArray, columns: int) -> list[list[str]]:
    dots = np.zeros((HEIGHT, columns), dtype=int)
    for x, row in _line(rows):
        dots[row // 4, x // 2] |= _DOTS[row % 4][x % 2]
    return [[chr(_BRAILLE + dot) if dot else " " for dot in line] for line in dots]


def _framed(
    cells: list[list[str]],
    low: float,
    high: float,
    sweep: SweepRecord,
    places: dict[str, int],
    marks: dict[str, float | None],
    *,
    ascii_only: bool,
) -> list[str]:
    """The lines with their axis: the metric at the left, learning rates and bounds below."""
    side, corner, line = ("|", "+", "-") if ascii_only else ("┤", "└", "─")
    labels = {0: f"{high:.3g}", len(cells) - 1: f"{low:.3g}"}
    body = [f"{labels.get(number, ''):>{LABEL - 1}} {side}{''.join(row).rstrip()}" for number, row in enumerate(cells)]
    columns = len(cells[0])
    axis = " " * LABEL + corner + line * columns
    start, end = f"{sweep.start_lr:.2g}", f"{sweep.end_lr:.2g}"
    ends = f"{start}{'learning rate':^{columns - len(start) - len(end)}}{end}"
    below = [_label(f"{name} {marks[name]:.3g}", place, columns) for name, place in places.items()]
    several = f", mean of {len(sweep.curves)} seeds" if len(sweep.curves) > 1 else ""
    title = shortened(f"{sweep.metric.label}{several}", columns)
    return [title, *body, axis, *(" " * (LABEL + 1) + text for text in (*below, ends))]


def _label(text: str, place: int, columns: int) -> str:
    """A line with ``^ text`` where ``^`` points to the place, or ``text ^`` where there is no room."""
    right = f"{'':{place}}^ {text}"
    return right if len(right) <= columns else f"{text + ' ^':>{place + 1}}"
