"""What one way found for one job with one seed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Result:
    """A rate, or for a way that trains the job itself the held-out score that it reached.

    Args:
        iterations: optimizer steps that the search took, before any training.
        max_lr: the rate that is suggested; None where there is none.
        score: of the job trained from end to end; None for a way that suggests a rate.
        failed: what the package said where it gave up.
    """

    iterations: int
    max_lr: float | None = None
    score: float | None = None
    failed: str = ""
