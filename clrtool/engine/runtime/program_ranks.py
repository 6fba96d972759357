"""The ranks of a program that has made a process group of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import torch
from torch import distributed as dist

from clrtool.engine.runtime.distributed import RANK_TIMEOUT, ProcessGroup, is_lost
from clrtool.engine.runtime.ranks import SINGLE_PROCESS, Ranks
from clrtool.engine.runtime.tensor_parallel import seat_of, told_of
from clrtool.errors import MachineError

WAIT = timedelta(seconds=RANK_TIMEOUT)
# Nobody has kept a checkpoint for a program.
LOST_TO_PROGRAM = (
    "a rank was lost: it was killed, hangs, cannot be reached, or raised an error of its own, which that rank tells"
)


@contextmanager
def ranks_of_program(model: Any) -> Iterator[Ranks]:
    """The ranks of the process group that a program has made; this process alone where it has made none.

    They talk in groups of their own, which need every rank, and the program's is as it was afterwards.

    Args:
        model: which tells whether some of them share each batch.

    Raises:
        ConfigError: the model is not spread evenly over them.
        MachineError: a rank was lost, or did not come.
    """
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        yield SINGLE_PROCESS
        return
    group, column = _group_beside(), None
    ranks = ProcessGroup(
        rank=dist.get_rank(),
        world=dist.get_world_size(),
        local_rank=dist.get_node_local_rank(fallback_rank=0),
        store=group.get_group_store(),
        group=group,
        lost=LOST_TO_PROGRAM,
    )
    try:
        seat = seat_of(ranks.rank, ranks.all_gather(told_of(model)))
        if seat.world < ranks.world:
            column, _ = dist.new_subgroups_by_enumeration(seat.columns, backend=_backend(), timeout=WAIT)
            assert isinstance(column, dist.ProcessGroup)  # this rank is in it
            ranks = replace(ranks, rank=seat.rank, world=seat.world, shared=seat.shared, column=column)
        yield ranks
    except RuntimeError as error:
        if isinstance(error, MachineError) or not is_lost(error):
            raise
        raise MachineError(LOST_TO_PROGRAM) from error
    finally:
        for each in (column, group):
            if each is not None:
                dist.destroy_process_group(each)


def _group_beside() -> dist.ProcessGroup:
    """A group of all ranks of the program's that can send what lies on a CPU too."""
    try:
        group = dist.new_group(backend=_backend(), timeout=WAIT)
    except RuntimeError as error:
        world = dist.get_world_size()
        raise MachineError(f"not all of the {world} ranks came to the range test: call it on every rank") from error
    assert isinstance(group, dist.ProcessGroup)  # this rank is in it
    return group


def _backend() -> str:
    """What sends tensors from where they lie."""
    return "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
