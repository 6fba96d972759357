"""Files of anybody start no program, make no loop, take no more memory than they hold, and never keep one waiting."""

import io
import os
import pickle
import resource
import shutil
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from PIL import Image

from clrtool.config.components import ModelConfig, OptimizerConfig
from clrtool.engine.data import datasets
from clrtool.engine.data.images import Images, read_image
from clrtool.engine.data.tensors import as_targets
from clrtool.engine.models.checkpoint import checkpoint_sha256, read_checkpoint
from clrtool.engine.models.pretrained import read_weights, with_weights
from clrtool.engine.runtime.serialize import from_bytes, to_bytes
from clrtool.engine.training.going_on import ContinuedOptimizer
from clrtool.engine.training.optimizers import make_optimizer_recipe
from clrtool.errors import ConfigError, MachineError

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n%%EOF\n"


@pytest.fixture
def photos(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "photos" / name / "a.png")
    return tmp_path / "photos"


@pytest.fixture
def ghostscript(tmp_path, monkeypatch):
    """A Ghostscript that tells that it was started."""
    program = tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return tmp_path / "ran"


@pytest.mark.parametrize("name", ["b.png", "b.jpg", "b.webp"])
def test_postscript_under_the_name_of_an_image_starts_nothing(photos, ghostscript, name):
    (photos / "cat" / name).write_bytes(EPS)
    with pytest.raises(OSError, match=rf"{name}: is no image of BMP"):
        read_image(str(photos / "cat" / name))
    assert not ghostscript.exists()


def test_datasets_of_torchvision_start_nothing_either(photos, ghostscript):
    with pytest.raises(Exception, match="no training and test part"):
        datasets.torchvision_dataset("Caltech101", 0, download=False)
    (photos / "b.jpg").write_bytes(EPS)
    with Image.open(photos / "b.jpg") as image, pytest.raises(OSError, match="Ghostscript"):
        image.load()
    assert not ghostscript.exists()


def test_links_that_make_a_loop_and_what_is_no_file_are_named(photos, tmp_path):
    assert len(Images(str(photos))) == 2
    (photos / "cat" / "again").symlink_to(photos)
    with pytest.raises(ConfigError, match="cat/again is a link to a folder that is read already"):
        datasets.image_folder(0, str(tmp_path), train="photos", heldout=None)
    (photos / "cat" / "again").unlink()
    (photos / "cat" / "deep").mkdir()
    (photos / "cat" / "deep" / "up").symlink_to("..")
    with pytest.raises(ConfigError, match="deep/up is a link"):
        Images(str(photos))
    shutil.rmtree(photos / "cat" / "deep")
    os.mkfifo(photos / "dog" / "b.jpeg")
    with pytest.raises(ConfigError, match=r"b\.jpeg is no plain file"):
        Images(str(photos))


def test_folders_in_folders_without_an_end_are_named(photos):
    deep = photos / "cat" / "/".join("d" * 99)
    deep.mkdir(parents=True)
    assert len(Images(str(photos))) == 2
    (deep / "d" / "d").mkdir(parents=True)
    with pytest.raises(ConfigError, match="more than 100 folders deep"):
        Images(str(photos))


