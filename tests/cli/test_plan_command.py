"""``clrtool plan`` and ``clrtool plot`` with other systems' schedules, stages, code, the linter, and long plans."""

import csv
import io
import json
import subprocess
import sys

import numpy as np
import pytest

from clrtool.core.planning.make import make_plan
from clrtool.core.sources import schedule_from
from clrtool.report.programs.formats import FORMATS, write_plan
from clrtool.report.records.plan_file import read_plan
from tests.core.systems import group_rates

NUMBERS = ["--base-lr", "1e-3", "--max-lr", "1e-2", "--iterations-per-epoch", "47"]
ONE_CYCLE = ["--from", "torch:OneCycleLR", "max_lr=0.1", "total_steps=30"]
ONE_TRIANGLE = {"policy": "triangular", "cycles": 1, "stepsize_epochs": 3}
TRAINING = ["--iterations", "1410", "--iterations-per-epoch", "47"]


@pytest.mark.parametrize("form", sorted(FORMATS))
def test_every_format_is_printed_and_is_that_of_the_plan(cli, form):
    # composer has a triangle from 0 alone
    wishes = {"policy": "linear", "epochs": 6} if form == "composer" else ONE_TRIANGLE
    words = [f"--{name.replace('_', '-')}={value}" for name, value in wishes.items()]
    printed = cli("plan", *NUMBERS, *words, "--format", form)
    assert printed.code == 0, printed.err
    plan = make_plan(1e-3, 1e-2, 47, **wishes)
    assert printed.out == "".join(write_plan(plan, form))


def test_a_schedule_of_another_system_becomes_a_csv_of_its_learning_rates_and_momenta(cli):
    printed = cli("plan", *ONE_CYCLE, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(printed.out)))
    schedule = schedule_from("torch:OneCycleLR", {"max_lr": 0.1, "total_steps": 30})
    assert [float(row["lr"]) for row in rows] == schedule(range(30)).tolist()
    assert [float(row["momentum"]) for row in rows] == schedule.momentum(range(30)).tolist()


def test_parameters_are_typed_by_yaml_and_a_lambda_stays_a_text(cli, tmp_path):
    words = [
        "base_lr=1e-3",
        "max_lr=0.006",
        "step_size_up=20",
        "cycle_momentum=false",
        "scale_fn=lambda x: 1/(2.**(x-1))",
    ]
    assert cli("plan", "--from", "CyclicLR", *words, "-o", tmp_path / "a.yaml").code == 0
    plan = read_plan(tmp_path / "a.yaml")
    np.testing.assert_allclose(plan.lr([20, 60]), [0.006, 0.0035])
    assert plan.momentum([0]) is None
    cli("plan", "--from", "torch:MultiStepLR", "milestones=[10, 20]", "base_lr=0.5", "-o", tmp_path / "b.json")
    assert read_plan(tmp_path / "b.json").params["milestones"] == [10, 20]


def test_lists_are_a_schedule_for_each_parameter_group_shown_written_and_chosen_from(cli, tmp_path):
    tops, momenta = [0.1, 0.02, 0.5], [0.8, 0.85, 0.9]
    words = ["--from", "torch:OneCycleLR", f"max_lr={tops}", f"base_momentum={momenta}", "total_steps=30"]
    theirs = group_rates("OneCycleLR", {"max_lr": tops, "base_momentum": momenta, "total_steps": 30}, [1.0] * 3, 30)
    rows = list(csv.reader(io.StringIO(cli("plan", *words, "--format", "csv").out)))
    assert rows[0] == ["iteration", "lr_1", "lr_2", "lr_3", "momentum_1", "momentum_2", "momentum_3"]
    np.testing.assert_allclose(np.array(rows[1:], float)[:, 1:], np.hstack(theirs), rtol=1e-12)
    shown = " ".join(cli("plan", *words).out.split())
    assert "3 parameter groups" in shown
    assert "group 2 max_lr 0.02" in shown
    assert cli("plan", *words, "-o", tmp_path / "all.json").code == 0
    for number in (1, 2, 3):
        cli("plan", tmp_path / "all.json", f"group={number}", "-o", tmp_path / "a.json")
        assert read_plan(tmp_path / "a.json") == read_plan(tmp_path / "all.json").groups[number - 1]
        assert f"max_lr={tops[number - 1]}" in cli("plan", tmp_path / "a.json", "--format", "torch").out
    assert "has 3 parameter groups, counted from 1" in cli("plan", *words, "group=4").err
    assert "max_lr has 2, base_momentum has 3" in cli("plan", *words[:2], "max_lr=[1, 2]", *words[3:]).err


