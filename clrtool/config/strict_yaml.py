"""YAML that means one thing: text -> plain values, the place of each, and every fault.

YAML 1.2 through ruamel.yaml, narrowed. ``1e-3``, ``3E-4`` and ``1e3`` are numbers. A plain scalar that two YAML
versions read differently (``010``, ``yes``, ``12:30``) is a fault, never silently something else. So are duplicate
keys, tags, anchors and aliases, numbers that are not finite, and texts too large or too deep to be a config.

The values are built while the text is parsed, so that whatever is refused costs no more than its own beginning.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    CollectionStartEvent,
    DocumentStartEvent,
    Event,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceStartEvent,
)
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from clrtool.errors import ConfigError
from clrtool.words import shortened, shown

KeyPath = tuple[str | int, ...]
Fault = tuple[str, str]  # its place, and what is wrong

# ruamel.yaml reads 3,000 values or 100,000 characters in a tenth of a second; weights of 1,000 classes fit.
MAX_CHARACTERS = 100_000
MAX_VALUES = 3_000
MAX_DEPTH = 32
MAX_NUMBER = 40  # characters; a longer one is a slip, and 5,000 digits make int() raise

# What no file, path or file name can hold: NUL, and halves of a character.
_UNWRITABLE = re.compile(r"[\0\ud800-\udfff]")
_CONSTANTS = dict.fromkeys(("", "~", "null", "Null", "NULL")) | {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_REAL = re.compile(r"[-+]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")
_AMBIGUOUS = (
    (re.compile(r"yes|no|on|off", re.IGNORECASE), "is true or false to some readers; write true or false"),
    (re.compile(r"[-+]?0[0-9_]+(\.[0-9]*)?([eE][-+]?[0-9]+)?"), "is octal to some readers; drop the zero in front"),
    (re.compile(r"[-+]?0[xXoObB][0-9a-fA-F_]+"), "is not a decimal number; write it in decimal"),
    (re.compile(r"[-+]?[0-9]+(_[0-9]+)+(\.[0-9_]*)?([eE][-+]?[0-9]+)?"), "is a number to some; drop the underscores"),
    (re.compile(r"[-+]?[0-9]+(:[0-9]+)+(\.[0-9]*)?"), "is a number to base 60 in YAML 1.1"),
    (re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}.*"), "is a date to some readers"),
    (re.compile(r"[-+]?\.?(inf|nan)", re.IGNORECASE), "is not a finite number"),
)  # fmt: skip


@dataclass
class Document:
    """A YAML text as plain values, with ``places[path]`` = the (key, value) positions as ``file:line:column``."""

    name: str
    depth: int = 0  # of the key whose value it is, from the command line: its place is its name alone
    value: Any = None
    places: dict[KeyPath, tuple[str, str]] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    faulty: set[KeyPath] = field(default_factory=set)


def read_yaml(text: str, name: str, at: KeyPath = ()) -> Document:
    """Read one YAML text; ``name`` is what its places begin with, ``at`` the key whose value it is, if it is one.

    Raises:
        ConfigError: the text is not YAML, is too large or too deep, or uses tags, anchors or aliases. Faults of
            single values do not raise, they are collected in ``Document.faults``.

    >>> read_yaml("sweep: {end_lr: 1e-3}", "a.yaml").value
    {'sweep': {'end_lr': 0.001}}
    >>> read_yaml("sweep: {end_lr: 010}", "a.yaml").faults[0][0]
    'a.yaml:1:17'
    """
    if len(text) > MAX_CHARACTERS:
        raise ConfigError(
            f"{name}: a config of {len(text):,} characters is refused; at most {MAX_CHARACTERS:,} are read"
        )
    document = Document(name, depth=len(at))
    document.places[at] = (name, name) if at else (f"{name}:1:1", f"{name}:1:1")
    try:
        events = _checked(text, document)
        first = next(events, None)
        document.value = None if first is None else _value(first, events, at, document)
        deque(events, maxlen=0)  # a fault may follow the value
    except (YAMLError, RecursionError, ValueError, OverflowError) as error:  # the last: an escape such as \UFFFFFFFF
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(_syntax_fault(error, name)) from error
    return document


def _checked(text: str, document: Document) -> Iterator[Event]:
    """The values of the one document as they are parsed, each refused if a config has no use for it."""
    depth, values, documents = document.depth, 0, 0
    for event in YAML(typ="safe", pure=True).parse(text):
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        values += isinstance(event, NodeEvent)
        documents += isinstance(event, DocumentStartEvent)
        fault = _refusal(event)
        if depth > MAX_DEPTH:
            fault = f"nested more than {MAX_DEPTH} levels deep"
        elif values > MAX_VALUES:
            fault = f"a config of more than {MAX_VALUES:,} values is refused"
        elif documents > 1:
            fault = "a second document; a config is one"
        if fault is not None:
            raise ConfigError(f"{_place(event, document)}: {fault}")
        if isinstance(event, NodeEvent | CollectionEndEvent):
            yield event


def _refusal(event: Event) -> str | None:
    """Why an event has no place in a config, if it has none."""
    if isinstance(event, NodeEvent) and event.anchor is not None:
        what = "alias" if isinstance(event, AliasEvent) else "anchor"
        return f"the {what} {shown(event.anchor)} is refused; write the value out"
    if (tag := getattr(event, "tag", None)) is not None:
        return f"the tag {shown(str(tag))} is refused; a config holds plain values only"
    if isinstance(event, ScalarEvent) and (found := _UNWRITABLE.search(event.value)):
        return f"the character U+{ord(found[0]):04X} is refused: no file can hold it; write another"
    return None


def _syntax_fault(error: Exception, name: str) -> str:
    mark = getattr(error, "problem_mark", None)
    place = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark is not None else name
    problem = error.problem if isinstance(error, MarkedYAMLError) else str(error).partition("\n")[0]
    return f"{place}: not valid YAML: {problem}"


def _value(event: Event, events: Iterator[Event], path: KeyPath, document: Document) -> Any:
    """The value that begins with ``event``; the rest of it is taken from ``events``."""
    place = _place(event, document)
    document.places.setdefault(path, (place, place))
    if isinstance(event, MappingStartEvent):
        return _mapping(events, path, document)
    if isinstance(event, SequenceStartEvent):
        return [_value(item, events, (*path, index), document) for index, item in enumerate(_until_end(events))]
    assert isinstance(event, ScalarEvent)
    if event.style not in (None, ""):
        return event.value  # quoted or a block: a text
    return _scalar(event.value, path, document)


def _until_end(events: Iterator[Event]) -> Iterator[Event]:
    """The first event of each value of a collection; who asks for the next one has taken the rest of the last."""
    while not isinstance(event := next(events), CollectionEndEvent):
        yield event


def _mapping(events: Iterator[Event], path: KeyPath, document: Document) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for event in _until_end(events):
        if (fault := _key_fault(event, result, path, document)) is not None:
            document.faults.append((_place(event, document), fault))
            aside = Document(document.name, document.depth)
            _value(event, events, (), aside)
            _value(next(events), events, (), aside)
            continue
        assert isinstance(event, ScalarEvent)
        key, value = event.value, next(events)
        document.places[*path, key] = (_place(event, document), _place(value, document))
        result[key] = _value(value, events, (*path, key), document)
    return result


def _key_fault(event: Event, before: Mapping[str, Any], path: KeyPath, document: Document) -> str | None:
    if not isinstance(event, ScalarEvent):
        return "a key must be a name"
    if event.value in before:
        first = document.places[*path, event.value][0]
        return f"duplicate key {shown(event.value)} (first at {first}); remove one of the two"
    return None


def _scalar(text: str, path: KeyPath, document: Document) -> Any:
    """A plain scalar as null, bool, int, float or str; what is ambiguous is a fault."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    fault = _ambiguity(text)
    if fault is None and _REAL.fullmatch(text):
        if len(text) > MAX_NUMBER:
            fault = f"is a number of more than {MAX_NUMBER} characters"
        elif _INTEGER.fullmatch(text):
            return int(text)
        elif math.isinf(float(text)):
            fault = "is not a finite number"
        else:
            return float(text)
    if fault is None:
        return text
    name, value = shortened(".".join(map(str, path))), shortened(text, MAX_NUMBER)
    document.faults.append((document.places[path][1], f"{name} = {value} {fault}, or quote it to mean the text"))
    document.faulty.add(path)
    return text


def _ambiguity(text: str) -> str | None:
    return next((why for pattern, why in _AMBIGUOUS if pattern.fullmatch(text)), None)


def quoted(value: Any) -> Any:
    """Plain values for ruamel.yaml to write, in which a text is quoted if it would not be read as itself."""
    if isinstance(value, dict):
        return {quoted(key): quoted(each) for key, each in value.items()}
    if isinstance(value, list):
        return list(map(quoted, value))
    if isinstance(value, str) and (_ambiguity(value) or "\x85" in value):
        return DoubleQuotedScalarString(value)
    return value


def _place(event: Event, document: Document) -> str:
    mark = event.start_mark
    return document.name if document.depth else f"{document.name}:{mark.line + 1}:{mark.column + 1}"
