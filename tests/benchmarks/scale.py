"""What a step costs by the size of a model: time, memory and the size of a checkpoint, a process for each size."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any, NamedTuple

# Tokens of a batch; a forward and a backward pass take 6 operations for a parameter and a token.
BATCH, LENGTH, OPERATIONS = 32, 64, 6
PROBE = """
import io, json, sys, time
from pathlib import Path
import torch
from clrtool.config import RangeTestConfig
from clrtool.engine.build import build_problem
from clrtool.engine.learner import Learner

def resident(name):  # not ru_maxrss, which a process has from its parent
    return next(int(line.split()[1]) for line in Path("/proc/self/status").open() if line.startswith(name)) * 1024

depth, width, heads, batch, length, optimizer = *map(int, sys.argv[1:6]), sys.argv[6]
before = resident("VmRSS")
config = RangeTestConfig.model_validate({
    "model": {"name": "gpt", "args": {"depth": depth, "width": width, "heads": heads}},
    "data": {"name": "text", "args": {"path": "README.md", "length": length}, "batch_size": batch},
    "optimizer": {"name": optimizer}, "metric": "token_accuracy", "sweep": {"evaluations": 20}})
problem = build_problem(config, device="cpu")
with problem.on_device():
    learner = Learner(problem, 0)
    learner.train(0, [1e-4] * 2)
    times = []
    for start in range(2, 10):
        begin = time.perf_counter()
        learner.train(start, [1e-4])
        times.append(time.perf_counter() - begin)
    saved = io.BytesIO()
    torch.save(learner.state(), saved)
print(json.dumps({
    "parameters": sum(each.numel() for each in learner.model.parameters()), "seconds": sorted(times)[4],
    "memory": resident("VmHWM") - before, "checkpoint": saved.tell()}))
"""


class Size(NamedTuple):
    """A GPT of the built-in kind, and what trains it."""

    depth: int
    width: int
    heads: int
    optimizer: str


SIZES = (
    Size(2, 64, 4, "AdamW"),
    Size(4, 128, 4, "AdamW"),
    Size(4, 256, 8, "AdamW"),
    Size(6, 512, 8, "AdamW"),
    Size(8, 768, 12, "AdamW"),
    Size(6, 512, 8, "SGD"),
)


def table() -> list[str]:
    """A row for each size."""
    return [
        "| parameters | optimizer | a step, ms | operations a second, 10^9 | memory, MB | a checkpoint, MB |",
        "| --- | --- | --- | --- | --- | --- |",
        *(_row(size, _measured(size)) for size in SIZES),
    ]


def _measured(size: Size) -> dict[str, Any]:
    words = [*map(str, size[:3]), str(BATCH), str(LENGTH), size.optimizer]
    done = subprocess.run([sys.executable, "-c", PROBE, *words], check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _row(size: Size, found: dict[str, Any]) -> str:
    rate = OPERATIONS * found["parameters"] * BATCH * LENGTH / found["seconds"] / 1e9
    return (
        f"| {found['parameters'] / 1e6:.3g} million | {size.optimizer} | {found['seconds'] * 1e3:,.0f} | {rate:.0f} | "
        f"{found['memory'] / 1e6:,.0f} | {found['checkpoint'] / 1e6:,.1f} |"
    )
