"""The ranks of a program that has made a process group of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import distributed as dist

from clrtool.engine.runtime.distributed import RANK_TIMEOUT, ProcessGroup, is_lost
from clrtool.engine.runtime.ranks import SINGLE_PROCESS, Ranks
from clrtool.errors import MachineError

# Nobody has kept a checkpoint for a program.
LOST_TO_PROGRAM = (
    "a rank was lost: it was killed, hangs, cannot be reached, or raised an error of its own, which that rank tells"
)


@contextmanager
def ranks_of_program() -> Iterator[Ranks]:
    """The ranks of the process group that a program has made; this process alone where it has made none.

    They talk in a group of their own, which needs every rank, and the program's is as it was afterwards.

    Raises:
        MachineError: a rank was lost, or did not come.
    """
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        yield SINGLE_PROCESS
        return
    group = _group_beside()
    ranks = ProcessGroup(
        rank=dist.get_rank(),
        world=dist.get_world_size(),
        local_rank=dist.get_node_local_rank(fallback_rank=0),
        store=group.get_group_store(),
        group=group,
        lost=LOST_TO_PROGRAM,
    )
    try:
        yield ranks
    except RuntimeError as error:
        if isinstance(error, MachineError) or not is_lost(error):
            raise
        raise MachineError(LOST_TO_PROGRAM) from error
    finally:
        dist.destroy_process_group(group)


def _group_beside() -> dist.ProcessGroup:
    """A group of all ranks of the program's that can send what lies on a CPU too."""
    backend, wait = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timedelta(seconds=RANK_TIMEOUT)
    try:
        group = dist.new_group(backend=backend, timeout=wait)
    except RuntimeError as error:
        world = dist.get_world_size()
        raise MachineError(f"not all of the {world} ranks came to the range test: call it on every rank") from error
    assert isinstance(group, dist.ProcessGroup)  # this rank is in it
    return group
