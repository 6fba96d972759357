"""Parameters at their ends: 0, below 0, lists that do not rise, warm-ups longer than the training; by each system's code."""

import numpy as np
import pytest

from clrtool.core.sources import schedule_from
from tests.core.peers import timm_rates
from tests.core.systems import keras_rates, torch_rates, transformers_rates

STEPS = 300


@pytest.mark.parametrize(
    ("kind", "params"),
    [
        ("StepLR", {"step_size": 37, "gamma": -0.5}),
        ("StepLR", {"step_size": 1, "gamma": 0}),
        ("ExponentialLR", {"gamma": -0.9}),
        ("ExponentialLR", {"gamma": 0}),
        ("ExponentialLR", {"gamma": 1.02}),
        ("MultiStepLR", {"milestones": [0, 50], "gamma": 0.7}),
        ("MultiStepLR", {"milestones": [200, -3, 100, 100, 0], "gamma": -0.5}),
        ("MultiStepLR", {"milestones": []}),
        ("ConstantLR", {"factor": 0.25, "total_iters": 0}),
        ("LinearLR", {"total_iters": 0}),
        ("PolynomialLR", {"total_iters": 0}),
        ("CosineAnnealingLR", {"T_max": 1}),
        ("CosineAnnealingLR", {"T_max": 299, "eta_min": -0.1}),
        ("OneCycleLR", {"max_lr": 1.0, "total_steps": STEPS, "pct_start": 1.0}),
        ("OneCycleLR", {"max_lr": 1.0, "total_steps": STEPS, "pct_start": 0.0, "div_factor": 0.5}),
        (
            "CyclicLR",
            {"base_lr": 0.0, "max_lr": 0.5, "step_size_up": 1, "step_size_down": 299, "cycle_momentum": False},
        ),
    ],
)
def test_torchs_schedulers_at_the_ends_of_their_parameters_are_torchs(kind, params):
    theirs, _ = torch_rates(kind, params, STEPS, lr=0.3)
    own = {} if "max_lr" in params else {"base_lr": 0.3}
    np.testing.assert_allclose(
        schedule_from(f"torch:{kind}", params | own)(range(STEPS)), theirs, rtol=1e-9, atol=1e-15
    )


@pytest.mark.parametrize("boundaries", [[10, 10.5], [-9, -0.5, 0, 0.25], [-1, 3], [0.0], [-5, -4, 30]])
def test_boundaries_of_keras_between_or_before_iterations_are_kerass(boundaries):
    params = {"boundaries": boundaries, "values": [1.0, -2.0, 0.5, 3.0, 0.25][: len(boundaries) + 1]}
    theirs = keras_rates("PiecewiseConstantDecay", params, range(60))
    np.testing.assert_allclose(schedule_from("keras:PiecewiseConstantDecay", params)(range(60)), theirs, rtol=1e-9)


@pytest.mark.parametrize("part", [{"type": "LinearLR", "total_iters": 0}, {"type": "ConstantLR", "total_iters": 0}])
def test_a_part_without_a_length_is_refused_inside_a_composition_by_its_name(part):
    for source, params in (
        ("torch:SequentialLR", {"schedulers": [part, {"type": "StepLR", "step_size": 3}], "milestones": [5]}),
        ("torch:ChainedScheduler", {"schedulers": [part, {"type": "CosineAnnealingLR", "T_max": 3}]}),
    ):
        with pytest.raises(ValueError, match=f"total_iters of {part['type']} inside a composition must be at least 1"):
            schedule_from(source, params)


def test_milestones_of_timm_that_do_not_rise_are_looked_up_as_timm_does():
    params = {"decay_t": [100, 50, 50, 20], "decay_rate": 0.5}
    theirs = timm_rates("MultiStepLRScheduler", params, 0.4, STEPS)
    ours = schedule_from("timm:MultiStepLRScheduler", params | {"base_lr": 0.4})(range(STEPS))
    np.testing.assert_allclose(ours, theirs, rtol=1e-9)


def test_a_polynomial_of_transformers_that_is_over_before_its_warmup_rises_and_drops_as_transformers_does():
    params = {"num_warmup_steps": 250, "num_training_steps": 200}
    theirs = transformers_rates("polynomial", params, 2e-4, STEPS)
    ours = schedule_from("transformers:polynomial", params | {"base_lr": 2e-4})(range(STEPS))
    np.testing.assert_allclose(ours, theirs, rtol=1e-9)
