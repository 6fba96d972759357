"""Data that somebody else made: no file of it runs code, and none of a few bytes fills the memory."""

import io
import os
import pickle
import re
import struct
import weakref
import zipfile
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets as torchvision_datasets

from clrtool.config.components import ModelConfig
from clrtool.engine.data import datasets, streaming, tensors
from clrtool.engine.data.collate import Collate
from clrtool.engine.models import builtin as models
from clrtool.engine.runtime import hardware as machine
from clrtool.engine.runtime.factories import call, covers, import_factory
from clrtool.errors import ConfigError, MachineError

FAST = ["sweep.epochs=0.2", "sweep.start_lr=1e-3", "sweep.end_lr=1", "sweep.evaluations=3", "--seeds", "1", "-q"]


class Touches:
    """A pickle that makes a file when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.fixture
def pwned(tmp_path):
    return tmp_path / "pwned"


@pytest.fixture
def refused(cli, tmp_path, monkeypatch):
    """Run rangetest on data in the current folder; give its code and message."""
    monkeypatch.chdir(tmp_path)

    def call(data):
        result = cli("rangetest", "digits", f"data={data}", *FAST, "-o", tmp_path / "run")
        assert "Traceback" not in result.err
        return result.code, " ".join(result.err.split())

    return call


def test_the_pickle_of_these_tests_does_run_code(pwned):
    pickle.loads(pickle.dumps(Touches(pwned))).close()  # noqa: S301 (it is our own)
    assert pwned.exists()


@pytest.mark.parametrize(
    ("name", "folder", "files"),
    [
        ("CIFAR10", "cifar-10-batches-py", [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"]),
        ("CIFAR100", "cifar-100-python", ["train", "test", "meta"]),
    ],
)
def test_a_cifar_file_that_is_not_the_published_one_is_refused_before_it_is_read(refused, pwned, name, folder, files):
    root = pwned.parent / "data" / folder
    root.mkdir(parents=True)
    for file in files:
        (root / file).write_bytes(pickle.dumps(Touches(pwned)))
    code, message = refused(f"{{name: torchvision.{name}, args: {{root: data}}}}")
    assert (code, pwned.exists()) == (4, False)
    assert "not found or corrupted" in message


def test_a_dataset_that_would_unpickle_whatever_lies_there_is_refused(refused):
    code, message = refused("{name: torchvision.LSUN, args: {root: data}}")
    assert code == 2
    assert "data.name: torchvision.LSUN runs what its files hold as code; use a factory" in message


def test_torchvision_unpickles_in_the_places_that_are_known_and_in_no_other():
    folder = Path(torchvision_datasets.__file__).parent
    found = {file.stem for file in folder.rglob("*.py") if datasets._UNPICKLES.search(file.read_text())}
    assert found == {"cifar", "lsun"}
    kinds = {name for name in torchvision_datasets.__all__ if isinstance(getattr(torchvision_datasets, name), type)}
    assert {name for name in kinds if datasets.unpickles(getattr(torchvision_datasets, name))} == {
        *datasets.VERIFIED, "LSUN", "LSUNClass",
    }  # fmt: skip


def test_the_two_that_may_unpickle_have_a_checksum_for_every_file():
    for name in datasets.VERIFIED:
        kind = getattr(torchvision_datasets, name)
        sums = [md5 for _, md5 in (*kind.train_list, *kind.test_list)] + [kind.meta["md5"]]
        assert all(re.fullmatch("[0-9a-f]{32}", md5) for md5 in sums)


def idx(kind, *shape, content=b""):
    """A file of MNIST: two zeros, the kind of number, how many sizes, the sizes, the numbers."""
    return bytes([0, 0, kind, len(shape)]) + b"".join(struct.pack(">I", size) for size in shape) + content


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (b"", b""),
        (b"garbage", b"x" * 10),
        (idx(8, 2**31, 2**31, 2**31), idx(8, 10)),
        (idx(99, 3, 2, 2, content=bytes(12)), idx(8, 3, content=bytes(3))),
        (idx(14, 3, 2, 2, content=bytes(96)), idx(8, 3, content=bytes(3))),
    ],
)
def test_files_of_something_else_under_the_names_of_mnist_are_told_with_the_dataset(images, labels):
    folder = Path("data/MNIST/raw")
    folder.mkdir(parents=True)
    for part in ("train", "t10k"):
        (folder / f"{part}-images-idx3-ubyte").write_bytes(images)
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(labels)
    with pytest.raises(ConfigError, match=r"data: torchvision\.MNIST in 'data' cannot be read: \w+Error"):
        datasets.torchvision_dataset("MNIST", 0, False)


def test_a_file_of_torchvision_that_is_not_there_is_named():
    with pytest.raises(MachineError, match=r"torchvision\.USPS in 'data': data/usps\.bz2: No such file or directory"):
        datasets.torchvision_dataset("USPS", 0, False)


def test_arrays_of_objects_are_refused_unread(refused, pwned):
    np.savez("a.npz", x=np.ones((50, 4)), y=np.array([Touches(pwned)] * 50, dtype=object))
    np.save("b.npy", np.array([Touches(pwned)] * 50, dtype=object), allow_pickle=True)
    Path("c.npz").write_bytes(pickle.dumps(Touches(pwned)))
    for name in ("a.npz", "b.npy", "c.npz"):
        code, message = refused(f"{{name: npz, args: {{path: {name}}}}}")
        assert (code, pwned.exists()) == (2, False)
        assert f"data.args.path: {name} is not an .npz file of plain arrays" in message


def header(shape):
    """The beginning of an array of bytes of a shape."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return stream.getvalue()


