"""Checkpoints of a model that ranks share: killed while they are written, damaged, without room, and of other ranks."""

import json
import shutil
import signal
from pathlib import Path

import pytest

from clrtool.engine.resume.checkpoint import CheckpointFolder
from tests.ranks import ended, restarted, start
from tests.torture.conftest import RACE_STEP, STEP
from tests.torture.runs import contents
from tests.torture.test_damaged_checkpoints import DAMAGES

CONFIG = """
model: {name: mlp, args: {hidden: [16]}}
data: {name: digits, batch_size: 48}
sweep: {seeds: 1, epochs: 2, evaluations: 8, start_lr: 1e-3, end_lr: 1}
training: {shard: auto}
"""
RACE = "sweep={seeds: 1, start_lr: 1e-3, end_lr: 1}"
WRITES_A_PART = "torch.distributed.checkpoint.filesystem:_write_item"
TELLS_OF_PARTS = "clrtool.engine.resume.checkpoint:CheckpointFolder.save"


def at(place, call, number):
    """The fault of a rank to which a signal comes before a function is called so many times."""
    return {"signal_at": [[place, call, int(number), 1]]}


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """The words of a run in a folder."""
    config = tmp_path_factory.mktemp("spread") / "small.yaml"
    config.write_text(CONFIG)
    how = ["--device", "cpu", "--deterministic", "--checkpoint-every", "1e6"]
    return lambda folder, *more: ["rangetest", str(config), *more, *how, "-o", str(folder)]


@pytest.fixture(scope="module")
def train(command):
    """Train with so many ranks: their exit codes, and what they have said."""

    def train(world, folder, *more, faults=None):
        codes, printed = ended(start(world, "-m", "clrtool", *command(folder, *more), faults=faults))
        said = "".join(err for _, err in printed)
        assert "Traceback" not in said
        return codes, said

    return train


@pytest.fixture(scope="module")
def whole(train, tmp_path_factory):
    """The files of two ranks that nothing has interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    codes, said = train(2, folder)
    assert codes in ([0, 0], [3, 0]), said
    return contents(folder)


@pytest.fixture(scope="module")
def _stopped(train, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stopped") / "run"
    twice = [at(STEP, call, number)["signal_at"][0] for call, number in ((15, signal.SIGUSR1), (35, signal.SIGTERM))]
    assert train(2, folder, faults={0: {"signal_at": twice}})[0] == [143, 143]
    return folder


@pytest.fixture
def stopped(_stopped, tmp_path):
    """Two ranks that saved after some iterations, and again after more, where they were stopped; this test's own."""
    return shutil.copytree(_stopped, tmp_path / "run")


def newest_part(folder, rank=1):
    return sorted((folder / "checkpoint").glob(f"*/{rank}/*.distcp"))[-1]


def assert_goes_on_to(whole, train, folder, *told):
    codes, said = train(2, folder)
    assert codes in ([0, 0], [3, 0]), said
    assert all(each in said for each in told), said
    assert contents(folder) == whole


def test_ranks_that_are_killed_or_have_no_room_while_they_save_leave_what_was_there_and_go_on_to_the_same_bytes(
    train, stopped, whole
):
    store, before = stopped / "checkpoint", contents(stopped / "checkpoint")
    saves = at(STEP, 5, signal.SIGUSR1)["signal_at"]
    room = {"limit_fsize": newest_part(stopped).stat().st_size - 1}
    for faults, codes, told in (
        ({0: {"signal_at": saves}, 1: at(WRITES_A_PART, 2, signal.SIGKILL)}, [4, -9], "a rank was lost"),
        ({0: {"signal_at": saves + at(TELLS_OF_PARTS, 1, signal.SIGKILL)["signal_at"]}}, [-9, 4], "a rank was lost"),
        ({0: {"signal_at": saves}, 1: room}, [4, 4], f"{store}/00000003: cannot be written: "),
    ):
        found, said = train(2, stopped, faults=faults)
        assert found == codes, said
        assert said.count("error: ") == said.count(told) == 1, said
        kept = {name: each for name, each in contents(store).items() if name.endswith(".pt")}
        assert kept == {name: each for name, each in before.items() if name.endswith(".pt")}
    assert_goes_on_to(whole, train, stopped, "resumed with 0 segments finished; seed 0 goes on after iteration")


@pytest.mark.short(0)
@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="looks for the processes of torchrun in /proc")
def test_torchrun_starts_a_killed_rank_of_a_shared_model_again_and_all_ends_in_the_same_bytes(command, tmp_path):
    folder, whole = tmp_path / "killed" / "run", tmp_path / "whole" / "run"  # the pictures bear the name
    codes, printed = ended(start(2, "-m", "clrtool", *command(whole), forked=False))  # forks would only sketch them
    assert codes in ([0, 0], [3, 0]), printed
    said = restarted(*command(folder), "--checkpoint-every", "0", killed_once=folder)
    assert said.count("error: a rank was lost") == 1, said
    assert "seed 0 goes on after iteration" in said
    assert contents(folder) == contents(whole)


@pytest.mark.short(0)
def test_a_damaged_part_of_a_checkpoint_falls_back_to_the_one_before_and_to_the_same_bytes(train, stopped, whole):
    DAMAGES["with a bit flipped in the middle"](newest_part(stopped))
    assert_goes_on_to(whole, train, stopped, "is damaged", "seed 0 goes on after iteration")


@pytest.mark.parametrize("damage", sorted(set(DAMAGES) - {"a link to a damaged file", "another one by its content"}))
def test_any_damage_to_a_part_of_any_rank_is_seen_before_it_is_read(damage, stopped):
    older, newer = sorted((stopped / "checkpoint").glob("*.pt"))
    DAMAGES[damage](newest_part(stopped, rank=len(damage) % 2))
    found = CheckpointFolder(stopped / "checkpoint").load()
    assert found.damaged == (newer,)
    assert found.parts.name == older.name[:8]


@pytest.fixture(scope="module")
def alone(zygote, command, tmp_path_factory):
    """The decision of one process that nothing has interrupted."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    assert zygote.run(command(folder, RACE)).status == 0
    return json.loads((folder / "result.json").read_text())


@pytest.mark.short(1)
@pytest.mark.parametrize(("begun_with", "goes_on_with"), [(2, 1), (1, 2), (4, 2)])
def test_a_race_goes_on_with_another_number_of_ranks_to_the_decision_of_an_uninterrupted_run(
    train, alone, tmp_path, begun_with, goes_on_with
):
    """Weights, averages and optimizers of all runs that may be gone on with are dealt anew, or put together."""
    faults = {0: at(RACE_STEP, 30, signal.SIGTERM)}
    assert train(begun_with, tmp_path / "run", RACE, faults=faults)[0] == [143] * begun_with
    codes, said = train(goes_on_with, tmp_path / "run", RACE)
    assert codes == [0] * goes_on_with, said
    assert "race goes on after iteration 30" in said
    found = json.loads((tmp_path / "run" / "result.json").read_text())
    assert any(f"ranks was {begun_with} and is {goes_on_with}" in each for each in found["sweep"]["warnings"])
    lower, upper = alone["bounds"]["max_lr_interval"]
    assert lower <= found["bounds"]["max_lr"] <= upper
    assert found["bounds"]["verdict"] == alone["bounds"]["verdict"]
    both = ([each["lr"] for each in one["race"]["probes"]] for one in (found, alone))
    assert len({*map(tuple, both)}) == 1, "it tries the same rates"
