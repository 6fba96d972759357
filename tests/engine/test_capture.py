"""A capture that fails leaves nothing behind: torch's own ``torch.cuda.graph`` over a stand-in for what lies below it.

The stand-in keeps what CUDA, the allocator and the generator keep, and fails as they do: without putting it back. It
has two ways, that of torch to 2.11 and that of the later ones, whose ``reset`` gives back the pool of a failed capture.
"""

import gc
import time
import warnings
import weakref
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch

from clrtool.config.schema import RangeTestConfig, SweepConfig
from clrtool.engine.rangetest.estimate import WARM_UP, estimate
from clrtool.engine.rangetest.sweep import run_sweep
from clrtool.engine.runtime import capture as capturing
from clrtool.engine.runtime.capture import capture, refusing_waits
from clrtool.engine.runtime.hardware import memory_use
from clrtool.engine.runtime.rng import fork_rng, seed_everything
from clrtool.engine.training import cuda_evaluation, cuda_graph, cuda_slot, ensemble
from clrtool.engine.training.cuda_graph import CapturedEnsemble
from clrtool.engine.training.ensemble import Captures, make_ensembles
from clrtool.engine.training.trainer import Trainer
from clrtool.engine.training.whole_set import WholeSet
from tests.engine.workloads import digits

LRS = np.geomspace(1e-3, 0.2, 60).tolist()
BATCH_NORM = {"name": "convnet", "args": {"channels": [4, 8], "batch_norm": True}}
AT_FIRST = {"initial_accumulator_value": 0.1}  # a state that does not begin at zero
PLACES = [
    "begin",
    "begin, out of memory",
    "middle",
    "middle, out of memory",
    "end",
    "end, out of memory",
    "instantiate",
]
INVALID = "CUDA error: operation failed due to a previous error during capture"


class Cuda:
    """The state of one device, and where the next capture fails."""

    def __init__(self, fails, later):
        self.fails, self.later = fails, later
        self.default = self.stream = Stream("default")
        self.captured_on, self.generator_captures, self.refuses, self.graphs = None, False, 0, 0
        self.recording, self.uses = set(), Counter()

    def fail_at(self, place):
        """Once: what follows a failed capture must be able to succeed."""
        if self.fails and self.fails.split(",")[0] == place:
            kind = torch.OutOfMemoryError if "out of memory" in self.fails else RuntimeError
            self.fails = None
            raise kind(f"CUDA {place}")

    def end_allocation(self, pool):
        if pool not in self.recording:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
        self.recording.remove(pool)

    def release(self, pool):
        assert self.uses[pool] > 0, "released twice: the allocator is broken for good"
        self.uses[pool] -= 1

    def draw(self):
        """A dropout."""
        if self.generator_captures and self.captured_on is None:
            raise RuntimeError("Offset increment outside graph capture encountered unexpectedly.")

    @contextmanager
    def on(self, stream):
        before, self.stream = self.stream, stream
        try:
            yield
        finally:
            self.stream = before

    @property
    def is_clean(self):
        self.draw()
        pools = not self.recording and not +self.uses
        return pools and self.stream is self.default and self.captured_on is None and self.refuses == 0


class Stream:
    def __init__(self, name=0):
        self.name = name

    def wait_stream(self, other):
        pass


def graph_class(cuda):  # noqa: C901 (one class, which needs the device)
    class Graph:
        def __init__(self):
            self.ended, self.id = False, None

        def capture_begin(self, pool=None, **options):
            cuda.graphs += 1
            self.id = pool or (cuda.graphs, 0)
            cuda.generator_captures = True
            cuda.recording.add(self.id)
            cuda.uses[self.id] += 1
            cuda.fail_at("begin")
            cuda.captured_on = cuda.stream

        def capture_end(self):
            assert cuda.captured_on is cuda.stream
            cuda.captured_on = None
            cuda.fail_at("end")
            cuda.end_allocation(self.id)
            cuda.generator_captures, self.ended = False, True
            cuda.fail_at("instantiate")

        def pool(self):
            if not self.ended:
                raise RuntimeError("Called CUDAGraph::pool() without a preceding successful capture.")
            return self.id

        def reset(self):
            if self.ended:
                cuda.release(self.id)
            elif cuda.later and self.id is not None:
                cuda.generator_captures = False
                if self.id in cuda.recording:
                    cuda.end_allocation(self.id)
                cuda.release(self.id)
            self.ended, self.id = False, None

        def __del__(self):
            self.reset()

    return Graph


