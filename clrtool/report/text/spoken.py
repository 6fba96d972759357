"""A table in sentences, in the order in which it is read aloud. Nothing is printed here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text


def spoken(shown: RenderableType) -> str:
    """The title, and a line for each row: its first cell, a colon, and what the other cells say.

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
        said = _sentences(_named(headers[1:], others) if table.show_header else others)
        yield f"{first}: {said}" if first and said else first or said


def _named(headers: Iterable[str], cells: Iterable[str]) -> Iterator[str]:
    yield from (f"{header} {cell}" for header, cell in zip(headers, cells, strict=True) if cell)


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
