"""``rangetest --ray``: a task of Ray for each seed, whose results are then read as one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from clrtool.cli.run.executor import Executor, never_here
from clrtool.cli.run.seed_share import JOBS, SWEEP
from clrtool.cli.run.signals import Signals
from clrtool.cli.run.spec import Display, RunSpec
from clrtool.errors import ConfigError, MachineError
from clrtool.report.text.progress import Status, say
from clrtool.words import count

LOCAL = "local"
# How often a task is run again whose node was lost.
RETRIES = 3
# Seconds between two looks at the tasks.
LOOK = 0.2


class RayTasks(Executor):
    """The tasks of one range test; their results lie where those of workers do, so that a killed driver goes on.

    Args:
        address: of a cluster; ``local`` for one on this machine, for as long as the test runs.
    """

    is_elsewhere = True

    def __init__(self, spec: RunSpec, address: str) -> None:
        super().__init__(spec)
        self._address = address

    def assigned(self, seeds: Sequence[int]) -> Sequence[int]:
        return never_here(seeds)

    def train(self, signals: Signals) -> None:
        """Let the tasks train all that lacks.

        Raises:
            ConfigError, MachineError: a task failed, or there is no cluster.
            Interrupted: a signal asked to stop; the seeds that are finished are kept.
        """
        display = self._spec.display
        shown = Status(quiet=display.quiet, plain=display.plain)
        with signals.deferred(), _cluster(self._address, signals, display), shown as status:
            sweep = self._task()
            lacking = self._finish(
                sweep, [[]], signals, status
            )  # the scout, where there is one, and what is to be swept
            self._finish(sweep, [[seed] for seed in lacking], signals, status)

    def _task(self) -> Callable[[Sequence[int]], Any]:
        """A task of some seeds: with the cores that it computes with, and a GPU where the cluster has any."""
        import ray

        from clrtool.engine.rangetest.ray_worker import sweep_remotely
        from clrtool.engine.runtime.device import usual_threads

        spec, options = self._spec, self._spec.options
        threads = spec.threads or (usual_threads() if options.deterministic else 1)
        cores = max((node["Resources"].get("CPU", 1) for node in ray.nodes() if node["Alive"]), default=1)
        gpus = int(options.device != "cpu" and ray.cluster_resources().get("GPU", 0) >= 1)
        cublas = {name: os.environ[name] for name in ("CUBLAS_WORKSPACE_CONFIG",) if gpus and name in os.environ}
        more = {"runtime_env": {"env_vars": cublas}} if cublas else {}
        task = ray.remote(num_cpus=min(threads, cores), num_gpus=gpus, max_retries=RETRIES, **more)(sweep_remotely)
        source = {**vars(options), "folder": str(options.folder.absolute())}
        words = spec.config.model_dump(mode="json"), source, threads, str(Path.cwd())
        return lambda seeds: task.remote(*words, self._known(), seeds)

    def _finish(
        self, sweep: Callable[[Sequence[int]], Any], parts: Sequence[Sequence[int]], signals: Signals, status: Status
    ) -> list[int]:
        """Run a task for each list of seeds and keep what comes back; the seeds that the last one lacks."""
        import ray

        lacking, waiting = list[int](), [sweep(seeds) for seeds in parts]
        while waiting and signals.stop is None:
            done, waiting = ray.wait(waiting, timeout=LOOK)
            for task in done:
                lacking = self._keep(_result(task))
            if any(parts):
                status.show(f"{len(parts) - len(waiting)} of {count(len(parts), 'seed')} swept")
        return lacking if signals.stop is None else []

    def _known(self) -> bytes:
        """The results of earlier tasks, those of a driver that was interrupted among them."""
        from clrtool.engine.resume.checkpoint import CheckpointFolder
        from clrtool.engine.resume.shape import load_checkpoint
        from clrtool.engine.resume.sharding import results
        from clrtool.engine.runtime.serialize import to_bytes

        known: dict[str, Any] = {}
        for folder in [self._spec.folder, *self.results()]:
            values = load_checkpoint(CheckpointFolder(folder / SWEEP)).values
            known = known if values is None else results(values) | known
        return to_bytes(known)

    def _keep(self, result: dict[str, Any]) -> list[int]:
        """Keep what a task has measured; the seeds that it lacks."""
        from clrtool.engine.resume.checkpoint import CheckpointFolder
        from clrtool.engine.runtime.serialize import from_bytes

        if "error" in result:
            raise (ConfigError if result["kind"] == "config" else MachineError)(result["error"])
        name = f"task-{len(self.results()) + 1:04d}"
        CheckpointFolder(self._spec.folder / JOBS / name / SWEEP).save(from_bytes(result["checkpoint"]))
        return list(result["lacking"])


@contextlib.contextmanager
def _cluster(address: str, signals: Signals, display: Display) -> Iterator[None]:
    """Be the driver of a cluster of Ray."""
    try:
        import ray
    except ImportError as error:
        raise ConfigError("--ray needs the package ray: pip install 'clrtool[ray]'") from error
    quiet: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    say(f"Ray: {'a cluster on this machine' if address == LOCAL else address}", quiet=display.quiet)
    try:
        ray.init(address=address, **(quiet if address == LOCAL else {}))
    except Exception as error:  # a node that does not come up in time raises nothing more specific
        raise MachineError(f"--ray {address}: cannot be reached: {_line(error)}") from error
    signals.take_back()
    try:
        yield
    finally:
        ray.shutdown()


def _result(task: Any) -> dict[str, Any]:
    import ray

    try:
        result: dict[str, Any] = ray.get(task)
    except ray.exceptions.RayError as error:
        raise MachineError(
            f"a Ray task failed: {_line(error)}; each node needs this clrtool, torch and the data at the same paths"
        ) from error
    return result


def _line(error: BaseException) -> str:
    """The last line of an error, which says what it is."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
