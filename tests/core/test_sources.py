"""Schedules read in other systems' words, against those systems themselves and against their recorded values."""

import json
import math
import os
import warnings

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from clrtool.core.sources import SOURCES, find_source, schedule_from
from tests.conftest import LONG
from tests.core.systems import keras_rates, optax_joined, optax_rates, torch_rates, transformers_rates
from tests.core.tally import tally

LR = "torch.optim.lr_scheduler."
rates = st.floats(1e-6, 10)
counts = st.integers(1, 200)
shares = st.floats(0.05, 1.0)
STEPS = 160


def examples(number):
    """So many in the long form and a third in the short one, or as many as CLRTOOL_EXAMPLES says, for a release."""
    number = number if LONG else number // 3
    return settings(max_examples=int(os.environ.get("CLRTOOL_EXAMPLES", number)), deadline=None)


def assert_close(source, params, ours, theirs, atol=1e-12):
    tally(source, params, ours, theirs)
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=atol, err_msg=f"{source} {params}")


def assert_equal(source, params, theirs, momentum=None):
    schedule = schedule_from(source, params)
    assert_close(source, params, schedule(range(len(theirs))), theirs)
    if momentum is not None:
        np.testing.assert_allclose(schedule.momentum(range(len(momentum))), momentum, rtol=1e-9)


def nine_digits(values):
    """What the ninth digit of a number leaves open: the recorded values have no more."""
    return 0.5 * 10.0 ** (np.floor(np.log10(np.maximum(np.abs(values), 1e-300))) - 8)


# Where float32 adds 1 to a cosine near -1, or takes a high power, its last digit is worth more than 2e-6 of the result.
# The same library in float64 agrees to 1e-9 at the same parameters (below), and so does torch for the Addons' case.
def cancels(case):
    params = case["params"]
    return (
        (case["source"].endswith("CosineDecayRestarts") and params["t_mul"] == 1)
        or case["source"] == "optax.cosine_onecycle_schedule"
        or (params.get("scale_fn") == "lambda x: 0.994**x" and params["step_size"] == 20)
    )


def test_every_recorded_case_is_reproduced_at_every_iteration(shared):
    cases = json.loads((shared / "reference" / "schedules.json").read_text())["cases"]
    assert len(cases) == 45
    for case in cases:
        schedule = schedule_from(case["source"], case["params"])
        single = case.get("note") == "float32"
        for ours, name in ((schedule, "lr"), (schedule.momentum, "momentum")):
            if name not in case:
                continue
            recorded = np.array(case[name])
            allowed = (2e-6 if single else 1e-9) * np.abs(recorded) + 1e-12 + nine_digits(recorded)
            if single and cancels(case):
                allowed += np.finfo(np.float32).eps * recorded.max()
            assert np.all(np.abs(ours(range(len(recorded))) - recorded) <= allowed), (
                case["source"],
                case["params"],
                name,
            )


def test_momentum_is_none_where_a_schedule_leaves_it_alone():
    assert schedule_from("torch:StepLR", {"step_size": 3}).momentum([0]) is None
    assert (
        schedule_from("torch:CyclicLR", {"base_lr": 0.1, "max_lr": 0.2, "cycle_momentum": False}).momentum([0]) is None
    )


@given(
    rates, rates, counts, st.one_of(st.none(), counts), st.sampled_from(["triangular", "triangular2", "exp_range"]),
    st.floats(0.9, 1.0), st.floats(0.1, 0.5), st.floats(0.5, 0.99),
)  # fmt: skip
def test_cyclic_lr_is_torchs(one, other, up, down, mode, gamma, low, high):
    params = {
        "base_lr": min(one, other), "max_lr": max(one, other), "step_size_up": up, "step_size_down": down,
        "mode": mode, "gamma": gamma, "base_momentum": low, "max_momentum": high,
    }  # fmt: skip
    assert_equal("torch:CyclicLR", params, *torch_rates("CyclicLR", params, STEPS))


@given(counts, st.sampled_from(["cycle", "iterations"]), st.sampled_from([
    "lambda x: 1/(2.**(x-1))", "1./((1/math.log(2))**(x-1))", "0.5*(1+sin(x*math.pi/2.))", "exp(-x / 50)", "1/(5**(x*0.01))",
    "max(0, 1 - x / 100)", "abs(cos(x)) % 1",
]))  # fmt: skip
def test_a_scale_written_as_text_is_the_python_function_of_the_same_text(up, scale_mode, text):
    assume("(x-1)" not in text or scale_mode == "cycle")  # at iteration 0 it is above 1
    words = {name: getattr(math, name) for name in ("sin", "cos", "exp")} | {"math": math}
    function = eval(text if text.startswith("lambda") else f"lambda x: {text}", words)  # noqa: S307
    params = {"base_lr": 0.1, "max_lr": 0.7, "step_size_up": up, "scale_mode": scale_mode}
    theirs = torch_rates("CyclicLR", params | {"scale_fn": function}, STEPS)
    assert_equal("torch:CyclicLR", params | {"scale_fn": text}, *theirs)