@pytest.fixture
def cuda(request, monkeypatch):
    """A stand-in for the device, whose next capture fails where the parameter says."""
    fails, later = request.param
    cuda = Cuda(fails, later)
    for name, value in {
        "current_stream": lambda *_: cuda.stream,
        "set_stream": lambda stream: setattr(cuda, "stream", stream),
        "stream": cuda.on,
        "Stream": Stream,
        "current_device": lambda: 0,
        "CUDAGraph": graph_class(cuda),
        "graph_pool_handle": lambda: (0, 7),
        "is_current_stream_capturing": lambda: cuda.captured_on is not None,
        "synchronize": lambda: None,
        "empty_cache": lambda: None,
        "get_sync_debug_mode": lambda: cuda.refuses,
        "set_sync_debug_mode": lambda mode: setattr(cuda, "refuses", 2 if mode == "error" else mode),
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch._C, "_host_emptyCache", lambda: None, raising=False)
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", lambda _, pool: cuda.end_allocation(pool), raising=False)
    monkeypatch.setattr(torch._C, "_cuda_releasePool", lambda _, pool: cuda.release(pool), raising=False)
    zeros = torch.zeros

    def on_the_host(*size, **options):
        return zeros(*size, **{name: value for name, value in options.items() if name != "device"})

    monkeypatch.setattr(torch, "zeros", on_the_host)
    capturing.side_streams.cache_clear()
    yield cuda
    capturing.side_streams.cache_clear()
    capturing._failed.clear()


def ways(*fails):
    return pytest.mark.parametrize("cuda", [(each, later) for each in fails for later in (False, True)], indirect=True)


@ways(*PLACES)
def test_after_a_capture_that_failed_the_device_is_as_if_none_had_been_tried(cuda):
    with pytest.raises(RuntimeError, match="CUDA"):
        capture(lambda: cuda.fail_at("middle"))
    gc.collect()
    assert cuda.is_clean


@ways("end", "end, out of memory")
def test_a_capture_that_an_error_has_broken_fails_at_its_end_too(cuda):
    def record():
        raise ValueError("the first")

    with pytest.raises(RuntimeError, match="CUDA end") as failure:
        capture(record)
    assert isinstance(failure.value.__context__, ValueError)
    assert cuda.is_clean


@ways(None)
def test_a_graph_that_was_captured_keeps_its_pool_until_it_is_dropped(cuda):
    graph = capture(cuda.draw)
    assert cuda.uses[0, 7] == 1
    del graph
    gc.collect()
    assert cuda.is_clean


@ways(None)
def test_captures_use_the_same_streams_over_and_over(cuda):
    seen = []
    for _ in range(3):
        capture(lambda: seen.append(cuda.stream))
    assert len({id(each) for each in seen}) == 1
    assert capturing.side_streams(0, 3)[:3] == capturing.side_streams(0, 2)


@ways(None)
def test_waits_are_refused_without_a_warning_and_allowed_again(cuda, monkeypatch):
    def warns(mode):
        warnings.warn("Synchronization debug mode is a prototype feature and does not yet detect all", stacklevel=1)
        cuda.refuses = 2 if mode == "error" else mode

    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", warns)
    with warnings.catch_warnings(action="error"):
        with refusing_waits(True):
            assert cuda.refuses == 2
        with pytest.raises(KeyError), refusing_waits(True):
            raise KeyError
    assert cuda.refuses == 0


