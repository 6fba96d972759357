"""Random numbers of their own, on a GPU too: whatever is drawn beside a training draws none of its numbers."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from clrtool.engine.inprocess.build import build_workload
from clrtool.engine.inprocess.options import Settings
from clrtool.engine.inprocess.steps import make_steps
from clrtool.engine.runtime import rng
from clrtool.engine.runtime.rng import RngStream
from clrtool.engine.training.average import RunningAverage
from clrtool.engine.training.constant_head import constant_head_loss
from clrtool.engine.training.trainer import Trainer

CUDA = torch.device("cuda")


@pytest.fixture
def gpu_generator(monkeypatch):
    """A generator in place of that of a CUDA device."""
    generator = torch.Generator().manual_seed(11)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: generator.get_state())
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: generator.set_state(state))
    monkeypatch.setattr(torch.cuda, "manual_seed", generator.manual_seed)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    return generator


def test_what_a_stream_draws_on_a_gpu_follows_from_its_seed_and_is_as_if_never_drawn_outside(gpu_generator):
    before, drawn = gpu_generator.get_state(), []
    for _ in range(2):
        stream = RngStream(3, device=CUDA)
        for _ in range(2):
            with stream.active():
                drawn.append(torch.rand(4, generator=gpu_generator).tolist())
            assert torch.equal(gpu_generator.get_state(), before)
    assert drawn[:2] == drawn[2:]
    assert drawn[0] != drawn[1]


def test_a_stream_that_reads_data_leaves_the_gpu_alone(gpu_generator):
    before = gpu_generator.get_state()
    with RngStream(3).active():
        assert torch.equal(gpu_generator.get_state(), before)


def test_an_evaluation_a_floor_and_the_statistics_of_an_average_draw_on_a_stream_of_their_device(monkeypatch):
    seen = []
    monkeypatch.setattr(rng, "seed_gpu", lambda seed, device: seen.append(device))
    x = torch.randn(96, 4, generator=torch.Generator().manual_seed(0))
    train, heldout = (DataLoader(TensorDataset(part, (part[:, 0] > 0).long()), 16) for part in (x[:64], x[64:]))
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))
    workload = build_workload(
        model, torch.optim.SGD(model.parameters(), lr=0.1), train, heldout,
        make_steps(None, None, None, "auto", None), Settings.of({"epochs": 4}), find_metric=True,
    )  # fmt: skip
    with workload.on_device():
        trainer = Trainer(workload, 0)
        for draw in (trainer.evaluate, lambda: constant_head_loss(trainer), lambda: averaged(trainer)):
            seen.clear()
            draw()
            assert {*seen} == {workload.device}


def averaged(trainer):
    trainer.average = RunningAverage(trainer.model)
    trainer.average.update()
    with trainer.averaged():
        pass
