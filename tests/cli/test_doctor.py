"""``clrtool doctor``: it tells what a bug report needs, keeps secrets, and runs and leaves nothing."""

import json
import subprocess
import sys
import warnings

import pytest

from clrtool.cli.doctor import relevant
from clrtool.config.json_schema import json_schema
from clrtool.engine.rangetest import self_test
from clrtool.engine.runtime import hardware as machine

FACTORIES = [
    "model={factory: 'mine.nets:net'}",
    "data={factory: 'mine.data:make', batch: 'mine.data:split'}",
    "optimizer={factory: 'other:Lion'}",
    "loss={factory: 'mine.nets:loss'}",
    "metric={factory: 'scores:f1', higher_is_better: true}",
]
VALUE = "tok-3f9a,/home/me,db.example.org"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Another folder, in which nothing may be left."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def report(cli, *words):
    return json.loads(cli("doctor", *words, "--quick", "--json").out)


def test_a_machine_in_order_is_shown_in_a_table_and_exits_0(cli, elsewhere):
    result = cli("doctor")
    assert (result.code, result.err) == (0, "")
    assert "this machine can run a range test" in result.out
    for word in ("clrtool", "python", "torch", "torchvision", "ruamel.yaml", "cpu", "GiB", "disk", "shared memory"):
        assert word in result.out
    assert list(elsewhere.iterdir()) == []


def test_json_is_one_object_with_the_numbers_of_the_table(cli):
    found = report(cli)
    assert found["status"] == "ok"
    assert found["versions"]["torch"][0].isdecimal()
    assert 0 < found["machine"]["available_bytes"] <= found["machine"]["memory_bytes"]
    assert found["machine"]["disk_free_bytes"] > 0
    assert found["machine"]["cores"] >= 1
    assert "config" not in found
    assert found["self_tests"] == []


def test_a_range_test_of_the_digits_shows_that_a_device_computes_and_learns(cli):
    found = json.loads(cli("doctor", "--json").out)["self_tests"]
    assert found[0]["device"] == "cpu"
    for each in found:
        assert each["fault"] is None
        too_slow = each["seconds"] > self_test.SECONDS
        assert too_slow or (each["iterations"] == 4 * 44 and each["accuracy"] > 0.5)
        assert too_slow or each["per_second"] * each["seconds"] > each["iterations"], "the seconds hold more than steps"


@pytest.mark.parametrize(
    ("name", "broken", "message"),
    [
        (
            "build_workload",
            RuntimeError("CUDA error: no kernel image\nstack"),
            "cpu fails: CUDA error: no kernel image",
        ),
        ("LEARNED", 1.1, "cpu fails: it does not learn: an accuracy of 0."),
    ],
)
def test_a_device_that_fails_its_test_is_a_fault_and_the_rest_is_shown(cli, monkeypatch, name, broken, message):
    def fail(*words, **options):
        raise broken

    monkeypatch.setattr(self_test, "SECONDS", 120)
    monkeypatch.setattr(self_test, name, fail if isinstance(broken, Exception) else broken)
    result = cli("doctor")
    assert result.code == 4
    assert message in result.err
    assert "install both from one index" in result.err
    assert "shared memory" in result.out
    assert "self-test cpu" in result.out


def test_a_device_that_is_too_slow_is_told_and_is_no_fault(cli, monkeypatch):
    monkeypatch.setattr(self_test, "SECONDS", 0)
    result = cli("doctor")
    assert (result.code, "not finished after" in result.out) == (0, True)


@pytest.mark.parametrize("value", ["0", "4096", "0,1,2,3", "true", "OFF", "cuda", "DEBUG", ":4096:8", ":16:8"])
def test_small_numbers_and_known_words_are_shown(value):
    assert relevant({"CUDA_X": value}) == {"CUDA_X": value}


@pytest.mark.parametrize(
    "value", ["", "12345", "0,1234", "1,", "0x1", "٣", "1\n", "true ", "/home/me", "10.0.0.1", "GPU-5f", "a,b", VALUE]
)
def test_any_other_value_is_shown_by_its_length(value):
    assert relevant({"SLURM_X": value}) == {"SLURM_X": f"set ({len(value)} characters)"}


def test_no_secret_of_the_environment_is_told(cli, monkeypatch):
    names = ["CLRTOOL_TOKEN", "SLURM_JOB_ACCOUNT", "PYTHONPATH", "MASTER_ADDR", "NCCL_SOCKET_IFNAME", "AWS_KEY"]
    for name in names:
        monkeypatch.setenv(name, VALUE)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    table, found = cli("doctor", "--quick"), report(cli)
    for part in VALUE.split(","):
        assert part not in table.out + table.err + json.dumps(found)
    assert found["environment"]["CLRTOOL_TOKEN"] == f"set ({len(VALUE)} characters)"
    assert found["environment"]["CUDA_VISIBLE_DEVICES"] == "set (0 characters)"
    assert "AWS_KEY" not in table.out
    assert "SLURM_JOB_ACCOUNT" in table.out


def test_a_name_of_the_environment_cannot_move_the_cursor(cli, monkeypatch):
    monkeypatch.setenv("SLURM_\x1b[2J[bold]", "1")
    table = cli("doctor", "--quick").out
    assert "\x1b[2J" not in table
    assert "SLURM_\\x1b[2J[bold]" in table