@pytest.mark.short(6)
@ways(*PLACES)
def test_the_plain_loop_after_a_failed_capture_gives_the_numbers_of_one_that_never_tried(cuda, monkeypatch):
    workload = digits(model={"name": "mlp", "args": {"dropout": 0.3}})
    monkeypatch.setattr(ensemble, "_has_graphs", lambda workload: True)
    monkeypatch.setattr(cuda_graph, "host_states", tuple)  # here dropout draws on the host
    made, failed = [], []
    spied_on(monkeypatch, made)
    monkeypatch.setattr(CapturedEnsemble, "_step", failing_step(cuda, CapturedEnsemble._step))
    with workload.on_device():
        for each in make_ensembles(workload, LRS, [0, 7]):
            failed.append((each.engine, each.train(0, 20)[0]))
            assert not [alive for alive in made if alive() is not None], "the seeds that failed hold their memory"
        expected = [Trainer(workload, seed).train(0, LRS[:20]) for seed in (0, 7)]
    assert [losses for _, losses in failed] == expected
    place, *memory = request_of(cuda)
    why = (
        "the seeds do not fit on the device at once"
        if memory
        else f"the step cannot be captured: RuntimeError: CUDA {place}"
    )
    assert all(why in engine for engine, _ in failed), failed[0][0]
    assert cuda.is_clean


def request_of(cuda):
    return cuda.asked.split(", ")


def failing_step(cuda, step):
    cuda.asked = cuda.fails

    def taken(self, streams=()):
        step(self, streams)
        if cuda.captured_on is not None:
            cuda.fail_at("middle")

    return taken


def spied_on(monkeypatch, made):
    init = CapturedEnsemble.__init__

    def watched(self, *args, **options):
        made.append(weakref.ref(self))
        init(self, *args, **options)

    monkeypatch.setattr(CapturedEnsemble, "__init__", watched)


class Replayed:
    """A graph that is the recorded calls themselves."""

    def __init__(self, record):
        self.replay = record


def with_replays(monkeypatch):
    """Captures that succeed, in a process whose device is a CPU."""
    monkeypatch.setattr(ensemble, "_has_graphs", lambda workload: True)
    for module in (cuda_graph, cuda_evaluation):
        monkeypatch.setattr(module, "capture", Replayed)


@ways(None)
def test_a_capture_that_succeeds_trains_all_seeds_at_once_as_the_reference_does(cuda, monkeypatch):
    workload = digits()
    with_replays(monkeypatch)
    with workload.on_device():
        (both,) = make_ensembles(workload, LRS, [0, 7])
        assert both.engine == "one CUDA graph for a step of 2 seeds"
        expected = [Trainer(workload, seed).train(0, LRS) for seed in (0, 7)]
        np.testing.assert_allclose(both.train(0, 60), expected, rtol=2e-3, atol=2e-3)


@ways(None)
def test_an_evaluation_that_finds_no_room_beside_the_graph_falls_back_before_anything_is_measured(cuda, monkeypatch):
    def evaluate(trainer):
        raise torch.OutOfMemoryError("CUDA out of memory")

    workload = digits()
    with_replays(monkeypatch)
    monkeypatch.setattr(Trainer, "evaluate", evaluate)
    with workload.on_device():
        engines = [each.engine for each in make_ensembles(workload, LRS, [0, 7])]
    assert engines == ["eager: the seeds do not fit on the device at once"] * 2


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (RuntimeError("CUDA error: operation not permitted"), "RuntimeError: CUDA error: operation not permitted"),
        (torch.OutOfMemoryError("CUDA out of memory"), "they do not fit at once"),
    ],
)
@ways(None)
def test_an_evaluation_that_cannot_be_captured_costs_no_more_than_its_own_capture(cuda, monkeypatch, error, why):
    def fails(record):
        raise error

    with_replays(monkeypatch)
    monkeypatch.setattr(cuda_evaluation, "capture", fails)
    workload = digits()
    with workload.on_device():
        (both,) = make_ensembles(workload, LRS, [0, 7])
        assert both.engine.startswith(f"one CUDA graph for a step of 2 seeds; evaluations are not captured: {why}")
        both.train(0, 5)
        assert both.evaluate([1, 0]) == [both.members[place].evaluate() for place in (1, 0)]


