"""A report in one HTML file: what was decided and why, the pictures, the plan, what to type next, all numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice

from clrtool.core.planning.plan import Plan
from clrtool.core.reading.bounds import Bounds
from clrtool.core.reading.curve import Point
from clrtool.core.results.comparison import Candidate, Comparison
from clrtool.core.results.record import RunRecord
from clrtool.report.pages.html_page import bullets, code, details, page, paragraph, picture, section, table
from clrtool.report.plots import plot_comparison, plot_range_test, plot_schedules
from clrtool.report.programs.program import to_code
from clrtool.report.records.evaluations import columns
from clrtool.report.text.facts import across, both, cycles, finals, in_epochs, lengths, own_params, rates_of
from clrtool.report.text.tables import how_measured
from clrtool.words import argument, count, shell_command

# Cycles that are listed; of more, the rest is counted.
SHOWN_CYCLES = 50


def range_test_report(record: RunRecord, title: str, source: str) -> str:
    """The page of a range test.

    Args:
        source: the run folder, as commands are to name it.
    """
    sweep, bounds, plan = record.sweep, record.bounds, record.plan
    schedule = "" if plan is None else picture(partial(plot_schedules, {title: plan}))
    verified = [] if record.verification is None else [f"Verified: {record.verification.reason}"]
    runs = [((f"{curve.seed}",), curve.points()) for curve in sweep.curves]
    return page(
        f"{title}: LR range test",
        paragraph(_decided(record), "decision"),
        paragraph(f"Verdict {bounds.verdict.word}: {bounds.verdict.value}"),
        section("Bounds", _bounds_table(bounds),
                bullets([*(each.value for each in bounds.advice), *verified, *sweep.warnings])),
        section("Pictures", picture(partial(plot_range_test, record, title)), schedule),
        *([] if plan is None else [_plan(plan), _next(plan, source)]),
        section("How it was measured", table("Race, sweep, evaluations and cost", how_measured(record), last="prose")),
        section("Measured points", _measured(runs, ("seed",), sweep.metric.name)),
        _origin(record),
    )  # fmt: skip


def comparison_report(record: Comparison, title: str, source: str) -> str:
    """The page of a comparison; ``source`` is its folder, as commands are to name it."""
    judgement = record.judgement
    best = next((each for each in record.candidates if each.name == judgement.best), None)
    runs = [((each.name, f"{run.seed}"), run.points) for each in record.candidates for run in each.trainings]
    return page(
        f"{title}: comparison of {len(record.candidates)} policies",
        paragraph(judgement.verdict.value, "decision"),
        paragraph(judgement.reason),
        _policies(record),
        section("Picture", picture(partial(plot_comparison, record, title))),
        *([] if best is None else [_plan(best.plan, best.name), _next(best.plan, f"{source}/compare.json")]),
        section("Measured points", _measured(runs, ("policy", "seed"), record.metric.name)),
        _origin(record),
    )


def plan_report(plan: Plan, title: str, source: str) -> str:
    """The page of a plan; ``source`` is its file, as commands are to name it."""
    drawing = section("Picture", picture(partial(plot_schedules, {title: plan})))
    return page(f"{title}: schedule", paragraph(_follow(plan), "decision"), drawing, _plan(plan), _next(plan, source))


def _decided(record: RunRecord) -> str:
    if record.plan is not None:
        return _follow(record.plan)
    return " ".join(("No bounds to train with.", *(each.value for each in record.bounds.advice[:1])))


def _follow(plan: Plan) -> str:
    """What to train with, in a sentence."""
    length = _length(plan.iterations, plan)
    between = f"Train with {plan.policy}, base_lr {plan.base_lr:.3g} and max_lr {plan.max_lr:.3g}"
    if plan.stepsize is None or plan.num_cycles is None:
        return f"{between}, for {length}."
    return f"{between}, stepsize {_length(plan.stepsize, plan)}: {count(plan.num_cycles, 'cycle')} in {length}."


def _bounds_table(bounds: Bounds) -> str:
    rows = [
        (name, "none" if lr is None else f"{lr:.4g}", across(interval), reason)
        for name, lr, interval, reason in both(bounds)
    ]
    return table("The bounds of the cycle", rows, ("bound", "value", "interval", "why"), "prose")


def _policies(record: Comparison) -> str:
    """What each policy reached, and what all were made of."""
    bounds = record.bounds
    header = ("policy", "learning rates", f"final {record.metric.label}", "standard deviation", "each seed")
    caption = f"{count(len(record.seeds), 'seed')} of {record.epochs:.4g} epochs each"
    made_of = f"The bounds of all, {bounds.base_lr:.3g} to {bounds.max_lr:.3g}, are from {bounds.source}."
    return section("Policies", table(caption, map(_policy, record.candidates), header), paragraph(made_of),
                   bullets(record.warnings))  # fmt: skip


def _policy(candidate: Candidate) -> tuple[str, ...]:
    plan, deviation = candidate.plan, candidate.deviation
    mean = "not finite" if candidate.mean is None else f"{candidate.mean:.4f}"
    rates = f"{plan.base_lr:.3g} to {plan.max_lr:.3g}" if plan.base_lr < plan.max_lr else f"{plan.max_lr:.3g}"
    return candidate.name, rates, mean, "" if deviation is None else f"{deviation:.4f}", finals(candidate)


def _plan(plan: Plan, name: str = "") -> str:
    """The numbers of a plan, its cycles, and why they are so."""
    rows = [
        ("policy", plan.policy),
        *((name, f"{lr:.6g}") for name, lr in rates_of(plan).items()),
        *((key, _value(value)) for key, value in own_params(plan).items()),
        *((key, _length(value, plan)) for key, value in lengths(plan).items()),
    ]
    title = f"Plan of {name}" if name else "Plan"
    return section(title, table("The numbers of the plan", rows), _cycles(plan), bullets(plan.reasons))


def _cycles(plan: Plan) -> str:
    listed = list(islice(cycles(plan), SHOWN_CYCLES))
    if not listed:
        return ""
    every = plan.num_cycles or len(listed)
    caption = "Its cycles" if every <= SHOWN_CYCLES else f"The first {SHOWN_CYCLES} of its {every:,} cycles"
    rows = [
        (each.number, f"{each.begin:,}", f"{each.end:,}", each.peak, f"{each.peak_at:,}")
        for each in listed
    ]  # fmt: skip
    return table(caption, rows, ("cycle", "from iteration", "to iteration", "peak", "at iteration"))


def _next(plan: Plan, source: str) -> str:
    """What to type, and the program that follows the plan."""
    shown = shell_command("clrtool", "plan", argument(source))
    commands = f"{shown}\n{shown} --format torch -o schedule.py"
    return section("What to type next", code("commands", commands), paragraph("To follow the plan in torch:"),
                   code("program for torch", to_code(plan, "torch")))  # fmt: skip


def _measured(runs: Iterable[tuple[tuple[str, ...], Sequence[Point]]], keys: Sequence[str], metric: str) -> str:
    """Every evaluation, folded away."""
    rows = [(*of, *_numbers(point)) for of, points in runs for point in points]
    evaluations = count(len(rows), "evaluation")
    return details(f"{evaluations} as a table", table(f"{evaluations}, as measured", rows, columns(keys, metric)))


def _numbers(point: Point) -> Iterator[str]:
    iteration, *rest = point
    yield f"{iteration:,}"
    yield from ("" if math.isnan(value) else f"{value:.5g}" for value in rest)


def _origin(record: RunRecord | Comparison) -> str:
    hashes = [("config", record.config_sha256), ("data", record.data_sha256), *record.sources.items()]
    return section("Environment and hashes", table("Where it was measured", record.environment.items()),
                   table("SHA-256 of what went in", hashes, last="hash"))  # fmt: skip


def _length(iterations: int, plan: Plan) -> str:
    epochs = in_epochs(iterations, plan)
    return count(iterations, "iteration") + (f" ({epochs})" if epochs else "")


def _value(value: object) -> str:
    return f"{value:.8g}" if isinstance(value, float) else str(value)
