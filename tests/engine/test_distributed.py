"""Several ranks make of a workload what one process makes of it."""

import json
import math
import random
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import distributed as dist
from torch import nn

from clrtool.engine.configured.build import build_workload
from clrtool.engine.models.batch_norm import seen_by_batch_norm, synced
from clrtool.engine.resume.checkpoint import CheckpointFolder
from clrtool.engine.resume.journal import NoRequests
from clrtool.engine.resume.open import open_journal
from clrtool.engine.runtime import distributed
from clrtool.engine.runtime.distributed import ProcessGroup
from clrtool.engine.runtime.launched import device_of_rank
from clrtool.engine.runtime.ranks import SINGLE_PROCESS
from clrtool.engine.runtime.rng import seed_everything
from clrtool.engine.runtime.tensor_parallel import seat_of
from clrtool.errors import ConfigError, MachineError
from tests.engine.rank_factories import build, trained
from tests.engine.workloads import digits
from tests.ranks import ended, start

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def pair():
    """What each of two ranks has found, over gloo."""
    codes, printed = ended(start(2, "-m", "tests.engine.rank_factories", cwd=ROOT))
    assert codes == [0, 0], printed
    return [json.loads(out) for out, _ in printed]


def lone(world=2, rank=0):
    """A group of which the others never come."""
    return ProcessGroup(rank=rank, world=world, local_rank=rank, store=dist.HashStore())


ALONE_AS = {
    "values dense": lambda: build("values", "dense"),
    "tokens reader": lambda: build("tokens", "reader"),
    "weighted": lambda: build("values", "dense", loss="weighted"),
    "spread": lambda: build("values", "dense", micro_batches=3),
    "spread tokens": lambda: build("tokens", "reader"),
    "parts": lambda: build("values", "dense", micro_batches=3),
}


@pytest.mark.parametrize("name", ALONE_AS)
def test_two_ranks_come_to_the_weights_of_one_process(pair, name):
    alone = trained(ALONE_AS[name]())
    for found in pair:
        for mine, theirs in zip(alone["weights"], found[name]["weights"], strict=True):
            np.testing.assert_allclose(theirs, mine, rtol=0, atol=1e-12)
        np.testing.assert_allclose(found[name]["losses"], alone["losses"], rtol=1e-6)
        assert found[name]["found"][0] == pytest.approx(alone["found"][0], rel=1e-12)
        assert found[name]["found"][1] == alone["found"][1]
        assert found[name]["spread"] == name.startswith("spread")


def test_all_ranks_have_the_same_numbers_to_the_last_bit(pair):
    for name in (*ALONE_AS, "lame"):
        assert pair[0][name] == pair[1][name]


def test_a_layer_that_is_never_used_is_trained_around(pair):
    losses = pair[0]["lame"]
    assert all(map(math.isfinite, losses))
    assert losses[-1] < losses[0]


def test_only_what_is_drawn_at_random_or_depends_on_the_batch_makes_the_number_of_ranks_matter(pair):
    assert pair[0]["matters"] == [True, False]


def test_what_is_gathered_comes_back_to_each_rank(pair):
    states = [{"rank": rank, "pair": [rank, [0.5 * rank]]} for rank in (0, 1)]
    for rank, found in enumerate(pair):
        assert found["states"] == states
        assert found["own"] == states[rank]


def test_a_model_that_its_factory_has_spread_is_refused_with_the_ways_that_go(pair):
    for found in pair:
        for said in found["apart"]:
            assert said.startswith("model: its factory spreads it over ranks: leave that to training.shard=auto")


def told(*groups, over=None):
    """What each rank tells of those with which it shares each batch, and of those over which it is sharded."""
    seats = sorted((rank, group) for group in groups for rank in group)
    return [{"shared": list(group), "over": (over or {}).get(rank, [])} for rank, group in seats]


def test_ranks_that_share_each_batch_have_one_number_and_add_up_gradients_with_those_that_stand_alike():
    apart = told((0,), (1,), (2,))
    assert seat_of(2, apart) == (2, 3, (2,), [[0, 1, 2]])
    inner, outer = told((0, 1), (2, 3)), told((0, 2), (1, 3))
    assert [seat_of(rank, inner)[:2] for rank in range(4)] == [(0, 2), (0, 2), (1, 2), (1, 2)]
    assert [seat_of(rank, outer)[:2] for rank in range(4)] == [(0, 2), (1, 2), (0, 2), (1, 2)]
    assert (seat_of(3, inner).shared, seat_of(3, inner).columns) == ((2, 3), [[0, 2], [1, 3]])
    assert (seat_of(3, outer).shared, seat_of(3, outer).columns) == ((1, 3), [[0, 1], [2, 3]])
    assert seat_of(1, told((0, 1, 2))) == (0, 1, (0, 1, 2), [[0], [1], [2]])


@pytest.mark.parametrize(
    ("ranks", "message"),
    [
        (told((0, 1), (2,)), "do not compute a batch together in groups of one size"),
        (told((0,), (1,), over={0: [0], 1: [1]}), "fully_shard spreads it over the ranks \\[0\\], and 2 take batches"),
        (
            told((0, 1), (2, 3), over={2: [2, 3]}),
            "fully_shard spreads it over the ranks \\[2, 3\\], and 2 take batches",
        ),
    ],
)
def test_ranks_that_do_not_share_out_the_batches_evenly_are_refused(ranks, message):
    with pytest.raises(ConfigError, match=message):
        seat_of(0, ranks)


