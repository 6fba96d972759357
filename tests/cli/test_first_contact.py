"""What a newcomer meets: init without a question, commands without a config, and refusals that name the one thing to do."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from clrtool.config.file import load_config
from tests.conftest import QUICK

NET = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.inside = nn.Linear(width, width)

    def forward(self, x):
        return x + self.inside(x).relu()

class {name}(nn.Module):
    def __init__(self{arguments}):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 16), Block(16), nn.Linear(16, 3))

    def forward(self, x):
        return self.layers(x)
"""
DATA = """
def {name}():
    x = torch.randn(600, 6, generator=torch.Generator().manual_seed(0))
    y = x[:, :3].argmax(1)
    return (x[:400], y[:400]), (x[400:], y[400:])
"""


@pytest.fixture(autouse=True)
def _alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def proposed(name="mine.yaml"):
    config = load_config(Path(name))
    return config.model.factory or config.model.name, config.data.factory or config.data.name


def next_command(told):
    """The last line of what init says, as words."""
    import shlex

    return shlex.split(told.strip().splitlines()[-1].strip())[1:]


@pytest.mark.parametrize(
    ("file", "model", "data"), [("train.py", "Net", "get_data"), ("experiment.py", "Small", "load_splits")]
)
def test_init_proposes_the_users_own_module_and_data_and_the_command_it_names_runs(cli, file, model, data):
    Path(file).write_text(NET.format(name=model, arguments="") + DATA.format(name=data))
    told = cli("init")
    assert told.code == 0, told.err
    module = Path(file).stem
    assert proposed() == (f"{module}:{model}", f"{module}:{data}")
    assert f"{file} defines the module {model} (line " in told.err
    assert "Block" not in told.err, "a part of the network is not the network"
    assert cli(*next_command(told.err), *QUICK).code in (0, 3)


def test_init_runs_none_of_the_code_that_it_reads(cli):
    Path("train.py").write_text("open('ran', 'w')\n" + NET.format(name="Net", arguments=""))
    told = cli("init")
    assert told.code == 0
    assert not Path("ran").exists()
    assert "train.py line 1 runs when the file is imported: move it below if __name__" in told.err
    assert "write make_data() in train.py: it returns (x_train, y_train)" in told.err


def test_init_says_which_arguments_a_model_needs(cli):
    Path("net.py").write_text(
        NET.format(name="Net", arguments=", width, depth=2, *, classes") + DATA.format(name="data")
    )
    assert "Net needs width, classes: give them as model.args, {width: ..., classes: ...}" in cli("init").err


@pytest.mark.parametrize(
    ("shape", "targets", "kind", "model"),
    [((90, 7), (90,), float, "mlp"), ((90, 9, 9), (90,), np.uint8, "convnet"), ((90, 12), (90, 12), int, "gpt")],
)
def test_init_fits_a_model_to_the_arrays_of_a_file(cli, shape, targets, kind, model):
    rng = np.random.default_rng(0)
    inputs, labels = rng.integers(0, 5, shape).astype(kind), rng.integers(0, 5, targets)
    np.savez("some arrays.npz", x_train=inputs, y_train=labels, x_test=inputs, y_test=labels)
    told = cli("init", "own.yaml")
    assert told.code == 0, told.err
    assert proposed("own.yaml") == (model, "npz")
    assert cli(*next_command(told.err), *QUICK).code in (0, 3)


@pytest.mark.parametrize(("sides", "model"), [((16, 20), "resnet"), ((300, 200), "torchvision.resnet18")])
def test_init_knows_a_folder_of_images_by_its_classes(cli, sides, model):
    from PIL import Image

    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            folder = Path("photos", split, name)
            folder.mkdir(parents=True)
            for number in range(20):
                Image.fromarray(rng.integers(0, 255, (*sides, 3)).astype("uint8")).save(folder / f"{number}.png")
    told = cli("init")
    assert told.code == 0, told.err
    assert proposed() == (model, "image_folder")
    assert "photos/ has images in 2 classes (cat, dog)." in told.err
    config = load_config(Path("mine.yaml"))
    assert config.data.args["heldout"] == "val"
    assert config.data.batch_size <= 4, "40 images make 10 iterations"
    if model == "resnet":
        assert cli(*next_command(told.err), "-n").code == 0


@pytest.mark.parametrize(
    "architecture", ["GPT2LMHeadModel", "BertForSequenceClassification", "ViTForImageClassification"]
)
def test_init_calls_a_model_of_transformers_by_its_logits(cli, architecture):
    Path("saved").mkdir()
    Path("saved", "config.json").write_text(json.dumps({"architectures": [architecture], "model_type": "x"}))
    told = cli("init")
    assert told.code == 0, told.err
    assert proposed() == ("hub_model:Model", "hub_model:make_data")
    assert f"saved/config.json says {architecture}" in told.err
    compile(Path("hub_model.py").read_text(), "hub_model.py", "exec")
    assert load_config(Path("mine.yaml")).optimizer.name == "AdamW"


