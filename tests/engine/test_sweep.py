"""The sweep against theory, against a loop written out by hand, and against its own promises."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from clrtool.config.components import AugmentConfig, OptimizerConfig
from clrtool.config.schema import SweepConfig, TrainingConfig
from clrtool.core.reading.curve import SweepOutcome, has_diverged
from clrtool.core.reading.metric import ACCURACY
from clrtool.engine.configured.workload import ConfiguredWorkload
from clrtool.engine.data import datasets
from clrtool.engine.data.loader import ResidentLoader
from clrtool.engine.data.tensors import Samples, from_arrays, split
from clrtool.engine.data.transforms import Transform
from clrtool.engine.rangetest.sweep import run_sweep
from clrtool.engine.training.optimizers import OptimizerRecipe
from clrtool.engine.training.trainer import Trainer
from tests.engine.workloads import digits

ARRAYS = Path(datasets.__file__).with_name("digits.npz")


class Weight(nn.Module):
    """One weight, shown to every sample."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x):
        return self.w.expand(len(x), 1)


def workload(model=Weight, loss=None, samples=400, batch_size=1, device="cpu"):
    place = torch.device(device)
    data = Samples(torch.zeros(samples, 1, device=place), torch.zeros(samples, dtype=torch.int64, device=place))
    zero, one = torch.zeros((), device=place), torch.ones((), device=place)
    loader = ResidentLoader(data, Transform(zero, one, AugmentConfig()), batch_size)
    return ConfiguredWorkload(
        loader=loader, heldout=Samples(data.inputs[:2], data.targets[:2]), make_model=model, loss=loss,
        make_optimizer=OptimizerRecipe(torch.optim.SGD, OptimizerConfig()), device=place, precision="fp32",
        channels_last=False, data_sha256="", training=TrainingConfig(),
    )  # fmt: skip


def sweep_of(workload, seed=0, **changes):
    settings = {"start_lr": 0.01, "end_lr": 1.0, "spacing": "linear", "epochs": 1, "evaluations": 400, "seeds": 1}
    return run_sweep(workload, SweepConfig(**settings | changes), seed, lambda seed, point: None)


@pytest.mark.parametrize("spacing", ["linear", "exponential"])
@pytest.mark.parametrize("curvature", [4.0, 25.0, 0.5])
def test_on_a_quadratic_the_loss_first_rises_just_past_two_over_its_curvature(curvature, spacing):
    quadratic = workload(loss=lambda outputs, targets: 0.5 * curvature * outputs.square().mean())
    record = sweep_of(quadratic, start_lr=0.02 / curvature, end_lr=6 / curvature, spacing=spacing)
    curve = record.curves[0]
    first = int(np.argmax(np.diff(curve.heldout_loss) > 0)) + 1
    assert curve.lr[first - 1] <= 2 / curvature < curve.lr[first]


def test_on_a_quadratic_every_loss_is_the_product_of_its_factors_and_divergence_comes_when_theory_says():
    curvature = 4.0
    quadratic = workload(loss=lambda outputs, targets: 0.5 * curvature * outputs.square().mean())
    curve = sweep_of(quadratic, start_lr=0.001, end_lr=2.0).curves[0]
    lrs = np.linspace(0.001, 2.0, 400)
    # loss[i+1] = (1 - lr[i] * curvature)^2 loss[i]: row i holds the weights after i updates, and the lr of the last.
    theory = 0.5 * curvature * np.concatenate(([1.0], np.cumprod((1 - lrs * curvature) ** 2)))
    rows = len(curve.lr)
    np.testing.assert_allclose(curve.lr[1:], lrs[: rows - 1])
    np.testing.assert_allclose(curve.heldout_loss, theory[:rows], rtol=1e-6)
    # A batch's loss is measured before its update: the training loss of row i is the held-out loss of row i - 1.
    np.testing.assert_allclose(curve.train_loss[1:], curve.heldout_loss[:-1], rtol=1e-6, atol=1e-37)
    diverged = [has_diverged(theory[0], theory[: i + 1].min(), theory[i]) for i in range(400)]
    assert curve.outcome is SweepOutcome.DIVERGED
    assert rows - 2 == diverged.index(True)


