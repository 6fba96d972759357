"""What a terminal shows: a live curve, no colours where none are wanted, and words alone for who cannot see it."""

import fcntl
import io
import itertools
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios

import pytest

from clrtool.core.reading.curve import Point
from clrtool.report.text.progress import ComparisonProgress, Progress

LONG = ["rangetest", "digits", "sweep.epochs=40", "--seeds", "2"]
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def on_a_terminal(words, columns, folder, sizes=(), **environment):
    """All that a command writes to a terminal of that width, or of these (lines, columns) in turn while it runs."""
    ours, theirs = pty.openpty()
    given = {**os.environ, "TERM": "xterm", "PYTHONIOENCODING": "utf-8", **environment}
    if sizes:
        given.pop("COLUMNS", None)
        given.pop("LINES", None)
    else:
        given |= {"COLUMNS": str(columns), "LINES": "40"}
    command = [sys.executable, "-m", "clrtool", *words]
    child = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=given, cwd=folder)
    os.close(theirs)
    written, next_size = b"", itertools.cycle(sizes)
    try:
        while True:
            while sizes and not select.select([ours], [], [], 0.1)[0]:
                # the kernel tells whoever draws, by SIGWINCH
                fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", *next(next_size), 0, 0))
            if not (part := os.read(ours, 65536)):
                break
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


def test_no_name_in_the_live_line_controls_the_terminal(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    evil = "b\x1b]0;own\x07\u202e\x9b2J"
    with Progress(1, 4.0, evil, quiet=False, plain=False) as line:
        line.update(0, Point(1, 1.0, 0.1, 0.5, 0.5, 0.5))
    with ComparisonProgress([evil], 1, 10, "loss", quiet=False, plain=False) as line:
        line.tell(evil, 0, Point(1, 1.0, 0.1, 0.5, 0.5, 0.5))
    written = terminal.getvalue()
    assert written.count(r"b\x1b]0;own\x07\u202e\x9b2J") >= 2
    assert not set("\x07\u202e\x9b") & set(written)
    assert "\x1b]" not in written


@pytest.mark.short(0)
def test_a_terminal_that_changes_its_size_while_it_is_drawn_on_gets_the_whole_result(tmp_path):
    sizes = [(24, 80), (1, 1), (0, 0), (3, 7), (50, 200), (2, 90)]
    words = ["rangetest", "digits", "sweep.epochs=8", "--seeds", "1"]
    written = on_a_terminal(words, None, tmp_path, sizes)
    assert "Traceback" not in written
    assert "next: clrtool plan runs/digits" in written


@pytest.mark.parametrize("columns", ["1", "0", "-1", "abc", "7", "100000"])
def test_a_width_that_no_terminal_has_breaks_no_table_and_no_chart(cli, digits_run, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    for words in (["plan", digits_run], ["plot", digits_run, "--term"], ["rangetest", "--help-all"], ["guide", "ci"]):
        done = cli(*words)
        assert (done.code, done.err) == (0, "")
        assert done.out.strip()


@pytest.mark.short(0)
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
