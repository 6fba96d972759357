"""Bad input of every kind: exit 2 or 4, one clear message, no traceback, nothing overwritten."""

import os

import numpy as np
import pytest

FAST = ["sweep.epochs=0.2", "sweep.start_lr=1e-3", "sweep.end_lr=1", "sweep.evaluations=3", "--seeds", "1", "-q"]


@pytest.fixture
def refused(cli, tmp_path, monkeypatch):
    """Run rangetest on something bad; give its code and message."""
    monkeypatch.chdir(tmp_path)

    def call(config, *words, fast=FAST):
        result = cli("rangetest", config, *fast, *words)
        assert result.code in (2, 4), result.err
        assert result.err.startswith("error: ")
        assert "Traceback" not in result.err
        assert "internal error" not in result.err
        assert result.out == ""
        assert not (tmp_path / "runs" / "digits" / "result.json").exists()
        return result.code, " ".join(result.err.split())

    return call


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sweep.end_lr=0", "sweep.end_lr = 0 must be above 0"),
        ("sweep.end_lr=-0.1", "sweep.end_lr = -0.1 must be above 0"),
        ("sweep.end_lr=.nan", "sweep.end_lr = .nan is not a finite number"),
        ("sweep.end_lr=1e400", "sweep.end_lr = 1e400 is not a finite number"),
        ("sweep.epochs=two", "sweep.epochs = 'two' must be a number"),
        ("swep.epochs=2", "unknown key 'swep'; did you mean 'sweep'?"),
        ("model.name=mpl", "model.name: unknown model 'mpl'; did you mean 'mlp'?"),
        ("model.name=torchvision.resnet81", "torchvision has no model 'resnet81'; did you mean 'resnet18'?"),
        ("model.args={hiden: [3]}", "model.args: unknown argument 'hiden'; did you mean 'hidden'?"),
        ("model.args={hidden: [abc]}", "model.args.hidden = ['abc'] must be a whole number"),
        ("model.args={hidden: 64}", "model.args.hidden = 64 must be a list"),
        ("model.args={hidden: [0]}", "model.args.hidden = [0] must be at least 1"),
        ("model.args={activation: relo}", "model.args.activation = 'relo' must be 'relu'"),
        ("model.args={dropout: 1}", "model.args.dropout = 1 must be below 1"),
        ("data.heldout=1.5", "data.heldout = 1.5 must be a whole number"),
        ("model={name: resnet, args: {depth: 21}}", "model.args.depth = 21 must be 6n + 2"),
        ("data.name=digit", "data.name: unknown dataset 'digit'; did you mean 'digits'?"),
        ("data.batch_size=5000", "data.batch_size = 5000 must be at most the 1438 training samples"),
        ("data.heldout=1797", "data.heldout = 1797 must be above 0 and below the 1797 samples"),
        ("data.held=3", "unknown key 'held' in data; did you mean 'heldout'?"),
        ("optimizer.name=Sgd", "torch.optim has no 'Sgd'; did you mean 'SGD'?"),
        ("optimizer.name=LBFGS", "LBFGS scales its steps by the curvature"),
        ("optimizer={name: SparseAdam}", "RuntimeError: SparseAdam does not support dense gradients"),
        ("optimizer.name=functional", "torch.optim has no 'functional'"),
        ("optimizer.args={momentum: 0.9, dampening: x}", "training failed between iterations 0 and 2: TypeError"),
        ("optimizer.args={momentun: 0.9}", "optimizer.args: unknown argument 'momentun'; did you mean 'momentum'?"),
        ("optimizer.args={momentum: -1}", "optimizer.args: ValueError: Invalid momentum value: -1"),
        ("optimizer.args={momentum: high}", "optimizer.args: TypeError"),
        ("loss.name=msee", "loss.name: unknown loss 'msee'; did you mean 'mse'?"),
        ("loss.args={label_smoothing: 2}", "loss: RuntimeError: label_smoothing must be between 0.0 and 1.0"),
        ("loss.args={weight: [a]}", "loss.args: ValueError: too many dimensions 'str'"),
        (
            "model={name: torchvision.resnet18, args: {weights: DEFAULT}}",
            "model.args.weights: torchvision would fetch them; give model.weights a file",
        ),
        ("plan.epochs=0.001", "shorter than one cycle"),
    ],
)
def test_a_bad_value_exits_2_and_names_field_value_and_fix(refused, override, message):
    code, text = refused("digits", override)
    assert code == 2
    assert message in text


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--device", "tpu"], 2, "--device 'tpu' must be auto, cpu, cuda or cuda:N"),
        (["--device", "cuda:77"], 4, "--device cuda:77: this machine has"),
        (["--seeds", "0"], 2, "sweep.seeds = 0 must be at least 1"),
        (["-o", "file/run"], 4, "file/run: cannot be written: Not a directory"),
        (["-o", "/proc/run"], 4, "/proc/run: cannot be written: No such file or directory"),
        (["data={name: torchvision.MNIST}"], 4, "to fetch it, add --download"),
        (["data={name: image_folder, args: {root: nowhere}}"], 4, "nowhere/train does not exist"),
        (["data={name: npz, args: {path: nowhere.npz}}"], 4, "nowhere.npz does not exist"),
        (["data={name: npz}"], 2, "data.args: missing argument 'path'"),
    ],
)
def test_what_is_missing_or_cannot_be_written_says_so(refused, tmp_path, words, code, message):
    (tmp_path / "file").touch()
    found, text = refused("digits", *words)
    assert (found, message in text) == (code, True), text


