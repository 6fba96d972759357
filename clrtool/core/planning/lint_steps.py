"""Steps that do not match: epochs taken for iterations or the reverse, lengths, and cycles that are not whole."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from clrtool.core.planning.budget import MAX_STEPSIZE_EPOCHS, MIN_STEPSIZE_EPOCHS
from clrtool.core.planning.finding import Finding, Use
from clrtool.core.planning.plan import Plan
from clrtool.core.planning.policies import POLICIES
from clrtool.core.schedules import (
    Cosine,
    CosineRestarts,
    Cyclical,
    Exponential,
    Geometric,
    Join,
    Phases,
    Piecewise,
    Polynomial,
    Schedule,
    Within,
    WithMomentum,
)

# A decay by more than this over a run leaves nothing to learn with.
DECAYED_AWAY = 1e-6
# An amplitude that is this small at the first peak is no cycle.
NO_CYCLE = 1e-3


@dataclass(frozen=True)
class Stepping:
    """How often a training takes a step of the schedule: ``steps`` in all, a step an epoch or an iteration."""

    steps: int
    per_iteration: bool
    iterations_per_epoch: int | None
    epochs: float | None
    foreign: bool  # its numbers are somebody's; clrtool's own plans are made of epochs and have none to mistake

    @classmethod
    def of(cls, plan: Plan, use: Use) -> Stepping:
        """The steps of a training that is as long as a plan."""
        per_iteration = use.stepped == "iteration" or plan.epochs is None
        steps = plan.iterations if per_iteration else max(1, round(plan.epochs or 0))
        foreign = plan.policy not in POLICIES or plan.policy == "stages"
        return cls(steps, per_iteration, plan.iterations_per_epoch, plan.epochs, foreign)

    def reads_as_epochs(self, length: float) -> bool:
        """Whether a length reads as epochs where the steps are iterations: no more than the training has epochs."""
        in_epochs = self.foreign and self.per_iteration and self.epochs is not None and self.iterations_per_epoch != 1
        return in_epochs and 0 < length <= (self.epochs or 0) + 1

    def reads_as_iterations(self, length: float) -> bool:
        """Whether a length reads as iterations where the steps are epochs: longer than the training."""
        return not self.per_iteration and length > self.steps


def lint_steps(plan: Plan, stepping: Stepping) -> Iterator[Finding]:
    """Hold every part of a schedule against the steps that the training takes of it."""
    whole = _rates(plan.schedule)
    parts, begins = (whole.parts, whole.begins) if isinstance(whole, Join) else ((whole,), (0,))
    parts = tuple(map(_rates, parts))
    if begins[-1] == stepping.steps and isinstance(parts[-1], Piecewise):
        parts, begins = parts[:-1], begins[:-1]  # what holds the value of the end is no part of its own
    for part, begin, end in zip(parts, begins, (*begins[1:], stepping.steps), strict=True):
        if begin >= stepping.steps:
            yield _never_reached(f"what begins at step {begin:,}", stepping)
            return
        yield from _part(part, begin, min(end, stepping.steps) - begin, stepping)
    if stepping.foreign:
        yield from _length(plan, parts[-1], begins[-1], stepping)


def _rates(schedule: Schedule) -> Schedule:
    """What moves the learning rate, without a momentum or an end around it."""
    match schedule:
        case WithMomentum(rates=inner) | Within(part=inner):
            return _rates(inner)
    return schedule


def _part(part: Schedule, begin: int, steps: int, stepping: Stepping) -> Iterator[Finding]:
    """A part that takes ``steps`` steps from step ``begin`` on."""
    match part:
        case Cyclical():
            yield from _cycles(part, begin, steps, stepping)
        case CosineRestarts(num_cycles=None, period=period) | Polynomial(cycle=True, iterations=period):
            yield from _restarts(part, period, steps, stepping)
        case Piecewise(boundaries=(*_, last), values=values) if min(values) < values[0]:
            yield from _drop(begin + last, stepping)
        case Exponential(staircase=True, every=every):
            yield from _drop(begin + every, stepping)
    left = float(part([steps - 1])[0]) / part.max_lr if isinstance(part, Exponential) and part.max_lr else 1.0
    if left < DECAYED_AWAY:
        yield Finding(
            "decayed away",
            f"{steps:,} steps leave {left:.1g} of the learning rate",
            "step once per epoch, or raise gamma to the power of 1 / iterations per epoch",
        )


def _cycles(part: Cyclical, begin: int, steps: int, stepping: Stepping) -> Iterator[Finding]:
    per_epoch, stepsize = stepping.iterations_per_epoch, part.stepsize
    if stepping.reads_as_iterations(stepsize):
        yield _once_per_epoch(f"a half cycle of {stepsize:,} steps", stepping)
        return
    if stepping.reads_as_epochs(stepsize) and stepsize <= MAX_STEPSIZE_EPOCHS < (per_epoch or 0):
        yield Finding(
            "counted in epochs",
            f"a half cycle of {stepsize} iterations is {stepsize / (per_epoch or 1):.2g} epochs: it reads as epochs, "
            "but the scheduler is stepped per iteration",
            f"a stepsize of {stepsize * (per_epoch or 1):,} iterations for {stepsize} epochs",
        )
    else:
        yield from _stepsize(stepsize, stepping)
    if isinstance(part.scale, Geometric) and part.per == "iteration" and part.scale.ratio**stepsize < NO_CYCLE:
        yield Finding(
            "decayed away",
            f"gamma = {part.scale.ratio:g} leaves {part.scale.ratio**stepsize:.1g} of the amplitude at the first peak",
            f"gamma = {0.1 ** (1 / max(steps, 1)):.6g} leaves a tenth of it at the end",
        )
    if steps % part.period:
        whole = max(1, round(steps / part.period))
        yield Finding(
            "unfinished cycle",
            f"{steps:,} steps are {steps / part.period:.3g} cycles of {part.period:,}: it ends at a learning rate of "
            f"{float(part([steps])[0]):.3g}, not at {part.base_lr:.3g}",
            f"train for {begin + whole * part.period:,} steps",
        )


def _stepsize(stepsize: int, stepping: Stepping) -> Iterator[Finding]:
    per_epoch = stepping.iterations_per_epoch
    if stepping.per_iteration and per_epoch is None:
        return
    epochs = stepsize / (per_epoch or 1) if stepping.per_iteration else float(stepsize)
    if MIN_STEPSIZE_EPOCHS <= epochs <= MAX_STEPSIZE_EPOCHS:
        return
    low, high = MIN_STEPSIZE_EPOCHS, MAX_STEPSIZE_EPOCHS
    yield Finding(
        "stepsize",
        f"a stepsize of {epochs:.3g} epochs is outside the paper's {low} to {high} (section 3.2)",
        f"{low} to {high} epochs" + (f", {low * per_epoch:,} to {high * per_epoch:,} iterations" if per_epoch else ""),
    )


def _restarts(part: Schedule, period: float, steps: int, stepping: Stepping) -> Iterator[Finding]:
    if stepping.reads_as_iterations(period):
        yield _once_per_epoch(f"a restart after {period:,.6g} steps", stepping)
        return
    if stepping.reads_as_epochs(period):
        yield _too_early(f"a restart after {period:g}", period, stepping)
    ends = part.begins(2 * steps + int(period)) if isinstance(part, CosineRestarts) else []
    if ends and steps not in ends:
        near = min(ends[1:], key=lambda end: abs(end - steps))
        yield Finding(
            "unfinished cycle",
            f"{steps:,} steps end inside a cycle, at a learning rate of {float(part([steps])[0]):.3g}",
            f"train for {near:,.10g} steps, where a cycle ends",
        )


def _drop(last: float, stepping: Stepping) -> Iterator[Finding]:
    if stepping.reads_as_epochs(last):
        yield _too_early(f"a drop at {last:g}", last, stepping)
    elif stepping.reads_as_iterations(last):
        yield _once_per_epoch(f"a drop at {last:,g}", stepping)
    elif stepping.foreign and last >= stepping.steps:
        yield _never_reached(f"a drop at {last:,g}", stepping)


def _length(plan: Plan, part: Schedule, begin: int, stepping: Stepping) -> Iterator[Finding]:
    """The length of a schedule that has one, against that of the training."""
    length, steps = _stated(plan, part, begin), stepping.steps
    # one that ends on the last step is whole; one step more keeps torch's one cycle from its step after the last
    if length is None or length in (steps - 1, steps) or (plan.policy.endswith("OneCycleLR") and length == steps + 1):
        return
    if stepping.reads_as_epochs(length) and abs(length - (stepping.epochs or 0)) <= 1:
        yield Finding(
            "counted in epochs",
            f"its length of {length:,} is the number of epochs, but it is stepped per iteration: it is over after "
            f"{length / steps:.1%} of the training",
            f"a length of {steps:,} iterations",
        )
    elif stepping.reads_as_iterations(length) and abs(length - plan.iterations) <= (stepping.iterations_per_epoch or 1):
        yield _once_per_epoch(f"its length of {length:,} steps", stepping)
    else:
        lr = float(plan.schedule([steps - 1])[0])
        rises = isinstance(part, Cosine) and part.wave
        what = f"it stops at {lr:.3g}, before its end" if length > steps else (
            f"after its end the learning rate {'rises again' if rises else f'stays at {lr:.3g}'}"
        )  # fmt: skip
        yield Finding("length", f"its length is {length:,} steps, the training takes {steps:,}: {what}",
                      f"a length of {steps:,} steps")  # fmt: skip


def _stated(plan: Plan, part: Schedule, begin: int) -> int | None:
    """The length that a schedule was given, if it is one that falls to an end."""
    stated = plan.params.get("num_training_steps") or plan.params.get("total_num_steps")
    match part:
        case Phases(values=values) if values[-1] >= max(values):
            return None  # a rise may end early
        case Phases() | Cosine() | Polynomial(cycle=False) | CosineRestarts(num_cycles=int()):
            return int(stated or begin + part.preview)
    return None


def _too_early(what: str, length: float, stepping: Stepping) -> Finding:
    return Finding(
        "counted in epochs",
        f"{what} reads as epochs, but it is stepped per iteration: it comes after {length / stepping.steps:.1%} of the "
        "training",
        f"multiply by {stepping.iterations_per_epoch:,} iterations per epoch, or step once per epoch",
    )


def _once_per_epoch(what: str, stepping: Stepping) -> Finding:
    return Finding(
        "counted in iterations",
        f"{what} is never reached: stepped per epoch, the scheduler takes {stepping.steps:,} steps",
        "call scheduler.step() after every batch (in Lightning: interval='step')",
    )


def _never_reached(what: str, stepping: Stepping) -> Finding:
    return Finding("length", f"{what} is never reached: the training takes {stepping.steps:,} steps",
                   "an earlier step, or a longer training")  # fmt: skip
