"""What the command line does with what a range test tells: files, and a line that moves."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from clrtool.cli.run.folder import Folder, RunFolder
from clrtool.cli.run.seed_share import SeedShare
from clrtool.core.racing.contest import Reading
from clrtool.core.racing.probes import Probe
from clrtool.core.reading.curve import Point
from clrtool.core.results.record import RunRecord
from clrtool.engine.rangetest.observer import Observer
from clrtool.report.records.run import curve_log
from clrtool.report.text.progress import Progress


class FolderObserver(Observer):
    """Writes every result into a run folder as soon as it is there, and shows how far the test is."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder

    @contextmanager
    def sweeping(self, seeds: int, epochs: float, metric: str) -> Iterator[None]:
        spec, display = self._folder.spec, self._folder.spec.display
        shown = Progress(seeds, epochs, metric, quiet=display.quiet, plain=display.plain)
        with curve_log(self._folder.path, spec.config) as self._append, shown as self._progress:
            yield

    def on_point(self, seed: int, point: Point) -> None:
        self._append(seed, point)
        self._progress.update(seed, point)

    @contextmanager
    def racing(self, iterations: int) -> Iterator[None]:
        self._folder.say(f"racing: short runs, at most {iterations:,} iterations in total")
        yield

    def on_probe(self, probe: Probe) -> None:
        self._folder.say(f"  {_read(probe)}")

    def on_record(self, record: RunRecord) -> None:
        self._folder.write(record)


class ShareObserver(FolderObserver):
    """Shows how far a share of the seeds is; the result is for those to write who read all shares."""

    def __init__(self, folder: RunFolder, share: SeedShare) -> None:
        super().__init__(folder)
        self._share = share

    @contextmanager
    def sweeping(self, seeds: int, epochs: float, metric: str) -> Iterator[None]:
        with super().sweeping(self._share.count(seeds), epochs, metric):
            yield


class VaryObserver(Observer):
    """A line for each reading, with the value by its name."""

    def __init__(self, folder: Folder, names: Sequence[str]) -> None:
        self._folder, self._names = folder, names

    @contextmanager
    def racing(self, iterations: int) -> Iterator[None]:
        self._folder.say(f"racing over rates first: at most {iterations:,} iterations")
        yield

    def on_probe(self, probe: Probe) -> None:
        self._folder.say(f"  {_read(probe)}")

    def on_reading(self, reading: Reading) -> None:
        seed = ", another seed" if reading.probe.seed else ""
        self._folder.say(f"  {self._names[reading.value]}{seed}: {_read(reading.probe)}")


def _read(probe: Probe) -> str:
    reached = f"held-out loss {probe.loss:.4g}" if math.isfinite(probe.loss) else "not finite"
    return f"lr {probe.lr:.2e}  {probe.iterations:,} iterations  {reached}"
