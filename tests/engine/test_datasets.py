"""Datasets from files of every kind, made here."""

import struct

import numpy as np
import pytest
import torch
from PIL import Image

from clrtool.engine.data import datasets
from clrtool.engine.data.tensors import Samples, sha256, split
from clrtool.errors import ConfigError, MachineError

GENERATOR = np.random.default_rng(0)


def test_the_shipped_digits_are_the_1797_images_of_the_repository():
    samples, heldout = datasets.digits(seed=0)
    assert (samples.inputs.shape, heldout) == ((1797, 1, 8, 8), None)
    # The class counts that the UCI page states for its test part.
    assert samples.targets.bincount().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_a_split_is_fixed_by_its_seed_keeps_every_sample_and_every_class_in_proportion():
    samples = Samples(torch.arange(1000), torch.arange(1000) % 10 // 7)
    train, heldout = split(samples, 100, seed=3)
    assert sorted(torch.cat((train.inputs, heldout.inputs)).tolist()) == list(range(1000))
    assert abs(int(heldout.targets.sum()) - 30) <= 1
    assert heldout.inputs.equal(split(samples, 100, seed=3)[1].inputs)
    assert not heldout.inputs.equal(split(samples, 100, seed=4)[1].inputs)


@pytest.mark.parametrize("count", [0, -1, 1000, 2000])
def test_a_held_out_set_that_leaves_nothing_is_refused(count):
    with pytest.raises(ConfigError, match="must be above 0 and below the 1000 samples"):
        split(Samples(torch.arange(1000), torch.arange(1000) % 2), count, seed=0)


def test_npz_images_become_channels_first_and_stay_uint8(tmp_path):
    x = GENERATOR.integers(0, 255, (40, 5, 6, 3), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", x_train=x[:30], y_train=np.arange(30) % 3, x_test=x[30:], y_test=np.arange(10) % 3)
    train, heldout = datasets.npz(0, str(tmp_path / "a.npz"), limit=12)
    assert (train.inputs.shape, train.inputs.dtype, len(heldout)) == ((12, 3, 5, 6), torch.uint8, 10)
    assert train.targets.bincount().tolist() == [4, 4, 4]
    assert torch.equal(heldout.inputs[4], torch.from_numpy(x[34].transpose(2, 0, 1)))


def test_npz_of_one_part_is_left_to_be_split_and_floats_are_taken_as_they_are(tmp_path):
    np.savez(tmp_path / "a.npz", x=GENERATOR.normal(size=(50, 7)), y=np.arange(50) % 2)
    samples, heldout = datasets.npz(0, str(tmp_path / "a.npz"))
    assert (samples.inputs.shape, samples.inputs.dtype, heldout) == ((50, 7), torch.float32, None)


@pytest.mark.parametrize(
    ("arrays", "rule"),
    [
        ({"a": np.ones(3)}, "it has a"),
        ({"x": np.ones((5, 2)), "y": np.arange(4)}, "need one label each"),
        ({"x": np.ones((5, 2)), "y": np.array([{}] * 5)}, "not an .npz file of plain arrays"),
    ],
)
def test_an_npz_file_that_is_no_dataset_says_what_it_lacks(tmp_path, arrays, rule):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ConfigError, match=rule):
        datasets.npz(0, str(tmp_path / "a.npz"))


def read(parts):
    """Every sample of the parts that a loader gave."""
    return [part if isinstance(part, Samples) else part.read(range(len(part))) for part in parts]


def images(root, classes=("cat", "dog"), count=6, size=(10, 10), mode="RGB"):
    for label, name in enumerate(classes):
        folder = root / name
        folder.mkdir(parents=True)
        for index in range(count):
            Image.new(mode, size, 40 * label if mode == "L" else (40 * label, index, 0)).save(folder / f"{index}.png")


def test_an_image_folder_is_read_class_by_class(tmp_path):
    images(tmp_path / "train")
    images(tmp_path / "test", count=3)
    train, heldout = read(datasets.image_folder(0, str(tmp_path), limit=8))
    assert (train.inputs.shape, train.inputs.dtype) == ((8, 3, 10, 10), torch.uint8)
    assert (train.targets.bincount().tolist(), len(heldout)) == ([4, 4], 6)
    assert set(train.inputs[train.targets == 1][:, 0].unique().tolist()) == {40}


def test_images_of_several_sizes_are_refused_until_a_size_is_given(tmp_path):
    images(tmp_path / "train")
    images(tmp_path / "test")
    Image.new("RGB", (20, 12)).save(tmp_path / "train" / "cat" / "odd.png")
    with pytest.raises(ConfigError, match=r"set data.args.size"):
        read(datasets.image_folder(0, str(tmp_path)))
    assert read(datasets.image_folder(0, str(tmp_path), size=8))[0].inputs.shape == (13, 3, 8, 8)


def test_an_image_folder_that_is_missing_empty_or_of_other_classes_says_so(tmp_path):
    with pytest.raises(MachineError, match="does not exist"):
        datasets.image_folder(0, str(tmp_path / "none"))
    images(tmp_path / "train")
    (tmp_path / "test").mkdir()
    with pytest.raises(ConfigError, match="Couldn't find any class folder"):
        read(datasets.image_folder(0, str(tmp_path)))
    images(tmp_path / "test", classes=("cat", "cow"))
    with pytest.raises(ConfigError, match="differ in their classes: cow, dog"):
        read(datasets.image_folder(0, str(tmp_path)))


def mnist(root, train=60, test=20):
    """The four files of MNIST in their own format, with noise for images."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, count in (("train", train), ("t10k", test)):
        pixels = GENERATOR.integers(0, 255, (count, 28, 28), dtype=np.uint8)
        (raw / f"{name}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 2051, count, 28, 28) + pixels.tobytes())
        labels = (np.arange(count) % 10).astype(np.uint8)
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, count) + labels.tobytes())


def test_a_torchvision_dataset_is_read_from_its_files(tmp_path):
    mnist(tmp_path)
    train, heldout = read(datasets.torchvision_dataset("MNIST", 0, False, root=str(tmp_path), limit=50))
    assert (train.inputs.shape, train.inputs.dtype, len(heldout)) == ((50, 1, 28, 28), torch.uint8, 20)


@pytest.mark.parametrize(
    ("name", "arguments", "error", "rule"),
    [
        ("MNIST", {}, MachineError, "add --download"),
        ("MNOST", {}, ConfigError, "did you mean 'MNIST'"),
        ("FakeData", {}, ConfigError, "has no training and test part"),
        ("MNIST", {"sise": 3}, ConfigError, "unknown argument 'sise'"),
    ],
)
def test_a_torchvision_dataset_that_cannot_be_read_says_why(tmp_path, name, arguments, error, rule):
    with pytest.raises(error, match=rule):
        datasets.torchvision_dataset(name, 0, False, root=str(tmp_path), **arguments)


def test_a_factory_may_return_tensors_arrays_or_datasets():
    x, y = torch.ones(4, 2), torch.tensor([0, 1, 0, 1])
    for part in ((x, y), (x.numpy(), y.numpy()), torch.utils.data.TensorDataset(x, y)):
        train, heldout = read(datasets.from_factory((part, part), None))
        assert torch.equal(train.inputs, x)
        assert torch.equal(heldout.targets, y)


@pytest.mark.parametrize("made", [None, 3, (1, 2), "text", [iter([])] * 2])
def test_a_factory_that_returns_something_else_is_told_what_to_return(made):
    with pytest.raises(ConfigError, match=r"data.factory"):
        datasets.from_factory(made, None)


def test_the_hash_follows_every_value_and_the_shape():
    x, y = torch.arange(6.0).reshape(3, 2), torch.tensor([0, 1, 0])
    plain = sha256(Samples(x, y))
    assert sha256(Samples(x.clone(), y.clone())) == plain
    others = [Samples(x + 1e-6, y), Samples(x, 1 - y), Samples(x.reshape(3, 1, 2), y), Samples(x.double(), y)]
    assert len({plain, *map(sha256, others)}) == 5


@pytest.mark.parametrize(
    "folders", [("train", "test"), ("train", "val"), ("train", "valid"), ("train",), ("",)], ids=" and ".join
)
def test_a_starter_says_how_the_images_of_a_folder_lie(folders, tmp_path):
    from clrtool.config.file import load_config
    from clrtool.report.programs.starter import starter

    for name in folders:
        images(tmp_path / "photos" / name)
    config = tmp_path / "mine.yaml"
    config.write_text(starter("mlp", f"image_folder:{tmp_path / 'photos'}", "mine.yaml"))
    train, held = datasets.image_folder(0, **load_config(config).data.args)
    assert len(train) > 0
    assert (held is None) == (len(folders) == 1)
