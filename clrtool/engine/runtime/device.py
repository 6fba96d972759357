"""The device that a test runs on: which one, in which arithmetic, by how many threads, and what a result depends on."""

from __future__ import annotations

import gc
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import numpy as np
import torch

import clrtool
from clrtool.engine.runtime.hardware import processor
from clrtool.errors import ConfigError, MachineError

T = TypeVar("T")
# The variable by which cuBLAS is told to add in one order, and a value that does.
CUBLAS = ("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


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


def gpus_of_jobs(name: str) -> int:
    """How many GPUs the jobs of a command share; none on a CPU."""
    if name in ("auto", "cuda"):
        return torch.cuda.device_count()
    return int(name.startswith("cuda"))


def device_of_job(name: str, number: int) -> str:
    """The device of a job, counted from 1: the GPUs in turn, where none is named."""
    gpus = gpus_of_jobs(name) if name in ("auto", "cuda") else 0
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
    with ExitStack() as settings:
        if precision is not None:
            settings.enter_context(_float32_products("tf32" if precision == "tf32" else "ieee"))
        if deterministic:
            settings.enter_context(_deterministic())
        yield


@contextmanager
def _float32_products(precision: str) -> Iterator[None]:
    """Set both of torch's ways to say it: one alone makes reading the other an error, as torch.compile does."""
    cudnn, backends = torch.backends.cudnn, _backends()
    before = [backend.fp32_precision for backend in backends]
    # None where a program has contradicted itself before: it could not be put back
    old, old_matmul = _or_none(lambda: cudnn.allow_tf32), _or_none(torch.get_float32_matmul_precision)
    is_tf32 = precision == "tf32"
    try:
        _set_products(
            [precision] * len(backends), None if old is None else is_tf32, old_matmul and ("highest", "high")[is_tf32]
        )
        yield
    finally:
        _set_products(before, old, old_matmul)


def _backends() -> tuple[Any, ...]:
    """What has a precision of its own; matrix products on a CPU too, for the older name means these as well."""
    cudnn = torch.backends.cudnn
    return (
        torch.backends.cuda.matmul,
        torch.backends.mkldnn.matmul,  # type: ignore[attr-defined]
        cudnn.conv,  # type: ignore[attr-defined]
        cudnn.rnn,
    )


def _set_products(precisions: Sequence[str], allow_tf32: bool | None, matmul: str | None) -> None:
    """The older flags first, for they change the newer ones."""
    if allow_tf32 is not None:
        torch.backends.cudnn.allow_tf32 = allow_tf32
    if matmul is not None:
        torch.set_float32_matmul_precision(matmul)
    for backend, precision in zip(_backends(), precisions, strict=True):
        backend.fp32_precision = precision


def _or_none(read: Callable[[], T]) -> T | None:
    """A setting; None where a program's own settings contradict each other, for which torch raises."""
    try:
        return read()
    except RuntimeError:
        return None


@contextmanager
def _deterministic() -> Iterator[None]:
    os.environ.setdefault(*CUBLAS)  # torch asks for it before each product, and cuBLAS reads it at its first
    was, warned = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic
    benchmark, filled = torch.backends.cudnn.benchmark, memory.fill_uninitialized_memory
    try:
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
        memory.fill_uninitialized_memory = False  # a kernel more for every empty tensor
        yield
    finally:  # it takes seconds the first time
        torch.use_deterministic_algorithms(was, warn_only=warned)
        torch.backends.cudnn.benchmark = benchmark
        memory.fill_uninitialized_memory = filled


def usual_threads() -> int:
    """The threads that torch computes with by itself."""
    return torch.get_num_threads()


@contextmanager
def computing_with(threads: int | None) -> Iterator[None]:
    """Let torch compute with this number of threads; None for its own choice."""
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
