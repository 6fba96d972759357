"""YAML that means one thing: text -> plain values, the place of each, and every fault.

YAML 1.2 through ruamel.yaml, narrowed. ``1e-3``, ``3E-4`` and ``1e3`` are numbers. A plain scalar that two YAML
versions read differently (``010``, ``yes``, ``12:30``) is a fault, never silently something else. So are duplicate
keys, tags, anchors and aliases, numbers that are not finite, and texts too large or too deep to be a config.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, NodeEvent
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from clrtool.errors import ConfigError

KeyPath = tuple[str | int, ...]
Fault = tuple[str, str]  # its place, and what is wrong

MAX_CHARACTERS = 1_000_000
MAX_DEPTH = 32
MAX_NUMBER = 40  # characters; a longer one is a slip, and 5,000 digits make int() raise

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
    inline: bool = False  # a value from the command line: its place is its name alone
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
    document = Document(name, inline=bool(at))
    try:
        _check_events(text, name)
        root = YAML(pure=True).compose(text)
    except (YAMLError, RecursionError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(_syntax_fault(error, name)) from error
    document.places[at] = (name, name) if at else (f"{name}:1:1", f"{name}:1:1")
    if root is not None:
        document.value = _value(root, at, document)
    return document


def _check_events(text: str, name: str) -> None:
    """Refuse what a config has no use for before anything is composed from it."""
    depth = 0
    for event in YAML(pure=True).parse(text):
        place = f"{name}:{event.start_mark.line + 1}:{event.start_mark.column + 1}"
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise ConfigError(f"{place}: nested more than {MAX_DEPTH} levels deep")
        if isinstance(event, NodeEvent) and event.anchor is not None:
            what = "alias" if isinstance(event, AliasEvent) else "anchor"
            raise ConfigError(f"{place}: the {what} {event.anchor!r} is refused; write the value out")
        if getattr(event, "tag", None) is not None:
            raise ConfigError(f"{place}: the tag {str(event.tag)!r} is refused; a config holds plain values only")


def _syntax_fault(error: Exception, name: str) -> str:
    mark = getattr(error, "problem_mark", None)
    place = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark is not None else name
    problem = error.problem if isinstance(error, MarkedYAMLError) else str(error).partition("\n")[0]
    return f"{place}: not valid YAML: {problem}"


def _value(node: Node, path: KeyPath, document: Document) -> Any:
    place = _place(node, document)
    document.places.setdefault(path, (place, place))
    if isinstance(node, MappingNode):
        return _mapping(node, path, document)
    if isinstance(node, SequenceNode):
        return [_value(item, (*path, index), document) for index, item in enumerate(node.value)]
    assert isinstance(node, ScalarNode)
    if node.style not in (None, ""):
        return node.value  # quoted or a block: a text
    return _scalar(node.value, path, document)


def _mapping(node: MappingNode, path: KeyPath, document: Document) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        place = _place(key_node, document)
        if not isinstance(key_node, ScalarNode):
            document.faults.append((place, "a key must be a name"))
            continue
        key = str(key_node.value)
        if key in result:
            first = document.places[*path, key][0]
            document.faults.append((place, f"duplicate key {key!r} (first at {first}); remove one of the two"))
            continue
        document.places[*path, key] = (place, _place(value_node, document))
        result[key] = _value(value_node, (*path, key), document)
    return result


def _scalar(text: str, path: KeyPath, document: Document) -> Any:
    """A plain scalar as null, bool, int, float or str; what is ambiguous is a fault."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    fault = next((why for pattern, why in _AMBIGUOUS if pattern.fullmatch(text)), None)
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
    shown = text if len(text) <= MAX_NUMBER else text[: MAX_NUMBER - 3] + "..."
    name = ".".join(map(str, path))
    document.faults.append((document.places[path][1], f"{name} = {shown} {fault}, or quote it to mean the text"))
    document.faulty.add(path)
    return text


def _place(node: Node, document: Document) -> str:
    return (
        document.name if document.inline else f"{document.name}:{node.start_mark.line + 1}:{node.start_mark.column + 1}"
    )