@given(
    rates, st.integers(2, 200), st.floats(0, 1), st.sampled_from(["cos", "linear"]), st.booleans(),
    st.floats(1, 100), st.floats(1, 1e5), st.floats(0.1, 0.5), st.floats(0.5, 0.99),
)  # fmt: skip
def test_one_cycle_lr_is_torchs(max_lr, total, pct_start, anneal, three, div, final_div, low, high):
    params = {
        "max_lr": max_lr, "total_steps": total, "pct_start": pct_start, "anneal_strategy": anneal, "three_phase": three,
        "div_factor": div, "final_div_factor": final_div, "base_momentum": low, "max_momentum": high,
    }  # fmt: skip
    if pct_start * total == 1:
        with pytest.raises(ValueError, match="a rise of no length"):
            schedule_from("torch:OneCycleLR", params)
        return
    assert_equal("torch:OneCycleLR", params, *torch_rates("OneCycleLR", params, total))


@given(rates, shares, counts, counts, st.integers(1, 4))
def test_the_other_schedulers_of_torch_are_torchs(lr, share, first, second, mult):
    cases = {
        "StepLR": {"step_size": first, "gamma": share},
        "MultiStepLR": {"milestones": [first + second, first, first] if second % 5 else [], "gamma": share},
        "ExponentialLR": {"gamma": share},
        "CosineAnnealingWarmRestarts": {"T_0": first, "T_mult": mult, "eta_min": lr * share / 2},
        "CosineAnnealingLR": {"T_max": first, "eta_min": lr * share / 2},
        "PolynomialLR": {"total_iters": first, "power": 3 * share if mult > 1 else 0},
        "LinearLR": {"start_factor": share, "end_factor": 1 - share / 2, "total_iters": first},
        "ConstantLR": {"factor": share, "total_iters": first},
    }
    for name, params in cases.items():
        theirs, _ = torch_rates(name, params, STEPS, lr=lr)
        # torch multiplies step by step: its own rounding is the larger one, and near 0 it is all there is
        schedule = schedule_from(f"torch:{name}", params | {"base_lr": lr})
        assert_close(f"torch:{name}", params, schedule(range(STEPS)), theirs, atol=1e-12 * max(1, lr))


@pytest.mark.parametrize("text", ["lambda x: 0.95", "lambda t: 1 - 1 / (2 + t)", "lambda x: 1.1 if x < 20 else 0.9"])
def test_factors_that_are_multiplied_step_by_step_are_torchs(text):
    theirs, _ = torch_rates("MultiplicativeLR", {"lr_lambda": eval(text)}, STEPS, lr=0.3)  # noqa: S307 (a text above)
    params = {"lr_lambda": text, "base_lr": 0.3}
    assert_equal("torch:MultiplicativeLR", params, theirs)
    chained = [{"type": "LinearLR"}, {"type": "MultiplicativeLR", "lr_lambda": text}]
    sgd = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    made = [torch.optim.lr_scheduler.LinearLR(sgd), torch.optim.lr_scheduler.MultiplicativeLR(sgd, eval(text))]  # noqa: S307
    scheduler, theirs = torch.optim.lr_scheduler.ChainedScheduler(made), []
    for _ in range(STEPS):
        theirs.append(sgd.param_groups[0]["lr"])
        sgd.step()
        scheduler.step()
    assert_equal("torch:ChainedScheduler", {"schedulers": chained, "base_lr": 0.3}, theirs)


@pytest.mark.parametrize(
    ("source", "name", "params"),
    [
        ("torch:LambdaLR", "lr_lambda", {}),
        ("torch:MultiplicativeLR", "lr_lambda", {}),
        ("paddle:LambdaDecay", "lr_lambda", {"learning_rate": 0.1}),
        ("torch:CyclicLR", "scale_fn", {"base_lr": 0.1, "max_lr": 0.5}),
        ("tfa:CyclicalLearningRate", "scale_fn",
         {"initial_learning_rate": 0.1, "maximal_learning_rate": 0.5, "step_size": 9}),
    ],
)  # fmt: skip
def test_a_number_in_the_place_of_a_function_is_the_constant_and_anything_else_is_refused(source, name, params):
    t = range(50)
    constant = schedule_from(source, params | {name: lambda x: 0.25})(t)
    np.testing.assert_allclose(schedule_from(source, params | {name: 0.25})(t), constant)
    for wrong in (True, {"x": 1}):
        with pytest.raises(ValueError, match=f"{name} must be a function"):
            schedule_from(source, params | {name: wrong})