def test_rows_hold_the_last_lr_before_them_and_the_sweep_ends_at_end_lr():
    flat = workload(loss=lambda outputs, targets: outputs.square().mean())
    curve = sweep_of(flat, start_lr=0.001, end_lr=0.5, evaluations=7).curves[0]
    assert curve.iteration.tolist() == [0, 57, 114, 171, 229, 286, 343, 400]
    expected = np.linspace(0.001, 0.5, 400)[[0, 56, 113, 170, 228, 285, 342, 399]]
    np.testing.assert_allclose(curve.lr, expected)
    assert (curve.lr[0], curve.lr[-1]) == (0.001, 0.5)
    assert math.isnan(curve.train_loss[0])
    assert curve.epoch[-1] == 1


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_ends_the_sweep_as_a_result(value):
    class Breaks(Weight):
        steps = 0

        def forward(self, x):
            Breaks.steps += self.training
            return super().forward(x) * (value if Breaks.steps > 100 else 1.0)

    curve = sweep_of(workload(Breaks, lambda outputs, targets: outputs.mean()), evaluations=40).curves[0]
    assert curve.outcome is SweepOutcome.NOT_FINITE
    assert curve.iteration[-1] == 101  # with the step of the first such loss, wherever the losses are read
    assert not math.isfinite(curve.train_loss[-1])
    assert math.isnan(curve.metric[-1])


def test_a_sweep_without_an_end_that_breaks_in_its_first_step_is_a_result():
    class Breaks(Weight):
        def forward(self, x):
            return super().forward(x) * (math.nan if self.training else 1.0)

    broken = workload(Breaks, lambda outputs, targets: outputs.mean())
    record = sweep_of(broken, end_lr="auto", evaluations=400)
    assert record.curves[0].outcome is SweepOutcome.NOT_FINITE
    assert record.start_lr < record.end_lr


@pytest.mark.parametrize("spacing", ["linear", "exponential"])
@pytest.mark.parametrize("start_lr", [0.565, 0.01, 1e-5, 0.3])
def test_a_sweep_that_goes_on_beyond_its_end_never_falls_and_repeats_no_rate(spacing, start_lr):
    rising = workload(loss=lambda outputs, targets: -1 - torch.sigmoid(outputs).mean(), samples=40)
    curve = sweep_of(rising, start_lr=start_lr, end_lr="auto", spacing=spacing, epochs=2, evaluations=80).curves[0]
    assert (np.diff(curve.lr[1:]) > 0).all()


def test_a_negative_loss_is_swept_to_its_end():
    down = workload(loss=lambda outputs, targets: -1 - torch.sigmoid(outputs).mean())
    assert sweep_of(down).curves[0].outcome is SweepOutcome.COMPLETED


def test_a_sweep_equals_a_plain_training_loop_written_out_by_hand():
    ours = digits()
    curve = sweep_of(ours, seed=5, end_lr=0.3, epochs=2, evaluations=6).curves[0]
    torch.manual_seed(5)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    given = from_arrays(*(np.load(ARRAYS)[name] for name in ("images", "labels")))
    train, held = split(given, 297, seed=0)
    labels, mean, std = train.targets, train.inputs.float().mean(), train.inputs.float().std(correction=0)
    images, heldout = ((x.float() - mean) / std for x in (train.inputs, held.inputs))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9)
    lrs = np.linspace(0.01, 0.3, 60)
    order = np.concatenate([np.random.default_rng([5, epoch]).permutation(1500) for epoch in range(2)])
    accuracy, losses = [], []
    for iteration in range(61):
        if iteration % 10 == 0:
            outputs = model(heldout)
            accuracy.append((outputs.argmax(1) == ours.heldout.targets).double().mean().item())
            losses.append(nn.functional.cross_entropy(outputs, ours.heldout.targets).item())
        if iteration == 60:
            break
        optimizer.param_groups[0]["lr"] = lrs[iteration]
        index = order[50 * iteration : 50 * iteration + 50]
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images[index]), labels[index]).backward()
        optimizer.step()
    np.testing.assert_allclose(curve.heldout_loss, losses, rtol=1e-4)
    np.testing.assert_allclose(curve.metric, accuracy, atol=1.5 / 297)
    assert accuracy[-1] > 0.8


