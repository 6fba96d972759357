"""The machine that a range test would run on: its devices, processor, memory and disk, and what it lacks."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from clrtool.errors import MachineError
from clrtool.files import check_writable

if TYPE_CHECKING:
    import torch

ONE_INDEX = "install both from one index: pip install --force-reinstall torch torchvision"
# Compute capability from which tensor cores take a precision: CUDA C++ Programming Guide, table of arithmetic.
TENSOR_CORES = {"fp16": (7, 0), "bf16": (8, 0), "tf32": (8, 0)}
# Through it the workers of a DataLoader hand over their batches. A container gets 64 MB of it unless it is told
# otherwise, and a worker that fills it is killed.
_SHM = Path("/dev/shm")  # noqa: S108 (only its size is read)  # nosec B108 # only its size is read
SMALL_SHM = 2**30
# The limit of a container, in either version of cgroups; a machine without one has neither file or no number there.
_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


@cache
def processor() -> str:
    """The name of the processor's model, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


@dataclass(frozen=True)
class Gpu:
    """A CUDA device that has computed something.

    Args:
        fast: values of ``precision`` that its tensor cores compute.
    """

    name: str
    memory_bytes: int
    free_bytes: int
    fast: tuple[str, ...] = ()


@dataclass(frozen=True)
class Machine:
    """What a range test finds here; None where this system does not tell, or torch cannot be imported.

    Args:
        system: operating system, its release, and the processor's architecture.
        cores: those that this process may use.
        threads: those that torch computes with.
        cuda: the version that torch is built for.
        disk_free_bytes: of the current folder.
        faults: what keeps a range test from running, each with its fix.
        notes: what may surprise.
    """

    system: str
    cores: int
    threads: int | None
    cuda: str | None
    gpus: tuple[Gpu, ...]
    memory_bytes: int | None
    available_bytes: int | None
    disk_free_bytes: int
    shm_bytes: int | None
    faults: tuple[str, ...]
    notes: tuple[str, ...]


def survey() -> Machine:
    """Look at everything that a range test needs of the machine; only a passing file is written."""
    faults, notes = _runs_faults(), list[str]()
    threads, cuda, gpus = _torch(faults, notes)
    memory, available = memory_bytes()
    shm = shutil.disk_usage(_SHM).total if _SHM.is_dir() else None
    if shm is not None and shm < SMALL_SHM:
        hint = "workers of a DataLoader may be killed; docker run --shm-size=2g, or data.workers=0"
        notes.append(f"{_SHM} holds {shm // 2**20} MiB: {hint}")
    return Machine(
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        threads=threads,
        cuda=cuda,
        gpus=gpus,
        memory_bytes=memory,
        available_bytes=available,
        disk_free_bytes=shutil.disk_usage(Path()).free,
        shm_bytes=shm,
        faults=tuple(faults),
        notes=tuple(notes),
    )


def _runs_faults() -> list[str]:
    """Probe the folder of runs, or the one it would be made in: a look must not make it."""
    runs = Path("runs")
    try:
        check_writable(runs if runs.exists() or runs.is_symlink() else Path())
    except MachineError as error:
        return [f"{error}; go to another folder, or give rangetest one with -o"]
    return []


def _torch(faults: list[str], notes: list[str]) -> tuple[int | None, str | None, tuple[Gpu, ...]]:
    """Threads, CUDA version and GPUs of torch, where it can be imported."""
    try:
        import torch
    except (ImportError, OSError, RuntimeError) as error:
        faults.append(f"torch cannot be imported: {_line(error)}; {ONE_INDEX}")
        return None, None, ()
    faults += _torchvision_faults()
    return torch.get_num_threads(), torch.version.cuda, tuple(_gpus(faults, notes))


@cache  # a failed import would be tried again, and fail in another way
def _torchvision_faults() -> list[str]:
    """A build of another torch fails while it is imported: operator torchvision::nms does not exist."""
    try:
        with warnings.catch_warnings(action="ignore"):
            import torchvision  # noqa: F401
    except Exception as error:  # noqa: BLE001 (what a mismatch raises differs from version to version)
        return [f"torchvision does not work with this torch: {_line(error)}; {ONE_INDEX}"]
    return []


def _gpus(faults: list[str], notes: list[str]) -> list[Gpu]:
    """The CUDA devices that compute. The others are faults, for a range test would choose them."""
    import torch

    with warnings.catch_warnings(record=True, action="always") as caught:
        there = torch.cuda.is_available()
    notes += [" ".join(str(each.message).split()) for each in caught]
    if torch.version.cuda and not there:
        found = f"torch is built for CUDA {torch.version.cuda} and finds no GPU: rangetest runs on the CPU"
        notes.append(f"{found}; where there is a GPU, nvidia-smi tells whether its driver runs")
    gpus = []
    for index in range(torch.cuda.device_count() if there else 0):
        try:
            gpus.append(_gpu(index))
        except RuntimeError as error:
            hint = "another process may hold it, or torch is built for other GPUs; --device cpu does without"
            faults.append(f"cuda:{index} does not compute: {_line(error)}; {hint}")
    return gpus


def _gpu(index: int) -> Gpu:
    """Compute something, which a torch that is built for other GPUs cannot, and tell what the device is."""
    import torch

    torch.ones(1, device=f"cuda:{index}").add(1).item()
    free, total = torch.cuda.mem_get_info(index)
    capability = torch.cuda.get_device_capability(index)
    fast = tuple(name for name, since in TENSOR_CORES.items() if capability >= since)
    return Gpu(torch.cuda.get_device_name(index), total, free, fast)


def memory_bytes() -> tuple[int | None, int | None]:
    """Bytes of memory in all and available, of the container where there is one."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None, None
    sizes = {name: 1024 * int(size.split()[0]) for name, _, size in (line.partition(":") for line in lines)}
    limits = [path.read_text(encoding="ascii").strip() for path in _LIMITS if path.is_file()]
    total = min([sizes["MemTotal"], *(int(limit) for limit in limits if limit.isdecimal())])
    return total, min(total, sizes["MemAvailable"])


def total_memory() -> int:
    """Bytes of memory in all; where the system does not tell, more than there can be."""
    return memory_bytes()[0] or sys.maxsize


def memory_use(device: torch.device | None = None) -> tuple[int, int]:
    """Bytes that were taken at the most so far, and all that there are: of a CUDA device, else of this process.

    Of a device it counts what torch keeps for itself, graphs and fragments included, for nobody else has it.
    """
    if device is not None and device.type == "cuda":
        import torch

        return torch.cuda.max_memory_reserved(device), torch.cuda.mem_get_info(device)[1]
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return most, total_memory()


def peak_memory(device: torch.device | None = None) -> str:
    """The same, for a message."""
    most, room = memory_use(device)
    return f"peak memory {most / 2**30:.2f} of {room / 2**30:.2f} GiB"


@contextmanager
def memory_of(field: str) -> Iterator[None]:
    """Name the field whose value is too large for this machine."""
    try:
        yield
    except MemoryError as error:
        why = " ".join(str(error).split())
        raise MachineError(f"{field}: out of memory, {peak_memory()}; make it smaller: {why}") from error


def _line(error: BaseException) -> str:
    """The first line of an error, without the stack that torch writes below it."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
