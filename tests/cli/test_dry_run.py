"""``rangetest --dry-run``: what it tells, against the range test itself."""

import json

import pytest

from clrtool.config_file import find_config, load_config
from clrtool.engine.build import build_problem
from clrtool.engine.checkpoint import CheckpointFolder
from clrtool.engine.estimate import estimate
from clrtool.engine.stages import Stages
from clrtool.engine.sweep import run_range_test

SHORT = ["rangetest", "digits", "sweep.epochs=1", "--seeds", "2", "-q"]


@pytest.mark.parametrize("ends", [[], ["sweep.start_lr=1e-3", "sweep.end_lr=0.5"]])
def test_a_range_test_takes_no_more_than_was_told_and_nothing_is_written_before(cli, tmp_path, monkeypatch, ends):
    monkeypatch.chdir(tmp_path)
    told = json.loads(cli(*SHORT, *ends, "--dry-run", "--json").out)
    assert list(tmp_path.iterdir()) == []
    assert told["folder"] == "runs/digits: would be new"
    assert cli(*SHORT, *ends).code in (0, 3)
    result = json.loads((tmp_path / "runs/digits/result.json").read_text())
    taken = result["sweep"]
    assert 0.3 * told["iterations"] < taken["iterations"] <= told["iterations"]
    assert (told["scout"] == 0) is bool(ends)
    rows = (tmp_path / "runs/digits/curve.csv").read_text().splitlines()[1:]
    assert len(rows) <= told["seeds"] * told["evaluations"]
    assert (told["samples"], told["heldout_samples"]) == (44 * 32, taken["heldout_samples"])
    assert told["parameters"] == 64 * 64 + 64 + 64 * 10 + 10
    used = sum(file.stat().st_size for file in (tmp_path / "runs/digits").rglob("*"))
    assert used <= told["disk_bytes"]


def test_what_would_become_of_the_folder_is_told(cli, digits_run, tmp_path):
    from tests.conftest import QUICK

    again = cli("rangetest", "digits", *QUICK, "-o", digits_run, "-n").out
    assert "holds a finished run of this config, which would be shown" in " ".join(again.split())
    other = cli("rangetest", "digits", *QUICK, "data.batch_size=64", "-o", digits_run, "-n")
    assert other.code == 0
    assert "refused:" in other.out
    (tmp_path / "begun" / "checkpoint").mkdir(parents=True)
    assert "which would go on" in cli(*SHORT, "-o", tmp_path / "begun", "-n").out


def test_the_size_of_a_checkpoint_is_what_it_takes_on_disk(tmp_path):
    config = load_config(find_config("digits"), ["model.args.hidden=[512]", "sweep.epochs=4", "sweep.seeds=1"])
    problem = build_problem(config, device="cpu")
    told = estimate(problem, config, tmp_path / "run", verify=True)
    folder = CheckpointFolder(tmp_path / "checkpoint")

    def stop(seed, point):
        if point.iteration > 30:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_range_test(problem, config.sweep, 0, stop, Stages(folder, every=0))
    size = max(file.stat().st_size for file in folder.folder.iterdir())
    assert told.checkpoint_bytes <= size <= 1.2 * told.checkpoint_bytes
    assert told.verify == 32 * 44, "one training run"


def test_a_batch_that_does_not_fit_is_told_as_a_range_test_tells_it(cli, tmp_path, monkeypatch):
    def too_much(learner):
        raise MemoryError

    monkeypatch.setattr("clrtool.engine.estimate._step_seconds", too_much)
    done = cli(*SHORT, "-o", tmp_path / "run", "--dry-run")
    assert done.code == 4
    assert "training.micro_batches=2" in done.err