def test_a_valid_config_is_told_with_its_hash_and_needs_no_import(cli):
    from clrtool.config.file import find_config, load_config

    found = report(cli, "digits", "seed=3")["config"]
    assert found["sha256"] == load_config(find_config("digits"), ["seed=3"]).sha256()
    assert (found["source"], found["allow_import"]) == ("digits", [])
    assert "digits is valid" in cli("doctor", "--quick", "digits").out


def test_the_imports_of_a_config_are_named_and_none_is_made(cli, elsewhere):
    for name in ("other", "scores"):
        (elsewhere / f"{name}.py").write_text(f"open('{name} ran', 'w')")
    before = set(elsewhere.iterdir())
    found = report(cli, "digits", *FACTORIES)["config"]
    assert found["factories"] == {
        "model.factory": "mine.nets:net",
        "data.factory": "mine.data:make",
        "data.batch": "mine.data:split",
        "optimizer.factory": "other:Lion",
        "loss.factory": "mine.nets:loss",
        "metric.factory": "scores:f1",
    }
    assert found["allow_import"] == ["mine.data:*", "mine.nets:*", "other:*", "scores:*"]
    assert "--allow-import 'other:*'" in cli("doctor", "--quick", "digits", *FACTORIES).out
    assert set(elsewhere.iterdir()) == before


def test_every_field_of_a_config_that_names_code_is_among_them():
    """Of the schema: the sections with a factory, data.batch, and an optimizer of several."""
    code = json.dumps(json_schema()).count(":[A-Za-z_]")
    assert code == len(FACTORIES) + 2


def test_an_invalid_config_is_the_usual_error_and_nothing_else_is_shown(cli):
    result = cli("doctor", "--quick", "digits", "sweep.epochs=two")
    assert (result.code, result.out) == (2, "")
    assert "sweep.epochs = 'two' must be a number" in result.err
    result = cli("doctor", "--quick", "digits", "sweep.epochs=two", "--json")
    assert (result.code, json.loads(result.out)["code"], result.err) == (2, 2, "")
    assert cli("doctor", "--quick", "nothing").code == 2


def test_a_folder_of_runs_that_cannot_be_written_is_a_fault(cli, elsewhere):
    (elsewhere / "runs").write_text("a file")
    result = cli("doctor", "--quick")
    assert result.code == 4
    assert "doctor: 1 fault" in result.out
    assert result.err.startswith("error: runs: cannot be written: ")
    result = cli("doctor", "--quick", "--json")
    found = json.loads(result.out)
    assert (result.code, found["status"], found["code"], result.err) == (4, "error", 4, "")
    assert found["message"] == found["machine"]["faults"][0]


@pytest.mark.parametrize(
    ("package", "error", "message"),
    [
        (
            "torchvision",
            "RuntimeError('operator torchvision::nms does not exist')",
            "torchvision does not work with this",
        ),
        (
            "torch",
            "ImportError('libcudart.so.13: cannot open shared object file')",
            "torch cannot be imported: libcudart",
        ),
        ("torch", "OSError('libtorch.so')", "torch cannot be imported: libtorch.so"),
    ],
)
def test_a_torch_or_torchvision_that_does_not_load_is_a_fault_with_its_fix(tmp_path, package, error, message):
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text(f"raise {error}")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from clrtool.cli.main import main; main(['doctor'])"
    result = run_code(code)
    assert result.returncode == 4, result.stderr
    assert "Traceback" not in result.stderr
    assert message in " ".join(result.stderr.split())
    assert "install both from one index" in " ".join(result.stdout.split())


def run_code(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def gpus(monkeypatch):
    """A machine with two GPUs, of which the second is held by another process."""
    import torch

    def compute(index):
        if index == 1:
            raise torch.OutOfMemoryError("CUDA error: out of memory\nand a stack")
        return machine.Gpu("NVIDIA [H100]", 80 * 2**30, 2**30, ("fp16", "bf16"))

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(machine, "_gpu", compute)


def test_a_gpu_that_computes_is_told_with_its_memory_and_one_that_does_not_is_a_fault(cli, gpus):
    result = cli("doctor", "--quick")
    assert result.code == 4
    assert "NVIDIA [H100] with 80.0 GiB, 1.0 GiB of it free; CUDA 12.8" in result.out
    assert "precision that is fast there: fp16 and bf16" in result.out
    assert "cuda:1 does not compute: CUDA error: out of memory; " in result.err
    assert "and a stack" not in result.err


def test_what_torch_warns_of_is_a_note(cli, monkeypatch):
    import torch

    def unavailable():
        warnings.warn("the NVIDIA driver is too old", stacklevel=1)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", unavailable)
    assert "the NVIDIA driver is too old" in report(cli)["machine"]["notes"]


def test_the_small_shared_memory_of_a_container_is_a_note(cli, monkeypatch):
    monkeypatch.setattr(machine, "SMALL_SHM", 2**60)
    assert "data.workers=0" in " ".join(report(cli)["machine"]["notes"])


def test_the_memory_of_a_container_is_its_limit(cli, monkeypatch, tmp_path):
    (tmp_path / "limit").write_text(f"{2**20}\n")
    (tmp_path / "none").write_text("max\n")
    monkeypatch.setattr(machine, "_LIMITS", (tmp_path / "limit", tmp_path / "none", tmp_path / "absent"))
    assert report(cli)["machine"]["memory_bytes"] == 2**20