def test_parameter_groups_are_drawn_in_one_picture_and_as_text(cli, tmp_path):
    words = ["--from", "torch:StepLR", "base_lr=[0.1, 0.01]", "step_size=8"]
    assert cli("plan", *words, "-o", tmp_path / "a.svg").code == 0
    told = (tmp_path / "a.alt.txt").read_text()
    assert "torch:StepLR, group 1, torch.optim.lr_scheduler.StepLR between 0.01 and 0.1" in told
    assert "torch:StepLR, group 2, torch.optim.lr_scheduler.StepLR between 0.001 and 0.01" in told
    assert "b = torch:StepLR, group 2, ends at 0.001" in cli("plot", *words, "--term").out


@pytest.mark.parametrize("form", sorted(set(FORMATS) - {"json", "csv", "yaml", "torch"}))
def test_a_format_that_is_of_one_parameter_group_says_so_by_its_name(cli, form):
    refused = cli("plan", "--from", "torch:StepLR", "base_lr=[0.1, 0.01]", "step_size=8", "--format", form)
    assert refused.code == 2
    assert f"what --format {form} prints is for one parameter group" in refused.err
    assert "group=1 to group=2" in refused.err


def test_the_linter_names_the_parameter_group_and_tells_once_what_all_have(cli):
    words = ["--from", "torch:CyclicLR", "base_lr=[0.1, 0.1]", "max_lr=[0.5, 0.05]", "step_size_up=94"]
    more = ["cycle_momentum=false", "--iterations", "1880", "--iterations-per-epoch", "47"]
    found = cli("plan", *words, *more, "--lint", "--max-lr", "0.4", "--format", "json")
    assert {(each["rule"], each["place"]) for each in json.loads(found.out)["findings"]} == {
        ("outside the bounds", "group 1")
    }
    found = cli("plan", *words, *more, "--lint", "--max-lr", "0.01", "--optimizer", "Adagrad", "--format", "json")
    assert [(each["rule"], each["place"]) for each in json.loads(found.out)["findings"]] == [
        ("outside the bounds", "group 1"),
        ("outside the bounds", "group 2"),
    ]
    found = cli("plan", *words, *more[1:], "--lint", "--optimizer", "Adagrad", "--format", "json")
    assert [(each["rule"], each["place"]) for each in json.loads(found.out)["findings"]] == [("no momentum", "")]


def test_the_stages_of_table_2_of_the_paper(cli, tmp_path):
    words = ["0.001-0.005/2000:16,000", "0.0001-0.0005/1000:22000", "1e-5-5e-5/500:25000"]
    stages = [word for text in words for word in ("--stage", text)]
    shown = cli("plan", *stages, "--iterations-per-epoch", "500")
    assert "25,000 iterations" in shown.out
    assert "The stages have 4, 3, 3 whole cycles." in shown.out
    cli("plan", *stages, "-o", tmp_path / "a.json", "--momentum", "0.8,0.9")
    plan = read_plan(tmp_path / "a.json")
    np.testing.assert_allclose(plan.lr([2000, 17_000, 22_500]), [0.005, 0.0005, 5e-5])
    assert float(plan.momentum(2000)) == 0.8


