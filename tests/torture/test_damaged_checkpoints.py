"""Damaged checkpoints: the older one is gone on with, or the run begins anew; the files at the end are the same."""

import os
import shutil

import numpy as np
import pytest

from clrtool.engine.resume.checkpoint import CheckpointFolder
from tests.torture.runs import LONG, assert_same, at_once, some_of, words


def truncated(file, at):
    file.write_bytes(file.read_bytes()[:at])


def flipped(file, bit):
    data = bytearray(file.read_bytes())
    place = bit % (8 * len(data))
    data[place // 8] ^= 1 << place % 8
    file.write_bytes(data)


def a_folder(file):
    file.unlink()
    file.mkdir()
    (file / "something").write_text("else")


def linked(file, target):
    target = file.parent.parent.parent / "elsewhere" if target is None else target
    if str(target).endswith("elsewhere") and not target.exists():
        shutil.move(file, target)
        flipped(target, 12345)
    else:
        file.unlink()
    file.symlink_to(target)


def a_pipe(file):
    file.unlink()
    os.mkfifo(file)


def of_another(file):
    """The content of the other generation under this name."""
    other = next(each for each in file.parent.iterdir() if each != file and each.is_file())
    file.write_bytes(other.read_bytes())


def unreadable_zip(file):
    file.write_bytes(b"PK\x03\x04" + bytes(1000))


DAMAGES = {
    "cut in half": lambda file: truncated(file, file.stat().st_size // 2),
    "cut by one byte": lambda file: truncated(file, -1),
    "emptied": lambda file: truncated(file, 0),
    "longer by one byte": lambda file: file.write_bytes(file.read_bytes() + b"\0"),
    "with its first bit flipped": lambda file: flipped(file, 0),
    "with a bit flipped in the middle": lambda file: flipped(file, 200_001),
    "with its last bit flipped": lambda file: flipped(file, -1),
    "a folder": a_folder,
    "removed": lambda file: file.unlink(),
    "a pipe": a_pipe,
    "a link to nothing": lambda file: linked(file, "nothing"),
    "a link to a device": lambda file: linked(file, "/dev/zero"),
    "a link to a damaged file": lambda file: linked(file, None),
    "another one by its content": of_another,
    "not even an archive": unreadable_zip,
}


def checkpoints(folder):
    """Oldest first."""
    return sorted((folder / "checkpoint").iterdir())


@pytest.fixture
def copies(interrupted, tmp_path):
    """Makes copies of the interrupted run, each in a folder of its own."""
    return lambda number: shutil.copytree(interrupted, tmp_path / str(number) / interrupted.name)


def test_a_damaged_checkpoint_falls_back_to_the_one_before(zygote, reference, copies):
    def check(damage):
        folder = copies(damage)
        DAMAGES[damage](checkpoints(folder)[-1])
        run = zygote.run(words(folder, quiet=False))
        assert run.status == 0, run.err
        assert "Traceback" not in run.err
        assert "resumed" in run.err
        assert_same(folder, reference.files)

    at_once(check, some_of(DAMAGES, 3))


@pytest.mark.short(0)
def test_where_both_are_damaged_the_run_starts_over_and_says_so(zygote, reference, copies):
    def check(damage):
        folder = copies(damage)
        for file in checkpoints(folder):
            DAMAGES[damage](file)
        run = zygote.run(words(folder, quiet=False))
        assert run.status == 0, run.err
        assert "Traceback" not in run.err
        assert "resumed" not in run.err
        assert "is damaged" in run.err
        assert "starting over" in run.err
        assert_same(folder, reference.files)

    at_once(check, some_of(sorted(set(DAMAGES) - {"removed", "another one by its content"}), 4))


# What somebody wrote into a checkpoint, whole and with the hash of its new content.
FORGED = {
    "no finished segments": {"finished": None},
    "a segment that runs as a text": {"running": "race"},
    "seconds as a list": {"seconds": [1.0]},
    "an endless time": {"seconds": {"train": float("inf")}},
    "a config as a number": {"config_sha256": 1},
    "parts below zero": {"micro_batches": -1},
    "a race that is none": {"finished": {"race": {"probes": "all"}}},
    "a format as a text": {"format": "9"},
    "a newer format": {"format": 10**6},
}


def test_a_checkpoint_that_clrtool_did_not_write_is_a_message_and_begun_anew_only_where_asked(
    zygote, reference, copies
):
    def check(forged):
        folder = copies(forged)
        store = CheckpointFolder(folder / "checkpoint")
        store.save({**store.load().values, **FORGED[forged]})
        run = zygote.run(words(folder, quiet=False))
        assert run.status == 2, run.err
        assert "Traceback" not in run.err
        assert f"{folder}: " in run.err
        assert ("upgrade clrtool" in run.err) == (forged == "a newer format")
        if LONG or forged == "a newer format":
            again = zygote.run(words(folder, "--fresh"))
            assert again.status == 0, again.err
            assert_same(folder, reference.files)

    at_once(check, FORGED)


def test_damage_to_the_older_one_is_not_even_seen(zygote, reference, interrupted):
    flipped(checkpoints(interrupted)[0], 4321)
    run = zygote.run(words(interrupted, quiet=False))
    assert run.status == 0, run.err
    assert "resumed" in run.err
    assert_same(interrupted, reference.files)


def test_a_journal_or_config_that_was_damaged_is_refused_or_written_again(zygote, reference, copies):
    def check(case):
        name, damage = case
        folder = copies(f"{name} {damage}")
        DAMAGES[damage](folder / name)
        run = zygote.run(words(folder, quiet=False))
        assert "Traceback" not in run.err
        if name == "config.yaml":
            assert run.status in (0, 2), run.err
        else:
            assert run.status == 0, run.err
        if run.status == 0:
            assert_same(folder, reference.files)

    damages = ["emptied", "cut in half", "cut by one byte", "removed"]
    at_once(check, some_of([(name, damage) for name in ("curve.csv", "config.yaml") for damage in damages], 2))


def test_files_of_others_beside_the_checkpoints_stay_and_what_looks_like_one_does_not_disturb(
    zygote, reference, interrupted
):
    folder = interrupted / "checkpoint"
    mine = folder / "00000099-notahash.pt"
    mine.write_text("x")
    run = zygote.run(words(interrupted))
    assert run.status == 2, run.err
    assert f"{folder} holds a {mine.name} that clrtool did not write" in run.err
    assert mine.read_text() == "x"
    mine.unlink()
    (folder / f"99999999-{'0' * 64}.pt").write_text("x")
    (folder / ".00000001-x.pt.abcdefgh.clrtool.tmp").write_text("x")
    run = zygote.run(words(interrupted, quiet=False))
    assert run.status == 0, run.err
    assert "resumed" in run.err
    assert_same(interrupted, reference.files)


def test_random_damage_to_a_checkpoint_is_always_seen(zygote, reference, copies):
    def check(seed):
        folder, random = copies(seed), np.random.default_rng(seed)
        file = checkpoints(folder)[-1]
        for _ in range(random.integers(1, 4)):
            flipped(file, int(random.integers(8 * file.stat().st_size)))
        run = zygote.run(words(folder, quiet=False))
        assert run.status == 0, run.err
        assert "is damaged" in run.err
        assert "resumed" in run.err
        assert_same(folder, reference.files)
        shutil.rmtree(folder)

    at_once(check, range(100 if LONG else 2))
