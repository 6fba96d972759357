"""Trainers of Lightning and of transformers that run on two ranks test together, and follow one plan."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import LONG
from tests.ranks import ended, start

pytest.importorskip("lightning.pytorch")
pytest.importorskip("transformers")
ROOT = Path(__file__).parents[1]


LIGHTNING = ("before", "ddp", "sharded", "fsdp") + ("parallel", "manual", "manual sharded", "epoch", "plateau") * LONG
# What may be called in one process after the other: a Trainer of Lightning leaves nothing that the next one sees.
TOGETHER = {f"lightning {each}": tuple(f"lightning {each}" for each in LIGHTNING) for each in LIGHTNING}


def ranks(call):
    """What each of two ranks has found."""
    return [rank[call] for rank in _found(TOGETHER.get(call, (call,)))]


@cache
def _found(calls):
    codes, printed = ended(start(2, "-W", "ignore", "-m", "tests.framework_ranks", *calls, cwd=ROOT))
    assert codes == [0, 0], printed
    return [json.loads(out.rpartition("FOUND")[2]) for out, _ in printed]


# Iterations of an epoch, step at which the plan begins and the last, and held-out samples, of all ranks together.
FOLLOWED = {
    "lightning ddp": (5, [0, 20], 200),
    "lightning sharded": (5, [0, 20], 200),
    "lightning parallel": (10, [0, 40], 200),  # both read every batch
    "lightning manual": (5, [0, 40], 200),  # a step of either optimizer is one
    "lightning manual sharded": (5, [0, 40], 200),
    "lightning epoch": (5, [10, 30], 200),
    "lightning plateau": (5, [10, 30], 200),
    "transformers": (10, 40, 100),
    "transformers fsdp": (10, 40, 100),
}


@pytest.mark.short(1)
@pytest.mark.parametrize("call", FOLLOWED)
def test_a_trainer_on_two_ranks_follows_one_plan_that_both_have_found(call):
    first, second = ranks(call)
    assert first == second
    assert None not in first["bounds"]
    assert first["ranks"] == 2
    assert first["follows"]
    assert all("There is no held-out loss beside" in each for each in first["warnings"]), "of what a monitor stands for"
    assert (first["per_epoch"], first["steps"], first["heldout"]) == FOLLOWED[call]
    assert "manual" in call or first.get("logs", True), "the training logs, which the test kept quiet"


@pytest.mark.short(1)
@pytest.mark.parametrize("call", ["accelerate", "accelerate fsdp"])
def test_what_accelerate_has_prepared_is_tested_on_two_ranks_and_follows_one_plan(call):
    first, second = ranks(call)
    assert first == second
    assert None not in first["bounds"]
    assert first["follows"]
    assert (first["ranks"], first["per_epoch"], first["heldout"]) == (2, 12, 120)
    assert first["warnings"] == []
    assert first["sharded"] == call.endswith("fsdp")
    assert first["bounds"] == ranks("accelerate")[0]["bounds"]


@pytest.mark.short(1)
@pytest.mark.parametrize(
    ("shares", "whole"), [("sharded", "ddp"), ("manual sharded", "manual")], ids=["automatic", "manual"]
)
def test_a_lightning_module_that_shards_itself_is_measured_as_one_that_every_rank_has_whole(shares, whole):
    whole, sharded = ranks(f"lightning {whole}")[0], ranks(f"lightning {shares}")[0]
    assert sharded["bounds"] == whole["bounds"]
    np.testing.assert_allclose(sharded["metric"], whole["metric"], atol=0.011)  # two of 200 samples, in float32
    for mine, theirs in zip(whole["weights"], sharded["weights"], strict=True):
        np.testing.assert_allclose(theirs, mine, atol=1e-3)


@pytest.mark.short(0)
def test_a_trainer_of_transformers_that_shards_its_model_is_measured_as_one_that_every_rank_has_whole():
    whole, sharded = ranks("transformers")[0], ranks("transformers fsdp")[0]
    assert sharded["sharded"]
    assert sharded["bounds"] == whole["bounds"]
    np.testing.assert_allclose(sharded["metric"], whole["metric"], atol=0.021)  # two of 100 samples, in float32


@pytest.mark.short(0)
def test_a_model_of_transformers_that_brings_its_own_plan_is_measured_as_by_one_process(tmp_path):
    pytest.importorskip("transformers.distributed.configuration_utils", reason="not in every transformers 5")
    from tests.framework_ranks import transformers_tensor

    first, second = ranks("transformers tensor")
    assert first == second
    assert (first["sharded"], first["ranks"]) == (True, 2)
    one = transformers_tensor(tmp_path, world=1)
    assert not one["sharded"]
    assert first["bounds"] == one["bounds"]
    np.testing.assert_allclose(first["metric"], one["metric"], rtol=1e-9)


@pytest.mark.short(0)
def test_processes_that_begin_in_fit_or_shards_that_are_made_in_train_are_told_to_test_there():
    for lightning, transformers in zip(ranks("lightning before"), ranks("transformers fsdp"), strict=True):
        assert "its 2 processes begin in fit: give it the callback LRRangeTest" in lightning
        assert transformers["said"][1].startswith("trainer: shards its model in train()")
        assert "add the callback clrtool.transformers.LRRangeTest(trainer, at_epoch=0)" in transformers["said"][1]


def test_the_older_fsdp_is_refused_by_its_name_with_the_strategy_that_goes():
    for said in ranks("lightning fsdp"):
        assert said.startswith("trainer: FSDPStrategy is the older FSDP of torch, whose weights lie in one long tensor")
        assert "ModelParallelStrategy" in said
    for each in ranks("transformers fsdp"):
        assert each["said"][0].startswith("trainer: version 1 of its FSDP keeps weights in one long tensor")
        assert "fsdp_config={'version': 2}" in each["said"][0]
