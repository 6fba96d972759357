"""A disk that is full: what was there stays there, the message names the path and the bytes, and it goes on later."""

import os
import re
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.torture.conftest import STEP
from tests.torture.runs import NAME, assert_same, assert_whole, at_once, contents, some_of, words

MACHINE = 4


def assert_says_what_does_not_fit(run, folder):
    assert run.status == MACHINE, run.err
    assert "Traceback" not in run.err
    assert re.search(rf"error: {re.escape(str(folder))}/\S+: .*\d bytes", run.err), run.err


# Bytes that a file may hold, as a name of the file that is too large by one, or as they are.
LIMITS = [600, "config.yaml", 2000, "curve.csv", "result.json", "checkpoint", "schedule.png", "range_test.png"]


def limit_of(limit, reference, interrupted):
    if isinstance(limit, int):
        return limit
    if limit == "checkpoint":
        return min(file.stat().st_size for file in (interrupted / "checkpoint").iterdir()) - 1
    return len(reference.files[limit]) - 1


@pytest.mark.short(0)
def test_a_file_that_does_not_fit_ends_in_exit_code_4_and_later_the_run_goes_on(
    zygote, reference, interrupted, tmp_path
):
    def check(limit):
        folder = tmp_path / str(limit) / NAME
        run = zygote.run(words(folder), {"limit_fsize": limit_of(limit, reference, interrupted)})
        assert_says_what_does_not_fit(run, folder)
        assert_whole(folder)
        assert not list(folder.rglob("*.tmp"))
        again = zygote.run(words(folder))
        assert again.status == 0, again.err
        assert_same(folder, reference.files)

    at_once(check, some_of(LIMITS, 4))


def test_a_disk_that_has_no_room_for_the_message_either_ends_in_exit_code_4(zygote, tmp_path):
    assert zygote.run(words(tmp_path / NAME), {"limit_fsize": 0}).status == MACHINE


@pytest.mark.short(1)
@pytest.mark.parametrize("limit", [600, 2000])
def test_checkpoints_that_are_there_stay_when_the_next_does_not_fit(zygote, reference, interrupted, limit):
    before = contents(interrupted / "checkpoint")
    run = zygote.run(words(interrupted), {"limit_fsize": limit})
    assert_says_what_does_not_fit(run, interrupted)
    assert contents(interrupted / "checkpoint") == before
    assert_whole(interrupted)
    again = zygote.run(words(interrupted, quiet=False))
    assert again.status == 0, again.err
    assert "resumed" in again.err
    assert_same(interrupted, reference.files)


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of its own, and a function that gives it another size."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def resize(size, *options):
        command = ["mount", *(options or ("-o", f"remount,size={size}")), folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")

    if shutil.which("mount") is None:
        pytest.skip("there is no mount here")
    resize("8k", "-t", "tmpfs", "-o", "size=8k", "none")
    yield folder, resize
    subprocess.run(["umount", folder], check=True)


@pytest.mark.short(1)
@pytest.mark.parametrize("size", ["8k", "24k", "48k", "100k", "150k", "200k"])
def test_a_disk_that_is_full_ends_in_exit_code_4_and_with_room_the_run_goes_on(zygote, reference, small_disk, size):
    disk, resize = small_disk
    resize(size)
    folder = disk / NAME
    run = zygote.run(words(folder))
    assert_says_what_does_not_fit(run, folder)
    assert_whole(folder)
    assert not list(folder.rglob("*.tmp"))
    resize("20m")
    again = zygote.run(words(folder))
    assert again.status == 0, again.err
    assert_same(folder, reference.files)


@pytest.mark.short(1)
@pytest.mark.parametrize("files", [2, 4, 7])
def test_a_disk_that_holds_as_many_files_as_it_may_is_told_as_that(zygote, reference, small_disk, files):
    disk, resize = small_disk
    resize("", "-o", f"remount,size=20m,nr_inodes={files}")
    folder = disk / NAME
    run = zygote.run(words(folder))
    assert run.status == MACHINE, run.err
    assert "Traceback" not in run.err
    assert re.search(rf"error: {re.escape(str(disk))}\S*: .*as many files as it may", run.err), run.err
    resize("", "-o", "remount,size=20m,nr_inodes=1000")
    again = zygote.run(words(folder))
    assert again.status == 0, again.err
    assert_same(folder, reference.files)


def test_a_disk_without_a_byte_left_is_told_before_the_training(zygote, reference, small_disk):
    disk, resize = small_disk
    (disk / "filler").write_bytes(bytes(8192))
    run = zygote.run(words(disk / NAME), {"signal_at": [[STEP, 1, int(signal.SIGKILL), 1]]})
    assert run.status == MACHINE, run.err
    assert str(disk / NAME) in run.err
    resize("20m")
    again = zygote.run(words(disk / NAME))
    assert again.status == 0, again.err
    assert_same(disk / NAME, reference.files)


def test_a_disk_that_fills_up_while_a_signal_stops_the_run_is_told_too(zygote, interrupted, reference):
    at = [[STEP, 50, int(signal.SIGTERM), 1]]
    run = zygote.run(words(interrupted, "--checkpoint-every", "1000"), {"limit_fsize": 20_000, "signal_at": at})
    assert_says_what_does_not_fit(run, interrupted)
    again = zygote.run(words(interrupted))
    assert again.status == 0, again.err
    assert_same(interrupted, reference.files)


@pytest.fixture
def somebody(tmp_path_factory):
    """A user who may not write everywhere, and a folder that is open to all."""
    place = Path(tempfile.mkdtemp(prefix="clrtool-torture-"))
    place.chmod(0o755)
    yield place, None if os.geteuid() else 65534
    for folder in [place, *place.rglob("*")]:
        if folder.is_dir() and not folder.is_symlink():
            folder.chmod(0o755)
    shutil.rmtree(place)


@pytest.mark.parametrize("more", [[], ["--fresh"]])
def test_a_folder_that_may_not_be_written_is_refused_before_the_training(zygote, somebody, reference, more):
    place, user = somebody
    probe = zygote.run(["--version"], {"user": user}, cwd=Path("/"))
    if probe.status:
        pytest.skip(f"another user cannot run clrtool here: {probe.err}")
    folder = shutil.copytree(reference.folder, place / NAME)
    for name in ("result.json", "curve.csv"):
        (folder / name).unlink()
    folder.chmod(0o555)
    before = contents(folder)
    inject = {"user": user, "signal_at": [[STEP, 1, int(signal.SIGKILL), 1]]}
    run = zygote.run(words(folder, *more), inject, cwd=Path("/"))
    assert run.status == MACHINE, run.err
    assert str(folder) in run.err
    assert "Traceback" not in run.err
    assert contents(folder) == before
