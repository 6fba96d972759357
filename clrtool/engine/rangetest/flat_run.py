"""Short runs of a race at a constant rate, trained by the plain loop or by one captured step that they share."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from clrtool.engine.runtime.rng import fork_rng
from clrtool.engine.training.average import RunningAverage
from clrtool.engine.training.cuda_graph import CapturedEnsemble
from clrtool.engine.training.trainer import Pause, Trainer
from clrtool.engine.training.workload import Workload

# Iterations of linear warm-up at the beginning of a run, as most schedules have.
WARM_UP = 5


def flat_lrs(lr: float, iterations: int) -> list[float]:
    """The learning rates of a run from its beginning.

    >>> flat_lrs(1.0, 6)
    [0.2, 0.4, 0.6, 0.8, 1.0, 1.0]
    """
    return [lr * min(1.0, (place + 1) / WARM_UP) for place in range(iterations)]


class Way(Protocol):
    """The way in which a run is trained."""

    average: RunningAverage

    def train(self, start: int, lrs: list[float], pause: Pause) -> list[float]:
        """Iterations from ``start`` to the end of ``lrs``, fewer if one breaks or ``pause`` says so: their losses."""
        ...

    def read(self) -> tuple[float, float]:
        """Held-out loss and metric of the running average of the weights."""
        ...

    def state(self) -> dict[str, Any]:
        """All that the next step depends on but the average."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Put everything back to :meth:`state`."""
        ...


class FlatRun:
    """A run of one rate with one seed.

    Args:
        iteration: updates that were taken.
        broken: whether the last loss was not finite, with which it ends.
    """

    def __init__(self, way: Way) -> None:
        self._way = way
        self.iteration, self.broken = 0, False

    def train(self, lr: float, stop: int, pause: Pause) -> None:
        if self.broken:
            return
        losses = self._way.train(self.iteration, flat_lrs(lr, stop), pause)
        self.iteration += len(losses)
        self.broken = not all(map(math.isfinite, losses))

    def read(self) -> tuple[float, float]:
        return (math.nan, math.nan) if self.broken else self._way.read()

    def state(self) -> dict[str, Any]:
        values = {"iteration": self.iteration, "broken": self.broken}
        return values | {"trainer": self._way.state(), "average": self._way.average.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._way.restore(state["trainer"])
        self._way.average.restore(state["average"])
        self.iteration, self.broken = state["iteration"], state["broken"]


class PlainLoop:
    """The reference: a branch of an untrained trainer."""

    def __init__(self, start: Trainer) -> None:
        self._trainer = start.branch()
        self.average = self._trainer.average = RunningAverage(self._trainer.model)

    def train(self, start: int, lrs: list[float], pause: Pause) -> list[float]:
        return self._trainer.train(start, lrs[start:], pause)

    def read(self) -> tuple[float, float]:
        return self._trainer.evaluate_average()

    def state(self) -> dict[str, Any]:
        return self._trainer.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        self._trainer.restore(state)


class SharedStep:
    """A captured step of one seed that runs take in turn, each with weights of its own that lie elsewhere meanwhile."""

    def __init__(self, workload: Workload, ensemble: CapturedEnsemble, seed: int) -> None:
        self._workload, self._ensemble, self._seed = workload, ensemble, seed
        (self._trainer,) = ensemble.members
        with fork_rng(workload.device):
            self._begin_again()
            self._kept: Mapping[str, Any] = copy.deepcopy(ensemble.state())
            self.average = RunningAverage(self._trainer.model)

    def train(self, start: int, lrs: list[float], pause: Pause) -> list[float]:
        with self._in_place():
            self._ensemble.put_lrs(lrs)
            (losses,) = self._ensemble.train(start, len(lrs), pause)
        return losses

    def read(self) -> tuple[float, float]:
        with self._in_place(), self._trainer.averaged():
            (found,) = self._ensemble.evaluate([0])
        return found

    def state(self) -> dict[str, Any]:
        return dict(self._kept)

    def restore(self, state: Mapping[str, Any]) -> None:
        self._kept = state
        with self._in_place():  # which finds out whether it fits
            pass

    def _begin_again(self) -> None:
        """Have the step be one of this seed, at its beginning."""
        if not self._ensemble.begins_again(self._workload, [self._seed], []):
            raise RuntimeError("the captured step belongs to another problem")

    @contextmanager
    def _in_place(self) -> Iterator[None]:
        """Put this run into the memory of the graph, and keep the random numbers outside as they are."""
        with fork_rng(self._workload.device):
            if self._trainer.seed != self._seed:  # its batches are another's
                self._begin_again()
            self._ensemble.restore(self._kept)
            self._trainer.average = self.average
            try:
                yield
            finally:
                self._trainer.average = None
            self._kept = copy.deepcopy(self._ensemble.state())
