"""A result that ``print`` and a notebook show as the command line shows it."""

from __future__ import annotations

import base64
import html
import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from clrtool.report.plots import Figure


class Shown:
    """What has tables, and perhaps a picture."""

    def tables(self) -> list[Table]:
        """What ``print`` shows, for rich."""
        raise NotImplementedError

    def plot(self) -> Figure | None:
        """The picture; None where there is none."""
        return None

    def __str__(self) -> str:
        from rich.console import Console

        from clrtool.report.text.grid import unpadded

        text = io.StringIO()
        console = Console(file=text, width=100, color_system=None, markup=False, highlight=False)
        console.print(*self.tables(), sep="\n")
        return unpadded(text.getvalue()).strip("\n")

    def _repr_html_(self) -> str:
        from clrtool.report.plots import drawn

        tables, figure = "".join(map(_in_html, self.tables())), self.plot()
        if figure is None:
            return tables
        image = base64.b64encode(drawn(figure, ".png")).decode()
        return f'{tables}<img width="800" alt="{html.escape(repr(self))}" src="data:image/png;base64,{image}">'


def _in_html(table: Table) -> str:
    rows = [*zip(*(column.cells for column in table.columns), strict=True)]
    if table.show_header:
        rows.insert(0, tuple(column.header for column in table.columns))
    lines = ["".join([*(_cell(each, "nowrap") for each in row[:-1]), _cell(row[-1], "normal")]) for row in rows]
    caption = f"<caption>{_escaped(table.title)}</caption>" if table.title else ""
    return f"<table>{caption}<tr>{'</tr><tr>'.join(lines)}</tr></table>"


def _cell(cell: Any, white_space: str) -> str:
    """A cell; names and numbers stay on one line, and sentences stand in the last column."""
    return f'<td style="text-align: left; vertical-align: top; white-space: {white_space}">{_escaped(cell)}</td>'


def _escaped(cell: Any) -> str:
    return html.escape(cell.plain if hasattr(cell, "plain") else str(cell)).replace("\n", "<br>")
