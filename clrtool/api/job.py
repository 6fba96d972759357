"""What a program gives: a model, an optimizer, loaders and options -> the workload that every call of it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from clrtool.core.reading.curve import Point
from clrtool.engine.inprocess.options import Options
from clrtool.engine.rangetest.observer import Observer
from clrtool.errors import ConfigError
from clrtool.report.text.progress import Progress, Status
from clrtool.words import in_python

if TYPE_CHECKING:
    from clrtool.engine.inprocess.options import Settings
    from clrtool.engine.inprocess.workload import InProcessWorkload


class JobOptions(Options, total=False):
    """The keyword arguments that say what a step is and what is measured, as ``range_test`` explains them."""

    loss: Callable[..., Any] | None
    step: Callable[[Any, Any], Any] | None
    measure: Any
    metric: str
    higher_is_better: bool | None


@contextmanager
def recipe_of(
    model: Any, optimizer: Any, train_loader: Any, heldout_loader: Any, given: Mapping[str, Any]
) -> Iterator[tuple[partial[InProcessWorkload], Settings]]:
    """What makes the workload, and its settings; model and generators are put back at the end.

    Args:
        given: :class:`JobOptions`.

    Raises:
        ConfigError: an option breaks its rule, or the arguments do not fit together; in the words of Python.
    """
    from clrtool.engine.inprocess.clone import preserved

    with preserved(model), saying_python():  # from here on, for an import may draw random numbers too
        from clrtool.engine.inprocess.build import build_workload
        from clrtool.engine.inprocess.options import Settings
        from clrtool.engine.inprocess.steps import make_steps
        from clrtool.engine.runtime.program_ranks import ranks_of_program

        own = {name: given.get(name) for name in ("loss", "step", "measure", "higher_is_better")}
        metric = given.get("metric", "auto")
        steps = make_steps(metric=metric, **own)
        settings = Settings.of({name: each for name, each in given.items() if name not in (*own, "metric")})
        looks, loaders = metric == "auto" and own["measure"] is None, (train_loader, heldout_loader)
        build = partial(build_workload, model, optimizer, *loaders, steps, settings, find_metric=looks)
        with ranks_of_program(model) as ranks:
            yield (build if ranks.processes == 1 else partial(build, ranks=ranks)), settings


def speaks(build: partial[InProcessWorkload]) -> bool:
    """Whether this process shows its progress: of several ranks the first does."""
    ranks = build.keywords.get("ranks")
    return ranks is None or ranks.process == 0


@contextmanager
def job_of(
    model: Any, optimizer: Any, train_loader: Any, heldout_loader: Any, given: Mapping[str, Any]
) -> Iterator[tuple[InProcessWorkload, Settings]]:
    """The workload itself, and its settings; see :func:`recipe_of`."""
    with recipe_of(model, optimizer, train_loader, heldout_loader, given) as (build, settings):
        yield build(), settings


@contextmanager
def saying_python() -> Iterator[None]:
    """Say what breaks a rule in the words of Python."""
    try:
        yield
    except ConfigError as error:
        faults = tuple(map(in_python, error.faults))
        if faults == error.faults:
            raise
        raise ConfigError(*faults) from error


class ProgressObserver(Observer):
    """Shows a line on stderr, and calls a program with each point.

    Args:
        on_point: called with (seed, point).
        quiet: whether to leave the line out.
    """

    def __init__(self, on_point: Callable[[int, Point], object] | None, *, quiet: bool) -> None:
        self._told, self._quiet = on_point, quiet

    @contextmanager
    def sweeping(self, seeds: int, epochs: float, metric: str) -> Iterator[None]:
        with Progress(seeds, epochs, metric, quiet=self._quiet, plain=False) as self._progress:
            yield

    @contextmanager
    def sharing(self, processes: int, seeds: int) -> Iterator[None]:
        with Status(quiet=self._quiet, plain=False) as status:
            status.show(f"{processes} processes sweep {seeds} seeds")
            yield

    def on_point(self, seed: int, point: Point) -> None:
        self._progress.update(seed, point)
        if self._told is not None:
            self._told(seed, point)
