"""Values as source code, as a person would write them: one a line where they do not fit into one."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

# The longest line of what is printed.
WIDTH = 100


@dataclass(frozen=True)
class Name:
    """Source that stands for itself."""

    text: str


@dataclass(frozen=True)
class Call:
    """A call of ``name``, its ``first`` arguments without a name."""

    name: str
    first: tuple[Any, ...] = ()
    params: Mapping[str, Any] = field(default_factory=dict)


def source(value: Any, indent: float = 0) -> str:
    """A value as source that begins after ``indent`` characters of its line.

    >>> print(source(Call("Step", (Name("optimizer"),), {"sizes": [3, 4], "mode": "min"})))
    Step(optimizer, sizes=[3, 4], mode="min")
    """
    if not isinstance(value, Call | Mapping | list | tuple):
        return value.text if isinstance(value, Name) else json.dumps(value) if isinstance(value, str) else repr(value)
    opening, closing = _brackets(value)
    inside = ", ".join(label + source(item, -math.inf) for label, item in _items(value))
    alone = "," if isinstance(value, tuple) and len(value) == 1 else ""
    if indent + len(line := f"{opening}{inside}{alone}{closing}") <= WIDTH:
        return line
    inner = int(indent) + 4
    lines = (f"{' ' * inner}{label}{source(item, inner)},\n" for label, item in _items(value))
    return f"{opening}\n{''.join(lines)}{' ' * int(indent)}{closing}"


def calls(value: Any) -> Iterator[str]:
    """The names of all that is called in a value."""
    if isinstance(value, Call):
        yield value.name
    if isinstance(value, Call | Mapping | list | tuple):
        for _, item in _items(value):
            yield from calls(item)


def _brackets(value: Any) -> tuple[str, str]:
    if isinstance(value, Call):
        return f"{value.name}(", ")"
    return ("{", "}") if isinstance(value, Mapping) else ("[", "]") if isinstance(value, list) else ("(", ")")


def _items(value: Any) -> Iterator[tuple[str, Any]]:
    """What is between the brackets, each with what stands in front of it."""
    if isinstance(value, Call):
        yield from (("", item) for item in value.first)
        yield from ((f"{name}=", item) for name, item in value.params.items())
    elif isinstance(value, Mapping):
        yield from ((f"{source(name)}: ", item) for name, item in value.items())
    else:
        yield from (("", item) for item in value)
