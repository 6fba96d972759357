"""The picture of a race over values: a curve a value, the chosen pair marked."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from clrtool.core.racing.probes import by_horizon
from clrtool.core.results.varied import VaryRecord, shown_value
from clrtool.report.plots.style import add_title, palette, plain, readable, styled
from clrtool.report.text.alt_text import vary_alt
from clrtool.report.text.vary_table import vary_headline
from clrtool.words import printable

# Panels side by side, and letters in a line of the reason.
ACROSS, WIDTH = 3, 110
# How faint the first horizon of a value is that went on for longer.
FAINT = 0.4
# Rates that are written below a row of panels.
MOST_TICKS = 9
# A loss that exploded would flatten the rest: the axis ends so much of the drop from the constant answer above it.
ABOVE = 0.25


def plot_vary(record: VaryRecord, title: str) -> Figure:
    """Held-out loss against the rate: a colour a value of the first key, a panel a value of the second.

    Faint lines are of the horizon at which all values were compared, strong ones of the longest of each that went on.
    """
    with styled():
        panels = _panels(record)
        rows = math.ceil(len(panels) / ACROSS)
        size = (8, 5.4) if len(panels) == 1 else (8, 2.2 + 2.6 * rows)
        figure = Figure(figsize=size, layout="constrained", label=vary_alt(record, title))
        grid = figure.subplots(rows, min(len(panels), ACROSS), sharex=True, sharey=True, squeeze=False)
        for axes, (name, values) in zip(grid.flat, panels.items(), strict=False):
            _draw(axes, record, values)
            axes.set_title(plain(name), fontsize=10)
        for axes in [*grid.flat][len(panels) :]:
            axes.set_visible(False)
        first = grid[0, 0]
        _scale(first, record, MOST_TICKS // grid.shape[1])
        figure.supylabel("held-out loss of short runs", fontsize=10)
        _add_legend(figure, first, record)
        add_title(figure, _shown(f"{title}: {vary_headline(record)}"))
    return figure


def _panels(record: VaryRecord) -> dict[str, list[int]]:
    """The places of the values that are drawn together, by the value of the second key."""
    if len(record.keys) == 1:
        return {"": list(range(len(record.tried)))}
    key, panels = record.names[1], dict[str, list[int]]()
    for place, tried in enumerate(record.tried):
        panels.setdefault(f"{key} {tried.names[1]}", []).append(place)
    return panels


def _draw(axes: Axes, record: VaryRecord, values: Sequence[int]) -> None:
    """The curves of some values, the constant answer, and the chosen pair if it is one of them."""
    for value in values:
        rounds = by_horizon([reading.probe for reading in record.readings if reading.value == value])
        if not rounds:
            continue
        color, first, last = _color(record, value), min(rounds), max(rounds)
        _line(axes, rounds[first], color, 1.0 if first == last else FAINT)
        if last > first:
            _line(axes, rounds[last], color, 1.0, wide=True)
    if record.chosen is not None and record.chosen in values:
        _mark(axes, record, record.chosen)


def _line(axes: Axes, losses: dict[int, float], color: str, alpha: float, *, wide: bool = False) -> None:
    powers = [power for power in sorted(losses) if math.isfinite(losses[power])]
    axes.plot([2.0**power for power in powers], [losses[power] for power in powers], "o-", color=color, alpha=alpha,
              markersize=5 if wide else 3.5, linewidth=2 if wide else 1)  # fmt: skip


def _mark(axes: Axes, record: VaryRecord, value: int) -> None:
    """The chosen pair: its best run, and max_lr, which the longer runs of the race over rates have set."""
    bounds = record.bounds(value)
    if bounds is None:
        return
    probes = [
        reading.probe for reading in record.readings if reading.value == value and reading.probe.metric is not None
    ]
    best = min(probes, key=lambda probe: (-probe.iterations, probe.seed, probe.loss))
    own = _color(record, value)
    color = readable(own)
    axes.axvline(bounds.max_lr, color=color, linewidth=1.2, linestyle="--")
    axes.plot(best.lr, best.loss, marker="*", markersize=17, color=own,
              markeredgecolor=palette().ink, markeredgewidth=0.8, zorder=5)  # fmt: skip
    first = record.tried[record.first]
    longest = max(probe.iterations for probe in record.pilot.probes) / first.iterations_per_epoch
    told = f"max_lr {bounds.max_lr:.3g}, from\nruns of {longest:.2g} epochs"
    axes.annotate(told, (bounds.max_lr, 1), xycoords=("data", "axes fraction"), color=color,
                  xytext=(5, -3), textcoords="offset points", va="top", fontsize=9)  # fmt: skip


def _color(record: VaryRecord, value: int) -> str:
    return palette().curves[record.tried[value].place[0] % len(palette().curves)]


def _scale(axes: Axes, record: VaryRecord, most: int) -> None:
    """The rates that were tried, about ``most`` of them written, and the losses cut where they are no use."""
    powers = sorted({reading.probe.power for reading in record.readings})
    axes.set_xscale("log", base=2)
    shown = powers[:: 1 + len(powers) // most]
    axes.xaxis.set_major_locator(FixedLocator([2.0**power for power in shown]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda lr, _: f"{lr:.3g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    losses = [reading.probe.loss for reading in record.readings if math.isfinite(reading.probe.loss)]
    if not losses:
        return
    constant, lowest = record.pilot.entry.constant, min(losses)
    highest = min(max(losses), constant + ABOVE * (constant - lowest)) if lowest < constant else max(losses)
    room = 0.06 * (highest - lowest)
    axes.set_ylim(lowest - room, highest + 2 * room)
    if constant < highest:
        axes.axhline(constant, color=palette().ink, linestyle=":", linewidth=1, label="constant answer")


def _add_legend(figure: Figure, axes: Axes, record: VaryRecord) -> None:
    """The values of the first key by their colours, and what a faint line is; below, the verdict with its reason."""
    key = record.names[0]
    for place, value in sorted({tried.place[0]: tried.values[0] for tried in record.tried}.items()):
        color = palette().curves[place % len(palette().curves)]
        axes.plot([], [], "o-", color=color, label=plain(f"{key} {shown_value(value)}"))
    if record.has_learned and not record.keeps_all:
        faint = f"all values, after\n{record.compared_epochs:.2g} epochs"
        axes.plot([], [], "o-", color=palette().grey, alpha=FAINT, markersize=3.5, label=faint)
        axes.plot([], [], "o-", color=palette().grey, linewidth=2, label="those that went\non for longer")
    if record.chosen is not None:
        axes.plot([], [], "*", color=_color(record, record.chosen), markeredgecolor=palette().ink, markeredgewidth=0.8,
                  markersize=12, label="best run of the\nchosen value")  # fmt: skip
    figure.legend(loc="outside right center", fontsize=9, frameon=False)
    told = textwrap.fill(_shown(f"{record.verdict.value} {record.reason}"), WIDTH)
    figure.supxlabel(f"learning rate\n{told}", fontsize=9)


def _shown(text: str) -> str:
    """A sentence that matplotlib shows as it is."""
    return printable(text).replace("$", r"\$")
