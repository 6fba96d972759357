"""The table of schedules that are known in another system's words."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from clrtool.core.schedules import Schedule
from clrtool.words import nearest

Reader = Callable[..., Schedule]
_R = TypeVar("_R", bound=Reader)
SOURCES: dict[str, Reader] = {}
# Whose schedules they are.
SYSTEMS: set[str] = set()
# Whose a name alone is where several systems have it.
_FIRST = ("torch", "keras")


def source(name: str) -> Callable[[_R], _R]:
    """Enter a reader under the full name of what it reads; its parameters have that system's names and defaults."""

    def enter(reader: _R) -> _R:
        SOURCES[name] = reader
        SYSTEMS.add(_words(name)[0])
        return reader

    return enter


def find_source(name: str) -> str:
    """The full name of a source by its full or short name: ``torch:CyclicLR``, ``CyclicLR``.

    A name alone that several systems have is torch's, or else Keras's.

    Raises:
        ValueError: no source has that name, or several have; the message lists them.
    """
    if name in SOURCES:
        return name
    words = _words(name)
    # transformers.get_scheduler:cosine is one of many of that function, so its last word names it.
    found = [full for full in SOURCES if _words(full)[-1] == words[-1]]
    found = [full for full in found if len(words) == 1 or _words(full)[0] == words[0]]
    first = [full for system in _FIRST for full in found if _words(full)[0] == system]
    if first or len(found) == 1:
        return (first or found)[0]
    if found:
        raise ValueError(f"{name!r} is the name of several schedules: {', '.join(found)}")
    short = [f"{_words(full)[0]}:{_words(full)[-1]}" for full in SOURCES]
    raise ValueError(f"no schedule is known as {name!r}; {nearest(name, short, show=100)}")


def bind(name: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a source with its defaults filled in. Raises ValueError for an unknown or missing one."""
    parameters = inspect.signature(SOURCES[name]).parameters
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return dict(params)  # it takes anything, and refuses it
    for given in params:
        if given not in parameters:
            raise ValueError(f"{name} has no parameter {given!r}; {nearest(given, parameters)}")
    values = {word: params.get(word, parameter.default) for word, parameter in parameters.items()}
    if missing := [word for word, value in values.items() if value is inspect.Parameter.empty]:
        raise ValueError(f"{name} needs {', '.join(missing)}; give each as NAME=VALUE")
    return values


def takes(name: str, parameter: str) -> bool:
    """Whether a source has a parameter of that name."""
    return parameter in inspect.signature(SOURCES[name]).parameters


def _words(full: str) -> list[str]:
    return re.split(r"[.:]", full)
