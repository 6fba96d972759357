"""Plans made of bounds: a policy fitted into a budget of epochs, and stages with bounds of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from clrtool.core.planning.budget import Budget
from clrtool.core.planning.plan import Plan
from clrtool.core.planning.policies import POLICIES, Policy, Room, find_policy
from clrtool.core.schedules.checks import check_positive, check_whole
from clrtool.core.schedules.join import check_stages


def make_plan(
    base_lr: float,
    max_lr: float,
    iterations_per_epoch: int,
    *,
    epochs: float | None = None,
    policy: str = "triangular2",
    stepsize_epochs: float | None = None,
    cycles: int | None = None,
    warmup_epochs: float = 0.0,
    **params: Any,
) -> Plan:
    """Fit a policy into a budget of epochs; a cyclical one in whole cycles.

    The number of cycles is 4, or as near to it as a stepsize of 2 to 10 epochs allows::

        num_cycles = clamp(4, from ceil(epochs / 20), to floor(epochs / 4)), at least 1
        stepsize   = floor(epochs * iterations_per_epoch / (2 * num_cycles))

    Args:
        epochs: the budget in passes over the training set. Default: 30, or what the next two arguments add up to.
        policy: a key of ``POLICIES``.
        stepsize_epochs, cycles: half a cycle in epochs, and the number of whole cycles. Default: by the rule above.
        warmup_epochs: length of a linear rise from 0 before the schedule, included in the budget.
        params: arguments of the policy that replace the fitted ones, such as ``momentum=(0.85, 0.95)``.

    Raises:
        ValueError: a number breaks its rule, or one whole cycle does not fit into the budget.

    >>> plan = make_plan(0.001, 0.006, iterations_per_epoch=500, epochs=32, policy="triangular")
    >>> plan.num_cycles, plan.stepsize, plan.stepsize_epochs
    (4, 2000, 4.0)
    >>> plan.lr([0, 2000, plan.iterations])
    array([0.001, 0.006, 0.001])
    """
    chosen = find_policy(policy)
    budget = Budget(iterations_per_epoch, epochs, stepsize_epochs, cycles, warmup_epochs, params.get("stepsize_down"))
    fit = budget.in_cycles() if chosen.in_cycles else budget.whole(policy)
    fitted = _fitted(chosen, Room(base_lr, max_lr, fit.iterations))
    given = [f"{name} was given." for name in params if name in fitted]
    return Plan(
        policy=policy,
        base_lr=base_lr,
        max_lr=max_lr,
        iterations_per_epoch=iterations_per_epoch,
        params=fitted | params,
        asked=budget.asked_for() | params,
        reasons=(*fit.reasons, *(given or [chosen.reason])),
        **fit.lengths(),
    )


def plan_stages(stages: Sequence[Sequence[float]], iterations_per_epoch: int | None = None, **params: Any) -> Plan:
    """A plan whose bounds and stepsize change; see ``clrtool.core.schedules.stages``.

    Raises:
        ValueError: a number breaks its rule, or a stage does not end at the end of a cycle.

    >>> plan_stages([(1e-3, 5e-3, 2000, 16_000), (1e-4, 5e-4, 1000, 22_000)], iterations_per_epoch=500).epochs
    44.0
    """
    check_stages(stages)
    begin: float = 0
    cycles = []
    for base_lr, max_lr, stepsize, until in stages:
        check_positive("stepsize", stepsize)
        if (until - begin) % (2 * stepsize):
            near = begin + round((until - begin) / (2 * stepsize)) * 2 * stepsize
            raise ValueError(
                f"the stage {base_lr:g}-{max_lr:g}/{stepsize:g} ends at iteration {until:g}, not at the end of a "
                f"cycle; {near:g} would be one"
            )
        cycles.append(f"{(until - begin) / (2 * stepsize):g}")
        begin = until
    check_whole("the end of the last stage", begin)
    return Plan(
        policy="stages",
        base_lr=min(stage[0] for stage in stages),
        max_lr=max(stage[1] for stage in stages),
        iterations=int(begin),
        iterations_per_epoch=iterations_per_epoch,
        params={"stages": stages} | params,
        reasons=(POLICIES["stages"].reason, f"The stages have {', '.join(cycles)} whole cycles."),
    )


def _fitted(policy: Policy, room: Room) -> dict[str, Any]:
    """What is left open in a policy, fitted into the room. Raises ValueError if the room has no such schedule."""
    check_positive("base_lr", room.base_lr)
    check_positive("max_lr", room.max_lr)
    if room.max_lr <= room.base_lr:
        raise ValueError(f"max_lr = {room.max_lr!r} must exceed base_lr = {room.base_lr!r}")
    try:
        return policy.fit(room)
    except ArithmeticError as error:
        bounds = f"max_lr = {room.max_lr} to base_lr = {room.base_lr}"
        raise ValueError(f"no schedule leads from {bounds}: {error}") from error
