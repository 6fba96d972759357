"""What a command ends with, whoever reads it or not, and what it says where others read it: CI, a terminal, a picture."""

import json
import os
import signal
import subprocess
import sys
from xml.etree import ElementTree

import pytest

from tests.conftest import QUICK
from tests.torture.runs import wait_for

PLAN = ["plan", "--base-lr", "0.001", "--max-lr", "0.006", "--iterations-per-epoch", "500", "--epochs", "3000"]


def unread(*words, read=100):
    """The code and the errors of a command whose reader goes after so many bytes."""
    command = [sys.executable, "-m", "clrtool", *map(str, words)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        run.stdout.read(read)
        run.stdout.close()
        return run.wait(timeout=100), run.stderr.read().decode()


@pytest.mark.parametrize("form", ["csv", "json", "torch", "table"])
def test_a_reader_that_goes_has_what_it_wanted(form):
    code, errors = unread(*PLAN, "--format", form)
    assert (code, errors) == (0, "")


def test_a_lint_that_nobody_reads_has_found_what_it_has_found():
    words = ["--from", "torch:OneCycleLR", "max_lr=0.1", "total_steps=30", "--iterations", "1410"]
    code, errors = unread("plan", "--lint", *words, "--iterations-per-epoch", "47", read=0)
    assert code == 1
    assert "Traceback" not in errors


FAILING = {
    "a stale file": (1, ["rangetest", "digits", "--check", "none.json"]),
    "a wrong config": (2, ["rangetest", "digits", "data.batch_size=0"]),
    "a lint": (1, ["plan", "--lint", "--from", "torch:OneCycleLR", "max_lr=0.1", "total_steps=30", "--iterations", "1410",
                   "--iterations-per-epoch", "47"]),
    "two configs": (2, ["rangetest", "digits", "no-such-config"]),
    "a machine": (4, ["doctor", "--quick"]),
}  # fmt: skip


@pytest.mark.short(2)
@pytest.mark.parametrize("form", ["", "--json"])
@pytest.mark.parametrize("what", FAILING)
def test_a_code_is_the_same_where_nobody_reads_what_is_said(cli, monkeypatch, tmp_path, what, form):
    code, words = FAILING[what]
    if what == "a machine":
        (tmp_path / "runs").write_text("no folder")
    elif what == "two configs":
        code = cli(*words).code
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "clrtool", *words, *([form] if form else [])],
        stdout=write, stderr=subprocess.PIPE, check=False, cwd=tmp_path, timeout=100,
    )  # fmt: skip
    os.close(write)
    assert "Traceback" not in done.stderr.decode()
    assert done.returncode == code, done.stderr


@pytest.fixture
def drifted(cli, tmp_path):
    """The words of a check that fails without training, and its file."""
    (tmp_path / "mine.yaml").write_text("data: {name: digits}\nmodel: {name: mlp}\n")
    file = tmp_path / "kept.json"
    assert cli("rangetest", tmp_path / "mine.yaml", *QUICK, "-o", tmp_path / "run", "--write", file).code == 0
    return lambda *more: cli(
        "rangetest", tmp_path / "mine.yaml", *QUICK, *more, "-o", tmp_path / "run", "--check", file
    )


@pytest.mark.short(2)
@pytest.mark.parametrize("place", ["", "missing/summary.md", "full", "pipe"])
def test_a_summary_that_cannot_be_written_hides_no_verdict(drifted, monkeypatch, tmp_path, place):
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "/dev/full" if place == "full" else str(tmp_path / place))
    done = drifted("data.batch_size=64")
    assert done.code == 1
    assert "is stale" in done.err
    assert drifted().code == 0


