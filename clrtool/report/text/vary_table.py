"""What people read of a race over values, as rich tables. Nothing is printed here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Group
from rich.table import Table

from clrtool.core.results.batch_scaling import BatchScaling
from clrtool.core.results.varied import VaryRecord
from clrtool.report.text.estimate_table import size
from clrtool.report.text.facts import across, begins_from
from clrtool.report.text.grid import grid
from clrtool.words import count, duration

# Of batches whose best rate seems to grow faster than they do.
STEEP = "Rates are raised no faster than the batch grows: short runs overstate how they grow."


def vary_headline(record: VaryRecord) -> str:
    """The decision in one line: which value to take, and what to train with."""
    bounds = None if record.chosen is None else record.bounds(record.chosen)
    if record.chosen is None or bounds is None:
        return "inconclusive, no value to choose"
    return f"{record.named(record.chosen)}, learning rates {bounds.base_lr:.3g} to {bounds.max_lr:.3g}"


def vary_table(record: VaryRecord, title: str, say: Callable[[str], str] = str) -> Group:
    """A row a value, the best first: its bounds, what it reached, after how long, at what cost; then which to take.

    Args:
        say: puts a text into the words of the door at which it is read.
    """
    notes = grid(((name, say(text)) for name, text in _notes(record)), box=None, padding=(0, 3, 0, 1))
    headline = f"{title}: {vary_headline(record)}"
    if not record.has_learned:
        return Group(grid([("", headline)], box=None), notes)
    header = (*record.names, "max_lr", "interval", "held-out loss", "after", "seeds", "cost")
    return Group(grid([_cells(record, value) for value in record.order], headline, header), notes)


def _cells(record: VaryRecord, value: int) -> tuple[str, ...]:
    bounds, standing, tried = record.bounds(value), record.standing(value), record.tried[value]
    mark = " *" if value == record.chosen else ""
    values = (*tried.names[:-1], f"{tried.names[-1]}{mark}")
    cost = f"{record.epochs(value):.3g} epochs"
    if bounds is None:
        return *values, "none", "", "not finite", "", "", cost
    after, seeds = f"{record.after_epochs(value):.2g} epochs", str(len(standing.losses))
    return *values, f"{bounds.max_lr:.3g}", across(bounds.max_lr_interval), f"{standing.loss:.4g}", after, seeds, cost


def _notes(record: VaryRecord) -> Iterator[tuple[str, str]]:
    if record.start is not None:
        told = f"{begins_from(record.start)} The held-out loss there is {record.pilot.entry.first:.4g}."
        yield "goes on", told
    yield "verdict", f"{record.verdict.value} {record.reason}"
    if len({each.batch_size for each in record.tried}) > 1:
        yield "", "Values are compared after the same number of samples, so a larger batch has taken fewer steps."
    if (scaling := record.batch_scaling) is not None:
        yield "growth", _growth(scaling)
        if scaling.is_steep:
            yield "", STEEP
    pilot = f"{count(record.pilot.iterations, 'iteration')} of them for the first rate"
    first = record.tried[record.first]
    epochs = record.samples / (first.batch_size * first.iterations_per_epoch)
    yield "cost", f"{record.share:.2g} of the planned training, {epochs:.3g} epochs, {pilot}."
    for warning in record.warnings:
        yield "warning", warning


def _growth(scaling: BatchScaling) -> str:
    """How the best rate grows with the batch, by which rule, and up to where."""
    if scaling.interval[0] <= 0:
        return f"No growth of the best rate with the batch beyond noise: the exponent is {scaling.told}."
    grows = f"The best rate grows with the batch by the exponent {scaling.told}"
    if scaling.critical is None:
        return f"{grows}: {scaling.rule}; it still grows at {scaling.batch_sizes[-1]:,}, the largest measured."
    return f"{grows}: {scaling.rule}; from batches of about {scaling.critical:,} on by less than half of that."


def vary_estimate_table(found: Any, title: str) -> Table:
    """What a race over values would take at the most."""
    rows = [
        ("values", f"{found.values}, first compared after at least {found.shortest_epochs:.2g} epochs each"),
        ("total", f"at most {count(found.iterations, 'iteration')} of the first value, {found.epochs:.3g} epochs"),
        ("share", f"{found.share:.2g} of the planned training"),
        ("time", f"about {duration(found.seconds)}, as the first value takes"),
        ("memory", f"{size(found.peak_bytes)} of {size(found.memory_bytes)} at the peak of one value"),
    ]
    return grid(rows, f"{title}: what --vary will take; nothing was written")
