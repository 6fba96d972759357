"""Ranks: the processes of one range test, each of which trains on its shard of every batch.

What a test decides it decides from numbers that were summed over all ranks, so all decide alike; what comes from
outside, a signal or the clock, is asked of all of them. Only tensors go over the network: nothing that is read from
it is run.
"""

from __future__ import annotations

import gc
import hashlib
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch import distributed as dist

from clrtool.engine.runtime.rng import seed_everything
from clrtool.engine.runtime.serialize import from_bytes, to_bytes
from clrtool.engine.runtime.sharded import is_shard
from clrtool.errors import MachineError

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

# Seconds without a word after which a rank is taken to hang. One may read data for long, but not like this.
RANK_TIMEOUT = 600.0
# Seconds between two looks for what another rank has left in the store.
POLL_INTERVAL = 0.02
# The same while the device computes, and between two questions whether it is done: less than a step takes.
LOOK_INTERVAL, AWAKE = 1.0, 1e-4
# Keys of the store.
BEGIN, END, FAILED = "begin", "end", "failed"
LOST = (
    "a rank was lost: it was killed, hangs or cannot be reached; torchrun's own report follows. The same command "
    "resumes from the checkpoint, which torchrun --max-restarts 1 does by itself"
)
# The same to a program, which nobody has kept a checkpoint for.
LOST_TO_PROGRAM = (
    "a rank was lost: it was killed, hangs, cannot be reached, or raised an error of its own, which that rank tells"
)
# Bytes of gradients that go over the network at once: enough to fill it, and little beside a model.
BUCKET = 2**25


