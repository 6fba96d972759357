"""The fast path against the reference: the step of the device, run uncaptured on a CPU, and captured where there is CUDA."""

import inspect
import math
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from clrtool.config.schema import SweepConfig
from clrtool.engine.data.loader import ResidentLoader
from clrtool.engine.rangetest.sweep import run_sweep
from clrtool.engine.training.cuda_graph import CapturedEnsemble, why_not_captured
from clrtool.engine.training.cuda_slot import Clock
from clrtool.engine.training.ensemble import make_ensembles
from clrtool.engine.training.trainer import READ_EVERY, Trainer, until_nonfinite
from tests.engine.workloads import digits

# Rates at which a difference in the last bit stays one: where training is chaotic, every order of a sum has its own end.
LRS = np.geomspace(1e-3, 0.02, 100).tolist()
# Optimizers of torch that step by one kernel on a CPU too, where it alone reads a learning rate from the device.
FUSED = {"SGD", "Adam", "AdamW", "Adagrad"}
# As torch's own source says, to 2.11.
ADAGRAD_IS_FUSED_ON_CPU_ALONE = "cuda_unsupported=True" in inspect.getsource(torch.optim.Adagrad)
CONVNET = {"name": "convnet", "args": {"channels": [4, 8], "batch_norm": True}}
SGD = {"name": "SGD", "args": {"momentum": 0.9}}
VARIANTS = {
    "an mlp": {},
    "a convnet with batch norm and augmentation": {"model": CONVNET, "data": {"augment": {"flip": True, "crop": 2}}},
    "a last batch that is left out": {"data": {"batch_size": 64}},
    "AdamW with groups": {
        "optimizer": {
            "name": "AdamW",
            "args": {"weight_decay": 0.1},
            "groups": [{"params": ["*.bias"], "lr_ratio": 3.0, "args": {"weight_decay": 0.0}}],
        }
    },
    "clipping and micro-batches": {"training": {"clip_norm": 0.5, "micro_batches": 3}},
    "bf16": {"precision": "bf16"},
}


def references(workload, seeds, lrs=LRS):
    return [Trainer(workload, seed).train(0, lrs) for seed in seeds]


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_step_of_the_device_gives_the_losses_and_weights_of_the_reference(variant):
    workload = digits(**VARIANTS[variant])
    with workload.on_device():
        ensemble = CapturedEnsemble(workload, [0, 7], LRS, graph=False)
        pieces = [ensemble.train(start, stop) for start, stop in ((0, 1), (1, 40), (40, 100))]
        for place, seed in enumerate((0, 7)):
            reference = Trainer(workload, seed)
            losses = reference.train(0, LRS)
            ours = np.concatenate([piece[place] for piece in pieces])
            np.testing.assert_allclose(ours, losses, rtol=1e-4, atol=1e-4)
            assert ensemble.members[place].evaluate() == pytest.approx(reference.evaluate(), abs=0.02)


def test_a_step_can_be_sought_anywhere_in_any_epoch():
    workload = digits(optimizer={"name": "SGD"})
    with workload.on_device():
        ensemble, reference = CapturedEnsemble(workload, [3], LRS, graph=False), Trainer(workload, 3)
        for start, stop in ((65, 70), (2, 4), (29, 31)):
            np.testing.assert_allclose(
                ensemble.train(start, stop)[0], reference.train(start, LRS[start:stop]), rtol=1e-4
            )


@pytest.mark.parametrize("data", [{}, {"augment": {"flip": True, "crop": 2}}])
def test_the_order_of_the_next_epoch_is_drawn_in_a_thread_while_this_one_trains(monkeypatch, data):
    drawn, draw, here = [], ResidentLoader.drawn, threading.current_thread()

    def noted(loader, seed, epoch):
        drawn.append((seed, epoch, threading.current_thread() is here))
        return draw(loader, seed, epoch)

    workload = digits(model=CONVNET, data=data)
    with workload.on_device():
        expected = references(workload, [3, 4])
        monkeypatch.setattr(ResidentLoader, "drawn", noted)
        losses = CapturedEnsemble(workload, [3, 4], LRS, graph=False).train(0, len(LRS))
    np.testing.assert_allclose(losses, expected, rtol=1e-4, atol=1e-4)
    assert [each for each in drawn if each[2]] == [(3, 0, True), (4, 0, True)]
    # one more than were trained, for an epoch that may follow
    assert sorted(each[:2] for each in drawn if not each[2])[:3] == [(3, 1), (3, 2), (3, 3)]
    assert len(drawn) == len({*drawn})


