"""The device that a test runs on: which one, in which arithmetic, by how many threads, and what a result depends on."""

from __future__ import annotations

import gc
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

import clrtool
from clrtool.engine.runtime.hardware import processor
from clrtool.errors import ConfigError, MachineError


def find_device(name: str) -> torch.device:
    """``auto`` is CUDA if there is any, else the CPU. Raises for a device that is unknown or not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"--device {name!r} must be auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"--device {name!r} must be auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise MachineError(
            f"--device {name}: this machine has {torch.cuda.device_count()} CUDA devices; try --device cpu"
        )
    return device


def device_of_job(name: str, number: int) -> str:
    """The device of a job, counted from 1: the GPUs in turn, where none is named."""
    gpus = torch.cuda.device_count() if name in ("auto", "cuda") else 0
    return f"cuda:{(number - 1) % gpus}" if gpus else name


def environment(device: torch.device) -> dict[str, str | int]:
    """What a result depends on besides its config."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "clrtool": clrtool.__version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),  # of a class of its own, which no checkpoint holds
        "numpy": np.__version__,
        "device": f"{device.type}: {name}",
        "processor": f"{processor()}, {torch.backends.cpu.get_cpu_capability()}",
        "threads": torch.get_num_threads(),
    }


@contextmanager
def arithmetic(precision: str | None, *, deterministic: bool) -> Iterator[None]:
    """Matrix products and convolutions in a precision (None: as it is set), by algorithms that add in one order."""
    cudnn: Any = torch.backends.cudnn
    backends = (torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn) if precision is not None else ()
    before = [backend.fp32_precision for backend in backends]
    was, warned = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    try:
        for backend in backends:
            backend.fp32_precision = "tf32" if precision == "tf32" else "ieee"
        if deterministic:
            torch.use_deterministic_algorithms(True)
            torch.backends.cudnn.benchmark = False
        yield
    finally:
        for backend, value in zip(backends, before, strict=True):
            backend.fp32_precision = value
        if deterministic:  # it takes seconds the first time
            torch.use_deterministic_algorithms(was, warn_only=warned)
            torch.backends.cudnn.benchmark = benchmark


def usual_threads() -> int:
    """The threads that torch computes with by itself."""
    return torch.get_num_threads()


@contextmanager
def computing_with(threads: int | None) -> Iterator[None]:
    """Let torch compute with so many threads; None for as many as it takes by itself."""
    if threads is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def free_memory() -> None:
    """Give back what is no longer in use, such as that of an attempt that ran out of memory."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
