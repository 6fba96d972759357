"""What the command line does with what a range test tells: files, and a line that moves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from clrtool.cli.run.folder import RunFolder
from clrtool.cli.run.seed_share import SeedShare
from clrtool.core.reading.curve import Point
from clrtool.core.results.record import RunRecord, Trial
from clrtool.core.results.verification import FIRST, SECOND
from clrtool.engine.rangetest.observer import Observer
from clrtool.engine.training.workload import Workload
from clrtool.report.records.run import curve_log
from clrtool.report.text.progress import Progress


class FolderObserver(Observer):
    """Writes every result into a run folder as soon as it is there, and shows how far the test is."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder, self._metric = folder, ""

    @contextmanager
    def sweeping(self, seeds: int, epochs: float, metric: str) -> Iterator[None]:
        spec, display = self._folder.spec, self._folder.spec.display
        shown = Progress(seeds, epochs, metric, quiet=display.quiet, plain=display.plain)
        with curve_log(self._folder.path, spec.config) as self._append, shown as self._progress:
            yield

    def on_point(self, seed: int, point: Point) -> None:
        self._append(seed, point)
        self._progress.update(seed, point)

    def verifying(self, workload: Workload, record: RunRecord) -> None:
        """Say what the short runs will cost, before they begin."""
        assert record.plan is not None
        from clrtool.engine.rangetest.verify import trial_iterations

        self._metric, sweep = workload.metric.label, record.sweep
        first, second = trial_iterations(workload, record.plan)
        lengths = (f"{length / workload.iterations_per_epoch:.2g}" for length in (first, second))
        text = f"verifying: {FIRST} runs of {next(lengths)} epochs and {SECOND} of {next(lengths)}"
        if sweep.train_seconds is not None:
            a_step = sweep.train_seconds / (sweep.iterations - sweep.scout_iterations)
            text += f", about {a_step * (FIRST * first + SECOND * second):.0f} s"
        self._folder.say(text)

    def on_trial(self, trial: Trial) -> None:
        reached = "not finite" if trial.score is None else f"{self._metric} {trial.score:.3f}"
        self._folder.say(f"  {trial.kind} {trial.max_lr:.2e}  {trial.epochs:.2g} epochs  {reached}")

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

    def on_record(self, record: RunRecord) -> None:
        """Leave no result beside the checkpoint."""
