"""The picture of a comparison."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from clrtool.core.results.comparison import Candidate, Comparison
from clrtool.report.plots.style import add_title, palette, plain, readable, styled
from clrtool.report.text.alt_text import comparison_alt
from clrtool.report.text.facts import heldout, reached, sampled
from clrtool.words import count, printable, shortened

# Rates are drawn at this number of iterations, and at the corners of each plan.
POINTS = 2001
# The early part of training, where every policy learns fast, is left to run out of the axis.
EARLY = 0.2
# Heights of the panel between two names beside it; letters of a name.
APART, LETTERS = 0.055, 20
# Peaks that are farther apart than this factor would not show in one linear axis.
FAR = 30
# Letters in a line of the verdict.
WIDTH = 110


def plot_comparison(record: Comparison, title: str) -> Figure:
    """The metric against iterations, a colour a policy with a band over its seeds; the learning rates below."""
    with styled():
        figure = Figure(figsize=(8, 6.4), layout="constrained", label=comparison_alt(record, title))
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        for candidate, color in zip(record.candidates, palette().curves, strict=False):
            _draw_metric(top, candidate, color)
            _draw_rates(bottom, candidate, record.iterations, color)
        _scale(top, record)
        _draw_target(top, record)
        _label_ends(top, record)
        seeds = len(record.seeds)
        top.set_ylabel(plain(heldout(record.metric)))
        band = f" (above: means, and from the lowest to the highest of {seeds} seeds)" if seeds > 1 else ""
        bottom.set(xlabel=f"iteration{band}", ylabel="learning rate", xlim=(0, record.iterations))
        peaks = [candidate.plan.max_lr for candidate in record.candidates]
        if max(peaks) > FAR * min(peaks):
            bottom.set_yscale("log")
            bottom.set_ylim(bottom=min(peaks) / 10)
        else:
            bottom.set_ylim(bottom=min(0, bottom.get_ylim()[0]))
        bottom.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        _add_epochs(top, record.iterations_per_epoch)
        seeds_text = f"{count(seeds, 'seed')} × {record.epochs:.4g} epochs"
        add_title(figure, f"{plain(title)}: {len(record.candidates)} policies, {seeds_text}")
        verdict = printable(f"{record.judgement.verdict.value} {record.judgement.reason}").replace("$", r"\$")
        figure.supxlabel(textwrap.fill(verdict, WIDTH), fontsize=9)
    return figure


def _draw_metric(axes: Axes, candidate: Candidate, color: str) -> None:
    """The mean and the band, as far as every seed has values; what broke ends in a cross."""
    iterations, values = candidate.common()
    axes.plot(iterations, values.mean(0), color=color, linewidth=1.6, marker="o", markersize=2.5)
    if len(values) > 1:
        axes.fill_between(iterations, values.min(0), values.max(0), color=color, alpha=0.13, linewidth=0)
    if candidate.mean is None and len(iterations):
        axes.plot(iterations[-1], values.mean(0)[-1], "x", color=color, markersize=9, markeredgewidth=2)


def _draw_rates(axes: Axes, candidate: Candidate, iterations: int, color: str) -> None:
    where = sampled(candidate.plan.schedule, iterations - 1, POINTS)
    axes.plot(where, candidate.plan.lr(where), color=color, linewidth=1.4)


def _scale(axes: Axes, record: Comparison) -> None:
    """From what the worst policy had when the early part was over, to the best; what broke may lie outside."""
    late = []
    for candidate in record.candidates:
        iterations, values = candidate.common()
        if candidate.mean is not None:
            late.append(values[:, iterations >= EARLY * record.iterations].ravel())
    found = np.concatenate([*late, [record.target]]) if late and record.target is not None else np.array([])
    if len(found) and np.ptp(found) > 0:
        room = 0.06 * np.ptp(found)
        axes.set_ylim(found.min() - room, found.max() + room)


def _draw_target(axes: Axes, record: Comparison) -> None:
    if record.target is not None:
        grey = palette().grey
        axes.axhline(record.target, color=grey, linestyle=":", linewidth=1.2)
        axes.annotate(f"target {record.target:.4g}", (0, record.target), xycoords=("axes fraction", "data"), color=grey,
                      xytext=(4, 2), textcoords="offset points", fontsize=8)  # fmt: skip


def _label_ends(axes: Axes, record: Comparison) -> None:
    """The name of each policy beside the end of its line, in its colour, moved apart where they meet."""
    low, high = axes.get_ylim()
    places = [0.0 if each.mean is None else (each.mean - low) / (high - low) for each in record.candidates]
    for candidate, color, place in zip(record.candidates, palette().curves, _apart(places), strict=False):
        name = plain(shortened(candidate.name, LETTERS))
        axes.annotate(f"{name} {reached(candidate)}", (1, place), xycoords="axes fraction", color=readable(color),
                      fontsize=9, xytext=(6, 0), textcoords="offset points", va="center")  # fmt: skip


def _apart(places: Sequence[float]) -> list[float]:
    """Places between 0 and 1, in the order that they had, at least ``APART`` from one another."""
    order = np.argsort(places[::-1], kind="stable")  # of two at one place the first is above
    order = len(places) - 1 - order
    spread = np.clip(np.asarray(places, dtype=np.float64)[order], 0, 1)
    for upper in range(1, len(spread)):
        spread[upper] = max(spread[upper], spread[upper - 1] + APART)
    spread[-1] = min(spread[-1], 1)
    for lower in range(len(spread) - 2, -1, -1):
        spread[lower] = min(spread[lower], spread[lower + 1] - APART)
    found = np.empty(len(spread))
    found[order] = spread
    return [float(each) for each in found]


def _add_epochs(axes: Axes, iterations_per_epoch: int) -> None:
    above = axes.secondary_xaxis("top", functions=(lambda x: np.divide(x, iterations_per_epoch),
                                                   lambda x: np.multiply(x, iterations_per_epoch)))  # fmt: skip
    above.set_xlabel("epoch")
    above.xaxis.set_major_locator(MaxNLocator(integer=True))
