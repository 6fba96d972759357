"""Lines in a frame of letters: no colours, and plain letters where there are no others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from clrtool.core.schedules import FloatArray
from clrtool.words import printable, shortened

HEIGHT = 10
LEAST_WIDTH, LABEL = 40, 8
# What has to be in a terminal's encoding for the letters of a frame.
LETTERS = "⠿┤└─│"
# Dots of a Braille letter by row and column, from the base of its block.
_BRAILLE, _DOTS = 0x2800, ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
# Where lines of letters cross.
_BOTH = "*"


@dataclass(frozen=True)
class Axis:
    """The values from one end of an axis to the other, evenly or by their logarithms."""

    low: float
    high: float
    is_log: bool = False

    def places(self, values: FloatArray, cells: int) -> FloatArray:
        """Where values lie, from 0 for ``low`` to ``cells - 1`` for ``high``; what lies outside is at the end."""
        ends = np.array([self.low, self.high])
        if self.is_log:
            values, ends = np.log(values), np.log(ends)
        span = ends[1] - ends[0] or 1.0
        return np.asarray(np.clip((values - ends[0]) / span, 0, 1) * (cells - 1))


class Canvas:
    """A panel of ``height`` lines of text.

    Args:
        x, y: the axes; the first row is ``y.high``.
        width: letters in a line with the labels of the y axis, 40 at the least.
        ascii_only: stars in place of Braille dots, and a frame of plain letters.
    """

    def __init__(self, x: Axis, y: Axis, width: int, *, height: int = HEIGHT, ascii_only: bool = False) -> None:
        self.columns = max(width, LEAST_WIDTH) - LABEL - 1
        self._x, self._y, self._height, self._ascii = x, y, height, ascii_only
        self._cells = [[" "] * self.columns for _ in range(height)]
        self._dots = np.zeros((height, self.columns), dtype=np.int64)

    def line(self, x: FloatArray, y: FloatArray) -> None:
        """Draw a curve in dots, or in stars where there are none."""
        if self._ascii:
            self.letters(x, y, _BOTH)
            return
        for column, row in self._trace(x, y, 2, 4):
            self._dots[row // 4, column // 2] |= _DOTS[row % 4][column % 2]

    def letters(self, x: FloatArray, y: FloatArray, letter: str) -> None:
        """Draw a curve in one letter, to tell several apart without colours; a star is where two meet."""
        for column, row in self._trace(x, y, 1, 1):
            there = self._cells[row][column]
            self._cells[row][column] = letter if there in (" ", letter) else _BOTH

    def bar(self, x: float) -> int:
        """Draw a line from top to bottom behind the curves, and tell its column."""
        column = int(self._x.places(np.array([x]), self.columns)[0].round())
        for row, cells in enumerate(self._cells):
            if cells[column] == " " and not self._dots[row, column]:
                cells[column] = "|" if self._ascii else "│"
        return column

    def framed(self, title: str, x_name: str, pointers: Mapping[str, float] | None = None) -> str:
        """The lines with their axes; under the axis each of ``pointers`` with an arrow to its place, its bar above."""
        columns = {text: self.bar(x) for text, x in (pointers or {}).items()}
        side, corner, line = ("|", "+", "-") if self._ascii else ("┤", "└", "─")
        labels = {0: f"{self._y.high:.3g}", self._height - 1: f"{self._y.low:.3g}"}
        rows = (f"{labels.get(row, ''):>{LABEL - 1}} {side}{text}" for row, text in enumerate(self._rows()))
        start, end = (
            f"{value:,.0f}" if 1000 <= value < 1e9 else f"{value:.2g}" for value in (self._x.low, self._x.high)
        )
        ends = f"{start}{x_name:^{max(0, self.columns - len(start) - len(end))}}{end}"
        below = [*(_pointer(text, column, self.columns) for text, column in columns.items()), ends]
        axis = [f"{'':{LABEL}}{corner}{line * self.columns}", *(f"{'':{LABEL + 1}}{text}" for text in below)]
        return "\n".join([shortened(printable(title), self.columns), *rows, *axis])

    def _rows(self) -> Iterator[str]:
        for cells, dots in zip(self._cells, self._dots.tolist(), strict=True):
            letters = (chr(_BRAILLE + dot) if dot else cell for cell, dot in zip(cells, dots, strict=True))
            yield "".join(letters).rstrip()

    def _trace(self, x: FloatArray, y: FloatArray, across: int, down: int) -> Iterator[tuple[int, int]]:
        """The places of a curve without gaps: where it is steep, those between a column and the one before."""
        finite = np.isfinite(y)
        if not finite.any():
            return
        at = self._x.places(x[finite], self.columns * across)
        columns = np.arange(int(at[0].round()), int(at[-1].round()) + 1)
        cells = self._height * down
        rows = cells - 1 - self._y.places(np.interp(columns, at, y[finite]), cells)
        whole = rows.round().astype(int).tolist()
        for column, before, row in zip(columns.tolist(), [whole[0], *whole], whole, strict=False):
            step = 1 if row >= before else -1
            yield from ((column, between) for between in [*range(before + step, row, step), row])


def spanning(values: list[FloatArray]) -> Axis:
    """The axis from the lowest to the highest finite value."""
    every = np.concatenate([np.asarray(each, dtype=np.float64) for each in values])
    finite = every[np.isfinite(every)]
    return Axis(float(finite.min()), float(finite.max())) if len(finite) else Axis(0, 1)


def _pointer(text: str, column: int, columns: int) -> str:
    """A line with ``^ text`` where ``^`` points to the place, or ``text ^`` where there is no room."""
    right = f"{'':{column}}^ {text}"
    return right if len(right) <= columns else f"{text + ' ^':>{column + 1}}"
