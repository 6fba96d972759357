"""What a rank holds of a model that all ranks share, against the formula of the guide's page on large models."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch.distributed._tools.mem_tracker import MemTracker

from clrtool.config.schema import RangeTestConfig
from clrtool.engine.configured.build import build_workload
from clrtool.engine.rangetest.flat_run import PlainLoop
from clrtool.engine.runtime.by_block import blocks
from clrtool.engine.runtime.launched import join
from clrtool.engine.runtime.ranks import SINGLE_PROCESS
from clrtool.engine.training.trainer import Trainer, never
from clrtool.engine.training.workload import Workload

# Bytes of a number, and how many AdamW keeps beside each weight.
NUMBER, STATES = 4, 2
# Of depth, width and heads: 0.13 to 200 million parameters.
SIZES = ((2, 64, 4), (4, 256, 8), (6, 512, 8), (16, 1024, 16))
RANKS = (1, 2, 4)
# The batch of a rank, and its tokens: few, for activations are not what is measured.
BATCH, LENGTH = 1, 16


def kept_bytes(parameters: float, ranks: int, paused: int = 0) -> float:
    """What a rank holds between two steps of a race.

    Its part of weights, gradients and optimizer of the run in training, of the average of its weights, and of the start;
    and of weights, optimizer and average of each run that is paused.
    """
    return NUMBER * parameters / ranks * (4 + STATES + paused * (2 + STATES))


def gathered_bytes(block: float, rest: float) -> float:
    """What is whole on each of several ranks in the midst of a step, at the most.

    Of a block its weights and those of the next, which are fetched ahead, its gradient and the copy of it that is summed;
    of the parameters outside of blocks all of it but for a next one.
    """
    return NUMBER * (4 * block + 3 * rest)


def layout(model: Any) -> tuple[int, int, int]:
    """How many numbers there are, in the largest block, and outside of blocks; of nested ones each has its own."""
    seen, largest = set[int](), 0
    for block in blocks(model):
        own = [each for each in block.parameters() if id(each) not in seen]
        seen |= set(map(id, own))
        largest = max(largest, sum(each.numel() for each in own))
    rest = sum(each.numel() for each in model.parameters() if id(each) not in seen)
    return sum(each.numel() for each in model.parameters()), largest, rest


def of_this_rank(*size: int) -> dict[str, Any]:
    """Bytes of all tensors but activations after a step and at its peak, by which the process has grown, and the layout."""
    before, (depth, width, heads) = _resident("VmRSS"), size
    rank, world = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE"))
    config = RangeTestConfig.model_validate({
        "model": {"name": "gpt", "args": {"depth": depth, "width": width, "heads": heads}},
        "data": {"name": "text", "args": {"path": "clrtool/guide/troubleshooting.md", "length": LENGTH},
                 "batch_size": BATCH * world},
        "optimizer": {"name": "AdamW"}, "metric": "token_accuracy", "sweep": {"evaluations": 20},
        "training": {"shard": "auto"}})  # fmt: skip
    ranks = join(rank, world, rank) if world > 1 else None
    workload = build_workload(config, device="cpu", ranks=ranks or SINGLE_PROCESS)
    with workload.on_device():
        found = _step(workload) | {"process": _resident("VmHWM") - before}
    if ranks is not None:
        ranks.end()
    return found


def _step(workload: Workload) -> dict[str, Any]:
    """A step of a run of a race, under the eyes of torch's own tracker of memory."""
    start = Trainer(workload, 0)
    run = PlainLoop(start)
    run.train(0, [1e-4], never)
    trainer, shared = run._trainer, start._shared
    start_of = [start.model] if shared is None else [part for parts in shared._kept.values() for part in parts]
    with MemTracker() as tracker:
        tracker.track_external(trainer.model, trainer.optimizer, *run.average.weights.values(), *start_of)
        run.train(1, [1e-4] * 2, never)
    kept, peak = _bytes(tracker, "current"), _bytes(tracker, "peak")
    return {"layout": layout(trainer.model), "kept": kept, "peak": peak}


def _bytes(tracker: MemTracker, when: str) -> int:
    (found,) = tracker.get_tracker_snapshot(when).values()
    return sum(each for kind, each in found.items() if kind != "Total" and "ACT" not in str(kind))


def _resident(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024


def measured(size: tuple[int, int, int], world: int) -> list[dict[str, Any]]:
    """Every rank of a test of such a model."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": str(world)}
    command = [sys.executable, "-W", "ignore", "-m", "tests.benchmarks.sharded_memory", *map(str, size)]
    environment = os.environ | place | {"OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(command, env=environment | {"RANK": str(rank)}, stdout=subprocess.PIPE, text=True)
        for rank in range(world)
    ]
    return [json.loads(rank.communicate()[0]) for rank in ranks]


def table() -> list[str]:
    """A row for each size and number of ranks, in MB: of all ranks the one that holds most."""
    rows = [
        "| parameters | ranks | kept, formula | kept, measured | peak, formula | peak, measured | process |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for size in SIZES:
        for world in RANKS:
            found = measured(size, world)
            parameters, block, rest = found[0]["layout"]
            kept, peak, process = (max(each[name] for each in found) for name in ("kept", "peak", "process"))
            formula = kept_bytes(parameters, world)
            most = formula + (gathered_bytes(block, rest) if world > 1 else 0)
            cells = " | ".join(
                f"{each / 1e6:,.{1 if each < 1e8 else 0}f}" for each in (formula, kept, most, peak, process)
            )
            rows.append(f"| {parameters / 1e6:.3g} million | {world} | {cells} |")
    return rows


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(of_this_rank(*map(int, sys.argv[1:]))))
