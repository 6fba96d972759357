"""Event files as TensorBoard itself reads them, held against the files of the run."""

import csv
import dataclasses
import hashlib
import html
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer
from tensorboard.plugins.hparams import metadata
from tensorboard.util.tensor_util import make_ndarray

from clrtool.config.file import load_config
from clrtool.core.reading.metric import Metric
from clrtool.errors import ConfigError, MachineError
from clrtool.report.pages.tensorboard import write_events
from clrtool.report.records.comparison_file import COMPARISON
from clrtool.report.records.record_file import sha256_of
from clrtool.report.records.run import read_run, write_run
from clrtool.report.text.grid import spoken
from clrtool.report.text.tables import result_table


@pytest.fixture(scope="module")
def written(digits_run, tmp_path_factory):
    """The folder of the digits run in a log folder; not to be changed."""
    return write_events(digits_run, tmp_path_factory.mktemp("logs"))


@pytest.fixture
def copy(digits_run, tmp_path):
    """A run that may be changed, made under any name."""

    def make(name):
        return shutil.copytree(digits_run, tmp_path / "made" / name)

    return make


@pytest.fixture
def undrawn(monkeypatch):
    """No pictures, which take longer than all the rest."""
    monkeypatch.setattr("clrtool.report.pages.tensorboard._pictures", lambda record, name: [])


def change(run, **values):
    """Change a result as if clrtool had written it."""
    values = json.loads((run / "result.json").read_text()) | values
    (run / "result.json").write_text(json.dumps(values | {"sha256": sha256_of(values)}))


def lose(run, beginning):
    """Empty the losses and the metric in the rows that begin so."""
    rows = (run / "curve.csv").read_text().splitlines()
    left = "\n".join(",".join([*row.split(",")[:4], "", "", ""]) if row.startswith(beginning) else row for row in rows)
    (run / "curve.csv").write_text(left + "\n")
    change(run, curve_sha256=hashlib.sha256(left.encode()).hexdigest())


def read(folder):
    return EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0, "images": 0}).Reload()


def scalars(events):
    """(tag, step) -> value."""
    found = [(tag, each.step, each.value) for tag in events.Tags()["scalars"] for each in events.Scalars(tag)]
    assert len(found) == len({(tag, step) for tag, step, _ in found}), "a point is there twice"
    return {(tag, step): value for tag, step, value in found}


def hparams_of(folder):
    content = read(folder).SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    info = metadata.parse_session_start_info_plugin_data(content)
    assert info.start_time_secs == 0
    return {name: getattr(value, value.WhichOneof("kind")) for name, value in info.hparams.items()}, info.group_name


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def measured(run):
    """The cells of curve.csv that hold a number."""
    rows = list(csv.DictReader((run / "curve.csv").read_text().splitlines()))
    columns = [name for name in rows[0] if name not in ("seed", "iteration", "epoch")]
    return {
        (row["seed"], f"sweep/{column}", int(row["iteration"])): float(row[column])
        for row in rows for column in columns if row[column]
    }  # fmt: skip


def test_the_scalars_of_each_seed_are_the_cells_of_the_curve_file(digits_run, written):
    found = {
        (seed, tag, step): value
        for seed in ("0", "1")
        for (tag, step), value in scalars(read(written / f"seed {seed}")).items()
    }
    expected = measured(digits_run)
    assert found.keys() == expected.keys()
    assert {tag for _, tag, _ in found} == {"sweep/accuracy", "sweep/heldout_loss", "sweep/train_loss", "sweep/lr"}
    np.testing.assert_allclose([found[key] for key in expected], list(expected.values()), rtol=1e-7)