def test_the_module_for_a_model_of_transformers_runs_on_a_text(cli):
    transformers = pytest.importorskip("transformers")
    sizes = {
        "vocab_size": 256,
        "n_positions": 64,
        "n_embd": 16,
        "n_layer": 1,
        "n_head": 2,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes)).save_pretrained("saved")
    Path("story.txt").write_text("the cat sat on the mat and the dog ran home " * 400)
    told = cli("init")
    assert proposed() == ("hub_model:Model", "text"), told.err
    assert load_config(Path("mine.yaml")).metric.name == "token_accuracy"
    assert cli(*next_command(told.err), *QUICK).code in (0, 3)


@pytest.mark.parametrize("content", [None, "notes.md", "broken.py", "odd.npz", "config.json"])
def test_init_in_a_folder_with_nothing_to_train_says_what_to_do_and_writes_nothing(cli, content):
    if content:
        Path(content).write_text("{ class (: [")
    before = set(Path().iterdir())
    told = cli("init")
    assert (told.code, told.out, set(Path().iterdir())) == (2, "", before)
    for command in ("clrtool rangetest digits", "clrtool init custom", "clrtool init --list"):
        assert command in told.err


def test_init_never_replaces_a_config(cli):
    Path("train.py").write_text(NET.format(name="Net", arguments="") + DATA.format(name="data"))
    Path("mine.yaml").write_text("mine")
    told = cli("init")
    assert told.code == 2
    assert "mine.yaml: exists already" in told.err
    assert Path("mine.yaml").read_text() == "mine"


def test_a_copy_of_the_example_speaks_of_itself(cli):
    assert cli("init", "custom", "moons.yaml").code == 0
    text = Path("moons.yaml").read_text()
    assert "custom.yaml" not in text
    assert "clrtool rangetest moons.yaml --allow-import" in text
    assert "moons.yaml" in Path("custom_factories.py").read_text()


def test_a_command_without_a_config_names_those_that_are_there_or_the_example(cli):
    told = cli("rangetest")
    assert (told.code, "clrtool rangetest digits" in told.err, "clrtool init" in told.err) == (2, True, True)
    Path("some net.yaml").write_text("")
    assert "clrtool rangetest 'some net.yaml'" in cli("rangetest").err
    assert json.loads(cli("rangetest", "--json").out)["code"] == 2


@pytest.mark.parametrize("pattern", ["train", "train.get_data", "other:*"])
def test_a_pattern_that_covers_nothing_is_told_from_none_at_all(cli, pattern):
    Path("train.py").write_text(NET.format(name="Net", arguments="") + DATA.format(name="data"))
    cli("init")
    none, some = cli("rangetest", "mine.yaml"), cli("rangetest", "mine.yaml", "--allow-import", pattern)
    assert none.code == some.code == 2
    assert "only if the command line allows it" in none.err
    assert (
        f"--allow-import {pattern!r} does not cover it, because a pattern is module:callable, module:* or package.*"
        in some.err
    )
    for told in (none, some):
        assert "add --allow-import 'train:*' if you trust it" in told.err


def test_numbers_are_drawn_by_plot_and_by_plan(cli):
    numbers = ["--base-lr", "1e-3", "--max-lr", "1e-2", "--iterations-per-epoch", "50", "--epochs", "16"]
    assert cli("plot", *numbers, "-o", "a.png").code == 0
    assert cli("plan", *numbers, "-o", "b.png").code == 0
    from matplotlib.image import imread

    assert imread("a.png").shape == imread("b.png").shape
    assert "0.01" in Path("a.alt.txt").read_text()
    assert cli("plot", *numbers, "--term").out.strip()
    for refused in (["plot", "a.json", *numbers], ["plan", *numbers, "--format", "json", "-o", "c.svg"]):
        assert cli(*refused).code == 2
    assert cli("plot", "--base-lr", "1e-3").code == 2


def test_json_is_json_on_every_command_that_prints_it(cli, digits_run):
    long, short = cli("plan", digits_run, "--format", "json"), cli("plan", digits_run, "--json")
    assert json.loads(short.out) == json.loads(long.out)
    assert cli("plan", digits_run, "--json", "--format", "csv").code == 2


def test_init_does_not_wait_for_pipes_nor_stumble_over_links_that_lead_nowhere(process, tmp_path):
    images = [tmp_path / "photos" / kind for kind in ("cats", "dogs")]
    for folder in images:
        folder.mkdir(parents=True)
    for pipe in ("a.npz", "b.py", "c.txt", "photos/cats/d.png", "photos/dogs/e.png"):
        os.mkfifo(tmp_path / pipe)
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere")
    told = process("init")
    assert told.returncode == 2
    assert "clrtool init --list" in told.stderr
