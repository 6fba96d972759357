"""The race of a range test, its budget, a run that is read again, and the curves of others, through the command line."""

import json
import shutil

import pytest

from tests.conftest import QUICK, as_version_1

# Of a planned training of 32 epochs of 44 iterations, whose quarter is less than the least budget.
TRAINING, LEAST = 32 * 44, 500


def measured(folder):
    return json.loads((folder / "result.json").read_text())


def test_a_range_test_sweeps_one_seed_for_a_short_while_and_spends_the_rest_of_its_budget_on_a_race(race_run):
    result = measured(race_run)
    sweep, race = result["sweep"], result["race"]
    assert result["verification"] is None
    assert sweep["seeds"] == [0]
    assert sweep["iterations"] < 0.25 * LEAST
    assert race["budget"] == LEAST - sweep["iterations"]
    assert 0.8 * race["budget"] < race["iterations"] <= race["budget"]
    assert {probe["seed"] for probe in race["probes"]} == {0, 1}
    assert all(probe["metric"] is None or 0 <= probe["metric"] <= 1 for probe in race["probes"])
    assert result["bounds"]["max_lr"] in {probe["lr"] for probe in race["probes"]}
    assert result["plan"]["max_lr"] == result["bounds"]["max_lr"] == 4 * result["bounds"]["base_lr"]


@pytest.mark.parametrize("share", ["0.5", "1"])
def test_a_race_and_all_before_it_stay_within_the_budget_that_was_given(cli, tmp_path, share):
    assert cli("rangetest", "digits", "--budget", share, "-q", "-o", tmp_path / "run").code == 0
    result = measured(tmp_path / "run")
    taken = result["sweep"]["iterations"] + result["race"]["iterations"]
    assert 0.8 * float(share) * TRAINING < taken <= float(share) * TRAINING
    config = (tmp_path / "run" / "config.yaml").read_text()
    assert f"budget: {float(share)}" in config


@pytest.mark.parametrize("share", ["0", "-1", "11", "nan"])
def test_what_is_no_budget_is_refused(cli, tmp_path, share):
    done = cli("rangetest", "digits", "--budget", share, "-q", "-o", tmp_path / "run")
    assert done.code == 2
    assert "sweep.budget" in done.err
    assert not (tmp_path / "run").exists()


def test_a_finished_race_is_shown_again_with_its_reason_and_not_trained_anew(cli, race_run):
    before, race = (race_run / "result.json").read_bytes(), measured(race_run)["race"]
    again = cli("rangetest", "digits", "-v", "-o", race_run)
    assert "shown again" in again.err
    shown = " ".join(again.out.split())
    assert f"{race['iterations']} iterations" in shown
    assert f"{len({probe['lr'] for probe in race['probes']})} rates from" in shown
    assert "a constant answer has" in shown
    assert (race_run / "result.json").read_bytes() == before


def test_the_cost_of_a_race_is_told_before_it_starts_and_every_reading_as_soon_as_it_is_there(cli, tmp_path):
    told = cli("rangetest", "digits", "-o", tmp_path / "run").err
    race = measured(tmp_path / "run")["race"]
    begin = told.index(f"racing: short runs, at most {race['budget']} iterations in total")
    assert begin < told.index("  lr ")
    assert told.count("  held-out loss ") + told.count("  not finite") == len(race["probes"])


def test_to_verify_is_to_give_a_budget_of_one_training(cli, tmp_path):
    words = ["rangetest", "digits", "plan.epochs=12", "-o", tmp_path / "run"]
    assert cli(*words, "--verify", "-q").code == 0
    result = measured(tmp_path / "run")
    assert LEAST < result["sweep"]["iterations"] + result["race"]["budget"] == 12 * 44
    assert "shown again" in cli(*words, "--budget", "1").err
    other = cli(*words, "--verify", "--budget", "2")
    assert (other.code, "another config" in other.err) == (2, True), "what is given as a number counts"


@pytest.mark.parametrize("words", [["sweep.method=paper", "plan.epochs=3"], ["sweep.epochs=1", "--seeds", "1"]])
def test_by_the_method_of_the_paper_curves_are_read_alone(cli, tmp_path, words):
    assert cli("rangetest", "digits", *words, "-q", "-o", tmp_path / "run").code in (0, 3)
    result = measured(tmp_path / "run")
    assert result["race"] is None
    assert len(result["sweep"]["seeds"]) == (2 if "sweep.method=paper" in words else 1)