def test_the_planned_rate_follows_every_cycle_of_the_result(digits_run, written):
    plan = json.loads((digits_run / "result.json").read_text())["plan"]
    planned = {step: value for (tag, step), value in scalars(read(written)).items() if tag == "plan/lr"}
    steps = sorted(planned)
    assert (steps[0], steps[-1]) == (0, plan["iterations"])
    assert 200 < len(steps) < 1000
    assert set(range(0, plan["iterations"] + 1, plan["stepsize"])) <= set(steps)
    for cycle in range(plan["num_cycles"]):  # triangular2 by the formula of the paper
        start, half = 2 * cycle * plan["stepsize"], plan["stepsize"]
        peak = plan["base_lr"] + (plan["max_lr"] - plan["base_lr"]) / 2**cycle
        for step in (each for each in steps if start <= each <= start + 2 * half):
            expected = np.interp(
                step, [start, start + half, start + 2 * half], [plan["base_lr"], peak, plan["base_lr"]]
            )
            assert planned[step] == pytest.approx(expected, rel=1e-6)


@pytest.mark.drawn
def test_the_pictures_are_those_that_plot_draws_into_the_run_folder(cli, copy, written):
    run, events = copy("digits"), read(written)
    cli("plot", run)
    assert events.Tags()["images"] == ["range_test", "schedule"]
    for tag in events.Tags()["images"]:
        (image,) = events.Images(tag)
        assert image.encoded_image_string == (run / f"{tag}.png").read_bytes()
        with Image.open(run / f"{tag}.png") as picture:
            assert (image.width, image.height) == picture.size


def test_the_hyperparameters_are_those_of_the_result_and_the_config(digits_run, written):
    found, group = hparams_of(written / "result")
    result, config = json.loads((digits_run / "result.json").read_text()), load_config(digits_run / "config.yaml")
    plan = {name: found.pop(name) for name in set(found) & set(result["plan"])}
    assert plan == {name: result["plan"][name] for name in plan}
    assert len(plan) == 10
    assert found == {
        "verdict": result["bounds"]["verdict"], "metric": "accuracy", "seeds": 2, "model": config.model.name,
        "batch_size": config.data.batch_size, "data": "digits", "optimizer": "SGD"
    }  # fmt: skip
    assert group == "digits"


def test_the_metrics_are_means_over_the_seeds_of_the_best_that_each_measured(digits_run, written):
    cells = measured(digits_run)
    best = {name: [choose(value for (seed, tag, _), value in cells.items() if (seed, tag) == (each, f"sweep/{name}"))
                   for each in ("0", "1")] for name, choose in (("accuracy", max), ("heldout_loss", min))}  # fmt: skip
    expected = {(f"best/{name}", 0): np.mean(values) for name, values in best.items()}
    assert scalars(read(written / "result")) == pytest.approx(expected, rel=1e-6)


@pytest.mark.filterwarnings("ignore:html5lib's sanitizer")  # TensorBoard's own
def test_the_text_says_what_the_terminal_does_whatever_is_in_it(copy, undrawn):
    from tensorboard.plugin_util import markdown_to_safe_html

    run = copy("digits")
    sweep = json.loads((run / "result.json").read_text())["sweep"]
    hostile = "<script>alert(1)</script> 1. *a* _b_ [c](javascript:d) `e` | # \\ & &amp; \x1b[2J"
    change(run, sweep=sweep | {"warnings": [hostile]})
    (event,) = read(write_events(run, run.parent / "log")).Tensors("result")
    shown = markdown_to_safe_html(make_ndarray(event.tensor_proto).item())
    assert "<script" not in shown
    assert "href" not in shown
    paragraphs = re.findall(r"<p>(.*?)</p>", shown, re.DOTALL)
    said = [html.unescape(re.sub(r"</?\w+>", "", each)) for each in paragraphs]
    assert said == spoken(result_table(read_run(run), "digits", verbose=True)).splitlines()
    assert any("max_lr" in each for each in said)


def test_a_second_export_replaces_the_first_and_gives_the_same_bytes(digits_run, tmp_path):
    folder = write_events(digits_run, tmp_path)
    first, points = files(tmp_path), scalars(read(folder / "seed 0"))
    orphan = folder / f".{next(folder.glob('events*')).name}.abcdefgh.clrtool.tmp"
    orphan.write_bytes(b"of a writer that was killed")
    assert write_events(digits_run, tmp_path) == folder
    assert files(tmp_path) == first
    assert scalars(read(folder / "seed 0")) == points
    assert len(list(folder.rglob("*tfevents*"))) == 4


