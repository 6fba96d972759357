"""Policies: schedule families with what is left open in them fitted to two bounds and a length."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from clrtool.core import schedules
from clrtool.core.schedules import Schedule
from clrtool.core.schedules.base import build
from clrtool.core.schedules.cyclical import check_momentum
from clrtool.words import nearest

# exp_range: the share of the amplitude left at the end. The paper's own runs end between 0.01 and 0.22.
FINAL_AMPLITUDE = 0.1
# one_cycle_smith: the share of the run that is the cycle. In Smith's logs it is 0.86 to 0.97.
CYCLE_SHARE = 0.9


@dataclass(frozen=True)
class Room:
    """What a policy has to fit into: two bounds, and iterations without those of a warm-up."""

    base_lr: float
    max_lr: float
    iterations: int

    @property
    def ratio(self) -> float:
        return self.max_lr / self.base_lr


@dataclass(frozen=True)
class Policy:
    """A family of schedules, whether a plan gives it whole cycles, and how the rest of it is fitted, with the reason.

    Args:
        family: a function of ``clrtool.core.schedules``; it takes those numbers of a plan that it names, those of
            ``FROM_PLAN``, and the fitted rest.
        fit: the rest, from the room.
    """

    family: Callable[..., Schedule]
    reason: str
    in_cycles: bool = False
    fit: Callable[[Room], dict[str, Any]] = lambda room: {}  # noqa: ARG005

    def takes(self) -> list[str]:
        """The names of the family's arguments."""
        return list(inspect.signature(self.family).parameters)

    def build(self, numbers: dict[str, Any], params: dict[str, Any]) -> Schedule:
        """The schedule, from the numbers of a plan and the fitted rest. Raises ValueError for an unknown param."""
        names = self.takes()
        valid = [name for name in names if name not in numbers]
        for given in params:
            if given not in valid:
                raise ValueError(f"{self.family.__name__} has no parameter {given!r}; {nearest(given, valid)}")
        taken = {name: value for name, value in numbers.items() if name in names}
        return build(self.family, taken | params, self.family.__name__)


def _whole_restarts(
    base_lr: float,
    max_lr: float,
    stepsize: int,
    num_cycles: int,
    m_mul: float = 1.0,
    momentum: tuple[float, float] | None = None,
) -> schedules.CosineRestarts:
    period = 2 * stepsize
    return schedules.cosine_restarts(base_lr, max_lr, period, m_mul=m_mul, num_cycles=num_cycles, momentum=momentum)


def _halves(room: Room) -> list[int]:
    return [math.ceil(room.iterations / 2), math.ceil(room.iterations * 3 / 4)]


def _sigmoid(room: Room) -> dict[str, Any]:
    """It falls over a tenth of the budget, around the iteration that makes it end at base_lr."""
    gamma, n = -10 / room.iterations, room.iterations
    center = round(n + math.log(room.ratio - 1) / gamma)  # Caffe takes a whole one
    return {"gamma": gamma if center == n else -math.log(room.ratio - 1) / (n - center), "center": center}


def _no_stages(room: Room) -> dict[str, Any]:  # noqa: ARG001
    raise ValueError("policy 'stages' has bounds for each stage: give the stages instead")


FROM_PLAN = ("base_lr", "max_lr", "stepsize", "num_cycles", "iterations")
_FALLS = "It falls from max_lr to base_lr over the whole budget"

