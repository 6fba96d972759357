"""``clrtool rangetest --vary`` as a user types it: table, files, picture, what is shown again, refused and resumed."""

import csv
import json
import math
import shutil
import signal

import pytest

from clrtool.report.records.vary_file import VARIED
from tests.conftest import LONG
from tests.torture.conftest import STEP
from tests.torture.runs import contents

DECAY = ["--vary", "optimizer.args.weight_decay=0,1e-2"]
SIZES = ["--vary", "data.batch_size=25,50,100,200"]
FILES = {"config.yaml", "vary.csv", "vary.json", "vary.png", "vary.alt.txt"}


def made(words, folder):
    from clrtool.cli.main import main

    with pytest.raises(SystemExit) as stop:
        main(["rangetest", "digits", *words, "-q", "-o", str(folder)])
    assert not stop.value.code
    return folder


@pytest.fixture(scope="module")
def varied(tmp_path_factory):
    """The folder of a finished race over weight decays; not to be changed."""
    return made(DECAY, tmp_path_factory.mktemp("varied") / "digits-vary")


@pytest.fixture(scope="module")
def sized(tmp_path_factory):
    """The folder of a finished race over batch sizes; not to be changed."""
    return made(SIZES, tmp_path_factory.mktemp("sized") / "digits-vary")


