"""A plan: a schedule, how long it is, and why. Cyclical policies get whole cycles that fit a budget of epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from clrtool.core.planning.budget import MAX_ITERATIONS
from clrtool.core.planning.policies import FROM_PLAN, POLICIES, check_params, find_policy
from clrtool.core.schedules import FloatArray, Schedule, with_warmup
from clrtool.core.schedules.base import in_blocks
from clrtool.core.schedules.checks import check_ends, check_positive, check_whole


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything a training run needs to follow a schedule.

    Args:
        policy: a key of ``POLICIES``, or the full name of a schedule of another system, a key of ``SOURCES``.
        base_lr, max_lr: bounds of the cycle; for another system's schedule its lowest and highest value.
        iterations: length of the whole plan.
        iterations_per_epoch: optimizer steps in one pass over the training set; None if unknown.
        stepsize, num_cycles: half a cycle in iterations, and the number of whole cycles, after which the plan is back
            at ``base_lr``; None for a policy without cycles.
        warmup: iterations of a linear rise from 0 before the schedule, included in ``iterations``.
        params: the policy's other arguments, in plain types; do not change them. Lists by which torch gives a value to
            each parameter group make a plan of several ``groups``.
        asked: the arguments of ``make_plan``, from which the same plan can be made again; do not change them.
        reasons: one sentence for each number that was chosen or rounded.
    """

    policy: str
    base_lr: float
    max_lr: float
    iterations: int
    iterations_per_epoch: int | None = None
    stepsize: int | None = None
    num_cycles: int | None = None
    warmup: int = 0
    params: dict[str, Any] = field(default_factory=dict, hash=False)
    asked: dict[str, Any] = field(default_factory=dict, hash=False)
    reasons: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if "." not in self.policy:
            find_policy(self.policy)
        check_ends(self.base_lr, self.max_lr)
        if self.max_lr < self.base_lr:
            raise ValueError(f"max_lr must be at least base_lr = {self.base_lr!r}, got {self.max_lr!r}")
        for name in ("iterations", "iterations_per_epoch", "stepsize", "num_cycles"):
            if getattr(self, name) is not None:
                check_whole(name, getattr(self, name))
                object.__setattr__(self, name, int(getattr(self, name)))
        check_whole("warmup", self.warmup, at_least=0)
        check_positive("iterations", self.iterations, at_most=MAX_ITERATIONS)
        for name in ("base_lr", "max_lr", "params", "asked"):
            object.__setattr__(self, name, _plain(getattr(self, name)))
        object.__setattr__(self, "reasons", tuple(self.reasons))
        self._check_cycles()
        self._check_values()

    def _check_cycles(self) -> None:
        in_cycles = self.policy in POLICIES and POLICIES[self.policy].in_cycles
        if {self.stepsize is None, self.num_cycles is None} != {not in_cycles}:
            raise ValueError(f"a plan in cycles has a stepsize and a num_cycles, any other has neither: {self.policy}")
        if self.stepsize is None or self.num_cycles is None:
            return
        period = self.stepsize + int(self.params.get("stepsize_down") or self.stepsize)
        if self.iterations != self.warmup + period * self.num_cycles:
            raise ValueError(
                f"a plan is whole cycles: iterations = {self.iterations} must be {self.num_cycles} x {period} (up and "
                f"down) + {self.warmup} of warm-up"
            )

    def _check_values(self) -> None:
        """Of somebody else's schedule every value is finite; one of clrtool's own also keeps what its name says."""
        if len(self.groups) > 1:  # each was checked when it was made
            return
        own = self.policy in POLICIES
        if own:
            check_positive("base_lr", self.base_lr)
            check_params(self.params, moves_momentum=self.schedule.cycles_momentum)
        t = np.linspace(0, self.last, min(self.last + 1, 1001)).astype(np.int64)
        t = np.append(t, np.array(self.schedule.corners(self.last), dtype=np.int64))
        lr = self.schedule(t)
        _check_finite(self.policy, t, lr)
        scaled = own and "scale" in self.params
        least = 0.0 if self.warmup or self.params.get("decay_base") else self.base_lr
        rounding = 1e-9 * self.max_lr
        if scaled and not (lr.min() >= least - rounding and lr.max() <= self.max_lr + rounding):
            raise ValueError(f"scale must stay in [0, 1], and leads from {lr.min():.6g} to {lr.max():.6g} here")

    @property
    def epochs(self) -> float | None:
        """The length in epochs."""
        return self._in_epochs(self.iterations)

    @property
    def stepsize_epochs(self) -> float | None:
        """Half a cycle in epochs."""
        return self._in_epochs(self.stepsize)

    def _in_epochs(self, iterations: int | None) -> float | None:
        if iterations is None or self.iterations_per_epoch is None:
            return None
        return iterations / self.iterations_per_epoch

    @cached_property
    def groups(self) -> tuple[Plan, ...]:
        """The plan of each parameter group, all of one length; of one that is the same for all, itself alone."""
        if self.policy in POLICIES:
            return (self,)
        from clrtool.core.sources import groups_of  # noqa: PLC0415 (most plans need none of these)

        found = groups_of(self.policy, self.params)
        if len(found) == 1:
            return (self,)
        plans = _plans_of(self.policy, found, self.iterations, self.iterations_per_epoch)
        return tuple(replace(plan, warmup=self.warmup) for plan in plans)

    @cached_property
    def schedule(self) -> Schedule:
        """The plan as a function of the iteration. A cyclical one goes on for ever; ``lr`` ends.

        Raises:
            ValueError: each parameter group has one of its own; they are those of ``groups``.
        """
        if len(self.groups) > 1:
            raise ValueError(
                f"{self.policy} has a schedule for each of {len(self.groups)} parameter groups, and here one is "
                f"needed: choose it, group=1 to group={len(self.groups)}"
            )
        if self.policy not in POLICIES:
            from clrtool.core.sources import schedule_from  # noqa: PLC0415 (most plans need none of these)

            return with_warmup(schedule_from(self.policy, self.params), self.warmup)
        numbers = {name: value for name in FROM_PLAN if (value := getattr(self, name)) is not None}
        numbers["iterations"] -= self.warmup
        return with_warmup(POLICIES[self.policy].build(numbers, self.params), self.warmup)

    @property
    def last(self) -> int:
        """The last iteration with a value of its own; what comes after holds it."""
        return self.iterations if self.policy in POLICIES else self.iterations - 1

    def lr(self, iteration: ArrayLike) -> FloatArray:
        """The learning rate at ``iteration``, a number or an array; after the end of the plan, its last value."""
        return in_blocks(lambda t: self.schedule.lr_at(np.minimum(t, self.last)), iteration)

    def momentum(self, iteration: ArrayLike) -> FloatArray | None:
        """The momentum at ``iteration``, or None if the plan leaves it alone."""
        if not self.schedule.cycles_momentum:
            return None
        return in_blocks(lambda t: self.schedule.momentum_at(np.minimum(t, self.last)), iteration)

    def torch_kwargs(self) -> dict[str, Any]:
        """Arguments of ``torch.optim.lr_scheduler.CyclicLR``, stepped once per iteration.

        ``cycle_momentum`` is always given: torch's default True turns momentum on for plain SGD.

        Raises:
            ValueError: CyclicLR cannot follow this plan; ``clrtool.PlanScheduler`` follows any.
        """
        own = {"gamma", "momentum", "stepsize_down", "decay_base"}
        modes = ("triangular", "triangular2", "exp_range")
        if self.policy not in modes or self.warmup or self.params.get("decay_base") or set(self.params) - own:
            raise ValueError(f"CyclicLR cannot follow {self.policy} with {self.params}; clrtool.PlanScheduler can")
        arguments = {"base_lr": self.base_lr, "max_lr": self.max_lr, "step_size_up": self.stepsize}
        down, momentum = self.params.get("stepsize_down"), self.params.get("momentum")
        arguments |= ({"step_size_down": down} if down else {}) | {"mode": self.policy}
        arguments |= {"gamma": self.params["gamma"]} if "gamma" in self.params else {}
        if momentum is None:
            return arguments | {"cycle_momentum": False}
        return arguments | {"cycle_momentum": True, "base_momentum": momentum[0], "max_momentum": momentum[1]}

    def to_dict(self) -> dict[str, Any]:
        """The plan in plain types, for JSON and YAML."""
        for name, value in self.params.items():
            if callable(value):
                raise ValueError(f"{name} is a Python function, which no file can hold: write it as an expression")
        values = asdict(self) | {"reasons": list(self.reasons)}
        return values | {"epochs": self.epochs, "stepsize_epochs": self.stepsize_epochs}


