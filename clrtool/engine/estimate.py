"""What a range test would take, from a few steps of a model that is thrown away."""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from clrtool.config import RangeTestConfig
from clrtool.core.estimate import Estimate
from clrtool.engine.learner import Learner
from clrtool.engine.machine import memory_use
from clrtool.engine.problem import Problem

# Steps that are timed: so many at once, at the most, and for how long. The first two begin slowly.
AT_ONCE, MOST, SECONDS, WARM_UP = 5, 200, 1.0, 2
# So small that no weight leaves its place, whatever the model.
LR = 1e-9


def estimate(problem: Problem, config: RangeTestConfig, folder: Path, *, verify: bool) -> Estimate:
    """Take and time a few optimizer steps and one evaluation.

    Args:
        folder: of the run, whose disk has to hold its files; it need not be there.
        verify: whether the short runs of ``--verify`` follow.

    Raises:
        OutOfMemoryError: a batch does not fit.
    """
    size, sweep = problem.sweep_size(config.sweep), config.sweep
    open_ended = sweep.end_lr == "auto"
    evaluations = problem.evaluations if sweep.evaluations == "auto" else sweep.evaluations
    length = size.most if open_ended else size.iterations
    with problem.on_device():
        learner = Learner(problem, config.seed)
        timed, seconds = _step_seconds(learner)
        begin = time.perf_counter()
        learner.evaluate()
        evaluation = time.perf_counter() - begin
        checkpoint = sum(tensor.nbytes for tensor in _tensors(learner.state()))
    peak, memory = memory_use(problem.device)
    parameters = list(learner.model.parameters())
    return Estimate(
        device=str(problem.device),
        parameters=sum(each.numel() for each in parameters),
        trained=sum(each.numel() for each in parameters if each.requires_grad),
        samples=problem.iterations_per_epoch * problem.batch_size,
        heldout_samples=len(problem.heldout),
        batch_size=problem.batch_size,
        iterations_per_epoch=problem.iterations_per_epoch,
        scout=size.scout if "auto" in (sweep.start_lr, sweep.end_lr) else 0,
        sweep=length,
        seeds=size.seeds,
        evaluations=1 + min(length, evaluations * (2 if open_ended else 1)),
        verify=round(problem.plan_epochs * problem.iterations_per_epoch) if verify else 0,
        iteration_seconds=seconds,
        evaluation_seconds=evaluation,
        timed=timed,
        peak_bytes=peak,
        memory_bytes=memory,
        checkpoint_bytes=checkpoint,
        free_bytes=shutil.disk_usage(next(each for each in folder.absolute().parents if each.is_dir())).free,
    )


def _step_seconds(learner: Learner) -> tuple[int, float]:
    """Steps that were timed, and the time of one: the median over a few at once, after which a GPU was waited for."""
    learner.train(0, [LR] * WARM_UP)
    times: list[float] = []
    while not times or (len(times) < MOST // AT_ONCE and sum(times) < SECONDS):
        begin = time.perf_counter()
        learner.train(WARM_UP + len(times) * AT_ONCE, [LR] * AT_ONCE)
        times.append(time.perf_counter() - begin)
    return len(times) * AT_ONCE, statistics.median(times) / AT_ONCE


def _tensors(values: Any) -> Iterator[Tensor]:
    """Every tensor in what a checkpoint holds."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, Mapping):
        for each in values.values():
            yield from _tensors(each)
    elif isinstance(values, list | tuple):
        for each in values:
            yield from _tensors(each)