class Gathered:
    """A metric of the whole held-out set: the share of classes that were guessed at all."""

    def __init__(self):
        self.seen = set()

    def reset(self):
        self.seen = set()

    def update(self, outputs, targets):
        self.seen |= set(outputs.argmax(1).tolist())

    def compute(self):
        return len(self.seen) / 10


@ways(None)
def test_a_metric_that_is_gathered_over_the_whole_set_is_evaluated_by_each_trainer(cuda, monkeypatch):
    with_replays(monkeypatch)
    workload = replace(digits(), measure=WholeSet(Gathered(), "metric"))
    with workload.on_device():
        (both,) = make_ensembles(workload, LRS, [0, 7])
        assert both.engine.endswith("; evaluations are not captured: the metric is one of the whole held-out set")
        both.train(0, 40)
        assert both.evaluate([0, 1]) == [each.evaluate() for each in both.members]


@ways(None)
def test_an_evaluation_that_goes_on_with_the_weights_of_its_capture_is_not_used(cuda, monkeypatch):
    class Frozen:
        def __init__(self, record):
            record()

        def replay(self):
            pass

    with_replays(monkeypatch)
    monkeypatch.setattr(cuda_evaluation, "capture", Frozen)
    workload = digits()
    with workload.on_device():
        (both,) = make_ensembles(workload, LRS, [0, 7])
        assert both.engine.endswith("; the captured evaluation is not that of the reference")
        both.train(0, 5)
        assert both.evaluate([0, 1]) == [each.evaluate() for each in both.members]


@ways(None)
def test_an_evaluation_of_all_seeds_is_read_in_one_transfer_and_is_that_of_each(cuda, monkeypatch):
    with_replays(monkeypatch)
    workload, read = digits(), torch.Tensor.tolist
    with workload.on_device():
        (both,) = make_ensembles(workload, LRS, [0, 7])
        both.train(0, 20)
        expected = [each.evaluate() for each in both.members]
        transfers = []
        monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: transfers.append(tensor.shape) or read(tensor))
        assert both.evaluate([0, 1]) == expected
        assert both.evaluate([]) == []
    assert transfers == [(2, 4)]


@ways(None)
def test_a_stretch_between_two_evaluations_waits_for_the_device_twice_however_many_seeds(cuda, monkeypatch):
    with_replays(monkeypatch)
    workload, waits = digits(), []
    with workload.on_device():
        (three,) = make_ensembles(workload, LRS, [0, 7, 8])
        for name in ("tolist", "item", "__float__", "__bool__", "__int__", "numpy", "cpu"):
            call = getattr(torch.Tensor, name)
            monkeypatch.setattr(
                torch.Tensor, name, lambda tensor, *args, call=call: waits.append(tensor.shape) or call(tensor, *args)
            )
        three.train(0, 5)
        three.evaluate([0, 1, 2])
        assert waits == [(3, 5), (3, 4)]


@ways(None)
def test_a_problem_is_captured_once_and_begins_again_with_other_seeds_and_rates_as_if_it_were_new(cuda, monkeypatch):
    with_replays(monkeypatch)
    seconds, workload = [], digits(model=BATCH_NORM, optimizer={"name": "Adagrad", "args": AT_FIRST})
    captures, others = Captures(seconds.append), LRS[::-1][:30]
    with workload.on_device():
        (first,) = make_ensembles(workload, LRS, [0, 7], captures=captures)
        first.train(0, 45)
        (again,) = make_ensembles(workload, others, [3, 4], captures=captures)
        assert again is first
        assert [member.seed for member in again.members] == [3, 4]
        losses = again.train(0, 30)
        found = again.evaluate([0, 1])
        references = [Trainer(workload, seed) for seed in (3, 4)]
        np.testing.assert_allclose(losses, [each.train(0, others) for each in references], rtol=2e-3, atol=2e-3)
        np.testing.assert_allclose(found, [each.evaluate() for each in references], atol=0.02)
        assert len(seconds) == 1
        (alone,) = make_ensembles(workload, LRS, [3], captures=captures)
        assert alone is not first
    assert len(seconds) == 2
    assert min(seconds) > 0


