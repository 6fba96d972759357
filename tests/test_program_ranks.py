"""``clrtool.range_test`` in a program that trains on several ranks: as one process that sees the whole batch.

The long form tries more of the ways to spread a model, and lets four ranks decide.
"""

import json
import math
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import LONG
from tests.program_ranks import decided, stepped, trained
from tests.ranks import ended, start

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.long
WAYS = ("plain", "ddp", "fsdp")
LARGE = ["fsdp 2", "mixed"] + ["fsdp", "ddp 2", "checkpointed", "compiled"] * LONG
OF_TWO = [f"trained reader {way}" for way in ("plain", "fsdp")] + ["trained dense root"]
OF_TWO += ["accumulated dense ddp", "stepped norms tensor"]
OF_TWO += ["decided dense plain", "decided reader fsdp"]  # a race, and a sweep of shards
OF_TWO += [f"alike {each}" for each in LARGE]
OF_TWO += [f"{kind} dense {way}" for kind in ("estimated", "compared") for way in ("plain", "fsdp")]
OF_TWO += ["estimated dense ddp", "refused dense fsdp"]
OF_FOUR = [f"trained reader {way}" for way in ("fsdp", "hybrid", "tensor fsdp")] + ["kept reader fsdp"]
if LONG:  # a range test of its own for each decision, and four ranks on two cores take their time
    OF_TWO += [f"trained dense {way}" for way in WAYS] + [
        "trained reader ddp",
        "trained reader tensor",
        "decided dense ddp",
        "decided dense fsdp",
        "decided dense tensor",
    ]
    OF_TWO += ["accumulated reader fsdp", "trained norms tensor", "halves single ddp", "kept reader fsdp"]
    OF_FOUR += ["trained dense fsdp", "trained dense tensor ddp", "trained reader tensor hybrid fsdp"]
    OF_FOUR += [
        "decided dense hybrid",
        "decided reader fsdp",
        "decided dense tensor fsdp",
        "decided reader tensor fsdp",
    ]


def found(world, calls):
    """What each of several ranks has found, over gloo."""
    codes, printed = ended(start(world, "-W", "ignore", "-m", "tests.program_ranks", *calls, cwd=ROOT))
    assert codes == [0] * world, printed
    return [json.loads(out) for out, _ in printed]


@pytest.fixture(scope="module")
def two():
    return found(2, OF_TWO)


@pytest.fixture(scope="module")
def four():
    return found(4, OF_FOUR)


@cache
def alone(call):
    kind, name, *_ = call.split(maxsplit=2)
    options = {"precision": "bf16"} if kind == "halves" else {}
    return {"trained": trained, "accumulated": trained, "stepped": stepped}.get(kind, decided)(name, **options)


def check_trained(call, ranks):
    one = alone(call)
    for each in (rank[call] for rank in ranks):
        for mine, theirs in zip(one["weights"], each["weights"], strict=True):
            np.testing.assert_allclose(theirs, mine, rtol=0, atol=1e-10)
        for mine, theirs in zip(one["losses"], each["losses"], strict=True):
            np.testing.assert_allclose(theirs, mine, rtol=1e-6)
        np.testing.assert_allclose(each["found"], one["found"], rtol=1e-9)
        assert each["constant"] == (one["constant"] and pytest.approx(one["constant"], rel=1e-6))
    assert all(rank[call] == ranks[0][call] for rank in ranks)


def check_decided(call, ranks):
    one, first = alone(call), ranks[0][call]
    assert first["max_lr"] == one["max_lr"] is not None
    assert (first["base_lr"], first["verdict"]) == (one["base_lr"], one["verdict"])
    assert (first["heldout"], first["chance"]) == (one["heldout"], one["chance"])
    assert first["metric"] == pytest.approx(one["metric"])
    if call.split()[1] == "dense":  # a sweep alone has no constant answer
        assert first["constant"] == pytest.approx(one["constant"], rel=1e-6)
    else:
        assert first["constant"] is one["constant"] is None
    assert [each[:2] for each in first["probes"]] == [each[:2] for each in one["probes"]]
    assert first["environment"]["ranks"] == len(ranks)
    assert first["environment"].get("tensor_parallel") == (2 if "tensor" in call else None)
    for rank in ranks:
        assert all(rank[call][name] == first[name] for name in ("base_lr", "max_lr", "verdict", "probes", "warnings"))
        assert first["warnings"] == []


