"""Journal: the stretches of training of a range test, each of which can be interrupted anywhere and gone on with.

A range test is a function of what it measures: which ends it sweeps, where a seed stops and whether one more follows
is decided from measured numbers alone. So what has to be kept is small: the results of the segments that are finished,
which are given back where they are asked for again, and the state of the one that runs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from clrtool.core.reading.curve import Point
from clrtool.engine.runtime.ranks import SINGLE_PROCESS, Ranks
from clrtool.engine.runtime.sharded import Shard
from clrtool.engine.training.ensemble import Ensemble
from clrtool.errors import ConfigError, Interrupted

T = TypeVar("T")
# Seconds between checkpoints, and the share of the time that they may take where they are large.
EVERY, SHARE = 15.0, 0.05
# Iterations after which ranks agree on whether to pause: to agree takes as long as a small step.
AGREE_EVERY = 10
# The format of a checkpoint.
FORMAT = 1


class Store(Protocol):
    """Where checkpoints go."""

    def save(self, values: Mapping[str, Any]) -> None: ...


class Requests(Protocol):
    """What signals have asked for: to stop (the signal's number) after this iteration, or to save and go on."""

    stop: int | None
    save: bool


@dataclass
class NoRequests:
    """What a program asks for that handles no signals."""

    stop: int | None = None
    save: bool = False


@dataclass(frozen=True)
class RemoteResults:
    """What other processes have measured of the same test.

    Args:
        finished: results of segments, by their names.
        seconds: what they took, by where; empty where they do not count.
        warnings: what they have to say.
        environment: where they ran; None if there are no others.
        moved: what to say if anything is trained here, where it differs.
        device: the only kind of device on which more may be trained; None for that of this process.
    """

    finished: Mapping[str, Any] = field(default_factory=dict)
    seconds: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    environment: Mapping[str, str | int] | None = None
    moved: tuple[str, ...] = ()
    device: str | None = None


def _as_it_is(value: T) -> T:
    return value


@dataclass(frozen=True)
class Assignment:
    """Which seeds of a test this process trains: all of them, if nothing else is said.

    Args:
        mine: those of the seeds still to be trained, of which there is one, that are trained here.
        agree: the range that all processes sweep, where this one found another scout.
    """

    mine: Callable[[Sequence[int]], Sequence[int]] = _as_it_is
    agree: Callable[[tuple[float, ...]], tuple[float, ...]] = _as_it_is


class Segment:
    """One stretch of training: a scout, the sweep of an ensemble, a short run.

    Args:
        name: by which its result is known.
        ensemble: what is trained.
        start: iteration from which ``losses`` count.
        losses: training losses of each member since ``start``.
        broken: for each member whether its last loss was not finite, with which its training ends.
        points: evaluations of each member.
    """

    def __init__(self, name: str, ensemble: Ensemble) -> None:
        self.name, self.ensemble = name, ensemble
        self.start = 0
        self.losses: list[list[float]] = [[] for _ in ensemble.members]
        self.broken = [False for _ in ensemble.members]
        self.points: list[list[Point]] = [[] for _ in ensemble.members]

    @property
    def iteration(self) -> int:
        """Updates that were taken."""
        return self.start + max(map(len, self.losses))

    def add(self, losses: list[list[float]]) -> None:
        """Losses that came after those that are there."""
        for member, new in enumerate(losses):
            if not self.broken[member]:
                self.losses[member] += new
                self.broken[member] = bool(new) and not math.isfinite(new[-1])

    def evaluate(self, members: Sequence[int]) -> list[tuple[float, float]]:
        """Held-out loss and metric of the members at these places.

        NaN for who ended with a loss that is not finite: those weights tell nothing.
        """
        finite = [place for place in members if all(map(math.isfinite, self.losses[place]))]
        found = dict(zip(finite, self.ensemble.evaluate(finite), strict=True))
        return [found.get(place, (math.nan, math.nan)) for place in members]

    def reset_losses(self) -> None:
        """Count the losses from here on."""
        self.start, self.losses = self.iteration, [[] for _ in self.losses]

    def state(self) -> dict[str, Any]:
        """All that it takes to go on, in plain types and tensors. Raises TypeError if it holds anything else."""
        engine, seeds = self.ensemble.engine, [member.seed for member in self.ensemble.members]
        points = [[tuple(point) for point in mine] for mine in self.points]
        values = {"name": self.name, "engine": engine, "seeds": seeds, "start": self.start, "broken": self.broken}
        state: dict[str, Any] = plain(
            values | {"losses": self.losses, "points": points, "team": self.ensemble.state()}, "state"
        )
        return state

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state, by exactly the numbers of a training that was never interrupted."""
        if state["seeds"] != [member.seed for member in self.ensemble.members]:
            raise ValueError(f"it trained seeds {state['seeds']} together, and here they do not")
        self.ensemble.restore(state["team"])
        self.start, self.broken = state["start"], list(state["broken"])
        self.losses = [list(mine) for mine in state["losses"]]
        self.points = [[Point(*point) for point in mine] for mine in state["points"]]


class Journal:
    """The segments of a range test: the results of those that are finished, and the state of the one that runs.

    Args:
        store: where they are saved; None to keep them for as long as the process lives.
        requests: what signals ask for.
        every: seconds between two checkpoints, at the least.
        about: what a checkpoint belongs to, saved with it.
        saved: the values of a checkpoint to go on from.
        ranks: the processes that have to agree on when to save and to stop.
        remote: what other processes have measured.
        assignment: which seeds are trained here.
    """

    def __init__(
        self,
        store: Store | None = None,
        requests: Requests | None = None,
        every: float = EVERY,
        about: Mapping[str, Any] | None = None,
        saved: Mapping[str, Any] | None = None,
        ranks: Ranks = SINGLE_PROCESS,
        remote: RemoteResults | None = None,
        assignment: Assignment | None = None,
    ) -> None:
        self._ranks = ranks
        self._store, self._requests = store, requests or NoRequests()
        self._every, self._about = every, plain(about or {}, "about")
        saved, self._remote, self._assignment = saved or {}, remote or RemoteResults(), assignment or Assignment()
        self._finished: dict[str, Any] = {**self._remote.finished, **saved.get("finished", {})}
        self.running: Mapping[str, Any] | None = saved.get("running")
        self.seconds: dict[str, float] = dict(saved.get("seconds", {"train": 0.0, "evaluation": 0.0}))
        self._remote_seconds = {**saved.get("elsewhere", {}), **self._remote.seconds}
        self.warnings: tuple[str, ...] = tuple(dict.fromkeys((*saved.get("warnings", ()), *self._remote.warnings)))
        self._due = time.monotonic() + every
        self._iterations = 0  # of all ranks alike

    @property
    def environment(self) -> dict[str, str | int]:
        """Where the test runs, or ran; empty where nothing is kept of it."""
        return dict(self._about.get("environment", {}))

    @property
    def all_seconds(self) -> dict[str, float]:
        """Seconds of this process and of the others."""
        return added_up([self.seconds, *self._remote_seconds.values()])

    def assigned(self, seeds: Sequence[int]) -> Sequence[int]:
        """Those of the seeds to be trained that are trained here.

        Raises:
            ConfigError: the others were trained on another kind of device.
        """
        mine, remote = self._assignment.mine(seeds) if seeds else seeds, self._remote
        if mine and remote.device is not None:
            raise ConfigError(
                f"seed {mine[0]} must be trained on {remote.device}, as the others were: resume where there is one"
            )
        if mine:
            self.warnings = tuple(dict.fromkeys((*self.warnings, *remote.moved)))
        return mine

    def agree(self, scout: tuple[float, ...]) -> tuple[float, ...]:
        """The range that all processes sweep, where this one found ``scout``."""
        return self._assignment.agree(scout)

    def result(self, name: str) -> Any:
        """The result of a segment that is finished, None of any other."""
        return self._finished.get(name)

    def finish(self, *results: tuple[str, Any]) -> None:
        """Keep the results of what has just ended, in plain types; nothing of it is ever trained again."""
        self._finished |= {name: plain(result, name) for name, result in results}
        self.running = None
        self._save(None)

    def begin(self, name: str, ensemble: Ensemble) -> Segment:
        """A segment at its beginning, or where it was interrupted.

        Raises:
            ConfigError: the checkpoint does not fit the ensemble.
        """
        segment, running = Segment(name, ensemble), self.running
        if running is not None and running["name"] == name:
            try:
                segment.restore(running)
            except torch.OutOfMemoryError:
                raise
            except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
                raise ConfigError(
                    f"the checkpoint of this run does not fit what its config builds now, because code or libraries "
                    f"have changed; use --fresh to start over ({type(error).__name__}: {error})"
                ) from error
        self.running = None
        return segment

    def advance(self, segment: Segment, stop: int) -> None:
        """Train a segment up to an iteration, or until every member is broken; save it on the way where that is due.

        Raises:
            Interrupted: a signal asked to stop, and everything is saved.
        """
        self.keep(segment)
        while segment.iteration < stop and not all(segment.broken):
            with self.timed("train"):
                segment.add(segment.ensemble.train(segment.iteration, stop, self.pauses))
            self.keep(segment)

    def keep(self, segment: Segment) -> None:
        """Save a segment if it is due or asked for. Raises Interrupted where a signal asked to stop."""
        if not self.is_due():
            return
        self._requests.save = False
        self._save(segment)
        if (stop := self._ranks.max(self._requests.stop)) is not None:
            raise Interrupted(stop)

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Add wall-clock time; training and evaluation both end with a transfer, so CUDA's work is in it."""
        begin = time.perf_counter()
        yield
        self.seconds[what] += time.perf_counter() - begin

    def captured(self, seconds: float) -> None:
        """Add what the capture of a step took; who captures nothing has no such entry."""
        self.seconds["capture"] = self.seconds.get("capture", 0.0) + seconds

    def pauses(self) -> bool:
        """Whether to stop training here, asked after each iteration; several ranks agree on it now and then."""
        self._iterations += 1
        return self._iterations % (1 if self._ranks.processes == 1 else AGREE_EVERY) == 0 and self.is_due()

    def is_due(self) -> bool:
        """Whether something is to be saved now, or a signal asked to stop."""
        wanted = self._requests.stop is not None or self._requests.save
        return self._ranks.any(wanted or (self._store is not None and time.monotonic() >= self._due))

    def _save(self, segment: Segment | None) -> None:
        if self._store is None:
            return
        begin = time.monotonic()
        self._store.save(
            self._about
            | {
                "format": FORMAT,
                "finished": self._finished,
                "running": None if segment is None else self._state(segment),
                "seconds": self.seconds,
                "elsewhere": self._remote_seconds,
                "warnings": self.warnings,
            }
        )
        end = time.monotonic()
        self._due = end + max(self._every, (end - begin) / SHARE)

    def _state(self, segment: Segment) -> Mapping[str, Any] | None:
        """The state of a segment; None if it cannot be saved, and then starts over after an interruption."""
        try:
            return segment.state()
        except TypeError as error:
            self.warnings = tuple(dict.fromkeys((*self.warnings, f"An interrupted seed starts over: {error}.")))
            return None


def added_up(seconds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The sum of what several processes took, by what it was for.

    >>> added_up([{"train": 1.0}, {"train": 2.0, "capture": 3.0}])
    {'train': 3.0, 'capture': 3.0}
    """
    names = dict.fromkeys(name for each in seconds for name in each)
    return {name: sum(each.get(name, 0.0) for each in seconds) for name in names}


def plain(value: Any, place: str) -> Any:
    """The value in types that a checkpoint can hold, or its ranks. Raises TypeError, with its place, for any other."""
    if isinstance(value, Tensor):
        return value.detach()
    if value is None or type(value) in (bool, int, float, str, Shard):
        return value
    if isinstance(value, Mapping):
        return {plain(key, place): plain(each, f"{place}.{key}") for key, each in value.items()}
    if isinstance(value, list | tuple):
        items = [plain(each, f"{place}[{index}]") for index, each in enumerate(value)]
        return items if isinstance(value, list) else tuple(items)
    raise TypeError(f"{place} is of type {type(value).__name__}, which no checkpoint holds")
