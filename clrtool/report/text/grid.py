"""The rich table of which all others are made."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rich import box
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


def _text(text: str) -> Text:
    return Text(printable(text))
