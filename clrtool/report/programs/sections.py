"""A plan in the words of a framework that takes no program: a section of its config."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from clrtool.core.planning.plan import Plan
from clrtool.core.schedules import Cyclical, Exponential, Geometric, Inverse, Piecewise, Polynomial, Schedule, Sigmoid
from clrtool.errors import ConfigError
from clrtool.report.programs.words import Language, Words, header, same


def _deepspeed(schedule: Schedule, iterations: int) -> Iterator[Words]:
    if isinstance(schedule, Cyclical) and iterations == schedule.period and schedule.per == "cycle":
        momentum = schedule.momentum_bounds
        params = {
            "cycle_min_lr": schedule.base_lr,
            "cycle_max_lr": schedule.max_lr,
            "cycle_first_step_size": schedule.stepsize,
            "cycle_second_step_size": schedule.period - schedule.stepsize,
            "cycle_momentum": momentum is not None,
        } | ({"cycle_min_mom": momentum[0], "cycle_max_mom": momentum[1]} if momentum else {})
        yield "OneCycle", params


def _write_deepspeed(plan: Plan, name: str, params: dict[str, Any]) -> str:  # noqa: ARG001 (JSON has no comments)
    lr = params.pop("base_lr", None)
    optimizer = {} if lr is None else {"optimizer": {"params": {"lr": lr}}}
    return json.dumps(optimizer | {"scheduler": {"type": name, "params": params}}, indent=2) + "\n"


DEEPSPEED = Language(
    system="DeepSpeed",
    prefix="deepspeed.runtime.lr_schedules.",
    find=_deepspeed,
    write=_write_deepspeed,
    instead="its one cycle is a triangle: plan with --policy triangular --cycles 1, or give what --format torch prints "
    "to deepspeed.initialize(lr_scheduler=...)",
    momentum_from=1,  # it begins with its lower momentum, and has the one of the cycle from its first step on
)


def to_caffe(plan: Plan) -> str:
    """The lines of a Caffe solver.

    Raises:
        ConfigError: Caffe has no such ``lr_policy``.
    """
    if plan.warmup:
        raise ConfigError("Caffe has no warm-up: plan without --warmup-epochs")
    policy, params = _caffe_words(plan)
    for name in {"stepsize", "stepvalue", "max_iter"} & set(params):  # Caffe reads these as int32
        if any(item != int(item) for item in np.atleast_1d(params[name])):
            raise ConfigError(f"Caffe takes whole numbers for {name}, not {params[name]!r}")
    if not same(plan, f"caffe.{policy}", params):
        raise ConfigError(f"Caffe's {policy} cannot follow {plan.policy} with {plan.params} exactly")
    lines = [f'lr_policy: "{policy}"']
    for name, value in params.items():
        lines += [f"{name}: {_number(item)}" for item in (value if isinstance(value, list) else [value])]
    note = "# triangular and triangular2 are those of the paper's Appendix A; stock Caffe lacks them.\n"
    known = note if policy.startswith("triangular") else ""
    if "max_iter" not in params:
        lines.append(f"max_iter: {plan.iterations}")
    return header(plan) + known + "\n".join(lines)


def _caffe_words(plan: Plan) -> tuple[str, dict[str, Any]]:  # noqa: PLR0911 (a line for each policy of Caffe)
    match plan.schedule:
        case Cyclical(stepsize=up, stepsize_down=down, scale=None, momentum_bounds=None) as wave if down in (None, up):
            return "triangular", {"base_lr": wave.base_lr, "max_lr": wave.max_lr, "stepsize": up}
        case Cyclical(stepsize=up, stepsize_down=down, scale=Geometric(ratio=0.5), per="cycle", decay_base=False,
                      momentum_bounds=None) as wave if down in (None, up):  # fmt: skip
            return "triangular2", {"base_lr": wave.base_lr, "max_lr": wave.max_lr, "stepsize": up}
        case Exponential(base_lr=None, cap=None, staircase=True) as fall:
            return "step", {"base_lr": fall.max_lr, "gamma": fall.gamma, "stepsize": fall.every}
        case Exponential(base_lr=None, cap=None) as fall:
            return "exp", {"base_lr": fall.max_lr, "gamma": fall.gamma ** (1 / fall.every)}
        case Inverse(staircase=False) as fall:
            return "inv", {"base_lr": fall.max_lr, "gamma": fall.rate / fall.every, "power": fall.power}
        case Sigmoid() as fall:
            return "sigmoid", {"base_lr": fall.max_lr, "gamma": fall.gamma, "stepsize": fall.center}
        case Polynomial(base_lr=0.0, cycle=False) as fall:
            return "poly", {"base_lr": fall.max_lr, "power": fall.power, "max_iter": fall.iterations}
        case Piecewise(boundaries=(), values=(lr,)):
            return "fixed", {"base_lr": lr}
        case Piecewise(boundaries=steps, values=(first, second, *_)) if first > 0:
            return "multistep", {"base_lr": first, "gamma": second / first, "stepvalue": list(steps)}
    raise ConfigError(
        f"Caffe has no lr_policy for {plan.policy} with {plan.params}; it has fixed, step, exp, inv, multistep, poly, "
        "sigmoid, and with the paper's patch triangular and triangular2"
    )


def _number(value: float) -> str:
    return repr(int(value) if float(value).is_integer() and abs(value) < 1e15 and value >= 1 else float(value))
