"""A plan as a scheduler of torch: its own where there is one that follows it, else a LambdaLR."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from clrtool.core.planning.plan import Plan
from clrtool.report.programs.formula import functions
from clrtool.report.programs.words import same

TORCH = "torch.optim.lr_scheduler."
_EACH = """        value = float(momentum(self.last_epoch))
        for group in self.optimizer.param_groups:"""
_EACH_ITS_OWN = """        for group, momentum in zip(self.optimizer.param_groups, ({})):
            value = float(momentum(self.last_epoch))"""
_SCHEDULER = '''class Scheduler(torch.optim.lr_scheduler.LambdaLR):
    """A LambdaLR that moves the momentum too."""

    def get_lr(self):
{each}
            if "betas" in group:
                group["betas"] = (value, *group["betas"][1:])
            else:
                group["momentum"] = value
        return super().get_lr()'''


def make_scheduler(plan: Plan) -> list[str]:
    """``make_scheduler`` with torch's own scheduler where there is one, else with functions of the step before it."""
    own = _torch_words(plan)
    made, before = _of_functions(plan) if own is None else (_called(*own), [])
    return [*before, f'def make_scheduler(optimizer):\n    """{_how(plan)}"""\n    return {made}']


def _called(name: str, params: Mapping[str, Any]) -> str:
    arguments = "".join(f"        {word}={_literal(value)},\n" for word, value in params.items())
    return f"{TORCH}{name}(\n        optimizer,\n{arguments}    )"


def _of_functions(plan: Plan) -> tuple[str, list[str]]:
    """A LambdaLR, with a function for each parameter group where there are several, and the functions."""
    several = len(plan.groups) > 1
    groups = {f"_{number}" if several else "": group for number, group in enumerate(plan.groups, 1)}
    defined = [functions(group, "np", "lr", f"lr{end}") for end, group in groups.items()]
    made = ", ".join(f"lambda step: float(lr{end}(step))" for end in groups)
    made = f"[{made}]" if several else made
    if not plan.groups[0].schedule.cycles_momentum:
        return f"{TORCH}LambdaLR(optimizer, {made})", defined
    defined += [functions(group, "np", "momentum", f"momentum{end}") for end, group in groups.items()]
    each = _EACH_ITS_OWN.format(", ".join(f"momentum{end}" for end in groups)) if several else _EACH
    return f"Scheduler(optimizer, {made})", [*defined, _SCHEDULER.replace("{each}", each)]


def _how(plan: Plan) -> str:
    """How the scheduler is used: CyclicLR and OneCycleLR set the learning rate, all others multiply it."""
    when = "Call scheduler.step() after every optimizer.step(), once per iteration and not per epoch."
    own = _torch_words(plan)
    if own is not None and own[0] in ("CyclicLR", "OneCycleLR"):
        return when
    lr = plan.params.get("base_lr")
    if own is not None and isinstance(lr, list):
        made = f"make these with lr={', '.join(map(repr, lr))}"
        return f"{when}\n\n    It multiplies the learning rates of the parameter groups: {made}.\n    "
    return f"{when}\n\n    It multiplies the optimizer's learning rate: make it with lr={optimizer_lr(plan)}.\n    "


def _torch_words(plan: Plan) -> tuple[str, dict[str, Any]] | None:
    """A scheduler of torch and its arguments; None if torch has none that follows the plan."""
    if plan.warmup:
        return None
    if plan.policy.startswith(TORCH):
        return _own_words(plan)
    found = _one_cycle(plan) if plan.policy == "one_cycle" else _cyclic(plan)
    return found if found is not None and same(plan, TORCH + found[0], found[1]) else None


def _own_words(plan: Plan) -> tuple[str, dict[str, Any]] | None:
    """A plan that was read in torch's words, in the same words."""
    name = plan.policy.removeprefix(TORCH)
    too_short = name == "OneCycleLR" and plan.iterations > plan.groups[0].schedule.preview  # torch raises after its end
    made_of_others = {"scale_fn", "lr_lambda", "schedulers"} & set(plan.params)
    if made_of_others or too_short:
        return None
    params = {word: value for word, value in plan.params.items() if word != "base_lr" or name == "CyclicLR"}
    if "pct_start" in params:
        params["pct_start"] = float(params["pct_start"])  # torch refuses a whole number
    return name, params


def _cyclic(plan: Plan) -> tuple[str, dict[str, Any]] | None:
    try:
        return "CyclicLR", plan.torch_kwargs()
    except ValueError:
        return None


def _one_cycle(plan: Plan) -> tuple[str, dict[str, Any]] | None:
    params, end_lr = plan.params, float(plan.lr(plan.iterations))
    if not end_lr:
        return None
    momentum = params.get("momentum")
    return "OneCycleLR", {
        "max_lr": plan.max_lr,
        "total_steps": plan.iterations,
        "pct_start": float(params.get("pct_start", 0.3)),
        "anneal_strategy": "linear" if params.get("anneal") == "linear" else "cos",
        "three_phase": params.get("three_phase", False),
        "div_factor": plan.max_lr / plan.base_lr,
        "final_div_factor": plan.base_lr / end_lr,
        "cycle_momentum": momentum is not None,
    } | ({"base_momentum": momentum[0], "max_momentum": momentum[1]} if momentum else {})


def optimizer_lr(plan: Plan) -> str:
    """What the optimizer is made with: LambdaLR multiplies it, torch's other schedulers replace or start from it."""
    if _torch_words(plan) is None:
        return "1.0"
    return repr(plan.params.get("base_lr", plan.base_lr))


def _literal(value: Any) -> str:
    return json.dumps(value) if isinstance(value, str) else repr(value)