def test_what_one_rank_asks_for_all_hear(pair):
    for found in pair:
        assert found["first"] == 0
        assert found["any"] == [True, False]
        assert found["highest"] == [15, None]
        assert found["differing"] == ["other"]


def test_the_parts_of_a_batch_are_that_batch_in_turns():
    whole = digits().loader
    parts = [type(whole)(whole.samples, whole.transform, 50, rank=rank, world=5) for rank in range(5)]
    for _, batch, *each in zip(range(40), whole.batches(7, 3), *(part.batches(7, 3) for part in parts)):  # noqa: B905
        for rank, (inputs, targets) in enumerate(each):
            assert torch.equal(inputs, batch[0][rank::5])
            assert torch.equal(targets, batch[1][rank::5])


@pytest.mark.parametrize("size", [1, 2, 7, 100])
def test_shares_are_all_there_is_without_overlap(size):
    shares = [place for rank in range(3) for place in lone(3, rank).shard(size)]
    assert shares == list(range(size)) == list(SINGLE_PROCESS.shard(size))


def test_other_ranks_draw_other_random_numbers_and_the_first_those_of_a_single_process():
    drawn = []
    for ranks in (SINGLE_PROCESS, lone(3, 0), lone(3, 1), lone(3, 2)):
        seed_everything(5)
        ranks.seed_rank(5)
        drawn.append((torch.rand(()).item(), random.random()))  # noqa: S311
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) == 3


def test_what_batch_norm_sees_is_said():
    plain, normed = nn.Sequential(nn.Linear(2, 2)), nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    assert not seen_by_batch_norm(plain, 16, 4)
    assert seen_by_batch_norm(normed, 16, 4) == "16 samples, those of one rank"
    assert seen_by_batch_norm(synced(lambda: normed)(), 16, 4) == "64 samples, those of all ranks"


def test_a_batch_norm_that_does_more_is_not_replaced_by_one_that_does_not():
    class Acting(nn.BatchNorm1d):
        pass

    with pytest.raises(ConfigError, match=r"sync_batch_norm: 0 is a Acting, which does more"):
        synced(lambda: nn.Sequential(Acting(2)))()


def test_synchronised_batch_norm_is_refused_on_a_cpu_and_changes_no_hash_where_it_is_off():
    from clrtool.config.schema import RangeTestConfig

    values = {"model": {"name": "mlp"}, "data": {"name": "digits", "batch_size": 50}}
    off, on = (
        RangeTestConfig.model_validate(values | {"training": {"sync_batch_norm": wanted}}) for wanted in (False, True)
    )
    assert off.sha256() == RangeTestConfig.model_validate(values).sha256() != on.sha256()
    assert "sync_batch_norm" not in off.to_yaml()
    assert "sync_batch_norm: true" in on.to_yaml()
    with pytest.raises(ConfigError, match=r"training.sync_batch_norm: torch has it on CUDA only"):
        build_workload(on, device="cpu", ranks=lone())


def test_ranks_that_read_other_data_are_refused():
    class Other(ProcessGroup):
        def differing(self, hashes):
            assert {"config", "data", "code or weights"} <= set(hashes)
            return ["data"]

    with pytest.raises(ConfigError, match="the ranks do not have the same data"):
        digits(ranks=Other(rank=0, world=2, local_rank=0, store=dist.HashStore()))


class Hanging:
    """What a device does that waits for a rank which is gone."""

    def __init__(self):
        self.asked = 0

    def query(self):
        self.asked += 1
        return False


def test_a_signal_is_heard_while_a_device_waits_for_a_rank_that_is_gone(monkeypatch):
    def heard(signum, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, heard)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        with pytest.raises(KeyboardInterrupt):
            lone()._wait_for(Hanging())
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_device_that_waits_for_a_rank_that_has_failed_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(distributed, "LOOK_INTERVAL", 0.02)
    ranks, device = lone(), Hanging()
    ranks.store.set(distributed.FAILED, "1 4")
    with pytest.raises(MachineError, match="a rank was lost"):
        ranks._wait_for(device)
    assert device.asked > 10, "the device comes first"


def test_each_rank_has_a_gpu_of_its_own_or_is_told_that_there_is_none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [device_of_rank(name, 1) for name in ("auto", "cuda", "cpu")] == ["cuda:1", "cuda:1", "cpu"]
    with pytest.raises(MachineError, match="rank 2 of this machine finds 2 CUDA devices"):
        device_of_rank("auto", 2)


def test_a_run_that_goes_on_with_another_number_of_ranks_says_so(tmp_path):
    """Without batch norm or dropout it is the same test, up to rounding."""

    class First(ProcessGroup):
        def broadcast(self, values):
            return values

    folder = CheckpointFolder(tmp_path)
    open_journal(folder, digits(), "hash", NoRequests(), 0)[0].finish(("scout", (1e-3, 1.0, 9)))
    now = replace(digits(), ranks=First(rank=0, world=2, local_rank=0, store=dist.HashStore(), matters=False))
    journal, text = open_journal(folder, now, "hash", NoRequests(), 0)
    assert "resumed with 1 segment finished" in text
    assert any("ranks was 1 and is 2" in warning for warning in journal.warnings)
    with pytest.raises(ConfigError, match="was started with 1 rank, and there are 2 now"):
        open_journal(folder, replace(now, ranks=lone()), "hash", NoRequests(), 0)
