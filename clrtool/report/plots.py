"""The two pictures: a range test and a schedule. Figures are made and saved without pyplot and its global state."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from clrtool.core.bounds import Bounds
from clrtool.core.curve import Curve
from clrtool.core.plan import Plan
from clrtool.core.record import RunRecord, SweepRecord
from clrtool.core.schedules import FloatArray
from clrtool.errors import ConfigError
from clrtool.report.files import write_whole
from clrtool.words import count, printable

# Okabe and Ito's colours, which people with any colour vision can tell apart.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"
# A loss that diverged would flatten all the rest: the axis ends at this many times the first held-out loss.
LOSS_CLIP = 1.5
FORMATS = (".png", ".svg", ".pdf")
# Cycles whose peaks and ends are drawn exactly; those after them would be one grey field anyway.
MARKED_CYCLES = 100
_STYLE: dict[str, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "svg.hashsalt": "clrtool",
    "pdf.fonttype": 42,
}


def plot_range_test(record: RunRecord, title: str) -> Figure:
    """Accuracy and loss against the learning rate: a faint line a seed, their band and mean, the bounds shaded."""
    with style.context(_STYLE):
        figure = Figure(figsize=(8, 6.4), layout="constrained")
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        sweep = record.sweep
        _draw_seeds(top, sweep.curves, "accuracy", BLUE, "held-out accuracy")
        _draw_seeds(bottom, sweep.curves, "heldout_loss", ORANGE, "held-out loss")
        _draw_seeds(bottom, sweep.curves, "train_loss", GREY, "training loss")
        _scale_axes(top, bottom, sweep)
        for axes in (top, bottom):
            _shade(axes, record.bounds)
        _label_bounds(top, record.bounds)
        top.set_ylabel("held-out accuracy")
        bottom.set(xlabel=f"learning rate ({sweep.spacing} sweep)", ylabel="loss")
        for axes in (top, bottom):
            axes.legend(loc="best", framealpha=0.85, edgecolor="none", fontsize=9)
        seeds = count(len(sweep.curves), "seed")
        figure.suptitle(f"{_plain(title)}: LR range test, {seeds} × {sweep.epochs:g} epochs", fontsize=12)
        figure.supxlabel(
            f"verdict: {record.bounds.verdict.word}. {record.bounds.verdict.value}", fontsize=9, color=GREY
        )
    return figure


def plot_schedule(plan: Plan, title: str) -> Figure:
    """The learning rate of a plan against epochs and iterations, with the end of every cycle marked."""
    with style.context(_STYLE):
        figure = Figure(figsize=(8, 4), layout="constrained")
        axes = figure.subplots()
        # The corners of the triangles belong to the samples, or the peaks would be cut.
        corners = np.arange(0, min(plan.num_cycles, MARKED_CYCLES) * 2 + 1) * plan.stepsize
        iterations = np.union1d(corners, np.linspace(0, plan.iterations, 2001).astype(int))
        axes.plot(iterations / plan.iterations_per_epoch, plan.schedule(iterations), color=BLUE, linewidth=1.8)
        for cycle in range(1, min(plan.num_cycles, MARKED_CYCLES) + 1):
            axes.axvline(cycle * 2 * plan.stepsize_epochs, color=GREY, linestyle=":", linewidth=1)
        for lr, name in ((plan.max_lr, "max_lr"), (plan.base_lr, "base_lr")):
            axes.axhline(lr, color=ORANGE, linestyle="--", linewidth=1)
            axes.annotate(f"{name}\n{lr:.3g}", (1, lr), xycoords=("axes fraction", "data"), color=ORANGE, fontsize=9,
                          xytext=(5, 0), textcoords="offset points", va="center")  # fmt: skip
        axes.set(xlabel="epoch (dotted: end of a cycle)", ylabel="learning rate", xlim=(0, plan.epochs))
        per_epoch = plan.iterations_per_epoch
        above = axes.secondary_xaxis(
            "top", functions=(lambda x: np.multiply(x, per_epoch), lambda x: np.divide(x, per_epoch))
        )
        above.set_xlabel("iteration")
        above.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        cycles = count(plan.num_cycles, "cycle")
        size = f"stepsize {plan.stepsize:,} iterations ({plan.stepsize_epochs:.3g} epochs)"
        figure.suptitle(f"{_plain(title)}: {plan.policy}, {cycles}, {size}", fontsize=12)
    return figure


def draw_run(folder: Path, record: RunRecord) -> list[Path]:
    """Draw the pictures of a run into its folder, and name them."""
    title = folder.resolve().name
    pictures = {folder / "range_test.png": plot_range_test(record, title)}
    if record.plan is not None:
        pictures[folder / "schedule.png"] = plot_schedule(record.plan, title)
    for path, figure in pictures.items():
        save_figure(figure, path)
    return list(pictures)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, SVG or PDF by the ending of ``path``; the same figure gives the same bytes."""
    ending = path.suffix.lower()
    if ending not in FORMATS:
        raise ConfigError(f"{path}: a picture ends in {', '.join(FORMATS)}")
    metadata: dict[str, dict[str, None]] = {
        ".png": {"Software": None}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}
    }  # fmt: skip
    content = io.BytesIO()
    with style.context(_STYLE):
        figure.savefig(content, format=ending[1:], dpi=150, metadata=metadata[ending])
    write_whole(path, content.getvalue())


def _draw_seeds(axes: Axes, curves: tuple[Curve, ...], column: str, color: str, label: str) -> None:
    for curve in curves:
        axes.plot(curve.lr, getattr(curve, column), color=color, alpha=0.35, linewidth=0.8)
    lr, values = _common(curves, column)
    if len(curves) > 1:
        band = f", band: lowest to highest of {len(curves)} seeds" if column == "accuracy" else ""
        axes.fill_between(lr, values.min(0), values.max(0), color=color, alpha=0.12, linewidth=0)
        label = f"{label}, mean{band}"
    axes.plot(lr, values.mean(0), color=color, linewidth=1.8, label=label)


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
    top.set_ylim(bottom=0)
    losses = np.concatenate([np.concatenate((curve.heldout_loss, curve.train_loss)) for curve in sweep.curves])
    losses = losses[np.isfinite(losses)]
    first = max(curve.heldout_loss[0] for curve in sweep.curves)
    if len(losses) and losses.min() >= 0 and losses.max() > LOSS_CLIP * first:
        bottom.set_ylim(0, LOSS_CLIP * first)
        behind = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1}
        note = f"axis ends at {LOSS_CLIP:g} × the first loss"
        bottom.text(0.01, 0.04, note, transform=bottom.transAxes, fontsize=8, color=GREY, bbox=behind)


def _shade(axes: Axes, bounds: Bounds) -> None:
    if bounds.base_lr is None or bounds.max_lr is None:
        return
    axes.axvspan(bounds.base_lr, bounds.max_lr, color=GREEN, alpha=0.1, linewidth=0)
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


def _plain(text: str) -> str:
    """A text that matplotlib shows as it is: ``$`` would begin a formula."""
    return printable(text).replace("$", r"\$")
