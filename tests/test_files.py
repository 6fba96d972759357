"""Files: written whole or not at all, read only if they are plain and small enough, and orphans told from live ones."""

import errno
import fcntl
import os
import signal
import subprocess
import sys

import pytest

from clrtool.errors import Interrupted, MachineError
from clrtool.files import check_writable, read_bytes, read_text, sweep_orphans, temporary_files, write_whole


def test_a_text_that_is_too_large_or_no_plain_file_is_not_read(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 100)
    assert read_text(tmp_path / "a", 100) == "x" * 100
    with pytest.raises(OSError, match="100 bytes; at most 99 are read"):
        read_bytes(tmp_path / "a", 99)
    os.mkfifo(tmp_path / "pipe")
    for name in (tmp_path / "pipe", tmp_path, "/dev/zero"):
        with pytest.raises(OSError, match=r"no plain file|Is a directory"):
            read_bytes(tmp_path / name)


def test_a_mark_of_the_order_of_bytes_is_no_part_of_a_text(tmp_path):
    (tmp_path / "a").write_bytes("\ufeffé\ufeff".encode())
    assert read_text(tmp_path / "a") == "é\ufeff"


@pytest.mark.parametrize("number", [errno.EDQUOT, errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("call", ["fsync", "fchmod"])
def test_a_write_that_fails_leaves_the_old_file_and_says_what_did_not_fit(tmp_path, monkeypatch, call, number):
    (tmp_path / "a").write_text("old")

    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(MachineError, match=f"a: cannot write its 3 bytes: {os.strerror(number)}") as error:
        write_whole(tmp_path / "a", "new")
    assert ("bytes are free" in str(error.value)) == (number != errno.EIO)
    assert (tmp_path / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("name", ["x" * 255, "\U0001f600" * 63, "é" * 127])
def test_a_name_may_be_as_long_as_the_file_system_takes(tmp_path, name):
    write_whole(tmp_path / name, "whole")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "whole"


def test_a_write_that_is_interrupted_leaves_no_temporary_file(tmp_path):
    def blocks():
        yield "one"
        raise Interrupted(signal.SIGTERM)

    with pytest.raises(Interrupted):
        write_whole(tmp_path / "a", blocks())
    assert list(tmp_path.iterdir()) == []


def test_orphans_are_swept_and_files_that_are_being_written_are_not(tmp_path):
    code = "import os, signal, sys; from pathlib import Path; from clrtool.files import write_whole\n"
    code += "def blocks():\n    yield 'x'\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    code += "write_whole(Path(sys.argv[1]), blocks())"
    for name in ("a", "b"):
        killed = subprocess.run([sys.executable, "-c", code, str(tmp_path / name)], check=False)
        assert killed.returncode == -signal.SIGKILL
    orphan, live = sorted(temporary_files(tmp_path))
    (tmp_path / ".mine.abcdefgh.tmp").touch()
    with live.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        sweep_orphans(tmp_path)
        assert live.exists()
        assert not orphan.exists()
    sweep_orphans(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".mine.abcdefgh.tmp"], "a file of another program"


@pytest.mark.parametrize("words", [["rangetest", "digits", "-o", "run"], ["compare", "digits"], ["doctor", "--quick"]])
def test_a_current_folder_that_was_removed_is_told_as_that(cli, tmp_path, monkeypatch, words):
    (gone := tmp_path / "gone").mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    refused = cli(*words)
    assert (refused.code, "the current folder was removed: go to another one" in refused.err) == (4, True)
    planned = cli("plan", "--base-lr", "0.1", "--max-lr", "0.2", "--iterations-per-epoch", "9")
    assert planned.code == 0, "what needs no folder is done"


@pytest.mark.parametrize("words", [["rangetest", "digits", "-o", "run"], ["compare", "digits"], ["doctor", "--quick"]])
def test_a_machine_where_no_temporary_file_can_be_made_is_told_as_that(cli, monkeypatch, words):
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr("tempfile._candidate_tempdir_list", lambda: ["/none", "/dev/null"])
    refused = cli(*words)
    assert (refused.code, "set TMPDIR to one that can be" in refused.err) == (4, True)


def test_a_folder_without_room_is_known_before_anything_is_measured(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    with pytest.raises(MachineError, match=r"cannot be written: No space left on device; [\d,]+ bytes are free"):
        check_writable(tmp_path / "new")
