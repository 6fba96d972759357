"""``rangetest --ray``: a task of Ray for each seed, whose results are then read as one."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from clrtool.cli.run.executor import Executor, never_here
from clrtool.cli.run.ray_board import Resources, Tasks, amounts, name_of, sweep_seeds
from clrtool.cli.run.seed_share import JOBS, SWEEP
from clrtool.cli.run.signals import Signals
from clrtool.cli.run.spec import Display, RunSpec
from clrtool.errors import ConfigError, MachineError, reason
from clrtool.report.text.progress import Status, say
from clrtool.words import count, shortened

LOCAL = "local"
# How often a task is run again whose node was lost.
RETRIES = 3
# Seconds between two looks at the tasks.
LOOK = 0.2
# Seconds in which a cluster answers.
REACHED = 10.0
# Added to an error of a node: the driver has tried the same without one, so the node may lack something.
NEEDED = (
    "a node of Ray met this: each needs this clrtool and torch, and at the same paths the data and the code that the "
    "config names; ray job submit --working-dir brings code"
)
# Characters that are shown of what Ray says.
SAID = 300


class RayTasks(Executor):
    """The tasks of one range test; their results lie where those of workers do, so that a killed driver goes on.

    Args:
        address: of a cluster; ``local`` for one on this machine, for as long as the test runs.
        gpus: of each task; None for one where there are any.
    """

    is_elsewhere = True

    def __init__(self, spec: RunSpec, address: str, gpus: float | None = None) -> None:
        super().__init__(spec)
        self._address, self._gpus = address, gpus
        if gpus and spec.options.device == "cpu":
            raise ConfigError(f"--ray-gpus {gpus:g} is for GPUs: leave out --device cpu, or --ray-gpus")
        if ":" in spec.options.device:
            raise ConfigError(f"--device {spec.options.device}: Ray chooses the GPU of each task: give cuda or auto")

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
            threads, need = self._need()
            status.say(f"{_size()}; a task takes {amounts(need)}")
            tasks = Tasks(need, status)
            sweep = self._task(threads, need, tasks.board)
            # first the scout, where there is one, and what is to be swept
            lacking = self._finish(sweep, [[]], signals, tasks)
            self._finish(sweep, [[seed] for seed in lacking], signals, tasks)

    def _need(self) -> tuple[int, Resources]:
        """Threads of a task, and what it takes: a core for each, and a GPU or its share where the cluster has any."""
        import ray

        from clrtool.engine.runtime.device import usual_threads

        options = self._spec.options
        threads = self._spec.threads or (usual_threads() if options.deterministic else 1)
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        has_gpus = options.device != "cpu" and any(node.get("GPU") for node in nodes)
        gpus = (self._gpus or float(has_gpus)) if options.device != "cpu" else 0.0
        cores = max((node.get("CPU", 0) for node in nodes if node.get("GPU", 0) >= gpus), default=threads)
        return threads, {"CPU": max(1, min(threads, cores)), "GPU": gpus}

    def _task(self, threads: int, need: Resources, board: Any) -> Callable[[Sequence[int]], Any]:
        """What starts a task of some seeds."""
        import ray

        spec, options = self._spec, self._spec.options
        cublas = {name: os.environ[name] for name in ("CUBLAS_WORKSPACE_CONFIG",) if need["GPU"] and name in os.environ}
        more = {"runtime_env": {"env_vars": cublas}} if cublas else {}  # added to what the job has, if it has any
        task = ray.remote(num_cpus=need["CPU"], num_gpus=need["GPU"], max_retries=RETRIES, **more)(sweep_seeds)
        source = {**vars(options), "folder": str(options.folder.absolute())}
        words = spec.config.model_dump(mode="json"), source, threads, str(Path.cwd())

        def start(seeds: Sequence[int]) -> Any:
            return task.options(name=f"clrtool {name_of(seeds)}").remote(board, (*words, self._known()), seeds)

        return start

    def _finish(
        self, sweep: Callable[[Sequence[int]], Any], parts: Sequence[Sequence[int]], signals: Signals, tasks: Tasks
    ) -> list[int]:
        """Run a task for each list of seeds and keep what comes back; the seeds that the last one lacks."""
        import ray

        lacking, waiting = list[int](), {sweep(seeds): name_of(seeds) for seeds in parts}
        while waiting and signals.stop is None:
            done, _ = ray.wait([*waiting], num_returns=1, timeout=LOOK)
            for task in done:
                lacking = self._keep(_result(task, waiting.pop(task)))
            tasks.show(len(parts) - len(waiting), [*waiting.values()])
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
            raise (ConfigError if result["kind"] == "config" else MachineError)(f"{result['error']}\n{NEEDED}")
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
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}  # what happens is told in our words
    own = {"include_dashboard": False} if address == LOCAL else {}
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    say(f"Ray: {'a cluster on this machine' if address == LOCAL else address}", quiet=display.quiet)
    try:
        _knock(address)
        ray.init(address=address, **quiet, **own)
    except Exception as error:  # a node that does not come up in time raises nothing more specific
        raise MachineError(f"--ray {address}: cannot be reached: {_said(error)}") from error
    signals.take_back()
    try:
        yield
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Raise OSError where nobody listens at HOST:PORT: Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isascii() and port.isdecimal() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACHED).close()


def _size() -> str:
    import ray

    nodes = [node for node in ray.nodes() if node["Alive"]]
    return f"Ray: {count(len(nodes), 'node')} with {amounts(ray.cluster_resources())}"


def _result(task: Any, name: str) -> dict[str, Any]:
    """What a task gives. Raises MachineError for one that ended in an error that is not ours."""
    import ray

    try:
        result: dict[str, Any] = ray.get(task)
    except ray.exceptions.RayError as error:
        told = [f"{name}: its Ray task failed: {_said(error)}"]
        if isinstance(error, ray.exceptions.RayTaskError):  # which is the whole traceback beside what it came of
            kind = type(error.cause).__name__
            told = [f"{name}: its Ray task failed: {kind}: {_said(error.cause)}", NEEDED]
        raise MachineError(
            "\n".join([*told, "run the same command again to continue from what was measured"])
        ) from error
    return result


def _said(error: BaseException) -> str:
    """What an error says, on one line."""
    return shortened(" ".join(reason(error).split()), SAID) or type(error).__name__