def test_a_zip_bomb_is_refused_by_the_sizes_that_it_states(refused, monkeypatch):
    monkeypatch.setattr(tensors, "total_memory", lambda: 10**8)
    with zipfile.ZipFile("bomb.npz", "w", zipfile.ZIP_DEFLATED) as file:
        for name in ("x", "y"):
            file.writestr(f"{name}.npy", header((10**8, 1)) + bytes(10**8))
    assert Path("bomb.npz").stat().st_size < 10**6
    code, message = refused("{name: npz, args: {path: bomb.npz}}")
    assert code == 4
    assert "the arrays of bomb.npz take 0.2 GB, more than half of this machine's memory" in message


@pytest.mark.parametrize(
    ("x", "y", "kept"),
    [
        (np.zeros((100, 1000), np.uint8), np.ones((100, 1000), np.uint8), "int64"),
        (np.zeros((100, 1000), bool), np.arange(100), "float32"),
        (np.zeros((100, 10, 100), np.int8), np.arange(100), "float32"),
        (np.zeros((100, 1000), np.float16), np.zeros((100, 1000), bool), "float32"),
    ],
)
def test_arrays_are_held_against_the_memory_as_they_will_be_kept(refused, monkeypatch, x, y, kept):
    np.savez_compressed("a.npz", x=x, y=y)
    monkeypatch.setattr(tensors, "total_memory", lambda: 2 * (x.nbytes + y.nbytes + 1000))
    code, message = refused("{name: npz, args: {path: a.npz}}")
    assert (code, f"data: the arrays as {kept} take " in message) == (4, True), message


@pytest.mark.parametrize("limit", ["null", 10])
def test_an_array_with_as_many_samples_as_can_be_written_and_nothing_in_them_is_refused(refused, limit):
    np.savez("a.npz", x=np.zeros((2**40, 0), np.float32), y=np.zeros((2**40, 0), np.int64))
    code, message = refused(f"{{name: npz, args: {{path: a.npz, limit: {limit}}}}}")
    assert (code, "the dataset is empty" in message) == (2, True), message


@pytest.mark.parametrize(("place", "value"), [(8, 1), (10, 9), (10, 12), (10, 93)])
def test_an_archive_that_is_locked_or_packed_in_an_unknown_way_is_a_message(refused, place, value):
    np.savez("a.npz", x=np.zeros((10, 3)), y=np.arange(10))
    content = bytearray(Path("a.npz").read_bytes())
    content[content.index(b"PK\x01\x02") + place] = value
    Path("a.npz").write_bytes(content)
    code, message = refused("{name: npz, args: {path: a.npz}}")
    assert (code, "a.npz is not an .npz file of plain arrays" in message) == (2, True), message


