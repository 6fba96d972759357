"""Schedules of systems whose packages are extras, held against each package's own classes at every iteration."""

import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clrtool.core.sources import schedule_from
from tests.core.peers import (
    accelerate_rates,
    composer_rates,
    deepspeed_values,
    fastai_values,
    ignite_rates,
    mmengine_rates,
    paddle_rates,
    peer,
    schedule_free_rates,
    timm_rates,
    torchtune_rates,
)
from tests.core.tally import tally

STEPS = 130
# Each parameter set takes a loop of another system; before a release CLRTOOL_EXAMPLES=300 tries more of them.
many = settings(
    max_examples=int(os.environ.get("CLRTOOL_EXAMPLES", "20")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
rates = st.floats(1e-6, 10)
lengths = st.integers(1, 60)
shares = st.floats(0, 1)


def assert_equal(source, params, theirs, momenta=None, share=None):
    """Hold a schedule against another system's values, to ``share`` of the largest where that one has single digits."""
    schedule = schedule_from(source, params)
    for ours, values in ((schedule, theirs), (schedule.momentum, momenta)):
        if values is not None:
            tally(source if ours is schedule else f"{source}, momentum", params, ours(range(len(values))), values)
            near = {"rtol": 1e-9, "atol": 1e-12} if share is None else {"rtol": 0, "atol": share * max(values)}
            np.testing.assert_allclose(ours(range(len(values))), values, **near, err_msg=f"{params}")


def some(**values):
    """Parameter sets in which any of the values may be left to its default."""
    return st.fixed_dictionaries({}, optional=values)


@given(
    st.tuples(rates, rates),
    some(
        decay_lr_rate=shares, cycle_second_step_size=st.one_of(st.none(), st.integers(0, 60)),
        cycle_first_stair_count=st.integers(0, 70), cycle_second_stair_count=st.one_of(st.none(), st.integers(0, 70)),
        decay_step_size=st.integers(0, 60), cycle_momentum=st.booleans(), cycle_min_mom=shares, cycle_max_mom=shares,
        decay_mom_rate=shares,
    ),
    lengths,
)  # fmt: skip
@many
def test_one_cycle_of_deepspeed_is_deepspeeds(bounds, chosen, first):
    low, high = bounds
    params = {"cycle_min_lr": low, "cycle_max_lr": high, "cycle_first_step_size": first} | chosen
    lr, momenta = deepspeed_values("OneCycle", params, STEPS)
    assert_equal("deepspeed:OneCycle", params, lr, momenta if chosen.get("cycle_momentum", True) else None)


@given(
    rates, rates, st.integers(1, 90), lengths,
    some(warmup_type=st.sampled_from(["log", "linear", "other"])), shares, shares, st.booleans(),
)  # fmt: skip
@many
def test_the_warmups_and_the_range_test_of_deepspeed_are_deepspeeds(lr, other, total, warmup, kind, start, end, flag):
    warm = {"warmup_num_steps": warmup} | kind
    ends = {"warmup_min_lr": lr, "warmup_max_lr": other}
    cases = {
        "WarmupLR": warm | ends,
        "WarmupDecayLR": warm | ends | {"total_num_steps": total},
        "WarmupCosineLR": warm | {"total_num_steps": total, "warmup_min_ratio": start, "cos_min_ratio": end},
        "LRRangeTest": {"lr_range_test_min_lr": lr, "lr_range_test_step_size": warmup,
                        "lr_range_test_step_rate": other, "lr_range_test_staircase": flag},
    }  # fmt: skip
    for name, params in cases.items():
        theirs, _ = deepspeed_values(name, params, STEPS, lr=other)
        assert_equal(f"deepspeed:{name}", params | ({"base_lr": other} if name == "WarmupCosineLR" else {}), theirs)
    without = {name: value for name, value in cases["WarmupLR"].items() if name != "warmup_max_lr"}
    assert_equal(
        "deepspeed:WarmupLR", without | {"base_lr": other}, deepspeed_values("WarmupLR", without, STEPS, lr=other)[0]
    )


def test_a_warmup_of_deepspeed_begins_an_iteration_late_and_falls_back_to_its_minimum():
    params = {"total_num_steps": 20, "warmup_min_lr": 0.1, "warmup_max_lr": 0.2, "warmup_num_steps": 10}
    schedule = schedule_from("deepspeed:WarmupDecayLR", params | {"warmup_type": "linear"})
    assert schedule([0, 1, 2, 3]) == pytest.approx([0.1, 0.1, 0.11, 0.12])
    assert schedule([20, 21, 50]) == pytest.approx([0.11, 0.1, 0.1])


@given(
    rates, st.integers(1, 60), st.sampled_from([1.0, 1.0, 1.5, 2.0, 3.0]), st.floats(0.1, 1.2), st.integers(0, 4),
    some(warmup_t=st.integers(0, 40), warmup_lr_init=shares, warmup_prefix=st.booleans()), shares,
    st.sampled_from([1.0, 0.5, 2.0]), st.floats(0.3, 3), st.booleans(),
)  # fmt: skip
@many
def test_the_schedulers_of_timm_are_timms(lr, length, mul, decay, limit, warm, low, k, power, flag):
    cycles = {"t_initial": length, "lr_min": low, "cycle_mul": mul, "cycle_decay": decay, "cycle_limit": limit} | warm
    cases = {
        "CosineLRScheduler": cycles | {"k_decay": k},
        "PolyLRScheduler": cycles | {"k_decay": k, "power": power},
        "TanhLRScheduler": cycles | ({"lb": -6.0, "ub": 4.0} if flag else {}),
        "StepLRScheduler": {"decay_t": length, "decay_rate": decay} | warm,
        "MultiStepLRScheduler": {"decay_t": [length, length + 7, length + 9], "decay_rate": decay} | warm,
    }
    for name, params in cases.items():
        assert_equal(f"timm:{name}", params | {"base_lr": lr}, timm_rates(name, params, lr, STEPS))


@pytest.mark.parametrize(
    ("source", "params", "name"),
    [
        ("timm:PlateauLRScheduler", {"patience_t": 3}, "PlateauLRScheduler"),
        ("transformers:greedy", {"patience": 3}, "greedy"),
        ("transformers:reduce_lr_on_plateau", {"patience": 3}, "reduce_lr_on_plateau"),
        ("ignite:ReduceLROnPlateauScheduler", {"metric_name": "loss"}, "ReduceLROnPlateauScheduler"),
        ("torch:ReduceLROnPlateau", {"mode": "min", "factor": 0.1, "patience": 10}, "ReduceLROnPlateau"),
        ("paddle:ReduceOnPlateau", {"learning_rate": 0.1, "patience": 3}, "ReduceOnPlateau"),
        (
            "mmengine:param_scheduler",
            {"schedulers": [{"type": "ReduceOnPlateauLR", "monitor": "loss"}]},
            "ReduceOnPlateauLR",
        ),
    ],
)
def test_a_scheduler_that_follows_a_metric_is_refused_by_its_name_whatever_it_is_given(source, params, name):
    with pytest.raises(ValueError, match=f"{name} follows a metric"):
        schedule_from(source, params)


@given(
    rates, st.integers(1, 60), shares, st.sampled_from(["constant", "rsqrt", "power"]), st.floats(0.5, 40), st.floats(0.1, 2),
    st.sampled_from(["linear", "1-sqrt", "cosine", "power", "exp"]), st.floats(0.1, 3), st.floats(0.01, 0.9),
    st.integers(0, 30), st.data(),
)  # fmt: skip
@many
def test_the_warmup_stable_decay_of_timm_is_timms(
    lr, length, low, stable, scale, power, decay, bend, ratio, warmup, data
):
    if not hasattr(peer("timm.scheduler"), "WSDLRScheduler"):
        pytest.skip("this timm has no WSDLRScheduler")
    params = {"t_initial": length, "decay_t": data.draw(st.integers(1, length)), "lr_min": low * lr, "stable_fn": stable,
              "stable_power": power, "decay_fn": decay, "decay_power": bend, "decay_ratio": ratio, "warmup_t": warmup,
              "warmup_lr_init": low}  # fmt: skip
    params |= {"stable_timescale": scale} if not warmup or data.draw(st.booleans()) else {}
    assert_equal("timm:WSDLRScheduler", params | {"base_lr": lr}, timm_rates("WSDLRScheduler", params, lr, STEPS))


ignite_cycles = st.fixed_dictionaries(
    {"start_value": rates, "end_value": shares, "cycle_size": st.integers(2, 50)},
    optional={"cycle_mult": st.sampled_from([1.0, 1.3, 2.0]), "start_value_mult": shares, "end_value_mult": shares},
)
knots = st.lists(st.tuples(st.integers(0, 90), shares), min_size=1, max_size=5).map(sorted)
ignite_parts = st.one_of(
    ignite_cycles.map(lambda given: {"type": "CosineAnnealingScheduler"} | given),
    ignite_cycles.map(lambda given: {"type": "LinearCyclicalScheduler"} | given),
    st.builds(
        lambda given, warmup, kind: {"type": kind, "warmup_duration": warmup}
        | ({"monotonic": True} if kind.startswith("Linear") else {}) | given,
        ignite_cycles, st.integers(1, 30), st.sampled_from(["CosineAnnealingScheduler", "LinearCyclicalScheduler"]),
    ),
    knots.map(lambda pairs: {"type": "PiecewiseLinear", "milestones_values": pairs}),
)  # fmt: skip


@given(ignite_parts)
@many
def test_the_schedulers_of_ignite_are_ignites(part):
    params = {name: value for name, value in part.items() if name != "type"}
    assert_equal(f"ignite:{part['type']}", params, ignite_rates(part, 1.0, STEPS))


@given(st.lists(ignite_parts, min_size=2, max_size=4), st.lists(st.integers(1, 40), min_size=3, max_size=3))
@many
def test_schedulers_of_ignite_one_after_another_are_ignites(parts, durations):
    params = {"schedulers": parts, "durations": durations[: len(parts) - 1]}
    assert_equal("ignite:ConcatScheduler", params, ignite_rates({"type": "ConcatScheduler"} | params, 1.0, STEPS))


@given(
    ignite_parts, st.lists(ignite_parts, min_size=1, max_size=2), st.lists(st.integers(2, 20), min_size=4, max_size=4),
    st.sampled_from([
        {"type": "StepLR", "step_size": 7}, {"type": "ExponentialLR", "gamma": 0.9},
        {"type": "MultiStepLR", "milestones": [3, 3, 9], "gamma": 0.5}, {"type": "PolynomialLR", "total_iters": 12, "power": 2.0},
    ]),
    st.integers(0, 2), st.booleans(), rates,
)  # fmt: skip
@many
def test_a_scheduler_of_torch_among_others_of_ignite_begins_with_what_it_finds(
    first, later, durations, part, at, warm, lr
):
    wrapped = {"type": "LRScheduler", "lr_scheduler": part}
    parts = [first, *later]
    parts.insert(min(at, len(parts)), wrapped)
    if warm and first is not parts[0]:
        rise = {"lr_scheduler": first, "warmup_start_value": 0.0, "warmup_duration": 5}
        parts[1] = {"type": "create_lr_scheduler_with_warmup"} | rise
    params = {"schedulers": parts, "durations": durations[: len(parts) - 1]}
    theirs = ignite_rates({"type": "ConcatScheduler"} | params, lr, STEPS)
    assert_equal("ignite:ConcatScheduler", params | {"base_lr": lr}, theirs)


@given(
    st.integers(2, 40),
    shares,
    st.floats(0.05, 1),
    rates,
    st.floats(0.1, 3),
    st.sampled_from(["triangular", "exp_range"]),
)
@many
def test_a_scheduler_of_torch_wrapped_by_ignite_is_ignites(length, share, factor, lr, power, mode):
    for part in (
        {"type": "StepLR", "step_size": length, "gamma": share},
        {"type": "MultiStepLR", "milestones": [length, length, 2 * length], "gamma": share},
        {"type": "ExponentialLR", "gamma": share},
        {"type": "LinearLR", "total_iters": length, "start_factor": factor, "end_factor": share},
        {"type": "ConstantLR", "total_iters": length, "factor": factor},
        {"type": "PolynomialLR", "total_iters": length, "power": power},
        {"type": "CosineAnnealingLR", "T_max": length, "eta_min": lr * share},
        {"type": "CosineAnnealingWarmRestarts", "T_0": length, "T_mult": 1 + length % 3, "eta_min": lr * share},
        {"type": "CyclicLR", "base_lr": lr * share, "max_lr": lr, "step_size_up": length, "mode": mode, "gamma": 0.99,
         "cycle_momentum": False},
        {"type": "OneCycleLR", "max_lr": lr, "total_steps": 4 * length + 60, "cycle_momentum": False},
    ):  # fmt: skip
        params = {"lr_scheduler": part, "base_lr": lr}
        steps = 60 if part["type"] == "OneCycleLR" else STEPS
        theirs = ignite_rates({"type": "LRScheduler", "lr_scheduler": part}, lr, steps)
        assert_equal("ignite:LRScheduler", params, theirs)


@pytest.mark.parametrize(
    "later", [{"type": "CosineAnnealingLR", "T_max": 9}, {"type": "OneCycleLR", "max_lr": 1, "total_steps": 9}]
)
def test_what_a_scheduler_of_torch_makes_of_what_it_finds_is_refused_where_it_is_not_read(later):
    line = {"type": "PiecewiseLinear", "milestones_values": [[0, 0.1], [5, 1.0]]}
    inside = {"type": "LRScheduler", "lr_scheduler": later}
    two = [{"type": "LRScheduler", "lr_scheduler": {"type": "StepLR", "step_size": 3}}, inside]
    nested = [line, {"type": "ConcatScheduler", "schedulers": [inside, line], "durations": [4]}]
    for schedulers in ([line, inside], two, nested):
        with pytest.raises(ValueError, match="ConcatScheduler"):
            schedule_from("ignite:ConcatScheduler", {"schedulers": schedulers, "durations": [5]})


@given(
    st.one_of(ignite_parts, st.sampled_from([{"type": "StepLR", "step_size": 7}, {"type": "ExponentialLR", "gamma": 0.9}])),
    shares, st.integers(2, 40), st.one_of(st.none(), shares), rates,
)  # fmt: skip
@many
def test_a_scheduler_of_ignite_with_a_warmup_is_ignites(part, start, duration, end, lr):
    params = {"lr_scheduler": part, "warmup_start_value": start, "warmup_duration": duration, "warmup_end_value": end}
    theirs = ignite_rates({"type": "create_lr_scheduler_with_warmup"} | params, lr, STEPS)
    assert_equal("ignite:create_lr_scheduler_with_warmup", params | {"base_lr": lr}, theirs)


@given(rates, st.integers(2, 30), st.integers(2, 60), st.floats(0.05, 1), st.floats(0.1, 3), st.booleans())
@many
def test_lists_of_schedulers_of_mmengine_are_mmengines(lr, warmup, length, share, power, ends):
    rise = {"type": "LinearLR", "start_factor": share, "begin": 0, "end": warmup}
    window = {"begin": warmup} | ({"end": warmup + length} if ends else {})
    low = lr * share / 3
    for later in (
        {"type": "CosineAnnealingLR", "T_max": length, "eta_min": low} | window,
        {"type": "PolyLR", "eta_min": low, "power": power, "begin": warmup, "end": warmup + length},
        {"type": "MultiStepLR", "milestones": [length // 2, length], "gamma": share} | window,
        {"type": "MultiStepLR", "milestones": [1, warmup, length], "gamma": share},
        {"type": "StepLR", "step_size": length, "gamma": share} | window,
        {"type": "ExponentialLR", "gamma": 1 - share / 10} | window,
        {"type": "ConstantLR", "factor": share, "begin": warmup, "end": warmup + length},
        {"type": "CosineRestartLR", "periods": [length, 200], "restart_weights": [1, share], "eta_min": low} | window,
    ):
        steps = warmup + length if later["type"] == "PolyLR" else STEPS
        parts = [rise, later]
        theirs = mmengine_rates(parts, lr, steps)
        assert_equal("mmengine:param_scheduler", {"schedulers": parts, "base_lr": lr}, theirs)


@given(
    rates, st.integers(2, 30), st.integers(1, 9), st.integers(1, 12), shares, st.floats(0.05, 1), st.booleans(),
    st.booleans(),
)  # fmt: skip
@many
def test_schedulers_of_mmengine_by_epoch_after_a_warmup_by_iteration_are_mmengines(
    lr, warmup, per_epoch, length, share, factor, converts, drops
):
    warm = {"type": "LinearLR", "start_factor": factor, "by_epoch": False, "begin": 0, "end": warmup}
    drop = {"type": "StepLR", "step_size": 1, "gamma": factor, "begin": 0, "end": 3, "by_epoch": False}
    begin = -(-warmup // per_epoch)
    window = {"begin": begin, "end": begin + length + 1} | ({"convert_to_iter_based": True} if converts else {})
    for later in (
        {"type": "MultiStepLR", "milestones": [length, length + 2], "gamma": share},
        {"type": "CosineAnnealingLR", "T_max": length, "eta_min_ratio": share} | window,
        {"type": "CosineAnnealingLR", "T_max": max(1, length // 2), "eta_min": lr * share / 2} | window,
        {"type": "PolyLR", "eta_min": lr * share} | window,
        {"type": "CosineRestartLR", "periods": [length, 2], "restart_weights": [share, 1], "eta_min_ratio": 0.1} | window,
        {"type": "OneCycleLR", "eta_max": lr, "total_steps": 9 * length + 60, "pct_start": 0.4} | window,
    ):  # fmt: skip
        parts = [drop] * (drops and warmup > 3) + [warm, later]
        theirs = mmengine_rates(parts, lr, STEPS, per_epoch)
        params = {"schedulers": parts, "base_lr": lr, "epoch_length": per_epoch}
        assert_equal("mmengine:param_scheduler", params, theirs)


@pytest.mark.parametrize(
    "parts",
    [
        [{"type": "LinearLR", "by_epoch": False, "end": 500}, {"type": "MultiStepLR", "milestones": [8, 11]}],
        [{"type": "CosineAnnealingLR", "T_max": 8, "convert_to_iter_based": True}],
        [{"type": "CosineAnnealingLR", "by_epoch": False}],
        [{"type": "LinearLR", "by_epoch": False}],
    ],
)
def test_what_mmengine_takes_from_the_training_has_to_be_said(parts):
    with pytest.raises(ValueError, match=r"give epoch_length|give its end"):
        schedule_from("mmengine:param_scheduler", {"schedulers": parts})


@given(rates, st.integers(1, 20), st.integers(2, 8), st.integers(0, 12), shares, st.floats(0.1, 3), st.booleans())
@many
def test_the_schedulers_of_composer_are_composers(lr, per_epoch, epochs, warmup, share, power, in_epochs):
    max_duration = f"{epochs}ep" if in_epochs else f"{epochs * per_epoch}ba"
    time = f"{share:.3f}dur" if int(float(f"{share:.3f}") * epochs * per_epoch) else "1ba"
    warm = {"t_warmup": f"{warmup}ba"}
    cases = {
        "StepScheduler": {"step_size": time, "gamma": share},
        "MultiStepScheduler": {"milestones": [time, "1ep", f"{epochs}ba"], "gamma": share},
        "ConstantScheduler": {"alpha": share, "t_max": time},
        "LinearScheduler": {"alpha_i": power, "alpha_f": share, "t_max": time},
        "ExponentialScheduler": {"gamma": share + 0.1, "decay_period": "1ep"},
        "CosineAnnealingScheduler": {"alpha_f": share, "t_max": time},
        "CosineAnnealingWarmRestartsScheduler": {"t_0": time, "t_mult": 1 + power, "alpha_f": share},
        "PolynomialScheduler": {"power": power, "alpha_f": share, "t_max": time},
        "MultiStepWithWarmupScheduler": warm | {"milestones": [time, "1ep"], "gamma": share},
        "ConstantWithWarmupScheduler": warm | {"alpha": share},
        "LinearWithWarmupScheduler": warm | {"alpha_i": power, "alpha_f": share},
        "CosineAnnealingWithWarmupScheduler": warm | {"alpha_f": share},
        "PolynomialWithWarmupScheduler": warm | {"power": power, "alpha_f": share},
    }
    for name, params in cases.items():
        length = {"max_duration": max_duration, "batches_per_epoch": per_epoch}
        theirs = composer_rates(name, params, lr, max_duration, per_epoch, epochs * per_epoch)
        assert_equal(f"composer:{name}", params | length | {"base_lr": lr}, theirs)


def test_a_part_of_an_epoch_is_refused_as_composer_refuses_it():
    with pytest.raises(ValueError, match="whole number of epochs"):
        schedule_from("composer:ExponentialScheduler", {"gamma": 0.5, "decay_period": "1.5ep", "batches_per_epoch": 11})


@given(
    rates, st.integers(1, 4), st.integers(1, 30),
    some(div=st.floats(1, 100), div_final=st.floats(1, 1e6), pct_start=st.floats(0.1, 0.9), moms=st.tuples(*[st.floats(0, 0.99)] * 3)),
)  # fmt: skip
@many
def test_the_fits_of_fastai_are_fastais(lr, epochs, batches, chosen):
    lengths = {"n_epoch": epochs, "n_iter": batches}
    one = {"lr_max": lr} | chosen
    assert_equal(
        "fastai:fit_one_cycle", one | lengths, *fastai_values("fit_one_cycle", one, epochs, batches), share=5e-6
    )
    flat = {"lr": lr} | {name: value for name, value in chosen.items() if name in ("div_final", "pct_start")}
    assert_equal(
        "fastai:fit_flat_cos", flat | lengths, fastai_values("fit_flat_cos", flat, epochs, batches)[0], share=5e-6
    )


@given(rates, st.integers(1, 4), st.integers(1, 2), st.integers(2, 3), st.integers(1, 4))
@many
def test_restarts_of_fastai_are_fastais(lr, cycles, length, mult, batches):
    params = {"n_cycles": cycles, "cycle_len": length, "cycle_mult": mult, "lr_max": lr}
    try:
        theirs = fastai_values(
            "fit_sgdr", {name: params[name] for name in ("cycle_len", "cycle_mult", "lr_max")}, cycles, batches
        )
    except AssertionError:  # of shares that do not add up to 1
        with pytest.raises(ValueError, match="add up to no 1"):
            schedule_from("fastai:fit_sgdr", params | {"n_iter": batches})
        return
    assert_equal("fastai:fit_sgdr", params | {"n_iter": batches}, theirs[0], share=5e-6)


@given(rates, st.integers(0, 60), st.integers(0, 100), some(num_cycles=st.just(0.0) | st.floats(0.01, 4)))
@many
def test_the_cosine_of_torchtune_is_torchtunes(lr, warmup, total, chosen):
    params = {"num_warmup_steps": warmup, "num_training_steps": total} | chosen
    assert_equal(
        "torchtune:get_cosine_schedule_with_warmup", params | {"base_lr": lr}, torchtune_rates(params, lr, STEPS)
    )


@given(some(lr=rates, warmup_steps=st.integers(0, 150)))
@many
def test_the_warmup_of_schedule_free_is_its_own(chosen):
    assert_equal("schedulefree:SGDScheduleFree", chosen, schedule_free_rates(chosen, STEPS))


@given(
    rates, lengths, shares, st.integers(1, 5), st.booleans(), st.sampled_from(["cos", "linear"]), st.floats(0.1, 0.8)
)
@many
def test_what_accelerate_steps_is_stepped_as_by_accelerate(lr, length, share, processes, split, anneal, pct_start):
    for part in (
        {"type": "StepLR", "step_size": length, "gamma": share},
        {"type": "CosineAnnealingLR", "T_max": 10 * length, "eta_min": lr * share},
        {"type": "LinearLR", "total_iters": length},
        {"type": "OneCycleLR", "max_lr": lr, "total_steps": 30 + 5 * length, "pct_start": pct_start,
         "anneal_strategy": anneal, "cycle_momentum": False},
    ):  # fmt: skip
        steps = 30 if split else STEPS  # torch refuses a step past a one cycle, and accelerate keeps from it
        theirs = accelerate_rates(part, lr, steps, processes, split)
        stepping = {"num_processes": processes, "split_batches": split}
        assert_equal("accelerate:AcceleratedScheduler", {"scheduler": part, "base_lr": lr} | stepping, theirs)


@given(
    rates, shares, lengths, st.floats(0.01, 0.99), st.integers(30, 130), st.floats(0.1, 0.49), st.booleans(),
    st.sampled_from(["triangular", "triangular2", "exp_range"]), st.sampled_from(["cos", "linear"]), st.integers(1, 3),
)  # fmt: skip
@many
def test_the_schedules_of_paddle_are_paddles(lr, low, length, share, total, pct, flag, mode, anneal, mult):
    parts = [
        {"type": "PiecewiseDecay", "boundaries": [length, length + 9], "values": [lr, low, share]},
        {"type": "NaturalExpDecay", "learning_rate": lr, "gamma": share},
        {"type": "NoamDecay", "learning_rate": lr, "d_model": total, "warmup_steps": length},
        {"type": "MultiplicativeDecay", "learning_rate": lr, "lr_lambda": lambda x: 1 - share / (1 + x)},
        {"type": "InverseTimeDecay", "learning_rate": lr, "gamma": share},
        {"type": "PolynomialDecay", "learning_rate": lr, "decay_steps": length, "end_lr": low, "power": pct * 4, "cycle": flag},
        {"type": "ExponentialDecay", "learning_rate": lr, "gamma": share},
        {"type": "MultiStepDecay", "learning_rate": lr, "milestones": [length, length + 9], "gamma": share},
        {"type": "StepDecay", "learning_rate": lr, "step_size": length, "gamma": share},
        {"type": "CosineAnnealingWarmRestarts", "learning_rate": lr, "T_0": length, "T_mult": mult, "eta_min": low},
        {"type": "LinearLR", "learning_rate": lr, "total_steps": length, "start_factor": share, "end_factor": low},
        {"type": "CyclicLR", "base_learning_rate": low, "max_learning_rate": lr, "step_size_up": length,
         "step_size_down": total, "mode": mode, "exp_gamma": share},
        {"type": "OneCycleLR", "max_learning_rate": lr, "total_steps": total, "end_learning_rate": low,
         "phase_pct": pct, "anneal_strategy": anneal, "three_phase": flag},
    ]  # fmt: skip
    parts += [
        {"type": "LinearWarmup", "learning_rate": later, "warmup_steps": length, "start_lr": 0.0, "end_lr": lr}
        for later in (lr, *(part for part in parts if "learning_rate" in part))
    ]
    for part in parts:
        params = {name: value for name, value in part.items() if name != "type"}
        assert_equal(
            f"paddle:{part['type']}", params, paddle_rates(part, total if part["type"] == "OneCycleLR" else STEPS)
        )


@pytest.mark.parametrize(("length", "mult"), [(1, 2), (1, 3), (1, 5), (2, 3), (3, 3), (1, 10), (7, 2), (1, 6)])
def test_restarts_of_paddle_after_a_warmup_are_where_its_logarithm_has_them(length, mult):
    fall = {"type": "CosineAnnealingWarmRestarts", "learning_rate": 0.5, "T_0": length, "T_mult": mult, "eta_min": 0.1}
    params = {"learning_rate": fall, "warmup_steps": 3, "start_lr": 0.0, "end_lr": 0.5}
    assert_equal("paddle:LinearWarmup", params, paddle_rates({"type": "LinearWarmup"} | params, 2500))


@given(rates, st.integers(2, 60), shares)
@many
def test_the_cosine_of_paddle_is_paddles(lr, length, share):
    """From the last learning rate it works out the next, so that its own errors add up."""
    params = {"learning_rate": lr, "T_max": length, "eta_min": lr * share}
    assert_equal(
        "paddle:CosineAnnealingDecay",
        params,
        paddle_rates({"type": "CosineAnnealingDecay"} | params, STEPS),
        share=1e-6,
    )
