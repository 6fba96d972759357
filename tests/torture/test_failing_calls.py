"""Calls of the system that fail, and a machine that is odd: what is there stays whole, and the same command goes on."""

import errno
import os
import signal
import stat
import tempfile
from pathlib import Path

import pytest

from tests.torture.conftest import STEP
from tests.torture.runs import LONG, NAME, assert_same, assert_whole, at_once, contents, words

MACHINE = 4
# The calls that make a file be there or go, and which of them fail in turn: the first, some on the way, the last ones.
CALLS = ["os:replace", "os:fsync", "os:fchmod", "tempfile:mkstemp", "os:unlink"]
NUMBERS = [*range(1, 60)] if LONG else [1, 9]  # which take turns in the short form


@pytest.mark.parametrize("call", CALLS)
def test_a_call_that_fails_once_ends_in_4_with_the_file_and_later_the_run_goes_on(zygote, reference, tmp_path, call):
    def check(number):
        folder = tmp_path / str(number) / NAME
        run = zygote.run(words(folder), {"error_at": [[call, number, errno.EIO]]})
        assert run.status in (0, MACHINE), run.err  # 0 where there are fewer calls, or what fails is no loss
        assert "Traceback" not in run.err
        if run.status:
            assert f"{folder}/" in run.err
            assert "Input/output error" in run.err
        assert_whole(folder)
        again = zygote.run(words(folder))
        assert again.status == 0, again.err
        assert_same(folder, reference.files)
        return run.status

    at_once(check, NUMBERS if LONG else NUMBERS[CALLS.index(call) % 2 :][:1])


def test_a_disk_that_is_full_at_a_picture_alone_costs_no_training(zygote, reference, interrupted):
    largest = max(reference.files, key=lambda name: len(reference.files[name]))
    assert largest == "range_test.png"
    run = zygote.run(words(interrupted), {"limit_fsize": len(reference.files[largest]) - 1})
    assert run.status == MACHINE
    assert f"{largest}: cannot write" in run.err
    assert (interrupted / "result.json").is_file()
    again = zygote.run(words(interrupted), {"signal_at": [[STEP, 1, int(signal.SIGKILL), 1]]})
    assert again.status == 0, again.err
    assert_same(interrupted, reference.files)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_told_as_that_and_a_file_alone_needs_none(zygote, tmp_path, number):
    run = zygote.run(words(tmp_path / NAME), {"error_at": [["fcntl:lockf", 0, number]]})
    assert run.status == MACHINE
    assert f"cannot be locked: {os.strerror(number)}; give a folder on another file system with -o DIR" in run.err
    plan = ["plan", "--base-lr", "0.1", "--max-lr", "0.2", "--iterations-per-epoch", "9", "-o", tmp_path / "a.json"]
    run = zygote.run(list(map(str, plan)), {"error_at": [["fcntl:flock", 0, number]]})
    assert run.status == 0, run.err
    assert (tmp_path / "a.json").is_file()


def test_a_clock_that_runs_backwards_changes_nothing(zygote, reference, interrupted, tmp_path):
    for folder in (tmp_path / NAME, interrupted):
        run = zygote.run(words(folder), {"backwards": True})
        assert run.status == 0, run.err
        assert_same(folder, reference.files)


def test_files_are_for_whom_the_umask_lets(zygote, reference, tmp_path):
    for umask, mode in ((0o077, 0o600), (0o000, 0o666)):
        folder = tmp_path / str(umask) / NAME
        run = zygote.run(words(folder), {"umask": umask})
        assert run.status == 0, run.err
        assert_same(folder, reference.files)
        assert {stat.S_IMODE((folder / name).stat().st_mode) for name in contents(folder)} == {mode}