def test_the_table_names_every_value_its_bounds_and_which_to_take(process, tmp_path):
    done = process("rangetest", "digits", *DECAY, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / "digits-vary"
    assert {path.name for path in folder.iterdir()} == FILES
    for word in (
        "weight_decay",
        "0.01",
        "max_lr",
        "held-out loss",
        "verdict",
        "noise",
        "of the planned training",
        " *",
    ):
        assert word in done.stdout
    assert "next: clrtool plan runs/digits-vary" in done.stderr
    again = process("rangetest", "digits", *DECAY, cwd=tmp_path)
    assert again.stdout == done.stdout
    assert "already finished" in again.stderr


def test_json_is_the_file_and_the_rows_are_its_readings(varied, cli):
    told = cli("rangetest", "digits", *DECAY, "-o", str(varied), "--json")
    assert told.out == (varied / "vary.json").read_text()
    values = json.loads(told.out)
    assert values["schema_version"] == 1
    assert values["chosen"]["max_lr"] == 4 * values["chosen"]["base_lr"]
    assert values["share"] <= 0.55
    rows = list(csv.DictReader((varied / "vary.csv").read_text().splitlines()))
    assert len(rows) == len(values["readings"])
    for row, reading in zip(rows, values["readings"], strict=True):
        assert float(row["lr"]) == 2.0 ** reading["power"]
        assert float(row["heldout_loss"]) == reading["loss"]
        assert row["optimizer.args.weight_decay"] == str(values["tried"][reading["value"]]["values"][0])


def test_a_record_is_read_as_it_was_written(varied):
    from clrtool.report.records.vary_file import varied_to_json

    assert varied_to_json(VARIED.read(varied)) == (varied / "vary.json").read_text()


@pytest.mark.drawn
def test_plot_draws_the_same_picture_again_and_says_what_it_shows(varied, cli, tmp_path):
    for name in ("again.png", "again.svg", "again.pdf"):
        assert cli("plot", str(varied), "-o", str(tmp_path / name)).code == 0
    folder = tmp_path / "digits-vary"
    shutil.copytree(varied, folder)
    (folder / "vary.png").unlink()
    assert cli("plot", str(folder)).code == 0
    assert (folder / "vary.png").read_bytes() == (varied / "vary.png").read_bytes()
    assert "is chosen" in (folder / "vary.alt.txt").read_text()
    assert "-o FILE.png" in cli("plot", str(folder), "--term").err
    assert "no report" in cli("plot", str(folder), "-o", str(tmp_path / "a.html")).err


def test_plan_takes_the_bounds_of_the_chosen_value(varied, cli):
    chosen = json.loads((varied / "vary.json").read_text())["chosen"]
    plan = json.loads(cli("plan", str(varied), "--json").out)["plan"]
    assert (plan["base_lr"], plan["max_lr"]) == (chosen["base_lr"], chosen["max_lr"])
    assert plan["epochs"] <= 32


def test_two_keys_race_as_pairs_in_one_picture(cli, tmp_path):
    two = [*DECAY, "--vary", "optimizer.args.momentum=0.5,0.9"]
    told = cli("rangetest", "digits", *two, "-q", "-o", str(tmp_path / "two"))
    assert told.code == 0, told.err
    record = VARIED.read(tmp_path / "two")
    assert [each.values for each in record.tried] == [(0, 0.5), (0, 0.9), (0.01, 0.5), (0.01, 0.9)]
    assert record.tried[record.first].values == (0, 0.9)  # the momentum of the config
    assert "momentum" in told.out


def test_the_ratio_of_a_groups_rate_is_a_value_like_any_other(cli, tmp_path):
    config = tmp_path / "grouped.yaml"
    config.write_text(
        "model: {name: mlp}\ndata: {name: digits}\nplan: {epochs: 20}\n"
        "optimizer: {name: SGD, args: {momentum: 0.9}, groups: [{params: ['*.weight'], lr_ratio: 1}]}\n"
    )
    words = ["--vary", "optimizer.groups.0.lr_ratio=1e-6,1", "-q", "-o", str(tmp_path / "out")]
    told = cli("rangetest", str(config), *words)
    assert told.code == 0, told.err
    record = VARIED.read(tmp_path / "out")
    assert record.tried[record.first].values == (1,)
    assert record.tried[record.chosen].values == (1,)  # at a millionth, the weights stay where they were drawn
    assert record.verdict.word == "better"


def test_vary_groups_takes_up_to_two_ratios_or_the_decay_by_layer_and_asks_where_there_are_more(cli, tmp_path):
    config = tmp_path / "grouped.yaml"
    config.write_text("model: {name: mlp}\ndata: {name: digits}\noptimizer: {name: SGD}\n")
    words = ["rangetest", str(config), "--vary-groups", "-n", "--json"]
    group = "{params: ['*.bias'], lr_ratio: 2}"
    assert json.loads(cli(*words, f"optimizer.groups=[{group}]").out)["values"] == 3
    assert json.loads(cli(*words, f"optimizer.groups=[{group}]", "--vary", "precision=fp32,bf16").out)["values"] == 6
    assert json.loads(cli(*words, f"optimizer.groups=[{group}, {group}]").out)["values"] == 9
    assert json.loads(cli(*words).out)["values"] == 3
    told = cli(*words, f"optimizer.groups=[{group}, {group}, {group}]").out
    assert "--vary optimizer.groups.0.lr_ratio=0.5,2,8 --vary optimizer.groups.1.lr_ratio=0.5,2,8" in told
    linear = cli(*words, "model={name: mlp, args: {hidden: []}}").out
    assert "layer_decay" in linear


def test_no_batch_size_is_dropped_and_plan_goes_by_the_growth(sized, cli):
    values = json.loads((sized / "vary.json").read_text())
    assert [each["values"]["data.batch_size"] for each in values["values"]] == [25, 50, 100, 200]
    epochs = [each["after_epochs"] for each in values["values"]]
    assert (
        max(epochs) - min(epochs) < 0.2
    )  # by half a batch, and by the samples that an epoch of its batches leaves out
    growth, chosen = values["batch_scaling"], values["chosen"]
    told = cli("plan", str(sized), "--batch-size", "1000", "--json")
    assert told.code == 0, told.err
    plan = json.loads(told.out)["plan"]
    first = values["tried"][values["first"]]["batch_size"]
    most = growth["critical"] or math.inf
    factor = (min(1000, most) / min(first, most)) ** min(1, growth["exponent"])
    assert plan["max_lr"] == pytest.approx(chosen["max_lr"] * factor)
    assert plan["iterations_per_epoch"] == 1
    assert "extrapolated: batches of 25 to 200 were measured" in told.err
    assert "extrapolated" not in cli("plan", str(sized), "--batch-size", "64").err
    for row in values["values"]:
        size = row["values"]["data.batch_size"]
        plan = json.loads(cli("plan", str(sized), "--batch-size", str(size), "--json").out)["plan"]
        assert (plan["base_lr"], plan["max_lr"]) == pytest.approx((row["base_lr"], row["max_lr"]))


def test_plan_refuses_a_batch_size_without_measurements_and_gives_the_command(varied, digits_run, cli):
    for run in (varied, digits_run):
        told = cli("plan", str(run), "--batch-size", "4096")
        assert told.code == 2
        assert "--vary data.batch_size=" in told.err
    assert "--batch-size needs a run" in cli("plan", "--batch-size", "64").err


def test_the_dry_run_tells_the_cost_and_writes_nothing(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = cli("rangetest", "digits", *DECAY, "--dry-run", "--json")
    found = json.loads(told.out)
    assert found["values"] == 2
    assert 0.4 < found["share"] <= 0.55
    assert "of the planned training" in cli("rangetest", "digits", *DECAY, "-n").out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--vary", "optimizer.args.weight_decay"], "must be KEY=V1,V2"),
        (["--vary", "optimizer.args.weight_decay=0"], "must be KEY=V1,V2"),
        (["--vary", "optimizer.args.weight_decay=0,0"], "gives a value twice"),
        (["--vary", "optimizer.args.weight_dekay=0,1"], "weight_dekay"),
        (["--vary", "data.batch_size=32,none"], "data.batch_size"),
        (["--vary", "data.batch_size=32,100000"], "must be at most"),
        (["--vary", "plan.epochs=3,4"], "clrtool compare"),
        (["--vary", "loss.args.label_smoothing=0,0.1"], "changes the loss itself"),
        (["--vary", "seed=1,2"], "--seeds N"),
        ([*DECAY, *DECAY], "is given twice"),
        ([*DECAY, *SIZES, "--vary", "precision=fp32,bf16"], "at most 2 keys"),
        ([*DECAY, "--jobs", "2"], "--jobs: not with --vary"),
        (["--vary", f"data.batch_size={','.join(map(str, range(1, 12)))}"], "at most 8 values"),
    ],
)
def test_what_cannot_be_varied_is_refused_with_the_rule(words, says, cli, tmp_path):
    told = cli("rangetest", "digits", *words, "-o", str(tmp_path / "out"))
    assert told.code == 2
    assert says in told.err
    assert "Traceback" not in told.err


