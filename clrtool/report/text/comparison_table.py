"""What people read of a comparison in the terminal, as a rich table. Nothing is printed here."""

from __future__ import annotations

from statistics import fmean

from rich.console import Group
from rich.table import Table

from clrtool.core.results.comparison import Candidate, Comparison
from clrtool.report.text.facts import finals, ranked
from clrtool.report.text.grid import grid
from clrtool.words import count

# Seeds whose results stand in the table one by one; of more, mean and deviation tell enough.
SHOWN_SEEDS = 5


def comparison_table(record: Comparison, title: str) -> Group:
    """A row a policy, the highest mean first: what it reached, how fast, and how long that took; then who won."""
    seeds, metric = count(len(record.seeds), "seed"), record.metric
    headline = f"{title}: {len(record.candidates)} policies, {seeds} x {record.epochs:.4g} epochs"
    to_target = "reaches the target in" if record.target is None else f"reaches {record.target:.3g} in"
    header = ("policy", "lr", metric.label, to_target, "time per seed")
    return Group(grid([_cells(each, record) for each in ranked(record)], headline, header), _notes(record))


def _cells(candidate: Candidate, record: Comparison) -> tuple[str, ...]:
    plan = candidate.plan
    lr = f"{plan.max_lr:.3g}" if plan.policy == "fixed" else f"{plan.base_lr:.3g} to {plan.max_lr:.3g}"
    seconds = [each.seconds for each in candidate.trainings if each.seconds is not None]
    whole = f"{fmean(seconds):.2g} s" if seconds else f"{count(record.iterations, 'iteration')}"
    return candidate.name, lr, _reached(candidate), _to_target(candidate, record), whole


def _reached(candidate: Candidate) -> str:
    """Mean and standard deviation, and below each seed; or where it broke."""
    if candidate.mean is None:
        broken = [training.points[-1] for training in candidate.trainings if not training.is_finite]
        rates = " and ".join(dict.fromkeys(f"{point.lr:.3g}" for point in broken))
        reached = f"not finite in {len(broken)} of {len(candidate.finals)}, from LR {rates}"
    else:
        reached = f"{candidate.mean:.4f}" + ("" if candidate.deviation is None else f" ± {candidate.deviation:.4f}")
    return f"{reached}\n{finals(candidate)}" if 1 < len(candidate.finals) <= SHOWN_SEEDS else reached


def _to_target(candidate: Candidate, record: Comparison) -> str:
    """Means over the seeds that reached the target, and how many did where not all."""
    reached = [(each, each.reaches(record.target, record.metric)) for each in candidate.trainings]
    known = [(training, iterations) for training, iterations in reached if iterations is not None]
    if not known:
        return "not reached"
    who = "" if len(known) == len(reached) else f"; {len(known)} of {count(len(reached), 'seed')}"
    seconds = [each for each in (training.seconds_to(iterations) for training, iterations in known) if each is not None]
    steps = f"{round(fmean([iterations for _, iterations in known])):,} iterations{who}"
    return f"{steps}\n{fmean(seconds):.2g} s" if seconds else steps


def _notes(record: Comparison) -> Table:
    judgement, bounds = record.judgement, record.bounds
    cost = "" if bounds.cost_epochs is None else f", which cost {bounds.cost_epochs:.3g} epochs"
    error = record.standard_error
    sure = "" if error is None else f" Each {record.metric.label} has a standard error of ±{100 * error:.1f} points."
    length, size = f"{count(record.iterations, 'iteration')} for every training", record.heldout_samples
    rows = [
        ("verdict", f"{judgement.verdict.value} {judgement.reason}"),
        ("bounds", f"{bounds.base_lr:.3g} to {bounds.max_lr:.3g}, from {bounds.source}{cost}."),
        ("budget", f"{length}, {record.cost_epochs:.4g} epochs in all."),
        *([("held out", f"{count(size, record.metric.unit)}.{sure}")] if size else []),
        *(("held", _held(each, record.held(each))) for each in record.candidates if record.held(each)),
        *(("steps", f"{each.name}: {each.engine}") for each in record.candidates if each.engine != "eager"),
        *(("warning", warning) for warning in record.warnings),
    ]
    return grid(rows, box=None, padding=(0, 3, 0, 1))


def _held(candidate: Candidate, iterations: int) -> str:
    cycles = candidate.plan.num_cycles
    after = "" if cycles is None else f" after {count(cycles, 'whole cycle')}"
    return f"{candidate.name}: the plan ends{after}; the last {count(iterations, 'iteration')} keep its last rate."
