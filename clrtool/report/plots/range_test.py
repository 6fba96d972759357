"""The picture of a range test."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from clrtool.core.bounds import Bounds, reading_of
from clrtool.core.curve import Curve
from clrtool.core.reading import BREAKING
from clrtool.core.record import RunRecord, SweepRecord
from clrtool.core.schedules import FloatArray
from clrtool.report.plots.style import BLUE, GREEN, GREY, ORANGE, STYLE, plain
from clrtool.words import count

# A loss that diverged would flatten all the rest: the axis ends at this many times the first held-out loss.
LOSS_CLIP = 1.5


def plot_range_test(record: RunRecord, title: str) -> Figure:
    """Accuracy and loss against the learning rate: a faint line a seed, their band and mean, the bounds shaded."""
    with style.context(STYLE):
        figure = Figure(figsize=(8, 6.4), layout="constrained")
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        sweep = record.sweep
        label = plain(f"held-out {sweep.metric.label.removeprefix('held-out ')}")
        _draw_seeds(top, sweep.curves, "metric", BLUE, label)
        _draw_seeds(bottom, sweep.curves, "heldout_loss", ORANGE, "held-out loss")
        _draw_seeds(bottom, sweep.curves, "train_loss", GREY, "training loss")
        _scale_axes(top, bottom, sweep)
        _draw_reading(top, sweep)
        for axes in (top, bottom):
            _shade(axes, record.bounds)
        _label_bounds(top, record.bounds)
        top.set_ylabel(label)
        bottom.set(xlabel=f"learning rate ({plain(sweep.spacing)} sweep)", ylabel="loss")
        for axes in (top, bottom):
            axes.legend(loc="best", framealpha=0.85, edgecolor="none", fontsize=9)
        seeds = count(len(sweep.curves), "seed")
        figure.suptitle(f"{plain(title)}: LR range test, {seeds} × {sweep.epochs:.3g} epochs", fontsize=12)
        figure.supxlabel(
            f"verdict: {record.bounds.verdict.word}. {record.bounds.verdict.value}", fontsize=9, color=GREY
        )
    return figure


def _draw_seeds(axes: Axes, curves: tuple[Curve, ...], column: str, color: str, label: str) -> None:
    for curve in curves:
        axes.plot(curve.lr, getattr(curve, column), color=color, alpha=0.35, linewidth=0.8)
    lr, values = _common(curves, column)
    if len(curves) > 1:
        band = f", band: lowest to highest of {len(curves)} seeds" if column == "metric" else ""
        axes.fill_between(lr, values.min(0), values.max(0), color=color, alpha=0.12, linewidth=0)
        label = f"{label}, mean{band}"
    axes.plot(lr, values.mean(0), color=color, linewidth=1.8, label=label)


def _draw_reading(axes: Axes, sweep: SweepRecord) -> None:
    """The fit that the bounds are read from, and where it breaks."""
    reading = reading_of(sweep.curves, sweep.metric)
    lr = max((curve.lr for curve in sweep.curves), key=len)
    fit = sweep.metric.value(1) * reading.fit  # a score is turned where lower is better
    axes.plot(lr, fit, color="black", linewidth=1, linestyle=(0, (4, 2)), label="nearest that rises and then falls")
    if reading.broken:
        level = sweep.metric.value(reading.level(float(BREAKING.mean())))
        axes.plot(reading.breaks, level, "v", color="black", markersize=7, label=f"breaks: {reading.breaks:.2g}")


def _common(curves: tuple[Curve, ...], column: str) -> tuple[FloatArray, FloatArray]:
    """The learning rates that every seed reached, and the values there, (seeds, n)."""
    length = min(len(curve.lr) for curve in curves)
    return curves[0].lr[:length], np.stack([getattr(curve, column)[:length] for curve in curves])


def _scale_axes(top: Axes, bottom: Axes, sweep: SweepRecord) -> None:
    if sweep.spacing == "exponential":
        top.set_xscale("log")
        within = sweep.end_lr < 1e3 * sweep.start_lr
        ticks = LogLocator(subs=(1, 2, 5) if within else (1,)) if sweep.end_lr > 5 * sweep.start_lr else MaxNLocator(6)
        bottom.xaxis.set_major_locator(ticks)
        bottom.xaxis.set_major_formatter(FuncFormatter(lambda lr, _: f"{lr:g}"))
        bottom.xaxis.set_minor_formatter(NullFormatter())
    top.set_xlim(sweep.start_lr, sweep.end_lr)
    if sweep.metric.is_share:
        top.set_ylim(bottom=0)
    elif not sweep.metric.higher_is_better:
        _clip(top, [curve.metric for curve in sweep.curves])
    _clip(bottom, [each for curve in sweep.curves for each in (curve.heldout_loss, curve.train_loss)])


def _clip(axes: Axes, losses: Sequence[FloatArray]) -> None:
    """Cut off what exploded, and say so."""
    values = np.concatenate(losses)
    values = values[np.isfinite(values)]
    first = max((each[0] for each in losses if np.isfinite(each[0])), default=math.inf)
    if len(values) and values.min() >= 0 and values.max() > LOSS_CLIP * first:
        axes.set_ylim(0, LOSS_CLIP * first)
        behind = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1}
        note = f"axis ends at {LOSS_CLIP:g} × the first value"
        axes.text(0.01, 0.04, note, transform=axes.transAxes, fontsize=8, color=GREY, bbox=behind)


def _shade(axes: Axes, bounds: Bounds) -> None:
    if bounds.base_lr is None or bounds.max_lr is None:
        return
    axes.axvspan(bounds.base_lr, bounds.max_lr, color=GREEN, alpha=0.1, linewidth=0)
    for span in (bounds.base_lr_interval, bounds.max_lr_interval):
        if span is not None:
            axes.axvspan(*span, color=GREEN, alpha=0.13, linewidth=0)
    for lr, line in ((bounds.base_lr, "--"), (bounds.max_lr, "-")):
        axes.axvline(lr, color=GREEN, linestyle=line, linewidth=1.4)


def _label_bounds(axes: Axes, bounds: Bounds) -> None:
    """Name both bounds above the panel, each on a line of its own, so that close bounds do not collide."""
    for name, lr, interval, row in (
        ("max_lr", bounds.max_lr, bounds.max_lr_interval, 0),
        ("base_lr", bounds.base_lr, bounds.base_lr_interval, 1),
    ):
        if lr is None:
            continue
        across = f"  ({interval[0]:.2g} to {interval[1]:.2g})" if interval else ""
        inside = max(lr, axes.get_xlim()[0])  # a rule of thumb can put base_lr below the sweep
        arrow = "← " if inside > lr else ""
        place = axes.transAxes.inverted().transform(axes.transData.transform((inside, 0)))[0]
        side = "left" if place < 0.25 else "right" if place > 0.75 else "center"
        axes.annotate(f"{arrow}{name} {lr:.3g}{across}", (inside, 1), xycoords=("data", "axes fraction"), color=GREEN,
                      xytext=(0, 4 + 13 * row), textcoords="offset points", ha=side, fontsize=9)  # fmt: skip