def test_the_check_of_the_captured_step_accepts_what_follows_the_learning_rate_and_leaves_no_trace():
    workload = digits(model=CONVNET)
    with workload.on_device():
        ensemble = CapturedEnsemble(workload, [0, 1], LRS, graph=False)
        assert ensemble.matches_reference()
        np.testing.assert_allclose(ensemble.train(0, 100), references(workload, [0, 1]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dropout", [0.0, 0.5, 0.8])
def test_the_check_refuses_a_learning_rate_that_was_frozen_at_capture(monkeypatch, dropout):
    def frozen(clock):
        read(clock)
        clock.lr.fill_(LRS[0])  # the number that the graph saw

    workload, read = digits(model={"name": "mlp", "args": {"dropout": dropout}}), Clock.read
    monkeypatch.setattr(Clock, "read", frozen)
    with workload.on_device():
        assert not CapturedEnsemble(workload, [0], LRS, graph=False).matches_reference()


@pytest.mark.parametrize("dropout", [0.2, 0.8])
def test_the_check_bears_dropout_whose_masks_differ(dropout):
    workload = digits(model={"name": "mlp", "args": {"dropout": dropout}})
    with workload.on_device():
        assert CapturedEnsemble(workload, [0, 1], LRS, graph=False).matches_reference()


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "Adagrad", "NAdam", "RAdam", "RMSprop"])
def test_a_team_that_was_warmed_up_and_reset_begins_as_if_it_were_new(name):
    workload = digits(model=CONVNET, optimizer={"name": name})
    with workload.on_device():
        ensemble = CapturedEnsemble(workload, [0], LRS, graph=False)
        ensemble.train(0, 3)
        ensemble._reset()
        np.testing.assert_allclose(ensemble.train(0, 40)[0], Trainer(workload, 0).train(0, LRS[:40]), rtol=1e-3)


@pytest.mark.parametrize("iterations", [1, 2])
def test_short_sweeps_and_short_epochs_can_be_checked(iterations):
    workload = digits(data={"batch_size": 1000})
    with workload.on_device():
        assert CapturedEnsemble(workload, [0], LRS[:iterations], graph=False).matches_reference()


class Kernels(TorchDispatchMode):
    """Counts the operations that compute: what makes a view or finds room launches no kernel."""

    NONE = ("view", "reshape", "alias", "permute", "transpose", "expand", "squeeze", "select", "slice", "strided",
            "detach", "split", "unbind", "empty", "record_function", "lift")  # fmt: skip

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if name != "t" and ("index" in name or not any(word in name for word in self.NONE)):
            self.names.append(name)
        return function(*args, **(kwargs or {}))


def hand_made_step(workload, optimizer):
    """What one writes for a graph of one's own: places and rate are copied in before it, the loss is kept after it."""
    model = Trainer(workload, 0).model
    samples, rate, kept = workload.loader.samples, torch.tensor(0.1), torch.zeros(len(LRS))
    optimizer = getattr(torch.optim, optimizer["name"])(model.parameters(), lr=rate, fused=True, **optimizer["args"])
    order, table = torch.randperm(len(samples)), torch.tensor(LRS)
    places = order[: workload.batch_size].clone()

    def step():
        places.copy_(order[: workload.batch_size])
        rate.copy_(table[0])
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(samples.inputs[places]), samples.targets[places])
        loss.backward()
        optimizer.step()
        kept[0].copy_(loss.detach())

    return step


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("optimizer", [SGD, {"name": "AdamW", "args": {"weight_decay": 0.1}}])
@pytest.mark.parametrize("model", [{"name": "mlp"}, CONVNET])
def test_a_step_launches_at_most_two_kernels_more_than_those_of_its_seeds_made_by_hand(model, optimizer, seeds):
    workload = digits(model=model, optimizer=optimizer)
    with workload.on_device():
        ensemble, by_hand = (
            CapturedEnsemble(workload, range(seeds), LRS, graph=False),
            hand_made_step(workload, optimizer),
        )
        ensemble.train(0, 2)
        by_hand()
        with Kernels() as wanted:
            by_hand()
        ensemble._seek(2)
        with Kernels() as found:
            ensemble._step()
    assert len(wanted.names) > 10
    assert len(found.names) <= seeds * len(wanted.names) + 2, (found.names, wanted.names)
    fused = f"_fused_{optimizer['name'].lower()}_"
    assert found.names.count(fused) == seeds * wanted.names.count(fused) == seeds


def test_a_team_ends_when_every_member_is_broken_and_not_before():
    workload = digits()
    with workload.on_device():
        ensemble = CapturedEnsemble(workload, [0, 1], [1e30] * 200, graph=False)
        losses = ensemble.train(0, 200)
    assert all(len(each) <= READ_EVERY for each in losses)
    assert not any(math.isfinite(each[-1]) for each in losses)
    assert all(math.isfinite(loss) for each in losses for loss in each[:-1])


