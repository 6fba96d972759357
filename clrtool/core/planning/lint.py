"""What will go wrong with a schedule: each finding with its cause and its fix."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from clrtool.core.planning.averaging import DECOUPLED
from clrtool.core.planning.budget import MAX_ITERATIONS
from clrtool.core.planning.finding import PLAIN, WITHOUT_MOMENTUM, Finding, Use
from clrtool.core.planning.lint_averaging import lint_averaging
from clrtool.core.planning.lint_steps import Stepping, lint_steps
from clrtool.core.planning.plan import Plan, plan_from
from clrtool.core.schedules import FloatArray, Phases
from clrtool.core.schedules.checks import is_number
from clrtool.core.sources import bind, find_source, groups_of
from clrtool.core.sources.groups import each_group

_ONE_CYCLE, _CYCLIC = "torch.optim.lr_scheduler.OneCycleLR", "torch.optim.lr_scheduler.CyclicLR"
SAMPLES = 10**5


def lint_source(
    source: str,
    params: Mapping[str, Any],
    iterations: int | None,
    iterations_per_epoch: int | None,
    use: Use,
) -> tuple[Finding, ...]:
    """Lint a schedule in another system's words, over a training of ``iterations``.

    >>> arguments = {"max_lr": 0.1, "total_steps": 30}
    >>> [finding.rule for finding in lint_source("torch:OneCycleLR", arguments, 1410, 47, Use(optimizer="Adam"))]
    ['counted in epochs', 'after the end']
    """
    full = find_source(source)
    given = groups_of(full, params)
    return _of_each(each_group(given, lambda params: _lint_source(full, params, iterations, iterations_per_epoch, use)))


def _lint_source(
    full: str, params: Mapping[str, Any], iterations: int | None, iterations_per_epoch: int | None, use: Use
) -> tuple[Finding, ...]:
    """Of one parameter group."""
    try:
        plan = plan_from(full, params, iterations=iterations, iterations_per_epoch=iterations_per_epoch)
    except ValueError:
        if full == _ONE_CYCLE and (broken := _no_rise(bind(full, params))):
            return (broken,)
        raise
    if iterations is None and use.stepped == "epoch":  # what shows the whole schedule are steps
        plan = replace(plan, iterations=min(plan.iterations * (iterations_per_epoch or 1), MAX_ITERATIONS))
    own = _after_one_cycle(plan) if full == _ONE_CYCLE else _no_decay(plan) if full == _CYCLIC else ()
    return (*_lint_plan(plan, use, tuple(params)), *own)


def lint_plan(plan: Plan, use: Use) -> tuple[Finding, ...]:
    """Lint a plan, for each parameter group where it has several."""
    return _of_each([_lint_plan(group, use, ("cycle_momentum",)) for group in plan.groups])


def _of_each(groups: Sequence[tuple[Finding, ...]]) -> tuple[Finding, ...]:
    """The findings of every parameter group; what is found in all of them alike is told once, without a place."""
    alike = [finding for finding in groups[0] if all(finding in group for group in groups)]
    own = [
        replace(finding, place=f"group {number}")
        for number, group in enumerate(groups, 1)
        for finding in group
        if finding not in alike
    ]
    return (*alike, *own)


def _lint_plan(plan: Plan, use: Use, given: tuple[str, ...]) -> tuple[Finding, ...]:
    """Lint the plan of one parameter group; ``given`` are the arguments of torch's scheduler that the user wrote."""
    stepping = Stepping.of(plan, use)
    t = np.unique(np.linspace(0, stepping.steps - 1, min(stepping.steps, SAMPLES)).astype(np.int64))
    momentum = (*_momentum(plan, use, given), *_runaway(plan.momentum(t), t))
    lr = plan.schedule(t)
    return (*lint_steps(plan, stepping), *momentum, *_outside(lr, t, use), *_averaging(plan, float(lr.max()), use))


def _averaging(plan: Plan, max_lr: float, use: Use) -> Iterator[Finding]:
    if use.optimizer in DECOUPLED:
        yield from lint_averaging(max_lr, use.weight_decay, plan.iterations, plan.iterations_per_epoch)


def lint_values(lr: FloatArray, use: Use) -> tuple[Finding, ...]:
    """Lint learning rates as they are, one for each iteration.

    >>> [finding.rule for finding in lint_values(np.array([0.1, 0.3, -0.1]), Use(base_lr=0.1, max_lr=0.2))]
    ['negative', 'outside the bounds', 'ends away from base_lr']
    """
    bad = np.flatnonzero(~np.isfinite(lr))
    if len(bad):
        return (Finding("not finite", f"the learning rate at iteration {bad[0]:,} is {lr[bad[0]]}", "remove it"),)
    return (*_outside(lr, np.arange(len(lr)), use), *_ending(lr, use))


