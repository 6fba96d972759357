"""A plan as ``param_scheduler`` of mmengine: schedulers one after another, each from what it finds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from clrtool.core.planning.plan import Plan
from clrtool.core.schedules import Cosine, Exponential, Piecewise, Polynomial, Schedule
from clrtool.report.programs.code import Call, source
from clrtool.report.programs.parts import Part, knots_of, parts_of, plain
from clrtool.report.programs.words import Language, Words, header

# Its factors of the learning rate are from 0 to 1, so that a line may rise, it is said as a power of 1.
_LINE = {"type": "PolyLR", "power": 1.0}


def _find(schedule: Schedule, iterations: int) -> Iterator[Words]:
    for parts in ([Part(plain(schedule), 0, iterations)], [*parts_of(schedule, iterations)]):
        found = _one_after_another(parts)
        if found is not None:
            first = float(schedule([0])[0])
            yield "param_scheduler", {"schedulers": [each | {"by_epoch": False} for each in found], "base_lr": first}


def _one_after_another(parts: Sequence[Part]) -> list[dict[str, Any]] | None:
    found: list[dict[str, Any]] = []
    for part in parts:
        windows = _windows(part)
        if windows is None:
            return None
        first = float(part.schedule([0])[0])
        if part.begin and not _leads_to(found[-1:], part.begin, first):
            found.append(_LINE | {"eta_min": first, "begin": part.begin - 1, "end": part.begin + 1})
        found += windows
    return found or None


def _leads_to(last: Sequence[dict[str, Any]], begin: int, value: float) -> bool:
    """Whether the last scheduler has come to a value at an iteration."""
    return any(each["type"] == "PolyLR" and each["end"] == begin + 1 and each["eta_min"] == value for each in last)


def _windows(part: Part) -> list[dict[str, Any]] | None:
    """Schedulers that find the first value of a part and follow it; None if there are none."""
    window = {"begin": part.begin, "end": part.begin + part.length}
    alone = _alone(part)
    if alone is not None:
        return [window | alone]
    knots = knots_of(part.schedule, part.length)
    if knots is None:
        return None
    return [
        _LINE | {"eta_min": value, "begin": part.begin + start, "end": part.begin + stop + 1}
        for (start, _), (stop, value) in pairwise(knots)
    ]


def _alone(part: Part) -> dict[str, Any] | None:
    """The one scheduler that follows a part, from its begin to its end."""
    match part.schedule:
        case Cosine(base_lr=low, iterations=n, exponent=1.0) if n == int(n):
            return {"type": "CosineAnnealingLR", "T_max": int(n), "eta_min": low}
        case Polynomial(base_lr=low, iterations=n, power=power, cycle=False) if n == part.length:
            # it ends where the next part begins, which has the last word
            return {"type": "PolyLR", "power": power, "eta_min": low, "end": part.begin + part.length + 1}
        case Exponential(base_lr=None, cap=None, gamma=gamma, every=every, staircase=staircase):
            steps = {"type": "StepLR", "step_size": every} if staircase else {"type": "ExponentialLR"}
            return steps | {"gamma": gamma}
        case Piecewise(boundaries=()):
            return {"type": "ConstantLR", "factor": 1.0}
        case Piecewise(boundaries=steps, values=values) if _geometric(values):
            return {"type": "MultiStepLR", "milestones": list(steps), "gamma": values[1] / values[0]}
    return None


def _geometric(values: Sequence[float]) -> bool:
    ratios = [later / value for value, later in pairwise(values) if value]
    return 0 not in values[:-1] and all(math.isclose(ratio, ratios[0], rel_tol=1e-12) for ratio in ratios)


def _write(
    plan: Plan,
    name: str,  # noqa: ARG001 (it has one name)
    params: dict[str, Any],
    momenta: Words | None = None,
) -> str:
    lr, epoch = params["base_lr"], params.get("epoch_length")
    given = params["schedulers"]
    schedulers = [given] if isinstance(given, Mapping) else given
    begins = f"lr={lr!r}"
    if momenta is not None:
        begins += f", momentum={momenta[1]['base_lr']!r}"
        moving = ({**each, "type": each["type"].replace("LR", "Momentum")} for each in momenta[1]["schedulers"])
        schedulers = [*schedulers, *moving]
    dicts = [Call("dict", (), {"type": each["type"], **each}) for each in schedulers]
    epochs = "" if epoch is None else f"# An epoch has {epoch} iterations.\n"
    begin = f"# It begins with the optimizer's: optim_wrapper = dict(optimizer=dict({begins}, ...), ...).\n"
    return f"""{header(plan)}{begin}{epochs}param_scheduler = {source(dicts)}
"""


MMENGINE = Language(
    system="mmengine",
    says_momentum=True,
    prefix="mmengine.",
    find=_find,
    write=_write,
    instead="it has lines, powers, half cosines, drops and exponentials between whole iterations; train with "
    "--format torch or --format lightning",
)