@pytest.mark.parametrize(
    ("source", "params", "told"),
    [
        ("torch:SequentialLR", {"schedulers": 5, "milestones": []}, "schedulers must be a list"),
        ("torch:ChainedScheduler", {"schedulers": []}, "schedulers must be a list of at least 1"),
        ("torch:SequentialLR", {"schedulers": ["LinearLR", "ConstantLR"], "milestones": 5}, "2 parts need 1 milestones"),
        ("optax:join_schedules", {"schedules": 5, "boundaries": []}, "schedules must be a list"),
        ("ignite:ConcatScheduler", {"schedulers": ["PiecewiseLinear"], "durations": []}, "a list of at least 2"),
        ("ignite:PiecewiseLinear", {"milestones_values": [[0]]}, r"pairs .* got \[0\]"),
        ("ignite:PiecewiseLinear", {"milestones_values": 5}, "pairs of a milestone and its value, got 5"),
        ("mmengine:param_scheduler", {"schedulers": 5}, "schedulers must be a list"),
        ("mmengine:param_scheduler", {"schedulers": [{"type": "StepLR", "step": 5}]}, "no parameter 'step'; did you mean"),
        ("mmengine:param_scheduler", {"schedulers": [{"type": "StepLR", "by_epoch": "no"}]}, "by_epoch must be true or"),
        ("mmengine:param_scheduler", {"schedulers": [{"type": "MultiStepLR", "milestones": 5}]}, "a list of numbers"),
        ("mmengine:param_scheduler", {"schedulers": [{"type": "CosineRestartLR", "periods": [3, 4]}]}, "as many as periods"),
        ("mmengine:param_scheduler", {"schedulers": [], "epoch_length": 0}, "epoch_length must be a whole number"),
    ],
)  # fmt: skip
def test_what_is_no_list_of_parts_is_refused_in_words_of_its_system(source, params, told):
    with pytest.raises(ValueError, match=told):
        schedule_from(source, params)


def test_factors_that_are_multiplied_are_asked_for_in_any_order_and_not_for_ever():
    schedule = schedule_from("torch:MultiplicativeLR", {"lr_lambda": "1 - 1 / (1 + x) ** 2", "base_lr": 1.0})
    t = np.array([100_000, 7, 40_000, 0, 65_536, 32_768])
    np.testing.assert_allclose(schedule(t), (t + 2) / (2 * (t + 1)), rtol=1e-9)  # the product telescopes
    with pytest.raises(ValueError, match="worked out up to iteration"):
        schedule([10**9])


def parts_of_torch(draw):
    """A scheduler of torch and its parameters, for any place in a composition."""
    share, first, second = draw(shares), draw(counts), draw(counts)
    return draw(
        st.sampled_from([
            {"type": "ConstantLR", "factor": share, "total_iters": first},
            {"type": "LinearLR", "start_factor": share, "end_factor": 1 - share / 2, "total_iters": first},
            {"type": "StepLR", "step_size": first, "gamma": 1.5 - share},
            {"type": "MultiStepLR", "milestones": [first, first + second] if second % 5 else [], "gamma": 2 * share},
            {"type": "ExponentialLR", "gamma": 0.95 + share / 10},
            {"type": "PolynomialLR", "total_iters": first, "power": 2 * share},
            {"type": "CosineAnnealingLR", "T_max": first},
            {"type": "CosineAnnealingWarmRestarts", "T_0": first, "eta_min": share},
            {"type": "CyclicLR", "base_lr": share, "max_lr": 0.5, "step_size_up": first, "cycle_momentum": False},
            {"type": "OneCycleLR", "max_lr": share, "total_steps": STEPS + 40, "cycle_momentum": False},
            {"type": "LambdaLR", "lr_lambda": "lambda x: 1 / (1 + x)"},
        ])
    )  # fmt: skip


def torch_made(sgd, part):
    params = {name: value for name, value in part.items() if name != "type"}
    if "lr_lambda" in params:
        params["lr_lambda"] = lambda x: 1 / (1 + x)
    return getattr(torch.optim.lr_scheduler, part["type"])(sgd, **params)


def torch_composed(kind, parts, lr, steps, **arguments):
    sgd = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    made = [torch_made(sgd, part) for part in parts]
    if kind == "SequentialLR":
        scheduler = torch.optim.lr_scheduler.SequentialLR(sgd, made, **arguments)
    else:
        scheduler = torch.optim.lr_scheduler.ChainedScheduler(made)
    theirs = []
    for _ in range(steps):
        theirs.append(float(sgd.param_groups[0]["lr"]))
        sgd.step()
        scheduler.step()
    return theirs