def test_policy_parameters_momentum_and_warm_up_reach_the_plan(cli):
    words = [
        "--policy",
        "exp_range",
        "--momentum",
        "0.85,0.95",
        "--warmup-epochs",
        "2",
        "gamma=0.999",
        "decay_base=true",
    ]
    plan = json.loads(cli("plan", *NUMBERS, *words, "--format", "json").out)["plan"]
    assert plan["params"] == {"gamma": 0.999, "momentum": [0.85, 0.95], "decay_base": True}
    assert plan["warmup"] == 94


def test_a_plan_is_planned_anew_from_what_was_asked_before_not_from_what_was_rounded(cli, tmp_path):
    cli("plan", *NUMBERS, "--epochs", "24.5", "--momentum", "0.8,0.9", "-o", tmp_path / "a.json")
    again = json.loads(cli("plan", tmp_path / "a.json", "--policy", "triangular2", "--format", "json").out)
    assert again == json.loads((tmp_path / "a.json").read_text())
    longer = json.loads(cli("plan", tmp_path / "a.json", "--epochs", "49", "--format", "json").out)["plan"]
    assert (longer["params"], longer["asked"]) == ({"momentum": [0.8, 0.9]}, {"epochs": 49.0, "momentum": [0.8, 0.9]})
    other = json.loads(cli("plan", tmp_path / "a.json", "--policy", "cosine", "--format", "json").out)["plan"]
    assert (other["asked"], other["params"]) == ({"epochs": 24.5}, {})


def test_a_plan_that_is_planned_anew_keeps_every_wish_that_is_not_replaced(cli, tmp_path):
    wishes = ["--warmup-epochs", "2", "--cycles", "2", "--stepsize-epochs", "3", "stepsize_down=5"]
    cli("plan", *NUMBERS, *wishes, "-o", tmp_path / "a.json")
    before = read_plan(tmp_path / "a.json")
    cli("plan", tmp_path / "a.json", "--momentum", "0.8,0.9", "-o", tmp_path / "b.json")
    after = read_plan(tmp_path / "b.json")
    for name in ("warmup", "num_cycles", "stepsize", "iterations"):
        assert getattr(after, name) == getattr(before, name)
    assert after.params == before.params | {"momentum": [0.8, 0.9]}
    cli("plan", tmp_path / "b.json", "--policy", "triangular", "-o", tmp_path / "c.json")
    assert read_plan(tmp_path / "c.json").asked == after.asked


def test_the_linter_names_cause_and_fix_and_exits_1(cli):
    found = cli("plan", *ONE_CYCLE, *TRAINING, "--lint")
    assert found.code == 1
    for text in ("counted in epochs", "fix: a length of 1,410 iterations", "momentum turned on", "after the end"):
        assert text in found.out
    as_json = cli("plan", *ONE_CYCLE, *TRAINING, "--lint", "--format", "json", "--optimizer", "SGD:0.9")
    assert [finding["rule"] for finding in json.loads(as_json.out)["findings"]] == [
        "counted in epochs",
        "after the end",
    ]


@pytest.mark.parametrize("policy", ["triangular2", "one_cycle", "one_cycle_smith", "decay", "warmup_stable_decay"])
def test_the_linter_has_nothing_against_what_the_command_itself_plans(cli, policy):
    assert cli("plan", *NUMBERS, "--epochs", "36", "--warmup-epochs", "4", "--policy", policy, "--lint").code == 0


def test_a_note_is_shown_and_is_no_fault(cli):
    documented = ["--from", "torch:OneCycleLR", "max_lr=0.1", "epochs=30", "steps_per_epoch=47", *TRAINING]
    shown = cli("plan", *documented, "--optimizer", "SGD:0.9", "--lint")
    assert shown.code == 0
    assert "note: after the end" in shown.out


def test_the_linter_is_content_with_a_plan_of_clrtool_and_exits_0(cli, tmp_path):
    cli("plan", *NUMBERS, "--epochs", "32", "-o", tmp_path / "a.json")
    checked = cli("plan", tmp_path / "a.json", "--lint")
    assert (checked.code, checked.out) == (0, "")
    assert "nothing found" in checked.err