class Ranks:
    """All ranks of a test that runs in one process: that process. What it has is what all have.

    Args:
        rank: of this process, from 0.
        world: how many there are.
        matters: whether another number of ranks makes another test, and not the same one up to rounding.
    """

    rank: int = 0
    world: int = 1
    matters: bool = False

    @property
    def facts(self) -> dict[str, str | int]:
        """What a result depends on, for its record."""
        return {}

    @property
    def engine(self) -> str:
        """How the steps are run, for the record."""
        return "eager"

    def shard(self, size: int) -> range:
        """The indices of this rank, of so many."""
        return range(self.rank * size // self.world, (self.rank + 1) * size // self.world)

    def data_parallel(self, model: nn.Module) -> nn.Module:
        """The model as it is trained, with gradients that are the means over all ranks."""
        return model

    def seed_rank(self, seed: int) -> None:
        """Let every rank but the first draw numbers of its own from here on: dropout, say."""

    def average_gradients(self, parameters: Iterable[nn.Parameter], *, skips: bool) -> bool:  # noqa: ARG002
        """Have every gradient be the mean over all ranks; those of shards are when they are made.

        Args:
            skips: whether this rank has no loss for its batch.

        Returns:
            Whether all have one; else no gradient was touched, and the step is to be skipped.
        """
        return not skips

    def align(self, model: nn.Module) -> None:
        """Give every rank the weights and buffers of the first, but for those of which each holds a shard."""

    def sum(self, values: Tensor) -> Tensor:
        return values

    def mean(self, values: Tensor) -> Tensor:
        return values

    def numbers(self, values: Tensor) -> Any:
        """Values as plain numbers, in lists as deep as they have dimensions; the device is waited for."""
        return values.tolist()

    def any(self, flag: bool) -> bool:
        return flag

    def max(self, number: int | None) -> int | None:
        return number

    def broadcast_buffers(self, model: nn.Module) -> None:
        """Give every rank the buffers of the first: the averages of batch norm, for an evaluation."""

    def all_gather(self, state: Mapping[str, Any]) -> Any:
        """The states of all ranks, for a checkpoint."""
        return state

    def gather(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Small tensors of all ranks, in their order; those of others on the CPU."""
        return [*tensors]

    def of_this_rank(self, states: Any) -> Any:
        """The state of this rank in :meth:`all_gather`; None if there were fewer ranks."""
        states = states if isinstance(states, list) else [states]
        return states[self.rank] if self.rank < len(states) else None

    def broadcast(self, values: Any) -> Any:
        """The values that the first rank has."""
        return values

    def differing(self, hashes: Mapping[str, str]) -> list[str]:  # noqa: ARG002
        """The names of hashes that are not the same on all ranks."""
        return []

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """Let one rank of each machine do first what the others then find done."""
        yield


SINGLE_PROCESS = Ranks()


@dataclass(frozen=True, eq=False, kw_only=True)
class ProcessGroup(Ranks):
    """Several processes.

    Args:
        local_rank: of this process on its machine.
        store: what the processes leave for each other, on the first machine.
        batch_norm: what it sees; empty if there is none.
        finds_unused: whether each step looks for parameters that were not used in it.
        group: of torch; None for its default one.
        lost: what to say where a rank has gone.
    """

    rank: int
    world: int
    local_rank: int
    store: Store
    matters: bool = True
    batch_norm: str = ""
    finds_unused: bool = False
    group: dist.ProcessGroup | None = None
    lost: str = LOST

    @property
    def facts(self) -> dict[str, str | int]:
        return {"ranks": self.world} | ({"batch_norm": self.batch_norm} if self.batch_norm else {})

    @property
    def engine(self) -> str:
        return f"eager, {self.world} ranks" + (f", batch norm sees {self.batch_norm}" if self.batch_norm else "")

    def data_parallel(self, model: nn.Module) -> nn.Module:
        with self._no_rank_lost():
            return nn.parallel.DistributedDataParallel(model, find_unused_parameters=self.finds_unused)

    def seed_rank(self, seed: int) -> None:
        if self.rank:
            seed_everything(int(np.random.SeedSequence([seed, self.rank]).generate_state(1)[0]))

    def sum(self, values: Tensor) -> Tensor:
        return self._all_reduce(values, dist.ReduceOp.SUM)

    def mean(self, values: Tensor) -> Tensor:
        # in float64 the order, which depends on how many values there are, does not matter
        return self.sum(values.to(torch.float64, copy=True)) / self.world

    def numbers(self, values: Tensor) -> Any:
        if values.is_cuda:
            self._wait_for(torch.cuda.current_stream(values.device).record_event())
        return values.tolist()

    def any(self, flag: bool) -> bool:
        return bool(self._all_reduce(torch.tensor(int(flag)), dist.ReduceOp.MAX))

    def max(self, number: int | None) -> int | None:
        found = int(self._all_reduce(torch.tensor(-1 if number is None else number), dist.ReduceOp.MAX))
        return None if found < 0 else found

    def average_gradients(self, parameters: Iterable[nn.Parameter], *, skips: bool) -> bool:
        whole = [each for each in parameters if each.requires_grad and not is_shard(each)]
        flags = torch.tensor([skips, *(each.grad is not None for each in whole)], dtype=torch.uint8)
        any_skips, *used = self._all_reduce(flags, dist.ReduceOp.MAX).tolist()
        if any_skips:
            return False
        gradients = list[Tensor]()
        for each, is_used in zip(whole, used, strict=True):
            if is_used:  # here or on another rank
                each.grad = torch.zeros_like(each) if each.grad is None else each.grad
                gradients.append(each.grad)
        for bucket in _buckets(gradients):
            flat = torch.cat([each.reshape(-1) for each in bucket]).div_(self.world)
            parts = torch.split(self._all_reduce(flat, dist.ReduceOp.SUM), [each.numel() for each in bucket])
            torch._foreach_copy_(bucket, [part.view_as(each) for part, each in zip(parts, bucket, strict=True)])
        return True

    @torch.no_grad()
    def align(self, model: nn.Module) -> None:
        with self._no_rank_lost():
            for each in (*model.parameters(), *model.buffers()):
                if not is_shard(each):
                    dist.broadcast(each, 0, group=self.group)

    def broadcast_buffers(self, model: nn.Module) -> None:
        with self._no_rank_lost():
            for buffer in model.buffers():
                if not is_shard(buffer):
                    dist.broadcast(buffer, 0, group=self.group)

    def all_gather(self, state: Mapping[str, Any]) -> Any:
        mine = _to_tensor(state)
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.world)]
        with self._no_rank_lost():
            dist.all_gather(lengths, torch.tensor([len(mine)]), group=self.group)
        padded = torch.zeros(max(map(int, lengths)), dtype=torch.uint8)
        padded[: len(mine)] = mine
        gathered = [torch.empty_like(padded) for _ in range(self.world)]
        with self._no_rank_lost():
            dist.all_gather(gathered, padded, group=self.group)
        return [_from_tensor(content[: int(length)]) for content, length in zip(gathered, lengths, strict=True)]

    def gather(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return [each for mine in self.all_gather({"": [each.detach() for each in tensors]}) for each in mine[""]]

    def broadcast(self, values: Any) -> Any:
        content = _to_tensor(values) if self.rank == 0 else torch.empty(0, dtype=torch.uint8)
        if (size := self.max(len(content)) or 0) > len(content):
            content = torch.empty(size, dtype=torch.uint8)
        with self._no_rank_lost():
            dist.broadcast(content, 0, group=self.group)
        return values if self.rank == 0 else _from_tensor(content)

    def differing(self, hashes: Mapping[str, str]) -> list[str]:
        mine = torch.tensor([_as_int(text) for text in hashes.values()])
        most, least = (self._all_reduce(mine.clone(), op) for op in (dist.ReduceOp.MAX, dist.ReduceOp.MIN))
        return [name for name, same in zip(hashes, (most == least).tolist(), strict=True) if not same]

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        key = f"turn {self.rank - self.local_rank}"
        if self.local_rank:
            self._wait(key)
        yield
        if not self.local_rank:
            self.store.set(key, "")

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

    def _wait(self, *keys: str) -> str:
        """The first of the keys that is in the store. The interpreter stays awake for signals."""
        while True:
            with self._no_rank_lost():
                for key in keys:
                    if self.store.check([key]):
                        return key
                if self.store.check([FAILED]):
                    raise MachineError(self.lost)
            time.sleep(POLL_INTERVAL)

    def _wait_for(self, event: Any) -> None:
        """Wait for what the device does, awake: where a rank was lost, a kernel of NCCL may wait for it without end."""
        look = time.monotonic() + LOOK_INTERVAL
        while not event.query():
            if time.monotonic() > look:
                with self._no_rank_lost():
                    if self.store.check([FAILED]):
                        raise MachineError(self.lost)
                look = time.monotonic() + LOOK_INTERVAL
            time.sleep(AWAKE)

    def _all_reduce(self, values: Tensor, op: Any) -> Tensor:
        with self._no_rank_lost():
            dist.all_reduce(values, op, group=self.group)
        return values

    @contextmanager
    def _no_rank_lost(self) -> Iterator[None]:
        """Turn what torch raises when another rank has gone into words; running out of memory stays what it is."""
        try:
            yield
        except RuntimeError as error:
            if isinstance(error, MachineError | torch.OutOfMemoryError):
                raise
            raise MachineError(self.lost) from error


def join(rank: int, world: int, local_rank: int) -> ProcessGroup:
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
    return ProcessGroup(rank=rank, world=world, local_rank=local_rank, store=PrefixStore("clrtool", store))


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


def is_lost(error: BaseException) -> bool:
    """Whether another rank has gone: torch raises it wherever gradients meet."""
    return dist.is_initialized() and (isinstance(error, dist.DistError) or "gloo" in str(error))


def _buckets(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Tensors of one type and device together, in groups of about a size, in their order."""
    open_buckets: dict[object, list[Tensor]] = {}
    for each in tensors:
        bucket = open_buckets.setdefault((each.dtype, each.device), [])
        bucket.append(each)
        if sum(part.nbytes for part in bucket) >= BUCKET:
            yield open_buckets.pop((each.dtype, each.device))
    yield from open_buckets.values()


def _to_tensor(values: Any) -> Tensor:
    """Plain values and tensors as they go over the network."""
    return torch.frombuffer(bytearray(to_bytes(values)), dtype=torch.uint8)


def _from_tensor(content: Tensor) -> Any:
    return from_bytes(content.numpy().tobytes())


def _as_int(text: str) -> int:
    """A hash as a number of 63 bits."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
