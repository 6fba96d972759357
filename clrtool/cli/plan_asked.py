"""The command line of ``clrtool plan``, as it was given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from clrtool.errors import ConfigError
from clrtool.words import count

_T = TypeVar("_T")
# The options that a plan is made of, and those that say what it is to be like.
NUMBERS = ("base_lr", "max_lr", "iterations_per_epoch")
WISHES = ("policy", "epochs", "stepsize_epochs", "cycles", "warmup_epochs", "momentum")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The command line of ``clrtool plan``; of its ``options`` those in ``NUMBERS`` and ``WISHES`` count."""

    words: Sequence[str] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    schedule: str | None = None
    iterations: int | None = None
    stages: Sequence[str] = ()
    csv: Path | None = None
    stepped: str = "iteration"
    optimizer: str | None = None
    batch_size: int | None = None

    @property
    def source(self) -> str | None:
        """The word that is no KEY=VALUE."""
        sources = [word for word in self.words if not is_pair(word)]
        if len(sources) > 1:
            raise ConfigError(f"plan takes one source, not {', '.join(sources)}; clrtool plot overlays several")
        return sources[0] if sources else None

    @property
    def title(self) -> str:
        if self.csv is not None:
            return str(self.csv)
        return Path(self.source).resolve().stem if self.source else self.schedule or "plan"

    @property
    def training(self) -> Path | None:
        """The file of a training that is the source, if it is one."""
        from clrtool.report.trainings.read import is_training

        file = Path(self.source) if self.source else None
        return file if file is not None and self.schedule is None and is_training(file) else None

    @property
    def iterations_per_epoch(self) -> int | None:
        return self.options.get("iterations_per_epoch")

    def params(self) -> dict[str, Any]:
        """The KEY=VALUE words but ``group``, typed by YAML; what is no YAML value, such as a lambda, stays a text."""
        return {key: value for key, value in self._pairs().items() if key != "group"}

    def _pairs(self) -> dict[str, Any]:
        pairs = [word.split("=", 1) for word in self.words if word != self.source]
        foreign = self.schedule is not None or self.training is not None
        for key, _ in pairs:
            option = "stage" if key == "stages" else key
            if not foreign and option in (*NUMBERS, *WISHES, "stage"):
                raise ConfigError(f"{key}=...: give it as --{option.replace('_', '-')}")
            if sum(key == other for other, _ in pairs) > 1:
                raise ConfigError(f"{key}=... is given twice")
        return {key: _value(key, text) for key, text in pairs}

    def of_group(self, whole: _T, groups: Sequence[_T]) -> _T:
        """What is of all parameter groups, or that of the one that ``group=N`` says."""
        number = self._pairs().get("group")
        if number is None:
            return whole
        if number not in range(1, len(groups) + 1):
            has = f"{self.title} has {count(len(groups), 'parameter group')}, counted from 1"
            raise ConfigError(f"group={number}: {has}")
        chosen: _T = groups[number - 1]
        return chosen

    def given(self) -> dict[str, Any]:
        """The options that were used."""
        return {name: self.options[name] for name in (*NUMBERS, *WISHES) if self.options.get(name) is not None}

    def momentum(self) -> dict[str, Any]:
        """The option of that name, as an argument of a plan."""
        text = self.options["momentum"]
        if text is None:
            return {}
        return {"momentum": two_numbers(text, f"--momentum {text!r}", "LOW,HIGH, such as 0.85,0.95")}

    def refuse(self, what: str, *names: str) -> None:
        """Raise ConfigError if options were used that have no meaning with ``what``."""
        used = [f"--{name.replace('_', '-')}" for name in self.given() if name in names]
        if used:
            raise ConfigError(f"{', '.join(used)} {'has' if len(used) == 1 else 'have'} no meaning with {what}")


def is_pair(word: str) -> bool:
    """Whether a word is KEY=VALUE and not the name of a file that has a = in it."""
    if "=" not in word:
        return False
    try:
        return not Path(word).exists()
    except OSError:  # too long for a file
        return True


def two_numbers(text: str, told: str, form: str) -> tuple[float, float]:
    """The numbers of an option LOW,HIGH; ``told`` is how a message names it."""
    try:
        low, high = map(float, text.split(","))
    except ValueError as error:
        raise ConfigError(f"{told}: must be two numbers, {form}") from error
    return low, high


def _value(key: str, text: str) -> Any:
    from clrtool.config.strict_yaml import read_yaml

    if text.lstrip().startswith("lambda"):
        return text
    document = read_yaml(text, f"command line, '{key}={text}'", at=(key,))
    if document.faults:
        raise ConfigError(*(f"{place}: {what}" for place, what in document.faults))
    return document.value
