"""A schedule that a config names with its parameters: as the whole file, or as a section beside the optimizer's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clrtool.config.strict_yaml import Document
from clrtool.core.planning.finding import OPTIMIZERS
from clrtool.core.sources import takes
from clrtool.core.sources.parts import APART, NAMES, name_of
from clrtool.errors import ConfigError, as_config_error
from clrtool.report.trainings.found import Found, Known, Open

# What the sections are called by Hydra, torchtune, Lightning's command line and others.
_SCHEDULES, _OPTIMIZERS = ("lr_scheduler", "scheduler", "lr_schedule"), ("optimizer", "optim")


def find_section(document: Document, known: Known) -> Found | None:
    """The schedule of a section with its name, None if there is none."""
    values = document.value
    word = next((word for word in _SCHEDULES if isinstance(values.get(word), Mapping)), None)
    key = None if word is None else named(values[word])
    if word is None or key is None:
        return None
    place = f"{document.name}:{line_of(document, word, key)}"
    try:
        source, params = name_of(values[word], "torch")
    except ValueError as error:
        raise ConfigError(
            f"{place}: {word} is {values[word][key]!r}, and no schedule is known by that name: give it with --from"
        ) from error
    beside = next((each for each in _OPTIMIZERS if isinstance(values.get(each), Mapping)), "")
    kind, given = _optimizer(values.get(beside, {}))
    if takes(source, "base_lr") and "base_lr" not in params:
        lr = given.get("lr", Open("the optimizer's learning rate", line_of(document, word, key)))
        params["base_lr"] = Open(repr(lr), line_of(document, beside)) if isinstance(lr, str) else lr
    if takes(source, "num_training_steps") and "num_training_steps" not in params:  # its program counts them
        left_open = Open("what the program counts", line_of(document, word, key), "--iterations")
        params["num_training_steps"] = left_open if known.iterations is None else known.iterations
    # Lightning steps what its command line makes once per epoch; of the others the program says it
    return Found(place=place, source=source, params=params, optimizer=kind,
                 stepped="epoch" if key == "class_path" else None,
                 momentum=number(given.get("momentum")), weight_decay=number(given.get("weight_decay")))  # fmt: skip


def written_out(document: Document) -> Found | None:
    """A schedule by its name and parameters, which may be other schedules, as ``--from`` takes them."""
    key = named(document.value)
    if key is None:
        return None
    place = f"{document.name}:{line_of(document, key)}"
    with as_config_error(f"{place}: "):
        source, params = name_of(document.value, "torch")
    return Found(place=place, source=source, params=params)


def named(values: Mapping[str, Any]) -> str | None:
    """The key by which a mapping says what it makes."""
    return next((key for key in NAMES if isinstance(values.get(key), str)), None)


def _optimizer(section: Mapping[str, Any]) -> tuple[str | None, Mapping[str, Any]]:
    """Which of ``torch.optim`` it is, and its arguments."""
    key = named(section)
    known = {word.lower(): word for word in OPTIMIZERS}
    kind = known.get(str(section.get(key)).rpartition(".")[2].lower()) if key else None
    apart = next((name for (name,) in APART if isinstance(section.get(name), Mapping)), None)
    return kind, section if apart is None else section[apart]


def number(value: Any) -> float:
    """A number of an optimizer; 0 where a file does not say it."""
    return value if isinstance(value, int | float) else 0.0


def line_of(document: Document, *path: str) -> int:
    """The line of a key, or of the nearest one around it."""
    while path and path not in document.places:
        path = path[:-1]
    return int(document.places[path][0].rsplit(":", 2)[1])
