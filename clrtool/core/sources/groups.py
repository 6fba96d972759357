"""torch's lists of values, one for each parameter group: a schedule for each group."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clrtool.core.sources.registry import find_source

# The parameters of which torch takes a list; of any other a list is one value.
_LISTS = {
    "torch.optim.lr_scheduler.CyclicLR": ("base_lr", "max_lr", "base_momentum", "max_momentum"),
    "torch.optim.lr_scheduler.OneCycleLR": ("max_lr", "base_momentum", "max_momentum"),
    "torch.optim.lr_scheduler.LambdaLR": ("lr_lambda",),
    "torch.optim.lr_scheduler.MultiplicativeLR": ("lr_lambda",),
}


def groups_of(source: str, params: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    """The parameters of each group's schedule; what is no list is the same for all.

    Args:
        params: by torch's names; ``base_lr`` may be a list for any scheduler of torch, as the optimizer's groups have
            a learning rate each.

    Raises:
        ValueError: two lists are not of one length, or one is empty.

    >>> groups_of("torch:OneCycleLR", {"max_lr": [0.1, 0.2], "total_steps": 9})
    ({'max_lr': 0.1, 'total_steps': 9}, {'max_lr': 0.2, 'total_steps': 9})
    """
    full = find_source(source)
    names = {*_LISTS.get(full, ()), *(("base_lr",) if full.startswith("torch.") else ())}
    lists = {name: value for name, value in params.items() if name in names and isinstance(value, list | tuple)}
    if not lists:
        return (dict(params),)
    lengths = {name: len(value) for name, value in lists.items()}
    if len(set(lengths.values())) > 1 or not all(lengths.values()):
        found = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise ValueError(f"a list has a value for each parameter group, and here {found}: give every list as many")
    (count,) = set(lengths.values())
    return tuple(dict(params) | {name: value[at] for name, value in lists.items()} for at in range(count))
