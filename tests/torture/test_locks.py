"""Two runs in one folder, another config in it, and links in the place of its files."""

import os
import shutil
import signal

import pytest

from tests.torture.runs import LONG, NAME, PICTURES, assert_same, at_once, contents, some_of, wait_for, words

REFUSED, MACHINE, HELD = 2, 4, 75


@pytest.fixture
def holder(zygote, tmp_path):
    """A run that has begun and stands still."""
    run = zygote.start(words(tmp_path / NAME))
    wait_for(lambda: list((tmp_path / NAME).rglob("*.pt")))
    run.kill(signal.SIGSTOP)
    yield run
    run.kill(signal.SIGCONT)
    run.kill(signal.SIGKILL)
    run.wait()


@pytest.mark.short(2)
@pytest.mark.parametrize("more", [[], ["--fresh"], ["sweep.epochs=2"], ["sweep.epochs=2", "--fresh"]])
def test_the_second_run_in_a_folder_exits_75_and_names_the_first(zygote, reference, holder, tmp_path, more):
    before = contents(tmp_path / NAME / "checkpoint")
    second = zygote.run(words(tmp_path / NAME, *more))
    if more == ["sweep.epochs=2"]:  # which could not have the folder anyway
        assert second.status in (HELD, REFUSED), second.err
    else:
        assert second.status == HELD, second.err
        assert str(holder.pid) in second.err
    assert "Traceback" not in second.err
    assert contents(tmp_path / NAME / "checkpoint") == before
    holder.kill(signal.SIGCONT)
    assert holder.wait() == 0, holder.err
    assert_same(tmp_path / NAME, reference.files)


def test_the_lock_of_a_process_that_was_killed_holds_nobody_up(zygote, reference, holder, tmp_path):
    holder.kill(signal.SIGKILL)
    assert holder.wait() == -signal.SIGKILL
    run = zygote.run(words(tmp_path / NAME, quiet=False))
    assert run.status == 0, run.err
    assert "resumed" in run.err
    assert_same(tmp_path / NAME, reference.files)


def test_of_runs_that_start_at_once_one_trains(zygote, reference, tmp_path):
    for number in range(3 if LONG else 1):
        folder = tmp_path / str(number) / NAME
        runs = [zygote.start(words(folder)) for _ in range(4)]
        found = [run.wait() for run in runs]
        assert found.count(0) >= 1, [run.err for run in runs]
        assert set(found) <= {0, HELD}, [run.err for run in runs]
        assert_same(folder, reference.files)


def test_another_config_in_the_folder_is_refused_with_both_ways_out(zygote, reference, interrupted):
    before, saved = contents(interrupted), contents(interrupted / "checkpoint")
    run = zygote.run(words(interrupted, "sweep.epochs=2"))
    assert run.status == REFUSED, run.err
    assert "-o DIR" in run.err
    assert "--fresh" in run.err
    assert {name: data for name, data in contents(interrupted).items() if name != ".lock"} == before
    assert contents(interrupted / "checkpoint") == saved
    again = zygote.run(words(interrupted))
    assert again.status == 0, again.err
    assert_same(interrupted, reference.files)


def test_fresh_replaces_a_run_that_was_interrupted(zygote, reference, interrupted):
    run = zygote.run(words(interrupted, "--fresh", quiet=False))
    assert run.status == 0, run.err
    assert "resumed" not in run.err
    assert_same(interrupted, reference.files)


def test_fresh_with_another_config_takes_nothing_of_the_old_checkpoint(zygote, tmp_path, interrupted):
    other = ["sweep.epochs=2", "seed=5"]
    expected = zygote.run(words(tmp_path / "other" / NAME, *other))
    run = zygote.run(words(interrupted, *other, "--fresh"))
    assert (expected.status, run.status) in ((0, 0), (3, 3)), run.err
    assert_same(interrupted, contents(tmp_path / "other" / NAME))


LINKED = ["config.yaml", "curve.csv", "checkpoint", ".lock", "result.json", *sorted(PICTURES)]


