"""What a step costs by the size of a model and by ranks, and a test by samples and seeds, each in processes of its own."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

# Tokens of a batch; a forward and a backward pass take 6 operations for a parameter and a token.
BATCH, LENGTH, OPERATIONS = 32, 64, 6
RESIDENT = """
import json, sys, time
from pathlib import Path
from clrtool.engine.configured.build import build_workload

def resident(name):  # not ru_maxrss, which a process has from its parent
    return next(int(line.split()[1]) for line in Path("/proc/self/status").open() if line.startswith(name)) * 1024
"""
STEP = """
import io, os
import torch
from clrtool.config.schema import RangeTestConfig
from clrtool.engine.training.trainer import Trainer
from clrtool.engine.runtime.launched import join
from clrtool.engine.runtime.ranks import SINGLE_PROCESS

depth, width, heads, batch, length, optimizer = *map(int, sys.argv[1:6]), sys.argv[6]
before = resident("VmRSS")
config = RangeTestConfig.model_validate({
    "model": {"name": "gpt", "args": {"depth": depth, "width": width, "heads": heads}},
    "data": {"name": "text", "args": {"path": "clrtool/guide/troubleshooting.md", "length": length}, "batch_size": batch},
    "optimizer": {"name": optimizer}, "metric": "token_accuracy", "sweep": {"evaluations": 20}})
seat = [int(os.environ.get(name, default)) for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))]
ranks = join(*seat) if seat[1] > 1 else SINGLE_PROCESS
workload = build_workload(config, device="cpu", **({} if ranks is SINGLE_PROCESS else {"ranks": ranks}))
with workload.on_device():
    trainer = Trainer(workload, 0)
    trainer.train(0, [1e-4] * 2)
    times = []
    for start in range(2, 10):
        begin = time.perf_counter()
        trainer.train(start, [1e-4])
        times.append(time.perf_counter() - begin)
    saved = io.BytesIO()
    torch.save(trainer.state(), saved)
if seat[0] == 0:
    print(json.dumps({
        "parameters": sum(each.numel() for each in trainer.model.parameters()), "seconds": sorted(times)[4],
        "memory": resident("VmHWM") - before, "checkpoint": saved.tell()}))
if ranks is not SINGLE_PROCESS:
    del trainer
    ranks.end()
"""


TEST = """
from clrtool.config.file import find_config, load_config
from clrtool.engine.rangetest.sweep import run_sweep

path, before = find_config("custom"), resident("VmRSS")
config = load_config(path, [f"data.args.samples={sys.argv[1]}", f"sweep.seeds={sys.argv[2]}"])
workload = build_workload(config, device="cpu", folder=path.parent, allow_import=["custom_factories:*"])
begin = time.perf_counter()
record = run_sweep(workload, config.sweep, config.seed)
print(json.dumps({
    "iterations": record.iterations, "train": record.train_seconds, "evaluation": record.evaluation_seconds,
    "seconds": time.perf_counter() - begin, "memory": resident("VmHWM") - before}))
"""
SAMPLES, SEEDS = (4_000, 40_000, 400_000), (2, 4)


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
        *(_row(size, _step(size)) for size in SIZES),
    ]


def _step(size: Size, **how: int) -> dict[str, Any]:
    return _run(STEP, *size[:3], BATCH, LENGTH, size.optimizer, **how)


def _run(probe: str, *words: object, ranks: int = 1, threads: int | None = None) -> dict[str, Any]:
    """What a probe prints, by its first rank if there are several."""
    code, limit = [*map(str, words)], {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "probe.py"
        file.write_text(RESIDENT + probe)
        launcher = [] if ranks == 1 else ["-m", "torch.distributed.run", "--nproc-per-node", str(ranks)]
        done = subprocess.run(
            [sys.executable, *launcher, str(file), *code],
            check=True, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(Path.cwd())} | limit,
        )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def ranks() -> list[str]:
    """A row for each size but the largest: a step of one rank, and of two that share its batch."""
    rows = [
        "| parameters | optimizer | one rank, ms | two ranks, ms | times as fast | memory of a rank, MB |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for size in SIZES[:4]:
        one, two = (_step(size, ranks=number, threads=1) for number in (1, 2))
        rows.append(
            f"| {one['parameters'] / 1e6:.3g} million | {size.optimizer} | {one['seconds'] * 1e3:,.0f} | "
            f"{two['seconds'] * 1e3:,.0f} | {one['seconds'] / two['seconds']:.2f} | "
            f"{one['memory'] / 1e6:,.0f} and {two['memory'] / 1e6:,.0f} |"
        )
    return rows


def tests() -> list[str]:
    """A row for each number of samples and of seeds."""
    rows = [
        "| samples | seeds | iterations | training, s | evaluations, s | in all, s | memory, MB |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for samples, seeds in itertools.product(SAMPLES, SEEDS):
        found = _run(TEST, samples, seeds)
        seconds = " | ".join(f"{found[name]:.2f}" for name in ("train", "evaluation", "seconds"))
        rows.append(f"| {samples:,} | {seeds} | {found['iterations']:,} | {seconds} | {found['memory'] / 1e6:,.0f} |")
    return rows


def _row(size: Size, found: dict[str, Any]) -> str:
    rate = OPERATIONS * found["parameters"] * BATCH * LENGTH / found["seconds"] / 1e9
    return (
        f"| {found['parameters'] / 1e6:.3g} million | {size.optimizer} | {found['seconds'] * 1e3:,.0f} | {rate:.0f} | "
        f"{found['memory'] / 1e6:,.0f} | {found['checkpoint'] / 1e6:,.1f} |"
    )