def test_the_linter_reads_learning_rates_from_a_csv(cli, tmp_path):
    # the formula of a well-known blog: (initial + max) / step_size * value
    values = [0.001 + 0.007 / 20 * (t if t <= 20 else 20 - 2 * (t - 20)) for t in range(60)]
    for name, text in (
        ("header.csv", "step,lr\n" + "".join(f"{t},{lr}\n" for t, lr in enumerate(values))),
        ("bare.csv", "".join(f"{lr}\n" for lr in values)),
    ):
        (tmp_path / name).write_text(text)
        found = cli("plan", "--lint", "--csv", tmp_path / name, "--base-lr", "0.001", "--max-lr", "0.006")
        assert found.code == 1
        assert "negative" in found.out
        assert "outside the bounds" in found.out


def test_a_csv_that_clrtool_wrote_has_no_finding(cli, tmp_path):
    cli("plan", *NUMBERS, "--epochs", "8", "-o", tmp_path / "a.csv")
    assert cli("plan", "--lint", "--csv", tmp_path / "a.csv", "--base-lr", "1e-3", "--max-lr", "1e-2").code == 0


@pytest.mark.parametrize(
    ("words", "written"),
    [
        (["--from", "torch:CyclicLR", "base_lr=0.2", "max_lr=0.1", "--iterations", "4", "step_size_up=2"], ["0.2", "0.15", "0.1", "0.15"]),
        (["--from", "torch:ExponentialLR", "gamma=2", "base_lr=0.25", "--iterations", "3"], ["0.25", "0.5", "1.0"]),
        (["--from", "torch:CyclicLR", "base_lr=-1", "max_lr=1", "--iterations", "3", "step_size_up=2"], ["-1.0", "0.0", "1.0"]),
    ],
)  # fmt: skip
def test_what_begins_at_the_top_rises_or_crosses_0_is_a_schedule_too(cli, words, written):
    result = cli("plan", *words, "--format", "csv")
    assert result.code == 0, result.err
    assert [float(row.split(",")[1]) for row in result.out.split()[1:]] == pytest.approx([float(lr) for lr in written])


