"""What a range test would take: the record that crosses from the engine to the report."""

from __future__ import annotations

import math
from dataclasses import dataclass

# Weights that a disk holds at once while a test runs, and room for its files and pictures.
GENERATIONS, FILES = 2, 2**20


@dataclass(frozen=True, kw_only=True)
class RankCost:
    """An iteration of one of several ranks, as it was measured.

    Args:
        iteration_seconds, peak_bytes: as those of :class:`Estimate`.
        reduced_bytes: of the tensors that all ranks sum in it, gradients above all.
        gathered_bytes: of those that they gather or are sent, weights of which each holds a shard above all.
    """

    iteration_seconds: float
    peak_bytes: int
    reduced_bytes: int
    gathered_bytes: int


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A range test before it is run; every number is the most that it may be.

    Args:
        device: where it would run.
        parameters, trained: numbers in the model, and those of them that train.
        samples, heldout_samples, batch_size, iterations_per_epoch: the data.
        dropped: samples of an epoch that do not fill a batch, and are left out.
        start_lr, end_lr: ends of the sweep; None for one that the scout finds.
        scout: iterations of the scout, 0 where both ends of the sweep are given.
        sweep: iterations of the sweep of one seed.
        seeds: how many sweeps there are.
        jobs: processes that share them.
        evaluations: of one seed.
        spare: iterations that a third seed, or sweeps begun again from a lower rate, may take besides.
        race, race_evaluations: iterations and evaluations of the race, 0 without one.
        iteration_seconds, evaluation_seconds: as they were measured.
        timed: iterations that were.
        peak_bytes, memory_bytes: the most memory that these took, of one rank if there are several, and what there is.
        ranks: each of those that train together; empty where one process trains.
        at_once: seeds of a job that may be in the memory of its device together.
        held_bytes: of the runs of a race that may be gone on with, at the most.
        checkpoint_bytes, free_bytes: of one checkpoint, and on the disk.
        warnings: what may make the bounds mean something else than they seem to.
    """

    device: str
    parameters: int
    trained: int
    samples: int
    dropped: int
    heldout_samples: int
    batch_size: int
    iterations_per_epoch: int
    start_lr: float | None
    end_lr: float | None
    scout: int
    sweep: int
    seeds: int
    jobs: int
    evaluations: int
    spare: int
    race: int
    race_evaluations: int
    iteration_seconds: float
    evaluation_seconds: float
    timed: int
    peak_bytes: int
    memory_bytes: int
    ranks: tuple[RankCost, ...]
    at_once: int
    held_bytes: int
    checkpoint_bytes: int
    free_bytes: int
    warnings: tuple[str, ...]

    @property
    def iterations(self) -> int:
        """Optimizer steps of the scout, all sweeps and the race."""
        return self.scout + self.seeds * self.sweep + self.spare + self.race

    @property
    def epochs(self) -> float:
        """The same in passes over the training set."""
        return self.iterations / self.iterations_per_epoch

    @property
    def seconds(self) -> float:
        """Training and evaluations of the longest job, without what it takes to load torch and the data."""
        in_turn = math.ceil(self.seeds / self.jobs)
        iterations = self.scout + in_turn * self.sweep + self.spare + self.race
        evaluations = (in_turn + self.spare / self.sweep) * self.evaluations + self.race_evaluations
        return iterations * self.iteration_seconds + evaluations * self.evaluation_seconds

    @property
    def disk_bytes(self) -> int:
        """Files of the run, and two generations of a checkpoint of each job while it is unfinished."""
        return self.jobs * GENERATIONS * self.checkpoint_bytes + FILES
