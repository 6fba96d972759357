"""What a range test would take, from a few steps of a model that is thrown away."""

from __future__ import annotations

import contextlib
import io
import math
import shutil
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from clrtool.config.schema import SweepConfig
from clrtool.core.planning.sweep_size import READINGS, SEEDS, SweepSize
from clrtool.core.racing.rules import HELD
from clrtool.core.results.estimate import Estimate, RankCost
from clrtool.core.results.shard import Shard, owned
from clrtool.engine.rangetest.pipeline import Asked
from clrtool.engine.rangetest.sweep import longest_sweep
from clrtool.engine.resume.journal import plain
from clrtool.engine.runtime.hardware import memory_use
from clrtool.engine.runtime.sharded import forget_gathered, local, shard_bytes
from clrtool.engine.runtime.traffic import Traffic
from clrtool.engine.training.ensemble import Captures, EagerEnsemble, Ensemble, captured_or_engine
from clrtool.engine.training.workload import Workload

# Steps that are timed: so many at once, at the most, and for how long. The first two begin slowly.
AT_ONCE, MOST, SECONDS, WARM_UP = 5, 200, 1.0, 2
# So small that no weight leaves its place, whatever the model.
LR = 1e-9
# Rates between which a captured step is checked.
CHECKED = (1e-6, 1.0)
# Bytes of a number in a checkpoint, and numbers of an evaluation with what holds them together; of an averaged weight.
NUMBER, POINT, WEIGHT = 9, 7, 4


def estimate(
    workload: Workload,
    config: Asked,
    folder: Path = Path(),
    shards: Sequence[Shard] = (),
    jobs: int = 1,
) -> Estimate:
    """Take and time a few optimizer steps and one evaluation.

    Args:
        folder: of the run, whose disk has to hold its files, where it has one; it need not be there.
        shards: whose seeds would be trained; of none, all.
        jobs: processes that would share them.

    Raises:
        OutOfMemoryError: a batch does not fit.
    """
    size, (length, evaluations) = workload.sweep_size(config.sweep), longest_sweep(workload, config.sweep)
    seeds, ends = owned(shards, size.seeds), (config.sweep.start_lr, config.sweep.end_lr)
    scout = size.scout if "auto" in ends else 0
    # a shard sweeps, and who merges races
    race = 0 if size.budget is None or shards else max(0, size.budget - size.scout - size.seeds * length)
    # where a step can be captured, that of all seeds is
    at_once = math.ceil(seeds / jobs) if workload.device.type == "cuda" else 1
    found, saved, own = _tried(workload, config.seed)
    held = HELD * (saved + WEIGHT * own) if race else 0
    swept = at_once * saved + NUMBER * math.ceil(seeds / jobs) * (length + POINT * evaluations)
    start_lr, end_lr = (None if lr == "auto" else lr for lr in ends)
    return Estimate(
        device=str(workload.device),
        **_data(workload),
        start_lr=start_lr,
        end_lr=end_lr,
        scout=scout,
        sweep=length,
        seeds=seeds,
        jobs=jobs,
        evaluations=evaluations,
        spare=0 if shards else _spare(config.sweep, size, size.run - scout - size.seeds * length),
        race=race,
        race_evaluations=READINGS if race else 0,
        at_once=at_once,
        held_bytes=held,
        checkpoint_bytes=max(swept, held),
        free_bytes=_free_bytes(folder),
        warnings=workload.warnings,
        **found,
    )


def _data(workload: Workload) -> dict[str, Any]:
    """The data, as fields of :class:`Estimate`."""
    known, used = workload.samples, workload.iterations_per_epoch * workload.batch_size
    samples = used if known is None else min(known, used)
    return {
        "samples": samples,
        "dropped": 0 if known is None else known - samples,
        "heldout_samples": workload.heldout_samples,
        "batch_size": workload.batch_size,
        "iterations_per_epoch": workload.iterations_per_epoch,
    }


def _spare(config: SweepConfig, size: SweepSize, left: int) -> int:
    """Iterations that sweeps may take after the first of each seed, of those that are left; a race counts its own."""
    may_begin_again, may_add = config.start_lr == "auto", config.seeds == "auto" and size.seeds < SEEDS
    return left if size.budget is None and (may_begin_again or may_add) else 0