@pytest.mark.parametrize(
    "evil", ["# Heading\n\n![x](https://x.example/a.png)", "```\n# out\n````\n[a](b)", "<img src=x>"]
)
def test_what_a_config_says_stays_in_its_fence_in_the_summary(drifted, monkeypatch, tmp_path, evil):
    summary = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    assert drifted(f"model.args={json.dumps({'activation': evil})}").code == 1
    first, empty, fence, *lines = summary.read_text().splitlines()
    assert (first, empty) == ("### clrtool", "")
    ticks = fence.removesuffix("text")
    assert set(ticks) == {"`"}
    assert lines.index(ticks) == len(lines) - 2, "the fence ends where the text does"
    assert all(not line.startswith(ticks) for line in lines[:-2])


def test_a_file_whose_name_is_no_utf_8_is_named_all_the_same(tmp_path):
    command = [sys.executable, "-m", "clrtool", "rangetest", "digits", *QUICK, "--check", b"kept\xff.json"]
    environment = os.environ | {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md")}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False, env=environment)
    assert done.returncode == 1, done.stderr
    assert rb"kept\udcff.json: no such file yet" in done.stderr


def test_a_label_with_controls_makes_pictures_that_can_be_read(cli, tmp_path):
    (tmp_path / "metrics.py").write_text(
        "def make():\n    return lambda outputs, targets: (outputs.argmax(1) == targets).float().mean()\n"
    )
    label = {"factory": "metrics:make", "higher_is_better": True, "label": "a\x1b[2J\x07$\\frac<&>_b"}
    config = {"data": {"name": "digits"}, "model": {"name": "mlp"}, "metric": label}
    (tmp_path / "mine.yaml").write_text(json.dumps(config))
    done = cli("rangetest", tmp_path / "mine.yaml", *QUICK, "--allow-import", "metrics:*", "-o", tmp_path / "run")
    if done.code == 2:
        assert "label" in done.err
        return
    assert done.code in (0, 3), done.err
    for name in ("a.svg", "a.html"):
        assert cli("plot", tmp_path / "run", "-o", tmp_path / name).code == 0
        assert "\x1b" not in (tmp_path / name).read_text()
    ElementTree.parse(tmp_path / "a.svg")  # noqa: S314 (our own)


@pytest.mark.short(1)
@pytest.mark.parametrize("backend", ["nonsense", "module://no_such_module", ""])
def test_a_backend_of_matplotlib_that_is_not_there_stops_no_picture(tmp_path, backend):
    words = ["-m", "clrtool", "plot", *PLAN[1:], "-o", "plan.svg"]
    environment = os.environ | {"MPLBACKEND": backend}
    done = subprocess.run([sys.executable, *words], capture_output=True, check=False, env=environment, timeout=100)
    assert done.returncode == 0, done.stderr


@pytest.mark.short(0)
def test_a_model_that_is_to_be_compiled_where_there_is_no_compiler_is_a_matter_of_the_machine(tmp_path):
    words = ["rangetest", "digits", *QUICK, "training.compile=true"]
    environment = os.environ | {"CXX": "/bin/false", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-m", "clrtool", *words], capture_output=True, check=False, env=environment, timeout=200
    )
    assert done.returncode == 4, done.stderr
    assert b"training.compile: torch finds no C++ compiler that works" in done.stderr


RC = {
    "LaTeX": b"text.usetex: True\nlines.linewidth: 9\naxes.facecolor: red\n",
    "no UTF-8": b"lines.linewidth: \xff\n",
    "a pipe": None,
}


@pytest.mark.short(1)
@pytest.mark.parametrize("where", ["here", "home"])
@pytest.mark.parametrize("content", RC)
def test_a_style_of_matplotlib_that_lies_about_changes_no_picture(cli, tmp_path, where, content):
    place = {"here": tmp_path / "here", "home": tmp_path / "home" / ".config" / "matplotlib"}[where]
    (tmp_path / "here").mkdir()
    place.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"HOME": str(tmp_path / "home"), "XDG_CONFIG_HOME": str(tmp_path / "home" / ".config")}
    environment.pop("MPLCONFIGDIR", None)

    def picture():
        command = [sys.executable, "-m", "clrtool", "plot", "plan.json", "-o", "plan.svg"]
        done = subprocess.run(
            command, cwd=tmp_path / "here", env=environment, capture_output=True, check=False, timeout=100
        )
        assert done.returncode == 0, done.stderr
        return (tmp_path / "here" / "plan.svg").read_bytes()

    cli(*PLAN[:-2], "-o", tmp_path / "here" / "plan.json")
    before, file = picture(), place / "matplotlibrc"
    if RC[content] is None:
        os.mkfifo(file)
    else:
        file.write_bytes(RC[content])
    assert picture() == before


