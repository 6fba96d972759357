"""The run folder: files that come back as they were, are whole or absent, and are refused when damaged."""

import io
import json
import re
import resource
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from clrtool.config.file import load_config
from clrtool.core.planning.make import make_plan
from clrtool.core.reading.verdict import Advice
from clrtool.errors import ConfigError, MachineError
from clrtool.files import write_whole
from clrtool.report.records.plan_file import plan_to_json, read_plan
from clrtool.report.records.record_file import sealed
from clrtool.report.records.run import curve_log, find_run, open_run, read_run, to_json, write_run
from clrtool.report.text.tables import result_table
from tests.conftest import as_version_1


@pytest.fixture
def copy(digits_run, tmp_path):
    """A run that may be damaged."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for file in digits_run.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_a_run_folder_holds_the_files_that_the_design_names(digits_run):
    names = {file.name for file in digits_run.iterdir()}
    pictures = {"range_test.png", "range_test.alt.txt", "schedule.png", "schedule.alt.txt"}
    assert names == {"config.yaml", "curve.csv", "result.json", *pictures}


def test_result_json_has_every_key_of_the_design(digits_run):
    result = json.loads((digits_run / "result.json").read_text())
    assert set(result) == {
        "schema_version", "status", "bounds", "plan", "verification", "race", "sweep", "environment", "config_sha256",
        "data_sha256", "sources", "curve_sha256", "sha256"
    }  # fmt: skip
    assert set(result["bounds"]) >= {
        "base_lr", "max_lr", "base_lr_interval", "max_lr_interval", "base_reason", "max_reason", "verdict", "advice"
    }  # fmt: skip
    assert set(result["plan"]) >= {
        "policy", "base_lr", "max_lr", "stepsize", "stepsize_epochs", "iterations_per_epoch", "num_cycles", "iterations", "epochs"
    }  # fmt: skip
    assert set(result["sweep"]) >= {
        "start_lr", "end_lr", "spacing", "epochs", "seeds", "iterations", "train_seconds", "evaluation_seconds", "cost_epochs", "outcome"
    }  # fmt: skip


def test_result_json_has_every_key_of_the_design_for_a_race_too(digits_run, race_run):
    assert json.loads((digits_run / "result.json").read_text())["race"] is None
    race = json.loads((race_run / "result.json").read_text())["race"]
    assert set(race) == {"start", "budget", "seeds", "training", "constant", "first", "iterations", "probes"}
    for probe in race["probes"]:
        assert set(probe) == {"seed", "power", "lr", "iterations", "taken", "loss", "metric", "spread"}


def test_what_a_capture_took_is_a_line_of_its_own_and_part_of_the_time_and_is_left_out_where_there_was_none(copy):
    record = read_run(copy)
    assert "capture_seconds" not in json.loads(to_json(record))["sweep"]
    captured = replace(record, sweep=replace(record.sweep, capture_seconds=2.5))
    write_run(copy, captured)
    found = read_run(copy)
    assert found.sweep.capture_seconds == 2.5
    assert found.sweep.seconds == pytest.approx(record.sweep.seconds + 2.5)
    for shown, lines in ((found, 1), (record, 0)):
        console = Console(width=100, file=io.StringIO())
        console.print(result_table(shown, "title", verbose=True))
        assert console.file.getvalue().count("capture  ") == lines


def test_advice_in_the_words_of_an_earlier_version_is_read_as_that_of_today(copy):
    result = json.loads((copy / "result.json").read_text())
    former = {
        "One seed cannot show how far seeds agree: run with --seeds 3.": Advice.ONE_SEED,
        "The interval of max_lr spans more than a factor of 4: raise sweep.epochs or --seeds, or let --verify choose.":
            Advice.SEEDS_DISAGREE,
        "Any max_lr will do over more than a factor of 10; --verify trains to choose among them.": Advice.INSENSITIVE,
    }  # fmt: skip
    result["bounds"]["advice"] = [*former]
    (copy / "result.json").write_text(json.dumps(as_version_1(result)))
    assert read_run(copy).bounds.advice == tuple(former.values())


def test_the_curve_file_has_the_columns_of_the_design_and_a_row_for_each_evaluation(digits_run):
    header, *rows = (digits_run / "curve.csv").read_text().splitlines()
    assert header == "seed,iteration,epoch,lr,train_loss,heldout_loss,accuracy"
    assert [row.split(",")[0] for row in rows] == ["0"] * 11 + ["1"] * 11


@pytest.mark.parametrize("run", ["digits_run", "race_run"])
def test_a_run_comes_back_exactly(request, run, tmp_path):
    folder = request.getfixturevalue(run)
    record = read_run(folder)
    write_run(tmp_path, record)
    for name in ("curve.csv", "result.json"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
    assert to_json(record) == (folder / "result.json").read_text()


def test_the_saved_config_loads_to_the_hash_in_the_result(digits_run):
    assert load_config(digits_run / "config.yaml").sha256() == read_run(digits_run).config_sha256


def test_a_finished_run_is_given_back_and_another_config_is_refused(copy):
    config = load_config(copy / "config.yaml")
    before = {file.name: file.read_bytes() for file in copy.iterdir()}
    assert to_json(open_run(copy, config)) == (copy / "result.json").read_text()
    with pytest.raises(ConfigError, match="another folder with -o DIR, or replace the old run with --fresh"):
        open_run(copy, load_config(copy / "config.yaml", ["seed=9"]))
    assert {file.name: file.read_bytes() for file in copy.iterdir()} == before


@pytest.mark.parametrize("section", ["bounds", "sweep", "plan"])
def test_a_number_of_the_result_replaced_by_nonsense_is_refused(copy, section):
    good = as_version_1(json.loads((copy / "result.json").read_text()))
    free = {
        "engine",
        "seeds",
        "stopped_at",
        "outcome",
        "cost_epochs",
        "evaluation_share",
        "standard_error",
        "reasons",
        "advice",
        "asked",
    }
    for name, value in good[section].items():
        if name in free or "reason" in name:
            continue
        for nonsense in ("a", -1, [1], {"x": 1}):
            if value is None:
                continue
            (copy / "result.json").write_text(json.dumps(good | {section: good[section] | {name: nonsense}}))
            with pytest.raises(ConfigError, match=r"result\.json"):
                read_run(copy)


@pytest.mark.parametrize("nonsense", [["torch"], 3, None, "linux"])
@pytest.mark.parametrize("name", ["environment", "sources"])
def test_a_table_of_the_result_replaced_by_nonsense_is_refused(copy, name, nonsense):
    good = as_version_1(json.loads((copy / "result.json").read_text()))
    (copy / "result.json").write_text(json.dumps(good | {name: nonsense}))
    with pytest.raises(ConfigError, match=r"result\.json"):
        read_run(copy)


def test_rows_are_in_the_file_as_soon_as_they_are_measured(tmp_path, digits_run):
    curve = read_run(digits_run).sweep.curves[0]
    with curve_log(tmp_path, load_config(digits_run / "config.yaml")) as append:
        for number, point in enumerate(curve.points(), 1):
            append(curve.seed, point)
            assert len((tmp_path / "curve.csv").read_text().splitlines()) == number + 1
    whole = (digits_run / "curve.csv").read_text().splitlines()
    assert (tmp_path / "curve.csv").read_text().splitlines() == whole[: number + 1]


@given(st.integers(0, 2**32), st.integers(0, 255))
@settings(max_examples=60, deadline=None)
def test_a_result_with_one_byte_changed_is_read_or_refused_and_never_crashes(digits_run, tmp_path_factory, place, byte):
    folder = tmp_path_factory.mktemp("damaged")
    for name in ("result.json", "curve.csv"):
        data = bytearray((digits_run / name).read_bytes())
        data[place % len(data)] = byte
        (folder / name).write_bytes(data)
    try:
        read_run(folder)
    except ConfigError as error:
        assert str(folder) in str(error)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("result.json", "", "cannot be read"),
        ("result.json", "[]", "must hold one JSON object"),
        (
            "result.json",
            f'{{"schema_version": 2, "x": {"9" * 5000}}}',
            "cannot be read: it holds a whole number of more",
        ),
        ("result.json", "[" * 100_000 + "]" * 100_000, "cannot be read: it is nested too deeply"),
        ("result.json", '{"a":' * 100_000 + "1" + "}" * 100_000, "cannot be read: it is nested too deeply"),
        ("result.json", '{"schema_version": 99}', "written by a newer clrtool: schema_version is 99"),
        ("result.json", '{"schema_version": "2"}', "schema_version must be 1 or 2, it is '2'"),
        ("result.json", '{"schema_version": 1}', "has no 'sweep'"),
        ("curve.csv", "", "the columns must be seed,iteration"),
        (
            "curve.csv",
            "seed,iteration,epoch,lr,train_loss,heldout_loss,accuracy\n0,1,x,1,1,1,1\n",
            "curve.csv:2: not a row",
        ),
        (
            "curve.csv",
            "seed,iteration,epoch,lr,train_loss,heldout_loss,accuracy\n7,1,1,1,1,1,1\n",
            "curve.csv:2: not a row",
        ),
    ],
)
def test_a_damaged_run_is_refused_with_its_file(copy, name, text, message):
    result = json.loads((copy / "result.json").read_text())
    (copy / "result.json").write_text(json.dumps(as_version_1(result)))
    (copy / name).write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_run(copy)


def test_a_digit_that_was_changed_is_noticed_in_a_result_and_in_a_curve(copy):
    for name in ("result.json", "curve.csv"):
        before = (copy / name).read_text()
        digit = max(
            place for place, letter in enumerate(before) if letter == "7" and "sha256" not in before[place - 90 : place]
        )
        (copy / name).write_text(before[:digit] + "8" + before[digit + 1 :])
        with pytest.raises(ConfigError, match=f"{name}: was changed since clrtool wrote it"):
            read_run(copy)
        (copy / name).write_text(before)
    read_run(copy)


def test_white_space_and_the_ends_of_lines_do_not_count_as_changes(copy):
    result = json.loads((copy / "result.json").read_text())
    before = read_run(copy)
    (copy / "result.json").write_text(json.dumps(result))
    (copy / "curve.csv").write_bytes((copy / "curve.csv").read_bytes().replace(b"\n", b"\r\n"))
    assert to_json(read_run(copy)) == to_json(before)


def test_a_plan_file_comes_back_and_a_damaged_one_is_refused(tmp_path):
    plan = make_plan(1e-3, 1e-2, 47, epochs=20, policy="exp_range")
    file = tmp_path / "plan.json"
    file.write_text(plan_to_json(plan))
    assert read_plan(file) == plan
    good = json.loads(file.read_text())
    for change, message in (
        ({"stepsize": "9"}, "plan.stepsize"),
        ({"iterations": 7}, "a plan is whole cycles"),
        ({"max_lr": float("nan")}, "NaN is no number of JSON"),
        ({"policy": "none"}, "policy 'none' is unknown"),
    ):
        file.write_text(json.dumps(good | {"plan": good["plan"] | change}))
        with pytest.raises(ConfigError, match=message):
            read_plan(file)


def test_a_run_is_found_by_folder_file_config_or_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "digits").mkdir(parents=True)
    for source in ("digits", "configs/digits.yaml", "runs/digits"):
        assert find_run(source).resolve() == tmp_path / "runs" / "digits"
    assert find_run("a.json").name == "a.json"
    with pytest.raises(ConfigError, match="there is no runs/other"):
        find_run("other")


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path):
    target = tmp_path / "a.txt"
    write_whole(target, "old")
    # A limit on the size of files stands in for a full disk; the limit holds for the child alone.
    code = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000));"
        "from clrtool.files import write_whole; from pathlib import Path;"
        f"write_whole(Path({str(target)!r}), 'x' * 5000)"
    )
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "cannot write its 5,000 bytes: File too large" in child.stderr
    assert target.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 1000


def test_a_folder_that_cannot_be_is_a_machine_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(MachineError, match=r"Not a directory|File exists"):
        write_whole(tmp_path / "file" / "a.txt", "x")


def test_a_file_is_readable_by_others_as_any_other(tmp_path):
    write_whole(tmp_path / "a.txt", "x")
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o644


def test_nan_is_an_empty_cell_and_a_float_reads_back_to_itself(copy):
    rows = (copy / "curve.csv").read_text().splitlines()
    assert rows[1].split(",")[4] == ""
    record = read_run(copy)
    assert np.isnan(record.sweep.curves[0].train_loss[0])
    assert float(rows[5].split(",")[5]) == record.sweep.curves[0].heldout_loss[4]


def test_a_result_from_before_metrics_and_groups_were_recorded_is_read_as_one_of_accuracy(copy):
    values = json.loads((copy / "result.json").read_text())
    for later in ("metric", "groups", "engine", "warnings", "evaluation_share", "standard_error"):
        del values["sweep"][later]
    (copy / "result.json").write_text(json.dumps(as_version_1(values)))
    record = read_run(copy)
    assert record.sweep.metric.name == "accuracy"
    assert record.sweep.groups == record.sweep.warnings == ()


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("bounds", "max_reason"), {}),
        (("bounds", "verdict"), 3),
        (("bounds", "base_lr_interval"), ""),
        (("sweep", "epochs"), 10**400),
        (("sweep", "chance"), []),
        (("sweep", "metric", "label"), -1),
        (("sweep", "groups"), [{"lr_ratio": "2", "weight_decay": None, "tensors": 1, "parameters": 1}]),
        (("environment", "torch"), {"a": 1}),
        (("sources",), {"train": None}),
        (("race",), True),
    ],
)
def test_a_value_of_another_kind_is_damage_though_the_hash_is_right(copy, place, value):
    result = json.loads((copy / "result.json").read_text())
    *way, name = place
    part = result
    for each in way:
        part = part[each]
    part[name] = value
    del result["sha256"]
    (copy / "result.json").write_text(sealed(result))
    with pytest.raises(ConfigError, match=r"result\.json: is damaged or no result of clrtool: ") as caught:
        read_run(copy)
    assert not re.search("object|NoneType|must be|str'", str(caught.value)), "words of Python for its programmers"
