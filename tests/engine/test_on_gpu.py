"""What only a GPU can show of a captured step: captures that fail leave nothing behind, and many leave no memory."""

import gc
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from clrtool.config.schema import SweepConfig
from clrtool.engine.rangetest.sweep import run_sweep
from clrtool.engine.training.cuda_graph import CapturedEnsemble
from clrtool.engine.training.ensemble import make_ensembles
from clrtool.engine.training.trainer import Trainer
from tests.engine.workloads import digits

LRS = np.geomspace(1e-3, 0.2, 40).tolist()
SWEEP = SweepConfig(start_lr=1e-3, end_lr=0.2, epochs=1, evaluations=6, seeds=3)
DROPOUT = {"name": "mlp", "args": {"dropout": 0.3}}


class FailsInCapture(nn.Module):
    """A layer that does in a capture, and there alone, what ends it; elsewhere it draws random numbers and passes on."""

    def __init__(self, inner, way, when):
        super().__init__()
        self.inner, self.way, self.when = inner, way, when

    def forward(self, x):
        capturing = torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()
        if capturing and self.when == "before":
            self.way()
        found = nn.functional.dropout(self.inner(x), 0.3, self.training)
        if capturing and self.when == "after":
            self.way()
        return found


def waits():
    torch.cuda.synchronize()


def raises():
    raise RuntimeError("a kernel of ours is not there")


def runs_out():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def failing(workload, way, when):
    """The workload with models of which a capture fails."""
    make = workload.make_model
    return replace(workload, make_model=lambda: FailsInCapture(make(), way, when))


@pytest.mark.gpu
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("way", [waits, raises, runs_out])
def test_after_a_capture_that_fails_all_is_as_if_none_had_been_tried(gpu, way, when):
    plain = failing(digits(gpu.device, training={"fast": False}), way, when)
    with plain.on_device():
        expected = [Trainer(plain, seed).train(0, LRS) for seed in (0, 1)]
    workload = failing(digits(gpu.device), way, when)
    with workload.on_device():
        before = None if gpu.is_dry else torch.cuda.current_stream()
        found = [(each.engine, each.train(0, len(LRS))[0]) for each in make_ensembles(workload, LRS, [0, 1])]
        if not gpu.is_dry:
            assert torch.cuda.current_stream() == before
            assert all(engine.startswith("eager: the ") for engine, _ in found), found
            assert not torch.cuda.is_current_stream_capturing()
        nn.functional.dropout(torch.ones(1000, device=gpu.device))  # the generator is in no capture
    np.testing.assert_allclose([losses for _, losses in found], expected, rtol=1e-3)
    captured = run_sweep(digits(gpu.device, model=DROPOUT), SWEEP)  # and the next capture succeeds
    assert captured.engine == gpu.team(3)


@pytest.mark.gpu
def test_the_memory_of_a_failed_capture_is_free_afterwards():
    large = {"name": "mlp", "args": {"hidden": [4096, 4096]}}
    workload = failing(digits("cuda", model=large), raises, "after")
    with workload.on_device():
        seen = []
        for _ in range(3):
            team = next(iter(make_ensembles(workload, LRS, [0, 1, 2])))
            assert team.engine.startswith("eager: the step cannot be captured")
            del team
            seen.append(reserved())
        # The weights alone of a seed take 65 MiB. What stays after the first is cuBLAS's, which keeps 32 MiB for each
        # stream and each thread that computes on it: two for each seed.
        assert max(seen) - seen[0] <= 2**20, [f"{each / 2**20:.0f} MiB" for each in seen]


@pytest.mark.gpu
def test_seeds_that_do_not_fit_at_once_are_trained_one_after_the_other():
    large = {"name": "mlp", "args": {"hidden": [6000, 6000]}}
    workload = digits("cuda", model=large)
    with workload.on_device():
        reserved()  # nothing that others have left counts for what one takes
        torch.cuda.reset_peak_memory_stats()
        Trainer(workload, 0).train(0, LRS[:3])
        one, whole = torch.cuda.max_memory_reserved(), torch.cuda.get_device_properties(0).total_memory
        reserved()
        torch.cuda.set_per_process_memory_fraction(1.8 * one / whole)
        try:
            found = [(each.engine, each.train(0, 5)[0]) for each in make_ensembles(workload, LRS, [0, 1, 2])]
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
    assert [engine for engine, _ in found] == ["eager: the seeds do not fit on the device at once"] * 3
    assert all(math.isfinite(loss) for _, losses in found for loss in losses)


@pytest.mark.gpu
def test_memory_is_flat_after_the_second_capture():
    workload, seen = digits("cuda", model={"name": "convnet"}), []
    with workload.on_device():
        for _ in range(5):
            team = CapturedEnsemble(workload, [0, 1, 2], LRS)
            team.train(0, 5)
            del team
            seen.append(reserved())
    assert max(seen[2:]) <= seen[1], [f"{each / 2**20:.0f} MiB" for each in seen]


def reserved():
    """Bytes that stay reserved when nothing that is free is kept."""
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    return torch.cuda.memory_reserved()