def test_the_files_name_no_host_no_user_and_no_folder(digits_run, tmp_path, monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "a-host-of-ours")
    for name in ("HOSTNAME", "USER", "LOGNAME"):
        monkeypatch.setenv(name, "a-user-of-ours")
    for path, content in files(write_events(digits_run, tmp_path)).items():
        for secret in ("a-host-of-ours", "a-user-of-ours", str(digits_run.parent), str(tmp_path)):
            assert secret.encode() not in bytes(path) + content


@pytest.mark.parametrize("place", ["digits", "digits/seed 0", "digits/result"])
@pytest.mark.parametrize("name", ["events.out.tfevents.1700000000.host.1.0", "notes.txt", ".hidden"])
def test_a_folder_with_a_file_of_somebody_else_is_left_alone(digits_run, tmp_path, place, name):
    (tmp_path / place).mkdir(parents=True)
    (tmp_path / place / name).write_text("mine")
    before = files(tmp_path)
    with pytest.raises(
        ConfigError, match=r"holds '.*', which is not of this run: give another folder to --tensorboard"
    ):
        write_events(digits_run, tmp_path)
    assert files(tmp_path) == before


def test_another_run_of_the_same_name_does_not_replace_the_first(digits_run, copy, undrawn, tmp_path):
    write_events(digits_run, tmp_path / "log")
    before = files(tmp_path / "log")
    other = copy("digits")
    change(other, config_sha256="0" * 64)
    with pytest.raises(ConfigError, match="not of this run"):
        write_events(other, tmp_path / "log")
    assert files(tmp_path / "log") == before


def test_a_run_folder_is_no_place_for_its_own_events(digits_run, cli):
    before = files(digits_run)
    refused = cli("plot", digits_run, "--tensorboard", digits_run.parent)
    assert refused.code == 2
    assert "give another folder to --tensorboard" in refused.err
    assert files(digits_run) == before


@pytest.mark.short(1)
@pytest.mark.parametrize("place", ["log", "log/digits", "log/digits/seed 1"])
def test_a_file_where_a_folder_has_to_be_is_a_fault_of_the_machine(digits_run, tmp_path, place):
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / place).write_text("mine")
    with pytest.raises(MachineError, match="cannot be written"):
        write_events(digits_run, tmp_path / "log")
    assert (tmp_path / place).read_text() == "mine"


@pytest.mark.parametrize(
    "name",
    ["a b", "<b>x", "[x]*?", "-o", "=a=1", "ü漢😀", "a\x1b[2Jb\nc", "\u202edrow", "a\\b", "%2e%2e", "a" * 200],
)
def test_a_run_of_any_name_is_found_by_tensorboard(copy, undrawn, tmp_path, name):
    folder = write_events(copy(name), tmp_path / "log")
    assert folder.parent == tmp_path / "log"
    assert folder.name.isprintable()
    found = EventMultiplexer().AddRunsFromDirectory(str(tmp_path / "log")).Reload().Runs()
    assert set(found) == {folder.name, *(f"{folder.name}/{part}" for part in ("result", "seed 0", "seed 1"))}


def test_a_name_that_is_no_text_is_written_out(copy, tmp_path):
    folder = write_events(copy(os.fsdecode(b"a\xffb")), tmp_path / "log")
    assert folder.name == r"a\udcffb"
    assert hparams_of(folder / "result")[1] == folder.name


def test_what_was_not_measured_has_no_point_and_a_run_without_a_plan_none_of_it(copy, tmp_path):
    run = copy("lost")
    lose(run, "1,")
    (run / "config.yaml").unlink()
    bounds = json.loads((run / "result.json").read_text())["bounds"] | {"verdict": "inconclusive"}
    bounds |= dict.fromkeys(("base_lr", "max_lr", "base_lr_interval", "max_lr_interval"))
    change(run, bounds=bounds, plan=None)
    folder = write_events(run, tmp_path / "log")
    assert {tag for tag, _ in scalars(read(folder / "seed 1"))} == {"sweep/lr"}
    assert scalars(read(folder)) == scalars(read(folder / "result")) == {}
    assert read(folder).Tags()["images"] == ["range_test"]
    assert hparams_of(folder / "result")[0] == {"verdict": "inconclusive", "metric": "accuracy", "seeds": 2}


