"""Capture of a CUDA graph that, where it fails, leaves the process as if nothing had been tried.

``torch.cuda.graph`` does not: where the end of a capture raises, its stream stays the current one, the allocator goes
on to put memory into the graph's pool, the pool is never given back, and until torch 2.11 the generator believes that
a capture is under way, so that the next dropout raises.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from itertools import cycle
from typing import Any

import torch

# Graphs whose capture failed: the allocator of pinned memory may hold a pointer to one until the process ends.
_failed: list[torch.cuda.CUDAGraph] = []


def capture(record: Callable[[], object]) -> torch.cuda.CUDAGraph:
    """What ``record`` does on the current device, as a graph with memory of its own.

    Raises:
        Exception: that of the capture; everything is put back, as far as torch lets it.
    """
    stream, device = torch.cuda.current_stream(), torch.cuda.current_device()
    graph, pool = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle()
    try:
        with torch.cuda.graph(graph, pool=pool, stream=side_streams(device, 0)[0]):
            record()
    except BaseException:
        _end(graph)
        torch.cuda.set_stream(stream)
        _release(graph, device, pool)
        _settle_generator(device)
        torch.cuda.set_stream(stream)
        raise
    return graph


@cache
def side_streams(device: int, number: int) -> tuple[torch.cuda.Stream, ...]:
    """A stream to capture on and ``number`` more: always the same, for cuBLAS keeps a workspace for each."""
    if number:
        return (*side_streams(device, number - 1), torch.cuda.Stream(device))  # type: ignore[no-untyped-call]
    return (torch.cuda.Stream(device),)  # type: ignore[no-untyped-call]


def on_streams(streams: Sequence[torch.cuda.Stream], works: Sequence[Callable[[], object]]) -> None:
    """Do all works, on the streams in turn, so that small kernels of several run at once; without any, as they come."""
    if not streams:
        for work in works:
            work()
        return
    main = torch.cuda.current_stream()
    for stream in streams:
        stream.wait_stream(main)
    try:
        for work, stream in zip(works, cycle(streams), strict=False):
            with torch.cuda.stream(stream):
                work()
    finally:  # a capture that fails with work left on a stream would hide why
        for stream in streams:
            main.wait_stream(stream)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether that is what an error began with."""
    return isinstance(first_error(error), torch.OutOfMemoryError | MemoryError)


def first_error(error: BaseException) -> BaseException:
    """What an error began with: a capture that an error has broken fails at its end too."""
    while error.__context__ is not None:
        error = error.__context__
    return error


@contextmanager
def refusing_waits(refuses: bool) -> Iterator[None]:
    """Have whatever waits for the device raise, which would break a capture with a message of less use."""
    before = torch.cuda.get_sync_debug_mode()
    _set_sync_debug_mode("error" if refuses else before)
    try:
        yield
    finally:
        _set_sync_debug_mode(before)


def _set_sync_debug_mode(mode: int | str) -> None:
    with warnings.catch_warnings():  # that the mode is a prototype must not be why a capture fails
        warnings.filterwarnings("ignore", message="Synchronization debug mode")
        torch.cuda.set_sync_debug_mode(mode)


def _end(graph: torch.cuda.CUDAGraph) -> None:
    """End a capture that nobody has ended. Raises nothing: it has failed already."""
    with suppress(RuntimeError):
        if torch.cuda.is_current_stream_capturing():
            graph.capture_end()


def _release(graph: torch.cuda.CUDAGraph, device: int, pool: Any) -> None:
    """Give back the pool of a failed capture, once: a second time would break the allocator."""
    ended = _has_ended(graph)  # a graph that has, gives its pool back in reset
    with suppress(RuntimeError):
        graph.reset()
    _failed.append(graph)
    if ended:
        return
    with suppress(RuntimeError):  # torch itself has ended and released it, as it does after 2.11, or never begun
        torch._C._cuda_endAllocateToPool(device, pool)
        torch._C._cuda_releasePool(device, pool)


def _has_ended(graph: torch.cuda.CUDAGraph) -> bool:
    try:
        graph.pool()
    except RuntimeError:
        return False
    return True


def _settle_generator(device: int) -> None:
    """Capture one kernel, at whose end the generator takes note that no capture is under way."""
    graph, cell = torch.cuda.CUDAGraph(), None
    with suppress(RuntimeError):
        cell = torch.zeros(1, device=torch.device("cuda", device))
        with torch.cuda.graph(graph, stream=side_streams(device, 0)[0]):
            cell.add_(1)
    if not _has_ended(graph):
        _failed.append(graph)