def test_a_race_may_follow_a_sweep_of_any_length(cli, tmp_path):
    words = ["sweep.epochs=2", "sweep.method=race", "--seeds", "1"]
    assert cli("rangetest", "digits", *words, "-q", "-o", tmp_path / "run").code == 0
    result = measured(tmp_path / "run")
    assert result["sweep"]["iterations"] - result["sweep"]["scout_iterations"] <= 2 * 44
    assert {probe["seed"] for probe in result["race"]["probes"]} == {0}
    assert result["bounds"]["verdict"] == "weak"


def test_the_short_runs_of_an_earlier_version_are_shown_and_move_what_this_one_reads(cli, digits_run, tmp_path):
    folder = tmp_path / "digits"
    shutil.copytree(digits_run, folder)
    result, read = measured(folder), measured(folder)["bounds"]["max_lr"]
    trials = [{"kind": "cycle", "round": 1, "max_lr": read, "epochs": 1.5, "score": None}]
    trials += [{"kind": "fixed", "round": 2, "max_lr": read / 2, "epochs": 1.5, "score": 0.9}]
    reason = "A cycle up to half of it reaches more"
    result["verification"] = {
        "trials": trials, "read_lr": read, "max_lr": read / 2, "reason": reason, "cost_epochs": 3.0
    }  # fmt: skip
    del result["race"]  # there was none yet
    (folder / "result.json").write_text(json.dumps(as_version_1(result)))
    planned = json.loads(cli("plan", folder, "--format", "json").out)["plan"]
    assert planned["max_lr"] == pytest.approx(read / 2)
    shown = " ".join(cli("rangetest", "digits", *QUICK[:-1], "-o", folder).out.split())
    assert "2 short runs" in shown
    assert reason in shown


def test_a_run_that_an_earlier_version_read_otherwise_is_planned_by_what_this_one_reads(cli, digits_run, tmp_path):
    folder = tmp_path / "old"
    shutil.copytree(digits_run, folder)
    result = json.loads((folder / "result.json").read_text())
    result["bounds"] |= {
        "max_lr": 0.02,
        "max_lr_interval": [0.01, 0.03],
        "base_lr": 0.01,
        "base_lr_interval": [0.01, 0.01],
    }
    (folder / "result.json").write_text(json.dumps(as_version_1(result)))
    done = cli("plan", folder, "--format", "json")
    assert "this version reads base_lr" in done.err
    fresh = json.loads(cli("plan", digits_run, "--format", "json").out)["plan"]
    assert json.loads(done.out)["plan"]["max_lr"] == fresh["max_lr"]


def test_the_curve_of_a_run_gives_nearly_its_bounds(cli, digits_run):
    mine = json.loads((digits_run / "result.json").read_text())["bounds"]
    done = cli("plan", "--curve", digits_run / "curve.csv", "--format", "json")
    assert json.loads(done.out)["bounds"]["max_lr"] == pytest.approx(mine["max_lr"])


def test_a_curve_with_the_length_of_an_epoch_gives_a_plan_in_every_format(cli, digits_run):
    words = ["plan", "--curve", digits_run / "curve.csv", "--iterations-per-epoch", "44"]
    table = cli(*words)
    assert "curve.csv: bounds" in table.out
    assert "cycle 1" in table.out
    plan = json.loads(cli(*words, "--format", "json").out)["plan"]
    assert plan["iterations_per_epoch"] == 44


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["digits"], "leave out every other source"),
        (["--base-lr", "0.1"], "--base-lr has no meaning with --curve"),
        (["--epochs", "3"], "needs --iterations-per-epoch"),
        (["-o", "p.json"], "needs --iterations-per-epoch"),
        (["--lint"], "needs --iterations-per-epoch"),
        (["--format", "torch"], "needs --iterations-per-epoch"),
        (["gamma=0.5"], "needs --iterations-per-epoch"),
    ],
)
def test_a_curve_is_the_only_source(cli, digits_run, words, message):
    done = cli("plan", "--curve", digits_run / "curve.csv", *words)
    assert done.code == 2
    assert message in done.err


def test_a_curve_that_learned_nothing_exits_with_three(cli, tmp_path):
    flat = tmp_path / "flat.csv"
    flat.write_text("lr,acc\n" + "".join(f"{i},{0.1 + 0.001 * (i % 3)}\n" for i in range(1, 40)))
    done = cli("plan", "--curve", flat)
    assert done.code == 3
    assert "inconclusive" in done.out
    silent = cli("plan", "--curve", flat, "--iterations-per-epoch", "9", "--format", "torch")
    assert (silent.code, silent.out) == (3, "")
    assert "inconclusive: Nothing was learned" in silent.err
