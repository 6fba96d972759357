"""What people read in the terminal: the result of a range test and a plan, as rich tables. Nothing is printed here."""

from __future__ import annotations

from collections import Counter

from rich import box
from rich.table import Table
from rich.text import Text

from clrtool.core.bounds import Interval
from clrtool.core.plan import Plan
from clrtool.core.record import RunRecord, SweepRecord
from clrtool.words import count, printable

SHOWN_CYCLES = 12


def result_table(record: RunRecord, title: str) -> Table:
    """Bounds with interval and reason, the verdict, what to do next, and what the test cost."""
    sweep, bounds = record.sweep, record.bounds
    seconds = sweep.train_seconds + sweep.evaluation_seconds
    seeds = count(len(sweep.curves), "seed")
    table = _table(f"{title}: LR range test, {seeds} x {sweep.epochs:g} epochs", 3)
    table.add_row("base_lr", _lr(bounds.base_lr, bounds.base_lr_interval), _text(bounds.base_reason))
    table.add_row("max_lr", _lr(bounds.max_lr, bounds.max_lr_interval), _text(bounds.max_reason))
    if record.plan is not None:
        plan = record.plan
        steps = f"{plan.stepsize:,} iterations\n{plan.stepsize_epochs:.3g} epochs"
        cycles = f"{count(plan.num_cycles, 'cycle')} of {plan.policy} in {plan.epochs:.4g} epochs."
        table.add_row("stepsize", steps, _text(" ".join((cycles, *plan.reasons))))
    table.add_row("verdict", bounds.verdict.word, _text(bounds.verdict.value))
    for advice in bounds.advice:
        table.add_row("", "", _text(advice.value))
    swept = f"From {sweep.start_lr:.2g} to {sweep.end_lr:.2g}, {sweep.spacing}."
    table.add_row("sweep", f"{seconds:.1f} s\n{sweep.cost_epochs:.3g} epochs", _text(f"{swept} {_outcomes(sweep)}"))
    return table


def plan_table(plan: Plan, title: str) -> Table:
    """Every number of a plan in iterations and in epochs, and a line for each cycle."""
    table = _table(f"{title}: {plan.policy}, {count(plan.num_cycles, 'whole cycle')}", 3)
    table.add_row("base_lr", f"{plan.base_lr:.4g}", "")
    table.add_row("max_lr", f"{plan.max_lr:.4g}", "")
    if plan.gamma is not None:
        table.add_row("gamma", f"{plan.gamma:.8g}", "per iteration")
    table.add_row("stepsize", f"{plan.stepsize:,} iterations", f"{plan.stepsize_epochs:.4g} epochs")
    table.add_row("length", f"{plan.iterations:,} iterations", f"{plan.epochs:.4g} epochs")
    for cycle in range(min(plan.num_cycles, SHOWN_CYCLES)):
        begin = 2 * cycle * plan.stepsize
        peak = float(plan.schedule(begin + plan.stepsize))
        first, last = 2 * cycle * plan.stepsize_epochs, 2 * (cycle + 1) * plan.stepsize_epochs
        span = f"epochs {first:.4g} to {last:.4g}"
        table.add_row(f"cycle {cycle + 1}", f"peak {peak:.4g}", f"{span}, peak at iteration {begin + plan.stepsize:,}")
    if plan.num_cycles > SHOWN_CYCLES:
        table.add_row("...", f"{plan.num_cycles - SHOWN_CYCLES:,} more", "")
    for reason in plan.reasons:
        table.add_row("", "", _text(reason))
    return table


def _outcomes(sweep: SweepRecord) -> str:
    """How the sweeps ended, with the number of seeds where they differ."""
    counts = Counter(curve.outcome for curve in sweep.curves)
    if len(counts) == 1:
        return next(iter(counts)).value
    return " ".join(f"{counts[outcome]} of {len(sweep.curves)} seeds: {outcome.value}" for outcome in counts)


def _table(title: str, columns: int) -> Table:
    table = Table(title=_text(title), title_justify="left", box=box.SIMPLE_HEAD, show_header=False, pad_edge=False)
    for _ in range(columns):
        table.add_column(overflow="fold")
    return table


def _lr(lr: float | None, interval: Interval | None) -> str:
    if lr is None:
        return "none"
    return f"{lr:.3g}" + (f"\n{interval[0]:.2g} to {interval[1]:.2g}" if interval else "")


def _text(text: str) -> Text:
    """A text in which neither rich markup nor a control character has a meaning."""
    return Text(printable(text))
