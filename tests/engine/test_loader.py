"""Batches on the device and through a loader: one order, whatever way they come."""

import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from clrtool.config.schema import RangeTestConfig, SweepConfig
from clrtool.engine.configured.build import build_workload
from clrtool.engine.data.load import load_data
from clrtool.engine.data.loader import ResidentLoader, StreamedLoader
from clrtool.engine.data.tensors import Samples
from clrtool.engine.rangetest.sweep import run_sweep
from clrtool.engine.training.trainer import Trainer
from clrtool.errors import ConfigError
from tests.engine.workloads import FORKS, digits

GENERATOR = np.random.default_rng(0)
X, Y = torch.from_numpy(GENERATOR.normal(size=(300, 6)).astype(np.float32)), torch.arange(300) % 3
LRS = np.geomspace(1e-3, 0.1, 40).tolist()


class Mapped(Dataset):
    """Samples of a dataset in a form of their own."""

    def __init__(self, form, size=300):
        self.form, self.size = form, size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        return self.form(X[index], int(Y[index]))


class Flow(IterableDataset):
    def __init__(self, size=300, start=0):
        self.size, self.start = size, start

    def __iter__(self):
        return ((X[i % 300], int(Y[i % 300])) for i in range(self.start, self.start + self.size))


def pairs(x, y):
    return x, y


def named(x, y):
    return {"first": x[:3], "second": x[3:], "label": y}


def noisy(x, y):
    return x + torch.randn(6), y


def from_python(x, y):
    return x * random.random() + np.random.normal(), y  # noqa: S311, NPY002


def nested(x, y):
    return {"image": {"pixels": x}, "meta": {"class": y}}


def take_apart(batch):
    return batch["image"]["pixels"], batch["meta"]["class"]


def load(made, unpack=None, metric="accuracy", **changes):
    """The loader and the held-out samples of what a factory returned."""
    values = {"model": {"name": "mlp"}, "data": {"factory": "mine:data", "batch_size": 30, "workers": 0} | changes}
    config = RangeTestConfig.model_validate(values | {"metric": metric})
    factories = {"data.factory": lambda: made, "data.batch": unpack}
    data = load_data(
        config,
        torch.device("cpu"),
        download=False,
        factory=lambda name, field: factories[field],
    )
    return data.loader(config.data, torch.device("cpu"), channels_last=False)


def floats(data):
    values = {
        "model": {"name": "mlp"},
        "data": {"factory": "tests.engine.test_loader:float_data", "batch_size": 30} | data,
    }
    return build_workload(RangeTestConfig.model_validate(values), device="cpu", allow_import=["tests.*"])


def float_data():
    return Mapped(pairs), Mapped(pairs, 50)


@pytest.mark.short(1)
@FORKS
@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_gives_the_curve_of_the_data_on_the_device(workers):
    sweep = SweepConfig(start_lr=0.01, end_lr=0.2, epochs=2, seeds=1)
    ways = [floats({"placement": "device"}), floats({"placement": "loader", "workers": workers})]
    assert [type(workload.loader) for workload in ways] == [ResidentLoader, StreamedLoader]
    resident, streamed = (run_sweep(workload, sweep).curves[0] for workload in ways)
    np.testing.assert_allclose(resident.heldout_loss, streamed.heldout_loss, rtol=1e-5)
    assert resident.metric.tolist() == streamed.metric.tolist()


def test_a_loader_can_begin_at_any_iteration():
    workload = digits(data={"placement": "loader", "workers": 0})
    batches = workload.loader.batches(5, 0)
    for iteration in range(35):
        inputs, targets = next(batches)
        if iteration in (3, 29, 30, 34):
            again = next(workload.loader.batches(5, iteration))
            assert torch.equal(again[0], inputs)
            assert torch.equal(again[1], targets)


def test_an_epoch_uses_a_sample_once_through_a_loader_too():
    loader, _ = load((Mapped(pairs), Mapped(pairs, 50)), placement="loader")
    batches = loader.batches(0, 0)
    seen = torch.cat([next(batches)[0] for _ in range(10)])
    assert sorted(seen[:, 0].tolist()) == sorted(X[:, 0].tolist())


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("placement", ["device", "loader"])
def test_a_last_smaller_batch_is_taken_where_it_is_not_dropped(tmp_path, monkeypatch, placement, shuffle):
    (tmp_path / "uneven_factories.py").write_text(UNEVEN)
    monkeypatch.chdir(tmp_path)
    sections = {"model": {"factory": "uneven_factories:net"}, "data": {
        "factory": "uneven_factories:data", "batch_size": 32, "placement": placement, "workers": 0, "drop_last": False,
        "shuffle": shuffle}}  # fmt: skip
    config = RangeTestConfig.model_validate(sections)
    workload = build_workload(config, device="cpu", allow_import=["uneven_factories:*"])
    assert workload.iterations_per_epoch == 5
    batches = workload.loader.batches(0, 3)
    sizes, seen = [], []
    for _ in range(7):
        inputs, _ = next(batches)
        sizes.append(len(inputs))
        seen.append(inputs)
    assert sizes == [32, 2, 32, 32, 32, 32, 2]
    assert len(torch.unique(torch.cat(seen[2:]), dim=0)) == 130
    trainer = Trainer(workload, seed=0)
    assert len(trainer.train(0, [0.01] * 11)) == 11
    plain = RangeTestConfig.model_validate(sections | {"data": sections["data"] | {"drop_last": True}})
    assert plain.sha256() != config.sha256()
    assert "drop_last" not in plain.model_dump()["data"]


