"""Schedules of systems whose packages are extras, held against each package's own classes at every iteration."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clrtool.core.sources import schedule_from
from tests.core.peers import deepspeed_values

STEPS = 130
# Each parameter set takes a loop of another system; CI tries 300 of them.
many = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
rates = st.floats(1e-6, 10)
lengths = st.integers(1, 60)
shares = st.floats(0, 1)


def equal(source, params, theirs, momenta=None):
    schedule = schedule_from(source, params)
    np.testing.assert_allclose(schedule(range(len(theirs))), theirs, rtol=1e-9, atol=1e-12, err_msg=f"{params}")
    if momenta is not None:
        np.testing.assert_allclose(
            schedule.momentum(range(len(momenta))), momenta, rtol=1e-9, atol=1e-12, err_msg=f"{params}"
        )


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
    equal("deepspeed:OneCycle", params, lr, momenta if chosen.get("cycle_momentum", True) else None)


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
        equal(f"deepspeed:{name}", params | ({"base_lr": other} if name == "WarmupCosineLR" else {}), theirs)
    without = {name: value for name, value in cases["WarmupLR"].items() if name != "warmup_max_lr"}
    equal("deepspeed:WarmupLR", without | {"base_lr": other}, deepspeed_values("WarmupLR", without, STEPS, lr=other)[0])


def test_a_warmup_of_deepspeed_begins_an_iteration_late_and_falls_back_to_its_minimum():
    params = {"total_num_steps": 20, "warmup_min_lr": 0.1, "warmup_max_lr": 0.2, "warmup_num_steps": 10}
    schedule = schedule_from("deepspeed:WarmupDecayLR", params | {"warmup_type": "linear"})
    assert schedule([0, 1, 2, 3]) == pytest.approx([0.1, 0.1, 0.11, 0.12])
    assert schedule([20, 21, 50]) == pytest.approx([0.11, 0.1, 0.1])
