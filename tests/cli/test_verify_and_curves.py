"""Short runs around the bounds, a run that is read again, and the curves of others, through the command line."""

import json
import shutil

import pytest

from tests.conftest import QUICK, as_version_1


@pytest.fixture(scope="module")
def verified_run(tmp_path_factory):
    """A finished quick run that was verified afterwards, and what was printed then; not to be changed."""
    from clrtool.cli.main import main

    folder = tmp_path_factory.mktemp("verified") / "digits"
    words = ["rangetest", "digits", *QUICK, "plan.epochs=6", "-o", str(folder)]
    for more in ([], ["--verify"]):
        with pytest.raises(SystemExit) as stop:
            main([*words, *more])
        assert stop.value.code in (0, 3)
    return folder, words


def test_verifying_a_finished_run_trains_no_sweep_anew_and_costs_one_training_run(verified_run):
    folder, _ = verified_run
    result = json.loads((folder / "result.json").read_text())
    trials = result["verification"]["trials"]
    assert [trial["kind"] for trial in trials] == ["cycle"] * 4 + ["fixed"] * 2 + ["cycle"] * 2 + ["fixed"]
    assert result["verification"]["cost_epochs"] <= 6
    assert result["sweep"]["iterations"] == 2 * 44
    assert all(trial["score"] is None or 0 <= trial["score"] <= 1 for trial in trials)


def test_a_verified_run_is_shown_again_with_its_reason_and_not_trained_anew(cli, verified_run):
    folder, words = verified_run
    before = (folder / "result.json").read_bytes()
    again = cli(*[word for word in words if word != "-q"], "--verify")
    assert "shown again" in again.err
    assert "9 short runs" in again.out
    assert (folder / "result.json").read_bytes() == before


def test_the_cost_of_verifying_is_told_before_it_starts(cli, tmp_path):
    words = [word for word in QUICK if word != "-q"]
    told = cli("rangetest", "digits", *words, "plan.epochs=2", "--verify", "-o", tmp_path / "run").err
    assert told.index("verifying: 6 runs of") < told.index("  cycle ")
    assert " s\n" in told


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
