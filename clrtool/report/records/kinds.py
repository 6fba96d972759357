"""Whether the values of a record that was read have the types that its classes give them: a file may hold anything."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")
# No number of ours is larger, and a larger one is none in double precision or in a message.
_MOST = 2**63


def checked(record: T, written: Callable[[T], str]) -> T:
    """The record as it is. Raises what shows that its values do not fit their types, or one another.

    Args:
        written: makes the file of it, with what follows from the values.

    Raises:
        ValueError: a value is of another type than it should be; the text names it. Others come from ``written``.
    """
    if (place := next(_wrong(record, type(record), ""), None)) is not None:
        raise ValueError(f"{place.removeprefix('.')} is of another kind than clrtool writes")
    written(record)
    return record


def _wrong(value: Any, hint: Any, place: str) -> Iterator[str]:
    """The places, below this one, of values that do not fit; of a kind that is not known here all do."""
    kind, parts = get_origin(hint) or hint, get_args(hint)
    if kind is Any:
        return
    if kind in (Union, UnionType):
        found = [next(_wrong(value, each, place), None) for each in parts]
        yield from [] if None in found else [max(filter(None, found), key=len)]
    elif kind is tuple and isinstance(value, tuple):
        hints = parts[:1] * len(value) if parts[1:] == (...,) else parts
        yield from [place] if len(hints) != len(value) else []
        for number, (each, own) in enumerate(zip(value, hints, strict=False)):
            yield from _wrong(each, own, f"{place}.{number}")
    elif isinstance(value, Mapping) and isinstance(kind, type) and issubclass(kind, Mapping):
        for name, each in value.items():
            yield from _wrong(name, parts[0], f"{place}.{name}")
            yield from _wrong(each, parts[1], f"{place}.{name}")
    elif isinstance(kind, type) and isinstance(value, kind) and _fields(kind):
        for name, own in _fields(kind).items():
            yield from _wrong(getattr(value, name), own, f"{place}.{name}")
    elif not _fits(value, kind, parts):
        yield place


def _fits(value: Any, kind: Any, parts: tuple[Any, ...]) -> bool:
    """Whether a value that has no parts is of a kind."""
    if kind is Literal:
        return value in parts
    if kind in (int, float):
        numbers = (int,) if kind is int else (int, float)
        is_small = not isinstance(value, int) or abs(value) <= _MOST
        return isinstance(value, numbers) and is_small
    is_ours = kind in (str, bool, NoneType, tuple) or (isinstance(kind, type) and issubclass(kind, Enum | Mapping))
    return not is_ours or isinstance(value, kind)


@cache
def _fields(kind: type) -> dict[str, Any]:
    """The fields of a record by name, with their types; none of what is no record."""
    if not (dataclasses.is_dataclass(kind) or hasattr(kind, "_fields")):
        return {}
    names = getattr(kind, "_fields", None) or [field.name for field in dataclasses.fields(kind)]
    hints = get_type_hints(kind)
    return {name: hints[name] for name in names}
