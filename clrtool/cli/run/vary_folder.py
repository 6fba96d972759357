"""The folder of a race over values, and what is told while it runs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from clrtool.cli.run.folder import Folder
from clrtool.cli.run.seed_share import SWEEP
from clrtool.engine.rangetest.observer import Observer

if TYPE_CHECKING:
    from clrtool.core.racing.contest import Reading
    from clrtool.core.racing.probes import Probe
    from clrtool.core.results.varied import VaryRecord


class VaryFolder(Folder):
    """The folder of a race over values."""

    def finished(self, request_sha256: str) -> VaryRecord | None:
        """What is finished of a request, with nothing left to do. Raises ConfigError if it is of another one."""
        from clrtool.report.records.vary_file import PICTURE, open_varied

        record = open_varied(self.path, request_sha256, fresh=self.fresh)
        if record is None:
            return None
        self.check_again(record)
        if self.has_leftovers() or not (self.path / PICTURE).exists():
            return None
        self.say(f"{self.path}: already finished with these options, shown again; --fresh runs it again")
        return record

    def finish(self, record: VaryRecord) -> None:
        """What is left to do when everything is measured: the picture; and the checkpoints go."""
        from clrtool.report.plots import draw_vary
        from clrtool.report.records.vary_file import PICTURE

        if not (self.path / PICTURE).exists():
            draw_vary(self.path, record)
        self.remove(SWEEP)


class VaryObserver(Observer):
    """A line for each reading, with the value by its name."""

    def __init__(self, folder: VaryFolder, names: Sequence[str]) -> None:
        self._folder, self._names = folder, names

    @contextmanager
    def racing(self, iterations: int) -> Iterator[None]:
        self._folder.say(f"racing over rates first: at most {iterations:,} iterations")
        yield

    def on_probe(self, probe: Probe) -> None:
        self._folder.say(f"  {_read(probe)}")

    def on_reading(self, reading: Reading) -> None:
        self._folder.say(f"  {self._names[reading.value]}: {_read(reading.probe)}")


def _read(probe: Probe) -> str:
    reached = f"held-out loss {probe.loss:.4g}" if math.isfinite(probe.loss) else "not finite"
    return f"lr {probe.lr:.2e}  {probe.iterations:,} iterations  {reached}"