@pytest.mark.parametrize(
    ("words", "written"),
    [
        (["torch:ConstantLR", "factor=0.25"], ["base_lr: 0.00025", "gamma: 4", "stepvalue: 5"]),
        (["keras:PiecewiseConstantDecay", "boundaries=[5]", "values=[1, 0]"], ["base_lr: 1", "gamma: 0", "stepvalue: 6"]),
    ],
)  # fmt: skip
def test_caffes_multistep_may_rise_and_may_drop_to_0(cli, words, written):
    result = cli("plan", "--from", *words, "--format", "caffe")
    assert result.code == 0, result.err
    assert all(line in result.out for line in written)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--from", "torch:CyclicRL"], "no schedule is known as 'torch:CyclicRL'; did you mean 'torch:CyclicLR'"),
        (["--from", "torch:CyclicLR", "base_lr=0.1"], "torch.optim.lr_scheduler.CyclicLR needs max_lr; give each as NAME=VALUE"),
        (["--from", "torch:CyclicLR", "base_lr=0.1", "max_lr=0.2", "step_size_up=0"], "stepsize must be a whole number of at least 1, got 0"),
        (["--from", "torch:CyclicLR", "base_lr=nan", "max_lr=0.1"], "base_lr = nan is not a finite number"),
        (["--from", "torch:CyclicLR", "base_lr=high", "max_lr=0.1"], "base_lr must be a finite number, got 'high'"),
        (["--from", "keras:PiecewiseConstantDecay", "boundaries=[20, 10]", "values=[1, 0.5, 0.1]"], "boundaries must be finite and rise from each to the next, got [20, 10]"),
        (["--from", "torch:MultiStepLR", "milestones=7"], "torch.optim.lr_scheduler.MultiStepLR: "),
        (["--from", "torch:CyclicLR", "base_lr=0.1", "max_lr=0.2", "scale_fn=open('x')"], "open('x') is not allowed"),
        ([*ONE_CYCLE, "--epochs", "3"], "--epochs has no meaning with --from torch:OneCycleLR"),
        ([*ONE_CYCLE, "--iterations", "0"], "iterations must be a whole number of at least 1, got 0"),
        ([*ONE_CYCLE, "--iterations", "99999999999"], "iterations must be at most 1e+09"),
        ([*NUMBERS, "--policy", "cyclical", "scale=2-x", "--format", "csv"], "scale must stay in [0, 1]"),
        (["--stage", "0.1-0.5/10:20", "--iterations-per-epoch", "0"], "iterations_per_epoch must be a whole number of at least 1, got 0"),
        ([*ONE_CYCLE, "--iterations-per-epoch", "0", "--lint"], "iterations_per_epoch must be a whole number of at least 1, got 0"),
        (["--from", "torch:OneCycleLR", "max_lr=0.1", "total_steps=abc", "--lint"], "total_steps must be a whole number of at least 2"),
        ([*NUMBERS, "policy=7"], "policy=...: give it as --policy"),
        (["--stage", "0.1-0.5/10:20", "stages=7"], "stages=...: give it as --stage"),
        (["--stage", "0.1-0.5/10:" + 400 * "1"], "must look like 0.001-0.005/2000:16000"),
        (["--from", "torch:CyclicLR", "base_lr=0.1", "max_lr=" + 400 * "1"], "max_lr"),
        (["--from", "torch:StepLR", "step_size=3", "step_size=4"], "step_size=... is given twice"),
        ([*NUMBERS, "--lint", "-o", "out.json"], "--lint prints what it finds: leave out -o"),
        ([*NUMBERS, "--optimizer", "SGD"], "--csv, --optimizer and --stepped need --lint"),
        ([*NUMBERS, "--lint", "--optimizer", "Foo"], "--optimizer 'Foo' is none of torch.optim"),
        ([*NUMBERS, "--policy", "cosine", "--cycles", "3"], "cycles has no meaning with the policy cosine"),
        ([*ONE_CYCLE, "--stage", "0.1-0.5/10:20"], "a plan comes from --stage or from --from torch:OneCycleLR"),
        (["--lint", "--csv", "a.csv", *ONE_CYCLE], "--csv holds the schedule that is checked"),
        (["--lint", "--csv", "a.csv", "--base-lr", "0.3", "--max-lr", "0.1"], "--max-lr 0.1 must exceed --base-lr 0.3"),
        (["--from", "torch:OneCycleLR", "max_lr=1", "total_steps=10", "pct_start=0.1"], "a rise of no length"),
        ([*NUMBERS, "--policy", "cosin"], "policy 'cosin' is unknown; did you mean 'cosine'? Valid: "),
        ([*NUMBERS, "--policy", "exp_range", "gamma=2"], "must be above 0 and at most 1, got 2"),
        ([*NUMBERS, "gama=2"], "triangular2 has no parameter 'gama'"),
        ([*NUMBERS, "--momentum", "0.9"], "--momentum '0.9': must be two numbers, LOW,HIGH, such as 0.85,0.95"),
        ([*NUMBERS, "--momentum", "0.9,1.9"], "momentum must be LOW, HIGH with 0 <= LOW <= HIGH < 1, got 0.9, 1.9"),
        ([*NUMBERS, "--cycles", "0"], "cycles must be a whole number of at least 1, got 0"),
        ([*NUMBERS, "--iterations", "10"], "--iterations is for --from; the length of a plan is --epochs"),
        ([*NUMBERS, "--csv", "a.csv"], "--csv, --optimizer and --stepped need --lint"),
        ([*NUMBERS, "--lint", "--format", "torch"], "--lint prints a table or json, not torch"),
        ([*NUMBERS, "--lint", "--stepped", "batch"], "--stepped 'batch': must be iteration or epoch"),
        ([*NUMBERS, "--lint", "--optimizer", "SGD:high"], "--optimizer 'SGD:high': must look like SGD or SGD:0.9"),
        (["--lint", "--csv", "nowhere.csv"], "nowhere.csv: cannot be read"),
        ([*NUMBERS, "--format", "deepspeed"], "DeepSpeed has no schedule for triangular2"),
        ([*NUMBERS, "--policy", "cosine", "--format", "caffe"], "Caffe has no lr_policy for cosine"),
        ([*NUMBERS, "-o", "a.py"], "the ending and --format must agree"),
        (["--stage", "0.1"], "--stage '0.1': must look like 0.001-0.005/2000:16000, LOW-HIGH/STEPSIZE:UNTIL"),
        (["--stage", "0.1-0.5/10:30"], "ends at iteration 30, not at the end of a cycle; 40 would be one"),
        (["--stage", "0.1-0.5/10:40", "--epochs", "3"], "--epochs has no meaning with --stage"),
        (["a.json", "b.json"], "plan takes one source, not a.json, b.json; clrtool plot overlays several"),
    ],
)  # fmt: skip
def test_a_bad_input_gives_one_clear_message_and_exit_code_2(cli, words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = cli("plan", *words)
    assert result.code == 2, result.out
    assert message in " ".join(result.err.split())
    assert "Traceback" not in result.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["lr\n0.1\nhigh\n", "lr\n0.1\n\n,\n"])