@pytest.mark.parametrize("ends", [("5e-324", "1e-3"), ("5e-324", "1e-323"), ("1e-3", "1e308"), ("1e-320", "1e300")])
def test_a_range_at_the_ends_of_the_floats_is_measured_or_refused(cli, tmp_path, ends):
    start, end = ends
    words = [*FAST, f"sweep.start_lr={start}", f"sweep.end_lr={end}", "-o", tmp_path / "run"]
    done = cli("rangetest", "digits", *words)
    assert done.code in (0, 2, 3), done.err


@pytest.mark.parametrize("command", ["rangetest", "compare", "doctor"])
def test_a_config_that_is_a_pipe_is_not_waited_for_and_told_as_that(cli, tmp_path, command):
    os.mkfifo(tmp_path / "mine.yaml")
    done = cli(command, tmp_path / "mine.yaml")
    assert (done.code, "mine.yaml: is no plain file and no shipped config" in done.err) == (2, True), done.err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such file and no shipped config"),
        ("model: [", "bad.yaml:1:9: not valid YAML"),
        ("modle: {name: mlp}\ndata: {name: digits}", "bad.yaml:1:1: unknown key 'modle'; did you mean 'model'?"),
        ("model: mlp\ndata: {name: digits}", "bad.yaml:1:8: model = 'mlp' must be a mapping"),
        ("a: [/red]\x1b[2J", "bad.yaml"),
    ],
)
def test_a_bad_file_exits_2_with_its_place(refused, tmp_path, text, message):
    if text is not None:
        (tmp_path / "bad.yaml").write_text(text)
    code, shown = refused("bad.yaml", fast=["-q"])
    assert code == 2
    assert message in shown
    assert "\x1b" not in shown


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros((0, 4)), "y": np.zeros(0, int)}, "data: the dataset is empty"),
        ({"x": np.ones((50, 4)), "y": np.zeros(50, int)}, "the training set has one class only"),
        ({"x": np.full((50, 4), np.nan), "y": np.arange(50) % 2}, "the training set holds NaN or infinite values"),
        ({"x": np.ones((50, 4)), "y": -np.arange(50)}, "labels must be class numbers from 0"),
        ({"x": np.ones((50, 4)), "y": np.arange(49)}, "need one label each"),
        ({"x": np.ones((50, 4)), "y": np.arange(50) / 2}, "labels must be whole class numbers"),
        (
            {"x": np.ones((50, 4)), "y": 99 * (np.arange(50) % 2)},
            "a label of 99 is no class number for 40 training samples",
        ),
        ({"z": np.ones(3)}, "needs x_train, y_train, x_test, y_test or x, y"),
    ],
)
def test_data_that_cannot_be_trained_on_exits_2(refused, tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    code, text = refused("digits", "data={name: npz, args: {path: a.npz}, heldout: 10, batch_size: 8}")
    assert code == 2
    assert message in text


FACTORIES = """
import torch
from torch import nn
def raises(): raise RuntimeError("my own mistake")
def no_module(): return 3
def no_parameters(): return nn.Flatten()
def one_output(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
def wrong_shape(): return nn.Conv2d(1, 2, 3)
def not_fitting(): return nn.Linear(3, 10)
def no_split(): return None
def no_optimizer(params): return 3
def no_arguments(): return 3
def leaves(): raise SystemExit(3)
shared = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
def same_twice(): return shared
class OnlyTrains(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 10)
    def forward(self, x):
        if not self.training: raise KeyError("no evaluation")
        return self.layer(x.flatten(1))
def only_trains(): return OnlyTrains()
def two_shapes():
    y = torch.arange(64) % 2
    return (torch.ones(64, 5), y), (torch.ones(64, 3), y)
def complex_inputs():
    part = torch.ones(64, 5, dtype=torch.complex64), torch.arange(64) % 2
    return part, part
def sparse_inputs():
    part = torch.ones(64, 5).to_sparse(), torch.arange(64) % 2
    return part, part
def float_labels():
    part = [(torch.ones(3), 0.5)] * 40
    return part, part
def numbers():
    return torch.tensor(1.0), torch.tensor(1)
def forgot():
    return torch.utils.data.TensorDataset
def copies_tokens():
    tokens = torch.randint(0, 9, (100, 6), generator=torch.Generator().manual_seed(0))
    return tokens, tokens
def ragged():
    part = [(torch.ones(3 + i % 2), i % 2) for i in range(80)]
    return part, part
def raises_later():
    class Rows(torch.utils.data.Dataset):
        def __len__(self): return 80
        def __getitem__(self, i): return deeper(i), i % 2
    return Rows(), Rows()
def deeper(i):
    if i == 57: raise KeyError("row 57")
    return torch.ones(3)
def no_gradient(): return lambda outputs, targets: torch.ones(())
def two_numbers(): return lambda outputs, targets: outputs[0, :2]
def nan_metric(): return lambda outputs, targets: float("nan")
def metric_raises(): return lambda outputs, targets: 1 / 0
value = 3
"""


@pytest.mark.parametrize(
    ("part", "name", "message"),
    [
        ("model", "raises", "model.args: RuntimeError: my own mistake (ZFILE:4)"),
        ("model", "missing", "has no callable 'missing'"),
        ("model", "value", "has no callable 'value'"),
        ("model", "_private", "is private; a factory needs a public name"),
        ("model", "leaves", "model.args: SystemExit: 3"),
        ("model", "same_twice", "must return a fresh model each time"),
        ("model", "only_trains", "evaluation failed: KeyError: 'no evaluation'"),
        ("model", "no_module", "must be a torch.nn.Module, the factory returned int"),
        ("model", "no_parameters", "has no parameter to train"),
        ("model", "one_output", "has 1 outputs for the 10 classes of the data: give its last layer 10"),
        ("model", "wrong_shape", "outputs must be (32, classes) for 32 samples, got (32, 2, 6, 6)"),
        (
            "model",
            "not_fitting",
            "model: it must take a batch of shape (32, 1, 8, 8), torch.float32, as data gives it: RuntimeError",
        ),
        ("data", "no_split", "data.factory must return (train, heldout), each a pair of tensors, a dataset"),
        ("data", "raises", "data.args: RuntimeError: my own mistake"),
        ("data", "two_shapes", "training inputs (64, 5) torch.float32 and held-out inputs (64, 3) torch.float32"),
        ("data", "complex_inputs", "must be (samples, ...) of real numbers"),
        ("data", "sparse_inputs", "data.factory: train: RuntimeError"),
        ("data", "float_labels", "labels must be whole class numbers"),
        ("data", "numbers", "needs one label a sample"),
        ("data", "forgot", "train is type"),
        ("data", "copies_tokens", "the labels are sequences; set metric: token_accuracy"),
        ("data", "ragged", "samples differ in shape: set data.args.size, or return a DataLoader with a collate_fn"),
        ("data", "raises_later", "bad_factories.py:52, from "),
        ("loss", "no_gradient", "loss: RuntimeError: element 0 of tensors does not require grad"),
        ("loss", "two_numbers", "loss: must give one number"),
        ("metric", "nan_metric", "metric: is not finite for a fresh model"),
        ("metric", "metric_raises", "bad_factories.py:57)"),
        ("optimizer", "no_arguments", "optimizer.args: TypeError"),
        ("optimizer", "no_optimizer", "must be a torch.optim.Optimizer, it is int"),
    ],
)
def test_a_factory_that_fails_is_named_with_its_own_line(refused, tmp_path, part, name, message):
    (tmp_path / "bad_factories.py").write_text(FACTORIES)
    more = ", higher_is_better: true" if part == "metric" else ""
    override = f"{part}={{factory: 'bad_factories:{name}'{more}}}"
    code, text = refused("digits", override, "--allow-import", "bad_factories:*")
    assert code == 2
    assert message.replace("ZFILE", str(tmp_path / "bad_factories.py")) in text


def test_what_is_found_after_loading_has_its_place_too(refused, tmp_path):
    (tmp_path / "late.yaml").write_text("model: {name: mpl}\ndata:\n  name: digits\n  batch_size: 5000\n")
    assert "late.yaml:4:15: data.batch_size = 5000 must be at most" in refused("late.yaml")[1]
    assert "late.yaml:1:15: model.name: unknown model 'mpl'" in refused("late.yaml", "data.batch_size=50")[1]
    text = refused("late.yaml", "data={name: npz, args: {path: nowhere.npz}}")[1]
    assert "command line, 'data={name: npz, args: {path: nowhere.npz}}': data: nowhere.npz does not exist" in text


def test_what_other_people_wrote_is_never_replaced(refused, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "result.json").write_text("{}")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "config.yaml").write_text("# mine\nmodel: {name: mlp}\ndata: {name: digits}\n")
    for words in (["-o", "mine"], ["-o", "mine", "--fresh"], ["-o", "here"], ["-o", "here", "--fresh"]):
        code, text = refused("digits", *words)
        assert code == 2
        assert "that clrtool did not write: give another folder with -o DIR" in text
    assert (tmp_path / "mine" / "result.json").read_text() == "{}"
    assert (tmp_path / "here" / "config.yaml").read_text().startswith("# mine")


