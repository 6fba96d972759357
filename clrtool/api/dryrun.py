"""What a range test would take, before it is run: ``--dry-run`` for a program."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Unpack

from clrtool.api.job import JobOptions, job_of
from clrtool.api.shown import Shown
from clrtool.core.results.estimate import Estimate
from clrtool.words import in_python

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True, eq=False)
class DryRun(Shown):
    """What a range test would take at the most; ``print`` shows it as a table.

    Args:
        estimate: every number.
    """

    estimate: Estimate

    @property
    def iterations(self) -> int:
        """Optimizer steps of the whole test."""
        return self.estimate.iterations

    @property
    def epochs(self) -> float:
        """The same in passes over ``train_loader``."""
        return self.estimate.epochs

    @property
    def seconds(self) -> float:
        """Time for training and evaluations, as a few steps of each took."""
        return self.estimate.seconds

    @property
    def peak_bytes(self) -> int:
        """Memory at the peak: of the device, or of the process on a CPU."""
        return self.estimate.peak_bytes

    def __repr__(self) -> str:
        return f"DryRun(iterations={self.iterations}, epochs={self.epochs:.4g}, seconds={self.seconds:.3g})"

    def tables(self) -> list[Table]:
        from clrtool.report.text.estimate_table import estimate_table

        return [estimate_table(self.estimate, "dry run", words=in_python)]


def dry_run(
    model: Any, optimizer: Any, train_loader: Any, heldout_loader: Any = None, **job: Unpack[JobOptions]
) -> DryRun:
    """Time a few steps and an evaluation on copies, and tell what a range test would take; nothing is changed.

    Args:
        model, optimizer, train_loader, heldout_loader: as for ``clrtool.range_test``.
        job: the other arguments of ``clrtool.range_test``.

    Raises:
        ConfigError: an option breaks its rule, or the arguments do not fit together.

    >>> import clrtool, torch
    >>> data = torch.utils.data.TensorDataset(torch.randn(640, 4), torch.randint(0, 4, (640,)))
    >>> loader = torch.utils.data.DataLoader(data, batch_size=32, shuffle=True)
    >>> model = torch.nn.Linear(4, 4)
    >>> told = clrtool.dry_run(model, torch.optim.Adam(model.parameters()), loader, loader, epochs=100, budget=0.5)
    >>> told.iterations, told.epochs
    (1000, 50.0)
    """
    with job_of(model, optimizer, train_loader, heldout_loader, job) as (workload, settings):
        from clrtool.engine.rangetest.estimate import estimate
        from clrtool.engine.rangetest.pipeline import check_plan

        check_plan(workload, settings.plan)
        return DryRun(estimate(workload, settings))
