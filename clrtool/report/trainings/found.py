"""A schedule that was found in a file of a training, and what of it only the user can say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from clrtool.core.planning.finding import Stepped
from clrtool.core.sources import find_source, takes
from clrtool.errors import ConfigError
from clrtool.words import nearest, shortened


@dataclass(frozen=True)
class Open:
    """A value that the file leaves to something else: how it is written there, its line, the option that says it."""

    text: str
    line: int
    option: str = ""


@dataclass(frozen=True)
class Known:
    """What the user says of a training: its length, that of an epoch, and values that the file leaves open."""

    iterations: int | None = None
    iterations_per_epoch: int | None = None
    values: Mapping[str, Any] = field(default_factory=dict)

    @property
    def epochs(self) -> int | None:
        if self.iterations is None or self.iterations_per_epoch is None:
            return None
        return max(1, round(self.iterations / self.iterations_per_epoch))


@dataclass(frozen=True, kw_only=True)
class Found:
    """A schedule in the words of its own system, and how its training uses it.

    ``stepped`` is None where the file does not say it, ``optimizer`` where it is none of ``torch.optim``.
    """

    place: str
    source: str
    params: Mapping[str, Any]
    stepped: Stepped | None = "iteration"
    optimizer: str | None = None
    momentum: float = 0.0
    weight_decay: float = 0.0
    iterations: int | None = None

    @property
    def command(self) -> str:
        """It in the words of ``plan --from``."""
        words = [f"{name}={shortened(_written(value), 60)}" for name, value in self.params.items()]
        return " ".join([f"--from {self.source}", *words])


def completed(found: Sequence[Found], known: Known) -> tuple[Found, ...]:
    """The schedules with the user's values in them.

    Raises:
        ConfigError: a value is still open, or one was given that no schedule takes.
    """
    for name in known.values:
        if not any(takes(each.source, name) for each in found):
            valid = {parameter for each in found for parameter in each.params}
            raise ConfigError(f"{name}=...: no schedule of this file takes it; {nearest(name, valid)}")
    whole = [replace(each, params=dict(each.params) | _taken(each.source, known.values)) for each in found]
    faults = [fault for each in whole for fault in _open(each)]
    if faults:
        raise ConfigError(*faults)
    return tuple(whole)


def known_source(name: str, place: str) -> str:
    """The full name of a schedule. Raises ConfigError with the place where none has that name."""
    try:
        return find_source(name)
    except ValueError as error:
        raise ConfigError(f"{place}: {error}") from error


def _taken(source: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if takes(source, name)}


def _open(found: Found) -> list[str]:
    file = found.place.rpartition(":")[0]
    return [
        f"{file}:{each.line}: {name} is {shortened(each.text)}, which this file does not say: "
        f"give {each.option or f'it as {name}=VALUE'}"
        for name, value in found.params.items()
        for each in _opens(value)
    ]


def _opens(value: Any) -> list[Open]:
    if isinstance(value, Open):
        return [value]
    values = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return [each for item in values for each in _opens(item)]


def _written(value: Any) -> str:
    text = str(value).replace(", ", ",")
    return f"'{text}'" if set(text) & set(" ()[]{}") else text
