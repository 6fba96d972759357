"""The benchmark of other ways to come by a rate, on a job of milliseconds: what it runs, keeps, reads off and draws."""

import json
from dataclasses import asdict

import pytest
import torch
from torch import nn

from tests.benchmarks.workloads.jobs import Workload, by, mse
from tests.benchmarks.workloads.peers import losses, page, picture, search, training
from tests.benchmarks.workloads.peers.result import Result
from tests.benchmarks.workloads.peers.run import WAYS, Way, run
from tests.benchmarks.workloads.score import lr_at, train

ABSENT = Way("no-such-finder", "no_such_finder", lambda *_: pytest.fail("is not installed"), ("No Such Finder",))
# Of a job whose constant answer scores 1 and whose best run 0: a tenth is lost at 2^-6, and half of it at 2^-4.
GRID = {"grid": {"-6": [0.1], "-5": [0.0], "-4": [0.5]}, "best": 0.0}
ORACLE = {"tiny": {"constant": 1.0, "triangular2": GRID, "one_cycle": GRID, "cosine": GRID}}


def line():
    x = torch.randn(80, 3, generator=torch.Generator().manual_seed(0))
    y = x @ torch.tensor([[1.0], [-2.0], [0.5]])
    return x[:64], y[:64], x[64:], y[64:]


def tiny(optimizer="Adam", **changes):
    values = {"batch_size": 8, "epochs": 6, "clip": 1.0} | changes
    return Workload(lambda: nn.Linear(3, 1), line, by(optimizer), mse, **values)


def way(package):
    return next(each for each in WAYS if each.package == package)


def kept(file):
    return json.loads(file.read_text())["jobs"]["tiny"]


@pytest.fixture
def known(tmp_path):
    """What a run with the two cheapest ways that are here, one that is not, and clrtool's picks has kept."""
    file = tmp_path / "known.json"
    picks = {"tiny": [asdict(Result(500, 2.0**-5))]}
    run(file, {"tiny": tiny()}, picks, (way("torch"), way("lightning"), ABSENT))
    return file


def test_two_ways_find_a_rate_at_the_cost_of_their_steps(known):
    found = kept(known)
    assert [each["max_lr"] for each in found["optimizer's default"]] == [1e-3] * 3, "that of torch.optim.Adam"
    assert [each["iterations"] for each in found["optimizer's default"]] == [0] * 3
    for each in found["Lightning lr_find"]:
        assert each["failed"] == ""
        assert 1e-8 < each["max_lr"] < 1
        assert 90 <= each["iterations"] <= 101


def test_a_package_that_is_not_installed_is_left_out_and_named(known):
    assert "No Such Finder" not in kept(known)
    assert "Not installed: no-such-finder." in page.made(json.loads(known.read_text()))


def test_what_is_finished_is_not_run_again(known):
    calls = []
    other = Way("torch", "torch", lambda _, seed: calls.append(seed) or {"other": Result(7, 0.5)}, ("other",))
    done = Way("torch", "torch", lambda *_: calls.append("again"), ("optimizer's default",))
    run(known, {"tiny": tiny()}, {}, (done, other))
    assert len(set(calls)) == 3, "the new way, once a seed"
    assert "again" not in calls
    assert set(kept(known)) == {"clrtool", "optimizer's default", "Lightning lr_find", "other"}


def test_a_way_that_gives_up_has_found_nothing_and_lost_everything(tmp_path):
    def gives_up(job, seed):
        raise RuntimeError("no such curve")

    file = tmp_path / "known.json"
    run(file, {"tiny": tiny()}, {}, (Way("torch", "torch", gives_up, ("hopeless",)),))
    assert kept(file)["hopeless"][0]["failed"] == "RuntimeError: no such curve"
    (row,) = losses.rows(json.loads(file.read_text())["jobs"], ORACLE)
    assert (row.failed, row.runs) == (3, 3)
    assert row.lost == {"triangular2": [100], "one_cycle": [100], "cosine": [100]}


@pytest.mark.parametrize(
    ("results", "lost"),
    [
        ([Result(0, 2.0**-5)], 0),
        ([Result(0, 2.0**-4), Result(0, 2.0**-5)], 25),
        ([Result(0, 2.0**-5.5)], 5),
        ([Result(0, 1e-9)], 10),  # below the grid: at the least what its lowest point loses
        ([Result(0, 10.0)], 50),
        ([Result(0, score=0.2), Result(0, score=0.4)], 30),
        ([Result(0, score=-1.0)], 0),
        ([Result(0, score=0.2), Result(0, failed="nan")], 60),  # a training that fails is worth a constant answer
    ],
)
def test_a_loss_is_read_off_the_grid_or_is_that_of_the_score(results, lost):
    (row,) = losses.rows({"tiny": {"it": [asdict(each) for each in results]}}, ORACLE)
    assert row.lost["cosine"] == pytest.approx([lost])
    assert ("triangular2" in row.lost) == (results[0].score is None), "who trains himself knows no schedule"


def test_training_at_the_rates_of_the_grid_reaches_the_score_of_the_grid():
    job, seed, top = tiny(), 3, 0.05
    total = training.iterations(job)
    torch.manual_seed(seed)
    model = job.model()
    rates = [lr_at("cosine", t, total, top, top) for t in range(total)]
    *_, last = training.steps(job, model, job.optimizer(model, 1.0), rates, seed)
    assert last == total == 48
    assert training.held_out(job, model) == train(job, "cosine", top, top, seed)


@pytest.mark.parametrize("each", WAYS, ids=lambda each: each.names[0])
def test_every_way_that_is_installed_finds_something(each):
    pytest.importorskip(each.module)
    found = each.run(tiny("SGD"), 1)
    assert set(found) == set(each.names)
    for result in found.values():
        assert (result.max_lr is None) != (result.score is None)
        assert result.iterations in (0, search.budget(tiny())) or 50 <= result.iterations <= 101


def test_the_table_and_the_picture_hold_every_way(known, tmp_path):
    found = losses.rows(json.loads(known.read_text())["jobs"], ORACLE)
    table = page.table(found)
    assert "| clrtool | 0.0 (0.0) | 0.0 (0.0) | 0.0 (0.0) | 500 |  |" in table
    assert "| optimizer's default | 10.0 (10.0) | 10.0 (10.0) | 10.0 (10.0) | 0 |  |" in table
    assert len(table) == 2 + 3
    picture.draw(found, 1, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000


def test_the_front_holds_what_nothing_beats_and_labels_keep_apart():
    points = {"free": (0, 20), "dear": (500, 5), "beaten": (500, 9), "too dear": (600, 5)}
    assert losses.front(points) == ["free", "dear"]
    assert picture.columns({**points, "near": (40, 3)}) == [["free", "near"], ["dear", "beaten"], ["too dear"]]
    assert picture.spread([1, 10, 11, 30], 4) == [1, 10, 14, 30]