def test_a_seed_that_broke_counts_with_its_best_before(copy, undrawn, tmp_path):
    run = copy("broke")
    lose(run, (run / "curve.csv").read_text().splitlines()[-1][:6])
    best = [
        max(value for (seed, tag, _), value in measured(run).items() if (seed, tag) == (each, "sweep/accuracy"))
        for each in ("0", "1")
    ]
    found = scalars(read(write_events(run, tmp_path / "log") / "result"))
    assert found["best/accuracy", 0] == pytest.approx(np.mean(best), rel=1e-6)


def test_a_loss_as_metric_has_its_lowest_as_its_best_and_a_metric_of_any_name_doubles_no_point(copy, undrawn, tmp_path):
    for name in ("loss", "lr"):
        run = copy(name)
        record = read_run(run)
        metric = Metric(name, name, higher_is_better=False)
        write_run(run, dataclasses.replace(record, sweep=dataclasses.replace(record.sweep, metric=metric)))
        folder = write_events(run, tmp_path / "log")
        lowest = np.mean([curve.metric.min() for curve in record.sweep.curves])
        assert scalars(read(folder / "result"))[f"best/{name}", 0] == pytest.approx(lowest)
        points = scalars(read(folder / "seed 0"))
        assert [points["sweep/lr", int(step)] for step in record.sweep.curves[0].iteration] == pytest.approx(
            record.sweep.curves[0].lr.tolist()
        )


def test_a_config_that_was_changed_since_tells_nothing_of_the_run(copy, undrawn, tmp_path):
    run = copy("digits")
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("batch_size: 32", "batch_size: 16"))
    assert load_config(run / "config.yaml").data.batch_size == 16
    assert "batch_size" not in hparams_of(write_events(run, tmp_path / "log") / "result")[0]


def test_plot_writes_the_folder_without_torch_and_without_tensorflow_where_there_is_one(digits_run, written, tmp_path):
    (tmp_path / "tensorflow.py").write_text("raise SystemExit('tensorflow was imported')")
    words = ["plot", str(digits_run), "--tensorboard", str(tmp_path / "log")]
    code = f"import sys\nfrom clrtool.cli.main import main\ntry: main({words})\nexcept SystemExit as stop: assert not stop.code, stop.code\nassert not {{'torch', 'tensorflow'}} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False,
                          env={**os.environ, "PYTHONPATH": str(tmp_path)})  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert files(tmp_path / "log" / "digits") == files(written)  # in another process too
    assert f"{tmp_path / 'log' / 'digits'}: written" in done.stderr.replace("\n", "")


def test_a_missing_package_is_named_with_the_command_that_installs_it(cli, digits_run, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "tensorboard"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "clrtool.report.pages.tensorboard")
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    refused = cli("plot", digits_run, "--tensorboard", tmp_path / "log")
    assert refused.code == 2
    assert "TensorBoard is not installed: pip install 'clrtool[tensorboard]'" in refused.err
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize("more", [["-o", "a.png"], ["--term"]])
def test_the_option_is_refused_beside_another_place(cli, digits_run, tmp_path, more):
    refused = cli("plot", digits_run, "--tensorboard", tmp_path / "log", *more)
    assert (refused.code, "leave out -o and --term" in refused.err) == (2, True)


def test_the_option_is_refused_for_what_is_no_range_test(cli, digits_run, tmp_path):
    (tmp_path / COMPARISON.result).write_text("{}")
    for sources in ([digits_run / "result.json"], [digits_run, digits_run], [tmp_path]):
        refused = cli("plot", *sources, "--tensorboard", tmp_path / "log")
        assert refused.code == 2
    assert not (tmp_path / "log").exists()
