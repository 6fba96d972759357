"""A command that was forked is one that was started: what it finds, what it prints, how it ends, what it leaves."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import QUICK
from tests.torture.runs import contents, wait_for

ROOT = Path(__file__).parents[1]


def started(module, words, folder, env):
    """What ``zygote.run`` gives, of a process that was started as people start it."""
    heard = (  # what nohup, and a shell that starts it in the background, would have it ignore
        "import os, signal, sys; [signal.signal(each, signal.SIG_DFL) for each in (signal.SIGHUP, signal.SIGINT)]; "
        "os.execv(sys.executable, sys.argv[1:])"
    )
    command = [sys.executable, "-c", heard, sys.executable, "-m", module, *words]
    return subprocess.run(
        command, cwd=folder, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )


def environment(**more):
    """That of a test, without what the zygote is given when it starts, and with where the tests are found."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    return kept | {"PYTHONPATH": str(ROOT), "NO_COLOR": "1", "OMP_NUM_THREADS": "1"} | more


@pytest.mark.short(2)
@pytest.mark.parametrize("how", ["", "3", "256", "raises", "is interrupted", "is killed", "leaves word"])
def test_what_a_process_finds_and_how_it_ends_is_that_of_one_that_was_started(zygote, tmp_path, how):
    env, words = environment(MINE="ä \udcff", OMP_NUM_THREADS="2" if how == "3" else "1"), ["a b", "", "--json", how]
    env.pop("LINES", None)
    real = started("tests.probe", words, tmp_path, env)
    forked = zygote.run(words, cwd=tmp_path, module="tests.probe", env=env)
    assert forked.status == real.returncode
    assert json.loads(forked.out) == json.loads(real.stdout)
    assert json.loads(real.stdout)["environment"]["MINE"] == env["MINE"]
    assert forked.err.splitlines()[-1:] == real.stderr.splitlines()[-1:]


@pytest.mark.parametrize(
    "words",
    [["--version"], ["rangetes"], ["plan", "none"], ["plan", "--base-lr", "1", "--json"],
     ["plan", "--base-lr", "0.001", "--max-lr", "0.006", "--iterations-per-epoch", "50", "--epochs", "30", "-o", "a.csv"]],
    ids=" ".join,
)  # fmt: skip
def test_a_command_that_was_forked_says_and_leaves_what_one_that_was_started_does(zygote, tmp_path, words):
    said = []
    for name in ("real", "forked"):
        (tmp_path / name).mkdir()
        if name == "real":
            run = started("clrtool", words, tmp_path / name, environment())
            said.append((run.returncode, run.stdout, run.stderr))
        else:
            run = zygote.run(words, cwd=tmp_path / name, env=environment())
            said.append((run.status, run.out, run.err))
    assert said[0] == said[1]
    assert contents(tmp_path / "real") == contents(tmp_path / "forked")


def test_a_range_test_that_was_forked_comes_to_the_bytes_of_one_that_was_started(zygote, tmp_path):
    words = ["rangetest", "digits", *QUICK, "--device", "cpu", "--deterministic"]
    for name in ("real", "forked"):
        (tmp_path / name).mkdir()
    real = started("clrtool", words, tmp_path / "real", environment())
    forked = zygote.run(words, cwd=tmp_path / "forked", env=environment(), drawn=True)
    assert (forked.status, forked.out, forked.err) == (real.returncode, real.stdout, real.stderr)
    assert contents(tmp_path / "real" / "runs" / "digits") == contents(tmp_path / "forked" / "runs" / "digits")


def test_forks_draw_numbers_of_their_own_where_processes_do(zygote, tmp_path):
    (tmp_path / "drawing.py").write_text(
        "import numpy, random, torch\nprint(numpy.random.rand(), random.random(), torch.rand(()).item())\n"
    )
    env = environment(PYTHONPATH=str(tmp_path))
    first, second = (zygote.run([], cwd=tmp_path, module="drawing", env=env).out.split() for _ in range(2))
    assert len({*first, *second}) == 6


def test_a_fork_that_is_killed_or_asked_to_stop_ends_as_a_process_does(zygote, tmp_path):
    words = ["rangetest", "digits", "sweep.epochs=400", "--seeds", "1", "-o", "run", "-q"]
    for number, status in ((signal.SIGTERM, 143), (signal.SIGKILL, -9)):
        run, curve = zygote.start(words, cwd=tmp_path), tmp_path / "run" / "curve.csv"
        wait_for(lambda: curve.exists() and curve.read_text().count("\n") > 3)  # noqa: B023 (called at once)
        run.kill(number)
        assert run.wait() == status
        curve.unlink()
