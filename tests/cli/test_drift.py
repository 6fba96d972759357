"""``rangetest --write`` and ``--check`` as CI runs them: what is written, what is refused and how it is told."""

import json
import shlex
import shutil
import time
from dataclasses import replace

import pytest

from clrtool.report.records.plan_file import read_bounds
from tests.conftest import QUICK

WORDS = ["rangetest", "digits", *QUICK]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder with a bounds file and the run that it is of; not to be changed."""
    from clrtool.cli.main import main

    folder = tmp_path_factory.mktemp("written")
    with pytest.raises(SystemExit) as stop:
        main([*WORDS, "-o", str(folder / "run"), "--write", str(folder / "digits.bounds.json")])
    assert not stop.value.code
    return folder


@pytest.fixture
def own(written, tmp_path):
    """The same, to be changed."""
    shutil.copytree(written, tmp_path / "own")
    return tmp_path / "own"


def test_the_file_holds_what_is_recommended_and_all_that_it_follows_from(cli, written):
    text = (written / "digits.bounds.json").read_text()
    kept, result = json.loads(text), json.loads((written / "run" / "result.json").read_text())
    assert text == json.dumps(kept, indent=2, sort_keys=True) + "\n"
    for name in ("bounds", "plan", "data_sha256"):
        assert kept[name] == result[name]
    assert kept["config"]["data"]["batch_size"] == 32
    assert list(kept["seeds"]) == [str(seed) for seed in result["sweep"]["seeds"]]
    assert not {"time", "date", "host", "hostname"} & {
        name for name in text.replace('"', " ").split() if name.isalpha()
    }
    planned = cli("plan", written / "digits.bounds.json", "--format", "json")
    assert json.loads(planned.out)["plan"] == result["plan"]


def test_a_check_of_what_was_just_written_holds(cli, own):
    done = cli(*WORDS, "-o", own / "run", "--check", own / "digits.bounds.json")
    assert (done.code, "holds: both bounds" in done.err) == (0, True)


def test_inside_the_tolerance_the_old_bytes_stay(cli, own, tmp_path):
    file = own / "digits.bounds.json"
    before = file.read_bytes()
    done = cli(*WORDS, "seed=3", "-o", tmp_path / "other", "--write", file)
    assert (done.code, "unchanged" in done.err) == (0, True)
    assert file.read_bytes() == before


def test_a_tolerance_is_kept_in_the_file_and_moves_no_bound(cli, own, tmp_path):
    file = own / "digits.bounds.json"
    words = [*WORDS, "seed=3", "-o", tmp_path / "other"]
    before = read_bounds(file)
    assert cli(*words, "--write", file, "--tolerance", "0.4").code == 0
    assert read_bounds(file) == replace(before, tolerance=0.4)
    assert "a tolerance of 40%" in cli(*words, "--write", file).err, "and stays when it is not given"
    assert "a tolerance of 40%" in cli(*words, "--check", file).err
    refused = cli(*words, "--check", file, "--tolerance", "0.1")
    assert (refused.code, "--tolerance needs --write" in refused.err) == (2, True)


def test_other_inputs_are_stale_at_once_and_told_value_by_value(cli, own, tmp_path):
    begin = time.monotonic()
    done = cli(*WORDS, "data.batch_size=256", "-o", tmp_path / "run", "--check", own / "digits.bounds.json")
    assert time.monotonic() - begin < 1
    assert done.code == 1
    assert "is stale: it was measured with different inputs\n  data.batch_size: 32 -> 256\n" in done.err
    words = [*QUICK[:4], "data.batch_size=256", "-o", str(tmp_path / "run"), "--seeds", "2", "--fresh"]
    command = ["clrtool", "rangetest", "digits", *words, "--write", str(own / "digits.bounds.json")]
    assert f"to fix it: {shlex.join(command)}\n" in done.err
    assert not (tmp_path / "run").exists()


def test_a_file_that_is_missing_ends_in_1_with_the_command_that_makes_it(cli, tmp_path):
    done = cli(*WORDS, "-o", tmp_path / "run", "--check", tmp_path / "none.json")
    assert done.code == 1
    assert "no such file yet" in done.err
    assert f"--write {tmp_path / 'none.json'}" in done.err


@pytest.mark.parametrize("how", ["moved", "torn", "a result"])
def test_a_file_that_was_changed_by_hand_is_refused(cli, own, how):
    file = own / "digits.bounds.json"
    kept = json.loads(file.read_text())
    if how == "moved":
        kept["bounds"]["max_lr"] *= 1.01
        file.write_text(json.dumps(kept))
    elif how == "torn":
        file.write_bytes(file.read_bytes()[:500])
    else:
        shutil.copy(own / "run" / "result.json", file)
    done = cli(*WORDS, "-o", own / "run", "--check", file)
    assert done.code == 2
    assert str(file) in done.err


def test_a_drift_ends_in_1_with_both_numbers_an_annotation_and_a_summary(cli, own, monkeypatch, tmp_path):
    from clrtool.report.records.record_file import sha256_of

    file = own / "digits.bounds.json"
    kept = json.loads(file.read_text())
    for bounds in (kept["bounds"], *kept["seeds"].values()):
        bounds["base_lr"], bounds["max_lr"] = bounds["base_lr"] / 8, bounds["max_lr"] / 8
    kept["bounds"]["base_lr_interval"] = kept["bounds"]["max_lr_interval"] = kept["plan"] = None
    file.write_text(json.dumps(kept | {"sha256": sha256_of(kept)}))
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    done = cli(*WORDS, "-o", own / "run", "--check", file)
    assert done.code == 1
    assert "the recommendation has drifted" in done.err
    assert "max_lr: 0.0" in done.err
    assert "a factor of 8.00 (allowed 1.15, noise" in done.err
    (annotation,) = [line for line in done.err.splitlines() if line.startswith("::error ")]
    assert annotation.startswith(f"::error file={file}::{file}: the recommendation has drifted%0A")
    assert "### " in (tmp_path / "summary.md").read_text()
    monkeypatch.delenv("GITHUB_ACTIONS")
    monkeypatch.delenv("GITHUB_STEP_SUMMARY")
    assert "::error" not in cli(*WORDS, "-o", own / "run", "--check", file).err


def test_code_that_has_changed_makes_a_file_stale_and_not_drifted(process, tmp_path):
    process("init", "custom", "mine.yaml", cwd=tmp_path)
    words = ["rangetest", "mine.yaml", *QUICK, "--allow-import", "custom_factories:*"]
    assert process(*words, "--write", "mine.json", cwd=tmp_path).returncode == 0
    code = tmp_path / "custom_factories.py"
    code.write_text(code.read_text() + "\nprint(end='')\n")
    done = process(*words, "-o", "other", "--check", "mine.json", cwd=tmp_path)
    assert (done.returncode, "has drifted" in done.stderr) == (1, False)
    assert (
        "mine.json is stale: it was measured with different inputs\n  custom_factories: its hash has changed"
        in done.stderr
    )


def test_an_inconclusive_test_writes_nothing_and_is_no_drift(cli, own, tmp_path):
    low = ["sweep.start_lr=1e-9", "sweep.end_lr=1e-8", "sweep.epochs=1", "sweep.seeds=2"]
    done = cli("rangetest", "digits", *low, "-q", "-o", tmp_path / "low", "--write", tmp_path / "low.json")
    assert (done.code, (tmp_path / "low.json").exists()) == (3, False)


def test_a_file_is_written_or_checked_and_not_both(cli, tmp_path):
    done = cli(*WORDS, "-o", tmp_path / "run", "--write", "a.json", "--check", "a.json")
    assert done.code == 2
    assert "give only one of them" in done.err