@given(st.data(), rates, st.integers(2, 4))
@examples(50)
def test_schedulers_of_torch_in_sequence_are_torchs(data, lr, number):
    parts = [parts_of_torch(data.draw) for _ in range(number)]
    ends = st.lists(st.integers(0, 120), min_size=number - 1, max_size=number - 1, unique=True)
    milestones = sorted(data.draw(ends))
    theirs = torch_composed("SequentialLR", parts, lr, STEPS, milestones=milestones)
    ours = schedule_from("torch:SequentialLR", {"schedulers": parts, "milestones": milestones, "base_lr": lr})
    assert_close("torch:SequentialLR", [parts, milestones], ours(range(STEPS)), theirs, atol=1e-12 * max(1, lr))


@given(st.data(), rates, st.integers(1, 3))
@examples(50)
def test_schedulers_of_torch_in_the_same_step_are_torchs(data, lr, number):
    parts = [parts_of_torch(data.draw) for _ in range(number)]
    ours = {"schedulers": parts, "base_lr": lr}
    theirs = torch_composed("ChainedScheduler", parts, lr, STEPS)
    rates = schedule_from("torch:ChainedScheduler", ours)(range(STEPS))
    assert_close("torch:ChainedScheduler", ours, rates, theirs, atol=1e-12 * max(1, lr))


@given(rates, shares, counts, counts, st.floats(1.1, 3), st.booleans())
@examples(25)
def test_the_schedules_of_keras_in_float64_are_keras_own(lr, share, steps, warmup, mult, flag):
    cases = {
        "CosineDecay": {"initial_learning_rate": lr, "decay_steps": steps, "alpha": share},
        "CosineDecayRestarts": {"initial_learning_rate": lr, "first_decay_steps": steps, "m_mul": share, "alpha": share / 2, "t_mul": 1.0 if flag else mult},
        "ExponentialDecay": {"initial_learning_rate": lr, "decay_steps": steps, "decay_rate": share, "staircase": flag},
        "PolynomialDecay": {"initial_learning_rate": lr, "decay_steps": steps, "end_learning_rate": lr * share, "power": mult, "cycle": flag},
        "InverseTimeDecay": {"initial_learning_rate": lr, "decay_steps": steps, "decay_rate": mult, "staircase": flag},
        "PiecewiseConstantDecay": {"boundaries": [steps, steps + warmup], "values": [lr, lr * share, lr / 2]},
    }  # fmt: skip
    cases["PiecewiseConstantDecay, before"] = {
        "boundaries": [-999, -1, 0, warmup],
        "values": [lr, lr / 2, lr * share, 1.0, lr / 3],
    }
    cases["PiecewiseConstantDecay, all before"] = {
        "boundaries": [-warmup - steps, -warmup],
        "values": [lr, lr / 2, lr * share],
    }
    cases["CosineDecay, warm-up"] = cases["CosineDecay"] | {"warmup_target": 2 * lr, "warmup_steps": warmup}
    steps_seen = [0, 1, steps - 1, steps + 1, steps + warmup, steps + warmup + 1, 2 * steps + 1, 777]
    for name, params in cases.items():
        word = name.split(",")[0]
        theirs = keras_rates(word, params, steps_seen)
        assert_close(f"keras:{word}", params, schedule_from(f"keras:{word}", params)(steps_seen), theirs)