UNEVEN = """
import torch

def net():
    return torch.nn.Linear(4, 3)

def data():
    x = torch.randn(180, 4, generator=torch.Generator().manual_seed(0))
    return (x[:130], torch.arange(130) % 3), (x[130:], torch.arange(50) % 3)
"""


def test_a_dataset_that_changes_its_samples_is_not_frozen_in_memory():
    assert isinstance(load((Mapped(pairs), Mapped(pairs, 50)))[0], ResidentLoader)
    assert isinstance(load((Mapped(noisy), Mapped(pairs, 50)))[0], StreamedLoader)


def test_random_numbers_of_a_dataset_follow_the_seed_whatever_generator_they_come_from():
    values = {
        "model": {"name": "mlp"},
        "data": {"factory": "tests.engine.test_loader:random_data", "batch_size": 30, "workers": 0},
    }
    workload = build_workload(RangeTestConfig.model_validate(values), device="cpu", allow_import=["tests.*"])
    assert isinstance(workload.loader, StreamedLoader)
    before = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    with workload.on_device():
        first, again, other = (Trainer(workload, seed).train(0, LRS) for seed in (1, 1, 2))
    assert first == again != other
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # noqa: NPY002


def random_data():
    return Mapped(from_python), Mapped(pairs, 50)


def test_mappings_become_inputs_by_keyword_and_a_batch_factory_takes_anything_apart():
    loader, heldout = load((Mapped(named), Mapped(named, 50)))
    assert {name: part.shape for name, part in loader.gather(torch.arange(4), None)[0].items()} == {
        "first": (4, 3),
        "second": (4, 3),
    }
    assert torch.equal(heldout.inputs["second"], X[:50, 3:])
    loader, heldout = load((Mapped(nested), Mapped(nested, 50)), take_apart, batch="mine:unpack")
    assert torch.equal(heldout.inputs, X[:50])
    with pytest.raises(ConfigError, match=r"they give dict with the keys image, meta. Take them apart with data.batch"):
        load((Mapped(nested), Mapped(nested, 50)))


def padded(items):
    """Sequences of every length, padded to the longest of the batch."""
    inputs = torch.nn.utils.rnn.pad_sequence([x[: 1 + y] for x, y in items], batch_first=True)
    return inputs, torch.tensor([y for _, y in items])


def test_a_dataloader_gives_its_dataset_and_its_way_to_collate():
    loader = DataLoader(Mapped(pairs), batch_size=7, shuffle=True, collate_fn=padded)
    loader, _ = load((loader, (X[:50, :3], Y[:50])))
    assert isinstance(loader, StreamedLoader)
    inputs, targets = next(loader.batches(0, 0))
    assert inputs.shape == (30, 1 + int(targets.max()))
    weighted = torch.utils.data.WeightedRandomSampler([1.0] * 300, 300)
    with pytest.raises(ConfigError, match="is a DataLoader with a WeightedRandomSampler"):
        load((DataLoader(Mapped(pairs), sampler=weighted), (X[:50], Y[:50])))


@FORKS
@pytest.mark.parametrize("workers", [0, 1])
def test_an_iterable_comes_in_its_own_order_and_begins_again_when_it_ends(workers):
    loader, _ = load((Flow(95), (X[:50], Y[:50])), samples_per_epoch=60, workers=workers)
    batches = loader.batches(0, 0)
    got = [next(batches)[0] for _ in range(7)]
    places = [0, 30, 60, 0, 30, 60, 0]  # 95 samples fill three batches; what is left over is left out
    for inputs, start in zip(got, places, strict=True):
        assert torch.equal(inputs, X[start : start + 30])
    assert torch.equal(next(loader.batches(0, 5))[0], got[5])


def test_the_length_of_an_iterable_is_stated_or_its_own():
    class Sized(Flow):
        def __len__(self):
            return self.size

    assert load((Sized(95), (X[:50], Y[:50])))[0].iterations_per_epoch == 3
    with pytest.raises(ConfigError, match=r"data.samples_per_epoch is missing"):
        load((Flow(95), (X[:50], Y[:50])))
    with pytest.raises(ConfigError, match=r"is for an iterable"):
        load(((X, Y), (X, Y)), samples_per_epoch=60)
    with pytest.raises(ConfigError, match=r"cannot be split"):
        load(Flow(95), samples_per_epoch=60)


