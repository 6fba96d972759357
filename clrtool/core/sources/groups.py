"""Lists of values, one for each parameter group of the optimizer: a schedule for each group."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from clrtool.core.schedules import Schedule
from clrtool.core.sources.parts import name_of
from clrtool.core.sources.registry import find_source, takes

_T = TypeVar("_T")
_R = TypeVar("_R")
_MOMENTA = ("base_momentum", "max_momentum")
_WARMUP = ("warmup_min_lr", "warmup_max_lr")
# The parameters of which a system takes a list; of any other a list is one value.
_LISTS = {
    "torch.optim.lr_scheduler.CyclicLR": ("max_lr", *_MOMENTA),
    "torch.optim.lr_scheduler.OneCycleLR": ("max_lr", *_MOMENTA),
    "torch.optim.lr_scheduler.LambdaLR": ("lr_lambda",),
    "torch.optim.lr_scheduler.MultiplicativeLR": ("lr_lambda",),
    "deepspeed.runtime.lr_schedules.WarmupLR": _WARMUP,
    "deepspeed.runtime.lr_schedules.WarmupDecayLR": _WARMUP,
    "deepspeed.runtime.lr_schedules.LRRangeTest": ("lr_range_test_min_lr",),
    "fastai.callback.schedule.fit_one_cycle": ("lr_max",),
    "fastai.callback.schedule.fit_flat_cos": ("lr",),
}
# Schedules of others, by what the parameter is called that holds them.
_PARTS = ("schedulers", "scheduler")


def groups_of(source: str, params: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    """The parameters of each group's schedule; what is no list is the same for all.

    Args:
        params: by the system's names; ``base_lr``, the optimizer's learning rate, may be a list wherever there is one.
            A list inside a part of torch's SequentialLR or ChainedScheduler counts too.

    Raises:
        ValueError: two lists are not of one length, or one is empty.

    >>> groups_of("torch:OneCycleLR", {"max_lr": [0.1, 0.2], "total_steps": 9})
    ({'max_lr': 0.1, 'total_steps': 9}, {'max_lr': 0.2, 'total_steps': 9})
    """
    full = find_source(source)
    lists = {name: each for name, value in params.items() if (each := _by_group(full, name, value)) is not None}
    if not lists:
        return (dict(params),)
    lengths = {name: len(each) for name, each in lists.items()}
    if len(set(lengths.values())) > 1 or not all(lengths.values()):
        found = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise ValueError(f"a list has a value for each parameter group, and here {found}: give every list as many")
    (count,) = set(lengths.values())
    return tuple(dict(params) | {name: each[at] for name, each in lists.items()} for at in range(count))


def each_group(groups: Sequence[_T], make: Callable[[_T], _R]) -> list[_R]:
    """What is made of each group. A ValueError says of which, where there are several."""
    made = []
    for number, group in enumerate(groups, 1):
        try:
            made.append(make(group))
        except ValueError as error:
            if len(groups) == 1:
                raise
            raise ValueError(f"group {number}: {error}") from error
    return made


def _by_group(full: str, name: str, value: Any) -> list[Any] | None:
    """The value of a parameter for each group; None where it is the same for all."""
    if isinstance(value, list | tuple) and _takes_list(full, name):
        return [*value]
    if name not in _PARTS or not full.startswith(("torch.", "accelerate.")):
        return None
    if not isinstance(value, list | tuple):
        return _groups_of_part(value)
    parts = [_groups_of_part(part) for part in value]
    counts = {len(groups) for groups in parts if groups is not None}
    if len(counts) > 1:
        raise ValueError(f"a list has a value for each parameter group, and parts of {name} have {sorted(counts)}")
    return [
        [part if groups is None else groups[at] for part, groups in zip(value, parts, strict=True)]
        for at in range(max(counts, default=0))
    ] or None


def _takes_list(full: str, name: str) -> bool:
    if name == "base_lr":
        return takes(full, name) and not full.startswith("caffe.")
    return name in _LISTS.get(full, ())


def _groups_of_part(part: Any) -> list[Any] | None:
    if isinstance(part, Schedule):
        return None
    full, params = name_of(part, "torch")
    if not any(_by_group(full, name, value) for name, value in params.items()):
        return None
    return [{full: each} for each in groups_of(full, params)]