def test_the_same_seed_gives_the_same_curve_and_another_seed_another():
    ours = digits()
    one, two = (sweep_of(ours, seeds=2, evaluations=5).curves for _ in range(2))
    for first, second in zip(one, two, strict=True):
        assert repr(first.points()) == repr(second.points())
    assert one[0].metric.tolist() != one[1].metric.tolist()


def test_a_range_test_leaves_torchs_generator_and_settings_as_they_were():
    before = torch.get_rng_state(), torch.backends.cuda.matmul.fp32_precision
    sweep_of(digits(precision="tf32"), epochs=0.1)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert torch.backends.cuda.matmul.fp32_precision == before[1]


def test_each_epoch_uses_a_sample_once_and_each_epoch_has_its_own_order():
    resident = digits().loader
    epochs = [resident.order(0, epoch).indices for epoch in range(2)]
    for order in epochs:
        assert order.sort().values.equal(torch.arange(1500))
    assert not epochs[0].equal(epochs[1])
    taken = next(resident.batches(0, start=3))[1]
    assert taken.equal(resident.samples.targets[epochs[0][150:200]])


def test_training_and_evaluation_run_in_their_own_mode_on_their_own_samples():
    seen = []

    class Spy(Weight):
        def forward(self, x):
            seen.append((self.training, len(x)))
            return super().forward(x)

    sweep_of(workload(Spy, lambda outputs, targets: outputs.square().mean(), batch_size=4), evaluations=10)
    assert seen[0] == (False, 2)
    assert set(seen) == {(False, 2), (True, 4)}
    assert seen.count((True, 4)) == 100
    assert seen.count((False, 2)) == 11


def test_an_evaluation_changes_no_weight_no_statistic_and_draws_no_random_number():
    values = {"name": "convnet", "args": {"channels": [4], "batch_norm": True}}
    trainer = Trainer(digits(model=values), seed=0)
    trainer.train(0, [0.1] * 5)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    generator = torch.get_rng_state()
    assert trainer.evaluate() == trainer.evaluate()
    assert torch.equal(torch.get_rng_state(), generator)
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, before[name])


def test_the_held_out_loss_is_the_mean_over_samples_and_not_over_batches():
    ours = digits()
    trainer = Trainer(ours, seed=0)
    loss, accuracy = trainer.evaluate()
    inputs, targets = ours.heldout.inputs, ours.heldout.targets
    outputs = trainer.model(inputs)
    assert loss == pytest.approx(nn.functional.cross_entropy(outputs, targets).item(), rel=1e-6)
    assert accuracy == (outputs.argmax(1) == targets).double().mean().item()


def test_auto_ends_are_found_by_a_scout_and_its_cost_is_counted():
    record = sweep_of(digits(), start_lr="auto", end_lr="auto", spacing="auto", evaluations=20, epochs=2)
    assert record.spacing == "exponential"
    assert 1e-4 < record.start_lr < 1e-1
    assert record.end_lr == record.curves[0].lr[-1] > 0.2
    assert 0 < record.scout_iterations <= 200
    assert record.iterations == record.scout_iterations + record.curves[0].iteration[-1]
    assert record.curves[0].outcome is not SweepOutcome.COMPLETED
    assert record.cost_epochs == pytest.approx(record.iterations / 30)


def test_one_auto_end_makes_way_for_the_other():
    assert sweep_of(digits(), start_lr="auto", end_lr=1e-6, epochs=0.2).start_lr == pytest.approx(1e-7)
    assert 500 < sweep_of(digits(), start_lr=500.0, end_lr="auto", epochs=0.2).end_lr <= 10_000


