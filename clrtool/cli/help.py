"""How help is laid out: usage, what a command does, examples, then its options by group, the rare ones on request.

Plain text, laid out without rich: a pipe and a screen reader get the same words, and it is there at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import fill
from typing import Any

import typer
from typer.core import TyperCommand

INPUT, RUN, DEVICE, MACHINES = "Input", "Run", "Device", "Seeds and machines"
CI, OUTPUT = "CI", "Output"
EXAMPLES = ("Example:", "Examples:")
# Columns of a name at the most; a longer one has a line of its own.
NAMES = 24
EVERYTHING = "--help-all"


class Rare(str):
    """A group, for an option in it that only ``--help-all`` shows."""

    __slots__ = ()


def rare(group: str) -> Rare:
    """The group of an option that few need."""
    return Rare(group)


class Command(TyperCommand):
    """A command whose help is grouped. Its docstring: a summary, ``Examples:`` with a command a line, and details."""

    def get_params(self, ctx: Any) -> list[Any]:
        return with_defaults(super().get_params(ctx))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if EVERYTHING in args:
            ctx.meta[EVERYTHING] = True
            typer.echo(ctx.get_help())
            ctx.exit()
        return super().parse_args(ctx, args)

    def format_usage(self, ctx: Any, formatter: Any) -> None:
        words = map(_metavar, _arguments(self))
        formatter.write(f"Usage: {ctx.command_path} {' '.join([*words, '[OPTIONS]'])}\n")

    def format_help(self, ctx: Any, formatter: Any) -> None:
        everything = bool(ctx.meta.get(EVERYTHING))
        summary, examples, details = parts(self.help or "")
        self.format_usage(ctx, formatter)
        formatter.write(f"\n{fill(summary, formatter.width)}\n")
        if examples:
            formatter.write("\nExamples:\n" + "".join(f"  {line}\n" for line in examples))
        if everything:
            formatter.write("".join(f"\n{fill(text, formatter.width)}\n" for text in details))
        left_out = self._write_groups(ctx, formatter, everything=everything)
        if left_out or (details and not everything):
            more = f"{left_out} more options and all details" if left_out else "all details"
            formatter.write(f"\n{ctx.command_path} {EVERYTHING} shows {more}.\n")

    def _write_groups(self, ctx: Any, formatter: Any, *, everything: bool) -> int:
        """Write the options by group; gives how many were left out."""
        left_out, groups = 0, dict[str, list[tuple[str, str]]]()
        for each in self.get_params(ctx):
            if getattr(each, "hidden", False) or each.name == "help":
                continue
            group = getattr(each, "rich_help_panel", None)
            if isinstance(group, Rare) and not everything:
                left_out += 1
                continue
            default = INPUT if each.param_type_name == "argument" else RUN
            groups.setdefault(str(group or default), []).append((_names(each), _told(each)))
        widest = max((len(name) for rows in groups.values() for name, _ in rows if len(name) <= NAMES), default=0)
        for group, rows in groups.items():
            formatter.write(f"\n{group}:\n")
            formatter.write("".join(f"{line}\n" for row in rows for line in lines(*row, formatter.width, widest)))
        return left_out


def with_defaults(params: list[Any]) -> list[Any]:
    """The parameters, with False where typer leaves the default of a flag at None, for which it imports pydantic."""
    for each in params:
        if getattr(each, "is_flag", False) and each.default is None:
            each.default = False
    return params


def parts(text: str) -> tuple[str, list[str], list[str]]:
    """Of a docstring: the summary, the examples and the details."""
    summary, *others = [part.strip() for part in text.strip().split("\n\n")]
    examples = [part for part in others if part.startswith(EXAMPLES)]
    commands = [line.strip() for part in examples for line in part.partition(":")[2].splitlines() if line.strip()]
    return " ".join(summary.split()), commands, [" ".join(part.split()) for part in others if part not in examples]


def _arguments(command: TyperCommand) -> list[Any]:
    return [each for each in command.params if each.param_type_name == "argument"]


def _metavar(param: Any) -> str:
    """What stands for a value. A flag has none."""
    return str(param.metavar or "") if not getattr(param, "is_flag", False) else ""


def _names(param: Any) -> str:
    names = [_metavar(param)]
    if param.param_type_name == "option":
        names = [", ".join(sorted(param.opts, key=len)), *filter(None, names)]
    return " ".join(names)


def _told(param: Any) -> str:
    """The help of an option with its default, where that says something."""
    default = param.default
    shows = default not in (None, "", False) and not callable(default) and "[default" not in (param.help or "")
    return f"{param.help}  [default: {getattr(default, 'value', default)}]" if shows else str(param.help)


def lines(name: str, told: str, width: int, names: int) -> Iterator[str]:
    """A row in two columns."""
    indent = " " * (names + 4)
    text = fill(told, width, initial_indent=indent, subsequent_indent=indent)
    if len(name) > names:
        yield f"  {name}"
        yield text
    else:
        yield f"  {name:{names}}  {text[names + 4 :]}"