POLICIES: dict[str, Policy] = {
    "triangular": Policy(schedules.triangular, "Every cycle reaches max_lr.", in_cycles=True),
    "triangular2": Policy(schedules.triangular2, "Each cycle rises half as high as the one before.", in_cycles=True),
    "exp_range": Policy(
        schedules.exp_range,
        f"gamma leaves {FINAL_AMPLITUDE:g} of the height at the end.",
        in_cycles=True,
        fit=lambda room: {"gamma": FINAL_AMPLITUDE ** (1 / room.iterations)},
    ),
    "cyclical": Policy(
        schedules.cyclical,
        "Each cycle is scaled by scale(x), x the cycle; (ln 2) ** (x - 1) is a slower fall than triangular2's.",
        in_cycles=True,
        fit=lambda room: {"scale": "log(2) ** (x - 1)"},  # noqa: ARG005
    ),
    "decay": Policy(schedules.decay, "It falls to base_lr over one stepsize and stays there.", in_cycles=True),
    "cosine_restarts": Policy(_whole_restarts, "Each cycle is one fall along half a cosine.", in_cycles=True),
    "one_cycle": Policy(schedules.one_cycle, "One cycle over the whole budget, as torch's OneCycleLR."),
    "one_cycle_smith": Policy(
        schedules.one_cycle_smith,
        f"One cycle over {CYCLE_SHARE:g} of the budget, the rest at base_lr / 1000, as in Smith's logs.",
        fit=lambda room: {"stepsize": int(CYCLE_SHARE * room.iterations / 2)},
    ),
    "fixed": Policy(schedules.fixed, "max_lr throughout."),
    "linear": Policy(schedules.linear, f"{_FALLS}."),
    "cosine": Policy(schedules.cosine, f"{_FALLS}."),
    "polynomial": Policy(schedules.polynomial, f"{_FALLS}."),
    "exponential": Policy(
        schedules.exponential,
        f"{_FALLS}: gamma = (base_lr / max_lr) ** (1 / iterations).",
        fit=lambda room: {"gamma": room.ratio ** (-1 / room.iterations)},
    ),
    "step": Policy(
        schedules.step,
        "Three equal drops, each after a quarter of the budget, lead from max_lr to base_lr.",
        fit=lambda room: {"gamma": room.ratio ** (-1 / 3), "every": math.ceil(room.iterations / 4)},
    ),
    "multistep": Policy(
        schedules.multistep,
        "Two equal drops, after a half and three quarters of the budget, lead from max_lr to base_lr.",
        fit=lambda room: {"gamma": room.ratio**-0.5, "milestones": _halves(room)},
    ),
    "piecewise": Policy(
        schedules.piecewise,
        "Two equal drops, after a half and three quarters of the budget, lead from max_lr to base_lr.",
        fit=lambda room: {
            "boundaries": _halves(room),
            "values": [room.max_lr, math.sqrt(room.max_lr * room.base_lr), room.base_lr],
        },
    ),
    "inverse_time": Policy(
        schedules.inverse_time,
        f"{_FALLS}, which fixes its rate.",
        fit=lambda room: {"rate": room.ratio - 1, "every": room.iterations},
    ),
    "inverse_sqrt": Policy(
        schedules.inverse_sqrt,
        f"{_FALLS}, which fixes its timescale.",
        fit=lambda room: {"timescale": room.iterations / (room.ratio**2 - 1)},
    ),
    "inv": Policy(
        schedules.inv,
        f"{_FALLS}, which fixes gamma; power 0.75 is Caffe's in its examples.",
        fit=lambda room: {"gamma": (room.ratio ** (4 / 3) - 1) / room.iterations, "power": 0.75},
    ),
    "sigmoid": Policy(
        schedules.sigmoid,
        "It falls along a sigmoid and ends at base_lr, which fixes its center.",
        fit=_sigmoid,
    ),
    "warmup_stable_decay": Policy(
        schedules.warmup_stable_decay,
        "A tenth of the budget rises to max_lr, the last fifth falls to base_lr.",
        fit=lambda room: {"warmup": max(1, room.iterations // 10), "decay": max(1, room.iterations // 5)},
    ),
    "stages": Policy(schedules.stages, "Bounds, stepsize and end of each stage were given.", fit=_no_stages),
}


def check_params(params: Mapping[str, Any], *, moves_momentum: bool) -> None:
    """Raise ValueError where the params of a policy would lead it out of its bounds, as another system's may."""
    for name in ("gamma", "m_mul"):
        if params.get(name, 1) > 1:
            raise ValueError(f"{name} must be above 0 and at most 1, got {params[name]!r}")
    if moves_momentum:
        check_momentum(params["momentum"])


def find_policy(name: str) -> Policy:
    """A policy by its name. Raises ValueError with the nearest name and all of them."""
    if not isinstance(name, str) or name not in POLICIES:
        raise ValueError(f"policy {name!r} is unknown; {nearest(str(name), POLICIES, show=len(POLICIES))}")
    return POLICIES[name]