@pytest.mark.short(3)
@pytest.mark.parametrize("state", ["finished", "interrupted", "empty", "closed"])
def test_the_run_of_another_user_is_shown_or_told_and_never_changed(zygote, reference, interrupted, state):
    if os.geteuid():
        pytest.skip("only root can be somebody else")
    with tempfile.TemporaryDirectory(prefix="clrtool-torture-") as place:
        Path(place).chmod(0o755)
        folder = Path(place) / NAME
        source = {"finished": reference.folder, "interrupted": interrupted, "closed": reference.folder}.get(state)
        folder.mkdir(mode=0o700 if state == "closed" else 0o755)
        for name, content in contents(source).items() if source else ():
            if isinstance(content, bytes):
                (folder / name).write_bytes(content)
                (folder / name).chmod(0o644)
        before = contents(folder)
        for command in (words(folder), words(folder, "--fresh"), ["plan", str(folder)], ["plot", str(folder)]):
            run = zygote.run(command, {"user": 65534}, cwd=Path("/"))
            assert "Traceback" not in run.err
            shown = state == "finished" and "--fresh" not in command and command[0] != "plot"
            codes = (0,) if shown else (MACHINE,) if state == "closed" else (2, MACHINE)
            assert run.status in codes, f"{command}: {run.status} {run.err}"
            assert str(folder) in run.err or shown
        assert contents(folder) == before


# What is closed, and a command that has to open it.
CLOSED = [
    ("mine.yaml", ["plan", "mine.yaml"]),
    ("run/result.json", ["plan", "run"]),
    ("run", ["plot", "run"]),
    ("run", ["merge", "run"]),
    ("run", ["rangetest", "digits", "-o", "run"]),
    ("run", ["compare", "digits", "-o", "run"]),
    ("in", ["rangetest", "digits", "--check", "in/a.json"]),
    ("run/result.json", ["rangetest", "digits", "-o", "new", "--check", "run/result.json"]),
    ("run/result.json", ["rangetest", "digits", "-o", "new", "--write", "run/result.json"]),
    ("run/last.pt", ["rangetest", "digits", "-o", "new", "--from", "run/last.pt"]),
    (".", ["rangetest", "digits"]),
]


@pytest.mark.parametrize(("closed", "command"), CLOSED, ids=lambda each: each if isinstance(each, str) else each[0])
def test_what_this_user_may_not_read_is_a_matter_of_the_machine(zygote, closed, command):
    if os.geteuid():
        pytest.skip("only root can be somebody else")
    with tempfile.TemporaryDirectory(prefix="clrtool-torture-") as name:
        place = Path(name)
        place.chmod(0o755)
        for folder in ("run", "in"):
            (place / folder).mkdir()
        for file in ("mine.yaml", "run/result.json", "run/last.pt"):
            (place / file).write_text("{}")
        (place / closed).chmod(0o700 if (place / closed).is_dir() else 0o600)
        run = zygote.run(command, {"user": 65534}, cwd=place)
    assert run.status == MACHINE, run.err
    assert "Permission denied" in run.err or "closed to this user" in run.err
    assert "Traceback" not in run.err


def test_what_is_closed_to_this_user_is_passed_over_where_a_config_is_proposed(zygote):
    if os.geteuid():
        pytest.skip("only root can be somebody else")
    with tempfile.TemporaryDirectory(prefix="clrtool-torture-") as name:
        place = Path(name)
        (place / "open.py").write_text("from torch import nn\n\n\nclass Mine(nn.Module):\n    pass\n")
        for file in ("closed.py", "x.npz", "long.txt"):
            (place / file).write_bytes(bytes(20_000))
            (place / file).chmod(0)
        for folder in ("lost+found", "listed"):
            (place / folder).mkdir()
        (place / "lost+found").chmod(0)
        (place / "listed").chmod(0o744)  # what is in it has names, and nothing more
        place.chmod(0o777)
        run = zygote.run(["init"], {"user": 65534}, cwd=place)
        text = (place / "open.yaml").read_text() if (place / "open.yaml").is_file() else run.out
    assert "open:Mine" in run.err + run.out + text, run.err
    assert "long.txt" not in run.err + run.out + text
