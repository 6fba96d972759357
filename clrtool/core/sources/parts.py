"""Schedules that are made of others: each part a name and its parameters, in the words of its own system."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from clrtool.core.schedules import Schedule
from clrtool.core.schedules.base import build
from clrtool.core.sources.registry import SOURCES, bind, find_source, takes

# How configs say which schedule they mean, beside {NAME: {parameters}}.
NAMES = ("type", "name", "_target_", "_component_", "class_path", "schedule", "class")
# Where the parameters are of one that has them apart.
APART = ({"params"}, {"init_args"})


def name_of(part: Any, system: str) -> tuple[str, dict[str, Any]]:
    """The full name of a part and its parameters.

    A part is ``{"type": NAME, ...}``, ``{NAME: {...}}``, or a name alone.

    >>> name_of({"type": "StepLR", "step_size": 3}, "torch")
    ('torch.optim.lr_scheduler.StepLR', {'step_size': 3})
    """
    if isinstance(part, str):
        name, params = part, {}
    elif isinstance(part, Mapping):
        key = next((word for word in NAMES if isinstance(part.get(word), str)), None)
        if key is not None:
            name, params = part[key], {word: value for word, value in part.items() if word != key}
            params = next(iter(params.values())) if set(params) in APART else params
        elif len(part) == 1 and isinstance(next(iter(part.values())), Mapping):
            ((name, params),) = part.items()
        else:
            raise ValueError(f"a part is {{type: NAME, parameters ...}} or {{NAME: {{parameters}}}}, got {part!r}")
    else:
        raise ValueError(f"a part is {{type: NAME, parameters ...}} or {{NAME: {{parameters}}}}, got {part!r}")
    return find_source(name if set(".:") & set(name) else f"{system}:{name}"), dict(params)


def read_part(part: Any, system: str, **defaults: Any) -> Schedule:
    """The schedule of a part; it gets those of the ``defaults`` that it takes and does not give itself."""
    if isinstance(part, Schedule):
        return part
    full, params = name_of(part, system)
    given = {name: value for name, value in defaults.items() if value is not None and takes(full, name)}
    return build(SOURCES[full], bind(full, given | params), full)


def check_listed(name: str, parts: object, at_least: int = 1) -> None:
    """Raise ValueError unless the parts of a schedule are a list of so many."""
    if not isinstance(parts, list | tuple) or len(parts) < at_least:
        raise ValueError(f"{name} must be a list of at least {at_least}, got {parts!r}")


def begins_of(milestones: Sequence[float], parts: int, name: str = "milestones") -> tuple[int, ...]:
    """Where the parts begin, the first at 0. Raises ValueError unless there is one milestone fewer than parts."""
    if not isinstance(milestones, list | tuple) or len(milestones) != parts - 1:
        raise ValueError(f"{parts} parts need {parts - 1} {name}, got {milestones!r}")
    return (0, *(int(milestone) for milestone in milestones))
