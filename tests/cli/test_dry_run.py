"""``rangetest --dry-run``: what it tells, against the range test itself."""

import json

import pytest

from clrtool.config.file import find_config, load_config
from clrtool.engine.configured.build import build_workload
from clrtool.engine.rangetest.estimate import estimate
from clrtool.engine.rangetest.sweep import _Track as Track
from clrtool.engine.rangetest.sweep import run_sweep
from clrtool.engine.resume.checkpoint import CheckpointFolder
from clrtool.engine.resume.journal import Journal
from clrtool.errors import MachineError

SHORT = ["rangetest", "digits", "sweep.epochs=1", "--seeds", "2", "-q"]


@pytest.fixture(autouse=True)
def quickly_timed(monkeypatch):
    monkeypatch.setattr("clrtool.engine.rangetest.estimate.SECONDS", 0.05)


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
    assert (told["start_lr"], told["end_lr"]) == ((1e-3, 0.5) if ends else (None, None))
    rows = (tmp_path / "runs/digits/curve.csv").read_text().splitlines()[1:]
    assert len(rows) <= told["seeds"] * told["evaluations"]
    assert (told["samples"], told["dropped"]) == (44 * 32, 1438 - 44 * 32)
    assert told["heldout_samples"] == taken["heldout_samples"]
    assert told["parameters"] == 64 * 64 + 64 + 64 * 10 + 10
    used = sum(file.stat().st_size for file in (tmp_path / "runs/digits").rglob("*"))
    assert used <= told["disk_bytes"]


def test_jobs_and_shards_take_their_share(cli, tmp_path):
    words = ["rangetest", "digits", "sweep.epochs=1", "--seeds", "4", "-o", tmp_path, "-n", "--json", "-q"]
    plain, jobs, shard = (
        json.loads(cli(*words, *more).out) for more in ([], ["--jobs", "2"], ["--seed-shard", "4/4", "--jobs", "2"])
    )
    assert (plain["seeds"], jobs["seeds"], shard["seeds"]) == (4, 4, 1)
    assert (plain["jobs"], jobs["jobs"], shard["jobs"]) == (1, 2, 1)
    for told, in_turn in ((plain, 4), (jobs, 2)):
        steps = told["scout"] + in_turn * told["sweep"]
        times = steps * told["iteration_seconds"] + in_turn * told["evaluations"] * told["evaluation_seconds"]
        assert told["seconds"] == pytest.approx(times, rel=0.02), "both scout, and share the rest"
    assert shard["iterations"] == shard["scout"] + shard["sweep"] < jobs["iterations"] == plain["iterations"]
    assert shard["folder"].endswith("4-of-4: would be new")


def test_what_would_become_of_the_folder_is_told(cli, digits_run, tmp_path):
    from tests.conftest import QUICK

    again = cli("rangetest", "digits", *QUICK, "-o", digits_run, "-n").out
    assert "holds a finished run of this config, which would be shown" in " ".join(again.split())
    other = cli("rangetest", "digits", *QUICK, "data.batch_size=64", "-o", digits_run, "-n")
    assert other.code == 0
    assert "refused:" in other.out
    dearer = cli("rangetest", "digits", *QUICK, "-o", digits_run, "-n", "--budget", "0.5").out
    assert "refused: " in dearer, "the budget is part of the config"


def test_a_run_that_was_interrupted_is_told_as_far_as_it_came(cli, tmp_path, monkeypatch):
    monkeypatch.setattr("clrtool.engine.rangetest.sweep._Track.point", broken_off(Track.point, 20))
    place = ["-o", tmp_path / "run", "--checkpoint-every", "0"]
    assert cli(*SHORT, *place).code == 4
    told = shown(cli(*SHORT, *place, "-n"))
    assert "holds an unfinished run, which would resume: " in told
    assert "resumed with 1 segment finished" in told, "that of the scout"
    assert "refused: " in shown(cli(*SHORT, *place, "-n", "--deterministic"))
    assert "would be replaced" in shown(cli(*SHORT, *place, "-n", "--fresh"))


def shown(done):
    assert done.code == 0, done.err
    return " ".join(done.out.split())