@given(rates, shares, counts, counts, st.integers(-9, 20), st.floats(0.5, 3), st.booleans())
@examples(25)
def test_the_schedules_of_optax_in_float64_are_optax_own(lr, share, steps, warmup, begin, power, flag):
    late = {"transition_begin": begin}
    cases = {
        "constant_schedule": {"value": lr},
        "linear_schedule": {"init_value": lr, "end_value": lr * share, "transition_steps": steps} | late,
        "polynomial_schedule": {"init_value": lr, "end_value": lr * share, "power": power, "transition_steps": steps} | late,
        "piecewise_constant_schedule": {"init_value": lr, "boundaries_and_scales": {steps: share, steps + warmup: 0.5}},
        "exponential_decay": {"init_value": lr, "transition_steps": steps, "decay_rate": share, "staircase": flag, "end_value": lr / 50} | late,
        "cosine_decay_schedule": {"init_value": lr, "decay_steps": steps, "alpha": share, "exponent": power},
        "piecewise_interpolate_schedule": {"interpolate_type": "cosine" if flag else "linear", "init_value": lr, "boundaries_and_scales": {steps: share, steps + warmup: 2.0}},
        "cosine_onecycle_schedule": {"transition_steps": steps + 10, "peak_value": lr, "pct_start": max(0.1, share * 0.9)},
        "linear_onecycle_schedule": {"transition_steps": steps + 40, "peak_value": lr, "pct_start": 0.5 * share + 0.03, "pct_final": 0.8},
        "warmup_constant_schedule": {"init_value": lr * share, "peak_value": lr, "warmup_steps": warmup * flag},
        "warmup_cosine_decay_schedule": {"init_value": lr * share, "peak_value": lr, "warmup_steps": warmup, "decay_steps": warmup + steps, "end_value": lr * share, "exponent": power},
        "exponential_decay, a rise": {"init_value": lr, "transition_steps": steps, "decay_rate": 1 + share, "staircase": flag, "end_value": 3 * lr} | late,
        "piecewise_constant_schedule, none": {"init_value": lr},
        "piecewise_interpolate_schedule, at 0": {"interpolate_type": "cosine" if flag else "linear", "init_value": lr, "boundaries_and_scales": {0: share, steps: 2.0}},
        "cosine_onecycle_schedule, all": {"transition_steps": steps + 10, "peak_value": lr, "pct_start": 0.5, "div_factor": 1 + power, "final_div_factor": 10 * power},
        "linear_onecycle_schedule, all": {"transition_steps": steps + 40, "peak_value": lr, "div_factor": 1 + power, "final_div_factor": 10 * power},
        "warmup_exponential_decay_schedule, all": {"init_value": lr / 3, "peak_value": lr, "warmup_steps": warmup, "transition_steps": steps, "decay_rate": share, "staircase": flag, "end_value": lr / 50} | late,
        "warmup_exponential_decay_schedule": {"init_value": 0.0, "peak_value": lr, "warmup_steps": warmup, "transition_steps": steps, "decay_rate": share},
    }  # fmt: skip
    seen = np.array(
        [
            0,
            1,
            3,
            max(0, begin),
            steps - 1,
            steps,
            max(0, steps + begin),
            warmup,
            steps + warmup,
            steps + warmup + 1,
            777,
        ]
    )
    for name, params in cases.items():
        word = name.split(",")[0]
        assert_close(
            f"optax:{word}", params, schedule_from(f"optax:{word}", params)(seen), optax_rates(word, params, seen)
        )


