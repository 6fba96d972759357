"""The commands by name. Each is imported when it is called, so that nobody waits for the others."""

from __future__ import annotations

import importlib
from functools import cache
from textwrap import fill
from typing import Any, get_type_hints

import typer
from typer.core import TyperGroup

from clrtool.cli.help import Command, lines, parts, with_defaults

# The first sentence of each command's help. A command is the function of this name in the file of this name.
SUMMARIES = {
    "rangetest": "Find base_lr and max_lr with an LR range test, and plan a schedule.",
    "merge": "Merge the shards of rangetest --seed-shard into one run.",
    "compare": "Train with several policies from the same seeds, and say which won.",
    "plan": "Plan a schedule in whole cycles: as a table, a file, or training code.",
    "plot": "Draw a range test, a comparison, or one or more schedules.",
    "init": "Write a config for the model and data in this folder, or those you name.",
    "guide": "Read a page of the guide, or list its topics.",
    "schema": "Print the JSON Schema of a config, for editors and other checkers.",
    "doctor": "Check that this machine can run a range test.",
}
OPTIONS = {
    "--version": "Show the versions of clrtool, Python and torch.",
    "--install-completion": "Install completion for the current shell.",
}


class Commands(TyperGroup):
    """All commands. Its help has a line for each."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        names: dict[str, Any] = dict.fromkeys(SUMMARIES)
        self.commands = names

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
        return _load(cmd_name) if cmd_name in self.commands else None

    def get_params(self, ctx: Any) -> list[Any]:
        return with_defaults(super().get_params(ctx))

    def format_usage(self, ctx: Any, formatter: Any) -> None:
        formatter.write(f"Usage: {ctx.command_path} COMMAND ...\n")

    def format_help(self, ctx: Any, formatter: Any) -> None:
        summary, examples, _ = parts(self.help or "")
        self.format_usage(ctx, formatter)
        formatter.write(f"\n{fill(summary, formatter.width)}\n")
        formatter.write("\nExamples:\n" + "".join(f"  {line}\n" for line in examples))
        for head, rows in (("Commands", SUMMARIES), ("Options", OPTIONS)):
            formatter.write(f"\n{head}:\n")
            sizes = formatter.width, max(map(len, rows))
            formatter.write("".join(f"{line}\n" for row in rows.items() for line in lines(*row, *sizes)))
        formatter.write(f"\n{ctx.command_path} COMMAND --help tells more about a command.\n")


@cache
def _load(name: str) -> Any:
    """A command, from its file."""
    function = getattr(importlib.import_module(f"clrtool.cli.{name}"), name)
    for each in get_type_hints(function, include_extras=True).values():
        for info in getattr(each, "__metadata__", ()):
            info.readable = False  # what is closed to this user is told by what opens it, with code 4
    alone = typer.Typer(add_completion=False, rich_markup_mode=None)
    alone.command(name, cls=Command)(function)
    return typer.main.get_command(alone)