def test_files_that_never_end_hold_nobody_up(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(OSError, match="no plain file"):
        read_image(str(tmp_path / "pipe.png"))
    for name in ("pipe.pt", "pipe.safetensors"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(ConfigError, match="no plain file"):
            read_weights(tmp_path / name)
    for path in ("/dev/zero", "/proc/kmsg", "/proc/self/maps"):
        if os.access(path, os.R_OK):
            with pytest.raises(ConfigError, match=r"model\.weights"):
                read_weights(type(tmp_path)(path))


def deflated(path):
    torch.save({"w": torch.zeros(3_000_000)}, path)
    packed = path.with_suffix(".packed")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    packed.replace(path)


FAULTS = {
    "larger than what is stored": torch.zeros(1).expand(10_000_000_000),
    "without its numbers": torch.empty(4, device="meta"),
    "sparse, nested or quantized": torch.eye(3).to_sparse(),
    "float8": torch.zeros(4).to(torch.float8_e4m3fn),
    "NaN or infinite": torch.tensor([float("nan")]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_tensor_that_is_no_plain_one_is_named_before_anything_is_made_of_it(tmp_path, fault):
    torch.save({"head.weight": FAULTS[fault]}, tmp_path / "a.pt")
    with pytest.raises(ConfigError, match=rf"a\.pt holds head\.weight .*{fault}"):
        read_weights(tmp_path / "a.pt")


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors_are_a_message(tmp_path):
    torch.save({"a": torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])}, tmp_path / "a.pt")
    with pytest.raises(ConfigError, match=r"model\.weights"):
        read_weights(tmp_path / "a.pt")


def test_complex_weights_of_a_real_model_are_refused_not_cut(tmp_path):
    state = torch.nn.Linear(2, 2).state_dict()
    torch.save(state | {"bias": torch.zeros(2, dtype=torch.complex64)}, tmp_path / "a.pt")
    with pytest.raises(ConfigError, match="has bias in complex numbers, the model in real ones"):
        with_weights(lambda: torch.nn.Linear(2, 2), ModelConfig(name="mlp", weights=str(tmp_path / "a.pt")))()


@pytest.mark.parametrize("entry", [" ", '"a":0,'])
def test_a_header_of_safetensors_is_not_read_where_it_is_larger_than_any_model_needs(tmp_path, entry):
    header = b"{" + entry.encode() * 2**24 + b"}"
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ConfigError, match=f"has a header of {len(header):,} bytes; at most 16,777,216 are read"):
        read_weights(tmp_path / "a.safetensors")


def test_packed_weights_are_not_unpacked(tmp_path):
    deflated(tmp_path / "a.pt")
    with pytest.raises(ConfigError, match="no weights that can be read"):
        read_weights(tmp_path / "a.pt")
    with pytest.raises(ValueError, match="packed"):
        from_bytes((tmp_path / "a.pt").read_bytes())
    assert from_bytes(to_bytes({"a": 1})) == {"a": 1}


def test_a_part_of_a_larger_tensor_is_no_fault(tmp_path):
    torch.save({"w": torch.arange(10.0)[2:4], "t": torch.zeros(2, 3).t()}, tmp_path / "a.pt")
    assert read_weights(tmp_path / "a.pt")["w"].tolist() == [2, 3]


@pytest.mark.parametrize("order", ["<", ">"])
def test_labels_are_read_in_either_order_of_their_bytes(tmp_path, order):
    labels = np.arange(40).astype(f"{order}i4") % 2
    assert as_targets(labels.astype(f"{order}i4")).tolist() == labels.tolist()
    np.savez(tmp_path / "a.npz", x=np.ones((40, 3), f"{order}f4"), y=labels.astype(f"{order}i8"))
    assert datasets.npz(0, str(tmp_path / "a.npz"))[0].targets.tolist() == labels.tolist()


def test_an_archive_with_something_else_than_arrays_is_a_message(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.ones((4, 3)))
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as file:
        file.writestr("y", b"labels")
    with pytest.raises(ConfigError, match="data"):
        datasets.npz(0, str(tmp_path / "a.npz"))


def limited(kind, amount):
    return lambda: resource.setrlimit(kind, (amount, amount))


@pytest.mark.short(2)
@pytest.mark.parametrize(
    ("kind", "amount"), [(resource.RLIMIT_AS, 900 * 2**20), (resource.RLIMIT_NOFILE, 12), (resource.RLIMIT_NOFILE, 20)]
)
def test_want_of_memory_or_of_files_is_a_matter_of_the_machine(tmp_path, kind, amount):
    command = [sys.executable, "-m", "clrtool", "rangetest", "digits", "-q", "-n"]
    run = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, preexec_fn=limited(kind, amount), check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}, timeout=200,
    )  # fmt: skip
    assert run.returncode in (0, 4), run.stderr
    assert "internal error" not in run.stderr


def packed():
    """An archive of torch whose entries are deflated."""
    content = io.BytesIO()
    plain = io.BytesIO(to_bytes({"w": torch.zeros(10_000)}))
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    return content.getvalue()


def with_two_lists():
    """The same, with a second list of entries as Python reads it, by which each holds one byte as it is."""
    content, end = packed(), struct.Struct("<4s4H2LH")
    *_, length, start, _ = end.unpack(content[-end.size :])
    entries, at = bytearray(content[start : start + length]), 0
    while at < length:
        struct.pack_into("<H", entries, at + 10, zipfile.ZIP_STORED)
        struct.pack_into("<2L", entries, at + 20, 1, 1)
        at += 46 + sum(struct.unpack_from("<3H", entries, at + 28))
    return content[: start + length] + bytes(entries) + content[-end.size :]


@pytest.mark.parametrize("size", [10, 65_536, 66_000, 69_000])
def test_an_archive_that_two_readers_read_otherwise_is_refused(size):
    with pytest.raises(ValueError, match="not an archive as torch"):
        from_bytes(packed() + bytes(size))
    with pytest.raises(ValueError, match="not an archive as torch"):
        from_bytes(with_two_lists())


def as_torch_saved_before(values):
    """A file of torch before 1.6 around a pickle of anybody's."""
    heads = (torch.serialization.MAGIC_NUMBER, torch.serialization.PROTOCOL_VERSION, {"little_endian": True})
    return b"".join(pickle.dumps(each, 2) for each in heads) + values + pickle.dumps([], 2)


