"""The check of a captured step: it accepts ten healthy models, by kernels that round otherwise, and refuses wrong steps.

CLRTOOL_CHECK_SEEDS=50 asks as many seeds of each.
"""

import os
import string

import numpy as np
import pytest
import torch

from clrtool.engine.training.cuda_graph import CapturedEnsemble
from clrtool.engine.training.step_check import RATIO, VISIBLE, check_rates
from clrtool.engine.training.trainer import Trainer
from tests.engine.workloads import digits

SEEDS = range(int(os.environ.get("CLRTOOL_CHECK_SEEDS", "1")))
LRS = np.geomspace(1e-3, 0.2, 100).tolist()
FACTORY = "tests.engine.test_step_check:make_biased"
BIASED = {"factory": FACTORY}
GPT = {"name": "gpt", "args": {"depth": 1, "width": 16, "heads": 2}}
MODELS = {
    "batch norm after biased layers": {"model": BIASED, "optimizer": {"name": "SGD", "args": {"momentum": 0.9}}},
    "Adam": {"model": BIASED, "optimizer": {"name": "Adam"}},
    "AdamW": {"model": BIASED, "optimizer": {"name": "AdamW"}},
    "NAdam": {"model": BIASED, "optimizer": {"name": "NAdam"}},
    "dropout": {"model": {"name": "mlp", "args": {"dropout": 0.2}}, "optimizer": {"name": "Adam"}},
    "bf16": {"model": BIASED, "optimizer": {"name": "AdamW"}, "precision": "bf16"},
    "GPT": {"model": GPT, "optimizer": {"name": "AdamW"}, "metric": "token_accuracy", "training": {"clip_norm": 1.0}},
    "ViT": {"model": {"name": "vit", "args": {"depth": 1, "width": 16, "heads": 2}}, "optimizer": {"name": "AdamW"}},
    "convnet": {"model": {"name": "convnet", "args": {"channels": [4, 8], "batch_norm": True}}},
    "ResNet": {"model": {"name": "resnet", "args": {"depth": 8, "width": 4}}},
}  # fmt: skip


def make_biased(width=16):
    """Batch norm after layers with biases, whose gradients are rounding alone."""
    linear, norm = torch.nn.Linear, torch.nn.BatchNorm1d
    layers = [linear(64, width), norm(width), torch.nn.ReLU(), linear(width, width), norm(width), torch.nn.ReLU()]
    return torch.nn.Sequential(torch.nn.Flatten(), *layers, linear(width, 10))


@pytest.fixture
def workload(request, tmp_path):
    changes = MODELS[request.param]
    if changes["model"] is GPT:
        text = np.random.default_rng(0).choice(list(string.ascii_lowercase), 4000, p=np.arange(1, 27) / 351)
        (tmp_path / "text.txt").write_text("".join(text))
        data = {"name": "text", "args": {"path": str(tmp_path / "text.txt"), "length": 16}, "batch_size": 16}
        return digits(data=data, **changes)
    return digits(allow_import=[FACTORY], **changes)


def of_other_kernels(ensemble, seed):
    """An ensemble whose gradients are added in another order: each off by the rounding of its type."""
    generator = torch.Generator().manual_seed(seed)

    def rounded(gradient):
        size = 2**-9 if ensemble.members[0].workload.precision == "bf16" else 2**-22
        return gradient + size * gradient.abs().max() * torch.randn(gradient.shape, generator=generator)

    for member in ensemble.members:
        for parameter in member.model.parameters():
            parameter.register_hook(rounded)
    return ensemble


def accepted(workload, seed, spoil=None):
    """Whether the check accepts two seeds whose steps were spoiled."""
    with workload.on_device():
        ensemble = of_other_kernels(CapturedEnsemble(workload, [seed, seed + 1000], LRS, graph=False), seed)
        if spoil is not None:
            spoil(ensemble)
        return ensemble.matches_reference()


def after(function, then):
    def both(*args):
        found = function(*args)
        then()
        return found

    return both


def rate_is_frozen(ensemble):
    clock = ensemble._clock
    seen = float(check_rates(ensemble.members[0].workload, ensemble.members[0].seed, LRS)[0])
    clock.read = after(clock.read, lambda: clock.lr.fill_(seen))


def batch_repeats(ensemble):
    clock = ensemble._clock
    clock.advance = after(clock.advance, clock.place.zero_)


def one_seed_reads_the_batches_of_another(ensemble):
    first, second = ensemble._slots
    second._order = first._order


def one_seed_reads_the_weights_of_another(ensemble):
    first, second = ensemble.members
    second.forward = first.forward


def statistics_stand(ensemble):
    (slot, *_) = ensemble._slots
    kept = [(each, each.clone()) for each in slot.trainer.model.buffers()]
    slot.step = after(slot.step, lambda: [each.copy_(first) for each, first in kept])


FAULTS = [
    rate_is_frozen, batch_repeats, one_seed_reads_the_batches_of_another, one_seed_reads_the_weights_of_another,
    statistics_stand,
]  # fmt: skip


@pytest.mark.short(3)
@pytest.mark.parametrize("workload", MODELS, indirect=True)
def test_the_check_accepts_a_healthy_model_whatever_its_seed(workload):
    refused = [seed for seed in SEEDS if not accepted(workload, seed)]
    assert not refused


@pytest.mark.short(5)
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("workload", MODELS, indirect=True)
def test_the_check_refuses_a_step_that_is_wrong_whatever_its_seed(workload, fault):
    with workload.on_device():
        buffers = list(Trainer(workload, 0).model.buffers())
    if fault is statistics_stand and not buffers:
        pytest.skip("the model keeps no statistics")
    passed = [seed for seed in SEEDS if accepted(workload, seed, fault)]
    assert not passed


@pytest.mark.parametrize("first", [1e-8, 1e-5, 1e-2])
def test_the_rates_of_the_check_begin_with_the_sweep_and_move_the_weights_visibly(first):
    workload = digits(optimizer={"name": "SGD"})
    with workload.on_device():
        low, high = check_rates(workload, 0, np.geomspace(first, 10.0, 50).tolist())
        trainer = Trainer(workload, 0)
        before = torch.nn.utils.parameters_to_vector(trainer.model.parameters())
        trainer.train(0, [low])
        moved = torch.nn.utils.parameters_to_vector(trainer.model.parameters()) - before
    assert high == RATIO * low
    assert low == first or moved.norm() >= VISIBLE * before.norm()
    assert low <= 1.0
