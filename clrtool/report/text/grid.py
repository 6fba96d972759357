"""Rows as a rich table, of which all others are made, and a table in sentences. Nothing is printed here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Column, Table
from rich.text import Text

from clrtool.words import printable


def grid(rows: Iterable[Sequence[str]], title: str = "", header: Sequence[str] = (), **look: Any) -> Table:
    """Rows of one length as a table in which neither rich markup nor a control character has a meaning.

    Args:
        look: what rich is told besides.
    """
    first, *rest = rows
    columns = (Column(_text(name), overflow="fold") for name in header or ("",) * len(first))
    table = Table(*columns, title=_text(title) if title else None, title_justify="left", show_header=bool(header),
                  pad_edge=False, **{"box": box.SIMPLE_HEAD, **look})  # fmt: skip
    for row in (first, *rest):
        table.add_row(*map(_text, row))
    return table


def unpadded(printed: str) -> str:
    """What rich has printed, without the spaces with which it fills its lines.

    >>> unpadded("a   \\n  b \\n")
    'a\\n  b\\n'
    """
    return "\n".join(map(str.rstrip, printed.split("\n")))


def spoken(shown: RenderableType) -> str:
    """A table as it is read aloud: the title, and a line a row: its first cell, a colon, and what the others say.

    >>> table = Table("policy", "accuracy", title="two policies")
    >>> table.add_row("fixed", "0.98")
    >>> table.add_row("cosine", "0.97")
    >>> print(spoken(table))
    two policies
    fixed: accuracy 0.98.
    cosine: accuracy 0.97.
    """
    if isinstance(shown, Group):
        return "\n".join(map(spoken, shown.renderables))
    if isinstance(shown, Table):
        return "\n".join([*([_words(shown.title)] if shown.title else []), *_lines(shown)])
    return _words(shown)


def _lines(table: Table) -> Iterator[str]:
    headers = [_words(column.header) for column in table.columns]
    for cells in zip(*(column.cells for column in table.columns), strict=True):
        first, *others = map(_words, cells)
        if table.show_header:
            others = [f"{header} {cell}" for header, cell in zip(headers[1:], others, strict=True) if cell]
        said = _sentences(others)
        yield f"{first}: {said}" if first and said else first or said


def _sentences(parts: Iterable[str]) -> str:
    """What begins with a capital is a sentence of its own; the rest goes on."""
    said = ""
    for part in filter(None, parts):
        pause = " " if said.endswith((".", ":")) else ". " if part[0].isupper() else ", "
        said += pause + part if said else part
    return said if not said or said.endswith((".", ":")) else f"{said}."


def _words(cell: RenderableType | None) -> str:
    """What a cell says in one line; what it has in lines of its own is set off by commas."""
    text = cell.plain if isinstance(cell, Text) else str(cell or "")
    return ", ".join(line for line in text.splitlines() if line)


def _text(text: str) -> Text:
    return Text(printable(text))
