"""Where commands print their result: on stdout, which holds nothing else."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from enum import StrEnum
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Protocol

import typer

from clrtool.cli.help import OUTPUT
from clrtool.report.text.progress import console, lacks_letters

if TYPE_CHECKING:
    from rich.console import RenderableType

Plain = Annotated[
    bool,
    typer.Option(
        "--plain",
        envvar="CLRTOOL_PLAIN",
        help="Use sentences, for screen readers and logs.",
        rich_help_panel=OUTPUT,
    ),
]


class ResultFormat(StrEnum):
    """How a result is printed."""

    table = "table"
    json = "json"


def _choose_format(context: typer.Context, wanted: ResultFormat | None) -> None:
    if wanted == ResultFormat.json:
        context.default_map = {"as_json": True}


# What other commands call it; help shows --json alone.
Format = Annotated[
    ResultFormat | None,
    typer.Option(
        "--format",
        metavar="table|json",
        help="Same as --json, or the table.",
        is_eager=True,  # before --json, whose default it sets
        callback=_choose_format,
        expose_value=False,
        hidden=True,
    ),
]


def asks_for_json(words: Sequence[str]) -> bool:
    """Whether a command line asks for JSON, be it one that cannot be read otherwise."""
    return "--json" in words or "--format=json" in words or ("--format", "json") in pairwise(words)


@contextlib.contextmanager
def readable_or_not() -> Iterator[None]:
    """Where something is shown before more is done, which does not depend on whether anybody reads it."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        silence_stdout()


def silence_stdout() -> None:
    """What is still buffered has nowhere to go, and Python would complain of that at its exit."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Chart(Protocol):
    """A picture in letters, as wide as it is told."""

    def __call__(self, width: int, *, ascii_only: bool) -> str: ...


def show(table: RenderableType, *, plain: bool) -> None:
    """A table on stdout; where plain words are wanted, its rows as sentences."""
    from clrtool.report.text.grid import spoken, unpadded

    if plain:
        from rich.text import Text

        console().print(Text(spoken(table)), soft_wrap=True)
    else:
        out = console()
        with out.capture() as printed:
            out.print(table)
        typer.echo(printed.get() if sys.stdout.isatty() else unpadded(printed.get()), nl=False)


def draw(chart: Chart) -> None:
    """A chart on stdout, as wide as the terminal, in letters that its encoding has."""
    from rich.text import Text

    out = console()
    out.print(Text(chart(out.width, ascii_only=lacks_letters(sys.stdout))), soft_wrap=True)