def _tried(workload: Workload, seed: int) -> tuple[dict[str, Any], int, int]:
    """What is found out of a model by a few steps, as fields of :class:`Estimate`.

    Returns:
        Also the bytes of its state in a file, and the parameters that this process holds.
    """
    with workload.on_device():
        way = _way(workload, seed)
        timed, seconds, own = _step_seconds(way)
        traffic = _traffic(way, timed)
        evaluation, saved = _evaluation_seconds(way), _saved_bytes(way)
        peak, memory = memory_use(workload.device)
        ranks = _ranks(way, own, peak, traffic)
    forget_gathered(way.members[0].model)
    parameters = list(way.members[0].model.parameters())
    found = {
        "parameters": sum(each.numel() for each in parameters),
        "trained": sum(each.numel() for each in parameters if each.requires_grad),
        "iteration_seconds": seconds,
        "evaluation_seconds": evaluation,
        "timed": timed,
        "peak_bytes": max([peak, *(each.peak_bytes for each in ranks)]),
        "memory_bytes": memory,
        "ranks": ranks,
    }
    return found, saved, sum(local(each).numel() for each in parameters)


def _way(workload: Workload, seed: int) -> Ensemble:
    """How the test would train one seed, on CUDA by a captured step; at rates that leave every weight in its place."""
    lrs, found = [LR] * (WARM_UP + MOST + 1), captured_or_engine(workload, CHECKED, [seed], Captures())
    if isinstance(found, str):
        return EagerEnsemble(workload, seed, lrs, found)
    found.put_lrs(lrs)
    return found


def _step_seconds(way: Ensemble) -> tuple[int, float, float]:
    """Steps that were timed, the time of one, and that on this rank: medians over a few, with a wait for the GPU."""
    way.train(0, WARM_UP)
    times, own = list[float](), list[float]()
    while not times or (len(times) < MOST // AT_ONCE and sum(times) < SECONDS):
        start = WARM_UP + len(times) * AT_ONCE
        begin = time.perf_counter()
        way.train(start, start + AT_ONCE)
        own.append(time.perf_counter() - begin)
        times.append(_agreed(way, own[-1]))
    return len(times) * AT_ONCE, statistics.median(times) / AT_ONCE, statistics.median(own) / AT_ONCE


def _traffic(way: Ensemble, timed: int) -> Traffic:
    """What one more step sends over the network; the first after an evaluation gathers some weights twice."""
    traffic = Traffic()
    if way.members[0].workload.ranks.processes > 1:
        with traffic:
            way.train(WARM_UP + timed, WARM_UP + timed + 1)
    return traffic


def _ranks(way: Ensemble, seconds: float, peak: int, traffic: Traffic) -> tuple[RankCost, ...]:
    """What a step of every rank takes; nothing of a single process."""
    ranks = way.members[0].workload.ranks
    if ranks.processes == 1:
        return ()
    mine = {"iteration_seconds": seconds, "peak_bytes": peak}
    counted = {"reduced_bytes": traffic.reduced, "gathered_bytes": traffic.gathered}
    return tuple(RankCost(**each) for each in ranks.all_gather(mine | counted))


def _evaluation_seconds(way: Ensemble) -> float:
    """The time of the second evaluation, for the first chooses kernels; of the first, where that takes long anyway."""
    seconds = 0.0
    for _ in range(2):
        begin = time.perf_counter()
        way.evaluate([0])
        seconds = _agreed(way, time.perf_counter() - begin)
        if seconds > SECONDS:
            break
    return seconds


def _agreed(way: Ensemble, seconds: float) -> float:
    """A time as all ranks have it, for it decides what they do next: the mean over them."""
    return float(way.members[0].workload.ranks.mean(torch.tensor(seconds, dtype=torch.float64)))


def _saved_bytes(way: Ensemble) -> int:
    """What weights, statistics and optimizer take in a file; none where they cannot be saved, as in a range test.

    Of a sharded model what this rank keeps and saves of it.
    """
    content, state = io.BytesIO(), way.state()
    if kept := shard_bytes(state):
        return kept
    with contextlib.suppress(TypeError):
        torch.save(plain(state, "state"), content)
    return content.tell()


def _free_bytes(folder: Path) -> int:
    """Room on the disk of a folder that need not be there."""
    there = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.is_dir())
    return shutil.disk_usage(there).free
