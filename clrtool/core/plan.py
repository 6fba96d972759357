"""A plan: policy, bounds and stepsize, in whole cycles that fit a budget of epochs."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from clrtool.core.schedules import POLICIES, Cyclical

# Section 3.2 of arXiv 1506.01186 v6: a stepsize of 2-10 epochs; at least 3 cycles train most of the way, 4 are better.
MIN_STEPSIZE_EPOCHS, MAX_STEPSIZE_EPOCHS = 2, 10
GOOD_CYCLES = 4
# More is a slip of the pen.
MAX_EPOCHS, MAX_ITERATIONS = 1e5, 1e9
# exp_range: the share of the amplitude left at the end. The paper's own runs end between 0.01 and 0.22.
FINAL_AMPLITUDE = 0.1


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything a training run needs to follow a cyclical schedule.

    Args:
        policy: name of the schedule family, a key of ``POLICIES``.
        base_lr, max_lr: bounds of the cycle.
        stepsize: half a cycle, in iterations.
        stepsize_epochs: the same in epochs.
        iterations_per_epoch: optimizer steps in one pass over the training set.
        num_cycles: whole cycles; the learning rate is back at ``base_lr`` when they end.
        iterations, epochs: length of the whole plan.
        gamma: factor per iteration of ``exp_range``, else None.
        reasons: one sentence for each number that was chosen or rounded.
    """

    policy: str
    base_lr: float
    max_lr: float
    stepsize: int
    stepsize_epochs: float
    iterations_per_epoch: int
    num_cycles: int
    iterations: int
    epochs: float
    gamma: float | None = None
    reasons: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_positive("iterations_per_epoch", self.iterations_per_epoch, at_most=MAX_ITERATIONS)
        if self.iterations != 2 * self.stepsize * self.num_cycles or self.num_cycles < 1:
            raise ValueError(
                f"a plan is whole cycles: iterations = {self.iterations} must be 2 * stepsize * num_cycles "
                f"= {2 * self.stepsize * self.num_cycles}"
            )
        exact = (self.stepsize / self.iterations_per_epoch, self.iterations / self.iterations_per_epoch)
        if not all(map(math.isclose, (self.stepsize_epochs, self.epochs), exact)):
            raise ValueError(
                f"stepsize_epochs and epochs must be {exact[0]:g} and {exact[1]:g}, by iterations_per_epoch"
            )
        object.__setattr__(self, "reasons", tuple(self.reasons))
        _ = self.schedule  # checks the policy and the bounds

    @property
    def schedule(self) -> Cyclical:
        """The plan as a function of the iteration."""
        if self.policy not in POLICIES:
            raise ValueError(f"policy must be one of {', '.join(POLICIES)}, got {self.policy!r}")
        extra = {} if self.gamma is None else {"gamma": self.gamma}
        return POLICIES[self.policy](self.base_lr, self.max_lr, self.stepsize, **extra)

    def torch_kwargs(self) -> dict[str, Any]:
        """Arguments of ``torch.optim.lr_scheduler.CyclicLR``, stepped once per iteration.

        ``cycle_momentum`` is always given: torch's default True turns momentum on for plain SGD.
        """
        names = {"base_lr": self.base_lr, "max_lr": self.max_lr, "step_size_up": self.stepsize, "mode": self.policy}
        return names | ({"gamma": self.gamma} if self.gamma is not None else {}) | {"cycle_momentum": False}

    def to_dict(self) -> dict[str, Any]:
        """The plan in plain types, for JSON and YAML."""
        return asdict(self) | {"reasons": list(self.reasons)}


