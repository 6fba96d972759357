"""The picture of a range test by the paper's method: the sweeps alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from matplotlib.transforms import offset_copy

from clrtool.core.reading.bounds import Bounds
from clrtool.core.reading.curve import Curve
from clrtool.core.reading.fit import BREAKING
from clrtool.core.reading.paper import reading_of
from clrtool.core.results.record import RunRecord, SweepRecord
from clrtool.core.schedules import FloatArray
from clrtool.report.plots.style import add_title, fitting, palette, plain, readable, styled
from clrtool.report.text.alt_text import range_test_alt, stopped, verdict
from clrtool.report.text.facts import across, both, common, decided, heldout
from clrtool.words import count

# A loss that diverged would flatten all the rest: the axis ends at this many times the first held-out loss.
LOSS_CLIP = 1.5
# Part of the axis that is kept for what comes after the last stop, so that it shows.
AFTER = 0.06
# Room between a bound outside of the sweep and the end of the axis, as a factor.
BESIDE = 1.15
# Points from the axis to the legend, with the numbers and the name of the axis between them.
BELOW = -36


def plot_sweep(record: RunRecord, title: str) -> Figure:
    """Accuracy and loss against the learning rate: a faint line a seed, their band and mean, the bounds shaded.

    What comes after the first seed was stopped is hatched. The title says what was decided.
    """
    with styled():
        figure = Figure(figsize=(8, 6.4), layout="constrained", label=range_test_alt(record, title))
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        sweep, colors = record.sweep, palette()
        label = plain(heldout(sweep.metric))
        draw_seeds(top, sweep.curves, "metric", colors.blue, label)
        draw_seeds(bottom, sweep.curves, "heldout_loss", colors.orange, "held-out loss")
        draw_seeds(bottom, sweep.curves, "train_loss", colors.grey, "training loss")
        _scale_axes(top, bottom, sweep)
        show_bounds(top, record.bounds)
        _draw_reading(top, sweep)
        for axes in (top, bottom):
            shade(axes, record.bounds)
        hatch((top, bottom), top, sweep)
        label_bounds(top, record.bounds)
        top.set_ylabel(label)
        bottom.set(xlabel=f"learning rate ({plain(sweep.spacing)} sweep)", ylabel="loss")
        add_legend(figure, top, bottom)
        seeds = count(len(sweep.curves), "seed")
        tell(figure, record, title, f"LR range test, {seeds} × {sweep.epochs:.3g} epochs")
    return figure


def tell(figure: Figure, record: RunRecord, title: str, measured: str) -> None:
    """The decision above, the verdict and what was measured below."""
    add_title(figure, f"{plain(title)}: {decided(record)}")
    below = f"{verdict(record)} {measured}."
    figure.supxlabel(below, fontsize=fitting(figure, below, 9))


def draw_seeds(axes: Axes, curves: tuple[Curve, ...], column: str, color: str, label: str) -> None:
    """A column of every seed, their mean and their range."""
    for curve in curves:
        axes.plot(curve.lr, getattr(curve, column), color=color, alpha=0.35, linewidth=0.8)
    lr, values = common(curves, column)
    if len(curves) > 1:
        band = f" and range of {len(curves)} seeds" if column == "metric" else ""
        axes.fill_between(lr, values.min(0), values.max(0), color=color, alpha=0.12, linewidth=0)
        label = f"{label}, mean{band}"
    axes.plot(lr, values.mean(0), color=color, linewidth=1.8, label=label)


def _draw_reading(axes: Axes, sweep: SweepRecord) -> None:
    """The fit that the bounds are read from, and where it breaks."""
    reading, ink = reading_of(sweep.curves, sweep.metric), palette().ink
    lr = max((curve.lr for curve in sweep.curves), key=len)
    fit = sweep.metric.value(1) * reading.fit  # a score is turned where lower is better
    axes.plot(lr, fit, color=ink, linewidth=1, linestyle=(0, (4, 2)), label="nearest curve that rises, then falls")
    if reading.broken:
        level = sweep.metric.value(reading.level(float(BREAKING.mean())))
        axes.plot(reading.breaks, level, "v", color=ink, markersize=7, label=f"breaks: {reading.breaks:.2g}")


def _scale_axes(top: Axes, bottom: Axes, sweep: SweepRecord) -> None:
    if sweep.spacing == "exponential":
        top.set_xscale("log")
        within = sweep.end_lr < 1e3 * sweep.start_lr
        ticks = LogLocator(subs=(1, 2, 5) if within else (1,)) if sweep.end_lr > 5 * sweep.start_lr else MaxNLocator(6)
        bottom.xaxis.set_major_locator(ticks)
        bottom.xaxis.set_major_formatter(FuncFormatter(lambda lr, _: f"{lr:g}"))
        bottom.xaxis.set_minor_formatter(NullFormatter())
    top.set_xlim(sweep.start_lr, _end(sweep))
    if sweep.metric.is_share:
        top.set_ylim(bottom=0)
    elif not sweep.metric.higher_is_better:
        _clip(top, [curve.metric for curve in sweep.curves])
    _clip(bottom, [each for curve in sweep.curves for each in (curve.heldout_loss, curve.train_loss)])


def _end(sweep: SweepRecord) -> float:
    """Where the axis ends: with the sweep, or so far after the last stop that there is something to hatch."""
    start, last, room = sweep.start_lr, max(sweep.stopped_at.values(), default=sweep.start_lr), AFTER / (1 - AFTER)
    if sweep.spacing == "exponential":
        return max(sweep.end_lr, last * math.pow(last / start, room))
    return max(sweep.end_lr, last + room * (last - start))


def _clip(axes: Axes, losses: Sequence[FloatArray]) -> None:
    """Cut off what exploded, and say so."""
    values = np.concatenate(losses)
    values = values[np.isfinite(values)]
    first = max((each[0] for each in losses if np.isfinite(each[0])), default=math.inf)
    if len(values) and values.min() >= 0 and values.max() > LOSS_CLIP * first:
        axes.set_ylim(0, LOSS_CLIP * first)
        note = f"axis ends at {LOSS_CLIP:g} × the first value"
        axes.text(0.01, 0.04, note, transform=axes.transAxes, fontsize=8, color=palette().grey, bbox=_behind())


def _behind() -> dict[str, object]:
    """Paper behind words, so that no line runs through them."""
    return {"facecolor": palette().paper, "edgecolor": "none", "alpha": 0.85, "pad": 1}


def show_bounds(axes: Axes, bounds: Bounds) -> None:
    """Widen the axis to bounds that lie outside of what was swept: a rule of thumb can put them there."""
    rates = [lr for _, lr, *_ in both(bounds) if lr is not None]
    low, high = axes.get_xlim()
    if rates:
        axes.set_xlim(
            low if low <= min(rates) else min(rates) / BESIDE, high if high >= max(rates) else max(rates) * BESIDE
        )


def shade(axes: Axes, bounds: Bounds) -> None:
    """Shade what lies between the bounds, and their intervals."""
    if bounds.base_lr is None or bounds.max_lr is None:
        return
    green = palette().green
    axes.axvspan(bounds.base_lr, bounds.max_lr, color=green, alpha=0.1, linewidth=0)
    for span in (bounds.base_lr_interval, bounds.max_lr_interval):
        if span is not None:
            axes.axvspan(*span, color=green, alpha=0.13, linewidth=0)
    for lr, line in ((bounds.base_lr, "--"), (bounds.max_lr, "-")):
        axes.axvline(lr, color=green, linestyle=line, linewidth=1.4)


def hatch(panels: Sequence[Axes], top: Axes, sweep: SweepRecord, rotation: int = 90) -> None:
    """Hatch what comes after the first stop, which not every seed saw, and say so along its outer or its upper edge."""
    if not sweep.stopped_at:
        return
    for axes in panels:
        axes.axvspan(min(sweep.stopped_at.values()), axes.get_xlim()[1], facecolor="none", hatch="//", linewidth=0,
                     edgecolor=(palette().grey, 0.45), zorder=0)  # fmt: skip
    top.text(0.99, 0.97, stopped(sweep), transform=top.transAxes, rotation=rotation, ha="right", va="top",
             fontsize=8.5, bbox=_behind())  # fmt: skip


def label_bounds(axes: Axes, bounds: Bounds) -> None:
    """Name both bounds above the panel, each on a line of its own, so that close bounds do not collide."""
    for row, (name, lr, interval, _) in enumerate(reversed(both(bounds))):
        if lr is None:
            continue
        span = f"  ({across(interval)})" if interval else ""
        place = axes.transAxes.inverted().transform(axes.transData.transform((lr, 0)))[0]
        side = "left" if place < 0.25 else "right" if place > 0.75 else "center"
        axes.annotate(f"{name} {lr:.3g}{span}", (lr, 1), xycoords=("data", "axes fraction"),
                      color=readable(palette().green), xytext=(0, 4 + 13 * row), textcoords="offset points", ha=side,
                      fontsize=9)  # fmt: skip


def add_legend(figure: Figure, top: Axes, bottom: Axes) -> None:
    """Below the panels and the name of the axis, where it hides no curve."""
    handles, labels = top.get_legend_handles_labels()
    more, others = bottom.get_legend_handles_labels()
    below = offset_copy(bottom.transAxes, figure, y=BELOW, units="points")
    bottom.legend(handles + more, labels + others, loc="upper center", bbox_to_anchor=(0.5, 0), bbox_transform=below,
                  ncols=3, fontsize=9, frameon=False, columnspacing=1.4, borderpad=0)  # fmt: skip