def _momentum(plan: Plan, use: Use, given: tuple[str, ...]) -> Iterator[Finding]:
    momentum = plan.momentum([0])
    if momentum is None or plan.policy.startswith("deepspeed."):
        return  # DeepSpeed moves betas, and where an optimizer has none it leaves its momentum alone
    if use.optimizer in WITHOUT_MOMENTUM:
        yield Finding(
            "no momentum",
            f"it moves the momentum, and {use.optimizer} has neither momentum nor betas: torch raises ValueError",
            "cycle_momentum=False",
        )
    elif (use.optimizer in PLAIN and use.momentum == 0) or (use.optimizer is None and "cycle_momentum" not in given):
        default = "" if "cycle_momentum" in given else ", which is torch's default,"
        yield Finding(
            "momentum turned on",
            f"cycle_momentum=True{default} sets the momentum to {float(momentum[0]):g} even for "
            f"{use.optimizer or 'SGD'}(momentum=0)",
            "cycle_momentum=False, or give the optimizer a momentum and the scheduler the range that you mean",
        )


def _runaway(momentum: FloatArray | None, t: np.ndarray[Any, Any]) -> Iterator[Finding]:
    if momentum is not None and momentum.max() >= 1:
        first = int((momentum >= 1).argmax())
        yield Finding(
            "momentum",
            f"the momentum is {momentum[first]:.3g} at iteration {t[first]:,} and at most {momentum.max():.3g}: from 1 "
            "on, no step is ever forgotten and their sum grows without end",
            "a momentum below 1 throughout",
        )


def _outside(lr: FloatArray, t: np.ndarray[Any, Any], use: Use) -> Iterator[Finding]:
    low, high = int(lr.argmin()), int(lr.argmax())
    if lr[low] < 0:
        yield Finding(
            "negative",
            f"the learning rate is {lr[low]:.3g} at iteration {t[low]:,}: training climbs instead of falling",
            "base_lr + (max_lr - base_lr) * height, the height from 0 to 1, never leaves its bounds",
        )
    above = use.max_lr is not None and lr[high] > use.max_lr * (1 + 1e-9)
    below = use.base_lr is not None and lr[low] < use.base_lr * (1 - 1e-9)
    if above or below:
        # (base_lr + max_lr) * height in place of (max_lr - base_lr) * height, a formula that went round
        summed = use.base_lr and use.max_lr and np.isclose(lr[high], 2 * use.base_lr + use.max_lr)
        meant = " to ".join("any" if bound is None else f"{bound:g}" for bound in (use.base_lr, use.max_lr))
        yield Finding(
            "outside the bounds",
            f"it runs from {lr[low]:.3g} to {lr[high]:.3g} (iteration {t[high if above else low]:,}), and {meant} was "
            "meant",
            "the amplitude is max_lr - base_lr, not their sum" if summed else "give it the bounds that were meant",
        )


def _ending(lr: FloatArray, use: Use) -> Iterator[Finding]:
    if use.base_lr is None or use.max_lr is None:
        return
    if abs(lr[-1] - use.base_lr) > 0.05 * (use.max_lr - use.base_lr):
        yield Finding(
            "ends away from base_lr",
            f"the last learning rate is {lr[-1]:.3g}, and base_lr is {use.base_lr:.3g}",
            "end at the end of a cycle: a multiple of 2 * stepsize",
        )


def _no_rise(params: Mapping[str, Any]) -> Finding | None:
    if not all(is_number(params[name] or 0) for name in ("total_steps", "epochs", "steps_per_epoch", "pct_start")):
        return None
    total = params["total_steps"] or (params["epochs"] or 0) * (params["steps_per_epoch"] or 0)
    if not total or params["pct_start"] * total != 1:
        return None
    return Finding(
        "pct_start",
        f"pct_start * total_steps = {params['pct_start']:g} * {total} = 1 is a rise of no length: torch raises "
        "ZeroDivisionError",
        f"pct_start={2 / total:g} for a rise of one iteration, or more",
    )


def _no_decay(plan: Plan) -> Iterator[Finding]:
    if plan.params["mode"] == "exp_range" and plan.params["gamma"] == 1 and "scale_fn" not in plan.params:
        yield Finding("no decay", "mode='exp_range' with gamma=1, torch's default, is triangular", "a gamma below 1")


def _after_one_cycle(plan: Plan) -> Iterator[Finding]:
    """torch computes one step more than it has: the last phase, continued past its end."""
    schedule, total = plan.schedule, plan.schedule.preview
    assert isinstance(schedule, Phases)
    if plan.iterations < total:
        return
    (begin, end), (first, last) = schedule.knots[-2:], schedule.values[-2:]
    past = (total - begin) / (end - begin)
    linear = schedule.shapes[-1] == "linear"
    lr = first + (last - first) * past if linear else last + (first - last) / 2 * (1 + np.cos(np.pi * past))
    more = plan.iterations > total
    then = "and the next one raises ValueError" if more else "in the optimizer"
    yield Finding(
        "after the end",
        f"scheduler.step() number {total:,} leaves a learning rate of {lr:.3g}, "
        f"{'negative' if lr < 0 else 'risen again'}, {then}",
        f"total_steps={plan.iterations + 1}, or leave out the last scheduler.step(), or use clrtool.PlanScheduler",
        note=not more,
    )
