"""The evaluation of all seeds on CUDA as one captured graph, which is read in one transfer.

Of a small network an evaluation is a few dozen kernels that take longer to launch than to run, between stretches of
five replayed steps: launched one by one they take longer than the training.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from clrtool.engine.runtime.capture import capture, on_streams, refusing_waits, side_streams
from clrtool.engine.runtime.rng import host_states
from clrtool.engine.training.trainer import Trainer
from clrtool.engine.training.workload import EvalSums

# Evaluations before capture, in which kernels choose their algorithms; in all but the first nothing may wait.
WARM_UP = 2
# How far the graph's numbers may be from those of the trainers, of whose kernels it is made.
TOLERANCE = 1e-3
# By how much weights are moved, as a share of each, before both are compared.
MOVED = 0.5


class JointEvaluation:
    """Loss and metric of several trainers over the held-out set, whose sums lie in one buffer on the device.

    Args:
        streams: for the trainers to run on side by side.
        graph: False to run the same uncaptured, as on a CPU.

    Raises:
        RuntimeError: it cannot be captured.
    """

    def __init__(self, trainers: Sequence[Trainer], streams: int, *, graph: bool) -> None:
        self._trainers = trainers
        self._sums = torch.zeros(len(trainers), 4, dtype=torch.float64, device=trainers[0].workload.device)
        self._graph = self._capture(streams) if graph else None

    def read(self) -> list[tuple[float, float]]:
        """Mean loss and metric of each trainer."""
        if self._graph is None:
            self._run()
        else:
            for trainer in self._trainers:  # a model may do something to its weights when it is told
                trainer.model.eval()
            self._graph.replay()
        return [EvalSums(*sums).means for sums in self._sums.tolist()]  # the only wait

    @torch.no_grad()
    def is_that_of_trainers(self) -> bool:
        """Whether it finds what the trainers find, with weights far from those of the capture, which are left so."""
        for trainer in self._trainers:
            _move(trainer.model)
        found, wanted = self.read(), [trainer.evaluate() for trainer in self._trainers]
        return np.allclose(found, wanted, TOLERANCE, TOLERANCE, equal_nan=True)

    def _capture(self, streams: int) -> torch.cuda.CUDAGraph:
        _, *beside = side_streams(torch.cuda.current_device(), streams)
        for turn in range(WARM_UP):
            drawn = host_states()
            with refusing_waits(turn > 0):
                self._run(beside)
            if host_states() != drawn:
                raise RuntimeError("the model draws random numbers outside the device when it is evaluated")
        torch.cuda.synchronize()
        return capture(lambda: self._run(beside))

    def _run(self, streams: Sequence[torch.cuda.Stream] = ()) -> None:
        works = [partial(_sum_up, *each) for each in zip(self._trainers, self._sums, strict=True)]
        on_streams(streams, works)


def _sum_up(trainer: Trainer, sums: Tensor) -> None:
    sums.copy_(trainer.rank_sums())


def _move(model: nn.Module) -> None:
    for weight in model.parameters():
        weight.mul_(1 + MOVED * torch.rand_like(weight))
