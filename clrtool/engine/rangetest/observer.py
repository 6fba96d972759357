"""How a range test is followed while it runs."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # whoever follows a test need not load torch to say so
    from clrtool.core.racing.contest import Reading
    from clrtool.core.racing.probes import Probe
    from clrtool.core.reading.curve import Point
    from clrtool.core.results.record import RunRecord


class Observer:
    """What a range test tells while it runs; this one keeps it to itself."""

    def sweeping(self, seeds: int, epochs: float, metric: str) -> AbstractContextManager[None]:  # noqa: ARG002
        """Entered while ``seeds`` are swept, each for ``epochs`` unless it breaks; a third seed may follow."""
        return nullcontext()

    def on_point(self, seed: int, point: Point) -> None:
        """An evaluation, as soon as it is measured, or was known to be."""

    def sharing(self, processes: int, seeds: int) -> AbstractContextManager[None]:  # noqa: ARG002
        """Entered while other processes sweep these seeds, whose points are told afterwards."""
        return nullcontext()

    def racing(self, iterations: int) -> AbstractContextManager[None]:  # noqa: ARG002
        """Entered while short runs race, for at most ``iterations`` in total."""
        return nullcontext()

    def on_probe(self, probe: Probe) -> None:
        """A reading of a short run, as soon as it is there, or was known to be."""

    def on_reading(self, reading: Reading) -> None:
        """A reading of a run of a race over values, as soon as it is there, or was known to be."""

    def on_record(self, record: RunRecord) -> None:
        """The result."""
