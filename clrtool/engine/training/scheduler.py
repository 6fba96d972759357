"""A plan as a scheduler of torch, for a training loop of one's own."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from clrtool.core.planning.plan import Plan
from clrtool.engine.training.joint import joined

# Iterations that are computed at a time: one alone costs ten times a step of torch's own schedulers.
BLOCK = 256
# Steps in a row between which something else moved the rate of any group: a callback does so once an epoch.
CHAINED = 2


class PlanScheduler(LRScheduler):
    """Follows a plan: call ``step()`` after every ``optimizer.step()``, once per iteration.

    The first parameter group follows the plan, and every other group keeps the ratio of its learning rate to the
    first. A group that is added later keeps the ratio with which it is added, or gets the optimizer's default rate. Of
    a plan with several ``groups`` each parameter group follows its own. A learning rate that is a tensor is changed in
    place. A plan that moves the momentum sets ``momentum``, or the first of ``betas``. Past the end of the plan, its
    last value is held, with one warning.

    The state is one integer, ``last_epoch`` (torch's name for the iteration). It can be loaded into a scheduler of a
    new optimizer, before or after the optimizer's own state. The scheduler works inside torch's ``SequentialLR``, but
    not inside ``ChainedScheduler``, which multiplies learning rates where this one sets them.

    Args:
        optimizer: an optimizer, of whose learning rates only the ratios matter; or a list of them, where the first
            group of the first follows the plan and the training loop steps each optimizer.
        plan: the plan to follow.
        last_epoch: number of iterations already done, minus 1.
        iterations_per_epoch: number of iterations that the training loop takes in an epoch, if the plan counted another
            one: the plan is then stretched to the same number of epochs. Default: the plan's.

    Raises:
        ValueError: the plan moves the momentum and the optimizer has none, or its first learning rate is not above 0,
            or the plan has several groups and the optimizer another number; from ``step``, another scheduler or the
            training loop has changed the learning rate of the first group, or twice in a row that of another.

    >>> import torch, clrtool
    >>> plan = clrtool.make_plan(0.1, 0.5, iterations_per_epoch=1, epochs=4, policy="triangular", cycles=1)
    >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    >>> scheduler = PlanScheduler(optimizer, plan)
    >>> for _ in range(4):
    ...     print(scheduler.get_last_lr())
    ...     optimizer.step(); scheduler.step()
    [0.1]
    [0.3]
    [0.5]
    [0.3]
    """

    def __init__(
        self,
        optimizer: Optimizer | Sequence[Optimizer],
        plan: Plan,
        last_epoch: int = -1,
        iterations_per_epoch: int | None = None,
    ) -> None:
        if not isinstance(plan, Plan):
            raise TypeError(f"plan must be a Plan, as clrtool.make_plan and read_plan give it; got {plan!r}")
        self.plan, self._pace = plan, _pace(plan, iterations_per_epoch)
        self._courses = [_Course(group, self._pace) for group in plan.groups]
        self._warned = False
        self._set: list[float | None] = []  # the learning rates as this scheduler left them
        self._moved = 0  # steps in a row before which another had moved them
        self._seen: list[dict[str, Any]] = []  # the groups that they are of: a checkpoint that is loaded makes new ones
        one: Optimizer = joined(optimizer)
        check_groups(plan, one)
        for group in one.param_groups:
            if plan.groups[0].schedule.cycles_momentum:
                check_has_momentum(one, group)
            # a fresh optimizer has none where last_epoch says that training began before
            group.setdefault("initial_lr", float(group["lr"]))
        first = float(one.param_groups[0]["initial_lr"])
        if not first > 0:
            raise ValueError(
                f"the first group's learning rate must be above 0, because the others follow it; got {first}"
            )
        super().__init__(one, last_epoch)

    def get_lr(self) -> list[float | Tensor]:
        """The learning rate of every group; sets the momenta as torch's cyclical schedulers do."""
        if round(self.last_epoch * self._pace, 6) > self.plan.iterations and not self._warned:
            self._warned = True
            warnings.warn(
                f"the plan ended after {self.plan.iterations:,} iterations: its last value is held; for a longer one: "
                "clrtool plan RUN --epochs N",
                stacklevel=3,
            )
        rates: list[float | Tensor] = []
        for group, (lr, momentum) in zip(self.optimizer.param_groups, self._values(), strict=True):
            if momentum is not None:
                set_momentum(group, momentum)
            rates.append(lr)
        return rates

    def step(self, epoch: int | None = None) -> None:
        """Go to the next iteration."""
        if epoch is None:
            self._check_rates()
        super().step(epoch)
        self._remember()

    def _remember(self) -> None:
        """The rates as they are, for :meth:`_check_rates`."""
        self._set, self._seen = self._numbers(), [*self.optimizer.param_groups]

    def _rates(self) -> list[float]:
        return [float(group["lr"]) for group in self.optimizer.param_groups]

    def _numbers(self) -> list[float | None]:
        """The learning rates that are numbers: to read one that is a tensor, its device would be waited for."""
        rates = (group["lr"] for group in self.optimizer.param_groups)
        return [None if isinstance(rate, Tensor) else float(rate) for rate in rates]

    def _ratios(self) -> list[float]:
        """What the rate of each group is, of that of the first; groups that were added since are taken on."""
        first, *others = groups = self.optimizer.param_groups
        for group in others:
            if "initial_lr" not in group:
                # a rate of its own was meant for now, when the first group is somewhere in the plan
                given = float(group["lr"])
                current = float(first["lr"]) if self._set else 0.0
                is_own = given != self.optimizer.defaults.get("lr") and current > 0
                group["initial_lr"] = given * (float(first["initial_lr"]) / current if is_own else 1.0)
        return [float(group["initial_lr"]) / float(first["initial_lr"]) for group in groups]

    def _check_rates(self) -> None:
        """Raise ValueError if something else moved the rate of the first group, as a chain of schedulers does.

        A callback that unfreezes a network sets the rate of another group once an epoch; the plan sets that again by
        its ratio.
        """
        groups, now = self.optimizer.param_groups, self._numbers()[: len(self._set)]
        is_new = any(new is not old for new, old in zip(groups, self._seen, strict=False))  # a checkpoint was loaded
        self._moved = self._moved + 1 if self.last_epoch > 0 and not is_new and now != self._set else 0
        if self._moved and (now[0] != self._set[0] or self._moved >= CHAINED):
            raise ValueError(
                "another scheduler moves the learning rates that this plan sets, as in a ChainedScheduler, or the "
                f"training loop does: they were {self._set} and are {now} at iteration {self.last_epoch:,}. Plan a "
                "warm-up with warmup_epochs, or put schedulers one after the other with SequentialLR"
            )

    def state_dict(self) -> dict[str, Any]:
        """``{"last_epoch": iteration}``."""
        return {"last_epoch": self.last_epoch}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go to an iteration.

        The optimizer's own state brings the learning rates and momenta. Where it was not loaded, so that they are still
        those that this scheduler set, they are set again; any other is left alone, because the next scheduler in a
        ``SequentialLR`` may have set it.
        """
        if not isinstance(state_dict.get("last_epoch"), int):
            raise ValueError(f"the state of a PlanScheduler is {{'last_epoch': iteration}}, got {dict(state_dict)!r}")
        ours = self._rates() == [float(lr) for lr in self._last_lr]
        self.last_epoch = state_dict["last_epoch"]
        if self.last_epoch < 0:  # a later part of a SequentialLR, which has not begun
            return
        if ours:
            self.last_epoch -= 1
            self._step_count = 0  # as in the constructor: this step is none of the training loop's
            self.step()
        else:
            self._last_lr = [lr for lr, _ in self._values()]
            self._remember()

    def _values(self) -> list[tuple[float, float | None]]:
        """Learning rate and momentum of every group at this iteration."""
        if len(self._courses) > 1:
            check_groups(self.plan, self.optimizer)
            return [course.at(self.last_epoch) for course in self._courses]
        lr, momentum = self._courses[0].at(self.last_epoch)
        return [(lr * ratio, momentum) for ratio in self._ratios()]


class _Course:
    """The values of the plan of a parameter group, a block of iterations at a time; ``pace`` is of it for one."""

    def __init__(self, plan: Plan, pace: float) -> None:
        self._plan, self._pace = plan, pace
        self._block = -1

    def at(self, iteration: int) -> tuple[float, float | None]:
        """Learning rate and momentum, None of a plan that leaves it alone."""
        block, place = divmod(iteration, BLOCK)
        if block != self._block:
            self._block = block
            places = self._pace * np.arange(block * BLOCK, (block + 1) * BLOCK)
            whole = np.arange(int(places[0]), math.ceil(places[-1]) + 1)  # a plan is of whole iterations
            momenta = self._plan.momentum(whole)
            self._lrs = np.interp(places, whole, self._plan.lr(whole)).tolist()
            self._momenta = None if momenta is None else np.interp(places, whole, momenta).tolist()
        return self._lrs[place], None if self._momenta is None else self._momenta[place]


def check_groups(plan: Plan, optimizer: Optimizer) -> None:
    """Raise ValueError where a plan of several parameter groups meets an optimizer with another number of them."""
    planned, there = len(plan.groups), len(optimizer.param_groups)
    if planned not in (1, there):
        raise ValueError(
            f"the plan has a schedule for each of {planned} parameter groups, and the optimizer has {there}: make it "
            "with as many, or follow one of plan.groups"
        )


def _pace(plan: Plan, iterations_per_epoch: int | None) -> float:
    """Iterations of a plan for one of a loop. Raises ValueError for a plan that does not know its epochs."""
    if iterations_per_epoch is None:
        return 1
    if plan.iterations_per_epoch is None or not iterations_per_epoch >= 1:
        raise ValueError(
            f"iterations_per_epoch = {iterations_per_epoch!r} must be at least 1, and the plan know its own, which is "
            f"{plan.iterations_per_epoch!r}"
        )
    return plan.iterations_per_epoch / iterations_per_epoch


def check_has_momentum(optimizer: Optimizer, group: Mapping[str, Any]) -> None:
    """Raise ValueError if a parameter group has no momentum that a plan could move."""
    if not {"momentum", "betas"} & set(group):
        raise ValueError(
            f"the plan moves the momentum, and {type(optimizer).__name__} has neither momentum nor betas: plan without "
            "momentum"
        )


def set_momentum(group: dict[str, Any], value: float) -> None:
    """Set the ``momentum`` of a parameter group, or the first of its ``betas``."""
    if "betas" not in group:
        group["momentum"] = value
    elif isinstance(group["betas"][0], Tensor):
        group["betas"][0].fill_(value)
    else:
        group["betas"] = (value, *group["betas"][1:])
