"""Compositions of torch's schedulers in which a part goes on from what the last step left, as they are written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from clrtool.core.schedules import Schedule, Stepwise
from clrtool.core.schedules.base import build
from clrtool.core.schedules.expression import function_of
from clrtool.core.sources.parts import begins_of, check_listed, name_of
from clrtool.core.sources.registry import SOURCES, bind
from clrtool.core.sources.torch_steps import Chained, Group, Part, Sequential, bends, multiplies, sets

PREFIX = "torch.optim.lr_scheduler."
# Those that multiply the learning rate that they find; the others set it,
MULTIPLY = ("ConstantLR", "LinearLR", "StepLR", "MultiStepLR", "ExponentialLR", "PolynomialLR", "MultiplicativeLR")
# but for one, which lets a part of what it finds shrink.
BENDS = "CosineAnnealingLR"
OF_OTHERS = ("SequentialLR", "ChainedScheduler")
# What OneCycleLR keeps in the optimizer.
KEPT = ("max_lr", "div_factor", "final_div_factor", "base_momentum", "max_momentum")


def nested(kind: str, params: Mapping[str, Any], base_lr: float) -> Schedule:
    """A composition whose parts go on from what the last step left."""
    group = Group(base_lr)
    part = _made({PREFIX + kind: params}, group, dict(_bounds(params["schedulers"])))
    return Stepwise(group.lr, part.after)


def _made(part: Any, group: Group, bounds: Mapping[str, Any]) -> Part:
    """A part as it is made on a group: its own parts first, as they are listed."""
    full, given = name_of(part, "torch")
    kind = full.removeprefix(PREFIX)
    if kind not in OF_OTHERS:
        return _leaf(full, bind(full, given), group, bounds)
    params = bind(full, given)
    check_listed("schedulers", params["schedulers"])
    check_lengths([name_of(each, "torch") for each in params["schedulers"]])
    parts = [_made(each, group, bounds) for each in params["schedulers"]]
    if kind == "ChainedScheduler":
        return Chained(parts)
    begins = begins_of(params["milestones"], len(parts))
    if sorted(begins[1:]) != [*begins[1:]]:
        raise ValueError(f"milestones must not fall, got {params['milestones']!r}")
    return Sequential(group, parts, begins[1:])


def check_lengths(parts: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    """Raise ValueError for a part without a length: alone it holds its first value, among others torch divides by 0."""
    for name, params in parts:
        if params.get("total_iters") == 0:
            kind = name.removeprefix(PREFIX)
            raise ValueError(f"total_iters of {kind} inside a composition must be at least 1, got 0")


def _leaf(full: str, params: dict[str, Any], group: Group, bounds: Mapping[str, Any]) -> Part:
    """A scheduler that is made of no others, checked as it is alone; its first step is taken."""
    kind = full.removeprefix(PREFIX)
    if kind == "CyclicLR":
        group.lr = params["base_lr"]
    elif kind == "OneCycleLR":
        group.initial_lr = params["max_lr"] / params["div_factor"]
        params |= bounds
    else:
        params["base_lr"] = group.known()
    schedule = build(SOURCES[full], params, full)
    if schedule.cycles_momentum:
        raise ValueError(
            f"{kind} moves the momentum too, which inside this composition is not read: give cycle_momentum=False"
        )
    own = {name: value for name, value in params.items() if name != "base_lr"}
    if kind == "MultiplicativeLR":
        own["lr_lambda"] = function_of("lr_lambda", own["lr_lambda"])
    if kind == BENDS:
        leaf = bends(group.known(), **own)
    elif kind in MULTIPLY:
        leaf = multiplies(kind, group.known(), own)
    else:
        leaf = sets(schedule, is_told=kind == "OneCycleLR")
    if kind != "CyclicLR":
        leaf.begin(group)
    else:  # which has its own base only from its next step on
        leaf.at, group.lr = 0, group.known()
    return leaf


def _bounds(parts: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    """The bounds that the OneCycleLR which is made last leaves to all of them, in the optimizer."""
    for part in parts:
        name, params = name_of(part, "torch")
        if name.removeprefix(PREFIX) in OF_OTHERS and isinstance(params.get("schedulers"), list | tuple):
            yield from _bounds(params["schedulers"])
        if name == PREFIX + "OneCycleLR":
            yield from ((word, params[word]) for word in KEPT if word in params)
