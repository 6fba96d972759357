"""A range test of the digits on one device, to see that it computes and learns there: what ``doctor`` runs."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch

from clrtool.config.schema import RangeTestConfig
from clrtool.core.reading.curve import Point
from clrtool.engine.configured.build import build_workload
from clrtool.engine.rangetest.observer import Observer
from clrtool.engine.rangetest.pipeline import range_test
from clrtool.engine.runtime.hardware import ONE_INDEX

# Half a second on two cores; ten classes, so that an accuracy of one half is no chance.
CONFIG = {
    "model": {"name": "convnet", "args": {"channels": [8, 16]}},
    "data": {"name": "digits", "batch_size": 32},
    "sweep": {"start_lr": 1e-3, "end_lr": 0.3, "epochs": 4, "evaluations": 22, "seeds": 1},
}
LEARNED = 0.5
# A machine that is busy shows what it has come to by then.
SECONDS = 5.0


@dataclass(frozen=True)
class SelfTest:
    """What came of it.

    Args:
        device: where it ran.
        seconds: how long it took.
        iterations: optimizer steps that were taken.
        per_second: those of them a second, without evaluations; None where it did not come to its end.
        accuracy: the best on the held-out set.
        engine: how the steps were run; empty where it did not come to its end.
        fault: why it failed and what to do; None where it passed.
    """

    device: str
    seconds: float
    iterations: int = 0
    per_second: float | None = None
    accuracy: float = 0.0
    engine: str = ""
    fault: str | None = None


class _TimeOver(Exception):  # noqa: N818 (it is none)
    """The time is over."""


def self_test(device: str) -> SelfTest:
    """Run a short range test; whatever goes wrong in it is a fault of the device and nothing else's."""
    begin, points = time.perf_counter(), list[Point]()
    config, engine, rate, fault = RangeTestConfig.model_validate(CONFIG), "", None, None

    class Watch(Observer):
        def on_point(self, seed: int, point: Point) -> None:  # noqa: ARG002
            points.append(point)
            if time.perf_counter() - begin > SECONDS:
                raise _TimeOver

    try:
        record = range_test(build_workload(config, device=device), config, Watch()).sweep
        engine, rate = record.engine, record.iterations / (record.train_seconds or math.inf)
    except _TimeOver:
        pass  # what was measured until then is enough
    except Exception as error:  # noqa: BLE001 (a driver fails in ways of its own, and the report goes on)
        fault = str(error).strip().partition("\n")[0] or type(error).__name__
    best = max((point.metric for point in points if math.isfinite(point.metric)), default=0.0)
    if engine and best < LEARNED:
        fault = f"it does not learn: an accuracy of {best:.2f} at the most"
    if fault:
        fault += f"; {ONE_INDEX if device == 'cpu' else 'rangetest --device cpu does without it'}"
    taken = points[-1].iteration if points else 0
    return SelfTest(device, time.perf_counter() - begin, taken, rate, best, engine, fault)


def devices() -> list[str]:
    """The CPU and every CUDA device."""
    return ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
