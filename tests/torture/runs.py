"""Runs of clrtool that are killed: how they are started, and what has to hold of their files at any time."""

import hashlib
import json
import time
from concurrent.futures import ThreadPoolExecutor

from clrtool.config.file import load_config
from tests.conftest import LONG, spread_evenly
from tests.forks import PATIENCE

PICTURES = {"range_test.png", "range_test.alt.txt", "schedule.png", "schedule.alt.txt"}
FILES = {"config.yaml", "curve.csv", "result.json", *PICTURES}
# The title of a picture is the name of its folder: folders of runs that are compared are called the same.
NAME = "digits"


def words(folder, *more, quiet=True, method="paper"):
    """The command that is tortured: a range test of the digits, resumed when it is given again."""
    what = ["rangetest", "digits", f"sweep.method={method}", "-o", str(folder)]
    what += ["sweep.epochs=3"] * (method == "paper")
    how = ["--seeds", "3", "--device", "cpu", "--deterministic", "--checkpoint-every", "0.05"]
    return [*what, *how, *(["-q"] if quiet else []), *map(str, more)]


def contents(folder):
    """Every file of a run by its name; a folder or a link in it shows as what it is."""
    found = {}
    for path in folder.iterdir():
        plain = path.is_file() and not path.is_symlink()
        found[path.name] = path.read_bytes() if plain else f"not a plain file: {path}"
    return found


def assert_same(folder, reference):
    """A finished run has exactly the files of one that was not interrupted, byte for byte."""
    found = contents(folder)
    assert set(found) == set(reference), f"it holds {sorted(found)}"
    assert found == reference, f"different: {sorted(name for name in found if found[name] != reference[name])}"


def assert_whole(folder):
    """What lies in the folder of a run that was killed is whole, each file by itself, or a temporary file."""
    if not folder.exists():
        return
    for path in folder.rglob("*"):
        if path.is_dir() or path.name.endswith(".tmp") or path.name == ".lock":
            continue
        assert_file_whole(path, folder)


def assert_file_whole(path, folder):
    data = path.read_bytes()
    if path.name == "config.yaml":
        assert data.endswith(b"\n")
        load_config(path)
    elif path.name == "result.json":
        assert json.loads(data)["schema_version"]
    elif path.suffix == ".png":
        assert data.startswith(b"\x89PNG\r\n\x1a\n"), path
        assert data.endswith(b"IEND\xaeB`\x82"), path
    elif path.name.endswith(".alt.txt"):
        assert data.startswith(b"# Alternative text"), path
        assert data.endswith(b".\n"), path
    elif path.parent == folder / "checkpoint":
        number, _, digest = path.stem.partition("-")
        assert path.suffix == ".pt", path
        assert len(number) == 8, path
        assert int(number) >= 0, path
        assert hashlib.sha256(data).hexdigest() == digest, path
    elif path.name == "curve.csv":
        lines = data.decode().splitlines(keepends=True)
        assert not lines or lines[0].startswith("seed,iteration,epoch,lr")
        assert all(line.count(",") == 6 and line.endswith("\n") for line in lines[:-1])
    else:
        raise AssertionError(f"{path} is no file of a run")


def some_of(cases, number):
    """So many of some cases in the short form, spread evenly over them; all in the long one."""
    return [*cases] if LONG else spread_evenly([*cases], number)


def at_once(check, cases):
    """Check all cases, two at once: the time goes into the runs, which are processes of their own."""

    def checked(case):
        try:
            check(case)
        except Exception as error:
            error.add_note(f"in the case of {case!r}")
            raise

    with ThreadPoolExecutor(2) as pool:
        found = [each.exception() for each in [pool.submit(checked, case) for case in cases]]
    if errors := [error for error in found if error is not None]:
        raise errors[0] if len(errors) == 1 else ExceptionGroup(f"{len(errors)} cases", errors)


def wait_for(condition, seconds=PATIENCE):
    """Wait until something is true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.002)