def test_a_csv_with_a_bad_row_is_refused_at_its_line(cli, tmp_path, text):
    (tmp_path / "a.csv").write_text(text)
    result = cli("plan", "--lint", "--csv", tmp_path / "a.csv")
    assert result.code == 2
    assert f"a.csv:{text.count(chr(10)) if ',' in text else 3}: no learning rate" in result.err


@pytest.mark.short(0)
def test_a_long_csv_takes_the_memory_of_a_short_one(tmp_path):
    def peak(epochs):
        words = [
            "plan",
            "--base-lr",
            "1e-3",
            "--max-lr",
            "1e-2",
            "--iterations-per-epoch",
            "10000",
            "--epochs",
            str(epochs),
        ]
        code = "import resource, sys; from clrtool.cli.main import main\ntry: main(sys.argv[1:])\nfinally: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)"
        run = subprocess.run(
            [sys.executable, "-c", code, *words, "-o", str(tmp_path / "a.csv")],
            capture_output=True,
            text=True,
            check=True,
        )
        return int(run.stderr.splitlines()[-1]) * 1024  # Linux counts in KiB

    short, long = peak(20), peak(200)
    assert (tmp_path / "a.csv").read_bytes().count(b"\n") == 2_000_002
    assert long - short < 16e6  # bytes; the rows themselves are 60 MB


def test_plot_overlays_plans_and_draws_another_systems_schedule(cli, tmp_path):
    for policy in ("triangular2", "one_cycle"):
        cli("plan", *NUMBERS, "--policy", policy, "-o", tmp_path / f"{policy}.json")
    both = [tmp_path / "triangular2.json", tmp_path / "one_cycle.json"]
    assert cli("plot", "--from", *both, "-o", tmp_path / "a.svg").code == 0
    text = (tmp_path / "a.svg").read_text()
    assert cli("plot", *both, "-o", tmp_path / "b.svg").code == 0
    assert (tmp_path / "b.svg").read_text() == text
    drawn = cli("plot", "--from", "torch:OneCycleLR", "max_lr=0.1", "total_steps=100", "-o", tmp_path / "c.png")
    assert drawn.code == 0
    assert (tmp_path / "c.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere.json", "x=3"], "NAME=VALUE, --iterations and --iterations-per-epoch are for --from SYSTEM:NAME"),
        ([], "plot needs a run folder, a plan file, --from SYSTEM:NAME, or"),
        (["--from", "torch:OneCycleLR", "max_lr=0.1", "total_steps=100"], "this picture needs a name: -o FILE.png"),
        (["--from", "torch:Nothing", "-o", "a.png"], "no schedule is known as 'torch:Nothing'"),
        (["nowhere.json", "other.json", "-o", "a.png"], "nowhere.json: no such file"),
    ],
)
def test_plot_refuses_what_it_cannot_draw(cli, words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = cli("plot", *words)
    assert result.code == 2
    assert message in result.err
