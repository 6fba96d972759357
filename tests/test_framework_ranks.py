"""Trainers of Lightning and of transformers that run on two ranks test together, and follow one plan."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from tests.ranks import ended, start

pytest.importorskip("lightning.pytorch")
pytest.importorskip("transformers")
ROOT = Path(__file__).parents[1]


@cache
def ranks(call):
    codes, printed = ended(start(2, "-W", "ignore", "-m", "tests.framework_ranks", call, cwd=ROOT))
    assert codes == [0, 0], printed
    return [json.loads(out.rpartition("FOUND")[2]) for out, _ in printed]


@pytest.mark.parametrize("call", ["lightning ddp", "lightning sharded", "transformers"])
def test_a_trainer_on_two_ranks_follows_one_plan_that_both_have_found(call):
    first, second = ranks(call)
    assert first == second
    assert None not in first["bounds"]
    assert first["ranks"] == 2
    assert first["follows"]
    assert first["warnings"] == []
    is_lightning = call.startswith("lightning")
    assert (first["per_epoch"], first["steps"], first["heldout"]) == ((5, 20, 200) if is_lightning else (10, 40, 100))
    if is_lightning:
        assert first["logs"], "the training logs, which the test kept quiet"


def test_what_accelerate_has_prepared_is_tested_on_two_ranks_and_follows_one_plan():
    first, second = ranks("accelerate")
    assert first == second
    assert None not in first["bounds"]
    assert first["follows"]
    assert (first["ranks"], first["per_epoch"], first["heldout"]) == (2, 12, 120)
    assert first["warnings"] == []
    assert first["kind"] == "DistributedType.MULTI_CPU"


def test_a_lightning_module_that_shards_itself_is_measured_as_one_that_every_rank_has_whole():
    whole, sharded = ranks("lightning ddp")[0], ranks("lightning sharded")[0]
    assert sharded["bounds"] == whole["bounds"]
    np.testing.assert_allclose(sharded["metric"], whole["metric"], atol=0.011)  # two of 200 samples, in float32
    for mine, theirs in zip(whole["weights"], sharded["weights"], strict=True):
        np.testing.assert_allclose(theirs, mine, atol=1e-3)


def test_processes_that_begin_in_fit_are_told_to_test_there():
    assert all(
        "its 2 processes begin in fit: give it the callback LRRangeTest" in said for said in ranks("lightning before")
    )
