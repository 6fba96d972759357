"""The replay of races from trajectories: it reads what was tabulated, and a changed constant changes nothing else."""

import json
import math
import sys

import pytest
import torch
from torch import nn

from clrtool.core.racing import rules
from clrtool.core.racing.race import outcome
from tests.benchmarks.workloads import replay, trajectories
from tests.benchmarks.workloads.jobs import Workload

X = torch.randn(400, 4, generator=torch.Generator().manual_seed(2))
Y = X @ torch.tensor([[1.0], [2.0], [-1.0], [0.5]])
JOB = Workload(
    model=lambda: nn.Linear(4, 1),
    data=lambda: (X[:300], Y[:300], X[300:], Y[300:]),
    optimizer=lambda model, lr: torch.optim.SGD(model.parameters(), lr=lr),
    loss=nn.functional.mse_loss,
    batch_size=30,
    epochs=20,
)


@pytest.fixture(scope="module")
def table():
    data = JOB.data()
    seeds = {str(s): {str(k): trajectories.run(JOB, data, s, 2.0**k) for k in range(-9, 2)} for s in (1, 2)}
    return json.loads(json.dumps({"line-sgd": {"training": 200, "seeds": seeds}}))


def test_a_run_is_read_along_its_way_and_ends_where_its_loss_is_not_finite(table):
    runs = table["line-sgd"]["seeds"]["1"]
    slow, good, broken = runs["-9"], runs["-3"], trajectories.run(JOB, JOB.data(), 1, 1e30)
    assert list(map(int, good["losses"])) == list(trajectories.HORIZONS)
    assert good["losses"]["256"] < 0.05 < slow["losses"]["256"] < slow["losses"]["32"]
    assert broken["taken"] < 30
    assert all(math.isinf(loss) or loss > 1e10 for loss in broken["losses"].values())


def test_a_replayed_race_finds_what_the_table_says_is_best_within_its_budget(table):
    runs = list(table["line-sgd"]["seeds"].values())
    race = replay.replay("line-sgd", runs, 200, float(Y.var()), 400)
    assert race.iterations <= 400
    best = min(range(-9, 2), key=lambda k: runs[0][str(k)]["losses"].get("48", math.inf))
    assert abs(outcome(race.entry, race.probes).picks[0] - best) <= 2


def test_the_table_of_constants_has_a_row_for_each_and_leaves_the_rules_as_they_were(
    table, tmp_path, monkeypatch, capsys
):
    grid = {str(k): [(k + 3) ** 2] for k in range(-12, 4)}
    oracle = {"line-sgd": {"constant": 30.0, "cosine": {"best": 0.0, "grid": grid}}}
    files = [tmp_path / "table.json", tmp_path / "oracle.json"]
    for file, content in zip(files, (table, oracle), strict=True):
        file.write_text(json.dumps(content))
    before = {name: getattr(rules, name) for name in replay.CONSTANTS}
    monkeypatch.setattr(sys, "argv", ["replay", *map(str, files)])
    replay.main()
    rows = capsys.readouterr().out.splitlines()
    assert [row.split(" | ")[0] for row in rows[2:]] == [f"| {name}" for name in replay.CONSTANTS]
    assert {name: getattr(rules, name) for name in replay.CONSTANTS} == before
