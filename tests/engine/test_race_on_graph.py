"""The race on the captured step, over the stand-in for CUDA: it takes it, falls back safely, and reads the same."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from clrtool.config.schema import RangeTestConfig
from clrtool.engine.rangetest import flat_run
from clrtool.engine.rangetest.pipeline import range_test
from clrtool.engine.rangetest.race import run_race
from clrtool.engine.resume.journal import Journal
from clrtool.engine.training import cuda_evaluation, cuda_graph, cuda_slot
from clrtool.engine.training.cuda_graph import CapturedEnsemble
from clrtool.engine.training.ensemble import Captures
from tests.engine.test_capture import cuda, ways, with_replays  # noqa: F401 (a fixture)
from tests.engine.test_cuda_graph import Kernels
from tests.engine.test_journal import interrupted
from tests.engine.test_last_layer import DEEP
from tests.engine.workloads import digits

BUDGET = 260
NORMED = {"model": {"name": "convnet", "args": {"channels": [4, 8], "batch_norm": True}}}
PLAIN = {"optimizer": {"name": "SGD", "args": {"momentum": 0.9}}}
CONFIG = {"model": {"name": "mlp"}, "data": {"name": "digits", "batch_size": 50, "heldout": 297}}
ON_A_PLATEAU = DEEP | {"training": {"clip_norm": 0.5}}
DROPOUT = {"model": {"name": "mlp", "args": {"dropout": 0.3}}}


def race(workload, journal=None, captures=None):
    return run_race(workload, (3, 4), BUDGET, lambda probe: None, journal or Journal(), captures)


def engines_of(monkeypatch):
    """The ways by which runs are trained from here on, by name."""
    seen, init = [], flat_run.FlatRun.__init__
    monkeypatch.setattr(
        flat_run.FlatRun, "__init__", lambda self, way: seen.append(type(way).__name__) or init(self, way)
    )
    return seen


def same_kernels(monkeypatch):
    """Have the step of the graph be computed by the optimizer of the plain loop, so that bits can be compared."""
    monkeypatch.setattr(cuda_slot, "device_options", lambda workload: {"fused": False})


@pytest.mark.short(3)
@ways(None)
@pytest.mark.parametrize("changes", [PLAIN, PLAIN | NORMED, ON_A_PLATEAU])
def test_a_race_on_the_captured_step_gives_the_bytes_of_the_plain_loop(cuda, monkeypatch, changes):  # noqa: F811
    workload, expected = digits(**changes), race(digits(**changes))
    with_replays(monkeypatch)
    same_kernels(monkeypatch)
    seen, seconds = engines_of(monkeypatch), []
    found = race(workload, captures=Captures(seconds.append))
    assert {*seen} == {"SharedStep"}
    assert len(seen) > (2 if changes is ON_A_PLATEAU else 4)
    assert {probe.seed for probe in found.probes} == ({0} if changes is ON_A_PLATEAU else {0, 1})
    assert any(probe.spread is not None for probe in found.probes)
    assert len(seconds) == 1
    assert found == expected


def turns_of(monkeypatch):
    """Which run has trained or was read, in order, from here on."""
    seen = []
    for name in ("train", "read"):
        call = getattr(flat_run.SharedStep, name)
        monkeypatch.setattr(
            flat_run.SharedStep, name, lambda self, *args, call=call: seen.append(self) or call(self, *args)
        )
    return seen


def calls_of(monkeypatch, owner, name):
    """How often a method was called from here on."""
    calls, call = [], getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *args, **options: calls.append(name) or call(*args, **options))
    return calls


@ways(None)
def test_weights_are_copied_only_where_another_run_has_its_turn(cuda, monkeypatch):  # noqa: F811
    with_replays(monkeypatch)
    turns = turns_of(monkeypatch)
    there, away = calls_of(monkeypatch, CapturedEnsemble, "restore"), calls_of(monkeypatch, flat_run, "copies_of")
    away_again = calls_of(monkeypatch, flat_run, "copy_all")
    race(digits(**PLAIN))
    changes = sum(one is not other for one, other in pairwise(turns))
    first = len({*map(id, turns)})  # a run that begins needs nothing back
    assert 5 < first < len(turns) / 2
    assert len(there) <= changes - (first - 1)
    assert len(away + away_again) / 2 <= changes  # weights and optimizer; nothing of a run that was dropped


@ways(None)
def test_a_turn_costs_one_launch_for_each_type_of_number(cuda, monkeypatch):  # noqa: F811
    with_replays(monkeypatch)
    workload = digits(**PLAIN | NORMED)
    with workload.on_device():
        turns = flat_run.Turns(workload, Captures().of(workload, [0.1] * 30, [3]))
        one, other = (flat_run.SharedStep(turns, seed) for seed in (3, 3))
        for run in (one, other, one):
            run.train(0, [0.1] * 3, lambda: False)
        with Kernels() as found:
            other._turn().__enter__()
    moved = [name for name in found.names if "copy" in name or "clone" in name]
    tensors = sum(map(len, turns.tensors.values()))
    assert tensors > 15
    # away and back, weights and optimizer: of float32, and the counters of batch norm
    assert moved == ["_foreach_copy_"] * 6


@ways(None)
@pytest.mark.short(2)
@pytest.mark.parametrize("looks", [[1], [7, 30], [13, 2, 70], [110]])
def test_a_race_on_the_captured_step_reads_the_same_wherever_it_is_interrupted(cuda, monkeypatch, looks):  # noqa: F811
    with_replays(monkeypatch)
    for module in (cuda_graph, cuda_evaluation):  # the stand-in draws on the host what CUDA draws on the device
        monkeypatch.setattr(module, "host_states", lambda: ())
    seen, workload = engines_of(monkeypatch), digits(**DROPOUT)
    found, stops = interrupted(lambda journal: race(workload, journal), looks)
    assert stops == len(looks)
    assert found == race(workload)
    assert {*seen} == {"SharedStep"}


@pytest.mark.short(1)
@ways(None)
def test_a_race_that_fell_back_reads_the_same_where_it_is_interrupted(cuda, monkeypatch):  # noqa: F811
    with_replays(monkeypatch)  # and dropout draws on the host, which is refused
    seen, workload = engines_of(monkeypatch), digits(**DROPOUT)
    found, stops = interrupted(lambda journal: race(workload, journal), [7, 30])
    assert stops == 2
    assert found == race(workload)
    assert {*seen} == {"PlainLoop"}


@pytest.mark.short(4)
@ways(None, "begin", "middle, out of memory", "end")
def test_a_race_reads_by_the_plain_loop_what_it_would_have_read_had_no_capture_been_tried(cuda, monkeypatch):  # noqa: F811
    workload, expected = digits(**DROPOUT), race(digits(**DROPOUT))
    monkeypatch.setattr("clrtool.engine.training.ensemble._has_graphs", lambda workload: True)
    step = CapturedEnsemble._step

    def taken(self, streams=()):
        step(self, streams)
        if cuda.captured_on is not None:
            cuda.fail_at("middle")

    monkeypatch.setattr(CapturedEnsemble, "_step", taken)
    if cuda.fails is None:
        monkeypatch.setattr(CapturedEnsemble, "matches_reference", lambda ensemble: False)
        monkeypatch.setattr(CapturedEnsemble, "_capture", lambda ensemble: None)
    seen = engines_of(monkeypatch)
    assert race(workload) == expected
    assert {*seen} == {"PlainLoop"}
    assert cuda.is_clean


@ways(None)
def test_a_sweep_of_one_seed_and_its_race_share_a_capture_and_its_time_is_counted(cuda, monkeypatch):  # noqa: F811
    with_replays(monkeypatch)
    begun, init, seen = [], CapturedEnsemble.__init__, engines_of(monkeypatch)
    monkeypatch.setattr(
        CapturedEnsemble, "__init__", lambda self, *args, **words: begun.append(args[1]) or init(self, *args, **words)
    )
    workload = digits()
    config = RangeTestConfig.model_validate(CONFIG)
    assert workload.sweep_size(config.sweep).seeds == 1
    record = range_test(workload, config)
    assert {*seen} == {"SharedStep"}
    assert begun == [[0]]
    assert record.sweep.capture_seconds > 0


@ways(None)
def test_a_run_that_breaks_on_the_captured_step_is_infinite_and_the_others_are_not(cuda, monkeypatch):  # noqa: F811
    with_replays(monkeypatch)
    step = cuda_slot.SeedSlot.step

    def breaking(slot):
        step(slot)
        if float(slot._clock.lr) > 0.3:
            with torch.no_grad():
                slot._losses[slot._clock.now] = math.inf
                next(slot.trainer.model.parameters()).fill_(math.nan)

    workload = digits()
    captures = Captures()
    found = race(workload, captures=captures)  # captured while all is well
    monkeypatch.setattr(cuda_slot.SeedSlot, "step", breaking)
    found = race(workload, captures=captures)
    broken = [probe for probe in found.probes if math.isinf(probe.loss)]
    assert broken
    assert all(probe.lr > 0.3 and probe.taken < probe.iterations for probe in broken)
    assert np.isfinite([probe.loss for probe in found.probes if probe not in broken]).all()


@pytest.mark.gpu
def test_on_cuda_a_race_on_the_captured_step_reads_what_the_plain_loop_reads(gpu, monkeypatch):
    seen = engines_of(monkeypatch)
    plain = race(digits(gpu.device, training={"fast": False}))
    assert {*seen} == {"PlainLoop"}
    seen.clear()
    found = race(digits(gpu.device))
    assert {*seen} == ({"PlainLoop"} if gpu.is_dry else {"SharedStep"})
    one, other = (each.probes[:5] for each in (found, plain))  # later ones follow from losses that may differ a little
    assert [(each.seed, each.power, each.iterations) for each in one] == [
        (each.seed, each.power, each.iterations) for each in other
    ]
    np.testing.assert_allclose([each.loss for each in one], [each.loss for each in other], rtol=0.05)
