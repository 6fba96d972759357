"""The lock of a run folder changes nothing that was there, and knows when its folder has gone."""

import os
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import pytest

from clrtool.errors import BusyError, MachineError
from clrtool.files import refuse_links, write_whole
from clrtool.report.records.lock import NAME, locked


def test_a_lock_is_made_held_and_removed(tmp_path):
    with locked(tmp_path) as lock:
        assert (tmp_path / NAME).read_text().startswith(f"{os.getpid()} on ")
        lock.check()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("left", ["", "12 on elsewhere", "x" * 5000])
def test_what_a_killed_process_has_left_is_replaced(tmp_path, left):
    (tmp_path / NAME).write_text(left)
    with locked(tmp_path):
        assert (tmp_path / NAME).read_text().startswith(f"{os.getpid()} on ")
    assert list(tmp_path.iterdir()) == []


def itself(_, path):
    path.symlink_to(path.name)


@pytest.mark.parametrize(
    "make", [os.link, os.symlink, itself, lambda _, path: os.mkfifo(path), lambda _, path: path.mkdir()]
)
def test_a_file_of_somebody_else_by_its_name_is_refused_and_not_changed(tmp_path, make):
    other = tmp_path / "other"
    other.write_text("dear")
    (tmp_path / "run").mkdir()
    make(other, tmp_path / "run" / NAME)
    with (
        pytest.raises(MachineError, match=r"run/\.lock: cannot be made: there is something .* no lock"),
        locked(tmp_path / "run"),
    ):
        pass
    assert other.read_text() == "dear"


def hold(folder, text):
    code = (
        "import fcntl, sys, time\nfile = open(sys.argv[1], 'a+')\nfcntl.lockf(file, fcntl.LOCK_EX)\n"
        f"file.write({text!r})\nfile.flush()\nprint(flush=True)\ntime.sleep(60)"
    )
    return subprocess.Popen([sys.executable, "-c", code, str(folder / NAME)], stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize(
    ("text", "said"), [("77 on far", "process 77 on far:"), ("\x1b[2Jrm -rf", "that has just begun")]
)
def test_who_holds_it_is_named_but_nothing_else_is_repeated(tmp_path, text, said):
    with hold(tmp_path, text) as holder:
        holder.stdout.readline()
        with pytest.raises(BusyError) as caught, locked(tmp_path):
            pass
        holder.kill()
    assert said in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_a_process_of_another_container_and_host_name_is_named_and_its_lock_ends_with_it(tmp_path):
    apart = ["unshare", "--uts", "--pid", "--fork", "--kill-child", "--mount", "sh", "-c"]
    if shutil.which("unshare") is None or subprocess.run([*apart, "hostname far"], check=False).returncode:
        pytest.skip("this user may not make another container")
    code = (
        "import os, sys, time; from pathlib import Path; from clrtool.report.records.lock import locked\n"
        "with locked(Path(sys.argv[1])):\n    print(os.getpid(), flush=True); time.sleep(60)"
    )
    words = [*apart, 'hostname far && exec "$@"', "sh", sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as holder:
        number = int(holder.stdout.readline())
        assert number < 10, "that of a container"
        with pytest.raises(BusyError, match=f"process {number} on far: wait for it"):
            take(tmp_path)
        holder.kill()
        holder.stdout.read()  # to its end, which comes when the last of them is gone
    take(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_of_two_machines_that_lock_each_for_itself_the_later_has_the_folder_and_the_earlier_ends(tmp_path):
    with locked(tmp_path) as earlier:
        earlier.check()
        with locked(tmp_path) as later:  # a process never waits for its own lock, as a machine for none of another's
            later.check()
            with pytest.raises(MachineError, match="was removed or replaced during the run"):
                earlier.check()
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def nobody():
    """Calls a function with the rights of another user than the owner of what root has made."""
    if os.geteuid():
        pytest.skip("only root can be somebody else")

    def run(function):
        os.seteuid(65534)
        try:
            return function()
        finally:
            os.seteuid(0)

    return run


@pytest.fixture
def shared_folder():
    """A folder that anybody may write into: those of pytest are closed to others."""
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o777)
        yield Path(place)


def take(folder):
    with locked(folder):
        pass


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o755])
def test_a_lock_of_another_user_is_told_as_held_or_as_left_and_stays(nobody, shared_folder, mode):
    with hold(shared_folder, "77 on far") as holder:
        holder.stdout.readline()
        (shared_folder / NAME).chmod(0o644)
        shared_folder.chmod(mode)
        with pytest.raises(BusyError, match="process 77 on far: wait for it"):
            nobody(partial(take, shared_folder))
        holder.kill()
    with pytest.raises(MachineError, match="another user's clrtool was killed and has left it"):
        nobody(partial(take, shared_folder))
    assert (shared_folder / NAME).read_text() == "77 on far"
    take(shared_folder)
    assert list(shared_folder.iterdir()) == []


