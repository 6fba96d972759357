"""Files of a newer clrtool: whichever command meets one says so, and that an upgrade is what helps."""

import json
import shutil

import pytest

import clrtool
from clrtool.engine.resume.checkpoint import CheckpointFolder
from clrtool.engine.resume.journal import FORMAT
from clrtool.errors import ConfigError
from clrtool.report.records.record_file import sealed
from tests.conftest import QUICK


def of_newer(file):
    """Give a file of clrtool the version of one that is yet to come."""
    values = json.loads(file.read_text())
    values["schema_version"] += 40
    file.write_text(sealed({name: value for name, value in values.items() if name != "sha256"}))


@pytest.fixture
def run(digits_run, tmp_path):
    folder = shutil.copytree(digits_run, tmp_path / "run")
    of_newer(folder / "result.json")
    return folder


DOORS = {
    "plan": ["plan", "run"],
    "plan of a file": ["plan", "run/result.json"],
    "plot": ["plot", "run", "-o", "a.png"],
    "rangetest": ["rangetest", "digits", *QUICK, "-o", "run"],
    "compare": ["compare", "digits", "-o", "other", "--run", "run"],
}


@pytest.mark.parametrize("door", DOORS)
def test_a_result_of_a_newer_version_says_that_an_upgrade_reads_it(cli, run, door):
    before = (run / "result.json").read_bytes()
    done = cli(*DOORS[door])
    assert done.code == 2, done.err
    assert "result.json: was written by a newer clrtool" in done.err
    assert "upgrade clrtool" in done.err
    assert (run / "result.json").read_bytes() == before


def test_python_says_it_too(run):
    with pytest.raises(ConfigError, match=r"written by a newer clrtool.* upgrade clrtool"):
        clrtool.read_run(run)


@pytest.mark.parametrize("ending", ["json", "yaml"])
def test_so_does_a_plan(cli, tmp_path, ending):
    (tmp_path / f"a.{ending}").write_text(
        'schema_version: 7\nplan: {policy: "new"}\n' if ending == "yaml" else '{"schema_version": 7}'
    )
    done = cli("plan", f"a.{ending}")
    assert done.code == 2
    assert "written by a newer clrtool: schema_version is 7" in done.err


@pytest.mark.parametrize("field", ["schema_version", "rule"])
def test_so_does_a_file_that_ci_keeps(cli, tmp_path, field):
    words = ["rangetest", "digits", *QUICK, "-o", "run"]
    assert cli(*words, "--write", "kept.json").code == 0
    values = json.loads((tmp_path / "kept.json").read_text())
    values[field] += 40
    del values["sha256"]
    (tmp_path / "kept.json").write_text(sealed(values, sort_keys=True))
    done = cli(*words, "--check", "kept.json")
    assert done.code == (2 if field == "schema_version" else 1), done.err
    assert "a newer clrtool" in done.err
    assert "upgrade clrtool" in done.err


def test_a_config_with_keys_of_a_newer_version_in_a_run_folder_says_both_ways_out(cli, run):
    with (run / "config.yaml").open("a") as file:
        file.write("a_key_of_tomorrow: 1\n")
    done = cli("rangetest", "digits", *QUICK, "-o", "run")
    assert done.code == 2
    assert "config.yaml" in done.err
    assert "if a newer clrtool wrote it, upgrade clrtool; to replace this run, add --fresh" in done.err


@pytest.fixture
def shard(cli, tmp_path):
    """The folder of a finished shard whose checkpoint is one of a newer version, with what an older one cannot know."""
    assert cli("rangetest", "digits", *QUICK, "-o", "run", "--seed-shard", "1/2").code == 0
    folder = tmp_path / "run" / "shards" / "1-of-2"
    store = CheckpointFolder(folder / "checkpoint")
    values = store.load().values
    store.save(values | {"format": FORMAT + 1, "finished": ["in", "other", "words"], "seconds": None})
    return folder


@pytest.mark.parametrize("number", ["1/2", "2/2"])
def test_a_checkpoint_of_a_newer_version_is_neither_resumed_nor_replaced(cli, shard, number):
    files = sorted((shard / "checkpoint").iterdir())
    done = cli("rangetest", "digits", *QUICK, "-o", "run", "--seed-shard", number)
    assert done.code == 2, done.err
    assert "a newer clrtool" in done.err
    assert "upgrade clrtool" in done.err
    assert sorted((shard / "checkpoint").iterdir()) == files


def test_so_is_a_shard_that_is_merged(cli, shard):
    done = cli("merge", "run")
    assert done.code == 2
    assert "1-of-2: was started by a newer clrtool" in done.err
