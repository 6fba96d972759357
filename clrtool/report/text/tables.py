"""What people read in the terminal: the result of a range test and a plan, as rich tables. Nothing is printed here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from clrtool.report.text.cycles import cycles
from clrtool.words import count, printable

if TYPE_CHECKING:
    from clrtool.core.planning.finding import Finding
    from clrtool.core.planning.plan import Plan
    from clrtool.core.reading.bounds import Bounds, Interval
    from clrtool.core.reading.curve import SweepOutcome
    from clrtool.core.results.record import RunRecord, SweepRecord

SHOWN_CYCLES = 12


def bounds_table(bounds: Bounds, title: str) -> Table:
    """Both bounds with interval and reason, the verdict, and what to do next."""
    table = _table(f"{title}: bounds", 3)
    _add_bounds(table, bounds)
    _add_verdict(table, bounds)
    return table


def _add_bounds(table: Table, bounds: Bounds) -> None:
    _add_row(table, "base_lr", _lr(bounds.base_lr, bounds.base_lr_interval), bounds.base_reason)
    _add_row(table, "max_lr", _lr(bounds.max_lr, bounds.max_lr_interval), bounds.max_reason)


def _add_verdict(table: Table, bounds: Bounds) -> None:
    _add_row(table, "verdict", bounds.verdict.word, bounds.verdict.value)
    for advice in bounds.advice:
        _add_row(table, "", "", advice.value)


def result_table(record: RunRecord, title: str) -> Table:
    """Bounds with interval and reason, the verdict, what to do next, and what the test cost."""
    sweep, bounds = record.sweep, record.bounds
    seeds = count(len(sweep.curves), "seed")
    table = _table(f"{title}: LR range test, {seeds} x {sweep.epochs:.3g} epochs", 3)
    _add_bounds(table, bounds)
    if record.plan is not None:
        plan = record.plan
        name, length, cycles = "plan", plan.iterations, f"{plan.policy} in {plan.epochs:.4g} epochs."
        if plan.stepsize is not None and plan.num_cycles is not None:
            name, length, cycles = "stepsize", plan.stepsize, f"{count(plan.num_cycles, 'cycle')} of {cycles}"
        steps = f"{count(length, 'iteration')}\n{_epochs(length, plan)}"
        _add_row(table, name, steps, " ".join((cycles, *plan.reasons)))
    _add_verdict(table, bounds)
    if record.verification is not None:
        verification = record.verification
        runs = f"{count(len(verification.trials), 'short run')}\n{verification.cost_epochs:.3g} epochs"
        _add_row(table, "verified", runs, verification.reason)
    swept = f"From {sweep.start_lr:.2g} to {sweep.end_lr:.2g}, {sweep.spacing}."
    swept += "" if sweep.engine == "eager" else f" Steps: {sweep.engine}."
    seconds = "" if sweep.seconds is None else f"{sweep.seconds:.1f} s\n"
    _add_row(table, "sweep", f"{seconds}{sweep.cost_epochs:.3g} epochs", f"{swept} {_outcomes(sweep)}")
    _add_row(table, "held out", count(sweep.heldout_samples, sweep.metric.unit), _evaluations(sweep))
    for warning in sweep.warnings:
        _add_row(table, "warning", "", warning)
    return table


def plan_table(plan: Plan, title: str) -> Table:
    """Every number of a plan in iterations and in epochs, a line for each cycle, and the reasons."""
    cycles = "" if plan.num_cycles is None else f", {count(plan.num_cycles, 'whole cycle')}"
    table = _table(f"{title}: {plan.policy}{cycles}", 3)
    _add_row(table, "base_lr", f"{plan.base_lr:.4g}", "")
    _add_row(table, "max_lr", f"{plan.max_lr:.4g}", "")
    for name, value in plan.params.items():
        if name in ("base_lr", "max_lr"):
            continue  # another system's words for what is told above
        _add_row(table, name, _value(value), "")
    for name, iterations in (
        ("warm-up", plan.warmup or None),
        ("stepsize", plan.stepsize),
        ("length", plan.iterations),
    ):
        if iterations is not None:
            _add_row(table, name, count(iterations, "iteration"), _epochs(iterations, plan))
    _add_cycles(table, plan)
    for reason in plan.reasons:
        _add_row(table, "", "", reason)
    return table


def lint_table(findings: Sequence[Finding], title: str) -> Table:
    """Each finding with its cause and its fix."""
    table = _table(f"{title}: {count(len(findings), 'finding')}", 2)
    for finding in findings:
        _add_row(table, f"note: {finding.rule}" if finding.note else finding.rule, finding.cause)
        _add_row(table, "", f"fix: {finding.fix}")
    return table


def _add_cycles(table: Table, plan: Plan) -> None:
    """A line for each cycle: its highest learning rate, where that is, and where the cycle ends."""
    for number, begin, end, peak, peak_at in islice(cycles(plan), SHOWN_CYCLES):
        span = f"epochs {begin / plan.iterations_per_epoch:.4g} to {end / plan.iterations_per_epoch:.4g}, " if (
            plan.iterations_per_epoch
        ) else f"iterations {begin:,} to {end:,}, "  # fmt: skip
        _add_row(table, f"cycle {number}", f"peak {peak:.4g}", f"{span}peak at iteration {peak_at:,}")
    ends = plan.schedule.cycle_ends(plan.iterations)
    if len(ends) > SHOWN_CYCLES:
        _add_row(table, "...", f"{plan.num_cycles - SHOWN_CYCLES:,} more" if plan.num_cycles else "and so on", "")


def _epochs(iterations: int, plan: Plan) -> str:
    if plan.iterations_per_epoch is None:
        return ""
    return f"{iterations / plan.iterations_per_epoch:.4g} epochs"


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.8g}"
    if isinstance(value, list):
        return ("\n" if value and isinstance(value[0], list) else ", ").join(map(_value, value))
    return str(value)


def _evaluations(sweep: SweepRecord) -> str:
    """How often the held-out set was measured, what that took, and how sure one measurement is."""
    number = max(len(curve.lr) for curve in sweep.curves)
    share = "" if sweep.evaluation_share is None else f", {sweep.evaluation_share:.0%} of the time"
    text = f"{count(number, 'evaluation')} a seed{share}."
    if sweep.standard_error is None:
        return text
    return f"{text} One {sweep.metric.label} is sure to {100 * sweep.standard_error:.1f} points, its standard error."


def _outcomes(sweep: SweepRecord) -> str:
    """How the sweeps ended and at which learning rate, with the number of seeds where they differ."""
    groups: dict[SweepOutcome, list[str]] = {}
    for curve in sweep.curves:
        stopped = sweep.stopped_at.get(str(curve.seed))
        groups.setdefault(curve.outcome, []).extend([] if stopped is None else [f"{stopped:.2g}"])
    counts = Counter(curve.outcome for curve in sweep.curves)
    parts = []
    for outcome, rates in groups.items():
        who = f"{counts[outcome]} of {len(sweep.curves)} seeds: " if len(counts) > 1 else ""
        at = f", at {', '.join(dict.fromkeys(rates))}" if rates else ""
        parts.append(f"{who}{outcome.value.removesuffix('.')}{at}.")
    return " ".join(parts)


def _table(title: str, columns: int) -> Table:
    table = Table(title=_text(title), title_justify="left", box=box.SIMPLE_HEAD, show_header=False, pad_edge=False)
    for _ in range(columns):
        table.add_column(overflow="fold")
    return table


def _lr(lr: float | None, interval: Interval | None) -> str:
    if lr is None:
        return "none"
    return f"{lr:.3g}" + (f"\n{interval[0]:.2g} to {interval[1]:.2g}" if interval else "")


def _add_row(table: Table, *cells: str) -> None:
    table.add_row(*map(_text, cells))


def _text(text: str) -> Text:
    """A text in which neither rich markup nor a control character has a meaning."""
    return Text(printable(text))
