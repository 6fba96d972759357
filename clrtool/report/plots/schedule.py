"""The picture of a schedule, or of several in one: learning rate against epochs and iterations, momentum below."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from clrtool.core.planning.plan import Plan
from clrtool.errors import ConfigError
from clrtool.report.plots.style import MOST_CURVES, add_title, palette, plain, readable, styled
from clrtool.report.text.alt_text import schedules_alt
from clrtool.report.text.facts import by_group, sampled
from clrtool.words import count

POINTS = 2001
# More ends of cycles than this are one grey field.
LINES = 50
# Bounds nearer than this would be a line at the top of an axis that begins at 0.
FLAT = 0.8
MILLION = 10**6


def plot_schedules(plans: Mapping[str, Plan]) -> Figure:
    """One schedule with its bounds, or several over one another, by title; the end of every cycle is marked.

    A plan of several parameter groups is several schedules.

    The axis below is in epochs and the one above in iterations, where every plan knows its iterations per epoch and
    they agree; else there is one axis.

    Raises:
        ConfigError: there are more plans than colours that can be told apart.
    """
    plans = by_group(plans)
    if len(plans) > MOST_CURVES:
        raise ConfigError(f"a picture has room for {MOST_CURVES} schedules, not {len(plans)}")
    moving = [plan for plan in plans.values() if plan.schedule.cycles_momentum]
    with styled():
        figure = Figure(figsize=(8, 5.2 if moving else 4), layout="constrained", label=schedules_alt(plans))
        panels = figure.subplots(2 if moving else 1, 1, squeeze=False,
                                 height_ratios=(3, 1) if moving else (1,))[:, 0]  # fmt: skip
        top = panels[0]
        unit = _Unit(list(plans.values()))
        for (title, plan), color in zip(plans.items(), palette().curves, strict=False):
            _draw(top, panels[-1] if moving else None, plan, unit, color, title)
        top.set_ylabel("learning rate")
        top.yaxis.get_offset_text().set(x=-0.02, ha="right")  # clear of the axis above
        for panel in panels:
            panel.set_xlim(0, unit.length)
        if min(plan.base_lr / (plan.max_lr or 1) for plan in plans.values()) < FLAT:
            top.set_ylim(bottom=min(0, top.get_ylim()[0]))
        if moving:
            panels[-1].set_ylabel("momentum")
        marked = any(0 < len(plan.schedule.cycle_ends(plan.iterations)) <= LINES for plan in plans.values())
        if len(plans) == 1:
            _mark_one(top, next(iter(plans.values())), unit)
            note = " (dotted: end of a cycle)" if marked else ""
        else:
            for plan, color in zip(plans.values(), palette().curves, strict=False):
                _mark_ends(top, plan, unit, color)
            top.legend(loc="upper left", bbox_to_anchor=(1.01, 1), edgecolor="none", fontsize=9)
            note = " (dots: ends of cycles)" if marked else ""
        panels[-1].set_xlabel(unit.name + note)
        unit.second_axis(top)
        add_title(figure, _headline(plans))
    return figure


class _Unit:
    """What the axis counts: epochs where every plan knows them, else iterations."""

    def __init__(self, plans: list[Plan]) -> None:
        known = {plan.iterations_per_epoch for plan in plans}
        self.in_epochs = None not in known
        self._per_epoch = known.pop() if len(known) == 1 else None
        self.name = "epoch" if self.in_epochs else "iteration"
        self.iterations = max(plan.iterations for plan in plans)
        self.length = max(float(self(plan, np.array(plan.iterations))) for plan in plans)

    def __call__(self, plan: Plan, iterations: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.asarray(iterations / (plan.iterations_per_epoch or 1) if self.in_epochs else iterations * 1.0)

    def _whole(self) -> MaxNLocator:
        """Whole iterations, fewer where their numbers are long."""
        return MaxNLocator(10 if self.iterations < MILLION else 5, integer=True)

    def second_axis(self, axes: Axes) -> None:
        thousands = FuncFormatter(lambda value, _: f"{value:,.0f}")
        per_epoch = self._per_epoch
        if not self.in_epochs:
            axes.xaxis.set_major_formatter(thousands)
            axes.xaxis.set_major_locator(self._whole())
        elif per_epoch is not None:
            above = axes.secondary_xaxis(
                "top", functions=(lambda x: np.multiply(x, per_epoch), lambda x: np.divide(x, per_epoch))
            )
            above.set_xlabel("iteration")
            above.xaxis.set_major_formatter(thousands)
            above.xaxis.set_major_locator(self._whole())


def _draw(top: Axes, below: Axes | None, plan: Plan, unit: _Unit, color: str, title: str) -> None:
    iterations = sampled(plan.schedule, plan.last, POINTS)
    where = unit(plan, iterations)
    top.plot(where, plan.lr(iterations), color=color, linewidth=1.8, label=plain(title))
    momentum = plan.momentum(iterations)
    if below is not None and momentum is not None:
        below.plot(where, momentum, color=color, linewidth=1.4)


def _mark_ends(axes: Axes, plan: Plan, unit: _Unit, color: str) -> None:
    """A dot on the curve at the end of every cycle."""
    ends = np.array(plan.schedule.cycle_ends(plan.last), dtype=np.int64)
    # a line without points would have no place, and the layout none for the panels
    if 0 < len(ends) <= LINES:
        axes.plot(unit(plan, ends), plan.lr(ends), "o", color=color, markersize=3.5, clip_on=False, zorder=3)


def _mark_one(axes: Axes, plan: Plan, unit: _Unit) -> None:
    """The ends of the cycles as lines, and both bounds by name."""
    ends = plan.schedule.cycle_ends(plan.iterations)
    for end in ends if len(ends) <= LINES else []:
        axes.axvline(float(unit(plan, np.array(end))), color=palette().grey, linestyle=":", linewidth=1)
    low, high = axes.get_ylim()
    orange = palette().orange
    apart = plan.max_lr - plan.base_lr > 0.15 * (high - low)
    for lr, name, side in ((plan.max_lr, "max_lr", "bottom"), (plan.base_lr, "base_lr", "top")):
        axes.axhline(lr, color=orange, linestyle="--", linewidth=1)
        axes.annotate(f"{name}\n{lr:.3g}", (1, lr), xycoords=("axes fraction", "data"), fontsize=9,
                      color=readable(orange), xytext=(5, 0), textcoords="offset points",
                      va="center" if apart else side)  # fmt: skip


def _headline(plans: Mapping[str, Plan]) -> str:
    if len(plans) > 1:
        return f"{len(plans)} schedules"
    ((title, plan),) = plans.items()
    policy = re.split(r"[.:]", plan.policy)[-1]
    parts = [plain(title) if policy in title else f"{plain(title)}: {plain(policy)}"]
    if plan.num_cycles is not None and plan.stepsize is not None:
        epochs = "" if plan.stepsize_epochs is None else f" ({plan.stepsize_epochs:.3g} epochs)"
        parts += [count(plan.num_cycles, "cycle"), f"stepsize {count(plan.stepsize, 'iteration')}{epochs}"]
    else:
        parts.append(count(plan.iterations, "iteration"))
    return ", ".join(parts)