def check_untouched(call, ranks):
    for each in (rank[call] for rank in ranks):
        assert each["same"], "weights and modes"
        assert each["gradients"] == 0
        assert each["draws"] == alone(call)["draws"], "global generators"
        assert each["open"] == 0, "process groups, beside those of the program"
        assert each["sharded"] == (call.split()[2] not in ("plain", "ddp"))


@pytest.mark.parametrize("call", [each for each in OF_TWO if each.startswith(("trained", "accumulated", "stepped"))])
def test_runs_in_turn_of_two_ranks_come_to_the_weights_of_one_process(two, call):
    """In one step of all samples or the gradients of two batches on each rank; of outputs that they share, too."""
    check_trained(call, two)


@pytest.mark.parametrize("way", LARGE)
def test_what_large_models_are_trained_with_is_trained_as_by_the_programs_own_loop(two, way):
    """Accumulation, with no_sync() of DDP, bfloat16 before weights in float32, checkpointed activations, compiled blocks."""
    for each in (rank[f"alike {way}"] for rank in two):
        assert each["far"] == 0
        assert each["moved"] > 0.01
        assert each["type"] == ("torch.float32" if way == "mixed" else "torch.float64")


@pytest.mark.short(0)
@pytest.mark.parametrize("call", [each for each in OF_FOUR if each.startswith("trained")])
def test_runs_in_turn_of_four_ranks_with_shards_come_to_the_weights_of_one_process(four, call):
    check_trained(call, four)


@pytest.mark.short(0)
def test_two_ranks_that_compute_in_bfloat16_make_one_decision_and_within_a_doubling_that_of_one_process(two):
    first, second = (rank["halves single ddp"] for rank in two)
    one = alone("halves single ddp")
    assert first == second
    assert one["max_lr"] / 2 <= first["max_lr"] <= one["max_lr"] * 2
    assert first["probes"][0][:2] == one["probes"][0][:2]
    for each in (first, one):  # which rounds the same run by less, but in another way
        assert each["probes"][0][2] == pytest.approx(alone("decided single")["probes"][0][2], rel=0.02)
        assert each["probes"][0][2] != alone("decided single")["probes"][0][2]


@pytest.mark.parametrize("call", [each for each in OF_TWO if each.startswith("decided")])
def test_two_ranks_of_a_program_decide_as_one_process_and_leave_all_as_it_was(two, call):
    check_decided(call, two)
    check_untouched(call, two)


@pytest.mark.short(0)
@pytest.mark.parametrize("call", [each for each in OF_FOUR if each.startswith("decided")])
def test_four_ranks_with_shards_decide_as_one_process_and_leave_all_as_it_was(four, call):
    check_decided(call, four)
    check_untouched(call, four)


@pytest.mark.short(0)
def test_of_a_sharded_model_a_rank_keeps_its_share_of_weights_optimizer_average_and_start(two, four):
    for ranks in (two, four):
        found = [rank["kept reader fsdp"] for rank in ranks]
        whole = found[0]["whole"]  # the optimizer has two moments, and there are two trainers
        assert [sum(each) for each in zip(*(each["mine"] for each in found), strict=True)] == [
            2 * whole, 2 * whole, whole
        ]  # fmt: skip
        assert all(each["mine"][2] < 1.2 * whole / len(ranks) for each in found), "as even as tables of 7 rows allow"


def test_a_dry_run_of_several_ranks_tells_all_the_same_and_less_memory_where_they_share_the_model(two):
    plain, fsdp = ([rank[f"estimated dense {way}"] for rank in two] for way in ("plain", "fsdp"))
    assert plain[0] == plain[1]
    for whole, mine, other in zip(plain, fsdp, fsdp[::-1], strict=True):
        assert (mine["parameters"], mine["race"]) == (whole["parameters"], whole["race"])
        assert (mine["timed"], mine["ranks"]) == (other["timed"], other["ranks"])
        assert 0 < mine["held_bytes"] < whole["held_bytes"]
        for each in (whole, mine):
            times, peaks = ([rank[name] for rank in each["ranks"]] for name in ("iteration_seconds", "peak_bytes"))
            # the median of what the ranks take on average, which need not lie between their medians
            assert min(times) / 2 <= each["iteration_seconds"] <= 2 * max(times)
            assert each["peak_bytes"] == max(peaks)