@pytest.mark.parametrize("mode", [0o1777, 0o755])
def test_a_lock_that_may_be_written_and_not_removed_is_not_told_as_held(nobody, shared_folder, mode):
    (shared_folder / NAME).touch()
    (shared_folder / NAME).chmod(0o666)
    shared_folder.chmod(mode)
    with pytest.raises(MachineError, match="has left it") as caught:
        nobody(partial(take, shared_folder))
    assert not isinstance(caught.value, BusyError)


def test_a_lock_that_may_not_even_be_read_says_so(nobody, shared_folder):
    (shared_folder / NAME).touch(mode=0o600)
    with pytest.raises(MachineError, match=r"\.lock: cannot be made: Permission denied"):
        nobody(partial(take, shared_folder))


@pytest.mark.parametrize("replaced", [False, True])
def test_a_folder_that_was_removed_is_noticed_and_what_replaced_it_stays(tmp_path, replaced):
    folder = tmp_path / "run"
    folder.mkdir()
    with locked(folder) as lock:
        shutil.rmtree(folder)
        if replaced:
            folder.mkdir()
            (folder / NAME).write_text("9 on here")
        with pytest.raises(MachineError, match="was removed or replaced"):
            lock.check()
    assert (folder / NAME).exists() == replaced


def write_into(folder, monkeypatch):
    """Write a file whose folder is removed after it was made, before the file is."""
    make = tempfile.mkstemp
    monkeypatch.setattr(tempfile, "mkstemp", lambda **options: (folder.rmdir(), make(**options))[1])
    write_whole(folder / "00000001.pt", b"weights")


def list_one_that_is_gone(folder, _):
    list((folder / "gone").iterdir())


@pytest.mark.parametrize("touch", [write_into, list_one_that_is_gone])
@pytest.mark.parametrize(("place", "said"), [("run/checkpoint", "^run: was removed or replaced"), ("mine", "mine")])
def test_what_goes_between_two_calls_is_told_as_what_went_before_if_it_is_the_folders(
    tmp_path, monkeypatch, touch, place, said
):
    monkeypatch.chdir(tmp_path)  # the folder is as it is typed
    Path("run").mkdir()
    Path(place).mkdir(parents=True)
    with pytest.raises((OSError, MachineError), match=said), locked(Path("run")) as lock, lock.checked():
        touch(Path(place), monkeypatch)


def test_links_on_the_way_are_refused_and_the_folder_itself_may_be_one(tmp_path):
    (tmp_path / "away" / "deep").mkdir(parents=True)
    (tmp_path / "run").symlink_to(tmp_path / "away")
    refuse_links(tmp_path / "run", "deep", "none")
    (tmp_path / "away" / "deep" / "link").symlink_to(tmp_path)
    with pytest.raises(MachineError, match="deep/link: is a link"):
        refuse_links(tmp_path / "run", "deep", "link", "more")


@pytest.mark.parametrize(
    ("link", "words"),
    [
        ("shards", ["rangetest", "digits", "--seed-shard", "1/2"]),
        ("shards/1-of-2", ["rangetest", "digits", "--seed-shard", "1/2", "--fresh"]),
        ("checkpoint-jobs", ["rangetest", "digits", "sweep.method=paper", "--jobs", "2"]),
        ("checkpoint", ["rangetest", "digits"]),
        ("range_test", ["compare", "digits"]),
        ("checkpoint", ["compare", "digits", "--fresh"]),
    ],
)
def test_a_link_in_the_place_of_a_folder_of_a_run_is_refused_and_nothing_is_written_through_it(
    cli, tmp_path, link, words
):
    (tmp_path / "run" / link).parent.mkdir(parents=True)
    (tmp_path / "away").mkdir()
    (tmp_path / "run" / link).symlink_to(tmp_path / "away")
    done = cli(*words, "-q", "-o", tmp_path / "run")
    assert done.code == 4, done.err
    assert f"run/{link}: is " in done.err
    assert list((tmp_path / "away").iterdir()) == []
