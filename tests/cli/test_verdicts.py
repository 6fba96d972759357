"""Range tests through the command line whose verdict is known: the right words, exit code and next step for each."""

import json
import math

import pytest
import torch
from torch import nn

FACTORIES = "tests.cli.test_verdicts"
ALLOW = ["--allow-import", "tests.*", "--json"]


def images(samples, seed=0):
    return torch.randn(samples, 12, generator=torch.Generator().manual_seed(seed))


def shuffled():
    """Labels that have nothing to do with the images."""
    labels = torch.randint(0, 4, (1000,), generator=torch.Generator().manual_seed(1))
    return (images(800), labels[:800]), (images(200, 2), labels[800:])


def one_class():
    return (images(800), torch.zeros(800, dtype=torch.long)), (images(200, 2), torch.zeros(200, dtype=torch.long))


def apart():
    """Two classes that one step tells apart."""
    train, heldout = (torch.arange(n) % 2 for n in (800, 200))
    return (10.0 * (2 * train[:, None] - 1).float().repeat(1, 4), train), (
        10.0 * (2 * heldout[:, None] - 1).float().repeat(1, 4),
        heldout,
    )


def linear(inputs, outputs):
    return nn.Linear(inputs, outputs)


class Poisoned(nn.Linear):
    def forward(self, x):
        return super().forward(x) * (math.nan if self.training and torch.is_grad_enabled() else 1.0)


def poisoned(inputs, outputs):
    return Poisoned(inputs, outputs)


@pytest.fixture
def result(cli, tmp_path):
    def call(data, *words, model="linear", inputs=12, outputs=4):
        values = {
            "model": {"factory": f"{FACTORIES}:{model}", "args": {"inputs": inputs, "outputs": outputs}},
            "data": {"factory": f"{FACTORIES}:{data}", "batch_size": 40},
            "plan": {"epochs": 20},
        }
        file = tmp_path / "case.yaml"
        file.write_text(json.dumps(values))
        done = cli("rangetest", file, *words, *ALLOW, "-o", tmp_path / "run")
        return done.code, json.loads(done.out) if done.out else done.err

    return call


def test_labels_that_mean_nothing_are_inconclusive(result):
    code, found = result("shuffled")
    assert (code, found["bounds"]["verdict"]) == (3, "inconclusive")
    assert "check data and labels" in found["bounds"]["advice"][0] or "broke" in found["bounds"]["advice"][0]


def test_one_class_is_nothing_to_sweep_for(result):
    code, message = result("one_class")
    assert code == 2
    assert "one class only" in str(message)


def test_a_network_that_is_right_at_once_has_bounds(result):
    code, found = result("apart", inputs=4, outputs=2)
    assert code == 0
    assert found["bounds"]["verdict"] in ("wide", "weak")
    assert found["bounds"]["base_lr"] < found["bounds"]["max_lr"]


def test_a_model_that_gives_nan_at_its_first_step_is_named_as_such(result):
    code, found = result("apart", model="poisoned", inputs=4, outputs=2)
    text = found if isinstance(found, str) else " ".join(found["bounds"]["advice"])
    assert code in (2, 3)
    assert "finite" in text or "NaN" in text


@pytest.mark.parametrize(
    ("ends", "advice"),
    [
        (("1e-9", "1e-7"), "raise sweep.end_lr"),
        (("2e3", "9e3"), "lower sweep.start_lr"),
    ],
)
def test_a_range_that_is_far_off_is_inconclusive_and_says_which_way(cli, tmp_path, ends, advice):
    words = [f"sweep.start_lr={ends[0]}", f"sweep.end_lr={ends[1]}", "sweep.epochs=2", "sweep.seeds=2"]
    done = cli("rangetest", "digits", *words, "--json", "-o", tmp_path / "run")
    assert done.code == 3
    assert advice in " ".join(json.loads(done.out)["bounds"]["advice"])


def test_no_range_has_to_be_guessed(cli, tmp_path):
    done = cli("rangetest", "digits", "plan.epochs=12", "--json", "-o", tmp_path / "run")
    found = json.loads(done.out)
    assert done.code == 0
    assert found["sweep"]["cost_epochs"] <= 12
    assert found["bounds"]["max_lr_interval"][0] < found["bounds"]["max_lr"] < found["bounds"]["max_lr_interval"][1]
    # digits train best at about 0.25, and lose a point from 0.06 to 0.4 (tests/benchmarks/REGRET.md)
    assert 0.06 < found["bounds"]["max_lr"] < 0.4
