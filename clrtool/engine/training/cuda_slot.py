"""What a captured step reads and writes on the device: a clock that all seeds share, and a slot for each of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from clrtool.engine.data.ahead import OrdersAhead
from clrtool.engine.data.loader import Order, ResidentLoader
from clrtool.engine.training.in_place import copies_of, copy_all, copy_tensors
from clrtool.engine.training.optimizers import OptimizerRecipe
from clrtool.engine.training.trainer import Trainer
from clrtool.engine.training.workload import Workload

# Learning rates that a graph has room for at the least, so that it serves a scout and the sweep after it.
ROOM = 4096


def device_options(workload: Workload) -> Mapping[str, Any]:
    """The options with which a torch optimizer reads its learning rate on the device; none if it cannot."""
    recipe = workload.make_optimizer
    assert isinstance(recipe, OptimizerRecipe)
    names = {"fused", "capturable"} if workload.device.type == "cuda" else {"fused"}
    found = names & recipe.parameters
    if found == {"fused"} and not _has_fused_step(recipe.build, workload.device):
        found = set()
    return dict.fromkeys(found, True)


@cache
def _has_fused_step(build: Callable[..., Optimizer], device: torch.device) -> bool:
    """Whether an optimizer steps by one kernel there: to torch 2.11 Adagrad takes the word and refuses to step."""
    weight = nn.Parameter(torch.zeros(1, device=device))
    weight.grad = torch.zeros_like(weight)
    try:
        build([weight], lr=torch.tensor(1.0, device=device), fused=True).step()
    except RuntimeError as error:
        if "fused" not in str(error):
            raise
        return False
    return True


class Clock:
    """What of a step is the same for all seeds: which it is, its place in the epoch, and its learning rate.

    Args:
        table: the learning rate of every iteration, and room for more.
        lr: that of this one.
        place: of this one in its epoch.
        now: where in a row of losses this one's belongs.
    """

    def __init__(self, workload: Workload, lrs: Sequence[float]) -> None:
        device = workload.device
        self.table = torch.zeros(max(len(lrs), ROOM), device=device)
        self.put(lrs)
        self.lr = torch.zeros(1, device=device)
        self._both = torch.zeros(2, dtype=torch.int64, device=device)
        self._iteration, self.place = self._both[:1], self._both[1:]
        self._all = torch.arange(len(self.table), device=device)
        self.now = self._all == self._iteration
        self._epoch, self._next = workload.iterations_per_epoch, -1

    def put(self, lrs: Sequence[float]) -> None:
        """Have the first iterations have these learning rates."""
        self.table[: len(lrs)] = torch.tensor(lrs, dtype=torch.float32)

    def seek(self, iteration: int) -> None:
        """Have the next step be that of ``iteration``: something to do only where it does not follow."""
        place = iteration % self._epoch
        if iteration != self._next or place == 0:
            self._iteration.fill_(iteration)
            self.place.fill_(place)
        self._next = iteration + 1

    def read(self) -> None:
        torch.index_select(self.table, 0, self._iteration, out=self.lr)
        torch.eq(self._all, self._iteration, out=self.now)

    def advance(self) -> None:
        self._both += 1


class SeedSlot:
    """One seed, with all that its step reads and writes on the device."""

    def __init__(self, workload: Workload, seed: int, clock: Clock, losses: Tensor) -> None:
        assert isinstance(workload.loader, ResidentLoader)
        self.workload, self.loader, self._clock, self._losses = workload, workload.loader, clock, losses
        self.trainer = _trainer(workload, seed)
        # The steps before capture are meant to be uncaptured: torch need not warn of them.
        self.trainer.optimizer._warned_capturable_if_run_uncaptured = True
        for group in self.trainer.optimizer.param_groups:  # torch gives the same tensor to all
            group["lr"] = clock.lr.view(()) if group["lr_ratio"] == 1 else torch.zeros((), device=workload.device)
        self._orders = OrdersAhead(self.loader)
        self._epoch, self._order = 0, self._batches(self._orders.order(seed, 0))
        self._taken = self._order[0][0]
        self._start = copies_of(_tensors(self.trainer))
        self._optimizer_start = copies_of([value for _, value in _optimizer_tensors(self.trainer)])
        workload.set_train_mode(self.trainer.model)

    def begin_again(self, seed: int) -> None:
        """Be what a slot of this seed is at its beginning, in the memory that the graph knows."""
        fresh = _trainer(self.workload, seed)
        self._start, self._optimizer_start = _tensors(fresh), [value for _, value in _optimizer_tensors(fresh)]
        self.reset()
        self.forget_start()
        self.follow(seed)

    def follow(self, seed: int) -> None:
        """Take the batches of another seed from here on."""
        self.trainer.follow(seed)
        self._go_to(0)

    def seek(self, iteration: int) -> None:
        """Have the batches be those of the epoch of ``iteration``."""
        epoch = iteration // self.loader.iterations_per_epoch
        if epoch != self._epoch:
            self._go_to(epoch)

    def _go_to(self, epoch: int) -> None:
        for current, fresh in zip(
            self._order, self._batches(self._orders.order(self.trainer.seed, epoch)), strict=True
        ):
            current.copy_(fresh)
        self._epoch = epoch

    def _batches(self, order: Order) -> list[Tensor]:
        """An order with a row for each batch: indices of samples, then what augmentation draws, if any."""
        number, size = self.loader.iterations_per_epoch, self.loader.batch_size
        rows = (each for each in order if each is not None)
        return [each[: number * size].reshape(number, size, *each.shape[1:]) for each in rows]

    def step(self) -> None:
        """One optimizer step, by operations on the device alone."""
        rows = [each.index_select(0, self._clock.place).squeeze(0) for each in self._order]
        self._taken, draws = rows[0], rows[1] if len(rows) > 1 else None
        loss = self.workload.gradients(self.trainer, self.loader.gather(self._taken, draws))
        assert loss is not None
        self.workload.clip(self.trainer.model)
        for group in self.trainer.optimizer.param_groups:
            if group["lr_ratio"] != 1:
                torch.mul(self._clock.lr.view(()), group["lr_ratio"], out=group["lr"])
        self.trainer.optimizer.step()
        # an indexed write would be sorted first where the same bits are asked for
        torch.where(self._clock.now, loss.to(self._losses.dtype), self._losses, out=self._losses)

    def took(self, iteration: int) -> bool:
        """Whether the last step was taken with the batch of ``iteration``."""
        epoch, place = divmod(iteration, self.loader.iterations_per_epoch)
        return torch.equal(self._taken, self._batches(self.loader.order(self.trainer.seed, epoch))[0][place])

    def reset(self) -> None:
        """Weights, statistics and optimizer as they were made, in the memory that the graph knows."""
        copy_all(self._start, _tensors(self.trainer))
        state = _optimizer_tensors(self.trainer)
        if self._optimizer_start:
            copy_all(self._optimizer_start, [value for _, value in state])
        else:  # what was not there before the first step begins at zero, but for NAdam's product of momenta
            for name, value in state:
                value.fill_(float(name == "mu_product"))
        self.trainer.optimizer.zero_grad()

    def forget_start(self) -> None:
        """Give back the memory of what :meth:`reset` needs."""
        self._start, self._optimizer_start = [], []

    def state(self) -> dict[str, Any]:
        """Weights, statistics and optimizer as they are."""
        optimizer = [value for _, value in _optimizer_tensors(self.trainer)]
        return {"tensors": _tensors(self.trainer), "optimizer": optimizer}

    def lacks_state(self, saved: Mapping[str, Any]) -> bool:
        """Whether the optimizer has still to make what was saved of it."""
        return len(_optimizer_tensors(self.trainer)) < len(saved["optimizer"])

    def restore(self, saved: Mapping[str, Any]) -> None:
        for name, tensors in self.state().items():
            copy_tensors(dict(enumerate(saved[name])), dict(enumerate(tensors)))


def _trainer(workload: Workload, seed: int) -> Trainer:
    """One whose optimizer reads its learning rate on the device."""
    return Trainer(workload, seed, lr=torch.tensor(1.0, device=workload.device), **device_options(workload))


def _tensors(trainer: Trainer) -> list[Tensor]:
    """Weights and buffers, which a step changes in place."""
    return [*trainer.model.parameters(), *trainer.model.buffers()]


def _optimizer_tensors(trainer: Trainer) -> list[tuple[str, Tensor]]:
    states = trainer.optimizer.state.values()
    return [(name, value) for state in states for name, value in state.items() if isinstance(value, Tensor)]
