"""Ranks that torchrun has started for one command: how they meet, and how the first leads the others."""

from __future__ import annotations

import gc
import hashlib
import secrets
import time
from datetime import timedelta
from typing import TYPE_CHECKING

import torch
from torch import distributed as dist

from clrtool.engine.runtime.distributed import FAILED, POLL_INTERVAL, RANK_TIMEOUT, ProcessGroup
from clrtool.errors import MachineError

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

# What the first leaves in the store: that there is something to train, and that all is done.
BEGIN, END = "begin", "end"


class LaunchedRanks(ProcessGroup):
    """Several processes, of which the first does what a command does that runs alone, and the others train with it."""

    def begin(self, micro_batches: int | None) -> None:
        """Let the others train, a batch in so many micro-batches; None for those of the config."""
        self.store.set(BEGIN, str(micro_batches or 0))

    def told_to_begin(self) -> tuple[bool, int | None]:
        """Wait for the first: whether there is anything to train, and in how many micro-batches."""
        if self._wait(BEGIN, END) == END:
            return False, None
        return True, int(self.store.get(BEGIN)) or None

    def wait_for_end(self) -> None:
        """Stay until the first has done what it does alone: it may still read what this rank has sent."""
        try:
            self._wait(END)
        except MachineError:
            return  # it says itself what it failed in

    def end(self) -> None:
        """Let the others go, and close the connections."""
        if self.rank == 0:
            self.store.set(END, "")
        gc.collect()  # models that were trained hold the group, whose threads would abort the process at its exit
        dist.destroy_process_group()

    def first_failure(self, code: int) -> int | None:
        """Tell the others that this rank fails; if another had failed before, the exit code that it gave."""
        try:
            rank, first = map(int, self.store.compare_set(FAILED, "", f"{self.rank} {code}").split())
        except RuntimeError:  # the store went with the rank that held it
            return None
        return None if rank == self.rank else first


def join(rank: int, world: int, local_rank: int) -> LaunchedRanks:
    """Meet the other ranks where the environment says (MASTER_ADDR, MASTER_PORT): gloo on CPUs, NCCL on CUDA.

    Raises:
        MachineError: they do not come.
    """
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    wait = timedelta(seconds=RANK_TIMEOUT)
    try:
        store, _, _ = next(iter(rendezvous("env://", rank, world, timeout=wait)))
        store = PrefixStore(_meet(store, rank, world), store)
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        group = PrefixStore("group", store)
        dist.init_process_group(backend, store=group, rank=rank, world_size=world, timeout=wait)
    except MachineError:
        raise
    except (RuntimeError, ValueError) as error:
        raise MachineError(f"the {world} ranks cannot find each other: {error}") from error
    return LaunchedRanks(rank=rank, world=world, local_rank=local_rank, store=PrefixStore("clrtool", store))


def _meet(store: Store, rank: int, world: int) -> str:
    """A name for this start of the ranks: torchrun starts them again with what earlier ones have left in its store.

    Each leaves a number of its own; they have met when all have seen the same numbers.
    """
    store.set(f"hello {rank}", secrets.token_hex(8))
    keys, seen, end = [f"hello {each}" for each in range(world)], set[str](), time.monotonic() + RANK_TIMEOUT
    while time.monotonic() < end:
        if store.check(keys):
            name = hashlib.sha256(b" ".join(store.get(key) for key in keys)).hexdigest()
            if store.add(name, int(name not in seen)) == world:
                return name
            seen.add(name)
        time.sleep(POLL_INTERVAL)
    raise MachineError(f"not all of the {world} ranks arrived within {RANK_TIMEOUT:g} s")


def device_of_rank(name: str, local_rank: int) -> str:
    """The device of a rank: its own GPU of its machine, or the CPU.

    Raises:
        MachineError: the machine has fewer GPUs than ranks.
    """
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return "cpu"
    if name in ("auto", "cuda") and local_rank >= torch.cuda.device_count():
        raise MachineError(
            f"rank {local_rank} of this machine finds {torch.cuda.device_count()} CUDA devices: start no more ranks "
            "than there are (torchrun --nproc-per-node), or give --device cpu"
        )
    return f"cuda:{local_rank}" if name in ("auto", "cuda") else name
