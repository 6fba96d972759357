"""Cost against loss of every way, and the front of those that none beats in both."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import mean

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tests.benchmarks.workloads.peers.losses import Row, front

OURS, FRONT, OTHER = "#d55e00", "#0072b2", "#555555"
APART = 3.6  # per cent of the gain between the lines of two labels
NEAR = 60  # iterations: points as near as this share a column of labels


def draw(ways: Sequence[Row], jobs: int, file: Path) -> None:
    """Write the picture, on white, so that it reads on a dark page too."""
    points = {row.way: (row.iterations, mean(row.lost["cosine"])) for row in ways}
    figure = Figure(figsize=(10, 5.5), dpi=120, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    best = front(points)
    axes.step(*zip(*(points[name] for name in best), strict=True), where="post", color=FRONT, lw=5, alpha=0.2, zorder=1)
    for name, (cost, loss) in points.items():
        axes.plot(cost, loss, "o", color=_color(name, best), ms=9 if name == "clrtool" else 7, zorder=3, clip_on=False)
    for column in columns(points):
        _label(axes, {name: points[name] for name in column}, best)
    axes.set_xscale("function", functions=(np.sqrt, np.square))  # room for the labels between 0 and 100
    axes.set(
        xlim=(0, max(cost for cost, _ in points.values()) * 1.8),
        ylim=(-1.5, max(loss for _, loss in points.values()) + 6),
        xticks=sorted({50.0 * round(cost / 50) for cost, _ in points.values()}),
        xlabel="what the search costs: iterations of training, median of the jobs",
        ylabel="what is lost: per cent of the gain",
        title=f"{jobs} training jobs, cosine with warm-up (line: nothing is as cheap and better)",
    )
    axes.grid(visible=True, color="#e6e6e6", zorder=0)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file)


def _color(name: str, best: Sequence[str]) -> str:
    return OURS if name == "clrtool" else FRONT if name in best else OTHER


def columns(points: dict[str, tuple[float, float]]) -> list[list[str]]:
    """Names of points whose costs are near one another, so that their labels could meet."""
    by_cost = sorted(points, key=lambda name: points[name][0])
    found = [by_cost[:1]]
    for before, name in pairwise(by_cost):
        if points[name][0] - points[before][0] > NEAR:
            found.append([])
        found[-1].append(name)
    return found


def spread(wanted: Sequence[float], apart: float) -> list[float]:
    """Heights in the order of ``wanted``, which rises, as near to it as they come from below, and never nearer than this.

    >>> spread([1, 10, 11], 4)
    [1, 10, 14]
    """
    found: list[float] = []
    for height in wanted:
        found.append(max(height, found[-1] + apart) if found else height)
    return found


def _label(axes: Axes, points: dict[str, tuple[float, float]], best: Sequence[str]) -> None:
    """Labels right of a column of points, with a thin line to each."""
    names = sorted(points, key=lambda name: points[name][1])
    left = (max(cost for cost, _ in points.values()) ** 0.5 + 0.7) ** 2
    heights = spread([points[name][1] for name in names], APART)
    for name, height in zip(names, heights, strict=True):
        axes.annotate(
            f"{name}, {points[name][1]:.1f} %", points[name], (left, height), va="center", color=_color(name, best),
            fontsize=10, fontweight="bold" if name == "clrtool" else "normal", zorder=2,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
            arrowprops={"arrowstyle": "-", "color": "#bbbbbb", "lw": 0.8, "shrinkB": 4},
        )  # fmt: skip