def test_losses_end_with_the_first_that_is_not_finite():
    assert until_nonfinite([1.0] * 60 + [math.nan] + [1.0] * 60) == pytest.approx([1.0] * 60 + [math.nan], nan_ok=True)
    assert until_nonfinite([1.0] * 7) == [1.0] * 7


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"training": {"fast": False}}, "training.fast is off"),
        ({"data": {"placement": "loader", "workers": 0}}, "the data is streamed"),
        ({"precision": "fp16"}, "in fp16 each step is asked"),
        ({"optimizer": {"name": "Adafactor"}}, "Adafactor cannot take its learning rate from the device"),
        ({"optimizer": {"name": "SGD", "args": {"foreach": True}}}, "is set in its args"),
        ({"optimizer": {"name": "SGD", "args": {"momentum": 0.9, "dampening": 0.5}}}, "dampening"),
        ({"optimizer": {"name": "ASGD"}}, "ASGD begins from a state of its own"),
        ({"optimizer": {"name": "SGD", "groups": [{"params": ["*.bias"], "args": {"dampening": 0.5}}]}}, "dampening"),
        ({}, None),
    ],
)
def test_what_cannot_be_captured_says_why(changes, reason):
    found = why_not_captured(digits(**changes))
    assert found is None if reason is None else reason in found


def test_an_optimizer_that_takes_the_word_fused_and_refuses_its_first_step_cannot_be_captured():
    class Refusing(torch.optim.SGD):  # as Adagrad does on CUDA, to torch 2.11
        def step(self, closure=None):
            if self.defaults["fused"]:
                raise RuntimeError(
                    "`fused=True` requires all the params to be floating point Tensors of supported devices"
                )
            return super().step(closure)

    workload = digits(optimizer={"name": "SGD"})
    assert why_not_captured(workload) is None
    refusing = replace(workload, make_optimizer=replace(workload.make_optimizer, build=Refusing))
    assert why_not_captured(refusing) == "SGD cannot take its learning rate from the device"


def test_on_a_cpu_the_seeds_are_trained_by_the_reference_one_after_the_other():
    workload = digits()
    with workload.on_device():
        ensembles = list(make_ensembles(workload, LRS, [4, 5]))
    assert [(len(ensemble.members), ensemble.members[0].seed, ensemble.engine) for ensemble in ensembles] == [
        (1, 4, "eager"),
        (1, 5, "eager"),
    ]


@pytest.mark.gpu
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_captured_graph_gives_the_curve_of_the_reference(gpu, variant):
    changes = VARIANTS[variant]
    # at higher rates training is chaotic: kernels that round in another way were seen to end 0.09 apart
    sweep = SweepConfig(start_lr=1e-3, end_lr=0.05, epochs=3, seeds=3)
    slow = run_sweep(digits(gpu.device, **changes | {"training": changes.get("training", {}) | {"fast": False}}), sweep)
    fast = run_sweep(digits(gpu.device, **changes), sweep)
    assert (slow.engine, fast.engine) == (gpu.plain("training.fast is off"), gpu.team(3))
    for one, other in zip(slow.curves, fast.curves, strict=True):
        np.testing.assert_allclose(one.metric, other.metric, atol=0.04)


@pytest.mark.gpu
def test_a_graph_with_dropout_passes_its_check_and_an_optimizer_without_tensor_lr_falls_back(gpu):
    sweep = SweepConfig(start_lr=1e-3, end_lr=0.2, epochs=1, seeds=2)
    dropout = run_sweep(digits(gpu.device, model={"name": "mlp", "args": {"dropout": 0.2}}), sweep)
    assert dropout.engine == gpu.team(2)
    factor = run_sweep(digits(gpu.device, optimizer={"name": "Adafactor"}), sweep)
    assert factor.engine == gpu.plain("Adafactor cannot take its learning rate from the device")


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "Adagrad", "RMSprop", "NAdam", "RAdam", "Adamax", "Adadelta"])
def test_every_optimizer_that_is_captured_gives_the_curve_of_the_reference(gpu, name):
    sweep = SweepConfig(start_lr=1e-4, end_lr=0.01, epochs=2, seeds=1)
    slow = run_sweep(digits(gpu.device, optimizer={"name": name}, training={"fast": False}), sweep)
    fast = run_sweep(digits(gpu.device, optimizer={"name": name}), sweep)
    no_tensor = f"{name} cannot take its learning rate from the device"  # on a CPU the fused ones alone can
    cannot = name not in FUSED if gpu.is_dry else name == "Adagrad" and ADAGRAD_IS_FUSED_ON_CPU_ALONE
    expected = gpu.plain(no_tensor) if cannot else gpu.team(1)
    assert (slow.engine, fast.engine) == (gpu.plain("training.fast is off"), expected)
    np.testing.assert_allclose(slow.curves[0].metric, fast.curves[0].metric, atol=0.04)
