"""A range test that is interrupted anywhere goes on by exactly the numbers of one that never was."""

import io
import os
import random
import signal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import Dataset, IterableDataset

from clrtool.config.schema import SweepConfig
from clrtool.core.reading.paper import find_bounds
from clrtool.engine.rangetest.sweep import run_sweep
from clrtool.engine.resume.checkpoint import CheckpointFolder
from clrtool.engine.resume.journal import Journal, NoRequests, plain
from clrtool.engine.resume.open import open_journal
from clrtool.engine.runtime.ranks import SINGLE_PROCESS, Ranks
from clrtool.engine.training.cuda_graph import CapturedEnsemble
from clrtool.engine.training.trainer import Trainer
from clrtool.errors import ConfigError, Interrupted, MachineError
from tests.conftest import LONG
from tests.engine.workloads import FORKS, digits

SWEEP = SweepConfig(epochs=1.0, evaluations=6, seeds=2)
GIVEN = SweepConfig(start_lr=1e-3, end_lr=1.0, epochs=1.0, evaluations=5, seeds=2)


class StopAfter:
    """A signal that comes after so many looks for one; the training looks after every iteration."""

    def __init__(self, looks):
        self.left, self.save = looks, False

    @property
    def stop(self):
        self.left -= 1
        return signal.SIGTERM if self.left < 0 else None


class Memory:
    """A store in memory, through the same bytes as on disk."""

    values = None

    def save(self, values):
        content = io.BytesIO()
        torch.save(dict(values), content)
        self.values = torch.load(io.BytesIO(content.getvalue()), map_location="cpu", weights_only=True)


def interrupted(run, looks):
    """What ``run(journal)`` gives when it is interrupted after each number of looks, and how often that was."""
    store, stops = Memory(), 0
    for each in looks:
        try:
            return run(Journal(store, StopAfter(each), saved=store.values)), stops
        except Interrupted as stop:
            assert stop.signum == signal.SIGTERM
            stops += 1
            random.seed(None)  # another process would begin from other random numbers
            np.random.seed(None)  # noqa: NPY002
            torch.seed()
    return run(Journal(store, saved=store.values)), stops


def assert_same(one, other):
    assert [curve.seed for curve in one.curves] == [curve.seed for curve in other.curves]
    for first, second in zip(one.curves, other.curves, strict=True):
        assert first.outcome is second.outcome
        for name in ("iteration", "lr", "train_loss", "heldout_loss", "metric"):
            np.testing.assert_array_equal(getattr(first, name), getattr(second, name), err_msg=name)
    assert (one.iterations, one.scout_iterations, one.warnings) == (
        other.iterations,
        other.scout_iterations,
        other.warnings,
    )


WORKLOADS = {
    "dropout": {"model": {"name": "mlp", "args": {"dropout": 0.3}}},
    "batch norm and augmentation": {
        "model": {"name": "convnet", "args": {"channels": [4, 8, 8]}},
        "data": {"name": "digits", "augment": {"flip": True, "crop": 1, "cutout": 2}},
    },
    "AdamW with groups": {
        "optimizer": {"name": "AdamW", "groups": [{"params": ["*.bias"], "lr_ratio": 3.0, "args": {"weight_decay": 0.0}}]}
    },
    "NAdam": {"optimizer": {"name": "NAdam"}},
    "bf16 in micro-batches": {"precision": "bf16", "training": {"micro_batches": 3}},
    "a loader": {"data": {"name": "digits", "placement": "loader", "workers": 0}},
}  # fmt: skip


@pytest.mark.short(3)
@pytest.mark.parametrize("name", WORKLOADS)
@settings(max_examples=4 if LONG else 2, deadline=None)
@given(looks=st.lists(st.integers(1, 120), min_size=1, max_size=4))
def test_a_test_interrupted_anywhere_measures_what_one_that_was_not_measures(name, looks):
    workload = digits(**WORKLOADS[name])
    found, _ = interrupted(lambda journal: run_sweep(workload, SWEEP, 3, journal=journal), looks)
    assert_same(found, run_sweep(workload, SWEEP, 3))