@pytest.mark.parametrize("more", [[], ["--fresh"]], ids=["as it is", "fresh"])
@pytest.mark.parametrize("name", LINKED)
def test_a_link_in_the_place_of_a_file_of_a_run_is_not_followed(zygote, reference, interrupted, tmp_path, name, more):
    outside = tmp_path / "outside"
    outside.mkdir()
    target = outside / name
    if (interrupted / name).exists():
        shutil.move(interrupted / name, target)
    else:
        target.write_bytes(reference.files.get(name, b""))
    (interrupted / name).symlink_to(target)
    before = contents(outside) if target.is_file() else contents(target)
    run = zygote.run(words(interrupted, *more))
    assert "Traceback" not in run.err
    assert (contents(outside) if target.is_file() else contents(target)) == before
    assert run.status == MACHINE, run.err


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_a_finished_run_with_something_else_in_the_place_of_a_file_is_refused_and_loses_nothing(
    zygote, reference, tmp_path, kind
):
    def check(name):
        folder = tmp_path / name / NAME
        shutil.copytree(reference.folder, folder)
        place, away = folder / name, tmp_path / f"away-{name}"
        place.rename(away)
        {"link": lambda: place.symlink_to(away), "pipe": lambda: os.mkfifo(place), "folder": place.mkdir}[kind]()
        before = contents(folder)
        for more in ([], ["--fresh"]):
            run = zygote.run(words(folder, *more))
            assert run.status == MACHINE, run.err
            assert f"{place}: is no plain file, so clrtool did not write it" in run.err
            assert contents(folder) == before
        assert away.read_bytes() == reference.files[name]

    at_once(check, some_of(sorted(reference.files), 3))


def test_a_link_to_nothing_is_not_written_through(zygote, interrupted, tmp_path):
    for name in ("curve.csv", "config.yaml"):
        (interrupted / name).unlink()
        (interrupted / name).symlink_to(tmp_path / f"new-{name}")
    run = zygote.run(words(interrupted))
    assert run.status in (REFUSED, MACHINE), run.err
    assert not list(tmp_path.glob("new-*"))


def test_the_folder_itself_may_be_a_link(zygote, reference, tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / NAME).symlink_to(tmp_path / "far")
    run = zygote.run(words(tmp_path / NAME))
    assert run.status == 0, run.err
    assert set(contents(tmp_path / "far")) == set(reference.files)


@pytest.mark.short(1)
@pytest.mark.parametrize("more", [[], ["--checkpoint-every", "0"]])
def test_a_run_folder_that_is_removed_while_it_is_filled_ends_the_run_with_4(zygote, reference, tmp_path, more):
    folder = tmp_path / NAME
    run = zygote.start(words(folder, *more))
    curve = folder / "curve.csv"
    wait_for(lambda: curve.exists() and curve.read_text().count("\n") > 5)
    run.kill(signal.SIGSTOP)
    shutil.rmtree(folder)
    run.kill(signal.SIGCONT)
    assert run.wait() == 4, run.err
    assert "was removed or replaced during the run" in run.err
    assert not (folder / "result.json").exists()
    again = zygote.run(words(folder))
    assert again.status == 0, again.err
    assert_same(folder, reference.files)


OTHERS = {
    "a sweep": words("", quiet=False)[:3],
    "a race of values": ["rangetest", "digits", "--vary", "optimizer.args.weight_decay=0,1e-4", "plan.epochs=12"],
    "a comparison": ["compare", "digits", "--bounds", "0.01,0.1", "--policies", "fixed,cosine", "plan.epochs=12"],
}


@pytest.mark.short(2)
@pytest.mark.parametrize("what", OTHERS)
def test_a_folder_that_is_emptied_to_its_lock_is_no_finished_one(zygote, tmp_path, what):
    folder = tmp_path / NAME
    command = [*OTHERS[what], "-q", "--checkpoint-every", "0.05", "-o", str(folder)]
    run = zygote.start(command)
    wait_for(lambda: list(folder.rglob("*.pt")))
    run.kill(signal.SIGSTOP)
    for path in folder.iterdir():
        if path.name != ".lock":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    run.kill(signal.SIGCONT)
    assert run.wait() == MACHINE, run.err
    assert "was removed or replaced during the run" in run.err
    again = zygote.run(command)
    assert again.status in (0, 3), again.err


def test_checkpoints_do_not_follow_a_link_that_takes_the_place_of_their_folder(zygote, tmp_path):
    folder, far = tmp_path / NAME, tmp_path / "far"
    far.mkdir()
    run = zygote.start(words(folder))
    wait_for(lambda: list(folder.rglob("*.pt")))
    run.kill(signal.SIGSTOP)
    shutil.rmtree(folder / "checkpoint")
    (folder / "checkpoint").symlink_to(far)
    run.kill(signal.SIGCONT)
    assert run.wait() == MACHINE, run.err
    assert not list(far.iterdir())
