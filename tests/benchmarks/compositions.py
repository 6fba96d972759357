"""What 10^7 iterations of composed schedules take, in CPU seconds of one thread.

``python -m tests.benchmarks.compositions`` prints the table; words after it choose the rows that have one of them.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from clrtool.core.planning.make import make_plan
from clrtool.core.schedules import Schedule
from clrtool.core.sources import schedule_from

ITERATIONS, TIMES = 10**7, 7
RISE: dict[str, Any] = {"type": "LinearLR", "total_iters": 1000}
COSINE: dict[str, Any] = {"type": "CosineAnnealingLR", "T_max": ITERATIONS - 1000}
STEPS: dict[str, Any] = {"type": "StepLR", "step_size": 100_000}
SHORT: dict[str, Any] = {"type": "CosineAnnealingLR", "T_max": 777}
CYCLES: dict[str, Any] = {
    "type": "CyclicLR", "base_lr": 0.1, "max_lr": 0.3, "step_size_up": 2000, "cycle_momentum": False,
    "mode": "exp_range", "gamma": 0.9999,
}  # fmt: skip


def _sequence(*parts: dict[str, Any], milestones: list[int]) -> dict[str, Any]:
    return {"type": "SequentialLR", "schedulers": list(parts), "milestones": milestones}


def _named(part: dict[str, Any], **more: Any) -> tuple[str, dict[str, Any]]:
    return f"torch:{part['type']}", {name: value for name, value in part.items() if name != "type"} | more


# What is written in the table: a source and its parameters.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "torch SequentialLR: linear, cosine": _named(_sequence(RISE, COSINE, milestones=[1000])),
    "torch SequentialLR: linear, cosine, steps, constant": _named(
        _sequence(RISE, COSINE, STEPS, {"type": "ConstantLR"}, milestones=[1000, 4_000_000, 9_000_000])
    ),
    "torch SequentialLR: linear, CyclicLR exp_range": _named(_sequence(RISE, CYCLES, milestones=[1000])),
    "torch SequentialLR: linear, LambdaLR of a text": _named(
        _sequence(RISE, {"type": "LambdaLR", "lr_lambda": "0.95 ** (x // 1000)"}, milestones=[1000])
    ),
    "torch SequentialLR: linear, MultiplicativeLR of a text": _named(
        _sequence(RISE, {"type": "MultiplicativeLR", "lr_lambda": "1 - 1e-7 * x / (1 + x)"}, milestones=[1000])
    ),
    "torch ChainedScheduler: linear, steps, exponential": _named(
        {"type": "ChainedScheduler", "schedulers": [RISE, STEPS, {"type": "ExponentialLR", "gamma": 0.9999999}]}
    ),
    "torch ChainedScheduler: linear, cosine": _named({"type": "ChainedScheduler", "schedulers": [RISE, COSINE]}),
    "torch ChainedScheduler: linear, a cosine of 777": _named(
        {"type": "ChainedScheduler", "schedulers": [RISE, SHORT]}
    ),
    "torch ChainedScheduler: linear, SequentialLR": _named(
        {"type": "ChainedScheduler", "schedulers": [RISE, _sequence(RISE, COSINE, milestones=[1000])]}
    ),
    "torch ChainedScheduler: linear, steps, cosine, exponential": _named(
        {"type": "ChainedScheduler", "schedulers": [RISE, STEPS, COSINE, {"type": "ExponentialLR", "gamma": 0.9999999}]}
    ),
    "torch ChainedScheduler: linear, a cosine to 0.001": _named(
        {"type": "ChainedScheduler", "schedulers": [RISE, COSINE | {"eta_min": 1e-3}]}
    ),
    "torch ChainedScheduler: linear, a cosine of 777 to 0.001": _named(
        {"type": "ChainedScheduler", "schedulers": [RISE, SHORT | {"eta_min": 1e-3}]}
    ),
    "torch ChainedScheduler: 1,000 milestones, cosine": _named(
        {
            "type": "ChainedScheduler",
            "schedulers": [{"type": "MultiStepLR", "milestones": [*range(10_000, ITERATIONS, 10_000)], "gamma": 0.999}, COSINE],
        }
    ),
    "torch MultiplicativeLR of a text": (
        "torch:MultiplicativeLR",
        {"lr_lambda": "1 - 1e-7 * x / (1 + x)", "base_lr": 0.1},
    ),
    "optax join_schedules: linear, cosine, exponential": (
        "optax:join_schedules",
        {
            "schedules": [
                {"type": "linear_schedule", "init_value": 0, "end_value": 1, "transition_steps": 1000},
                {"type": "cosine_decay_schedule", "init_value": 1.0, "decay_steps": 5_000_000},
                {"type": "exponential_decay", "init_value": 1.0, "transition_steps": 1000, "decay_rate": 0.99},
            ],
            "boundaries": [1000, 5_000_000],
        },
    ),
    "optax sgdr_schedule": (
        "optax:sgdr_schedule",
        {
            "cosine_kwargs": [
                {"init_value": 0, "peak_value": 1, "warmup_steps": 10, "decay_steps": 10**6 * each} for each in (1, 2, 4)
            ]
        },
    ),
    "ignite ConcatScheduler: cosine, cycles that grow": (
        "ignite:ConcatScheduler",
        {
            "schedulers": [
                {"type": "CosineAnnealingScheduler", "start_value": 1.0, "end_value": 0.1, "cycle_size": 1000},
                {"type": "LinearCyclicalScheduler", "start_value": 1.0, "end_value": 0.1, "cycle_size": 1000, "cycle_mult": 1.1},
            ],
            "durations": [5_000_000],
        },
    ),
    "mmengine: linear, cosine": (
        "mmengine:param_scheduler",
        {
            "base_lr": 0.1,
            "schedulers": [
                {"type": "LinearLR", "by_epoch": False, "begin": 0, "end": 1000},
                {"type": "CosineAnnealingLR", "by_epoch": False, "begin": 1000, "end": ITERATIONS, "T_max": ITERATIONS - 1000},
            ],
        },
    ),
    "mmengine: linear, steps and exponential together": (
        "mmengine:param_scheduler",
        {
            "base_lr": 0.1,
            "schedulers": [
                {"type": "LinearLR", "by_epoch": False, "begin": 0, "end": 1000},
                {"type": "MultiStepLR", "by_epoch": False, "begin": 0, "end": ITERATIONS, "milestones": [5_000_000]},
                {"type": "ExponentialLR", "by_epoch": False, "begin": 0, "end": ITERATIONS, "gamma": 0.9999999},
            ],
        },
    ),
    "timm cosine: cycles with warm-up": (
        "timm:CosineLRScheduler",
        {"t_initial": 10**6, "cycle_mul": 2.0, "cycle_decay": 0.5, "cycle_limit": 4, "warmup_t": 1000, "base_lr": 0.1},
    ),
    "deepspeed OneCycle, decay after it": (
        "deepspeed:OneCycle",
        {"cycle_min_lr": 0.1, "cycle_max_lr": 0.3, "cycle_first_step_size": 10**6, "decay_lr_rate": 0.1, "decay_step_size": 1000},
    ),
    "deepspeed WarmupCosineLR, log warm-up": (
        "deepspeed:WarmupCosineLR",
        {"total_num_steps": ITERATIONS, "warmup_num_steps": 1_000_000, "base_lr": 0.1},
    ),
    "transformers warmup_stable_decay": (
        "transformers:warmup_stable_decay",
        {"base_lr": 0.1, "num_warmup_steps": 1000, "num_decay_steps": 10**6, "num_training_steps": ITERATIONS},
    ),
    "paddle LinearWarmup: NoamDecay": (
        "paddle:LinearWarmup",
        {"learning_rate": {"type": "NoamDecay", "d_model": 64, "warmup_steps": 1000}, "warmup_steps": 1000, "start_lr": 0, "end_lr": 0.1},
    ),
    "accelerate: a cosine of 4 processes": (
        "accelerate:AcceleratedScheduler",
        {"scheduler": {"type": "CosineAnnealingLR", "T_max": ITERATIONS}, "num_processes": 4},
    ),
    "torch LambdaLR, a function of an array or a number": (
        "torch:LambdaLR",
        {"lr_lambda": lambda step: 0.9999999**step, "base_lr": 0.1},
    ),
    "torch LambdaLR, a function of a number alone": (
        "torch:LambdaLR",
        {"lr_lambda": lambda step: 1.0 if step < 5_000_000 else 0.1, "base_lr": 0.1},
    ),
    "torch LambdaLR, a function with math.cos": (
        "torch:LambdaLR",
        {"lr_lambda": lambda step: 0.5 * (1 + math.cos(math.pi * step / ITERATIONS)), "base_lr": 0.1},
    ),
    "torch CyclicLR, scale_fn of a cycle": (
        "torch:CyclicLR",
        {"base_lr": 0.1, "max_lr": 0.3, "scale_fn": lambda x: 1 if x < 3 else 0.5, "cycle_momentum": False},
    ),
    "torch CyclicLR, scale_fn of an iteration": (
        "torch:CyclicLR",
        {"base_lr": 0.1, "max_lr": 0.3, "scale_fn": lambda x: 1 if x < 3000 else 0.5, "scale_mode": "iterations", "cycle_momentum": False},
    ),
}  # fmt: skip


def row(name: str, make: Callable[[], Schedule], yardstick: Schedule) -> str:
    """The least CPU time of ``TIMES`` schedules, each made anew and run beside the yardstick."""
    times = []
    for _ in range(TIMES):
        times.append([0.0, 0.0])
        for side, begun in enumerate((make, lambda: yardstick)):
            begin = time.process_time()
            begun()(range(ITERATIONS))
            times[-1][side] = time.process_time() - begin
    ours, cosine = map(min, zip(*times, strict=True))
    return f"| {name} | {ours:.2f} | {ours / cosine:.1f} |"


def table(words: Sequence[str] = ("",)) -> Iterator[str]:
    """A row for each composition whose name has one of the words in it."""
    yield "| schedule | CPU, s | times that of half a cosine |"
    yield "| --- | --- | --- |"
    yardstick = make_plan(0.001, 0.006, 500, epochs=ITERATIONS / 500, policy="cosine").schedule
    for name, (source, params) in CASES.items():
        if any(word in name for word in words):
            yield row(name, partial(schedule_from, source, params), yardstick)


if __name__ == "__main__":
    for line in table(sys.argv[1:] or [""]):
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