NAMED = b"\x80\x02}X\x01\x00\x00\x00a"
CALLS = {
    "bytes": b"c__builtin__\nbytearray\nJ\x00\x00\x00\x7f\x85R",
    "an encoding": b"c_codecs\nencode\nX\x01\x00\x00\x00aX\x08\x00\x00\x00punycode\x86R",
    "numbers": b"ctorch\nFloatTensor\nJ\x00\x00\x00\x10\x85R",
    "fewer numbers": b"ctorch\nDoubleTensor\nM\x00\x10\x85R",
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("archive", [False, True])
def test_a_call_that_makes_much_of_little_is_not_made(tmp_path, call, archive):
    values = NAMED + CALLS[call] + b"s."
    content = as_torch_saved_before(values)
    if archive:
        saved = io.BytesIO()
        writer = torch._C.PyTorchFileWriter(saved)
        writer.write_record("data.pkl", values, len(values))
        writer.write_end_of_file()
        content = saved.getvalue()
    (tmp_path / "a.pt").write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ConfigError, match=r"without running code \(ValueError\)|declares more numbers than it holds"):
        read_weights(tmp_path / "a.pt")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 200_000, "kilobytes"


class Call:
    """A call that a file asks for when it is read."""

    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


MANY = torch.zeros(1).expand(2 * 10**8)
REBUILT = {
    "as another type": (torch._utils._rebuild_device_tensor_from_cpu_tensor, MANY, torch.float64, "cpu", False),
    "on no device": (torch._utils._rebuild_device_tensor_from_cpu_tensor, MANY, torch.float64, "meta", False),
    "as a class": (
        torch._utils._rebuild_wrapper_subclass, torch.Tensor, torch.float32, torch.Size([10**10]), (1,), 0,
        torch.strided, torch.device("cpu"), False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("new", [False, True])
@pytest.mark.parametrize("how", REBUILT)
def test_a_number_that_stands_for_many_is_not_written_out(tmp_path, how, new):
    torch.save({"a": Call(*REBUILT[how])}, tmp_path / "a.pt", _use_new_zipfile_serialization=new)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ConfigError, match=r"model\.weights"):
        read_weights(tmp_path / "a.pt")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 200_000, "kilobytes"


@pytest.mark.parametrize("name", ["numel", "element_size", "untyped_storage", "detach", "_backward_hooks"])
def test_what_a_file_has_set_on_a_tensor_is_not_asked(tmp_path, name):
    whole = torch.arange(3.0)
    plain = (torch._utils._rebuild_tensor_v2, torch.nn.Parameter, (whole._typed_storage(), 0, (3,), (1,), False, None))
    torch.save({"a": Call(torch._tensor._rebuild_from_type_v2, *plain, {name: {}})}, tmp_path / "a.pt")
    found = read_weights(tmp_path / "a.pt")["a"]
    assert (type(found), found.tolist()) == (torch.Tensor, [0, 1, 2])


def in_itself(value):
    value = [value]
    value.append(value)
    return value


def ten_of_ten(value):
    """Ten times in a list that is ten times in the next: as many bytes as a line, and as many values as 10**12."""
    for _ in range(12):
        value = [value] * 10
    return value


def with_method(name):
    def made(value):
        found = OrderedDict(model={"weight": value})
        found.__dict__[name] = 1
        return found

    return made


@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize(
    "trap",
    [in_itself, ten_of_ten, *map(with_method, ("get", "keys", "values", "pop"))],
    ids=["a list in itself", "ten of ten", "get", "keys", "values", "pop"],
)
def test_containers_that_have_no_end_or_methods_of_their_own_are_refused_by_every_reader(tmp_path, trap, new):
    path = tmp_path / "a.pt"
    for content in (trap(torch.ones(2)), {"model": trap(torch.ones(2))}, {"model": {}, "optimizer": trap(1)}):
        torch.save(content, path, _use_new_zipfile_serialization=new)
        for read in (read_weights, read_checkpoint):
            with pytest.raises(ConfigError, match=r"a\.pt holds no weights"):
                read(path)
        with pytest.raises(ValueError, match=r"unfolds to more than it holds|methods of its own"):
            from_bytes(path.read_bytes())


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "none/" * 300, "a.pt/inside"])
def test_what_no_file_can_be_called_is_a_message(tmp_path, name):
    (tmp_path / "a.pt").touch()
    for read in (read_weights, read_checkpoint):
        with pytest.raises((ConfigError, MachineError), match=r"^(model\.weights|start): "):
            read(tmp_path / name)
    assert checkpoint_sha256(tmp_path / name) is None


def test_an_optimizers_state_of_no_parameters_is_told_as_one_of_other_groups(tmp_path):
    model = torch.nn.Linear(2, 3)
    state = torch.optim.Adam(model.parameters()).state_dict()
    state["param_groups"][0]["params"] = []
    torch.save({"model": model.state_dict(), "optimizer": state}, tmp_path / "a.pt")
    recipe = make_optimizer_recipe(OptimizerConfig(name="Adam"), lambda *_: None)
    with pytest.raises(ConfigError, match=r"1 group of 0 tensors, and the config's optimizer has 1 group of 2"):
        ContinuedOptimizer(recipe, read_checkpoint(tmp_path / "a.pt")).check(model)


def test_files_as_torch_wrote_them_at_any_time_are_read(tmp_path):
    state = torch.nn.Linear(2, 3).state_dict()
    for new in (False, True):
        torch.save(state, tmp_path / "a.pt", _use_new_zipfile_serialization=new)
        assert read_weights(tmp_path / "a.pt").keys() == state.keys()
