"""The range test for a program or a notebook that already has a model, an optimizer and loaders."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from clrtool.api.job import ProgressObserver, recipe_of, speaks
from clrtool.api.shown import Shown
from clrtool.core.planning.plan import Plan
from clrtool.core.reading.bounds import Bounds
from clrtool.core.reading.curve import Curve, Point
from clrtool.core.reading.verdict import Verdict
from clrtool.core.results.record import RunRecord
from clrtool.errors import ConfigError
from clrtool.files import check_writable
from clrtool.words import in_python

if TYPE_CHECKING:
    from rich.table import Table

    from clrtool.engine.inprocess.options import Options
    from clrtool.engine.training.scheduler import PlanScheduler
    from clrtool.report.plots import Figure


@dataclass(frozen=True, eq=False)
class RangeTest(Shown):
    """A finished range test.

    A notebook shows it as a table and a picture; ``print`` shows the table.

    Args:
        record: everything that was measured and decided; ``record.sweep.warnings`` lists what makes the bounds less
            reliable.
        title: heading of the table and the picture.

    >>> import clrtool, torch
    >>> x = torch.randn(256, 4, generator=torch.Generator().manual_seed(0))
    >>> data = torch.utils.data.TensorDataset(x, x.argmax(1))
    >>> loader = torch.utils.data.DataLoader(data, batch_size=32, shuffle=True)
    >>> model = torch.nn.Linear(4, 4)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> test = clrtool.range_test(model, optimizer, loader, loader, epochs=10, progress=False)
    >>> test.base_lr < test.max_lr, test.plan.policy
    (True, 'triangular2')
    """

    record: RunRecord
    title: str = "range test"

    @property
    def bounds(self) -> Bounds:
        """Both bounds with their intervals and reasons, the verdict and the advice."""
        return self.record.bounds

    @property
    def base_lr(self) -> float | None:
        """The lower bound; None if the measurements do not show it."""
        return self.bounds.base_lr

    @property
    def max_lr(self) -> float | None:
        """The upper bound; None if the measurements do not show it."""
        return self.bounds.max_lr

    @property
    def verdict(self) -> Verdict:
        """How far to trust the bounds: ``verdict.word`` is clear, wide, weak or inconclusive."""
        return self.bounds.verdict

    @property
    def plan(self) -> Plan:
        """The planned schedule. Raises ConfigError if there are no bounds; the message says what to do next."""
        if self.record.plan is None:
            raise ConfigError(f"there are no bounds to plan with: {in_python(self.bounds.advice[0].value)}")
        return self.record.plan

    @property
    def curves(self) -> tuple[Curve, ...]:
        """The measured curve of each seed."""
        return self.record.sweep.curves

    def scheduler(self, optimizer: Any, last_epoch: int = -1, iterations_per_epoch: int | None = None) -> PlanScheduler:
        """A torch scheduler that follows the plan: call its ``step()`` after every ``optimizer.step()``."""
        from clrtool.engine.training.scheduler import PlanScheduler

        return PlanScheduler(optimizer, self.plan, last_epoch, iterations_per_epoch)

    def plot(self, path: Path | str | None = None) -> Figure:
        """The picture of curves and bounds; also written to ``path`` (.png, .svg or .pdf) if one is given."""
        from clrtool.report.plots import plot_range_test, save_figure

        figure = plot_range_test(self.record, self.title)
        if path is not None:
            save_figure(figure, Path(path))
        return figure

    def save(self, folder: Path | str) -> None:
        """Write ``curve.csv``, ``result.json`` and the pictures to a folder, for ``clrtool plan`` and ``read_run``.

        Raises:
            ConfigError: the folder already holds a run.
            MachineError: it cannot be written, or the disk is full; what was written of it is removed.
        """
        from clrtool.report.plots import draw_run
        from clrtool.report.records.run import FILES, write_run

        folder = Path(folder)
        if found := [name for name in FILES if os.path.lexists(folder / name)]:
            raise ConfigError(f"{folder} holds {', '.join(found)} already: give another folder")
        check_writable(folder)
        try:
            write_run(folder, self.record)
            draw_run(folder, self.record)
        except BaseException:  # so that it can be saved here later
            for name in FILES:
                with contextlib.suppress(OSError):
                    (folder / name).unlink()
            raise

    def __repr__(self) -> str:
        return f"RangeTest(base_lr={self.base_lr}, max_lr={self.max_lr}, verdict={self.verdict.word!r})"

    def tables(self) -> list[Table]:
        from clrtool.report.text.tables import result_table

        return [result_table(self.record, self.title, in_python)]


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
    jobs: int = 1,
    **options: Unpack[Options],
) -> RangeTest:
    """Run the LR range test on copies of a model and an optimizer, and plan a schedule from its bounds.

    Model, optimizer, loaders and global random generators are left exactly as they were, even after an exception.

    Where a program has made a process group (``torchrun``), every rank calls this with its own loaders, and all get the
    same result. The model may be sharded (``fully_shard``, tensor parallelism): it is trained itself, and put back.

    Args:
        model: a module, whose weights every seed starts from; or a function that returns a new one.
        optimizer: one over its parameters, or a list; or a function of the model that returns either.
        train_loader, heldout_loader: anything that gives batches when iterated over: ``(inputs, ..., targets)``, or
            mappings with ``labels``; others need a ``step``. Without held-out batches the verdict is at best weak.
        loss: ``(outputs, targets) -> mean``. Default: cross entropy, or the model's own for mappings.
        step: ``(model, batch) -> mean loss``, in place of ``loss``; must change no other model.
        measure: ``(model, batch) -> (sum, count)`` for held-out batches, or a metric of torchmetrics.
        metric: accuracy, top5, token_accuracy, loss, or a name for ``measure``; auto: accuracy if there are classes.
        higher_is_better: whether a larger ``measure`` is better.
        title, progress: heading of the table; whether to show a line on stderr.
        on_point: called with ``(seed, point)`` after each evaluation.
        jobs: number of processes that share the seeds; ``clrtool guide many-gpus`` tells what can be sent to them.
        options: lengths, budget, seeds, ranges, precision: ``help(clrtool.RangeTestOptions)``.

    Raises:
        ConfigError: an option breaks its rule, or the arguments do not fit together.
        MachineError: memory is short, or a rank was lost.
    """
    from clrtool.engine.rangetest.processes import range_test_in_processes

    given = options | {"loss": loss, "step": step, "measure": measure, "metric": metric,
                       "higher_is_better": higher_is_better}  # fmt: skip
    with recipe_of(model, optimizer, train_loader, heldout_loader, given) as (build, settings):
        observer = ProgressObserver(on_point, quiet=not progress or not speaks(build))
        return RangeTest(_with_doubt(range_test_in_processes(build, settings, observer, jobs)), title)


def _with_doubt(record: RunRecord) -> RunRecord:
    """The record with a warning where seeds are no seeds."""
    if not _are_alike(record.sweep.curves):
        return record
    warning = (
        "Every seed measured the same: neither weights nor the order of the batches depend on the seed, so the "
        "agreement of seeds says nothing. Give functions that make a fresh model, or a loader that shuffles."
    )
    return replace(record, sweep=replace(record.sweep, warnings=(*record.sweep.warnings, warning)))


def _are_alike(curves: tuple[Curve, ...]) -> bool:
    first = curves[0]
    return len(curves) > 1 and all(
        curve.metric.tobytes() == first.metric.tobytes() and curve.train_loss.tobytes() == first.train_loss.tobytes()
        for curve in curves
    )
