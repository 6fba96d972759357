"""Models by config that have their classes second, as torch's losses take them, or take views of their images."""

import pytest
import torch
from torch import nn

from clrtool.config.schema import RangeTestConfig
from clrtool.engine.configured.build import build_workload
from clrtool.engine.training.trainer import Trainer
from clrtool.errors import ConfigError

FACTORIES = """
import torch
from torch import nn

class Moved(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net
    def forward(self, inputs):
        return self.net(inputs).movedim(1, -1)

def line(last=False):
    net = nn.Sequential(nn.Conv1d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv1d(8, 5, 1))
    return Moved(net) if last else net

def image(last=False):
    net = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 5, 1))
    return Moved(net) if last else net

def data(places):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand(300, 1, *places, generator=generator)
    targets = (inputs[:, 0] * 5).long().clamp(max=4)
    targets[:, 0] = -100
    return (inputs[:200], targets[:200]), (inputs[200:], targets[200:])

class Views(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 6, 3), nn.Linear(6 * 36, 10)
    def forward(self, inputs):
        features = self.conv(inputs)
        return self.head(features.view(len(features), -1))
"""


@pytest.fixture
def workload(tmp_path, monkeypatch):
    (tmp_path / "ordered_factories.py").write_text(FACTORIES)

    def build(**sections):
        config = RangeTestConfig.model_validate({"sweep": {"epochs": 1, "evaluations": 4}} | sections)
        return build_workload(config, device="cpu", allow_import=["ordered_factories:*"], folder=tmp_path)

    return build


@pytest.mark.parametrize(("model", "places"), [("line", [9]), ("image", [6, 7])])
def test_classes_may_be_second_and_mean_the_same_as_last(workload, model, places):
    found = []
    for last in (False, True):
        made = workload(
            model={"factory": f"ordered_factories:{model}", "args": {"last": last}},
            data={"factory": "ordered_factories:data", "args": {"places": places}, "batch_size": 20},
            metric="token_accuracy",
        )
        with made.on_device():
            trainer = Trainer(made, 0)
            losses = trainer.train(0, [0.1] * 5)
            found.append([*losses, *trainer.evaluate()])
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_outputs_that_fit_neither_order_name_both(workload):
    with pytest.raises(ConfigError, match=r"outputs must be \(20, 9, classes\) or \(20, classes, 9\)"):
        workload(
            model={"name": "mlp"},
            data={"factory": "ordered_factories:data", "args": {"places": [9]}, "batch_size": 20},
            metric="token_accuracy",
        )


def test_a_model_that_views_its_images_runs_contiguous_and_says_so(workload):
    sections = {"model": {"factory": "ordered_factories:Views"}, "data": {"name": "digits", "batch_size": 50}}
    made = workload(**sections)
    assert not made.channels_last
    assert any("runs contiguous" in each for each in made.warnings)
    with pytest.raises(ConfigError, match="view size is not compatible"):
        workload(**sections, training={"layout": "channels_last"})
    plain = workload(model={"name": "convnet"}, data={"name": "digits", "batch_size": 50})
    assert plain.channels_last
    assert not plain.warnings


def test_the_loss_of_torch_is_that_of_the_config():
    outputs, targets = torch.randn(4, 5, 6), torch.randint(5, (4, 6))
    from clrtool.engine.configured.losses import Criterion
    from clrtool.engine.data.tensors import Task

    ours = Criterion(nn.CrossEntropyLoss(), Task.TOKENS, classes_are_second=True)(outputs, targets)
    assert float(ours) == pytest.approx(float(nn.functional.cross_entropy(outputs, targets)))