def test_it_is_interrupted_after_the_very_iteration_in_which_the_signal_comes():
    workload, store = digits(), Memory()
    for looks in (1, 4, 30):
        store.values = None
        with pytest.raises(Interrupted):
            run_sweep(workload, GIVEN, 0, journal=Journal(store, StopAfter(looks)))
        running = store.values["running"]
        # two looks an iteration at the most: one by the training, one before the state is saved
        assert running["start"] + len(running["losses"][0]) <= looks


class Two(Ranks):
    """Two ranks that are one process, and how often they had to agree."""

    world, asked = 2, 0

    def any(self, flag):
        self.asked += 1
        return flag


def test_ranks_agree_on_a_pause_now_and_then_and_one_process_looks_after_each_iteration():
    for ranks, most in ((Two(), 10), (SINGLE_PROCESS, 100)):
        looks = StopAfter(10**6)
        journal = Journal(requests=looks, ranks=ranks)
        assert not any(journal.pauses() for _ in range(100))
        assert 10**6 - looks.left == most
        looks.left = 0
        assert any(journal.pauses() for _ in range(100)), "a signal is heard"
    with pytest.raises(Interrupted):
        run_sweep(digits(ranks=Two()), GIVEN, 0, journal=Journal(Memory(), StopAfter(12), ranks=Two()))


def test_what_is_finished_is_never_trained_again(monkeypatch):
    workload, store = digits(), Memory()
    whole = run_sweep(workload, SWEEP, 0, journal=Journal(store))
    monkeypatch.setattr(Trainer, "train", lambda *_: pytest.fail("it trains again"))
    monkeypatch.setattr(Trainer, "evaluate", lambda *_: pytest.fail("it evaluates again"))
    told = []
    again = run_sweep(workload, SWEEP, 0, lambda *point: told.append(point), Journal(saved=store.values))
    assert_same(whole, again)
    assert len(told) == sum(len(curve.lr) for curve in whole.curves)
    assert again.train_seconds == whole.train_seconds


def test_a_sweep_that_breaks_is_a_result_wherever_it_was_interrupted():
    high = SweepConfig(start_lr=1e3, end_lr=1e4, epochs=3.0, evaluations=2, seeds=2)
    workload = digits()
    whole = run_sweep(workload, high, 0)
    assert "NOT_FINITE" in {curve.outcome.name for curve in whole.curves}
    for looks in range(1, 60, 7):
        assert_same(interrupted(lambda journal: run_sweep(workload, high, 0, journal=journal), [looks])[0], whole)


class Noisy(Dataset):
    """Samples that are changed at random by every generator there is, each time they are read."""

    targets = list(range(4)) * 64

    def __len__(self):
        return 256

    def __getitem__(self, place):
        noise = torch.rand(8) + random.random() + np.random.rand()  # noqa: NPY002, S311
        return torch.eye(8)[place % 4] + 0.1 * noise, place % 4


class NoisyStream(IterableDataset):
    def __iter__(self):
        yield from (Noisy()[place] for place in range(256))


def make_noisy():
    return Noisy(), (torch.eye(8)[:4].repeat(8, 1), torch.arange(4).repeat(8))


def make_noisy_stream():
    return NoisyStream(), make_noisy()[1]


def make_net():
    return nn.Sequential(nn.Linear(8, 16), nn.Dropout(0.2), nn.ReLU(), nn.Linear(16, 4))


def noisy(factory, workers):
    data = {"factory": f"tests.engine.test_journal:{factory}", "batch_size": 16, "workers": workers}
    data |= {"samples_per_epoch": 256} if factory == "make_noisy_stream" else {"placement": "loader"}
    return digits(allow_import=["tests.*"], model={"factory": "tests.engine.test_journal:make_net"}, data=data)


