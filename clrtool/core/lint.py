"""What will go wrong with a schedule: each finding with its cause and its fix."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from clrtool.core.budget import MAX_STEPSIZE_EPOCHS, MIN_STEPSIZE_EPOCHS
from clrtool.core.plan import Plan, plan_from
from clrtool.core.schedules import (
    Cosine,
    CosineRestarts,
    Cyclical,
    Exponential,
    FloatArray,
    Join,
    Phases,
    Piecewise,
    Polynomial,
    Schedule,
)
from clrtool.core.sources import bind, find_source

Stepped = Literal["iteration", "epoch"]
# Classes of torch.optim whose parameter groups have neither a momentum nor betas.
WITHOUT_MOMENTUM = ("Adadelta", "Adafactor", "Adagrad", "ASGD", "LBFGS", "Rprop")
OPTIMIZERS = (
    *WITHOUT_MOMENTUM, "Adam", "AdamW", "Adamax", "Muon", "NAdam", "RAdam", "RMSprop", "SGD", "SparseAdam"
)  # fmt: skip
_ONE_CYCLE = "torch.optim.lr_scheduler.OneCycleLR"
# A decay by more than this over a run leaves nothing to learn with.
DECAYED_AWAY = 1e-6


@dataclass(frozen=True)
class Finding:
    """One thing that will go wrong: a short name for it, why it happens, what to change."""

    rule: str
    cause: str
    fix: str


@dataclass(frozen=True, kw_only=True)
class Use:
    """How a training script uses a schedule.

    Args:
        stepped: how often it calls ``scheduler.step()``.
        optimizer: the class of ``torch.optim``; None where it is not known.
        momentum: what the optimizer is made with.
        base_lr, max_lr: the bounds that were meant; None for no check.
    """

    stepped: Stepped = "iteration"
    optimizer: str | None = None
    momentum: float = 0.0
    base_lr: float | None = None
    max_lr: float | None = None


def lint_source(
    source: str,
    params: Mapping[str, Any],
    iterations: int | None,
    iterations_per_epoch: int | None,
    use: Use,
) -> tuple[Finding, ...]:
    """Lint a schedule in another system's words, over a training of so many iterations.

    >>> arguments = {"max_lr": 0.1, "total_steps": 30}
    >>> [finding.rule for finding in lint_source("torch:OneCycleLR", arguments, 1410, 47, Use(optimizer="Adam"))]
    ['counted in epochs', 'after the end']
    """
    full = find_source(source)
    try:
        plan = plan_from(full, params, iterations=iterations, iterations_per_epoch=iterations_per_epoch)
    except ValueError:
        if full == _ONE_CYCLE and (broken := _no_rise(bind(full, params))):
            return (broken,)
        raise
    return (*lint_plan(plan, use, tuple(params)), *_after_one_cycle(plan))


def lint_plan(plan: Plan, use: Use, given: tuple[str, ...] = ("cycle_momentum",)) -> tuple[Finding, ...]:
    """Lint a plan.

    Args:
        given: the arguments of torch's scheduler that the user wrote.
    """
    steps = plan.iterations if use.stepped == "iteration" or plan.epochs is None else max(1, round(plan.epochs))
    schedule = plan.schedule if isinstance(plan.schedule, Join) else Join((plan.schedule,), (0,))
    return (
        *_units(schedule.parts[-1], schedule.begins[-1], steps, plan, use),
        *_momentum(plan, use, given),
        *_outside(*_sampled(plan, steps), use),
    )


def lint_values(lr: FloatArray, use: Use) -> tuple[Finding, ...]:
    """Lint learning rates as they are, one for each iteration.

    >>> [finding.rule for finding in lint_values(np.array([0.1, 0.3, -0.1]), Use(base_lr=0.1, max_lr=0.2))]
    ['negative', 'outside the bounds', 'ends away from base_lr']
    """
    bad = np.flatnonzero(~np.isfinite(lr))
    if len(bad):
        return (Finding("not finite", f"the learning rate at iteration {bad[0]:,} is {lr[bad[0]]}", "remove it"),)
    return (*_outside(lr, np.arange(len(lr)), use), *_ending(lr, use))


def _no_rise(params: Mapping[str, Any]) -> Finding | None:
    total = params.get("total_steps") or (params.get("epochs") or 0) * (params.get("steps_per_epoch") or 0)
    if not total or params["pct_start"] * total != 1:
        return None
    return Finding(
        "pct_start",
        f"pct_start * total_steps = {params['pct_start']:g} * {total} = 1 is a rise of no length: torch raises "
        "ZeroDivisionError",
        f"pct_start={2 / total:g} for a rise of one iteration, or more",
    )


def _units(part: Schedule, offset: int, steps: int, plan: Plan, use: Use) -> Iterator[Finding]:
    """Epochs taken for iterations or the reverse, and lengths that do not match."""
    match part:
        case Cyclical():
            yield from _cycles(part, offset, steps, plan, use)
        case CosineRestarts(num_cycles=None):
            begins = part.begins(2 * max(0, steps - offset) + int(part.period))
            if steps > offset and steps - offset not in begins:
                near = offset + min(begins[1:], key=lambda begin: abs(begin - (steps - offset)))
                yield Finding(
                    "unfinished cycle",
                    f"{steps:,} steps end inside a cycle, at a learning rate of {float(part(steps - offset)):.3g}",
                    f"train for {near:,.10g} steps, where a cycle ends",
                )
        case Phases() | Cosine() | Polynomial(cycle=False):
            yield from _length(offset + part.preview, steps, plan, use, rises=isinstance(part, Cosine) and part.wave)
        case Piecewise(boundaries=(*_, last)):
            yield from _drops(offset + last, steps, plan, use)
        case Exponential():
            yield from _drops(offset + part.every if part.staircase else 0, steps, plan, use)
            if float(part(steps - 1)) < DECAYED_AWAY * part.max_lr:
                yield Finding(
                    "decayed away",
                    f"{steps:,} steps leave {float(part(steps - 1)) / part.max_lr:.1g} of the learning rate",
                    "step once per epoch, or raise gamma to the power of 1 / iterations per epoch",
                )


def _cycles(part: Cyclical, offset: int, steps: int, plan: Plan, use: Use) -> Iterator[Finding]:
    per_epoch, stepsize = plan.iterations_per_epoch, part.stepsize
    in_epochs = float(stepsize) if use.stepped == "epoch" else stepsize / per_epoch if per_epoch else None
    if use.stepped == "epoch" and stepsize > steps:
        yield _per_iteration(f"a half cycle of {stepsize:,} steps", steps)
    elif use.stepped == "iteration" and per_epoch and stepsize <= MAX_STEPSIZE_EPOCHS < per_epoch:
        yield Finding(
            "counted in epochs",
            f"a half cycle of {stepsize} iterations is {stepsize / per_epoch:.2g} epochs: it reads as epochs, but the "
            "scheduler is stepped per iteration",
            f"a stepsize of {stepsize * per_epoch:,} iterations for {stepsize} epochs",
        )
    elif in_epochs is not None and not MIN_STEPSIZE_EPOCHS <= in_epochs <= MAX_STEPSIZE_EPOCHS:
        yield Finding(
            "stepsize",
            f"a stepsize of {in_epochs:.3g} epochs is outside the paper's {MIN_STEPSIZE_EPOCHS} to "
            f"{MAX_STEPSIZE_EPOCHS} (section 3.2)",
            f"{MIN_STEPSIZE_EPOCHS} to {MAX_STEPSIZE_EPOCHS} epochs" + _in_iterations(per_epoch),
        )
    in_cycles = steps - offset
    if in_cycles > 0 and in_cycles % part.period and stepsize <= steps:
        whole = max(1, round(in_cycles / part.period))
        yield Finding(
            "unfinished cycle",
            f"{in_cycles:,} steps are {in_cycles / part.period:.3g} cycles of {part.period:,}: training ends at a "
            f"learning rate of {float(part(in_cycles)):.3g}, not at {part.base_lr:.3g}",
            f"train for {offset + whole * part.period:,} steps, or let stepsize be {in_cycles // (2 * whole):,}",
        )


def _in_iterations(per_epoch: int | None) -> str:
    if per_epoch is None:
        return ""
    return f": {MIN_STEPSIZE_EPOCHS * per_epoch:,} to {MAX_STEPSIZE_EPOCHS * per_epoch:,} iterations"


def _length(length: int, steps: int, plan: Plan, use: Use, *, rises: bool) -> Iterator[Finding]:
    if length == steps:
        return
    epochs = plan.epochs
    if use.stepped == "iteration" and epochs and plan.iterations_per_epoch != 1 and abs(length - epochs) <= 1:
        yield Finding(
            "counted in epochs",
            f"its length of {length:,} is the number of epochs, but it is stepped per iteration: it is over after "
            f"{length / steps:.1%} of the training",
            f"a length of {steps:,} iterations",
        )
    elif use.stepped == "epoch" and epochs and abs(length - plan.iterations) <= (plan.iterations_per_epoch or 1):
        yield _per_iteration(f"its length of {length:,} steps", steps)
    elif length > steps:
        yield Finding(
            "length",
            f"its length is {length:,} steps, the training takes {steps:,}: it stops at a learning rate of "
            f"{float(plan.schedule(steps - 1)):.3g}, before its end",
            f"a length of {steps:,} steps",
        )
    else:
        after = "rises again" if rises else f"stays at {float(plan.schedule(steps - 1)):.3g}"
        yield Finding(
            "length",
            f"its length is {length:,} steps, the training takes {steps:,}: after its end the learning rate {after}",
            f"a length of {steps:,} steps",
        )


def _drops(last: float, steps: int, plan: Plan, use: Use) -> Iterator[Finding]:
    if use.stepped == "iteration" and plan.epochs and plan.iterations_per_epoch != 1 and 0 < last <= plan.epochs:
        yield Finding(
            "counted in epochs",
            f"a drop at {last:g} reads as epochs, but it is stepped per iteration: it comes after "
            f"{last / plan.iterations:.1%} of the training",
            f"multiply by {plan.iterations_per_epoch:,} iterations per epoch, or step once per epoch",
        )
    elif use.stepped == "epoch" and last > steps:
        yield _per_iteration(f"a drop at {last:g}", steps)


def _per_iteration(what: str, steps: int) -> Finding:
    return Finding(
        "counted in iterations",
        f"{what} is never reached: stepped per epoch, the scheduler takes {steps:,} steps",
        "call scheduler.step() after every batch (in Lightning: interval='step')",
    )


def _momentum(plan: Plan, use: Use, given: tuple[str, ...]) -> Iterator[Finding]:
    momentum = plan.momentum([0])
    if momentum is None:
        return
    if use.optimizer in WITHOUT_MOMENTUM:
        yield Finding(
            "no momentum",
            f"it moves the momentum, and {use.optimizer} has neither momentum nor betas: torch raises ValueError",
            "cycle_momentum=False",
        )
    elif (use.optimizer == "SGD" and use.momentum == 0) or (use.optimizer is None and "cycle_momentum" not in given):
        default = "" if "cycle_momentum" in given else ", which is torch's default,"
        yield Finding(
            "momentum turned on",
            f"cycle_momentum=True{default} sets the momentum to {float(momentum[0]):g} even for SGD(momentum=0)",
            "cycle_momentum=False, or give the optimizer a momentum and the scheduler the range that you mean",
        )


def _sampled(plan: Plan, steps: int) -> tuple[FloatArray, np.ndarray[Any, Any]]:
    t = np.unique(np.linspace(0, steps - 1, min(steps, 10**5)).astype(np.int64))
    return plan.schedule(t), t


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
        summed = use.base_lr and use.max_lr and np.isclose(lr[high], 2 * use.base_lr + use.max_lr)
        worst = high if above else low
        yield Finding(
            "outside the bounds",
            f"it runs from {lr[low]:.3g} to {lr[high]:.3g} (iteration {t[worst]:,}), where "
            f"{use.base_lr or 0:g} to {use.max_lr or np.inf:g} was meant",
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


def _after_one_cycle(plan: Plan) -> Iterator[Finding]:
    """torch computes one step more than it has: the last phase, continued past its end."""
    if plan.policy != _ONE_CYCLE:
        return
    schedule, total = plan.schedule, plan.schedule.preview
    assert isinstance(schedule, Phases)
    if plan.iterations < total:
        return
    (begin, end), (first, last) = schedule.knots[-2:], schedule.values[-2:]
    past = (total - begin) / (end - begin)
    linear = schedule.shapes[-1] == "linear"
    lr = first + (last - first) * past if linear else last + (first - last) / 2 * (1 + np.cos(np.pi * past))
    yield Finding(
        "after the end",
        f"the last scheduler.step(), number {total:,}, leaves a learning rate of {lr:.3g}, "
        f"{'negative' if lr < 0 else 'risen again'}; one more raises ValueError",
        f"leave out the last scheduler.step(), or total_steps={plan.iterations + 1}, or clrtool.PlanScheduler",
    )
