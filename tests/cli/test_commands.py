"""The commands as a user types them: results, files, exit codes, and one clear message for each bad input."""

import csv
import io
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from clrtool.config.file import load_config
from clrtool.report.programs.formats import FORMATS
from clrtool.report.programs.program import FRAMEWORKS
from tests.conftest import QUICK

NUMBERS = ["--base-lr", "1e-3", "--max-lr", "1e-2", "--iterations-per-epoch", "47"]


def test_rangetest_plan_and_plot_do_the_main_job_from_files(process, tmp_path):
    test = process("rangetest", "digits", *QUICK, cwd=tmp_path)
    assert test.returncode == 0, test.stderr
    for word in ("base_lr", "max_lr", "stepsize", "verdict"):
        assert word in test.stdout
    plan = process("plan", "digits", cwd=tmp_path)
    assert "cycle 4" in plan.stdout
    plot = process("plot", "digits", cwd=tmp_path)
    assert plot.returncode == 0
    assert (tmp_path / "runs/digits/range_test.png").stat().st_size > 10_000


@pytest.mark.short(0)
def test_the_same_command_twice_gives_the_same_bytes(new_process, tmp_path):
    for name in ("a", "b"):
        assert new_process("rangetest", "digits", *QUICK, "-o", tmp_path / name).returncode == 0
    for name in ("curve.csv", "config.yaml"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_finished_run_is_shown_again_and_not_repeated(cli, digits_run):
    before = (digits_run / "result.json").stat().st_mtime_ns
    again = cli("rangetest", "digits", *QUICK[:-1], "-o", digits_run)
    assert again.code == 0
    assert "already finished with this config, shown again; --fresh runs it again" in again.err
    assert (digits_run / "result.json").stat().st_mtime_ns == before


def test_a_run_whose_own_config_was_edited_is_not_shown_as_the_result_of_the_new_one(cli, digits_run, tmp_path):
    folder = shutil.copytree(digits_run, tmp_path / "digits")
    config, result = folder / "config.yaml", (folder / "result.json").read_bytes()
    words = ["rangetest", config, "--device", "cpu", "-q", "-o", folder]
    again = cli(*words)
    assert (again.code, (folder / "result.json").read_bytes()) == (0, result)
    config.write_text(edited := config.read_text().replace("batch_size: 32", "batch_size: 64"))
    refused, dry = cli(*words), cli(*words, "-n")
    assert refused.code == 2
    assert f"{config} is not what {folder} was measured with" in refused.err
    assert "is not what" in " ".join(dry.out.split())
    assert (config.read_text(), (folder / "result.json").read_bytes()) == (edited, result)
    assert cli(*words[:-1], tmp_path / "other").code in (0, 3)
    assert cli(*words, "--fresh").code in (0, 3)
    assert (folder / "result.json").read_bytes() != result


def test_a_run_folder_with_the_name_of_a_shipped_config_does_not_hide_it(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, again = (cli("rangetest", "digits", *QUICK, "-o", "digits") for _ in range(2))
    assert (first.code, first.out) == (again.code, again.out)
    (tmp_path / "mine").mkdir()
    assert "mine: is a folder" in cli("rangetest", "mine").err


def test_json_is_one_object_on_stdout_equal_to_the_file(cli, digits_run):
    printed = cli("rangetest", "digits", *QUICK[:-1], "-o", digits_run, "--json")
    assert json.loads(printed.out) == json.loads((digits_run / "result.json").read_text())
    assert printed.err == ""


def test_an_error_under_json_is_one_object_too(cli):
    printed = cli("rangetest", "nothing", "--json")
    assert printed.code == 2
    assert json.loads(printed.out)["code"] == 2
    assert printed.err == ""


def test_a_range_far_too_low_is_inconclusive_and_exits_3(cli, tmp_path):
    low = ["sweep.start_lr=1e-9", "sweep.end_lr=1e-8", "sweep.epochs=1", "--seeds", "2", "-q"]
    result = cli("rangetest", "digits", *low, "-o", tmp_path / "low")
    assert result.code == 3
    assert "Nothing was learned" in " ".join(result.out.split())
    assert json.loads((tmp_path / "low" / "result.json").read_text())["bounds"]["base_lr"] is None
    plan = cli("plan", tmp_path / "low")
    assert plan.code == 2
    assert "missing: --base-lr, --max-lr" in plan.err
    assert "warning" in plan.err
    given = cli("plan", tmp_path / "low", "--base-lr", "0.01", "--max-lr", "0.1", "--format", "json")
    assert json.loads(given.out)["plan"]["iterations_per_epoch"] == 44


def test_a_range_far_too_high_is_inconclusive_and_exits_3(cli, tmp_path):
    high = ["sweep.start_lr=100", "sweep.end_lr=1000", "sweep.epochs=1", "--seeds", "1", "-q"]
    assert cli("rangetest", "digits", *high, "-o", tmp_path / "high").code == 3


def test_plan_of_a_run_keeps_its_bounds_and_takes_what_is_given(cli, digits_run):
    before = json.loads((digits_run / "result.json").read_text())["plan"]
    same = json.loads(cli("plan", digits_run, "--format", "json").out)["plan"]
    assert same == before
    other = json.loads(cli("plan", digits_run, "--format", "json", "--epochs", "12", "--policy", "triangular").out)[
        "plan"
    ]
    assert (other["base_lr"], other["max_lr"]) == (before["base_lr"], before["max_lr"])
    assert (other["policy"], other["num_cycles"], other["epochs"]) == ("triangular", 3, 12)


def test_plan_reads_the_json_that_rangetest_prints_and_its_own(cli, digits_run, tmp_path):
    bounds = tmp_path / "digits.bounds.json"
    bounds.write_text(cli("rangetest", "digits", *QUICK, "-o", digits_run, "--json").out)
    plan = cli("plan", bounds, "--format", "json", "-o", tmp_path / "plan.json")
    assert plan.code == 0
    again = cli("plan", tmp_path / "plan.json", "--format", "json")
    assert again.out == (tmp_path / "plan.json").read_text()


def test_plan_prints_every_iteration_as_csv_and_ends_at_base_lr(cli):
    rows = list(csv.DictReader(io.StringIO(cli("plan", *NUMBERS, "--epochs", "8", "--format", "csv").out)))
    lrs = [float(row["lr"]) for row in rows]
    assert [int(row["iteration"]) for row in rows] == list(range(8 * 47 + 1))
    assert (lrs[0], max(lrs), lrs[-1]) == (1e-3, 1e-2, 1e-3)
    np.testing.assert_allclose(lrs[:95], np.linspace(1e-3, 1e-2, 95))


def test_plan_writes_the_form_that_the_file_ending_names(cli, tmp_path):
    for name, beginning in (("a.json", "{"), ("a.csv", "iteration,lr"), ("a.yaml", "schema_version: 1")):
        assert cli("plan", *NUMBERS, "-o", tmp_path / name).code == 0
        assert (tmp_path / name).read_text().startswith(beginning)


def test_plan_of_numbers_defaults_to_30_epochs_of_triangular2(cli):
    out = cli("plan", *NUMBERS).out
    assert "triangular2, 4 whole cycles" in out
    assert "2 of 1,410 iterations are left over" in out


def test_every_framework_that_a_program_is_known_for_is_a_format():
    assert {"json", "csv", "yaml", *FRAMEWORKS} == set(FORMATS)


def test_plot_draws_a_plan_file_beside_it_and_refuses_what_is_no_run(cli, tmp_path):
    cli("plan", *NUMBERS, "-o", tmp_path / "plan.json")
    assert cli("plot", tmp_path / "plan.json").code == 0
    assert (tmp_path / "plan.png").stat().st_size > 10_000
    assert cli("plot", tmp_path).code == 2


def test_init_lists_copies_and_never_replaces(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    listed = cli("init", "--list").out
    assert "digits" in listed
    assert "seconds on a CPU" in listed
    done = cli("init", "custom", "mine.yaml")
    assert done.code == 0
    assert {file.name for file in tmp_path.iterdir()} == {"mine.yaml", "custom_factories.py", "clrtool.schema.json"}
    assert done.err.splitlines()[-1].strip() == "clrtool rangetest mine.yaml --allow-import 'custom_factories:*'"
    (tmp_path / "clrtool.schema.json").write_text("older")
    (tmp_path / "mine.yaml").write_text("mine")
    again = cli("init", "custom", "mine.yaml")
    assert again.code == 2
    assert "exists already" in again.err
    assert (tmp_path / "mine.yaml").read_text() == "mine"
    assert cli("init", "digits").code == 0
    assert (tmp_path / "clrtool.schema.json").read_text() == "older", "nothing that is there is replaced"
    assert "did you mean 'digits'" in cli("init", "digit").err


def test_init_brings_the_code_that_several_configs_share_once_and_never_replaces_another(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli("init", "cifar10-full").code == 0
    second = cli("init", "cifar10-resnet56")
    assert second.code == 0
    assert second.err.startswith("cifar10-resnet56.yaml: written")
    assert second.err.endswith("clrtool rangetest cifar10-resnet56.yaml --allow-import 'caffe_factories:*'\n")
    assert {file.name for file in tmp_path.glob("*.py")} == {"caffe_factories.py"}
    (tmp_path / "caffe_factories.py").write_text("mine")
    refused = cli("init", "cifar10-sigmoid-bn")
    assert refused.code == 2
    assert "caffe_factories.py: exists already" in refused.err
    assert (tmp_path / "caffe_factories.py").read_text() == "mine"
    assert not (tmp_path / "cifar10-sigmoid-bn.yaml").exists()


def test_the_custom_example_runs_when_its_import_is_allowed_and_only_then(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cli("init", "custom")
    words = ["rangetest", "custom.yaml", "sweep.epochs=1", "--seeds", "1", "-q"]
    for allowed in ([], ["--allow-import", "other:*"], ["--allow-import", "custom_factories:make_model"]):
        refused = cli(*words, *allowed)
        assert refused.code == 2
        assert "add --allow-import 'custom_factories:*' if you trust it" in refused.err
    assert cli(*words, "--allow-import", "*").code == 2
    assert cli(*words, "--allow-import", "custom_factories:*").code in (0, 3)


def test_no_config_can_run_what_was_not_allowed(cli, tmp_path):
    target = tmp_path / "pwned"
    words = [f"model={{factory: 'os:system', args: {{command: 'touch {target}'}}}}", "-q", "-o", tmp_path / "run"]
    for allowed in ([], ["--allow-import", "torch:*"]):
        assert cli("rangetest", "digits", *words, *allowed).code == 2
    assert not target.exists()


def test_what_a_factory_prints_stays_out_of_the_json(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = "import torch\ndef net():\n    print('noise')\n    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))"
    (tmp_path / "noisy_factory.py").write_text(code)
    words = ["model={factory: 'noisy_factory:net'}", "--allow-import", "noisy_factory:net", *QUICK, "--json"]
    printed = cli("rangetest", "digits", *words)
    assert json.loads(printed.out)["schema_version"] == 2
    assert "noise" in printed.err


def test_the_schema_is_json_and_knows_every_section(cli):
    schema = json.loads(cli("schema").out)
    assert set(schema["properties"]) == {
        "seed", "model", "data", "optimizer", "loss", "metric", "precision", "training", "sweep", "plan", "start"
    }  # fmt: skip


@pytest.mark.short(0)
def test_an_interrupt_ends_in_130_and_keeps_what_was_measured(tmp_path):
    command = [
        sys.executable,
        "-m",
        "clrtool",
        "rangetest",
        "digits",
        "sweep.epochs=100",
        "sweep.seeds=900",
        "-o",
        str(tmp_path / "run"),
    ]
    run = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    rows = tmp_path / "run" / "curve.csv"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (rows.exists() and len(rows.read_text().splitlines()) > 3):
        time.sleep(0.05)
    run.send_signal(signal.SIGINT)
    errors = run.communicate(timeout=30)[1]
    assert run.returncode == 130
    assert "interrupted; results so far are saved in" in errors
    assert "Traceback" not in errors
    assert len(rows.read_text().splitlines()) > 3


def test_a_bug_ends_in_70_and_says_that_it_is_one(cli, monkeypatch):
    monkeypatch.setattr("clrtool.cli.plan_bounds.make_plan", lambda *_, **__: 1 / 0)
    result = cli("plan", *NUMBERS)
    assert result.code == 70
    assert "a bug in clrtool: ZeroDivisionError" in result.err


def test_a_reader_that_stops_reading_is_no_error(process):
    command = f"{sys.executable} -m clrtool plan {' '.join(NUMBERS)} --epochs 3000 --format csv | head -2"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert result.stdout == "iteration,lr\n0,0.001\n"
    assert result.stderr == ""


def test_the_options_of_every_command_are_these_and_no_others(cli):
    expected = {
        "rangetest": "-o --seeds --jobs --threads --seed-shard --ray --ray-gpus --device --budget --vary --vary-groups --from -n --fresh --download "
        "--allow-import --deterministic "
        "--on-oom --checkpoint-every --write --check --tolerance -v --json -q --plain",
        "merge": "-o --config --device --threads --download --allow-import --on-oom --checkpoint-every -v --json -q --plain",
        "compare": "--policies --target-accuracy --seeds --epochs --bounds --run -o --device --fresh --download "
        "--allow-import --deterministic --on-oom --checkpoint-every --json -q --plain",
        "plan": "--base-lr --max-lr --iterations-per-epoch --batch-size --policy --epochs --stepsize-epochs --cycles --warmup-epochs "
        "--momentum --stage --curve --from --iterations --lint --csv --stepped --optimizer --format --json -o --plain",
        "plot": "--from --iterations --iterations-per-epoch --base-lr --max-lr --policy --epochs -o --term --tensorboard",
        "init": "--model --data --list",
        "schema": "",
        "doctor": "--quick --json --plain",
    }
    for command, options in expected.items():
        text = cli(command, "--help-all").out
        found = {line.split()[0].rstrip(",") for line in text.splitlines() if line.startswith("  -")}
        assert found == set(options.split()), command


@pytest.mark.parametrize(
    ("model", "data", "model_is", "data_is"),
    [
        ("mlp", "digits", {"name": "mlp"}, {"name": "digits"}),
        ("torchvision.resnet18", "image_folder:my photos", {"name": "torchvision.resnet18"},
         {"name": "image_folder", "args": {"root": "my photos"}}),
        ("convnet", "npz:a.npz", {"name": "convnet"}, {"name": "npz", "args": {"path": "a.npz"}}),
        ("resnet", "torchvision.CIFAR10", {"name": "resnet"}, {"name": "torchvision.CIFAR10", "args": {"root": "data"}}),
        ("mine.net:make", "mine.sets:load", {"factory": "mine.net:make"}, {"factory": "mine.sets:load"}),
        ("mlp", 'npz:a"b: #.npz', {"name": "mlp"}, {"name": "npz", "args": {"path": 'a"b: #.npz'}}),
    ],
)  # fmt: skip
def test_init_writes_a_commented_config_for_a_model_and_data_of_ones_own(cli, tmp_path, model, data, model_is, data_is):
    done = cli("init", tmp_path / "own.yaml", "--model", model, "--data", data)
    assert (done.code, done.out) == (0, "")
    config = load_config(tmp_path / "own.yaml").model_dump(mode="json", exclude_defaults=True)
    assert config["model"] == model_is
    assert {name: config["data"][name] for name in data_is} == data_is
    text = (tmp_path / "own.yaml").read_text()
    assert sum(" # " in line or line.startswith("#") for line in text.splitlines()) >= 10
    assert ("--allow-import mine.net:make --allow-import mine.sets:load" in text) is ("factory" in model_is)
    again = cli("init", tmp_path / "own.yaml", "--model", model, "--data", data)
    assert (again.code, (tmp_path / "own.yaml").read_text()) == (2, text)


def test_the_command_in_the_first_line_of_a_config_that_init_wrote_runs(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli("init", "--model", "mlp", "--data", "digits").code == 0
    command = Path("mine.yaml").read_text().partition("\n")[0].partition(": clrtool ")[2].split()
    assert cli(*command, *QUICK).code in (0, 3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "mlp"], "--model and --data: give both"),
        (["--model", "mlp", "--data", "image_foldr"], "did you mean 'image_folder'"),
        (["--model", "mlp", "--data", "npz"], "--data npz: where does it lie? --data npz:FILE"),
        (["own.txt", "--model", "mlp", "--data", "digits"], "own.txt: a config ends in .yaml"),
        (["--model", "", "--data", "digits"], "--model: unknown model"),
        (["--model", "{name: x}", "--data", "digits"], "model.factory"),
        (["--model", "mlp\nseed: 7", "--data", "digits"], "model.factory"),
    ],
)
def test_a_config_that_cannot_be_written_leaves_no_file(cli, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    done = cli("init", *words)
    assert (done.code, list(tmp_path.iterdir())) == (2, [])
    assert message in done.err


def test_help_and_version_work(process):
    import platform
    from importlib.metadata import version

    told = f"clrtool 0.1.0, Python {platform.python_version()}, torch {version('torch')}"
    assert process("--version").stdout.splitlines() == [told, "clrtool doctor lists the devices."]
    assert process("-h").returncode == 0
    assert process("rangetes").returncode == 2


@pytest.mark.parametrize(
    "words", [["rangetest", "digits", "-o", "run"], ["doctor"], ["rangetest", "nothing-of-that-name"]]
)
def test_json_is_asked_for_by_format_too_as_of_plan(cli, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = [cli(*words, *asked) for asked in (["--json"], ["--format", "json"], ["--format=json"])]
    keys = [json.loads(each.out).keys() for each in told]
    assert keys[0] == keys[1] == keys[2]
    assert {each.code for each in told} == {told[0].code}
    with pytest.raises(ValueError, match="Expecting value"):
        json.loads(cli(*words, "--format", "table").out)
