"""Short runs of a race at a constant rate, trained by the plain loop or by one captured step that they share."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from torch import Tensor

from clrtool.engine.runtime.rng import RngStream, fork_rng
from clrtool.engine.training.average import RunningAverage
from clrtool.engine.training.cuda_graph import CapturedEnsemble
from clrtool.engine.training.in_place import copies_of, copy_all
from clrtool.engine.training.last_layer import spread_of_answers
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

    def spread(self) -> float | None:
        """How far the answers of that average differ from input to input, see :func:`spread_of_answers`."""
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

    def spread(self) -> float | None:
        return self._way.spread()

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

    def spread(self) -> float | None:
        with self._trainer.averaged():
            return spread_of_answers(self._trainer)

    def state(self) -> dict[str, Any]:
        return self._trainer.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        self._trainer.restore(state)


class Turns:
    """A captured step of one seed that runs take in turn: its memory is that of one of them, until another trains.

    Args:
        ensemble: the step. Nobody else trains by it.
    """

    def __init__(self, workload: Workload, ensemble: CapturedEnsemble) -> None:
        self.workload, self.ensemble = workload, ensemble
        (self.trainer,) = ensemble.members
        self._holder: weakref.ref[SharedStep] | None = None

    @property
    def holder(self) -> SharedStep | None:
        """The run whose weights lie there; none where it was dropped."""
        return None if self._holder is None else self._holder()

    def pass_to(self, run: SharedStep) -> None:
        """Have the memory be that of a run, and what lay there be put away."""
        if (before := self.holder) is not None:
            before.put_away()
        self._holder = weakref.ref(run)

    @property
    def tensors(self) -> dict[str, list[Tensor]]:
        """Weights, statistics and optimizer as they lie there."""
        part: dict[str, list[Tensor]]
        (part,) = self.ensemble.state()["parts"]
        return part


class SharedStep:
    """A run by a captured step that others take too. Its weights lie elsewhere while another has its turn."""

    def __init__(self, turns: Turns, seed: int) -> None:
        self._turns, self._seed = turns, seed
        self._kept: dict[str, list[Tensor]] = {}
        turns.pass_to(self)
        with fork_rng(turns.workload.device):
            if not turns.ensemble.begins_again(turns.workload, [seed], []):
                raise RuntimeError("the captured step belongs to another problem")
            self._rng = RngStream.from_here(turns.workload.device)
        self.average = RunningAverage(turns.trainer.model)

    def train(self, start: int, lrs: list[float], pause: Pause) -> list[float]:
        with self._turn():
            self._turns.ensemble.put_lrs(lrs)
            (losses,) = self._turns.ensemble.train(start, len(lrs), pause)
        return losses

    def read(self) -> tuple[float, float]:
        with self._turn(), self._turns.trainer.averaged():
            (found,) = self._turns.ensemble.evaluate([0])
        return found

    def spread(self) -> float | None:
        with self._turn(), self._turns.trainer.averaged():
            return spread_of_answers(self._turns.trainer)

    def state(self) -> dict[str, Any]:
        tensors = self._turns.tensors if self._turns.holder is self else self._kept
        return {"parts": [tensors], "generators": self._rng.states}

    def restore(self, state: Mapping[str, Any]) -> None:
        with self._turn():
            self._turns.ensemble.restore(state)  # with its random numbers, which are this run's from here on

    def put_away(self) -> None:
        """Keep weights, statistics and optimizer: another run goes on in their place."""
        tensors = self._turns.tensors
        if not self._kept:
            self._kept = {name: copies_of(own) for name, own in tensors.items()}
            return
        for name, own in tensors.items():
            copy_all(own, self._kept[name])

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Have the memory be this run's, draw its random numbers, and leave those outside as they are."""
        turns = self._turns
        with self._rng.active():
            if turns.holder is not self:
                turns.pass_to(self)
                if turns.trainer.seed != self._seed:  # its batches are another's
                    turns.ensemble.follow([self._seed])
                turns.ensemble.restore({"parts": [self._kept], "generators": self._rng.states})
            turns.trainer.average = self.average
            try:
                yield
            finally:
                turns.trainer.average = None
