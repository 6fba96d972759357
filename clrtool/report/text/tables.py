"""What people read in the terminal: the result of a range test and a plan, as rich tables. Nothing is printed here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from rich.table import Table

from clrtool.report.text.facts import (
    across,
    averaging_rows,
    both,
    both_reasons,
    cycles,
    decided,
    going_on_rows,
    in_counted_epochs,
    in_epochs,
    lengths,
    own_params,
    rates_of,
)
from clrtool.report.text.grid import grid
from clrtool.words import count

if TYPE_CHECKING:
    from clrtool.core.planning.finding import Finding
    from clrtool.core.planning.plan import Plan
    from clrtool.core.reading.bounds import Bounds
    from clrtool.core.reading.curve import SweepOutcome
    from clrtool.core.results.record import RunRecord, SweepRecord

SHOWN_CYCLES = 12
# A name, a value, and what there is to say of it.
Row = tuple[str, str, str]


def bounds_table(bounds: Bounds, title: str) -> Table:
    """Both bounds with their intervals, the verdict, what to do next, and why."""
    return grid([*_bounds(bounds), *_verdict(bounds), *_why(both_reasons(bounds))], f"{title}: bounds")


def result_table(record: RunRecord, title: str, say: Callable[[str], str] = str, *, verbose: bool = False) -> Table:
    """The decision in its first line; then the bounds with their intervals, the verdict, what to do next, and why.

    Args:
        say: puts a text into the words of the door at which it is read.
        verbose: what experts want to know too: race, sweep, evaluations and what they took.
    """
    rows = [*_result(record), *(how_measured(record) if verbose else _cost(record))]
    rows += [("warning", "", warning) for warning in record.sweep.warnings]
    return grid(((name, value, say(text)) for name, value, text in rows), f"{title}: {decided(record)}")


def how_measured(record: RunRecord) -> Iterator[Row]:
    """The race, the sweep before it or alone, its evaluations, and what all of it took."""
    sweep, race = record.sweep, record.race
    if race is not None:
        rates = {probe.lr for probe in race.probes}
        tried = f"{count(len(rates), 'rate')} from {min(rates):.2g} to {max(rates):.2g}" if rates else "no rate"
        longest = max((probe.iterations for probe in race.probes), default=0)
        yield "race", f"{race.iterations:,} iterations", f"{tried}; the best ran for {count(longest, 'iteration')}."
    swept = f"From {sweep.start_lr:.2g} to {sweep.end_lr:.2g}, {sweep.spacing}, "
    swept += f"{count(len(sweep.curves), 'seed')} of {sweep.epochs:.3g} epochs. "
    swept += "" if sweep.engine == "eager" else f"Steps: {sweep.engine}. "
    yield "sweep", f"{sweep.iterations:,} iterations", swept + _outcomes(sweep)
    samples = count(sweep.heldout_samples, sweep.metric.unit) if sweep.heldout_samples else ""
    yield "held out", samples, _evaluations(sweep)
    yield from _capture(sweep)
    yield from _cost(record)


def plan_table(plan: Plan, title: str) -> Table:
    """Every number of a plan in iterations and in epochs, a line for each cycle, and the reasons."""
    told = "" if plan.num_cycles is None else f", {count(plan.num_cycles, 'whole cycle')}"
    told += f", {len(plan.groups)} parameter groups" if len(plan.groups) > 1 else ""
    return grid(_plan(plan), f"{title}: {plan.policy}{told}")


def lint_table(findings: Sequence[Finding], title: str) -> Table:
    """Each finding with its cause and its fix."""
    rows: list[tuple[str, str]] = []
    for finding in findings:
        cause = f"{finding.place}: {finding.cause}" if finding.place else finding.cause
        rows += [(f"note: {finding.rule}" if finding.note else finding.rule, cause)]
        rows += [("", f"fix: {finding.fix}")]
    return grid(rows, f"{title}: {count(len(findings), 'finding')}")


def _bounds(bounds: Bounds) -> Iterator[Row]:
    for name, lr, interval, _ in both(bounds):
        yield name, "none" if lr is None else f"{lr:.3g}", f"interval {across(interval)}" if interval else ""


def _verdict(bounds: Bounds) -> Iterator[Row]:
    yield "verdict", bounds.verdict.word, bounds.verdict.value
    yield from (("", "", advice.value) for advice in bounds.advice)


def _why(reasons: Iterable[tuple[str, str]]) -> Iterator[Row]:
    """What each number rests on. A reason that another begins with is not given twice."""
    known = dict(reasons)
    for name, reason in known.items():
        if not any(name != other and longer.startswith(reason) for other, longer in known.items()):
            yield f"why {name}", "", reason


def _result(record: RunRecord) -> Iterator[Row]:
    """What was decided, how far to trust it, and why."""
    bounds, plan, groups, verification = record.bounds, record.plan, record.sweep.groups, record.verification
    reasons = [*both_reasons(bounds)]
    yield from _bounds(bounds)
    if len(groups) > 1:
        others = ", ".join(f"{group.lr_ratio:.3g}" for group in groups[1:])
        yield (
            "groups",
            count(len(groups), "group"),
            f"The rates are for the first; the others: {others} times them.",
        )
    if plan is not None:
        name, length, cycles = "plan", plan.iterations, f"{plan.policy} over {plan.epochs:.4g} epochs"
        if plan.stepsize is not None and plan.num_cycles is not None:
            name, length, cycles = "stepsize", plan.stepsize, f"{count(plan.num_cycles, 'cycle')} of {cycles}"
        yield name, count(length, "iteration"), "; ".join(filter(None, (in_counted_epochs(length, plan), cycles)))
        reasons.append((name, " ".join(plan.reasons)))
    if record.going_on is not None:
        yield from going_on_rows(record.going_on)
    if bounds.max_lr is not None:
        yield from averaging_rows(record, bounds.max_lr)
    yield from _verdict(bounds)
    yield from _why(reasons)
    if verification is not None:
        runs = f"{count(len(verification.trials), 'short run')}\n{verification.cost_epochs:.3g} epochs"
        yield "verified", runs, verification.reason


def _cost(record: RunRecord) -> Iterator[Row]:
    """What the test took, as a share of the training where that is known."""
    seconds = "" if record.sweep.seconds is None else f"{record.sweep.seconds:.1f} s"
    told, race = f"{record.cost_epochs:.3g} epochs", record.race
    if race is not None:
        training = race.entry.training
        told += f", {record.iterations / training:.0%} of the planned training of {training:,} iterations"
    yield "cost", seconds, f"{told}."


def _capture(sweep: SweepRecord) -> Iterator[Row]:
    """What it took to have steps replayed, where they were."""
    if sweep.capture_seconds is not None:
        yield (
            "capture",
            f"{sweep.capture_seconds:.1f} s",
            "The step as a CUDA graph, with its checks; part of the cost.",
        )


def _plan(plan: Plan) -> Iterator[Row]:
    yield from ((name, f"{lr:.4g}", "") for name, lr in rates_of(plan).items())
    yield from ((name, _value(value), "") for name, value in own_params(plan).items())
    for name, iterations in lengths(plan).items():
        told = in_counted_epochs if name == "length" else in_epochs
        yield name, count(iterations, "iteration"), told(iterations, plan)
    yield from _cycles(plan)
    yield from (("", "", reason) for reason in plan.reasons)


def _cycles(plan: Plan) -> Iterator[Row]:
    """A line for each cycle: the highest learning rate of each group, where that is, and where the cycle ends."""
    for cycle in islice(cycles(plan), SHOWN_CYCLES):
        begin, end = cycle.begin, cycle.end
        span = f"iterations {begin:,} to {end:,}"
        if plan.iterations_per_epoch:
            span = f"epochs {begin / plan.iterations_per_epoch:.4g} to {end / plan.iterations_per_epoch:.4g}"
        yield f"cycle {cycle.number}", f"peak {cycle.peak}", f"{span}, peak at iteration {cycle.peak_at:,}"
    if len(plan.groups[0].schedule.cycle_ends(plan.iterations)) > SHOWN_CYCLES:
        yield "...", f"{plan.num_cycles - SHOWN_CYCLES:,} more" if plan.num_cycles else "and so on", ""


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.8g}"
    if isinstance(value, list):
        return ("\n" if value and isinstance(value[0], list) else ", ").join(map(_value, value))
    return str(value)


def _evaluations(sweep: SweepRecord) -> str:
    """How often the held-out set was measured, what that took, and the standard error of a measurement."""
    number = max(len(curve.lr) for curve in sweep.curves)
    share = "" if sweep.evaluation_share is None else f", {sweep.evaluation_share:.0%} of the time"
    text = f"{count(number, 'evaluation')} per seed{share}."
    if sweep.standard_error is None:
        return text
    return f"{text} Each {sweep.metric.label} has a standard error of ±{100 * sweep.standard_error:.1f} points."


def _outcomes(sweep: SweepRecord) -> str:
    """How the sweeps ended and at which learning rate, with the number of seeds where they differ."""
    groups: dict[SweepOutcome, list[str]] = {}
    for curve in sweep.curves:
        groups.setdefault(curve.outcome, []).append(str(curve.seed))
    parts = []
    for outcome, seeds in groups.items():
        who = f"{len(seeds)} of {len(sweep.curves)} seeds: " if len(groups) > 1 else ""
        rates = dict.fromkeys(f"{sweep.stopped_at[seed]:.2g}" for seed in seeds if seed in sweep.stopped_at)
        at = f", at {', '.join(rates)}" if rates else ""
        parts.append(f"{who}{outcome.value.removesuffix('.')}{at}.")
    return " ".join(parts)
