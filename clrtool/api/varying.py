"""A race over values for a program: weight decays, momenta, batch sizes, or whatever it builds itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from clrtool.api.job import JobOptions, job_of
from clrtool.api.shown import Shown
from clrtool.core.results.varied import BUDGET, MOST_KEYS, MOST_PAIRS, SEEDS, VaryRecord, VaryVerdict
from clrtool.errors import ConfigError
from clrtool.words import in_python, shown

if TYPE_CHECKING:
    from rich.table import Table

    from clrtool.core.results.batch_scaling import BatchScaling
    from clrtool.engine.inprocess.options import Settings
    from clrtool.engine.rangetest.vary import Variant
    from clrtool.report.plots import Figure

# The values of a name, with the arguments that each replaces, or None.
Axis = Mapping[Any, Mapping[str, Any] | None]
# What a value may replace, where it is given as a mapping.
REPLACED = ("model", "optimizer", "train_loader", "heldout_loader")


@dataclass(frozen=True, eq=False)
class Varied(Shown):
    """A finished race over values; ``print`` and notebooks show it as the command line does.

    Args:
        record: everything that was measured and decided.
        title: heading of the table and the picture.
    """

    record: VaryRecord
    title: str = "values"

    @property
    def verdict(self) -> VaryVerdict:
        """What it came to; ``verdict.word`` is better, no_difference, one_seed, each_its_own or nothing_learned."""
        return self.record.verdict

    @property
    def chosen(self) -> dict[str, Any]:
        """The value to take, by its name. Raises ConfigError if nothing was learned."""
        return dict(zip(self.record.keys, self.record.tried[self._chosen].values, strict=True))

    @property
    def base_lr(self) -> float | None:
        """The lower bound for the chosen value; None if none of its runs was finite."""
        bounds = self.record.bounds(self._chosen)
        return None if bounds is None else bounds.base_lr

    @property
    def max_lr(self) -> float | None:
        """The upper bound for the chosen value; None if none of its runs was finite."""
        bounds = self.record.bounds(self._chosen)
        return None if bounds is None else bounds.max_lr

    @property
    def batch_scaling(self) -> BatchScaling | None:
        """How the best rate grows with the batch size, where that was varied alone."""
        return self.record.batch_scaling

    @property
    def _chosen(self) -> int:
        if self.record.chosen is None:
            raise ConfigError(f"there is no value to take: {in_python(self.record.reason)}")
        return self.record.chosen

    def plot(self, path: Path | str | None = None) -> Figure:
        """The picture of the curves; also written to ``path`` (.png, .svg or .pdf) if one is given."""
        from clrtool.report.plots import plot_vary, save_figure

        figure = plot_vary(self.record, self.title)
        if path is not None:
            save_figure(figure, Path(path))
        return figure

    def tables(self) -> list[Table]:
        from clrtool.report.text.vary_table import vary_table

        return list(vary_table(self.record, self.title, in_python).renderables)  # type: ignore[arg-type]

    def __repr__(self) -> str:
        chosen = None if self.record.chosen is None else self.chosen
        return f"Varied(chosen={chosen}, verdict={self.verdict.word!r})"


def vary(
    model: Any,
    optimizer: Any,
    train_loader: Any,
    heldout_loader: Any,
    values: Mapping[str, Sequence[Any] | Mapping[Any, Any]],
    *,
    title: str = "values",
    **job: Unpack[JobOptions],
) -> Varied:
    """Race the values of one or two names, each with learning rates of its own, and say which to take.

    Model, optimizer and loaders are left as they were, as by ``clrtool.range_test``.

    Args:
        model, optimizer, train_loader, heldout_loader: as for ``clrtool.range_test``.
        values: by name. ``{"weight_decay": [0, 1e-4]}`` sets an option of every parameter group of the optimizer;
            ``{"batch_size": [32, 128]}`` makes loaders like ``train_loader``, a DataLoader that shuffles; and
            ``{"width": {64: {"model": make_64}, 128: {"model": make_128}}}`` replaces arguments of this function. The
            first value is that from which others are searched, and is kept where none is better.
        title: heading of the table.
        job: other arguments of ``clrtool.range_test``; ``budget`` pays for all values together, 0.5 by default.

    Raises:
        ConfigError: an argument breaks its rule.

    >>> import clrtool, torch
    >>> x = torch.randn(512, 4, generator=torch.Generator().manual_seed(0))
    >>> data = torch.utils.data.TensorDataset(x, x.argmax(1))
    >>> loader = torch.utils.data.DataLoader(data, batch_size=32, shuffle=True)
    >>> model = torch.nn.Linear(4, 4)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> found = clrtool.vary(model, optimizer, loader, loader, {"weight_decay": [0.0, 10.0]}, epochs=40)
    >>> found.chosen
    {'weight_decay': 0.0}
    """
    from clrtool.engine.rangetest.observer import Observer
    from clrtool.engine.rangetest.vary import Variation, run_variation

    axes = _axes(values)
    arguments = {"model": model, "optimizer": optimizer, "train_loader": train_loader, "heldout_loader": heldout_loader}
    with ExitStack() as preserved:
        variants, settings = _variants(axes, arguments, job, preserved)
        number = SEEDS if settings.sweep.seeds == "auto" else settings.sweep.seeds
        seeds = range(settings.seed, settings.seed + number)
        budget = job.get("budget", BUDGET)
        variation = Variation(tuple(axes), tuple(variants), 0, has_own=False, seeds=seeds, budget=budget)
        return Varied(run_variation(variation, Observer()), title)


def _variants(
    axes: Mapping[str, Axis], arguments: Mapping[str, Any], job: JobOptions, preserved: ExitStack
) -> tuple[list[Variant], Settings]:
    """The workload of every value or pair, open as long as the stack is; and the settings, which all of them share."""
    from clrtool.engine.inprocess.variants import with_value
    from clrtool.engine.rangetest.vary import Variant

    variants = []
    for place, pair in _pairs(axes):
        given = arguments
        for name, value in pair.items():
            given = with_value(given, name, value, axes[name][value])
        workload, settings = preserved.enter_context(job_of(**given, given=job))
        if workload.ranks.processes > 1 or workload.make_model.lent is not None:
            raise ConfigError("vary: runs in one process, whose models can be copied: start it without torchrun")
        variants.append(Variant(tuple(pair.values()), place, workload))
    return variants, settings


def _pairs(axes: Mapping[str, Axis]) -> Iterator[tuple[tuple[int, ...], dict[str, Any]]]:
    """Every value or pair, with its place on each axis."""
    for place in product(*(range(len(axis)) for axis in axes.values())):
        yield place, {name: [*axis][at] for (name, axis), at in zip(axes.items(), place, strict=True)}


def _axes(values: Mapping[str, Sequence[Any] | Mapping[Any, Any]]) -> dict[str, Axis]:
    """For each name its values, with the arguments that each replaces, or None. Raises ConfigError."""
    if not values or len(values) > MOST_KEYS:
        raise ConfigError(f"values: must have one or two names, it has {len(values)}")
    axes: dict[str, Axis] = {}
    pairs = 1
    for name, given in values.items():
        axes[name] = dict(given) if isinstance(given, Mapping) else dict.fromkeys(given)
        pairs *= len(axes[name])
        if len(axes[name]) < 2 or len(axes[name]) < len(given):
            raise ConfigError(f"values[{name!r}]: must be two or more different values; it is {shown(given)}")
        for value, replaced in axes[name].items():
            if isinstance(replaced, Mapping) and not {*replaced} <= {*REPLACED}:
                told = f"may replace {', '.join(REPLACED)}; it is {shown(replaced)}"
                raise ConfigError(f"values[{name!r}][{value!r}]: {told}")
    if pairs > MOST_PAIRS:
        raise ConfigError(f"values: {pairs} pairs are more than {MOST_PAIRS}: give fewer")
    return axes
