"""The picture of a range test with a race: short runs by rate and horizon, and the sweep before them."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from clrtool.core.racing.probes import by_horizon
from clrtool.core.racing.result import Race
from clrtool.core.results.record import RunRecord
from clrtool.report.plots.range_test import add_legend, draw_seeds, hatch, label_bounds, shade, show_bounds, tell
from clrtool.report.plots.style import palette, plain, styled
from clrtool.report.text.alt_text import race_alt
from clrtool.report.text.facts import heldout
from clrtool.words import count

# A loss that exploded would flatten the rest: the axis ends so much of the drop from the constant answer above it.
ABOVE = 0.35
# How faint the shortest horizon is.
FAINTEST = 0.3


def plot_race(record: RunRecord, race: Race, title: str) -> Figure:
    """Held-out loss against the rate, a line for each horizon of the race, over the metric of the sweep before it.

    The level of the constant answer is dotted, and both bounds are shaded.
    """
    with styled():
        figure = Figure(figsize=(8, 6.4), layout="constrained", label=race_alt(record, race, title))
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        label = plain(heldout(record.sweep.metric))
        _draw_horizons(top, race)
        draw_seeds(bottom, record.sweep.curves, "metric", palette().blue, f"{label} of the sweep")
        _scale(top, bottom, record, race)
        show_bounds(top, record.bounds)
        for axes in (top, bottom):
            shade(axes, record.bounds)
        hatch((bottom,), bottom, record.sweep, rotation=0)
        label_bounds(top, record.bounds)
        top.set_ylabel("held-out loss of short runs")
        bottom.set(xlabel="learning rate", ylabel=label)
        add_legend(figure, top, bottom)
        rates = count(len({probe.power for probe in race.probes}), "rate")
        tell(figure, record, title, f"LR range test with a race of {rates}, {record.cost_epochs:.3g} epochs")
    return figure


def _draw_horizons(axes: Axes, race: Race) -> None:
    """One line a horizon, the longer the darker, and the constant answer."""
    rounds = by_horizon(race.probes)  # of the first seed
    for place, horizon in enumerate(sorted(rounds), 1):
        losses = rounds[horizon]
        powers = [power for power in sorted(losses) if math.isfinite(losses[power])]
        strength = FAINTEST + (1 - FAINTEST) * place / len(rounds)
        axes.plot([2.0**power for power in powers], [losses[power] for power in powers], "o-", markersize=4,
                  color=palette().orange, alpha=strength, linewidth=0.8 + place / len(rounds),
                  label=f"after {count(horizon, 'iteration')}")  # fmt: skip
    axes.axhline(race.entry.constant, color=palette().ink, linestyle=":", linewidth=1, label="constant answer")


def _scale(top: Axes, bottom: Axes, record: RunRecord, race: Race) -> None:
    """Both panels over all rates that were trained at, and the losses cut where they are no use."""
    top.set_xscale("log")
    rates = [probe.lr for probe in race.probes]
    low, high = min([*rates, record.sweep.start_lr]), max([*rates, record.sweep.end_lr])
    top.set_xlim(low / 1.3, high * 1.3)
    bottom.xaxis.set_major_locator(LogLocator())
    bottom.xaxis.set_major_formatter(FuncFormatter(lambda lr, _: f"{lr:g}"))
    bottom.xaxis.set_minor_formatter(NullFormatter())
    if record.sweep.metric.is_share:
        bottom.set_ylim(bottom=0)
    losses = np.array([probe.loss for probe in race.probes if math.isfinite(probe.loss)])
    if len(losses) and losses.max() > race.entry.constant > losses.min():
        span = race.entry.constant - losses.min()
        top.set_ylim(losses.min() - 0.05 * span, min(losses.max(), race.entry.constant + ABOVE * span) + 0.05 * span)
