"""Several ranks, over a process group of torch. Only tensors go over the network, and nothing read from it is run."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch import distributed as dist

from clrtool.engine.runtime.ranks import Ranks
from clrtool.engine.runtime.rng import seed_everything
from clrtool.engine.runtime.serialize import from_bytes, to_bytes
from clrtool.engine.runtime.sharded import holders, is_shard, local
from clrtool.errors import MachineError

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

# Seconds without a word after which a rank is taken to hang. One may read data for long, but not like this.
RANK_TIMEOUT = 600.0
# Seconds between two looks for what another rank has left in the store.
POLL_INTERVAL = 0.02
# The same while the device computes, and between two questions whether it is done: less than a step takes.
LOOK_INTERVAL, AWAKE = 1.0, 1e-4
# The key under which the first that fails says so.
FAILED = "failed"
LOST = (
    "a rank was lost: it was killed, hangs or cannot be reached; torchrun's own report follows. The same command "
    "resumes from the checkpoint, which torchrun --max-restarts 1 does by itself"
)
# Bytes of gradients that go over the network at once: enough to fill it, and little beside a model.
BUCKET = 2**25


@dataclass(frozen=True, eq=False, kw_only=True)
class ProcessGroup(Ranks):
    """Several processes.

    Args:
        local_rank: of this process on its machine.
        store: what the processes leave for each other, on the first machine.
        batch_norm: what it sees; empty if there is none.
        finds_unused: whether each step looks for parameters that were not used in it.
        group: of torch, of all processes; None for its default one.
        shared: the processes that compute together what one batch comes to, where there are several.
        column: the group of those that add up their gradients, where it is not all of them.
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
    shared: tuple[int, ...] = ()
    column: dist.ProcessGroup | None = None
    lost: str = LOST

    @property
    def process(self) -> int:
        return dist.get_rank(self.group) if self.shared else self.rank

    @property
    def processes(self) -> int:
        return self.world * self._together

    @property
    def _together(self) -> int:
        """How many have the same numbers of a batch."""
        return max(1, len(self.shared))

    @property
    def facts(self) -> dict[str, str | int]:
        facts: dict[str, str | int] = {"ranks": self.processes}
        facts |= {"tensor_parallel": self._together} if self.shared else {}
        return facts | ({"batch_norm": self.batch_norm} if self.batch_norm else {})

    @property
    def engine(self) -> str:
        return f"eager, {self.processes} ranks" + (f", batch norm sees {self.batch_norm}" if self.batch_norm else "")

    def data_parallel(self, model: nn.Module) -> nn.Module:
        with self._no_rank_lost():
            return nn.parallel.DistributedDataParallel(model, find_unused_parameters=self.finds_unused)

    def seed_rank(self, seed: int) -> None:
        if self.rank:
            seed_everything(int(np.random.SeedSequence([seed, self.rank]).generate_state(1)[0]))

    def sum(self, values: Tensor) -> Tensor:
        found = self._all_reduce(values, dist.ReduceOp.SUM)  # over all, for what they decide by it is then one
        return found / self._together if self.shared else found

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
        whole = [each for each in parameters if each.requires_grad and self._is_whole(each)]
        flags = torch.tensor([skips, *(each.grad is not None for each in whole)], dtype=torch.uint8)
        any_skips, *used = self._all_reduce(flags, dist.ReduceOp.MAX).tolist()
        if any_skips:
            return False
        gradients = list[Tensor]()
        for each, is_used in zip(whole, used, strict=True):
            if is_used:  # here or on another rank
                each.grad = torch.zeros_like(each) if each.grad is None else each.grad
                gradients.append(local(each.grad))
        for bucket in _buckets(gradients) if self.world > 1 else ():
            flat = torch.cat([each.reshape(-1) for each in bucket]).div_(self.world)
            with self._no_rank_lost():
                dist.all_reduce(flat, group=self.column or self.group)
            parts = torch.split(flat, [each.numel() for each in bucket])
            torch._foreach_copy_(bucket, [part.view_as(each) for part, each in zip(parts, bucket, strict=True)])
        return True

    @torch.no_grad()
    def align(self, model: nn.Module) -> None:
        self._follow_first((*model.parameters(), *model.buffers()))

    def broadcast_buffers(self, model: nn.Module) -> None:
        self._follow_first(model.buffers())

    def _follow_first(self, tensors: Iterable[Tensor]) -> None:
        """Give tensors of which each rank has a whole one the values of the first."""
        with self._no_rank_lost():
            for each in filter(self._is_whole, tensors):
                dist.broadcast(local(each), group=self.column or self.group, group_src=0)

    def _is_whole(self, tensor: Tensor) -> bool:
        """Whether each of those that take batches of their own has all of a tensor, and torch adds up no gradients."""
        return not is_shard(tensor) or (bool(self.shared) and holders(tensor).issubset(self.shared))

    def all_gather(self, state: Mapping[str, Any]) -> Any:
        mine = _to_tensor(state)
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.processes)]
        with self._no_rank_lost():
            dist.all_gather(lengths, torch.tensor([len(mine)]), group=self.group)
        padded = torch.zeros(max(map(int, lengths)), dtype=torch.uint8)
        padded[: len(mine)] = mine
        gathered = [torch.empty_like(padded) for _ in range(self.processes)]
        with self._no_rank_lost():
            dist.all_gather(gathered, padded, group=self.group)
        return [_from_tensor(content[: int(length)]) for content, length in zip(gathered, lengths, strict=True)]

    def gather(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        found = self.all_gather({"rank": self.rank, "tensors": [each.detach() for each in tensors]})
        of_ranks = {each["rank"]: each["tensors"] for each in found[::-1]}  # those that share a batch have the same
        return [each for rank in range(self.world) for each in of_ranks[rank]]

    def broadcast(self, values: Any) -> Any:
        content = _to_tensor(values) if self.process == 0 else torch.empty(0, dtype=torch.uint8)
        if (size := self.max(len(content)) or 0) > len(content):
            content = torch.empty(size, dtype=torch.uint8)
        with self._no_rank_lost():
            dist.broadcast(content, 0, group=self.group)
        return values if self.process == 0 else _from_tensor(content)

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
        """Turn what torch raises when another rank has gone into words; what is known to be something else stays it."""
        try:
            yield
        except RuntimeError as error:
            if isinstance(error, MachineError | torch.OutOfMemoryError | NotImplementedError):
                raise
            raise MachineError(self.lost) from error


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
