"""The plans of a comparison: policies by name, fixed rates and given plans, for trainings of one length."""

from __future__ import annotations

import math
from collections.abc import Mapping

from clrtool.core.planning.make import make_plan
from clrtool.core.planning.plan import Plan
from clrtool.core.planning.policies import POLICIES, find_policy
from clrtool.core.reading.metric import Metric
from clrtool.core.results.comparison import BoundsFrom
from clrtool.words import nearest, shown

# As many as a picture has colours for.
MOST = 8
# Policies to compare where none are named.
USUAL = ("fixed", "triangular2", "exp_range", "one_cycle")
# A plan, a fixed rate, or None for the policy of the name that it goes by.
Asked = Plan | float | None


def check_policy(name: str) -> None:
    """Raise ValueError for a name that is no policy which bounds alone make."""
    if name not in (names := set(POLICIES) - {"stages"}):  # whose bounds are its own: a plan can hold it
        raise ValueError(f"{shown(name)} is no policy; {nearest(name, names, show=len(names))}")


def check_number(policies: Mapping[str, Asked]) -> None:
    """Raise ValueError for too many policies to compare, or too few."""
    if not 2 <= len(policies) <= MOST:
        raise ValueError(f"2 to {MOST} can be compared, not {len(policies)}")


def check_target(target: float | None, metric: Metric) -> None:
    """Raise ValueError for a target that this metric cannot have."""
    if target is not None and not (math.isfinite(target) and (not metric.is_share or 0 < target <= 1)):
        rule = "above 0 and at most 1" if metric.is_share else "finite"
        raise ValueError(f"must be {rule}, because the metric is {metric.label}")


def candidate_plans(
    policies: Mapping[str, Asked],
    bounds: BoundsFrom,
    iterations_per_epoch: int,
    *,
    epochs: float,
    stepsize_epochs: float | None = None,
) -> tuple[dict[str, Plan], int]:
    """The plan of each policy by its name, and the iterations that all are trained for.

    Raises:
        ValueError: one cannot be followed for so many iterations; the message names it.
    """
    made, ends = {}, (bounds.base_lr, bounds.max_lr, iterations_per_epoch)
    like = candidate_plan("fixed", *ends, epochs=epochs)
    for name, given in policies.items():
        try:
            if given is None:
                made[name] = candidate_plan(name, *ends, epochs=epochs, stepsize_epochs=stepsize_epochs)
            else:
                made[name] = fixed_plan(given, like) if isinstance(given, float) else _fitting(given, like)
        except ValueError as error:
            raise ValueError(f"policy {name}: {error}") from error
    return made, like.iterations


def candidate_plan(
    policy: str,
    base_lr: float,
    max_lr: float,
    iterations_per_epoch: int,
    *,
    epochs: float,
    stepsize_epochs: float | None = None,
) -> Plan:
    """The plan of a policy in a comparison: that of ``make_plan``, but for ``fixed``.

    ``fixed`` is the geometric mean of the bounds, ``sqrt(base_lr * max_lr)``. The paper's own fixed runs took base_lr
    (section 4.1.2), and ``make_plan`` takes max_lr: the one is slow and the other may never settle, and to beat either
    proves little.

    Raises:
        ValueError: the policy is unknown, or a number breaks its rule.

    >>> candidate_plan("fixed", 0.01, 0.04, 100, epochs=2).max_lr
    0.02
    """
    stepsize = stepsize_epochs if find_policy(policy).in_cycles else None
    plan = make_plan(base_lr, max_lr, iterations_per_epoch, epochs=epochs, policy=policy, stepsize_epochs=stepsize)
    if policy == "fixed":
        return fixed_plan(math.sqrt(base_lr * max_lr), plan, "The geometric mean of base_lr and max_lr, throughout.")
    return plan


def fixed_plan(rate: float, like: Plan, reason: str = "The rate was given.") -> Plan:
    """One learning rate, as long as another plan. Raises ValueError if it is not above 0."""
    if not 0 < rate < math.inf:
        raise ValueError(f"a fixed rate must be finite and above 0, got {rate!r}")
    return Plan(
        policy="fixed",
        base_lr=rate,
        max_lr=rate,
        iterations=like.iterations,
        iterations_per_epoch=like.iterations_per_epoch,
        asked=like.asked,
        reasons=(reason,),
    )


def _fitting(plan: Plan, like: Plan) -> Plan:
    """A plan that was given, if the workload can follow it to its end."""
    if len(plan.groups) > 1:
        raise ValueError(
            f"has a schedule for each of {len(plan.groups)} parameter groups, and a comparison trains all by one: "
            "compare that of a group: clrtool plan FILE group=1 -o group.json"
        )
    if plan.iterations_per_epoch not in (None, like.iterations_per_epoch):
        raise ValueError(
            f"its epoch has {plan.iterations_per_epoch:,} iterations, but an epoch of the data has "
            f"{like.iterations_per_epoch:,}"
        )
    if plan.iterations > like.iterations:
        epochs = math.ceil(1e4 * plan.iterations / (like.iterations_per_epoch or 1)) / 1e4
        raise ValueError(
            f"is {plan.iterations:,} iterations long, but the comparison only {like.iterations:,}; use --epochs "
            f"{epochs:.12g}"
        )
    return plan