@pytest.mark.short(2)
@FORKS
@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("factory", ["make_noisy", "make_noisy_stream"])
def test_data_that_is_read_at_random_is_read_alike_after_an_interruption(factory, workers):
    if factory == "make_noisy_stream" and workers == 2:
        pytest.skip("two workers would read the same items of this stream")
    workload = noisy(factory, workers)
    whole = run_sweep(workload, GIVEN, 0)
    found, stops = interrupted(lambda journal: run_sweep(workload, GIVEN, 0, journal=journal), [9, 25])
    assert_same(found, whole)
    assert stops == 2


@pytest.mark.short(0)
@FORKS
def test_data_that_is_read_at_random_does_not_depend_on_the_number_of_workers():
    assert_same(run_sweep(noisy("make_noisy", 0), GIVEN, 0), run_sweep(noisy("make_noisy", 2), GIVEN, 0))


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
def test_a_captured_step_goes_on_from_its_state(optimizer):
    workload, lrs = digits(optimizer={"name": optimizer}), [0.01] * 60
    with workload.on_device():
        whole, first, second = (CapturedEnsemble(workload, [0, 1], lrs, graph=False) for _ in range(3))
        losses = whole.train(0, 60)
        begun = first.train(0, 33, lambda: False)
        second.restore(plain(first.state(), "state"))
        rest = second.train(33, 60)
    np.testing.assert_array_equal([one + two for one, two in zip(begun, rest, strict=True)], losses)


def test_a_captured_step_pauses_after_the_iteration_that_it_is_asked_in():
    workload = digits()
    with workload.on_device():
        ensemble = CapturedEnsemble(workload, [0, 1], [0.01] * 60, graph=False)
        assert [len(each) for each in ensemble.train(0, 60, iter([False] * 6 + [True] * 9).__next__)] == [7, 7]


@pytest.mark.gpu
@pytest.mark.parametrize("changes", [{}, {"model": {"name": "mlp", "args": {"dropout": 0.3}}}])
def test_on_cuda_an_interrupted_test_measures_the_same_by_the_deterministic_switch(gpu, changes):
    workload = digits(gpu.device, deterministic=True, **changes)
    whole = run_sweep(workload, GIVEN, 0)
    found, stops = interrupted(lambda journal: run_sweep(workload, GIVEN, 0, journal=journal), [9, 12])
    assert (stops, found.engine, whole.engine) == (2, gpu.team(2), gpu.team(2))
    assert_same(found, whole)


@pytest.mark.gpu
def test_on_cuda_without_the_switch_an_interrupted_test_has_bounds_within_the_intervals(gpu):
    workload, sweep = digits(gpu.device), GIVEN.model_copy(update={"epochs": 4.0, "evaluations": 20})
    whole = run_sweep(workload, sweep, 0)
    found, stops = interrupted(lambda journal: run_sweep(workload, sweep, 0, journal=journal), [9, 40])
    assert (stops, found.engine) == (2, gpu.team(2))
    one, other = (find_bounds(each.curves, each.heldout_samples, each.chance) for each in (whole, found))
    for name in ("base_lr", "max_lr"):
        low, high = getattr(one, f"{name}_interval")
        assert low <= getattr(other, name) <= high


class Odd(torch.optim.SGD):
    """An optimizer whose state no checkpoint can hold."""

    def step(self, closure=None):
        super().step(closure)
        self.state[self.param_groups[0]["params"][0]]["odd"] = object()


def make_odd(parameters):
    return Odd(parameters, lr=0.1)


def test_a_state_that_cannot_be_saved_is_named_and_its_seed_begins_anew():
    workload = digits(allow_import=["tests.*"], optimizer={"factory": "tests.engine.test_journal:make_odd"})
    whole = run_sweep(workload, GIVEN, 0)
    found, stops = interrupted(lambda journal: run_sweep(workload, GIVEN, 0, journal=journal), [20, 70])
    assert stops == 2
    assert any(
        "An interrupted seed starts over: state.team.optimizer.state.0.odd is of type object" in each
        for each in found.warnings
    )
    for one, other in zip(found.curves, whole.curves, strict=True):
        np.testing.assert_array_equal(one.metric, other.metric)