def plan_from(
    source: str,
    params: Mapping[str, Any],
    *,
    iterations: int | None = None,
    iterations_per_epoch: int | None = None,
) -> Plan:
    """A plan that follows a schedule in another system's words; see ``clrtool.schedule_from``.

    Args:
        iterations: its length. Default: enough to show what the schedule does.

    >>> plan_from("keras:CosineDecay", {"initial_learning_rate": 0.1, "decay_steps": 500}).iterations
    500
    >>> [group.max_lr for group in plan_from("torch:OneCycleLR", {"max_lr": [0.1, 0.2], "total_steps": 10}).groups]
    [0.1, 0.2]
    """
    from clrtool.core.sources import bind, find_source, groups_of, schedule_from  # noqa: PLC0415

    full = find_source(source)
    params, *others = groups_of(full, given := params)
    if others:
        plans = _plans_of(full, (params, *others), iterations, iterations_per_epoch)
        longest = max(plans, key=lambda plan: plan.iterations)
        return replace(
            longest,
            base_lr=min(plan.base_lr for plan in plans),
            max_lr=max(plan.max_lr for plan in plans),
            params={name: value for name, value in bind(full, given).items() if value is not None},
        )
    schedule = schedule_from(full, params)
    length = schedule.preview if iterations is None else iterations
    check_whole("iterations", length)
    check_positive("iterations", length, at_most=MAX_ITERATIONS)
    sample = np.linspace(0, length - 1, min(length, 10**6)).astype(np.int64)
    sample = np.append(sample, np.array(schedule.corners(length - 1), dtype=np.int64))
    lrs = schedule(sample)
    _check_finite(full, sample, lrs)
    return Plan(
        policy=full,
        base_lr=float(lrs.min()),
        max_lr=float(lrs.max()),
        iterations=length,
        iterations_per_epoch=iterations_per_epoch,
        params={name: value for name, value in bind(full, params).items() if value is not None},
        reasons=() if iterations else (f"{length:,} iterations show what it does; no length was given.",),
    )


def _plans_of(
    source: str, groups: Sequence[Mapping[str, Any]], iterations: int | None, iterations_per_epoch: int | None
) -> list[Plan]:
    """A plan for the parameters of each group."""
    from clrtool.core.sources.groups import each_group  # noqa: PLC0415

    lengths = {"iterations": iterations, "iterations_per_epoch": iterations_per_epoch}
    return each_group(groups, lambda params: plan_from(source, params, **lengths))


def _check_finite(policy: str, t: np.ndarray[Any, Any], lr: FloatArray) -> None:
    """Raise ValueError with the first iteration at which the learning rate is no finite number."""
    if len(bad := np.flatnonzero(~np.isfinite(lr))):
        first = bad[t[bad].argmin()]
        raise ValueError(f"{policy}: the learning rate at iteration {t[first]:,} is {lr[first]}")


def _plain(value: Any) -> Any:
    """The types that JSON gives back: lists, texts for keys, numbers of Python's own."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
