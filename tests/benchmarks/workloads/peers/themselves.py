"""Optimizers that need no rate: they train the job from end to end, at no cost before it."""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import nn

from tests.benchmarks.workloads.peers.result import Result
from tests.benchmarks.workloads.peers.training import default_lr, held_out, iterations, loader, steps

SETTLING = 50  # batches from which schedule-free's README takes the statistics of batch norm anew


def groups(job: Any, model: nn.Module) -> list[dict[str, Any]]:
    """The job's parameters, with the weight decay that its own optimizer has."""
    given = job.optimizer(model, 1.0).param_groups
    return [{"params": group["params"], "weight_decay": group["weight_decay"]} for group in given]


def prodigy(job: Any, seed: int) -> dict[str, Result]:
    """Prodigy with lr=1 and a cosine to 0, as its README has it."""
    return {"Prodigy": Result(0, score=_with_prodigy(job, seed))}


def corrected_prodigy(job: Any, seed: int) -> dict[str, Result]:
    """The same with the two switches that its README advises for diffusion models."""
    score = _with_prodigy(job, seed, use_bias_correction=True, safeguard_warmup=True)
    return {"Prodigy, corrected": Result(0, score=score)}


def _with_prodigy(job: Any, seed: int, **switches: bool) -> float:
    from prodigyopt import Prodigy

    torch.manual_seed(seed)
    model, total = job.model(), iterations(job)
    rates = [0.5 + 0.5 * math.cos(math.pi * t / total) for t in range(total)]
    for _ in steps(job, model, Prodigy(groups(job, model), lr=1.0, **switches), rates, seed):
        pass
    return held_out(job, model)


def schedule_free(job: Any, seed: int) -> dict[str, Result]:
    """Schedule-free AdamW at its default rate; its averaged weights are what is scored."""
    from schedulefree import AdamWScheduleFree

    torch.manual_seed(seed)
    model = job.model()
    optimizer = AdamWScheduleFree(groups(job, model))
    optimizer.train()
    for _ in steps(job, model, optimizer, [default_lr(AdamWScheduleFree)] * iterations(job), seed):
        pass
    optimizer.eval()
    with torch.no_grad():
        for x, _ in itertools.islice(loader(job), SETTLING):
            model(x)
    return {"schedule-free AdamW": Result(0, score=held_out(job, model))}
