"""``make gpu``: a step that crashes or hangs costs itself alone, and nothing that was not measured looks as if it was."""

import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from tests.gpu import report, wheels
from tests.gpu.results import Results, read
from tests.gpu.run import run
from tests.gpu.steps import ALL, Step

HERE = "tests.test_gpu_command"
ENVIRONMENT = os.environ | {"PYTHONPATH": str(wheels.ROOT), "OMP_NUM_THREADS": "1"}


def measures(results, device, *args):
    results.add("measured", device=device, args=args)


def crashes(results, device):
    results.add("measured")
    os.kill(os.getpid(), signal.SIGSEGV)


def hangs(results, device):
    """With a child that holds what it says open, as a worker of a loader does."""
    results.add("measured")
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as child:
        results.add("began", pid=child.pid)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(600)


def fails(results, device):
    print("what it was about to do")
    raise ValueError("no kernel image")


def steps(*works, seconds=60):
    return [Step(work.__name__, f"{HERE}:{work.__name__}", seconds) for work in works]


def ran(planned, file, seconds=300.0):
    failed = run(planned, "cpu", file, seconds, ENVIRONMENT)
    lines = list(read(file))
    return failed, lines, {line["step"]: line["how"] for line in lines if line["what"] == "end"}


def gone(pid):
    """Whether a process has ended, if it was collected or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.short(0)
def test_a_step_that_crashes_hangs_or_fails_costs_itself_alone(tmp_path):
    hanging = steps(hangs, seconds=8)
    planned = [*steps(crashes), *hanging, *steps(fails), Step("last", f"{HERE}:measures", 60, ("a", "b"))]
    failed, lines, ends = ran(planned, tmp_path / "gpu.jsonl")
    assert ends == {"crashes": "ended by SIGSEGV", "hangs": "killed after 8 s", "fails": "failed", "last": "done"}
    assert failed == ["crashes", "hangs", "fails"]
    assert [line["step"] for line in lines if line["what"] == "measured"] == ["crashes", "hangs", "last"]
    assert lines[-2] == {"step": "last", "what": "measured", "device": "cpu", "args": ["a", "b"]}
    (said,) = [line["said"] for line in lines if line["what"] == "end" and line["step"] == "fails"]
    assert said.startswith("what it was about to do")
    assert said.endswith("ValueError: no kernel image\n")
    (pid,) = [line["pid"] for line in lines if line["what"] == "began"]
    assert gone(pid)


@pytest.mark.short(0)
def test_when_the_time_is_over_what_runs_is_ended_and_the_rest_is_named(tmp_path):
    begin = time.monotonic()
    failed, _, ends = ran([*steps(hangs), *steps(measures)], tmp_path / "gpu.jsonl", seconds=12.0)
    assert time.monotonic() - begin < 40
    assert failed == ["hangs", "measures"]
    assert ends == {"hangs": "killed after 12 s", "measures": "not reached"}


def test_a_signal_that_ends_the_command_ends_the_step_that_runs(tmp_path):
    file = tmp_path / "gpu.jsonl"
    code = f"import tests.gpu.__main__ as command, {HERE} as here; command.ALL = here.steps(here.hangs); command.main()"
    words = [sys.executable, "-c", code, "--cpu", "--out", str(file)]
    with subprocess.Popen(words, cwd=wheels.ROOT, env=ENVIRONMENT) as process:
        pids = []
        while not pids and process.poll() is None:
            time.sleep(0.1)
            pids = [line["pid"] for line in (read(file) if file.exists() else ()) if line["what"] == "began"]
        process.terminate()
        assert process.wait(30) == 128 + signal.SIGTERM
    assert gone(*pids)


def test_a_line_that_a_crash_has_cut_short_is_left_out(tmp_path):
    results = Results(tmp_path / "gpu.jsonl", "a step")
    results.add("one", value=1)
    with results.path.open("a") as file:
        file.write('{"step": "a step", "what": "tw')
    assert [line["what"] for line in read(results.path)] == ["one"]


@pytest.mark.short(0)
def test_a_test_for_a_gpu_tells_which_engines_have_trained_in_it(tmp_path):
    test = "test_a_graph_with_dropout_passes_its_check_and_an_optimizer_without_tensor_lr_falls_back"
    step = Step("tests", "watch:run_tests", 120, (f"tests/engine/test_cuda_graph.py::{test}",))
    failed, lines, _ = ran([step], tmp_path / "gpu.jsonl")
    (line,) = [line for line in lines if line["what"] == "test"]
    assert (failed, line["outcome"]) == ([], "passed")
    assert line["engines"] == ["uncaptured", "eager: Adafactor cannot take its learning rate from the device"]


def test_whole_tests_are_timed_in_one_arithmetic(tmp_path, monkeypatch):
    import torch  # here, for the steps of these tests import this file, and some end soon

    from clrtool.engine.runtime.device import arithmetic
    from tests.gpu import speed

    seen = []

    def noting(case):
        return lambda: seen.append(torch.backends.cudnn.conv.fp32_precision)

    for name, value in {
        "hand_captured": noting,
        "PEERS": {"peer": noting},
        "swept": lambda case: noting(case)(),
    }.items():
        monkeypatch.setattr(speed, name, value)
    monkeypatch.setattr(speed.sweep, "make_ensembles", speed.uncaptured)
    with arithmetic("tf32", deterministic=False):  # torch's own default on a GPU
        speed.whole_tests(Results(tmp_path / "gpu.jsonl", "whole"), "cpu", "tiny MLP")
    assert len(seen) > 4
    assert {*seen} == {"ieee"}


def test_every_step_has_its_function_and_every_test_for_a_gpu_its_step():
    for step in ALL:
        module, _, function = step.work.partition(":")
        assert callable(getattr(importlib.import_module(f"tests.gpu.{module}"), function)), step
    named = {file for step in ALL if step.work == "watch:run_tests" for file in step.args}
    tests = wheels.ROOT / "tests"
    marked = {file for file in tests.rglob("test_*.py") if re.search(r"^@pytest\.mark\.gpu\b", file.read_text(), re.M)}
    assert named == {file.relative_to(wheels.ROOT).as_posix() for file in marked}
    assert len({step.name for step in ALL}) == len(ALL)


def test_without_a_gpu_it_refuses_instead_of_skipping(tmp_path):
    command = [sys.executable, "-m", "tests.gpu", "--out", str(tmp_path / "gpu.jsonl")]
    done = subprocess.run(
        command, cwd=wheels.ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 4
    assert re.search("error: cuda does not compute here: .*--cpu runs everything but the capture", done.stderr)
    assert not (tmp_path / "gpu.jsonl").exists()


def test_all_other_tests_have_no_gpu_to_see():
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""


def make_wheel(folder, name, module):
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{module.replace('.', '/')}/__init__.py", "WHERE = 'a wheel'\n")


@pytest.fixture
def on_a_bare_machine(monkeypatch):
    """Without the packages that are needed, and with a Python that the wheels are for."""
    monkeypatch.setattr(wheels, "NEEDED", {"lacking.one": "lacking_package.one", "lacking-two": "lacking_two"})
    monkeypatch.setattr(wheels, "PYTHON", sys.version_info[:2])


def test_what_is_lacking_is_imported_from_unpacked_wheels(tmp_path, on_a_bare_machine):
    assert wheels.lacking() == ["lacking.one", "lacking-two"]
    make_wheel(tmp_path, "lacking_one", "lacking_package.one")
    make_wheel(tmp_path, "lacking_two", "lacking_two")
    wheels.unpack(tmp_path / "site", tmp_path)
    code = "import lacking_package.one as one, lacking_two as two; print(one.WHERE, two.WHERE)"
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    said = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert said.stdout == "a wheel a wheel\n"


def test_what_no_wheel_has_is_named_with_what_to_do(tmp_path, on_a_bare_machine):
    make_wheel(tmp_path, "lacking_one", "lacking_package.one")
    with pytest.raises(wheels.LackingError, match=r"^lacking-two cannot be imported, .* run make gpu-wheels where"):
        wheels.unpack(tmp_path / "site", tmp_path)


def test_wheels_for_another_python_are_refused(tmp_path, on_a_bare_machine, monkeypatch):
    monkeypatch.setattr(wheels, "PYTHON", (3, 7))
    make_wheel(tmp_path, "lacking_one", "lacking_package.one")
    make_wheel(tmp_path, "lacking_two", "lacking_two")
    with pytest.raises(wheels.LackingError, match=r"are for Python 3\.7, and this is 3\."):
        wheels.unpack(tmp_path / "site", tmp_path)


def test_wheels_are_fetched_as_the_project_asks_for_them(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(wheels.subprocess, "run", lambda command, check: asked.append(command))
    make_wheel(tmp_path, "from_before", "old")
    wheels.fetch(tmp_path)
    words = [word for command in asked for word in command]
    wanted = [*wheels.NEEDED, *wheels.FINDERS]
    found = {name: [word for word in words if re.match(rf"{re.escape(name)}>=[\d.]+$", str(word))] for name in wanted}
    assert all(len(each) == 1 for each in found.values()), found
    assert not list(tmp_path.iterdir())


def sweep(way, **values):
    about = {"model": "tiny MLP", "batch": 128, "precision": "fp32", "iterations": 200, "way": way}
    return {"step": "sweeps", "what": "sweep"} | about | values


MEASURED = [
    {"step": "all", "what": "begin", "device": "cuda", "minutes": 9, "date": "2030-01-02"},
    {"step": "the machine", "what": "card", "card": "a card", "driver": "1.2", "cuda": "13.0", "peers_absent": ["fastai"]},
    sweep("clrtool", ratio=1.0625, base_us=41.25, us=43.8),
    sweep("Ignite", ratio=7.5, base_us=40.5, us=303.0),
    sweep("Lightning", fault="RuntimeError: a | b"),
    {"step": "tests", "what": "test", "name": "t::one", "outcome": "passed", "seconds": 1, "engines": ["eager"], "reason": ""},
    {"step": "tests", "what": "test", "name": "t::two", "outcome": "failed", "seconds": 1, "engines": [], "reason": "E 1 != 2"},
    {"step": "memory", "what": "memory", "captures": 1, "accepted": True, "reserved_mib": 123.45678},
    {"step": "memory", "what": "end", "how": "killed after 45 s", "seconds": 45.0, "said": "one\nthe last word\n"},
    {"step": "tests", "what": "end", "how": "done", "seconds": 5.0, "said": ""},
]  # fmt: skip


def test_the_report_has_what_was_measured_what_failed_and_what_was_not_reached():
    page = report.part(MEASURED)
    assert page.startswith("## On a GPU\n")
    assert "2030-01-02, a card, driver 1.2, CUDA 13.0. Not installed there: fastai." in page
    assert (
        "| tiny MLP, batch 128, fp32, 200 iterations | 40.5 to 41.2 | 1.06 | 7.50 | failed: RuntimeError: a \\| b |"
        in page
    )
    assert "| eager | 1 |" in page
    assert "| t::two | failed | E 1 != 2 |" in page
    assert "| 1 | True | 123.5 |" in page
    assert "| memory | killed after 45 s | the last word |" in page
    assert "done" not in page.replace("Not done", "")


@pytest.mark.parametrize("lines", [[], [MEASURED[0] | {"device": "cpu"}, *MEASURED[1:]]])
def test_what_was_measured_on_a_cpu_is_not_reported(lines):
    with pytest.raises(report.NoReportError, match="nothing that was measured on a GPU"):
        report.part(lines)


def test_the_report_takes_the_place_of_the_one_before_and_leaves_the_rest_of_the_page(tmp_path, monkeypatch):
    page, file = tmp_path / "RESULTS.md", tmp_path / "gpu.jsonl"
    page.write_text("# Benchmarks\n\nof a CPU\n")
    monkeypatch.setattr(report, "RESULTS", page)
    for card in ("an old card", "a new card"):
        lines = [line | {"card": card} if line["what"] == "card" else line for line in MEASURED]
        file.write_text("\n".join(map(json.dumps, lines)))
        assert report.main(file) == 0
    assert page.read_text().startswith("# Benchmarks\n\nof a CPU\n\n## On a GPU\n")
    assert page.read_text().count("## On a GPU") == 1
    assert "an old card" not in page.read_text()
    assert report.kept(page.read_text()) == report.part(lines)
