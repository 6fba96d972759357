"""The capture: how often its check accepts what is healthy, what memory it leaves, and whether its curves are right."""

from __future__ import annotations

import gc
import math
from typing import Any

import numpy as np
import torch

from clrtool.config.schema import SweepConfig
from clrtool.engine.rangetest import sweep
from clrtool.engine.rangetest.sweep import run_sweep
from clrtool.engine.training.cuda_graph import CapturedEnsemble
from clrtool.engine.training.workload import Workload
from tests.engine.workloads import digits
from tests.gpu.dry import uncaptured
from tests.gpu.results import Results
from tests.gpu.wheels import ROOT

LRS = np.geomspace(1e-3, 0.1, 100).tolist()
TEXT = {
    "name": "text",
    "args": {"path": str(ROOT / "clrtool" / "guide" / "troubleshooting.md"), "length": 64},
    "batch_size": 32,
}
HEALTHY: dict[str, dict[str, Any]] = {
    "a convnet with batch norm, Adam": {
        "model": {"name": "convnet", "args": {"channels": [8, 16], "batch_norm": True}}, "optimizer": {"name": "Adam"},
    },
    "GPT, AdamW": {
        "model": {"name": "gpt", "args": {"depth": 2, "width": 64}}, "data": TEXT, "metric": "token_accuracy",
        "optimizer": {"name": "AdamW"}, "sweep": {"evaluations": 20},
    },
    "ResNet, bf16": {"model": {"name": "resnet", "args": {"depth": 8, "width": 8}}, "precision": "bf16"},
}  # fmt: skip


def acceptance(results: Results, device: str, most: str) -> None:
    """How many of so many seeds of healthy problems pass the check of the captured step."""
    seeds = range(2 if device == "cpu" else int(most))
    for name, changes in HEALTHY.items():
        workload = digits(device, **changes)
        with workload.on_device():
            accepted = [seed for seed in seeds if _team(workload, [seed]).matches_reference()]
        refused = [seed for seed in seeds if seed not in accepted]
        results.add("acceptance", problem=name, accepted=len(accepted), seeds=len(seeds), refused=refused)


def _team(workload: Workload, seeds: list[int]) -> CapturedEnsemble:
    return CapturedEnsemble(workload, seeds, LRS, graph=workload.device.type == "cuda")


def memory(results: Results, device: str, captures: str) -> None:
    """What is reserved after each of several captures, each of them dropped before the next."""
    workload = digits(device, model={"name": "convnet"})
    with workload.on_device():
        for number in range(1, 1 + (2 if device == "cpu" else int(captures))):
            team = _team(workload, [0, 1, 2])
            accepted = team.matches_reference()
            team.train(0, 5)
            del team
            gc.collect()
            torch.cuda.empty_cache()
            results.add("memory", captures=number, accepted=accepted, **({} if device == "cpu" else _readings()))


def _readings() -> dict[str, int]:
    """MiB that torch holds and uses, and that are taken of the whole card, by contexts and libraries as well."""
    free, whole = torch.cuda.mem_get_info()
    found = {"reserved": torch.cuda.memory_reserved(), "allocated": torch.cuda.memory_allocated(), "card": whole - free}
    return {f"{name}_mib": round(size / 2**20) for name, size in found.items()}


def curves(results: Results, device: str) -> None:
    """Held-out losses of the graph within the band of the plain loop's: mean differences in their standard errors."""
    if device == "cpu":
        sweep.make_ensembles = uncaptured
    seeds = 5
    config = SweepConfig(start_lr=1e-3, end_lr=0.3, epochs=3, evaluations=15, seeds=seeds)
    for precision in ("fp32", "bf16"):
        found = {
            fast: run_sweep(digits(device, precision=precision, training={"fast": fast}), config)
            for fast in (True, False)
        }
        graph, plain = (np.array([curve.heldout_loss for curve in found[fast].curves]) for fast in (True, False))
        difference = graph - plain  # of the same seed: the same weights and batches
        error = plain.std(axis=0, ddof=1) / math.sqrt(seeds)
        results.add(
            "curves", precision=precision, engines=[found[True].engine, found[False].engine],
            largest_in_standard_errors=round(float(np.max(np.abs(difference.mean(axis=0)) / error)), 3),
            largest=float(np.abs(difference).max()),
        )  # fmt: skip