def test_a_checkpoint_that_does_not_fit_the_model_says_what_to_do():
    store = Memory()
    with pytest.raises(Interrupted):
        run_sweep(digits(), GIVEN, 0, journal=Journal(store, StopAfter(20)))
    other = digits(model={"name": "mlp", "args": {"hidden": [9]}})
    with pytest.raises(ConfigError, match=r"does not fit what its config builds now.*--fresh"):
        run_sweep(other, GIVEN, 0, journal=Journal(store, saved=store.values))


@pytest.mark.parametrize(
    ("changes", "config", "message"),
    [
        ({}, "b" * 64, "was started with another config"),
        ({"deterministic": True}, "a" * 64, "was started without --deterministic"),
        ({"data": {"name": "digits", "heldout": 300}}, "a" * 64, "was started with different data"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path, changes, config, message):
    folder = CheckpointFolder(tmp_path / "checkpoint")
    journal, said = open_journal(folder, digits(), "a" * 64, NoRequests(), 0.0)
    assert said == ""
    journal.finish(("scout", (1.0, 2.0, 3)))
    with pytest.raises(ConfigError, match=message):
        open_journal(folder, digits(**changes), config, NoRequests(), 0.0)
    assert open_journal(folder, digits(), "a" * 64, NoRequests(), 0.0)[0].result("scout") == (1.0, 2.0, 3)


def test_a_test_that_goes_on_in_another_environment_says_so(tmp_path, monkeypatch):
    folder = CheckpointFolder(tmp_path / "checkpoint")
    open_journal(folder, digits(), "a" * 64, NoRequests(), 0.0)[0].finish(("scout", (1.0, 2.0, 3)))
    monkeypatch.setattr(torch, "__version__", "9.9")
    journal, _ = open_journal(folder, digits(), "a" * 64, NoRequests(), 0.0)
    assert any("resumed where torch was" in each and "is 9.9" in each for each in journal.warnings)


def test_two_generations_are_kept_and_a_damaged_one_falls_back_to_the_other(tmp_path):
    folder = CheckpointFolder(tmp_path / "checkpoint")
    for number in range(5):
        folder.save({"number": number})
    older, newer = sorted((tmp_path / "checkpoint").iterdir())
    assert folder.load().values == {"number": 4}
    newer.write_bytes(newer.read_bytes()[:-7])
    found = folder.load()
    assert (found.values, found.damaged) == ({"number": 3}, (newer,))
    folder.save({"number": 5})
    assert older.exists()
    older.write_bytes(b"")
    assert folder.load().values == {"number": 5}


def test_a_checkpoint_that_takes_no_room_on_a_disk_and_all_of_the_memory_is_refused_unread(tmp_path):
    (tmp_path / "checkpoint").mkdir()
    file = tmp_path / "checkpoint" / f"00000001-{'a' * 64}.pt"
    file.touch()
    os.truncate(file, 2**42)
    with pytest.raises(
        MachineError, match=r"it holds 4,398,046,511,104 bytes; at most .* half of this machine's memory"
    ):
        CheckpointFolder(tmp_path / "checkpoint").load()


def test_a_checkpoint_that_would_run_code_is_damaged(tmp_path):
    import hashlib
    import pickle

    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'pwned'}",)

    content = io.BytesIO()
    torch.save({"evil": Evil()}, content, pickle_module=pickle)
    (tmp_path / "checkpoint").mkdir()
    name = f"00000001-{hashlib.sha256(content.getvalue()).hexdigest()}.pt"
    (tmp_path / "checkpoint" / name).write_bytes(content.getvalue())
    found = CheckpointFolder(tmp_path / "checkpoint").load()
    assert found.values is None
    assert len(found.damaged) == 1
    assert not (tmp_path / "pwned").exists()