LONG_SWEEP = ["rangetest", "digits", "sweep.epochs=400", "--seeds", "1", "-o", "run", "-q"]


def wait_for_rows(curve, number):
    wait_for(lambda: curve.exists() and curve.read_text().count("\n") > number)


def test_a_terminal_that_closes_saves_what_was_measured(zygote, tmp_path):
    run = zygote.start(LONG_SWEEP, cwd=tmp_path)
    wait_for_rows(tmp_path / "run" / "curve.csv", 3)
    run.kill(signal.SIGHUP)
    assert run.wait() == 128 + signal.SIGHUP
    assert list((tmp_path / "run" / "checkpoint").glob("*.pt"))


@pytest.mark.short(0)
@pytest.mark.parametrize("ignored", [False, True])
def test_a_process_of_its_own_does_so_too_unless_nohup_has_turned_that_off(tmp_path, ignored):
    def hear():
        signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)

    with subprocess.Popen([sys.executable, "-m", "clrtool", *LONG_SWEEP], cwd=tmp_path, preexec_fn=hear) as run:  # noqa: PLW1509 (no other thread runs)
        curve = tmp_path / "run" / "curve.csv"
        wait_for_rows(curve, 3)
        run.send_signal(signal.SIGHUP)
        if ignored:
            wait_for_rows(curve, curve.read_text().count("\n") + 3)
            run.send_signal(signal.SIGTERM)
        assert run.wait(timeout=60) == 128 + (signal.SIGTERM if ignored else signal.SIGHUP)
    assert list((tmp_path / "run" / "checkpoint").glob("*.pt"))


@pytest.mark.short(0)
@pytest.mark.parametrize("kind", ["pipe", "link"])
def test_a_cache_of_fonts_that_is_no_plain_file_is_named_and_left_alone(tmp_path, kind):
    from matplotlib.font_manager import FontManager

    cache, other = tmp_path / "fonts" / f"fontlist-v{FontManager.__version__}.json", tmp_path / "other.txt"
    cache.parent.mkdir()
    other.write_text("mine")
    os.mkfifo(cache) if kind == "pipe" else cache.symlink_to(other)
    environment = os.environ | {"MPLCONFIGDIR": str(cache.parent)}

    def run(*words):
        command = [sys.executable, "-m", "clrtool", *words]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=100
        )

    done = run("rangetest", "digits", *QUICK, "-o", "run")
    assert (done.returncode, done.stderr.strip().splitlines()[-1]) == (
        4, f"error: {cache}: matplotlib keeps its fonts here, and this is no plain file: remove it",
    )  # fmt: skip
    assert other.read_text() == "mine"
    cache.unlink()
    assert run("plot", "run").returncode == 0


@pytest.mark.short(1)
@pytest.mark.parametrize("home", ["/proc/none", "/dev/null", "/proc/self/mem/x"])
def test_a_home_that_cannot_be_written_is_no_matter_of_a_picture(tmp_path, home):
    environment = os.environ | {"HOME": home, "XDG_CACHE_HOME": f"{home}/cache", "XDG_CONFIG_HOME": f"{home}/config"}
    environment.pop("MPLCONFIGDIR", None)
    for words in ([*PLAN[:-2], "-o", "plan.json"], ["plot", "plan.json", "-o", "plan.png"]):
        command = [sys.executable, "-m", "clrtool", *words]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stderr in ("", f"{words[-1]}: written\n")
