"""The answers of the last layer of a network, heard from outside of the step that uses them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from clrtool.engine.runtime.rng import RngStream
from clrtool.engine.runtime.sharded import forget_gathered, whole
from clrtool.engine.training.trainer import Trainer
from clrtool.errors import MachineError


class Heard(NamedTuple):
    """A module and what it said.

    Args:
        output: (samples, ...), without its graph.
    """

    module: nn.Module
    output: Tensor


@contextmanager
def listening(model: nn.Module) -> Iterator[list[Heard]]:
    """Hear the module with weights of its own that answers last with a tensor of numbers; nothing, where none does."""
    heard: list[Heard] = []

    def note(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.is_floating_point() and output.ndim > 1:
            heard[:] = [Heard(module, output.detach())]

    layers = [each for each in model.modules() if any(True for _ in each.parameters(recurse=False))]
    hooks = [each.register_forward_hook(note) for each in layers]
    try:
        yield heard
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def spread_of_answers(trainer: Trainer) -> float | None:
    """How far the last layer's answers to a batch of the training set differ from input to input.

    The standard deviation over the samples, the mean over all that is said of each: 0 where a network says the same
    whatever it is given. None where no layer is heard. The model is read as it lies there, in evaluation mode.
    """
    workload = trainer.workload
    trainer.model.eval()
    with RngStream(trainer.seed, device=workload.device).active(), listening(trainer.model) as heard:
        try:
            deque(workload.losses(trainer.model, *trainer.first_batches(1)), maxlen=0)
        except MachineError:
            raise
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError):
            pass  # the step needs gradients, or losses that the model gives in training alone; its answers were heard
    forget_gathered(trainer.model)
    if not heard:
        return None
    spread = whole(heard[0].output).float().std(0, correction=0).mean()
    return float(workload.ranks.numbers(workload.ranks.mean(spread)))