@pytest.mark.parametrize(("ends", "spacing"), [((0.1, 1.0), "linear"), ((0.1, 1.01), "exponential")])
def test_auto_spacing_is_linear_within_a_decade(ends, spacing):
    record = sweep_of(digits(), start_lr=ends[0], end_lr=ends[1], spacing="auto", epochs=0.2)
    assert record.spacing == spacing


def test_bf16_gives_nearly_the_curve_of_fp32():
    full, half = (sweep_of(digits(precision=name), end_lr=0.2, evaluations=5).curves[0] for name in ("fp32", "bf16"))
    np.testing.assert_allclose(full.metric, half.metric, atol=0.05)
    assert full.heldout_loss.tolist() != half.heldout_loss.tolist()


@pytest.mark.gpu
def test_cuda_gives_nearly_the_curve_of_the_cpu(gpu):
    expected = sweep_of(digits("cpu", training={"fast": False}), end_lr=0.2, evaluations=10)
    found = sweep_of(digits(gpu.device), end_lr=0.2, evaluations=10)
    assert expected.engine.startswith("eager")  # with no reason, for a CPU has no graphs
    assert found.engine == gpu.team(1)
    np.testing.assert_allclose(expected.curves[0].metric, found.curves[0].metric, atol=0.03)


@pytest.mark.gpu
def test_on_cuda_the_quadratic_rises_where_theory_says(gpu):
    quadratic = workload(loss=lambda outputs, targets: 2 * outputs.square().mean(), device=gpu.device)
    curve = sweep_of(quadratic, start_lr=0.01, end_lr=1.0).curves[0]
    first = int(np.argmax(np.diff(curve.heldout_loss) > 0)) + 1
    assert curve.lr[first - 1] <= 0.5 < curve.lr[first]


class Sum(nn.Module):
    """One weight that begins at 0: with its negative mean for a loss it is the sum of the learning rates so far."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        return self.w.expand(len(x), 1)


def staged(breaks):
    """A workload whose metric is 1 for learning rates from 0.02 to ``breaks``, else 0."""

    def measure(outputs, targets):
        # 800 steps over 12.6 e-folds: the sum of an exponential sweep is 63 times its last rate
        rate = -float(outputs[0]) / 63
        return torch.tensor(float(len(targets)) * (0.02 < rate < breaks)), len(targets)

    base = workload(Sum, lambda outputs, targets: outputs.mean(), samples=200)
    heldout = Samples(torch.zeros(100, 1), torch.zeros(100, dtype=torch.int64))
    return replace(base, heldout=heldout, metric=ACCURACY, measure=measure)


OPEN = {"start_lr": 1e-3, "end_lr": "auto", "spacing": "exponential", "epochs": "auto", "evaluations": 60}


@pytest.mark.parametrize(("breaks", "outcome"), [(0.5, SweepOutcome.BROKE), (1e9, SweepOutcome.COMPLETED)])
def test_a_sweep_without_an_end_stops_when_its_metric_broke_and_goes_on_while_it_did_not(breaks, outcome):
    record = sweep_of(staged(breaks), **OPEN, method="paper")
    assert record.curves[0].outcome is outcome
    if outcome is SweepOutcome.BROKE:
        assert record.end_lr < 3 * breaks
    else:
        assert "the sweep went on" in " ".join(record.warnings)
        assert record.curves[0].iteration[-1] > 1500


@pytest.mark.parametrize("seeds", ["auto", 1, 2])
def test_the_sweeps_before_a_race_end_where_they_were_planned_to_and_leave_it_most_of_its_budget(seeds):
    unbroken, config = staged(1e9), SweepConfig(**OPEN, method="race", budget=0.2, seeds=seeds)
    record, size = run_sweep(unbroken, config), unbroken.sweep_size(config)
    assert len(record.curves) == (1 if seeds == "auto" else seeds)
    assert all(curve.outcome is SweepOutcome.COMPLETED for curve in record.curves)
    assert {curve.iteration[-1] for curve in record.curves} == {size.iterations}
    assert size.budget == int(0.2 * unbroken.plan_iterations)
    assert record.iterations <= 0.2 * size.budget
    assert record.warnings == ()
