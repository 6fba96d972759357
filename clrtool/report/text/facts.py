"""What tables, pages, pictures and their words tell alike, for each to tell in its own form."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from clrtool.core.schedules import FloatArray, Schedule
from clrtool.words import count

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from clrtool.core.planning.plan import Plan
    from clrtool.core.racing.going_on import GoingOn, Start
    from clrtool.core.reading.bounds import Bounds, Interval
    from clrtool.core.reading.curve import Curve
    from clrtool.core.reading.metric import Metric
    from clrtool.core.results.comparison import Candidate, Comparison
    from clrtool.core.results.record import RunRecord


def both(bounds: Bounds) -> list[tuple[str, float | None, Interval | None, str]]:
    """The lower bound and the upper one: name, learning rate, interval and reason."""
    return [
        ("base_lr", bounds.base_lr, bounds.base_lr_interval, bounds.base_reason),
        ("max_lr", bounds.max_lr, bounds.max_lr_interval, bounds.max_reason),
    ]


def both_reasons(bounds: Bounds) -> list[tuple[str, str]]:
    """Why each bound is where it is, with the bound's name."""
    return [(name, reason) for name, _, _, reason in both(bounds)]


def decided(record: RunRecord) -> str:
    """What a range test came to, in one line that can be pasted: what to train with, or that there are no bounds."""
    bounds, plan = record.bounds, record.plan
    if bounds.base_lr is None or bounds.max_lr is None:
        return f"{bounds.verdict.word}, no bounds to train with"
    between = f"{bounds.base_lr:.3g} to {bounds.max_lr:.3g}"
    if bounds.verdict.word == "inconclusive" or plan is None:
        return f"{bounds.verdict.word}, learning rates {between}"
    step = "" if plan.stepsize is None else f", stepsize {count(plan.stepsize, 'iteration')}"
    return f"train with {plan.policy}, {between}{step}"


def going_on_rows(way: GoingOn) -> Iterator[tuple[str, str, str]]:
    """Where a training stands that is under way, and how to go on with it: name, value and what there is to say."""
    yield "goes on", f"loss {way.loss:.4g}", f"{begins_from(way.start)} The loss is the held-out one there."
    if (found := way.warm_up) is None:
        return
    once, slow = (" and ".join(f"{each:.4g}" for each in side) for side in (found.at_once, found.warmed))
    told = f"Training loss at max_lr: {once} at once, {slow} after a rise over {count(found.iterations, 'iteration')}."
    yield "re-warm-up", "needed" if found.needed else "not needed", told


def begins_from(start: Start) -> str:
    """Where a training stands that is under way, in a sentence or two."""
    none = "an optimizer without state, whose momenta and second moments begin at zero"
    held = "the optimizer's state" if start.optimizer_state else none
    done = "" if start.epochs is None else f" after {start.epochs:.4g} epochs"
    told = f"From {start.source}{done}, with {held}."
    if start.is_sure:
        return told
    return f"{told} Its epoch is taken as the number of those done: if it counts from 0, one more is."


def averaging_rows(record: RunRecord, max_lr: float) -> Iterator[tuple[str, str, str]]:
    """Over which time decoupled weight decay averages the updates of a training at a rate; nothing without it."""
    sweep, length = record.sweep, math.inf if record.plan is None else record.plan.iterations
    times = dict.fromkeys(time for group in sweep.groups if math.isfinite(time := group.averaging_iterations(max_lr)))
    for time in times:
        told = f"1 / (max_lr * weight_decay) = {time:,.0f} iterations, over which the decay averages updates."
        if time > length:
            told += f" That is longer than the training of {length:,}: the decay does next to nothing."
        elif time < sweep.iterations_per_epoch:
            told += " That is shorter than an epoch: the weights forget samples before they come again."
        epochs = time / sweep.iterations_per_epoch
        yield "averaging time", f"{epochs:,.0f} epochs" if epochs >= 1000 else f"{epochs:.3g} epochs", told


def across(interval: Interval | None) -> str:
    """An interval; nothing for none."""
    return "" if interval is None else f"{interval[0]:.2g} to {interval[1]:.2g}"


def common(curves: Sequence[Curve], column: str) -> tuple[FloatArray, FloatArray]:
    """The learning rates that every seed reached, (n,), and the values there, (seeds, n)."""
    length = min(len(curve.lr) for curve in curves)
    return curves[0].lr[:length], np.stack([getattr(curve, column)[:length] for curve in curves])


