"""What each picture shows, in one to three sentences, for who does not see it."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice

from clrtool.core.planning.plan import Plan
from clrtool.core.racing.result import Race
from clrtool.core.reading.paper import reading_of
from clrtool.core.results.comparison import Comparison
from clrtool.core.results.record import RunRecord, SweepRecord
from clrtool.core.results.varied import VaryRecord
from clrtool.report.text.facts import cycles, decided, heldout, ranked, reached
from clrtool.words import count, printable, shortened

# Peaks that are told one by one; of more, the first and the last.
TOLD = 4


def range_test_alt(record: RunRecord, title: str) -> str:
    """A range test: how the metric goes, where the sweep was stopped, and what was decided."""
    sweep, what = record.sweep, f"{heldout(record.sweep.metric)} of {count(len(record.sweep.curves), 'seed')}"
    shown = f"{_name(title)}: {what} above and the losses below, against the learning rate"
    return f"{shown}. {_course(sweep)}. {decision(record)}"


def race_alt(record: RunRecord, race: Race, title: str) -> str:
    """A race: how many rates ran for how long, the best of the longest, the constant answer, and what was decided."""
    rates = {probe.lr for probe in race.probes}
    longest = max((probe.iterations for probe in race.probes), default=0)
    best = min((probe for probe in race.probes if probe.iterations == longest), key=lambda probe: probe.loss)
    shown = f"{_name(title)}: held-out loss of short runs above, {heldout(record.sweep.metric)} of a sweep below"
    ran = f"{count(len(rates), 'rate')} from {min(rates):.2g} to {max(rates):.2g}"
    reached = f"after {count(longest, 'iteration')} {best.lr:.2g} is lowest with {best.loss:.3g}"
    constant = f"a constant answer has {race.entry.constant:.3g}"
    return f"{shown}, against the learning rate. {ran}; {reached}, {constant}. {decision(record)}"


def decision(record: RunRecord) -> str:
    """What a range test came to, in one line: what to train with, and the verdict."""
    if record.bounds.max_lr is None:
        return verdict(record)
    what, sure = decided(record), verdict(record)
    return f"{what[:1].upper()}{what[1:]}; {sure[:1].lower()}{sure[1:]}"


def verdict(record: RunRecord) -> str:
    """How far to trust it, in a sentence."""
    return f"Verdict {record.bounds.verdict.word}: {record.bounds.verdict.value}"


def schedules_alt(plans: Mapping[str, Plan]) -> str:
    """One schedule with its cycles, or the ends of several."""
    unit = "epochs" if all(plan.iterations_per_epoch for plan in plans.values()) else "iterations"
    if len(plans) > 1:
        each = "; ".join(f"{_name(title)}, {_range(plan)}" for title, plan in plans.items())
        return f"The learning rate of {len(plans)} schedules against {unit}: {each}."
    ((title, plan),) = plans.items()
    ends = f"begins at {float(plan.lr(0)):.3g} and ends at {float(plan.lr(plan.last)):.3g}"
    momentum = " The momentum is below." if plan.schedule.cycles_momentum else ""
    return f"{_name(title)}: the learning rate against {unit}, {_range(plan)}. It {ends}{_peaks(plan)}.{momentum}"


def comparison_alt(record: Comparison, title: str) -> str:
    """What each policy reached, the best first, and who won."""
    shown = f"{heldout(record.metric)} of {len(record.candidates)} policies above"
    rates = f"their learning rates below, against iterations; {count(len(record.seeds), 'seed')}"
    ends = ", ".join(f"{_name(each.name)} {reached(each)}" for each in ranked(record))
    return f"{_name(title)}: {shown} and {rates}. At the end: {ends}. {record.judgement.verdict.value}"


def vary_alt(record: VaryRecord, title: str) -> str:
    """A race over values: what was varied, the best loss of each with its rate, and which was chosen."""
    keys = " and ".join(record.names)
    shown = f"{_name(title)}: held-out loss of short runs against the learning rate, a curve for each {keys}"
    if record.chosen is None:
        return f"{shown}. {record.verdict.value}"
    each = (
        f"{record.named(value)} reaches {record.standing(value).loss:.3g}, and its max_lr is {bounds.max_lr:.2g}"
        for value in record.order
        if (bounds := record.bounds(value)) is not None
    )
    return f"{shown}. {'; '.join(each)}. {record.named(record.chosen)} is chosen. {record.verdict.value}"


def _course(sweep: SweepRecord) -> str:
    """How the metric goes: from where it begins to its best, where it breaks, and where the sweep was stopped."""
    reading, metric = reading_of(sweep.curves, sweep.metric), sweep.metric
    lr = max((curve.lr for curve in sweep.curves), key=len)
    first, best = metric.value(reading.floor), metric.value(reading.best)
    course = f"It {metric.rises} from {first:.2g} at {lr[0]:.2g} to {best:.2g} at {lr[reading.peak]:.2g}"
    if reading.rise == 0:
        course = f"It stays at {first:.2g}"
    if reading.broken:
        course += f" and breaks at {reading.breaks:.2g}"
    return "; ".join(filter(None, (course, stopped(sweep))))


def stopped(sweep: SweepRecord) -> str:
    """How many sweeps were stopped and at which learning rates; nothing if none was."""
    rates = [f"{lr:.2g}" for lr in sorted(sweep.stopped_at.values())]
    if not rates:
        return ""
    who = f"{len(rates)} of {len(sweep.curves)} seeds " if len(sweep.curves) > 1 else ""
    return f"{who}stopped at {' to '.join(dict.fromkeys((rates[0], rates[-1])))}"


def _range(plan: Plan) -> str:
    """Policy, bounds and length."""
    length = count(plan.iterations, "iteration") if plan.epochs is None else f"{plan.epochs:.4g} epochs"
    whole = "" if plan.num_cycles is None else f" in {count(plan.num_cycles, 'cycle')}"
    policy = _name(plan.policy)
    return f"{policy} between {plan.base_lr:.3g} and {plan.max_lr:.3g}{whole} over {length}"


def _peaks(plan: Plan) -> str:
    found = [f"{cycle.peaks[0]:.3g}" for cycle in islice(cycles(plan), TOLD + 1)]
    if not found:
        return ""
    if len(set(found)) == 1:
        return f", each cycle with its peak at {found[0]}"
    more = ", ..." if len(found) > TOLD else ""
    return f", the peaks at {', '.join(found[:TOLD])}{more}"


def _name(text: str) -> str:
    """A name of a user in one line, with nothing in it that does not show."""
    return shortened(" ".join(printable(text).split()))