@pytest.mark.parametrize("shape", [(10**6, 10), (2**62, 4), (10**30, 1), (-1, 4)])
def test_an_array_that_is_smaller_than_it_says_is_refused(refused, shape):
    with zipfile.ZipFile("a.npz", "w") as file:
        for name in ("x", "y"):
            file.writestr(f"{name}.npy", header(shape) + bytes(100))
    code, _ = refused("{name: npz, args: {path: a.npz}}")
    assert code in (2, 4)


@pytest.mark.parametrize("name", ["npz", "text"])
def test_what_is_no_plain_file_is_refused_and_not_waited_for(refused, name):
    os.mkfifo("pipe")
    for path in ("pipe", "/dev/zero", "."):
        code, message = refused(f"{{name: {name}, args: {{path: {path}}}}}")
        assert code == 2
        assert "plain file" in message or "Is a directory" in message


def test_a_path_that_no_file_can_have_is_refused(refused):
    for path in ("x" * 300, "x" * 5000, "''"):
        for name, key in (("npz", "path"), ("text", "path"), ("image_folder", "root")):
            code, message = refused(f"{{name: {name}, args: {{{key}: {path}}}}}")
            assert code == 2
            assert len(message) < 500


def png(width, height):
    """A picture of a few bytes that says it is large."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    pixels = zlib.compress(bytes(10_000))
    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("side", "rule"), [(8200, "at most 67,108,864 are read"), (12_000, "bomb"), (60_000, "bomb")])
def test_an_image_that_would_unfold_to_gigabytes_is_refused_with_its_name(refused, side, rule):
    for part in ("train", "test"):
        for label in ("cat", "dog"):
            Path(part, label).mkdir(parents=True)
            for number in range(8):
                Image.new("RGB", (4, 4)).save(Path(part, label, f"{number}.png"))
    Path("test/cat/3.png").write_bytes(png(side, side))
    code, message = refused("{name: image_folder, args: {root: .}, batch_size: 4}")
    assert code == 2
    assert rule in message
    assert "test/cat/3.png" in message


class Pictures:
    """Pictures of one size, and how many of them there are at most at once."""

    def __init__(self, number, side):
        self.number, self.side, self.alive, self.most = number, side, 0, 0

    def __len__(self):
        return self.number

    def __getitem__(self, index):
        image = Image.new("RGB", (self.side, self.side))
        self.alive += 1
        self.most = max(self.most, self.alive)
        weakref.finalize(image, self.gone)
        return image, index % 2

    def gone(self):
        self.alive -= 1


def test_of_pictures_that_are_resized_one_at_a_time_is_held():
    pictures = Pictures(300, 64)
    assert streaming.MapDataset(pictures, Collate(size=8)).read().inputs.shape == (300, 3, 8, 8)
    assert pictures.most <= 2, "the one that is read while the one before it goes"


@pytest.mark.parametrize("size", ["null", 64])
def test_a_folder_of_pictures_that_would_fill_the_memory_is_refused_before_it_does(refused, monkeypatch, size):
    for place in (Path(part, label) for part in ("train", "test") for label in ("cat", "dog")):
        place.mkdir(parents=True)
        for number in range(20):
            Image.new("1", (1000, 1000)).save(place / f"{number}.png")
    taken = sum(file.stat().st_size for file in Path().rglob("*.png"))
    monkeypatch.setattr(streaming, "total_memory", lambda: 4 * 40 * 2_000_000)
    found, message = refused(f"{{name: image_folder, args: {{root: ., size: {size}}}, batch_size: 4}}")
    if size == "null":
        assert (found, "data: 40 samples of 3 MB take 0.12 GB, more than 1/4" in message) == (4, True), message
        assert taken < 200_000
    else:
        assert found in (0, 3), message


@pytest.mark.parametrize(
    ("name", "args", "rule"),
    [
        ("mlp", {"hidden": [10**5] * 2000}, "this machine has"),
        ("mlp", {"hidden": [10**6]}, "must be at most 100000"),
        ("mlp", {"hidden": [1] * 2001}, "must hold at most 2000 of them"),
        ("convnet", {"channels": [10**5, 10**5]}, "this machine has"),
        ("resnet", {"depth": 6 * 10**6 + 2}, "must be at most 2000"),
        ("resnet", {"depth": 1202, "width": 10**5}, "this machine has"),
        ("vit", {"depth": 10**6}, "must be at most 2000"),
        ("vit", {"width": 10**5, "depth": 200}, "this machine has"),
        ("vit", {"width": True}, "must be a whole number"),
        pytest.param("gpt", {"width": 10**5, "depth": 2000}, "this machine has", marks=pytest.mark.short(0)),
    ],
)
def test_a_model_that_this_machine_cannot_train_is_refused_before_it_is_built(name, args, rule):
    build = partial(models.MODELS[name], (16,) if name == "gpt" else (3, 32, 32), 10)
    with pytest.raises((ConfigError, MachineError), match=rule):
        call(build, "model.args", args)


def test_looking_at_the_size_of_a_model_draws_no_random_number():
    made = []
    for build in (models.MODELS["convnet"], models.convnet):
        torch.manual_seed(0)
        made.append(build((3, 32, 32), 10).state_dict()["0.weight"])
    assert torch.equal(*made)
    assert machine.total_memory() > 10**8


@pytest.mark.parametrize(
    "part",
    [
        "model={{factory: '{}', args: {{command: 'touch {}'}}}}",
        "data={{factory: '{}', args: {{command: 'touch {}'}}}}",
        "data={{factory: 'torch:ones', batch: '{}', args: {{command: 'touch {}'}}}}",
        "optimizer={{factory: '{}', args: {{command: 'touch {}'}}}}",
        "loss={{factory: '{}', args: {{command: 'touch {}'}}}}",
        "metric={{factory: '{}', higher_is_better: true, args: {{command: 'touch {}'}}}}",
    ],
)
def test_no_part_of_a_config_imports_what_was_not_allowed(cli, tmp_path, pwned, part):
    for factory in ("os:system", "os:_exit", "builtins:__import__", "_posixsubprocess:fork_exec"):
        for allowed in ([], ["--allow-import", "mine:*", "--allow-import", "o.*"]):
            result = cli("rangetest", "digits", part.format(factory, pwned), *allowed, "-q", "-o", tmp_path / "run")
            assert (result.code, pwned.exists()) == (2, False)
            told = ("is code, and a config may run code only if", "not cover it", "is private")
            assert any(words in " ".join(result.err.split()) for words in told)


@pytest.mark.parametrize("factory", ["os:_exit", "_os:x", "a._b:c", "a.__class__:c", "a:__init__", "a:_c"])
def test_a_private_name_is_refused_even_where_its_module_is_allowed(tmp_path, factory):
    module = factory.partition(":")[0]
    with pytest.raises(ConfigError, match="is private"):
        import_factory(factory, "model.factory", [f"{module}:*", f"{module}.*", factory], tmp_path)


@pytest.mark.parametrize(
    ("pattern", "factory"),
    [
        ("pkg.*", "pkgevil:run"),
        ("pkg.*", "pkgevil.sub:run"),
        ("pkg.*", "pkg:run"),
        ("pkg:*", "pkg.sub:run"),
        ("pkg:*", "pkgevil:run"),
        ("pkg:run", "pkg:runs"),
        ("pkg:run", "pkg:run\n"),
        ("pkg.sub:*", "pkg:sub"),
    ],
)
def test_a_pattern_allows_nothing_beside_what_it_names(pattern, factory):
    assert not covers(pattern, factory)


@pytest.mark.parametrize("pattern", ["*", ".*", ":*", "p*", "*.models:net", "pkg.*:net", "pkg.mo*", "**", ""])
def test_a_pattern_that_could_mean_anything_is_refused(pattern):
    with pytest.raises(ConfigError, match="--allow-import"):
        covers(pattern, "pkg.models:net")


@pytest.mark.parametrize(
    "name",
    ["os:system\n", "\nos:system", "os:system ", "os.:system", "os..path:join", ".os:system", "os\u2024path:join",
     "os\uff0epath:join", "os\uff1asystem", "os:sys.tem", "os:", ":system", "os:system:x", "1os:x", "o s:x", "a" * 300 + ":b"],
)  # fmt: skip
def test_a_factory_name_is_a_dotted_name_a_colon_and_a_name_and_nothing_else(name):
    with pytest.raises(ValueError, match="factory"):
        ModelConfig(factory=name)