def heldout(metric: Metric) -> str:
    """What was measured, and that it was on the held-out set."""
    return f"held-out {metric.label.removeprefix('held-out ')}"


def ranked(record: Comparison) -> list[Candidate]:
    """The policies, the best first, what broke last."""
    return sorted(record.candidates, key=lambda each: (each.mean is None, -record.metric.value(each.mean or 0.0)))


def reached(candidate: Candidate) -> str:
    """What a policy came to at the end."""
    return "not finite" if candidate.mean is None else f"{candidate.mean:.4g}"


def finals(candidate: Candidate) -> str:
    """What each seed of a policy came to."""
    return " ".join("-" if math.isnan(final) else f"{final:.4f}" for final in candidate.finals)


def in_epochs(iterations: int, plan: Plan) -> str:
    """A length in epochs; nothing where those of the plan are not known."""
    return "" if plan.iterations_per_epoch is None else f"{iterations / plan.iterations_per_epoch:.4g} epochs"


def in_counted_epochs(iterations: int, plan: Plan) -> str:
    """The same with the iterations of an epoch, for who trains with another number of them."""
    epochs = in_epochs(iterations, plan)
    return epochs and f"{epochs} of {count(plan.iterations_per_epoch or 0, 'iteration')}"


def lengths(plan: Plan) -> dict[str, int]:
    """What of a plan is counted in iterations."""
    found = {"warm-up": plan.warmup or None, "stepsize": plan.stepsize, "length": plan.iterations}
    return {name: iterations for name, iterations in found.items() if iterations is not None}


def rates_of(plan: Plan) -> dict[str, float]:
    """The bounds of a plan, of each parameter group where it has several."""
    places = [f"group {number} " for number, _ in enumerate(plan.groups, 1)] if len(plan.groups) > 1 else [""]
    return {
        f"{place}{name}": getattr(group, name)
        for place, group in zip(places, plan.groups, strict=True)
        for name in ("base_lr", "max_lr")
    }


def own_params(plan: Plan) -> dict[str, Any]:
    """The arguments of a policy, without another system's words for the bounds."""
    return {name: value for name, value in plan.params.items() if name not in ("base_lr", "max_lr")}


def by_group(plans: Mapping[str, Plan]) -> dict[str, Plan]:
    """Plans by their titles; of one that has several parameter groups, each group's by a title of its own."""
    return {
        f"{title}, group {number}" if len(plan.groups) > 1 else title: group
        for title, plan in plans.items()
        for number, group in enumerate(plan.groups, 1)
    }


def sampled(schedule: Schedule, last: int, points: int) -> NDArray[np.int64]:
    """Iterations up to the last, evenly and with every corner of the schedule, or its peaks would be cut."""
    corners = np.array(schedule.corners(last), dtype=np.int64)
    return np.union1d(corners, np.linspace(0, last, points).astype(np.int64))


class Cycle(NamedTuple):
    """One cycle: its iterations, the last not among them, and its highest learning rate and where that is.

    Of several parameter groups the cycles are the same, and the highest learning rates are those of each.
    """

    number: int
    begin: int
    end: int
    peaks: tuple[float, ...]
    peak_at: int

    @property
    def peak(self) -> str:
        """The highest learning rate of each group, to be read."""
        return ", ".join(f"{lr:.4g}" for lr in self.peaks)


def cycles(plan: Plan) -> Iterator[Cycle]:
    """The cycles of a plan to its end; none of a plan that has no cycles.

    >>> from clrtool.core.planning.make import make_plan
    >>> next(cycles(make_plan(0.1, 0.4, 10, epochs=8, cycles=2)))
    Cycle(number=1, begin=0, end=40, peaks=(0.4,), peak_at=20)
    """
    begin, schedules = plan.warmup, [group.schedule for group in plan.groups]
    for number, end in enumerate(schedules[0].cycle_ends(plan.iterations), 1):
        corners = [corner for corner in schedules[0].corners(end) if begin <= corner < end]
        inside = np.array([*corners, *np.linspace(begin, end - 1, 1001).astype(np.int64)])
        rates = [schedule(inside) for schedule in schedules]
        yield Cycle(number, begin, end, tuple(float(each.max()) for each in rates), int(inside[rates[0].argmax()]))
        begin = end