@pytest.mark.parametrize("place", ["checkpoint/epoch1.pt", "checkpoint/best/model.pt", "checkpoint-jobs/notes.txt"])
@pytest.mark.parametrize("command", ["rangetest", "compare"])
def test_checkpoints_of_ones_own_are_not_removed_with_those_of_a_test(cli, tmp_path, command, place):
    mine = tmp_path / "mine" / place
    mine.parent.mkdir(parents=True)
    mine.write_text("weights of a month")
    fresh = ["--fresh"] if "best" in place else []
    done = cli(command, "digits", *FAST, *fresh, "-o", tmp_path / "mine")
    assert done.code == 2
    name = mine.relative_to(tmp_path / "mine").parts[1]
    assert f"holds a {name} that clrtool did not write: give another folder with -o DIR" in done.err
    assert mine.read_text() == "weights of a month"
    assert {path.name for path in (tmp_path / "mine").iterdir()} == {mine.relative_to(tmp_path / "mine").parts[0]}


def test_a_fresh_run_that_cannot_begin_leaves_the_old_one_as_it_was(cli, digits_run):
    before = {file.name: file.read_bytes() for file in digits_run.iterdir()}
    assert cli("rangetest", "digits", *FAST, "optimizer.name=SDG", "--fresh", "-o", digits_run).code == 2
    assert {file.name: file.read_bytes() for file in digits_run.iterdir()} == before


