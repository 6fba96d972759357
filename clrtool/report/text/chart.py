"""The pictures as text for a terminal: a range test, a sweep as it goes, a comparison, schedules."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from string import ascii_lowercase
from textwrap import wrap

import numpy as np

from clrtool.core.planning.plan import Plan
from clrtool.core.racing.probes import by_horizon
from clrtool.core.racing.result import Race
from clrtool.core.reading.bounds import Bounds
from clrtool.core.results.comparison import Comparison
from clrtool.core.results.record import RunRecord
from clrtool.core.schedules import FloatArray
from clrtool.errors import ConfigError
from clrtool.report.text.canvas import Axis, Canvas, spanning
from clrtool.report.text.facts import both, by_group, common, sampled
from clrtool.words import count, printable, shortened

# Rows of the chart of a sweep as it goes.
LIVE_HEIGHT = 5
# Learning rates farther apart than this are drawn by their logarithms while the spacing is not known.
DECADE = 10
# The early part of training, where every policy learns fast, is left to run out of the axis.
EARLY = 0.2
POINTS = 501


def range_test_chart(record: RunRecord, width: int = 80, *, ascii_only: bool = False) -> str:
    """Metric against learning rate, the mean over seeds as far as all of them went, and both bounds as lines.

    Of a race it is the held-out loss of its short runs, a letter a horizon.

    Args:
        width: letters in a line, 40 at the least.
        ascii_only: stars in place of Braille dots.
    """
    sweep, bounds = record.sweep, record.bounds
    if record.race is not None and record.race.probes:
        return _race_chart(record.race, bounds, width, ascii_only=ascii_only)
    lr, metrics = common(sweep.curves, "metric")
    metric = metrics.mean(0)
    axis = Axis(sweep.start_lr, sweep.end_lr, sweep.spacing == "exponential")
    canvas = Canvas(axis, spanning([metric]), width, ascii_only=ascii_only)
    canvas.line(lr, metric)
    pointers = {f"{name} {lr:.3g}": lr for name, lr, *_ in both(bounds) if lr is not None}
    several = f", mean of {len(sweep.curves)} seeds" if len(sweep.curves) > 1 else ""
    return canvas.framed(f"{sweep.metric.label}{several}", "learning rate", pointers)


def _race_chart(race: Race, bounds: Bounds, width: int, *, ascii_only: bool) -> str:
    """Held-out loss of the first seed against learning rate, up to that of a constant answer: a letter a horizon."""
    rates = [probe.lr for probe in race.probes]
    finite = [probe.loss for probe in race.probes if math.isfinite(probe.loss)]
    low = min(finite, default=0.0)
    axis = Axis(min(rates), max(rates) if max(rates) > min(rates) else 2 * max(rates), is_log=True)
    canvas = Canvas(axis, Axis(low, max(race.entry.constant, low)), width, ascii_only=ascii_only)
    legend = []
    for letter, (horizon, losses) in zip(ascii_lowercase, sorted(by_horizon(race.probes).items()), strict=False):
        powers = [power for power in sorted(losses) if math.isfinite(losses[power])]
        canvas.letters(
            np.array([2.0**power for power in powers]), np.array([losses[power] for power in powers]), letter
        )
        legend.append(f"{letter} {horizon:,}")
    pointers = {f"{name} {lr:.3g}": lr for name, lr, *_ in both(bounds) if lr is not None}
    chart = canvas.framed("held-out loss of short runs, up to the constant answer", "learning rate", pointers)
    said = f"after iterations: {', '.join(legend)}; * = where they meet"
    return "\n".join([chart, *wrap(said, max(map(len, chart.splitlines())))])


def sweep_chart(
    curves: Sequence[tuple[Sequence[float], Sequence[float]]], metric: str, width: int, *, ascii_only: bool = False
) -> str:
    """What a sweep has measured so far, every seed over the others.

    Args:
        curves: learning rates and metrics of each seed.
        metric: what it is called.
    """
    pairs = [(np.array(lr), np.array(values)) for lr, values in curves]
    rates = spanning([lr for lr, _ in pairs])
    axis = Axis(rates.low, rates.high, rates.high > DECADE * rates.low > 0)
    canvas = Canvas(axis, spanning([each for _, each in pairs]), width, height=LIVE_HEIGHT, ascii_only=ascii_only)
    for lr, values in pairs:
        canvas.line(lr, values)
    return canvas.framed(metric, "learning rate")


def comparison_chart(record: Comparison, width: int = 80, *, ascii_only: bool = False) -> str:
    """Metric against iterations, a letter a policy: the mean over its seeds as far as all of them went."""
    curves = {candidate.name: candidate.common() for candidate in record.candidates}
    means = {name: (iterations, values.mean(0)) for name, (iterations, values) in curves.items()}
    late = [mean[iterations >= EARLY * record.iterations] for iterations, mean in means.values()]
    canvas = Canvas(Axis(0, record.iterations), spanning(late), width, ascii_only=ascii_only)
    seeds = f", mean of {len(record.seeds)} seeds" if len(record.seeds) > 1 else ""
    return _lettered(canvas, means, f"{record.metric.label}{seeds}")


def schedules_chart(plans: Mapping[str, Plan], width: int = 80, *, ascii_only: bool = False) -> str:
    """Learning rate against iterations: one schedule in dots, several in a letter each."""
    curves = {title: _schedule(plan) for title, plan in by_group(plans).items()}
    last = max(plan.last for plan in plans.values())
    canvas = Canvas(Axis(0, last), spanning([lr for _, lr in curves.values()]), width, ascii_only=ascii_only)
    if len(curves) == 1:
        ((title, curve),) = curves.items()
        canvas.line(*curve)
        return canvas.framed(f"learning rate of {title}", "iteration")
    return _lettered(canvas, curves, f"learning rate of {count(len(curves), 'schedule')}")


def _schedule(plan: Plan) -> tuple[FloatArray, FloatArray]:
    """Iterations and rates, with every corner of the schedule among them."""
    where = sampled(plan.schedule, plan.last, POINTS)
    return where.astype(np.float64), plan.lr(where)


def _lettered(canvas: Canvas, curves: Mapping[str, tuple[FloatArray, FloatArray]], title: str) -> str:
    """Each curve in a letter, and what the letters stand for."""
    if len(curves) > len(ascii_lowercase):
        raise ConfigError(f"a chart has letters for {len(ascii_lowercase)} schedules, not {len(curves)}")
    legend = []
    for letter, (name, (x, y)) in zip(ascii_lowercase, curves.items(), strict=False):
        canvas.letters(x, y, letter)
        end = y[-1] if len(y) else math.nan
        legend.append(f"{letter} = {shortened(printable(name), 40)}, ends at {end:.4g}")
    return "\n".join([canvas.framed(title, "iteration"), *legend, "* = where they meet"])