def test_several_configs_are_refused(cli, tmp_path):
    told = cli("rangetest", "digits", "autoencoder", *DECAY)
    assert told.code == 2
    assert "--vary takes one config" in told.err


def test_another_request_in_the_same_folder_is_refused(varied, cli):
    told = cli("rangetest", "digits", "--vary", "optimizer.args.weight_decay=0,1e-3", "-o", str(varied))
    assert told.code == 2
    assert "--fresh" in told.err


def test_where_nothing_is_learned_there_is_no_value_and_the_code_says_so(cli, tmp_path):
    deaf = tmp_path / "deaf.py"
    deaf.write_text(
        "import torch\n\n\nclass Deaf(torch.nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.bias = torch.nn.Parameter(torch.zeros(10))\n\n    def forward(self, x):\n"
        "        return (self.bias * 0).expand(len(x), 10)\n"
    )
    config = tmp_path / "deaf.yaml"
    config.write_text("model: {factory: 'deaf:Deaf'}\ndata: {name: digits}\nplan: {epochs: 20}\n")
    told = cli("rangetest", str(config), "--allow-import", "deaf:*", *DECAY, "-o", str(tmp_path / "out"), "-q")
    assert told.code == 3, told.err
    assert "inconclusive, no value to choose" in told.out
    assert cli("plan", str(tmp_path / "out")).code == 2


def test_a_race_over_values_stopped_anywhere_ends_in_the_bytes_of_one_that_was_not(zygote, tmp_path):
    words = ["rangetest", "digits", *DECAY, "-q", "--device", "cpu", "--deterministic", "--checkpoint-every", "0.05"]

    def run(name, inject=None):
        return zygote.run([*words, "-o", str(tmp_path / name / "digits-vary")], inject)

    assert run("whole").status == 0
    for step in (60, 250, 400) if LONG else (250,):
        stopped = run("stopped", {"signal_at": [[STEP, step, int(signal.SIGTERM), 1]]})
        assert stopped.status in (0, 128 + signal.SIGTERM), stopped.err
        if stopped.status:
            assert "interrupted; results so far are saved" in stopped.err
    assert run("stopped").status == 0
    assert contents(tmp_path / "stopped" / "digits-vary") == contents(tmp_path / "whole" / "digits-vary")
