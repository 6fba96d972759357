"""The range test of a program or a notebook: of a model, an optimizer and loaders that are there already."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from clrtool.core.planning.plan import Plan
from clrtool.core.reading.bounds import Bounds, Verdict
from clrtool.core.reading.curve import Curve, Point
from clrtool.core.results.record import RunRecord
from clrtool.engine.rangetest.observer import Observer
from clrtool.errors import ConfigError
from clrtool.report.text.progress import Progress
from clrtool.words import in_python

if TYPE_CHECKING:
    from rich.table import Table

    from clrtool.engine.inprocess.options import Options
    from clrtool.engine.training.scheduler import PlanScheduler
    from clrtool.report.plots import Figure


@dataclass(frozen=True, eq=False)
class RangeTest:
    """A finished range test.

    A notebook shows it as a table and a picture, ``print`` as the table.

    Args:
        record: everything that is known of it; ``record.sweep.warnings`` says what may make the bounds mean less.
        title: what table and picture are called.
    """

    record: RunRecord
    title: str = "range test"

    @property
    def bounds(self) -> Bounds:
        """Both bounds with intervals, reasons, verdict and advice."""
        return self.record.bounds

    @property
    def base_lr(self) -> float | None:
        """The lower bound; None where the curves do not show it."""
        return self.bounds.base_lr

    @property
    def max_lr(self) -> float | None:
        """The upper bound; None where the curves do not show it."""
        return self.bounds.max_lr

    @property
    def verdict(self) -> Verdict:
        """How far to trust the bounds."""
        return self.bounds.verdict

    @property
    def plan(self) -> Plan:
        """The schedule that was planned. Raises ConfigError where there are no bounds, with the next step to take."""
        if self.record.plan is None:
            raise ConfigError(f"there are no bounds to plan with: {in_python(self.bounds.advice[0].value)}")
        return self.record.plan

    @property
    def curves(self) -> tuple[Curve, ...]:
        """What was measured, one a seed."""
        return self.record.sweep.curves

    def scheduler(self, optimizer: Any, last_epoch: int = -1) -> PlanScheduler:
        """A scheduler of torch that follows the plan: call its ``step()`` after every ``optimizer.step()``."""
        from clrtool.engine.training.scheduler import PlanScheduler

        return PlanScheduler(optimizer, self.plan, last_epoch)

    def plot(self, path: Path | str | None = None) -> Figure:
        """The picture of the curves and bounds, written to ``path`` (.png, .svg or .pdf) if there is one."""
        from clrtool.report.plots import plot_range_test, save_figure

        figure = plot_range_test(self.record, self.title)
        if path is not None:
            save_figure(figure, Path(path))
        return figure

    def save(self, folder: Path | str) -> None:
        """Write ``curve.csv``, ``result.json`` and the pictures, which ``clrtool plan`` and ``clrtool.read_run`` read.

        Raises:
            ConfigError: the folder holds a run already.
        """
        from clrtool.report.plots import draw_run
        from clrtool.report.records.run import FILES, write_run

        folder = Path(folder)
        if found := [name for name in FILES if (folder / name).exists()]:
            raise ConfigError(f"{folder} holds {', '.join(found)} already: give another folder")
        write_run(folder, self.record)
        draw_run(folder, self.record)

    def __str__(self) -> str:
        from rich.console import Console

        text = io.StringIO()
        Console(file=text, width=100, color_system=None, markup=False, highlight=False).print(self._table())
        return text.getvalue().strip("\n")

    def __repr__(self) -> str:
        return f"RangeTest(base_lr={self.base_lr}, max_lr={self.max_lr}, verdict={self.verdict.word!r})"

    def _repr_html_(self) -> str:
        from clrtool.report.plots import drawn

        table = self._table()
        rows = zip(*(column.cells for column in table.columns), strict=True)
        lines = ["".join(f'<td style="text-align: left">{_escaped(cell)}</td>' for cell in row) for row in rows]
        image = base64.b64encode(drawn(self.plot(), ".png")).decode()
        return (
            f"<table><caption>{_escaped(table.title)}</caption><tr>{'</tr><tr>'.join(lines)}</tr></table>"
            f'<img width="800" alt="{html.escape(repr(self))}" src="data:image/png;base64,{image}">'
        )

    def _table(self) -> Table:
        from clrtool.report.text.tables import result_table

        return result_table(self.record, self.title, in_python)


def _escaped(cell: Any) -> str:
    return html.escape(cell.plain if hasattr(cell, "plain") else str(cell)).replace("\n", "<br>")


def range_test(
    model: Any,
    optimizer: Any,
    train_loader: Any,
    heldout_loader: Any = None,
    *,
    loss: Callable[..., Any] | None = None,
    step: Callable[[Any, Any], Any] | None = None,
    measure: Any = None,
    metric: str = "auto",
    higher_is_better: bool | None = None,
    title: str = "range test",
    progress: bool = True,
    on_point: Callable[[int, Point], object] | None = None,
    **options: Unpack[Options],
) -> RangeTest:
    """Run the LR range test on copies of a model and an optimizer, and plan a schedule from its bounds.

    What is passed is afterwards as it was, bit for bit, however the test ended, and so are the global generators.

    Args:
        model: a module, whose weights are the start of every seed; or a function that returns a fresh one.
        optimizer: over its parameters, whose rates keep their ratios; several; or a function of the model for either.
        train_loader, heldout_loader: DataLoaders, lists, or whatever gives batches each time it is iterated over:
            (inputs, ..., targets) or mappings with ``labels``; for others give ``step``. Without held-out batches a
            tenth of the training set, or the loss of batches that are trained on, makes the verdict ``weak`` at best.
        loss: (outputs, targets) -> mean; None for cross entropy, or for a mapping with ``labels`` the model's own loss.
        step: (model, batch) -> mean loss, in place of ``loss``; it changes no other model than that which it is given.
            For held-out batches it is called in evaluation mode, but see ``eval_loss``.
        measure: (model, batch) -> (sum, number), called in evaluation mode: with it ``step`` is not called for
            held-out batches. Or a metric of torchmetrics, which is read over the whole set.
        metric: accuracy, top5, token_accuracy, loss, or the name of ``measure``; ``auto``: the accuracy, else the loss.
        progress, on_point: a line on stderr, and what is called with (seed, point) as soon as one is measured.
        options: seeds, ranges and lengths, see :class:`clrtool.engine.inprocess.options.Options`.

    Raises:
        ConfigError: an option breaks its rule, or the pieces do not fit together. Other errors are the program's own.
    """
    from clrtool.engine.inprocess.clone import preserved

    with preserved(model), _in_python():  # from here on, for an import may draw random numbers too
        from clrtool.engine.inprocess.build import build_workload
        from clrtool.engine.inprocess.options import Settings
        from clrtool.engine.inprocess.steps import make_steps
        from clrtool.engine.rangetest.pipeline import range_test as run

        settings, looks = Settings.of(options), metric == "auto" and measure is None
        steps = make_steps(loss, step, measure, metric, higher_is_better)
        workload = build_workload(model, optimizer, train_loader, heldout_loader, steps, settings, find_metric=looks)
        return RangeTest(_with_doubt(run(workload, settings, ProgressObserver(on_point, quiet=not progress))), title)


@contextmanager
def _in_python() -> Iterator[None]:
    """Say what breaks a rule in the words of Python."""
    try:
        yield
    except ConfigError as error:
        faults = tuple(map(in_python, error.faults))
        if faults == error.faults:
            raise
        raise ConfigError(*faults) from error


class ProgressObserver(Observer):
    """A line on stderr, and what a program wants to be called with each point.

    Args:
        on_point: called with (seed, point).
        quiet: no line.
    """

    def __init__(self, on_point: Callable[[int, Point], object] | None, *, quiet: bool) -> None:
        self._told, self._quiet = on_point, quiet

    @contextmanager
    def sweeping(self, seeds: int, epochs: float, metric: str) -> Iterator[None]:
        with Progress(seeds, epochs, metric, quiet=self._quiet, plain=False) as self._progress:
            yield

    def on_point(self, seed: int, point: Point) -> None:
        self._progress.update(seed, point)
        if self._told is not None:
            self._told(seed, point)


def _with_doubt(record: RunRecord) -> RunRecord:
    """The record with a warning where seeds are no seeds."""
    if not _are_alike(record.sweep.curves):
        return record
    warning = (
        "Every seed measured the same: neither weights nor the order of the batches depend on the seed, so that "
        "seeds agree says nothing. Give functions that make a fresh model, or a loader that shuffles."
    )
    return replace(record, sweep=replace(record.sweep, warnings=(*record.sweep.warnings, warning)))


def _are_alike(curves: tuple[Curve, ...]) -> bool:
    first = curves[0]
    return len(curves) > 1 and all(
        curve.metric.tobytes() == first.metric.tobytes() and curve.train_loss.tobytes() == first.train_loss.tobytes()
        for curve in curves
    )