@ways(None)
def test_the_copy_of_the_first_weights_is_given_back_after_the_check_and_after_each_new_beginning(cuda, monkeypatch):
    kept, copies_of = [], cuda_slot.copies_of

    def noted(tensors):
        found = copies_of(tensors)
        kept.extend(weakref.ref(each) for each in found)
        return found

    with_replays(monkeypatch)
    monkeypatch.setattr(cuda_slot, "copies_of", noted)
    workload = digits()
    with workload.on_device():
        (both,) = make_ensembles(workload, LRS, [0, 7])
        assert len(kept) >= 8, "two seeds of four tensors"
        assert not [each for each in kept if each() is not None]
        assert both.begins_again(workload, [3, 4], LRS)
        assert all(not slot._start and not slot._optimizer_start for slot in both._slots)


@ways(None)
def test_a_seed_reaches_the_generators_of_one_gpu_alone_for_nobody_puts_back_the_others(cuda, monkeypatch):
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed", seeded.append)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("the others are somebody else's"))
    with fork_rng():
        seed_everything(5)
    assert seeded == [5]


@ways(None)
def test_memory_on_a_gpu_is_what_torch_keeps_for_itself_and_not_what_tensors_take(cuda, monkeypatch):
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 7)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1, 9))
    assert memory_use(torch.device("cuda")) == (7, 9)


@ways(None)
def test_what_could_not_be_captured_is_not_tried_again(cuda, monkeypatch):
    with_replays(monkeypatch)
    monkeypatch.setattr(CapturedEnsemble, "matches_reference", lambda ensemble: False)
    seconds, workload = [], digits()
    captures = Captures(seconds.append)
    with workload.on_device():
        for seeds in ([0], [0], [1, 2]):
            engines = {each.engine for each in make_ensembles(workload, LRS, seeds, captures=captures)}
            assert engines == {"eager: the captured step is not that of the reference"}
    assert len(seconds) == 1


@ways(None)
def test_a_test_tells_what_its_captures_took_and_counts_it_and_captures_a_scout_and_its_sweep_once(cuda, monkeypatch):
    with_replays(monkeypatch)
    begun, init = [], CapturedEnsemble.__init__
    monkeypatch.setattr(
        CapturedEnsemble, "__init__", lambda self, *args, **words: begun.append(args[1]) or init(self, *args, **words)
    )
    record = run_sweep(digits(), SweepConfig(epochs=1, evaluations=6, seeds=1))
    assert begun == [[0]]
    assert record.engine == "one CUDA graph for a step of 1 seeds"
    assert record.capture_seconds > 0
    assert record.seconds == record.train_seconds + record.evaluation_seconds + record.capture_seconds


def test_a_test_that_captures_nothing_tells_nothing_of_captures():
    record = run_sweep(digits(), SweepConfig(start_lr=1e-3, end_lr=0.1, epochs=0.2, evaluations=2, seeds=1))
    assert record.capture_seconds is None


@ways(None)
def test_a_dry_run_times_the_captured_step_as_a_range_test_takes_it(cuda, monkeypatch, tmp_path):
    with_replays(monkeypatch)
    trained, train = [], CapturedEnsemble.train
    monkeypatch.setattr(CapturedEnsemble, "train", lambda self, *place: trained.append(place) or train(self, *place))
    config = RangeTestConfig.model_validate({"model": {"name": "mlp"}, "data": {"name": "digits"}})
    told = estimate(digits(), config, tmp_path)
    assert sum(stop - start for start, stop in trained) == told.timed + WARM_UP
    assert told.checkpoint_bytes > 0


def test_a_dry_run_times_an_evaluation_that_is_no_longer_cold(monkeypatch, tmp_path):
    evaluate, cold = Trainer.evaluate, iter([0.2])

    def slow_at_first(trainer):
        time.sleep(next(cold, 0.0))
        return evaluate(trainer)

    monkeypatch.setattr(Trainer, "evaluate", slow_at_first)
    config = RangeTestConfig.model_validate({"model": {"name": "mlp"}, "data": {"name": "digits"}})
    assert estimate(digits(), config, tmp_path).evaluation_seconds < 0.2
