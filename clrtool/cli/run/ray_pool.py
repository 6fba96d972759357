"""``rangetest --ray``: a task of Ray for each seed, whose results are then read as one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from clrtool.cli.console import say
from clrtool.cli.run.pipeline import begin_elsewhere
from clrtool.cli.run.sharding import JOBS, left_by_jobs
from clrtool.cli.run.spec import SWEEP, Job
from clrtool.cli.status import Status
from clrtool.errors import ConfigError, MachineError
from clrtool.words import count

LOCAL = "local"
# How often a task is run again whose node was lost.
RETRIES = 3
# Seconds between two looks at the tasks.
LOOK = 0.2


class RayTasks:
    """The tasks of one range test; their results lie where those of jobs do, so that a driver that was killed goes on.

    Args:
        address: of a cluster; ``local`` for one on this machine, for as long as the test runs.
    """

    def __init__(self, job: Job, address: str) -> None:
        self._job, self._address = job, address
        self.jobs = 1  # for all that is known before

    def run(self) -> None:
        """Let the tasks train all that is lacking.

        Raises:
            ConfigError, MachineError: a task failed, or there is no cluster.
            Interrupted: a signal asked to stop; the seeds that are finished are kept.
        """
        job = self._job
        begin_elsewhere(job)
        with job.signals.deferred(), _cluster(self._address, job), Status(quiet=job.quiet, plain=job.plain) as status:
            train = self._task()
            lacking = self._finish(train, [[]], status)  # the scout, where there is one, and what is to be trained
            self._finish(train, [[seed] for seed in lacking], status)

    def _task(self) -> Any:
        """The function as a task: with the cores that it computes with, and a GPU where the cluster has any."""
        import ray

        from clrtool.engine.rangetest.ray_worker import sweep_remotely
        from clrtool.engine.runtime.device import usual_threads

        job = self._job
        job.threads = job.threads or (usual_threads() if job.source["deterministic"] else 1)
        cores = max((node["Resources"].get("CPU", 1) for node in ray.nodes() if node["Alive"]), default=1)
        gpus = int(job.source["device"] != "cpu" and ray.cluster_resources().get("GPU", 0) >= 1)
        cublas = {name: os.environ[name] for name in ("CUBLAS_WORKSPACE_CONFIG",) if gpus and name in os.environ}
        more = {"runtime_env": {"env_vars": cublas}} if cublas else {}
        task = ray.remote(num_cpus=min(job.threads, cores), num_gpus=gpus, max_retries=RETRIES, **more)
        return task(sweep_remotely)

    def _finish(self, train: Any, parts: Sequence[Sequence[int]], status: Status) -> list[int]:
        """Run a task for each part of the seeds and keep what comes back; the seeds that the last one lacks."""
        import ray

        job, lacking = self._job, list[int]()
        source = {**job.source, "folder": str(job.source["folder"].absolute())}
        words = job.settings.model_dump(mode="json"), source, job.threads, str(Path.cwd()), self._known()
        waiting = [train.remote(*words, each) for each in parts]
        while waiting and job.signals.stop is None:
            done, waiting = ray.wait(waiting, timeout=LOOK)
            for task in done:
                lacking = self._keep(_result(task))
            if any(parts):
                status.show(f"{len(parts) - len(waiting)} of {count(len(parts), 'seed')} swept")
        return lacking if job.signals.stop is None else []

    def _known(self) -> bytes:
        """The results of earlier tasks, those of a driver that was interrupted among them."""
        from clrtool.engine.resume.checkpoint import CheckpointFolder, to_bytes
        from clrtool.engine.resume.sharding import results

        known: dict[str, Any] = {}
        for folder in [self._job.folder, *left_by_jobs(self._job.folder)]:
            values = CheckpointFolder(folder / SWEEP).load().values
            known = known if values is None else results(values) | known
        return to_bytes(known)

    def _keep(self, result: dict[str, Any]) -> list[int]:
        """Keep what a task has measured; the seeds that it lacks."""
        from clrtool.engine.resume.checkpoint import CheckpointFolder, from_bytes

        if "error" in result:
            raise (ConfigError if result["kind"] == "config" else MachineError)(result["error"])
        name = f"task-{len(left_by_jobs(self._job.folder)) + 1:04d}"
        CheckpointFolder(self._job.folder / JOBS / name / SWEEP).save(from_bytes(result["checkpoint"]))
        return list(result["lacking"])


@contextlib.contextmanager
def _cluster(address: str, job: Job) -> Iterator[None]:
    """Be the driver of a cluster of Ray."""
    try:
        import ray
    except ImportError as error:
        raise ConfigError("--ray needs the package ray: pip install 'clrtool[ray]'") from error
    quiet: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    say(f"Ray: {'a cluster on this machine' if address == LOCAL else address}", quiet=job.quiet)
    try:
        ray.init(address=address, **(quiet if address == LOCAL else {}))
    except (OSError, RuntimeError, ValueError) as error:
        raise MachineError(f"--ray {address}: cannot be reached: {_line(error)}") from error
    job.signals.take_back()
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
            f"a task of Ray failed: {_line(error)}; each node needs this clrtool, torch and the data at the same paths"
        ) from error
    return result


def _line(error: BaseException) -> str:
    """The last line of an error, which says what it is."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
