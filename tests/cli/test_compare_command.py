"""``clrtool compare`` as a user types it: bounds, files, verdict, what is shown again, refused, interrupted and resumed."""

import csv
import json
import shutil
import signal

import numpy as np
import pytest

from clrtool.core.reading.metric import ACCURACY
from clrtool.report.records.comparison_file import COMPARISON
from tests.conftest import QUICK
from tests.torture.conftest import STEP
from tests.torture.runs import at_once, contents

SHORT = [
    "compare",
    "digits",
    "--epochs",
    "2",
    "--seeds",
    "2",
    "--bounds",
    "0.02,0.2",
    "--policies",
    "fixed,triangular2",
]
SWEEP = [word for word in QUICK if word not in ("--seeds", "2", "-q")]
FILES = {"config.yaml", "runs.csv", "compare.json", "compare.png", "compare.alt.txt"}


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """The folder of a finished comparison; not to be changed."""
    from clrtool.cli.main import main

    folder = tmp_path_factory.mktemp("compared") / "digits-compare"
    with pytest.raises(SystemExit) as stop:
        main([*SHORT, "-q", "-o", str(folder)])
    assert not stop.value.code
    return folder


def test_compare_finds_the_bounds_first_and_trains_every_policy_on_them(process, tmp_path):
    done = process("compare", "digits", *SWEEP, "sweep.seeds=2", "--epochs", "4", "--seeds", "2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / "digits-compare"
    assert {path.name for path in folder.iterdir()} == FILES | {"range_test"}
    for word in ("fixed", "triangular2", "exp_range", "one_cycle", "verdict", "±", "range_test"):
        assert word in done.stdout
    result = json.loads((folder / "compare.json").read_text())
    bounds = json.loads((folder / "range_test" / "result.json").read_text())["bounds"]
    assert (result["bounds"]["base_lr"], result["bounds"]["max_lr"]) == (bounds["base_lr"], bounds["max_lr"])
    assert result["bounds"]["cost_epochs"] == 2
    assert result["cost_epochs"] == 4 * 2 * 4
    assert (folder / "compare.png").stat().st_size > 10_000


def test_the_bounds_are_those_of_a_run_of_the_same_config_if_there_is_one(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli("rangetest", "digits", *SWEEP, "sweep.seeds=2", "-q").code == 0
    words = ["compare", "digits", *SWEEP, "sweep.seeds=2", *SHORT[2:6], "-q"]
    assert cli(*words).code == 0
    record = COMPARISON.read(tmp_path / "runs" / "digits-compare")
    assert record.bounds.source == "runs/digits"
    assert not (tmp_path / "runs" / "digits-compare" / "range_test").exists()
    assert cli(*words, "--run", "digits", "-o", "other").code == 0
    assert COMPARISON.read(tmp_path / "other").bounds == record.bounds
    shutil.rmtree(tmp_path / "runs" / "digits")
    again = cli(*words[:-1])
    assert (again.code, "shown again" in again.err) == (0, True)
    assert not (tmp_path / "runs" / "digits-compare" / "range_test").exists()


def test_bounds_that_were_measured_on_other_data_are_used_with_a_warning(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    split = ["data={name: digits, heldout: 200}"]
    assert cli("rangetest", "digits", *SWEEP, "sweep.seeds=2", "-q").code == 0
    done = cli("compare", "digits", *split, *SHORT[2:6], *SHORT[8:], "--run", "digits", "-q", "-o", "out")
    assert done.code == 0
    said = "The bounds from runs/digits were measured with different data"
    assert any(warning.startswith(said) for warning in COMPARISON.read(tmp_path / "out").warnings)
    assert said in " ".join(done.out.split())


def test_every_training_has_the_same_seeds_iterations_and_evaluations(compared):
    with (compared / "runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["policy", "seed", "iteration", "epoch", "lr", "train_loss", "heldout_loss", "accuracy"]
    stops = {}
    for row in rows:
        stops.setdefault((row["policy"], row["seed"]), []).append(int(row["iteration"]))
    assert list(stops) == [(policy, seed) for policy in ("fixed", "triangular2") for seed in "01"]
    assert len({tuple(each) for each in stops.values()}) == 1
    assert next(iter(stops.values()))[-1] == 2 * 44


def test_the_result_is_that_of_its_rows(compared):
    result = json.loads((compared / "compare.json").read_text())
    with (compared / "runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    for policy in result["policies"]:
        mine = [row for row in rows if row["policy"] == policy["name"]]
        finals = [float(row["accuracy"]) for row in mine if row["iteration"] == "88"]
        assert policy["finals"] == finals
        assert policy["mean"] == pytest.approx(np.mean(finals))
        assert policy["standard_deviation"] == pytest.approx(abs(finals[0] - finals[1]) / np.sqrt(2))
        good = [
            [int(r["iteration"]) for r in mine if r["seed"] == s and float(r["accuracy"]) >= result["target"]]
            for s in "01"
        ]
        assert policy["iterations_to_target"] == [min(each, default=None) for each in good]
    assert result["target"] == result["policies"][0]["mean"]


def test_json_is_one_object_equal_to_the_file_and_a_finished_comparison_is_shown_again(cli, compared):
    before = {path.name: path.stat().st_mtime_ns for path in compared.iterdir()}
    printed = cli(*SHORT, "-o", compared, "--json")
    assert printed.out == (compared / "compare.json").read_text()
    assert printed.err == ""
    again = cli(*SHORT, "-o", compared)
    assert "already finished with these options, shown again; --fresh runs it again" in again.err
    assert "triangular2" in again.out
    assert {path.name: path.stat().st_mtime_ns for path in compared.iterdir()} == before


def test_another_target_is_read_off_the_same_trainings(cli, compared, tmp_path):
    folder = tmp_path / "again"
    cli(*SHORT, "-q", "-o", folder)
    rows = (folder / "runs.csv").read_bytes()
    done = cli(*SHORT, "-q", "-o", folder, "--target-accuracy", "0.3")
    assert "reaches 0.3 in" in done.out
    assert (folder / "runs.csv").read_bytes() == rows
    record = COMPARISON.read(folder)
    assert record.target == 0.3
    assert all(run.reaches(0.3, ACCURACY) for each in record.candidates for run in each.trainings)


@pytest.mark.parametrize(
    "more", [["--seeds", "3"], ["--epochs", "1"], ["--bounds", "0.02,0.3"], ["--policies", "fixed,cosine"], ["seed=1"]]
)
def test_another_comparison_in_the_folder_is_refused_with_both_ways_out(cli, compared, more):
    before = (compared / "compare.json").read_bytes()
    refused = cli(*SHORT, *more, "-o", compared)
    assert refused.code == 2
    assert "another folder with -o DIR, or replace the old one with --fresh" in refused.err
    assert (compared / "compare.json").read_bytes() == before


def test_fresh_replaces_a_comparison_but_never_the_files_of_others(cli, digits_run, tmp_path):
    folder = tmp_path / "one"
    assert cli(*SHORT, "-q", "-o", folder).code == 0
    assert cli(*SHORT, "-q", "--policies", "fixed,cosine", "-o", folder, "--fresh").code == 0
    assert [each.name for each in COMPARISON.read(folder).candidates] == ["fixed", "cosine"]
    for more in ([], ["--fresh"]):
        refused = cli(*SHORT, *more, "-o", digits_run)
        assert refused.code == 2
        assert "that clrtool compare did not write" in refused.err


def test_a_rate_of_ones_own_and_a_plan_file_are_policies_too(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    numbers = ["--base-lr", "0.01", "--max-lr", "0.1", "--iterations-per-epoch", "44", "--epochs", "1"]
    cli("plan", *numbers, "--policy", "cosine", "-o", "mine.json")
    done = cli(*SHORT, "--policies", "fixed:0.03,mine.json", "-q", "-o", "out")
    assert done.code == 0, done.err
    assert "mine: the plan ends" in " ".join(done.out.split())
    rate, mine = COMPARISON.read(tmp_path / "out").candidates
    assert {point.lr for run in rate.trainings for point in run.points} == {0.03}
    assert [run.points[-1].lr for run in mine.trainings] == [0.01, 0.01]
    assert json.loads((tmp_path / "out" / "compare.json").read_text())["target"] == rate.mean


@pytest.mark.drawn
def test_plot_draws_a_comparison_anew_and_as_other_formats(cli, compared, tmp_path):
    shutil.copytree(compared, tmp_path / "digits-compare")
    picture = tmp_path / "digits-compare" / "compare.png"
    picture.unlink()
    done = cli("plot", tmp_path / "digits-compare")
    assert (done.code, done.err) == (0, f"{picture}: written\n")
    assert picture.read_bytes() == (compared / "compare.png").read_bytes()
    assert cli("plot", compared, "-o", tmp_path / "both.svg").code == 0
    assert "triangular2" in (tmp_path / "both.svg").read_text()


def test_the_plan_of_the_best_can_be_planned_with(cli, compared):
    best = json.loads((compared / "compare.json").read_text())
    planned = json.loads(cli("plan", compared / "compare.json", "--format", "json").out)["plan"]
    assert planned == next(each["plan"] for each in best["policies"] if each["name"] == best["best"])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--policies", "fixed,triangulr2"], "did you mean 'triangular2'? Valid: cosine, cosine_restarts,"),
        (["--policies", "fixed,stages"], "or fixed:RATE, a plan file, a run folder"),
        (["--policies", "fixed,"], "'' is no policy"),
        (["--policies", "fixed," + "x" * 5000], "... is no policy"),
        (["--policies", "fixed,fixed"], "names a policy twice"),
        (["--policies", "cosine"], "2 to 8 can be compared, not 1"),
        (["--policies", "fixed,fixed:much"], "fixed:much: must be a number after fixed:"),
        (["--policies", "fixed,fixed:-1"], "fixed:-1: a fixed rate must be finite and above 0"),
        (["--policies", "fixed,lost.json"], "lost.json: no such file"),
        (["--policies", "fixed,long.json"], "is 176 iterations long, but the comparison only 88; use --epochs 4"),
        (["--policies", "fixed,other.json"], "its epoch has 50 iterations, but an epoch of the data has 44"),
        (
            ["optimizer={name: Adagrad}", "--policies", "fixed,moving.json"],
            "optimizer: the plan moves the momentum, and Adagrad has neither momentum nor betas",
        ),
        (["--bounds", "0.1"], "must be two numbers, BASE,MAX"),
        (["--bounds", "0.2,0.1"], "the second above the first"),
        (["--run", "digits"], "--bounds and --run: give only one of them"),
        (["--target-accuracy", "97"], "must be above 0 and at most 1"),
        (["--epochs", "0"], "epochs must be finite and above 0"),
        (["--epochs", "nan"], "epochs must be finite and above 0"),
        (["--epochs", "1e300"], "epochs must be at most 100000"),
    ],
)
def test_what_cannot_be_compared_is_named_before_anything_is_trained(cli, tmp_path, monkeypatch, more, message):
    monkeypatch.chdir(tmp_path)
    for name, per_epoch, *rest in (
        ("long", 44, "--epochs", "4"),
        ("other", 50, "--epochs", "1"),
        ("moving", 44, "--epochs", "1", "--momentum", "0.85,0.95"),
    ):
        numbers = ["--base-lr", "0.01", "--max-lr", "0.1", "--iterations-per-epoch", per_epoch]
        cli("plan", *numbers, *rest, "-o", f"{name}.json")
    done = cli(*SHORT, *more, "-q", "-o", "out")
    assert done.code == 2
    assert message in done.err
    assert not any((tmp_path / "out").glob("*.*"))


def test_progress_counts_policies_and_seeds_and_the_time_that_is_left(cli, tmp_path, monkeypatch):
    monkeypatch.setattr("clrtool.report.text.progress.PLAIN_LINE_SECONDS", 0)
    monkeypatch.setattr("clrtool.report.text.progress.AT_ONCE", 0)
    lines = [line for line in cli(*SHORT, "-o", tmp_path / "run").err.splitlines() if "accuracy" in line]
    assert len(lines) == 2 * 2 * 20
    assert lines[0].startswith("fixed (1/2)  seed 1/2  epoch 0.1")
    assert lines[-1].startswith("triangular2 (2/2)  seed 2/2  epoch 2.0")
    assert lines[-1].endswith("  0 s left")


def test_a_range_test_that_shows_no_bounds_ends_in_3(cli, tmp_path):
    low = ["sweep.start_lr=1e-9", "sweep.end_lr=1e-8", "sweep.epochs=1", "sweep.seeds=2"]
    words = ["compare", "digits", *low, "-o", tmp_path / "low"]
    done = cli(*words, "-q")
    assert done.code == 3
    assert "is inconclusive: Nothing was learned" in done.err
    again = cli(*words, "--json")
    assert (again.code, json.loads(again.out)["status"]) == (3, "inconclusive")


def test_a_result_that_was_changed_is_refused_with_a_way_out(cli, tmp_path):
    folder = tmp_path / "one"
    cli(*SHORT, "-q", "-o", folder)
    text = (folder / "runs.csv").read_text()
    (folder / "runs.csv").write_text(text.replace("0.9", "0.8", 1))
    refused = cli(*SHORT, "-o", folder)
    assert refused.code == 2
    assert "runs.csv: was changed" in refused.err
    assert "to replace this comparison, add --fresh" in refused.err
    (folder / "runs.csv").write_text(text)
    (folder / "compare.json").write_text(
        (folder / "compare.json").read_text().replace('"epochs": 2.0', '"epochs": 3.0')
    )
    assert "compare.json: was changed" in cli(*SHORT, "-o", folder).err


def test_a_comparison_that_was_begun_is_not_gone_on_with_as_another(zygote, tmp_path):
    folder = tmp_path / "one"
    words = [*SHORT, "--device", "cpu", "-o", str(folder)]
    assert zygote.run(words, {"signal_at": [[STEP, 100, int(signal.SIGTERM), 1]]}).status == 128 + signal.SIGTERM
    before = {path: path.read_bytes() for path in folder.rglob("*.*")}
    assert any(path.suffix == ".pt" for path in before)
    refused = zygote.run([*words, "--seeds", "3"])
    assert refused.status == 2
    assert "was started with another config, or other policies, seeds, epochs or bounds" in refused.err
    assert "use --fresh to start over, or -o for another folder" in refused.err
    assert {path: path.read_bytes() for path in folder.rglob("*.*")} == before
    done = zygote.run([*words, "--seeds", "3", "--fresh"])
    assert done.status == 0, done.err
    assert len(COMPARISON.read(folder).seeds) == 3


@pytest.mark.short(0)
def test_a_comparison_stopped_anywhere_ends_in_the_bytes_of_one_that_was_not(zygote, tmp_path):
    # the range test takes some 350 steps, each of the four trainings 88
    words = [
        "compare",
        "digits",
        *SWEEP,
        "sweep.seeds=2",
        *SHORT[2:6],
        *SHORT[8:],
        "--device",
        "cpu",
        "--deterministic",
    ]

    def run(name, inject=None, more=()):
        return zygote.run([*words, *more, "-o", str(tmp_path / name / "digits-compare")], inject)

    whole = run("whole")
    assert whole.status == 0, whole.err
    expected = contents(tmp_path / "whole" / "digits-compare" / "range_test")
    plain = {path.name: path.read_bytes() for path in (tmp_path / "whole" / "digits-compare").glob("*.*")}
    assert set(plain) == FILES
    assert b'"seconds": [\n        null' in plain["compare.json"]

    def check(place):
        folder = tmp_path / place[0].replace(":", ".") / str(place[1]) / "digits-compare"
        name = str(folder.parent.relative_to(tmp_path))
        stopped = run(name, {"signal_at": [[*place, int(signal.SIGTERM), 1]]})
        assert stopped.status == 128 + signal.SIGTERM, stopped.err
        assert "Traceback" not in stopped.err
        done = run(name)
        assert done.status == 0, done.err
        assert contents(folder / "range_test") == expected
        assert {path.name: path.read_bytes() for path in folder.glob("*.*")} == plain
        assert {path.name for path in folder.iterdir()} == FILES | {"range_test"}

    at_once(
        check,
        [
            (STEP, 50),
            (STEP, 140),
            (STEP, 300),
            ("clrtool.engine.rangetest.compare:_Runs._evaluate", 25),
            ("clrtool.report.records.result_files:ResultFiles.write", 1),
            ("clrtool.report.plots.comparison:plot_comparison", 1),
        ],
    )