def test_a_mistake_that_is_mended_does_not_leave_the_folder_locked(cli, tmp_path):
    assert cli("rangetest", "digits", *FAST, "model.args={hidden: 64}", "-o", tmp_path / "run").code == 2
    assert cli("rangetest", "digits", *FAST, "model.args={hidden: [64]}", "-o", tmp_path / "run").code in (0, 3)


def test_a_device_and_a_link_are_never_replaced_by_a_file(cli, tmp_path):
    numbers = ["--base-lr", "1e-3", "--max-lr", "1e-2", "--iterations-per-epoch", "47"]
    (tmp_path / "real.json").write_text("old")
    (tmp_path / "link.json").symlink_to("real.json")
    result = cli("plan", *numbers, "-o", tmp_path / "link.json")
    assert (result.code, (tmp_path / "real.json").read_text()) == (4, "old")
    assert "no plain file" in result.err
    (tmp_path / "pipe.csv").mkdir()
    assert cli("plan", *numbers, "-o", tmp_path / "pipe.csv").code == 4


def test_a_file_beside_the_config_cannot_take_the_place_of_an_installed_package(refused, tmp_path):
    (tmp_path / "rich.py").write_text("def net(): raise RuntimeError('taken over')")
    code, text = refused("digits", "model={factory: 'rich:net'}", "--allow-import", "rich:*")
    assert code == 2
    assert "'rich' has no callable 'net'" in text