@pytest.mark.parametrize("way", ["plain", "ddp", "fsdp"])
def test_a_dry_run_counts_what_goes_over_the_network_as_the_profiler_and_as_follows_from_the_parameters(two, way):
    layers = ((6, 13), (13, 13), (13, 3))  # of float64; rows of a shard are filled up to as many on both ranks
    shapes = [shape for put, out in layers for shape in ((out, put), (out,))]
    padded = 8 * sum((rows + rows % 2) * math.prod(rest) for rows, *rest in shapes)
    whole = 8 * sum(map(math.prod, shapes))
    loss, flags = 8, 1 if way == "fsdp" else 1 + len(shapes)  # whether all ranks have a loss, and each gradient
    expected = [padded, 2 * padded] if way == "fsdp" else [whole, 0]  # forward and backward gather the weights
    for rank in two:
        found = rank[f"estimated dense {way}"]
        for each in found["ranks"]:
            assert [each["reduced_bytes"], each["gathered_bytes"]] == found["profiled"]
        assert found["profiled"] == [expected[0] + loss + flags, expected[1]]


def test_a_comparison_of_several_ranks_has_one_winner_for_all_whole_or_sharded(two):
    first = two[0]["compared dense plain"]
    assert first[0] in ("one_cycle", "fixed:0.05")
    for rank in two:
        assert rank["compared dense plain"] == first
        assert rank["compared dense fsdp"] == first


def test_what_does_not_go_with_ranks_or_shards_is_refused_on_all_of_them_with_a_way_out(two):
    for rank in two:
        vary, jobs, fp16, metric, length, apart, flat, wrapped, alone, read, made = rank["refused dense fsdp"]
        assert vary.startswith("vary: runs in one process")
        assert jobs == "jobs: 2 ranks train each seed together: leave out jobs"
        assert fp16 == "precision: fp16 scales losses, which a sharded model does not allow: use bf16"
        assert metric.startswith("measure: accuracy needs the whole held-out set, but each of 2 ranks")
        assert apart.startswith("step: the model's outputs are spread by tensor parallelism")
        assert "under `with loss_parallel():`" in apart
        assert flat.startswith("model: is in FullyShardedDataParallel, the older FSDP")
        assert wrapped.startswith("model: its DistributedDataParallel averages gradients over 1 of 2 ranks")
        assert alone.startswith("model: fully_shard spreads it over the ranks [0], and 2 take batches of their own")
        assert read.startswith("train_loader: the model is spread by tensor parallelism, whose ranks share each batch")
        assert made == "model: is spread by tensor parallelism: give it itself, not a function that makes one"
        assert length.startswith("the ranks do not have the same length of the training")


def test_the_block_of_the_guide_plans_for_a_sharded_transformer():
    codes, printed = ended(start(2, "-W", "ignore", "-m", "tests.program_ranks", "page", cwd=ROOT))
    assert codes == [0, 0], printed
    (base_lr, max_lr, first), other = (json.loads(out) for out, _ in printed)
    assert [base_lr, max_lr, first] == other
    assert base_lr < max_lr
    assert first == [base_lr]


@pytest.mark.parametrize("way", ["plain", "fsdp"])
def test_a_rank_that_is_killed_is_a_machine_error_of_the_others(way):
    call = f"failing dense {way} killed"
    codes, printed = ended(start(2, "-W", "ignore", "-m", "tests.program_ranks", call, cwd=ROOT))
    assert codes == [0, -9], printed
    kind, text, code = json.loads(printed[0][0])[call]
    assert (kind, code) == ("MachineError", 4)
    assert "a rank was lost" in text


def test_a_rank_that_fails_says_in_what_and_the_others_that_one_was_lost():
    call = "failing dense plain raises"
    codes, printed = ended(start(2, "-W", "ignore", "-m", "tests.program_ranks", call, cwd=ROOT))
    assert codes == [0, 0], printed
    first, last = (json.loads(out)[call] for out, _ in printed)
    assert first[0] == "MachineError"
    assert last[:2] == ["ArithmeticError", "of its own"]
