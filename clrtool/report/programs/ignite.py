"""A plan as a parameter scheduler of ignite: lines through knots, triangles, cosines, and these one after another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from clrtool.core.planning.plan import Plan
from clrtool.core.schedules import Cosine, Cyclical, Schedule
from clrtool.core.sources.from_ignite import of_torch
from clrtool.core.sources.parts import name_of
from clrtool.report.programs.code import Call, Name, calls, source
from clrtool.report.programs.parts import knots_of, parts_of
from clrtool.report.programs.words import Language, Words, header

_PREFIX = "ignite.handlers."
_TORCH = "torch.optim.lr_scheduler."
_OF_OTHERS = {"lr_lambda", "scale_fn", "schedulers"}


def _find(schedule: Schedule, iterations: int) -> Iterator[Words]:
    for whole in (_part(schedule, iterations), _concat(schedule, iterations)):
        if whole is not None:
            yield whole.pop("type"), whole


def _concat(schedule: Schedule, iterations: int) -> dict[str, Any] | None:
    parts = list(parts_of(schedule, iterations))
    made = [_part(part.schedule, part.length) for part in parts]
    if not all(made):
        return None
    if len(made) == 1:
        return made[0]
    return {"type": "ConcatScheduler", "schedulers": made, "durations": [part.length for part in parts[:-1]]}


def _part(schedule: Schedule, length: int) -> dict[str, Any] | None:
    match schedule:
        case Cyclical(base_lr=start, max_lr=end, scale=None) if schedule.period == 2 * schedule.stepsize < length:
            return {"type": "LinearCyclicalScheduler", "start_value": start, "end_value": end,
                    "cycle_size": schedule.period}  # fmt: skip
        case Cosine(base_lr=end, max_lr=start, iterations=n) if n == int(n) and n > 1:
            return {"type": "CosineAnnealingScheduler", "start_value": start, "end_value": end, "cycle_size": int(n)}
    knots = knots_of(schedule, length)
    return None if knots is None else {"type": "PiecewiseLinear", "milestones_values": [*map(tuple, knots)]}


def _write(plan: Plan, name: str, params: dict[str, Any], momenta: Words | None = None) -> str:
    lr = params.pop("base_lr", None)
    made = _made({"type": name} | params, lr)
    if momenta is not None:
        both = [made, _made({"type": momenta[0]} | momenta[1], lr, moves="momentum")]
        made = Call("ParamGroupScheduler", (both,), {"names": ["lr", "momentum"]})
    used = set(calls(made))
    torch = "import torch\n" if any(each.startswith(_TORCH) for each in used) else ""
    own = ", ".join(sorted(each for each in used if not each.startswith(_TORCH)))
    notes = [] if lr is None else [f"It begins with the optimizer's learning rate: make it with lr={lr!r}."]
    notes += [] if momenta is None else ["It sets the momentum of SGD; ignite cannot set the betas of Adam."]
    begin = "".join(f"\n\n    {note}" for note in notes) + ("\n    " if notes else "")
    return f'''{header(plan)}{torch}from ignite.handlers import {own}


def make_scheduler(optimizer):
    """Attach it: trainer.add_event_handler(ignite.engine.Events.ITERATION_STARTED, scheduler).{begin}"""
    return {source(made, indent=4)}
'''


def _made(part: Any, lr: float | None, system: str = "ignite", moves: str = "lr") -> Call:
    """A call for a part, in which other parts are calls."""
    full, given = name_of(part, system)
    params = {name: value for name, value in given.items() if name not in ("param_name", "base_lr")}
    if given.get("base_lr", lr) != lr:
        raise ValueError("the parts have learning rates of their own, and the optimizer has one")
    if full.startswith(_TORCH):
        if _OF_OTHERS & set(params):
            raise ValueError("a scheduler of torch that is made of others or of functions is not written down")
        return Call(full, (Name("optimizer"),), params)
    name = full.removeprefix(_PREFIX)
    if "schedulers" in params:
        params["schedulers"] = [_made(inner, lr, moves=moves) for inner in params["schedulers"]]
        return Call(name, (), params)
    if "lr_scheduler" in params:
        inner = params.pop("lr_scheduler")
        return Call(
            name, (_made(inner, lr, "torch" if name == "LRScheduler" or of_torch(inner) else "ignite"),), params
        )
    if "milestones_values" in params:
        params["milestones_values"] = [tuple(pair) for pair in params["milestones_values"]]
    return Call(name, (Name("optimizer"), moves), params)


IGNITE = Language(
    system="ignite",
    says_momentum=True,
    prefix=_PREFIX,
    find=_find,
    write=_write,
    instead="it has lines and half cosines between whole iterations; step what --format torch prints at "
    "ignite.engine.Events.ITERATION_COMPLETED",
)