def test_an_iterable_shorter_than_stated_says_what_to_state():
    loader, _ = load((Flow(95), (X[:50], Y[:50])), samples_per_epoch=300)
    batches = loader.batches(0, 0)
    assert len([next(batches) for _ in range(3)]) == 3
    with pytest.raises(ConfigError, match="ended after 3 batches of 30: state 90 or give more"):
        next(batches)


def test_a_held_out_set_is_split_off_with_every_class_in_its_proportion_or_taken_from_what_is_given():
    loader, heldout = load((X, Y))
    assert (len(loader), heldout.targets.bincount().tolist()) == (240, [20, 20, 20])
    labelled = Mapped(pairs)
    labelled.targets = Y
    loader, heldout = load(labelled, heldout=30)
    assert (len(loader), heldout.targets.bincount().tolist()) == (270, [10, 10, 10])
    assert len(load(((X, Y), (X, Y)), heldout=99)[1]) == 99
    assert len(load(((X, Y), Mapped(pairs)), heldout=99)[1]) == 99
    assert len(load(((X, Y), Flow(300)), heldout=99)[1]) == 99


def test_real_numbers_are_targets_of_a_regression_and_no_classes():
    _, heldout = load(((X, X[:, 0]), (X, X[:, 0])), metric="loss")
    assert heldout.targets.dtype == torch.float32
    with pytest.raises(
        ConfigError, match="labels must be whole class numbers from 0; for real numbers set metric: loss"
    ):
        load(((X, X[:, 0]), (X, X[:, 0])))


@FORKS
def test_workers_that_read_the_same_samples_of_an_iterable_are_refused_and_those_that_share_are_not():
    class Shared(Flow):
        def __iter__(self):
            mine = torch.utils.data.get_worker_info()
            return (
                (X[i % 300], int(Y[i % 300]))
                for i in range(mine.id if mine else 0, 300, mine.num_workers if mine else 1)
            )

    loader, _ = load((Flow(300), (X[:50], Y[:50])), samples_per_epoch=240, workers=2)
    with pytest.raises(ConfigError, match=r"two workers read the same samples.*data.workers=1"):
        list(zip(range(3), loader.batches(0, 0), strict=False))
    loader, _ = load((Shared(), (X[:50], Y[:50])), samples_per_epoch=240, workers=2)
    batches = loader.batches(0, 0)
    seen = torch.cat([next(batches)[0] for _ in range(8)])
    assert len(torch.unique(seen[:, 0])) == 240


def test_images_in_memory_are_normalised_alike_on_the_device_and_through_a_loader():
    images = torch.from_numpy(GENERATOR.integers(0, 255, (300, 1, 4, 4), dtype=np.uint8))
    (resident, held), (streamed, held_again) = (load((images, Y), placement=way) for way in ("device", "loader"))
    assert torch.equal(held.inputs, held_again.inputs)
    one, other = next(resident.batches(0, 0)), next(streamed.batches(0, 0))
    torch.testing.assert_close(one, other)


def test_labels_that_a_dataset_holds_from_before_its_own_transform_do_not_count_the_classes():
    coarse = Mapped(pairs)
    coarse.targets = 25 * Y  # as with target_transform=lambda label: label // 25
    values = {
        "model": {"name": "mlp"},
        "data": {"factory": "mine:data", "batch_size": 30, "placement": "loader", "workers": 0},
    }
    config = RangeTestConfig.model_validate(values)
    data = load_data(config, torch.device("cpu"), download=False, factory=lambda name, field: lambda: (coarse, coarse))
    assert data.num_outputs == 3


def test_numpy_scalars_lists_and_doubles_are_numbers_too():
    def rows(x, y):
        return {"x": x.double().numpy(), "extra": [1, 2], "y": np.int64(y)}

    _, heldout = load((Mapped(rows), Mapped(rows, 50)))
    assert (heldout.inputs["x"].dtype, heldout.inputs["extra"].shape) == (torch.float32, (50, 2))


def test_class_numbers_that_come_as_floats_are_class_numbers_through_a_loader_too():
    loader, heldout = load(((X, Y.float()), (X, Y.float())), placement="loader")
    assert next(loader.batches(0, 0))[1].dtype == heldout.targets.dtype == torch.int64


def test_a_dataloader_that_pins_memory_pins_every_tensor_of_the_samples(monkeypatch):
    from torch.utils.data._utils.pin_memory import pin_memory

    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor, *device: pinned.append(tensor.shape) or tensor)
    samples = pin_memory(Samples({"x": X}, Y))
    assert isinstance(samples, Samples)
    assert pinned == [X.shape, Y.shape]


def test_a_batch_factory_that_loses_samples_is_refused():
    with pytest.raises(ConfigError, match=r"data.batch: gave 5 samples of 50"):
        load((Mapped(pairs), Mapped(pairs, 50)), lambda batch: (batch[0][:5], batch[1][:5]), batch="mine:unpack")