@given(
    rates,
    st.floats(0, 0.9),
    st.integers(1, 40),
    st.integers(50, 150),
    st.integers(1, 12),
    st.sampled_from(["linear", "cosine"]),
)
@examples(30)
def test_the_schedules_of_transformers_are_transformers_own(lr, share, warmup, total, cycles, kind):
    base = {"num_warmup_steps": warmup, "num_training_steps": total}
    cases = {
        "constant": {},
        "constant_with_warmup": {"num_warmup_steps": warmup},
        "linear": base,
        "cosine": base | {"num_cycles": cycles / 2},
        "cosine_with_restarts": base | {"num_cycles": cycles},
        "cosine_with_min_lr": base | {"min_lr": lr * share},
        "polynomial": base | {"lr_end": lr * share / 2, "power": cycles / 4},
        "inverse_sqrt": {"num_warmup_steps": warmup, "timescale": 10 * cycles},
        "cosine_with_min_lr, a share": base | {"min_lr_rate": share, "num_cycles": cycles / 4},
        "cosine_warmup_with_min_lr": base | {"min_lr": lr * share, "num_cycles": cycles / 4},
        "cosine_warmup_with_min_lr, a share": base | {"min_lr_rate": share, "warmup_lr_rate": share / 2 if cycles % 2 else None},
        "inverse_sqrt, its own": {"num_warmup_steps": warmup},
        "warmup_stable_decay, its length": {"num_warmup_steps": warmup, "num_stable_steps": cycles, "num_decay_steps": total // 2, "min_lr_ratio": share},
        "warmup_stable_decay, waves": base | {"num_decay_steps": cycles, "num_cycles": cycles / 4, "warmup_type": "1-sqrt", "min_lr_ratio": share},
        "warmup_stable_decay, straight": base | {"num_decay_steps": cycles, "warmup_type": "1-sqrt", "decay_type": "linear"},
        "warmup_stable_decay": base | {"num_decay_steps": 10, "min_lr_ratio": share, "warmup_type": kind, "decay_type": "cosine" if kind == "linear" else "1-sqrt"},
    }  # fmt: skip
    for name, params in cases.items():
        word = name.split(",")[0]
        ours = schedule_from(f"transformers:{word}", params | {"base_lr": lr})(range(STEPS))
        assert_close(f"transformers:{word}", params, ours, transformers_rates(word, params, lr, STEPS))


@given(rates, shares, st.lists(st.integers(1, 60), min_size=3, max_size=3), st.integers(0, 3), st.booleans())
@examples(10)
def test_schedules_of_optax_that_are_joined_are_optaxs(lr, share, lengths, first, flag):
    first_end, second, third = lengths
    parts = [
        {"type": "linear_schedule", "init_value": lr * share, "end_value": lr, "transition_steps": first_end},
        {"type": "cosine_decay_schedule", "init_value": lr, "decay_steps": second, "alpha": share / 2},
        {"type": "exponential_decay", "init_value": lr, "transition_steps": third, "decay_rate": share, "staircase": flag},
        {"type": "constant_schedule", "value": lr / 7},
    ]  # fmt: skip
    parts = [*parts[first:], *parts[:first]]
    params = {"schedules": parts, "boundaries": np.cumsum(lengths).tolist()}
    seen = sorted({0, *(end + near for end in params["boundaries"] for near in (-1, 0, 1)), 200})
    assert_close(
        "optax:join_schedules",
        params,
        schedule_from("optax:join_schedules", params)(seen),
        optax_joined(**params, steps=seen),
    )


def test_caffes_policies_are_its_documented_formulas():
    t = np.arange(50)
    formulas = {
        "fixed": ({}, 0.1 + 0 * t),
        "step": ({"gamma": 0.5, "stepsize": 7}, 0.1 * 0.5 ** np.floor(t / 7)),
        "exp": ({"gamma": 0.9}, 0.1 * 0.9**t),
        "inv": ({"gamma": 0.01, "power": 0.75}, 0.1 * (1 + 0.01 * t) ** -0.75),
        "multistep": ({"gamma": 0.1, "stepvalue": [10, 30]}, 0.1 * 0.1 ** ((t >= 10).astype(int) + (t >= 30))),
        "poly": ({"power": 2.0, "max_iter": 50}, 0.1 * (1 - t / 50) ** 2),
        "sigmoid": ({"gamma": -0.2, "stepsize": 25}, 0.1 / (1 + np.exp(0.2 * (t - 25)))),
    }
    for name, (params, expected) in formulas.items():
        np.testing.assert_allclose(schedule_from(f"caffe:{name}", params | {"base_lr": 0.1})(t), expected, rtol=1e-12)


def test_the_triangles_of_the_papers_appendix_a():
    def appendix_a(t, base, top, stepsize, power):
        if t == 0:
            return base
        cycle = t // (2 * stepsize)
        x = (t - (2 * cycle + 1) * stepsize) / stepsize
        return base + (top - base) * min(1, max(0, (1 - abs(x)) / 2 ** (power * cycle)))

    for name, power in (("triangular", 0), ("triangular2", 1)):
        ours = schedule_from(f"caffe:{name}", {"base_lr": 0.001, "max_lr": 0.006, "stepsize": 9})
        np.testing.assert_allclose(ours(range(100)), [appendix_a(t, 0.001, 0.006, 9, power) for t in range(100)])


def test_a_source_has_a_full_name_a_short_one_and_its_last_word(monkeypatch):
    for name in ("a.same", "b:same"):
        monkeypatch.setitem(SOURCES, name, lambda: None)
    for name in ("torch.optim.lr_scheduler.CyclicLR", "torch:CyclicLR", "CyclicLR", "torch.CyclicLR"):
        assert find_source(name) == LR + "CyclicLR"
    assert find_source("transformers:cosine") == "transformers.get_scheduler:cosine"
    assert find_source("PolynomialDecay") == "keras.optimizers.schedules.PolynomialDecay", "paddle has one too"
    assert find_source("paddle:CyclicLR") == "paddle.optimizer.lr.CyclicLR"
    with pytest.raises(ValueError, match=r"several schedules: a\.same, b:same"):
        find_source("same")
    with pytest.raises(ValueError, match="did you mean 'torch:CyclicLR'"):
        find_source("torch:CyclicRL")


@pytest.mark.parametrize(
    ("source", "params", "message"),
    [
        ("torch:CyclicLR", {"base_lr": 0.1, "max_lr": 0.2, "step_size_up": 0}, "stepsize must be a whole number of at least 1, got 0"),
        ("torch:CyclicLR", {"base_lr": 0.1, "max_lr": 0.2, "mode": "exp_range", "gamma": -1.5}, "gamma.* must be finite and at least 0, got -1.5"),
        ("torch:CyclicLR", {"base_lr": math.nan, "max_lr": 0.2}, "base_lr must be a finite number"),
        ("torch:CyclicLR", {"base_lr": "high", "max_lr": 0.2}, "base_lr must be a finite number, got 'high'"),
        ("torch:CyclicLR", {"base_lr": 0.1}, "needs max_lr"),
        ("torch:CyclicLR", {"base_lr": 0.1, "max_lr": 0.2, "step_size": 3}, "no parameter 'step_size'; did you mean 'step_size_up'"),
        ("torch:CyclicLR", {"base_lr": 0.1, "max_lr": 0.2, "scale_fn": "__import__('os').system('true')"}, "is not allowed; functions"),
        ("torch:CyclicLR", {"base_lr": 0.1, "max_lr": 0.2, "scale_fn": "(lambda: 1)()"}, "is not allowed"),
        ("torch:CyclicLR", {"base_lr": 0.1, "max_lr": 0.2, "scale_fn": "x.real"}, "is not allowed"),
        ("torch:CyclicLR", {"base_lr": 0.1, "max_lr": 0.2, "scale_fn": "lambda x, y: x"}, "function of one variable"),
        ("torch:CyclicLR", {"base_lr": 0.1, "max_lr": 0.2, "scale_fn": "lambda: 1"}, "function of one variable"),
        ("torch:CyclicLR", {"base_lr": 0.1, "max_lr": 0.2, "step_size_up": 1e300}, "stepsize must be a whole number"),
        ("torch:ConstantLR", {"total_iters": -1}, "total_iters must be a whole number of at least 0, got -1"),
        ("torch:ConstantLR", {"factor": 2}, "factor must be at most 1, got 2"),
        ("torch:LinearLR", {"start_factor": 0}, "start_factor must be finite and above 0, got 0"),
        ("torch:PolynomialLR", {"total_iters": 2.5}, "total_iters must be a whole number"),
        ("torch:MultiStepLR", {"milestones": [2.5]}, "a milestone must be a whole number"),
        ("torch:MultiStepLR", {"milestones": 7}, "torch.optim.lr_scheduler.MultiStepLR: "),
        ("optax:piecewise_constant_schedule", {"init_value": 0.1, "boundaries_and_scales": [10]}, "optax.piecewise_constant_schedule: "),
        ("optax:piecewise_constant_schedule", {"init_value": 0.1, "boundaries_and_scales": {"10.7": 1}}, "a boundary must be a whole number"),
        ("torch:CyclicLR", {"base_lr": 0.1, "max_lr": 0.2, "scale_fn": "1 +"}, "is not an expression in x"),
        ("torch:OneCycleLR", {"max_lr": 0.1}, "needs total_steps, or epochs and steps_per_epoch"),
        ("caffe:multistep", {"base_lr": 0.1, "gamma": 0.5, "stepvalue": [30, 20]}, r"boundaries must be finite and rise from each to the next, got \[30, 20\]"),
        ("torch:OneCycleLR", {"max_lr": [0.1, 0.2], "total_steps": 9}, r"max_lr is a list, one value for each parameter group.*not \[0\.1, 0\.2\]"),
        ("torch:CyclicLR", {"base_lr": [0.1, 0.2], "max_lr": 1}, "base_lr is a list, one value for each parameter group"),
        ("torch:LambdaLR", {"lr_lambda": [lambda x: 1, lambda x: x]}, "lr_lambda is a list, one value for each parameter group"),
        ("torch:SequentialLR", {"schedulers": [{"ChainedScheduler": {"schedulers": []}}], "milestones": []}, "schedulers must be a list of at least 1"),
        ("torch:ChainedScheduler", {"schedulers": [{"SequentialLR": {}}]}, "SequentialLR needs schedulers, milestones"),
        ("torch:OneCycleLR", {"max_lr": 0.1, "total_steps": 1}, "total_steps must be a whole number of at least 2, got 1"),
        ("torch:CyclicLR", {"base_lr": 0.1, "max_lr": 1e200}, r"max_lr must be at most 1e\+100, got 1e\+200"),
        ("keras:PiecewiseConstantDecay", {"boundaries": [30, 20], "values": [1, 0.5, 0.1]}, "rise from each to the next"),
        ("keras:CosineDecayRestarts", {"initial_learning_rate": 0.1, "first_decay_steps": 5, "t_mul": 0.5}, "t_mul must be 1, or at least 1.001"),
        ("transformers:polynomial", {"base_lr": 0.1, "num_warmup_steps": 50, "num_training_steps": 50}, "num_training_steps must be a whole number of at least 51"),
    ],
)  # fmt: skip
def test_bad_parameters_are_refused_with_their_rule(source, params, message):
    with pytest.raises(ValueError, match=message):
        schedule_from(source, params)([0, 1, 2])


def test_no_power_in_a_scale_takes_forever():
    scale = "9**9**9**9**x"
    with pytest.raises(ValueError, match="scale must be finite, got inf"):
        schedule_from("torch:CyclicLR", {"base_lr": 0.1, "max_lr": 0.2, "scale_fn": scale})([5])


def test_the_helper_for_torch_really_steps_it():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stepped, momentum = torch_rates("CyclicLR", {"base_lr": 0.1, "max_lr": 0.5, "step_size_up": 2}, 4)
    assert stepped == pytest.approx([0.1, 0.3, 0.5, 0.3])
    assert momentum == pytest.approx([0.9, 0.85, 0.8, 0.85])
    assert torch.__version__


@pytest.mark.parametrize(
    "function",
    [
        lambda x: 0.5,
        lambda x: 1 if x < 3 else 0.5,
        lambda x: max(0, 1 - x / 9),
        math.sin,
        lambda x: [2, 1][x % 2],
    ],
)
@pytest.mark.parametrize("scale_mode", ["cycle", "iterations"])
def test_a_scale_is_a_python_function_of_a_number(function, scale_mode):
    params = {"base_lr": 0.1, "max_lr": 0.7, "step_size_up": 4, "scale_fn": function, "scale_mode": scale_mode}
    assert_equal("torch:CyclicLR", params, *torch_rates("CyclicLR", params, STEPS))


def test_a_condition_may_be_written_as_text():
    params = {"base_lr": 0.1, "max_lr": 0.7, "step_size_up": 4}
    text = schedule_from("torch:CyclicLR", params | {"scale_fn": "lambda x: 1 if x < 3 else 0.5"})
    function = schedule_from("torch:CyclicLR", params | {"scale_fn": lambda x: 1 if x < 3 else 0.5})
    assert np.array_equal(text(range(60)), function(range(60)))


def test_schedules_that_rise_or_begin_at_the_top_are_their_makers():
    assert_equal(
        "torch:ExponentialLR",
        {"gamma": 1.1, "base_lr": 0.1},
        torch_rates("ExponentialLR", {"gamma": 1.1}, 60, lr=0.1)[0],
    )
    for name, params in {
        "CosineAnnealingLR": {"T_max": 20, "eta_min": 0.5},
        "CosineAnnealingWarmRestarts": {"T_0": 20, "eta_min": 0.5},
    }.items():
        assert_equal(f"torch:{name}", params | {"base_lr": 0.1}, torch_rates(name, params, 60, lr=0.1)[0])
    top = {"base_lr": 0.7, "max_lr": 0.1, "step_size_up": 4, "cycle_momentum": False}
    assert_equal("torch:CyclicLR", top, torch_rates("CyclicLR", top, 60)[0])
    seen = np.arange(60)
    for name, params in {
        "polynomial_schedule": {"init_value": 10.0, "end_value": 20.0, "power": 2, "transition_steps": 30},
        "exponential_decay": {"init_value": 0.1, "transition_steps": 5, "decay_rate": 1.5, "end_value": 2.0},
        "piecewise_interpolate_schedule": {
            "interpolate_type": "linear", "init_value": 1.0, "boundaries_and_scales": {10: 0.0}
        },
        "sgdr_schedule": {"cosine_kwargs": [
            {"init_value": 0.0, "peak_value": 1.0, "warmup_steps": 3, "decay_steps": 20},
            {"init_value": 0.0, "peak_value": 0.5, "warmup_steps": 2, "decay_steps": 15},
        ]},
    }.items():  # fmt: skip
        np.testing.assert_allclose(
            schedule_from(f"optax:{name}", params)(seen), optax_rates(name, params, seen), rtol=1e-9, atol=1e-12
        )
    mult = {"initial_learning_rate": 0.1, "first_decay_steps": 7, "m_mul": 4.0}
    np.testing.assert_allclose(
        schedule_from("keras:CosineDecayRestarts", mult)(seen),
        keras_rates("CosineDecayRestarts", mult, seen),
        rtol=1e-9,
    )


def test_what_is_not_finite_is_refused_with_its_iteration():
    from clrtool.core.planning.plan import plan_from

    with pytest.raises(ValueError, match=r"the learning rate at iteration [0-9,]+ is inf"):
        plan_from("torch:ExponentialLR", {"gamma": 2.0}, iterations=10**5)


@pytest.mark.parametrize(
    ("name", "params", "far"),
    [
        ("timm:CosineLRScheduler", {"t_initial": 10, "cycle_limit": 5000, "cycle_decay": 0.999}, 10_000),
        (
            "ignite:LinearCyclicalScheduler",
            {"start_value": 0.1, "end_value": 1, "cycle_size": 10, "end_value_mult": 0.9},
            3_000,
        ),
    ],
)
def test_cycles_that_differ_are_read_so_far_and_beyond_that_refused_with_the_iteration(name, params, far):
    schedule = schedule_from(name, params)
    assert np.isfinite(schedule(range(far))).all()
    with pytest.raises(
        ValueError, match=f"cycles that differ the first .* up to iteration {far:,}; asked for iteration"
    ):
        schedule([far + 1])


def test_cycles_that_are_alike_go_on_as_long_as_they_are_asked_to():
    schedule = schedule_from("timm:CosineLRScheduler", {"t_initial": 10, "cycle_limit": 5000, "base_lr": 0.1})
    middles = schedule([5 + 1, 10_005 + 1, 49_995 + 1])  # timm is stepped after the first iteration
    np.testing.assert_allclose(middles, middles[0])
    assert schedule([50_001])[0] == 0
