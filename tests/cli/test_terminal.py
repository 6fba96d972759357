"""What a terminal shows: a live curve, no colours where none are wanted, and words alone for who cannot see it."""

import os
import pty
import re
import subprocess
import sys

import pytest

from clrtool.core.reading.curve import Point
from clrtool.report.text.progress import Progress

LONG = ["rangetest", "digits", "sweep.epochs=40", "--seeds", "2"]
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def on_a_terminal(words, columns, folder, **environment):
    """All that a command writes to a terminal of that width."""
    ours, theirs = pty.openpty()
    given = {
        **os.environ,
        "TERM": "xterm",
        "COLUMNS": str(columns),
        "LINES": "40",
        "PYTHONIOENCODING": "utf-8",
        **environment,
    }
    command = [sys.executable, "-m", "clrtool", *words]
    child = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=given, cwd=folder)
    os.close(theirs)
    written = b""
    try:
        while part := os.read(ours, 65536):
            written += part
    except OSError:  # so Linux tells that the other end was closed
        pass
    os.close(ours)
    assert child.wait() == 0, written.decode()
    return written.decode()


def test_a_sweep_is_drawn_while_it_runs_and_no_line_is_wider_than_the_terminal(tmp_path):
    written = on_a_terminal(LONG, 60, tmp_path, NO_COLOR="1")
    live, result = written.split("accuracy, mean of 2 seeds", 1)
    assert len(re.findall(r"seed [12]/2  epoch", live)) >= 2
    assert "learning rate" in live, "the curve so far"
    assert not re.findall(r"\x1b\[[0-9;]*m", written), "NO_COLOR"
    lines = [CONTROL.sub("", line).rstrip("\r") for part in written.split("\n") for line in part.split("\r")]
    told = [line for line in lines if not line.startswith(("in ", "next", "      clrtool"))]
    assert max(map(len, told)) <= 60
    assert "base_lr" in result


def test_plain_words_are_all_that_a_terminal_gets_where_they_are_wanted(tmp_path):
    written = on_a_terminal(LONG, 80, tmp_path, CLRTOOL_PLAIN="1")
    assert not CONTROL.search(written)
    assert not re.search("[\u2500-\u28ff]", written), "no boxes, blocks or dots"
    for name in ("base_lr", "max_lr", "stepsize", "verdict", "cost"):
        assert re.search(rf"^{name}: .*\.\r$", written, re.MULTILINE), name


@pytest.mark.parametrize("command", [["plan", "{run}"], ["rangetest", "digits", "-o", "{run}"]])
def test_plain_says_every_word_of_the_table(cli, digits_run, command):
    from tests.conftest import QUICK

    words = [word.format(run=digits_run) for word in command] + (QUICK if command[0] == "rangetest" else [])
    table, plain = cli(*words).out, cli(*words, "--plain").out
    assert set(re.findall(r"[\w.%]+\b", table)) <= set(re.findall(r"[\w.%]+\b", plain))
    assert len(plain.splitlines()) < len(table.splitlines())


def test_a_pipe_gets_a_line_at_times_and_nothing_that_moves(capsys, monkeypatch):
    now = iter(range(0, 1000, 4))
    monkeypatch.setattr("time.monotonic", lambda: float(next(now)))
    with Progress(1, 10, "accuracy", quiet=False, plain=False) as progress:
        for number in range(1, 10):
            progress.update(0, Point(number, number, 1e-3 * number, 1.0, 1.0, 0.1 * number))
    told = capsys.readouterr().err.splitlines()
    assert 1 < len(told) < 9
    assert all(line.startswith("seed 1/1  epoch") for line in told)
