"""What a range test would take: the record that crosses from the engine to the report."""

from __future__ import annotations

from dataclasses import dataclass

# Weights that both ends of a disk hold while a test runs, and room for its files and pictures.
GENERATIONS, FILES = 2, 2**20


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A range test before it is run; every number is the most that it may be, unless everything breaks at once.

    Args:
        device: where it would run.
        parameters, trained: numbers in the model, and those of them that train.
        samples, heldout_samples, batch_size, iterations_per_epoch: the data.
        scout: iterations of the scout, 0 where both ends of the sweep are given.
        sweep: iterations of the sweep of one seed.
        seeds: how many sweeps there are.
        evaluations: of one seed.
        verify: iterations of ``--verify``, 0 without it.
        iteration_seconds, evaluation_seconds: as they were measured.
        timed: iterations that were.
        peak_bytes, memory_bytes: the most memory that these took, and what there is.
        checkpoint_bytes, free_bytes: of one checkpoint, and on the disk.
    """

    device: str
    parameters: int
    trained: int
    samples: int
    heldout_samples: int
    batch_size: int
    iterations_per_epoch: int
    scout: int
    sweep: int
    seeds: int
    evaluations: int
    verify: int
    iteration_seconds: float
    evaluation_seconds: float
    timed: int
    peak_bytes: int
    memory_bytes: int
    checkpoint_bytes: int
    free_bytes: int

    @property
    def iterations(self) -> int:
        """Optimizer steps of all seeds, the scout and the short runs."""
        return self.scout + self.seeds * self.sweep + self.verify

    @property
    def epochs(self) -> float:
        """The same in passes over the training set."""
        return self.iterations / self.iterations_per_epoch

    @property
    def seconds(self) -> float:
        """Training and evaluations, without what it takes to load torch and the data."""
        return self.iterations * self.iteration_seconds + self.seeds * self.evaluations * self.evaluation_seconds

    @property
    def disk_bytes(self) -> int:
        """Files of the run, and two generations of a checkpoint while it is unfinished."""
        return GENERATIONS * self.checkpoint_bytes + FILES
