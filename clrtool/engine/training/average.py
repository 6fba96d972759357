"""The running average of a model's weights, which stands in for a decayed learning rate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from clrtool.engine.runtime.sharded import Shard, forget_gathered, is_sharded, local, local_tensors, part_of
from clrtool.engine.training.in_place import copies_of, copy_all, copy_tensors

# Weight of late iterates, by the power of time with which they count.
GAMMA = 3.0


class RunningAverage:
    """A polynomially weighted average over the iterates of a training.

    After t updates, with w the weights::

        average += (w - average) * min(1, (GAMMA + 1) / (t + GAMMA))

    Shamir and Zhang, arXiv 1212.1824, section 4. Along a constant rate it is about as good as weights whose rate came
    down (Hägele et al., arXiv 2405.18392), so a run at a flat rate can be read at every length.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        forget_gathered(model)
        self.updates = 0
        # in half precision the share of a late update would be lost
        self.weights = {
            name: local(weight).detach().to(torch.promote_types(weight.dtype, torch.float32), copy=True)
            for name, weight in model.named_parameters()
        }
        # to look for them in the model takes longer than the update of a small one
        self._own, self._means = list(model.parameters()), list(self.weights.values())
        self._is_spread = is_sharded(model)

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights as they are now."""
        self.updates += 1
        share = min(1.0, (GAMMA + 1) / (self.updates + GAMMA))
        pairs = zip(map(local, self._own) if self._is_spread else self._own, self._means, strict=True)
        weights = [own if own.dtype == mean.dtype else own.to(mean.dtype) for own, mean in pairs]
        torch._foreach_lerp_(self._means, weights, share)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Have the model hold the average, and afterwards its own weights and buffers again."""
        tensors = local_tensors(self._model)
        own = copies_of([*tensors.values()])
        try:
            copy_all(self.weights.values(), [tensors[name] for name in self.weights])
            forget_gathered(self._model)
            yield
        finally:
            copy_all(own, tensors.values())
            forget_gathered(self._model)

    def state(self) -> dict[str, Any]:
        """All of it, in plain types and tensors; of a sharded model the part of this rank."""
        named = zip(self.weights.items(), self._own, strict=True)
        weights = {name: Shard(mean, own) for (name, mean), own in named} if self._is_spread else self.weights
        return {"updates": self.updates, "weights": weights}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Put back a :meth:`state`."""
        self.updates = int(state["updates"])
        likes = dict(zip(self.weights, self._own, strict=True))
        copy_tensors({name: part_of(each, likes[name]) for name, each in state["weights"].items()}, self.weights)


def has_statistics(model: nn.Module) -> bool:
    """Whether some batch norm has statistics, which follow from the weights."""
    return any(isinstance(module, _BatchNorm) and module.track_running_stats for module in model.modules())


def batch_norms(model: nn.Module) -> list[Any]:
    """The modules whose statistics belong to the weights, and follow the batches that go through."""
    found = (module for module in model.modules() if isinstance(module, _BatchNorm))
    return [module for module in found if module.track_running_stats and module.training]


@contextmanager
def estimating(norms: Sequence[Any]) -> Iterator[None]:
    """Have statistics be the mean over the batches that go through, from the first on."""
    momenta = [module.momentum for module in norms]
    for module in norms:
        module.reset_running_stats()
        module.momentum = None
    try:
        yield
    finally:
        for module, momentum in zip(norms, momenta, strict=True):
            module.momentum = momentum