def make_plan(
    base_lr: float,
    max_lr: float,
    iterations_per_epoch: int,
    *,
    epochs: float = 30,
    policy: str = "triangular2",
    stepsize_epochs: float | None = None,
) -> Plan:
    """Fit whole cycles into a budget of epochs.

    The number of cycles is 4, or as near to it as a stepsize of 2 to 10 epochs allows::

        num_cycles = clamp(4, from ceil(epochs / 20), to floor(epochs / 4)), at least 1
        stepsize   = floor(epochs * iterations_per_epoch / (2 * num_cycles))

    Args:
        epochs: the budget, passes over the training set.
        stepsize_epochs: half a cycle in epochs; None to choose it by the rule above.

    Raises:
        ValueError: a number breaks its rule, or one whole cycle does not fit into the budget.

    >>> plan = make_plan(0.001, 0.006, iterations_per_epoch=500, epochs=32, policy="triangular")
    >>> plan.num_cycles, plan.stepsize, plan.stepsize_epochs
    (4, 2000, 4.0)
    >>> plan.schedule([0, 2000, plan.iterations])
    array([0.001, 0.006, 0.001])
    """
    _check_positive("base_lr", base_lr)
    _check_positive("max_lr", max_lr)
    if max_lr <= base_lr:
        raise ValueError(f"max_lr = {max_lr!r} must exceed base_lr = {base_lr!r}")
    stepsize, num_cycles, reasons = _fit_cycles(epochs, iterations_per_epoch, stepsize_epochs)
    iterations = 2 * stepsize * num_cycles
    return Plan(
        policy=policy,
        base_lr=base_lr,
        max_lr=max_lr,
        stepsize=stepsize,
        stepsize_epochs=stepsize / iterations_per_epoch,
        iterations_per_epoch=iterations_per_epoch,
        num_cycles=num_cycles,
        iterations=iterations,
        epochs=iterations / iterations_per_epoch,
        gamma=FINAL_AMPLITUDE ** (1 / iterations) if policy == "exp_range" else None,
        reasons=reasons,
    )


def _fit_cycles(
    epochs: float, iterations_per_epoch: int, stepsize_epochs: float | None
) -> tuple[int, int, tuple[str, ...]]:
    """The stepsize in iterations, the number of cycles, and the reasons for both."""
    _check_positive("epochs", epochs, at_most=MAX_EPOCHS)
    _check_positive("iterations_per_epoch", iterations_per_epoch, at_most=MAX_ITERATIONS)
    budget = math.floor(epochs * iterations_per_epoch)
    if stepsize_epochs is None:
        num_cycles, reason = _choose_cycles(epochs)
        stepsize = budget // (2 * num_cycles)
    else:
        _check_positive("stepsize_epochs", stepsize_epochs, at_most=MAX_EPOCHS)
        stepsize = max(1, round(stepsize_epochs * iterations_per_epoch))
        num_cycles = budget // (2 * stepsize)
        reason = f"The stepsize was given, and with it as many whole cycles as fit into {epochs:g} epochs."
    if stepsize < 1 or num_cycles < 1:
        raise ValueError(
            f"epochs = {epochs:g} is {budget} iterations, shorter than one cycle of {2 * max(stepsize, 1)}: "
            f"raise epochs or lower stepsize_epochs"
        )
    left = budget - 2 * stepsize * num_cycles
    rest = (f"{left} of {budget} iterations are left over: the plan stops at the end of a cycle.",) if left else ()
    return stepsize, num_cycles, (reason, *rest)


def _choose_cycles(epochs: float) -> tuple[int, str]:
    least = math.ceil(epochs / (2 * MAX_STEPSIZE_EPOCHS))
    most = math.floor(epochs / (2 * MIN_STEPSIZE_EPOCHS))
    if most < 1:
        return 1, (
            f"{epochs:g} epochs are fewer than the {2 * MIN_STEPSIZE_EPOCHS} of one cycle with a stepsize of "
            f"{MIN_STEPSIZE_EPOCHS} epochs: one shorter cycle is planned."
        )
    cycles = max(least, min(GOOD_CYCLES, most))
    if cycles == GOOD_CYCLES:
        return cycles, "The paper finds 3 cycles enough for most of the way, and 4 better."
    if cycles == most:
        return cycles, f"As many cycles as fit with a stepsize of at least {MIN_STEPSIZE_EPOCHS} epochs: {cycles}."
    return cycles, f"As few cycles as fit with a stepsize of at most {MAX_STEPSIZE_EPOCHS} epochs: {cycles}."


def _check_positive(name: str, value: float, at_most: float = math.inf) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be finite and above 0, got {value!r}")
    if value > at_most:
        raise ValueError(f"{name} must be at most {at_most:g}, got {value!r}")