def broken_off(point, iteration):
    """An evaluation that fails from an iteration on."""

    def fail(track, now, *measured):
        if now > iteration:
            raise MachineError("broken off")
        return point(track, now, *measured)

    return fail


@pytest.mark.short(2)
@pytest.mark.parametrize("hidden", [[64], [512]])
@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
def test_a_checkpoint_takes_no_more_than_was_told_and_at_least_half_of_it(tmp_path, monkeypatch, hidden, optimizer):
    monkeypatch.setattr("clrtool.engine.resume.journal.SHARE", 1e9)  # save at every step, however long that takes
    wishes = [f"model.args.hidden={hidden}", f"optimizer={optimizer}", "sweep.epochs=1", "sweep.seeds=2"]
    config = load_config(find_config("digits"), wishes)
    problem = build_workload(config, device="cpu")
    told = estimate(problem, config, tmp_path / "run")
    sizes = []

    class Disk(CheckpointFolder):
        def save(self, values):
            super().save(values)
            sizes.extend(file.stat().st_size for file in self.folder.iterdir())

    run_sweep(problem, config.sweep, 0, lambda seed, point: None, Journal(Disk(tmp_path / "checkpoint"), every=0))
    assert 0.5 * told.checkpoint_bytes <= max(sizes) <= told.checkpoint_bytes


@pytest.mark.parametrize("more", [[], ["--budget", "0.5"], ["--seeds", "3"]])
def test_a_race_and_the_sweeps_before_it_take_no_more_than_was_told(cli, tmp_path, more):
    words = ["rangetest", "digits", "-q", "-o", tmp_path / "run", *more, "--json"]
    told, taken = json.loads(cli(*words, "-n").out), json.loads(cli(*words).out)
    budget = 704 if "--budget" in more else 500
    assert told["scout"] + told["seeds"] * told["sweep"] + told["race"] == told["iterations"] == budget
    assert told["seeds"] == len(taken["sweep"]["seeds"])
    assert taken["sweep"]["iterations"] <= told["scout"] + told["seeds"] * told["sweep"]
    race = taken["race"]
    assert told["race"] <= race["budget"] == told["iterations"] - taken["sweep"]["iterations"]
    assert 0.7 * told["race"] < race["iterations"] <= race["budget"]
    assert 0.5 * told["race_evaluations"] < len(race["probes"]) < 1.5 * told["race_evaluations"]


def test_a_range_test_without_a_race_has_no_part_for_one_and_a_shard_of_its_seeds_leaves_it_to_others(cli, tmp_path):
    words = ["rangetest", "digits", "-q", "-o", tmp_path / "run", "-n", "--json"]
    paper = json.loads(cli(*words, "sweep.method=paper").out)
    assert paper["race"] == paper["race_evaluations"] == 0
    whole, shard = (json.loads(cli(*words, "--seeds", "2", *more).out) for more in ([], ["--seed-shard", "2/2"]))
    assert shard["race"] == shard["race_evaluations"] == 0 < whole["race"]
    assert shard["iterations"] == whole["scout"] + whole["sweep"]
    assert json.loads(cli(*words, "--seed-shard", "1/2").out)["race"] == 0, "even if it has all seeds"
    assert "short runs" in shown(cli(*words[:-1]))
    assert "short runs" not in shown(cli(*words[:-1], "sweep.method=paper"))


def test_what_cannot_be_planned_and_what_an_optimizer_makes_of_the_rates_is_told(cli):
    long = cli(*SHORT, "-n", "plan.epochs=0.02")
    assert long.code == 2
    assert "plan: epochs = 0.02 is 0 iterations" in long.err
    odd = shown(cli(*SHORT, "-n", "optimizer=Rprop"))
    assert "warning" in odd
    assert "optimizer=AdamW" in odd


def test_a_batch_that_does_not_fit_is_told_as_a_range_test_tells_it(cli, tmp_path, monkeypatch):
    def too_much(learner):
        raise MemoryError

    monkeypatch.setattr("clrtool.engine.rangetest.estimate._step_seconds", too_much)
    done = cli(*SHORT, "-o", tmp_path / "run", "--dry-run")
    assert done.code == 4
    assert "training.micro_batches=2" in done.err
