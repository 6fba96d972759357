"""Trainings under several policies, from a program's own model, optimizer and loaders, and which of them won."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from clrtool.api.job import JobOptions, job_of
from clrtool.api.rangetest import RangeTest
from clrtool.api.shown import Shown
from clrtool.core.planning.plan import Plan
from clrtool.core.results.candidates import USUAL, Asked, candidate_plans, check_number, check_policy, check_target
from clrtool.core.results.comparison import BoundsFrom, Comparison
from clrtool.errors import ConfigError, as_config_error
from clrtool.report.text.progress import ComparisonProgress
from clrtool.words import shown

if TYPE_CHECKING:
    from rich.table import Table

    from clrtool.report.plots import Figure

# Options of the sweep and of the plan's policy; a comparison has its bounds and its policies.
SWEPT = ("budget", "method", "start_lr", "end_lr", "spacing", "sweep_epochs", "seeds", "policy", "warmup_epochs")


@dataclass(frozen=True, eq=False)
class Compared(Shown):
    """A finished comparison. A notebook shows it as a table and a picture; ``print`` shows the table.

    Args:
        record: everything that was measured.
        title: heading of the table and the picture.

    >>> import clrtool, torch
    >>> x = torch.randn(256, 4, generator=torch.Generator().manual_seed(0))
    >>> loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, x.argmax(1)), batch_size=32)
    >>> net, sgd = lambda: torch.nn.Linear(4, 4), lambda model: torch.optim.SGD(model.parameters(), lr=0.1)
    >>> found = clrtool.compare(net, sgd, loader, loader, bounds=(0.1, 1.0), policies=["one_cycle", 1e-5], epochs=4,
    ...                         progress=False)
    >>> found.best, found.plan.max_lr
    ('one_cycle', 1.0)
    """

    record: Comparison
    title: str = "comparison"

    @property
    def best(self) -> str | None:
        """The policy with the best mean, by noise perhaps; None if the loss of every policy was not finite."""
        return self.record.judgement.best

    @property
    def winner(self) -> str | None:
        """The best policy, where its lead is larger than the noise between seeds."""
        return self.record.judgement.winner

    @property
    def plan(self) -> Plan:
        """The plan of the best policy. Raises ConfigError if there is none."""
        if self.best is None:
            raise ConfigError(f"there is no best plan: {self.record.judgement.verdict.value}")
        return next(each.plan for each in self.record.candidates if each.name == self.best)

    @property
    def finals(self) -> dict[str, tuple[float, ...]]:
        """The metric of each policy at the end of each training; NaN where the loss was not finite."""
        return {each.name: each.finals for each in self.record.candidates}

    def plot(self, path: Path | str | None = None) -> Figure:
        """The picture of the curves; also written to ``path`` (.png, .svg or .pdf) if one is given."""
        from clrtool.report.plots import plot_comparison, save_figure

        figure = plot_comparison(self.record, self.title)
        if path is not None:
            save_figure(figure, Path(path))
        return figure

    def tables(self) -> list[Table]:
        from clrtool.report.text.comparison_table import comparison_table

        return list(comparison_table(self.record, self.title).renderables)  # type: ignore[arg-type]

    def __repr__(self) -> str:
        return f"Compared(best={self.best!r}, winner={self.winner!r}, policies={list(self.finals)})"


def compare(
    model: Any,
    optimizer: Any,
    train_loader: Any,
    heldout_loader: Any = None,
    *,
    bounds: RangeTest | tuple[float, float],
    policies: Sequence[str | float | Plan] | Mapping[str, Asked] = USUAL,
    trainings: int = 3,
    target: float | None = None,
    title: str = "comparison",
    progress: bool = True,
    **job: Unpack[JobOptions],
) -> Compared:
    """Train copies with several policies, for the same length and from the same seeds, and say which won.

    Args:
        model, optimizer, train_loader, heldout_loader: as for ``clrtool.range_test``. A model that is given as it is
            starts every training from its weights; a function that makes one, from new weights for each seed.
        bounds: a finished range test, or ``(base_lr, max_lr)``.
        policies: names of policies, rates of trainings at a fixed one, and plans; or a mapping of names to plans, rates
            or None, for the policy of that name.
        trainings: number of training runs per policy, with seeds from ``seed`` on.
        target: metric value to reach. Default: what ``fixed``, or else the first policy, ends with.
        title, progress: heading of the table; whether to show a line on stderr.
        job: other arguments of ``clrtool.range_test``, except those of the sweep and the policy of the plan.

    Raises:
        ConfigError: an argument breaks its rule, or there are no bounds.
    """
    asked, ends = _policies(policies), _bounds(bounds)
    _check(job, trainings)
    with job_of(model, optimizer, train_loader, heldout_loader, job) as (workload, settings):
        from clrtool.engine.rangetest.compare import compared

        stepsize = None if settings.plan.stepsize_epochs == "auto" else settings.plan.stepsize_epochs
        with as_config_error():
            plans, iterations = candidate_plans(
                asked, ends, workload.iterations_per_epoch, epochs=workload.plan_epochs, stepsize_epochs=stepsize
            )
        with as_config_error(f"target = {target}: "):
            check_target(target, workload.metric)
        label, how = workload.metric.label, {"quiet": not progress or workload.ranks.process > 0, "plain": False}
        seeds = range(settings.seed, settings.seed + trainings)
        with ComparisonProgress(list(plans), trainings, iterations, label, **how) as line:
            record = compared(workload, plans, iterations, seeds, ends, line.tell)
        return Compared(replace(record, asked_target=target), title)


def _check(job: Mapping[str, Any], trainings: Any) -> None:
    if unused := [name for name in SWEPT if job.get(name) is not None]:
        raise ConfigError(*(f"{name}: is for a range test; a comparison has its bounds" for name in unused))
    if not (isinstance(trainings, int) and trainings >= 1):
        raise ConfigError(f"trainings = {shown(trainings)} must be a whole number of at least 1")


def _bounds(given: Any) -> BoundsFrom:
    if isinstance(given, RangeTest):
        plan = given.plan
        return BoundsFrom(plan.base_lr, plan.max_lr, given.title, given.record.cost_epochs)
    try:
        base_lr, max_lr = map(float, given)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"bounds: must be a range test or (base_lr, max_lr); it is {given!r}") from error
    if not 0 < base_lr < max_lr < float("inf"):
        raise ConfigError(f"bounds = {given!r}: must be above 0, finite, and the second above the first")
    return BoundsFrom(base_lr, max_lr, "the program")


def _policies(given: Any) -> dict[str, Asked]:
    """The policies by the names that people read. Raises ConfigError for one that is none, or is there twice."""
    pairs = [*given.items()] if isinstance(given, Mapping) else [_named(each) for each in given]
    found = dict(pairs)
    with as_config_error("policies: "):
        if len(found) < len(pairs):
            raise ValueError(f"one is there twice: {', '.join(name for name, _ in pairs)}")
        for name, each in found.items():
            if each is None:
                check_policy(name)
            elif not isinstance(each, Plan | int | float):
                raise ValueError(f"{name}: must be a plan, a rate, or None; it is {shown(each)}")
        check_number(found)
    return {name: float(each) if isinstance(each, int) else each for name, each in found.items()}


def _named(policy: Any) -> tuple[str, Any]:
    if isinstance(policy, str):
        return policy, None
    if isinstance(policy, Plan):
        return policy.policy, policy
    if isinstance(policy, int | float):
        return f"fixed:{policy:g}", policy
    raise ConfigError(f"policies: {shown(policy)} is no policy's name, no rate and no plan")