@pytest.mark.parametrize("words", [["-o", "a.txt"], ["-o", "a"], ["-o", "a.json", "--format", "csv"]])
def test_a_plan_file_whose_ending_says_something_else_is_refused(cli, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    result = cli("plan", "--base-lr", "1e-3", "--max-lr", "1e-2", "--iterations-per-epoch", "47", *words)
    assert result.code == 2
    assert "the ending and --format must agree: .json for json, deepspeed; .csv for csv" in result.err
    assert not list(tmp_path.iterdir())


def test_a_name_that_no_file_can_have_is_no_bug(cli):
    for command in ("rangetest", "plan", "plot"):
        assert cli(command, "x" * 300).code in (2, 4)


def test_another_config_in_the_same_folder_is_refused_and_nothing_is_touched(cli, digits_run):
    before = {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in digits_run.iterdir()}
    result = cli("rangetest", "digits", "seed=99", "-o", digits_run)
    assert result.code == 2
    assert "another folder with -o DIR, or replace the old run with --fresh" in result.err
    assert {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in digits_run.iterdir()} == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "missing: --base-lr, --max-lr, --iterations-per-epoch"),
        (["nowhere"], "no run folder or plan file, and there is no runs/nowhere; clrtool rangetest makes one"),
        (["--base-lr", "0", "--max-lr", "1", "--iterations-per-epoch", "9"], "base_lr must be finite and above 0"),
        (["--base-lr", "nan", "--max-lr", "1", "--iterations-per-epoch", "9"], "base_lr must be finite"),
        (["--base-lr", "0.1", "--max-lr", "1e400", "--iterations-per-epoch", "9"], "max_lr must be finite"),
        (["--base-lr", "0.1", "--max-lr", "-1", "--iterations-per-epoch", "9"], "max_lr must be finite and above 0"),
        (["--base-lr", "0.1", "--max-lr", "0.01", "--iterations-per-epoch", "9"], "must exceed base_lr"),
        (["--base-lr", "0.1", "--max-lr", "1", "--iterations-per-epoch", "0"], "iterations_per_epoch must be"),
        (["--base-lr", "0.1", "--max-lr", "1", "--iterations-per-epoch", "9" * 30], "must be at most 1e+09"),
        (
            ["--base-lr", "0.1", "--max-lr", "1", "--iterations-per-epoch", "9", "--epochs", "1e300"],
            "epochs must be at most 100000",
        ),
    ],
)
def test_plan_refuses_bad_numbers_with_their_rule(cli, words, message):
    result = cli("plan", *words)
    assert result.code == 2
    assert message in " ".join(result.err.split())


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("mine.yaml", "opt: {lr: [0.1\n", "mine.yaml:2:1: not valid YAML"),
        ("mine.yml", "opt: {lr: 0.1}\n", "mine.yml: neither a plan nor the script or config of a training"),
        ("mine.txt", "lr = 0.1\n", "nor a config with a run in runs/mine; clrtool rangetest makes one"),
    ],
)
@pytest.mark.parametrize("command", [["plan"], ["plan", "--lint"], ["plot"]])
def test_a_file_in_which_no_schedule_is_found_is_told_what_it_is_not(cli, tmp_path, command, name, text, message):
    (tmp_path / name).write_text(text)  # where the test is started
    result = cli(*command, name)
    assert result.code == 2
    assert message in " ".join(result.err.split())
