"""torch's schedulers inside one another, by torch's own classes."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clrtool.core.planning.plan import plan_from
from clrtool.core.sources import schedule_from
from clrtool.errors import ConfigError
from clrtool.report.programs.program import to_code
from tests.core.test_sources import STEPS, assert_close, counts, examples, parts_of_torch, rates, shares

# torch's own, of a composition as the first part of another
pytestmark = pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
CONTAINERS = ("SequentialLR", "ChainedScheduler")
FACTORS = {"lambda x: 1 / (1 + x)": lambda x: 1 / (1 + x), "lambda x: 1 - 0.5 / (2 + x)": lambda x: 1 - 0.5 / (2 + x)}
bent = st.builds(lambda n, share: {"type": "CosineAnnealingLR", "T_max": n, "eta_min": share / 9}, counts, shares)
multiplied = st.just({"type": "MultiplicativeLR", "lr_lambda": "lambda x: 1 - 0.5 / (2 + x)"})


def composed(parts, kind=None):
    """Two or three parts in a composition, whose milestones rise."""
    listed = st.lists(parts, min_size=2, max_size=3)
    return st.builds(
        lambda kind, parts, ends: {"type": kind, "schedulers": parts}
        | ({"milestones": sorted(ends[1 : len(parts)])} if kind == "SequentialLR" else {}),
        st.sampled_from(CONTAINERS) if kind is None else st.just(kind), listed,
        st.lists(st.integers(0, 90), min_size=3, max_size=3),
    )  # fmt: skip


leaves = st.one_of(st.composite(parts_of_torch)(), bent, multiplied)
trees = composed(st.one_of(leaves, composed(st.one_of(leaves, composed(leaves)))))


def made_of(part, sgd):
    """A scheduler of torch from a part as clrtool reads it: its parts first, as they are listed."""
    params = {name: value for name, value in part.items() if name != "type"}
    if part["type"] in CONTAINERS:
        parts = [made_of(each, sgd) for each in params.pop("schedulers")]
        before = (sgd,) if part["type"] == "SequentialLR" else ()
        return getattr(torch.optim.lr_scheduler, part["type"])(*before, parts, **params)
    if "lr_lambda" in params:
        params["lr_lambda"] = FACTORS[params["lr_lambda"]]
    return getattr(torch.optim.lr_scheduler, part["type"])(sgd, **params)


def torchs(tree, lr, steps=STEPS):
    sgd = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler, rates = made_of(tree, sgd), []
    for _ in range(steps):
        rates.append(float(sgd.param_groups[0]["lr"]))
        sgd.step()
        scheduler.step()
    return rates


def ours(tree, lr):
    return schedule_from(f"torch:{tree['type']}", {k: v for k, v in tree.items() if k != "type"} | {"base_lr": lr})


@given(trees, rates)
@examples(100)
def test_compositions_inside_one_another_are_torchs_and_refused_where_torch_fails(tree, lr):
    try:
        schedule = ours(tree, lr)
    except ValueError as error:
        assert "after a milestone of a SequentialLR: torch fails there" in str(error)
        return
    theirs = torchs(tree, lr)
    assert_close(f"torch:{tree['type']}, nested", tree, schedule(range(STEPS)), theirs, atol=1e-11 * max(1, lr))


@given(st.one_of(st.composite(parts_of_torch)(), bent), st.one_of(st.composite(parts_of_torch)(), bent), rates, shares)
@examples(50)
def test_a_warmup_beside_a_sequence_is_torchs(first, then, lr, start):
    warmup = {"type": "LinearLR", "start_factor": start, "total_iters": 20}
    sequence = {"type": "SequentialLR", "schedulers": [first, then], "milestones": [60]}
    tree = {"type": "ChainedScheduler", "schedulers": [warmup, sequence]}
    assert_close(
        "torch:ChainedScheduler, warm-up", tree, ours(tree, lr)(range(STEPS)), torchs(tree, lr), atol=1e-11 * max(1, lr)
    )


@pytest.mark.parametrize("kind", CONTAINERS)
def test_what_torch_cannot_begin_at_a_milestone_is_refused_with_what_to_do(kind):
    inner = {"type": kind, "schedulers": [{"type": "StepLR", "step_size": 3}]} | (
        {"milestones": []} if kind == "SequentialLR" else {}
    )
    tree = {"type": "SequentialLR", "schedulers": [{"type": "LinearLR"}, inner], "milestones": [5]}
    with pytest.raises(NotImplementedError):
        torchs(tree, 0.1)
    with pytest.raises(ValueError, match=r"torch fails there, with NotImplementedError\. Write its parts out"):
        ours(tree, 0.1)


CHAIN = {"schedulers": [{"type": "LinearLR", "total_iters": 50}, {"type": "CosineAnnealingLR", "T_max": 60_000}]}


def test_a_warmup_in_a_chain_with_a_cosine_is_asked_for_in_any_order_and_not_for_ever():
    schedule = schedule_from("torch:ChainedScheduler", CHAIN | {"base_lr": 0.3})
    whole = schedule(range(100_000))
    t = np.array([99_999, 7, 40_000, 0, 65_536, 32_768])
    np.testing.assert_array_equal(schedule_from("torch:ChainedScheduler", CHAIN | {"base_lr": 0.3})(t), whole[t])
    theirs = torchs({"type": "ChainedScheduler"} | CHAIN, 0.3, 70_000)
    np.testing.assert_allclose(whole[:70_000], theirs, rtol=1e-6, atol=1e-12)
    with pytest.raises(ValueError, match="worked out up to iteration"):
        schedule([10**9])


def test_a_momentum_inside_a_composition_is_refused_with_the_parameter_that_leaves_it_alone():
    cycle = {"type": "CyclicLR", "base_lr": 0.1, "max_lr": 0.5}
    with pytest.raises(ValueError, match="give cycle_momentum=False"):
        schedule_from("torch:ChainedScheduler", {"schedulers": [cycle, {"type": "StepLR", "step_size": 3}]})
    with pytest.raises(ValueError, match="milestones must not fall, got"):
        schedule_from("torch:SequentialLR", {"schedulers": [
            {"type": "ChainedScheduler", "schedulers": [{"type": "LinearLR"}]}, {"type": "LinearLR"}, {"type": "LinearLR"}
        ], "milestones": [9, 5]})  # fmt: skip


@pytest.mark.parametrize("form", ["torch", "keras", "optax", "timm", "ignite", "mmengine"])
def test_no_program_is_written_of_steps_that_go_on_from_the_last(form):
    with pytest.raises(ConfigError, match=r"no function of the step|has no schedule for"):
        to_code(plan_from("torch:ChainedScheduler", CHAIN, iterations=4000), form)
