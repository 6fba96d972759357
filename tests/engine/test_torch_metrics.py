"""Metrics of torchmetrics and losses of torch that a config names."""

import pytest
import torch

from clrtool.config.components import MetricConfig
from clrtool.config.schema import RangeTestConfig
from clrtool.engine.configured.build import build_workload
from clrtool.engine.configured.torch_metrics import made_metric
from clrtool.engine.models.forward import outputs_of
from clrtool.engine.training.trainer import Trainer
from clrtool.engine.training.whole_set import WholeSet
from clrtool.errors import ConfigError

torchmetrics = pytest.importorskip("torchmetrics")

FACTORIES = """
import torch
from torch import nn

def net(outputs):
    return nn.Linear(6, outputs)

def tagger():
    return nn.Linear(6, 4)

def inputs(*shape):
    return torch.randn(200, *shape, generator=torch.Generator().manual_seed(0))

def tags():
    x = inputs(5, 6)
    y = x[..., :4].argmax(-1)
    y[:, -1] = -100
    return (x[:120], y[:120]), (x[120:], y[120:])

def several():
    x = inputs(6)
    y = (x[:, :3] > 0.5).float()
    return (x[:120], y[:120]), (x[120:], y[120:])

def classes():
    x = inputs(6)
    y = x[:, :4].argmax(-1)
    return (x[:120], y[:120]), (x[120:], y[120:])

def values():
    x = inputs(6)
    y = x[:, 0] - x[:, 1]
    return (x[:120], y[:120]), (x[120:], y[120:])

def f1():
    from torchmetrics import F1Score
    return F1Score(task="multiclass", num_classes=4, average="macro")
"""
MULTICLASS = {"task": "multiclass", "num_classes": 4}


@pytest.fixture
def workload(tmp_path):
    (tmp_path / "measured_factories.py").write_text(FACTORIES)

    def build(data, metric, loss, outputs=4):
        sections = {
            "model": {"factory": "measured_factories:net", "args": {"outputs": outputs}},
            "data": {"factory": f"measured_factories:{data}", "batch_size": 20},
            "sweep": {"epochs": 1, "evaluations": 3},
            "metric": metric,
            "loss": loss,
        }
        config = RangeTestConfig.model_validate(sections)
        return build_workload(config, device="cpu", allow_import=["measured_factories:*"], folder=tmp_path)

    return build


CASES = {
    "F1 of classes": ("classes", "torchmetrics.F1Score", MULTICLASS | {"average": "macro"}, "torch.nn.CrossEntropyLoss"),
    "IoU of tokens, classes last": (
        "tags", "torchmetrics.JaccardIndex", MULTICLASS | {"ignore_index": -100}, "cross_entropy"),
    "AUROC of several labels": (
        "several", "torchmetrics.AUROC", {"task": "multilabel", "num_labels": 3}, "torch.nn.BCEWithLogitsLoss"),
    "R2 of values": ("values", "torchmetrics.R2Score", {}, "mse"),
    "error of values": ("values", "torchmetrics.regression.MeanAbsoluteError", {}, "torch.nn.SmoothL1Loss"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_metric_that_a_config_names_is_that_of_torchmetrics_over_the_whole_held_out_set(workload, case):
    data, name, args, loss = CASES[case]
    outputs = {"several": 3, "values": 1}.get(data, 4)
    built = workload(data, {"name": name, "args": args}, loss, outputs)
    trainer = Trainer(built, seed=0)
    (_, found), (_, again) = trainer.evaluate(), trainer.evaluate()
    metric = getattr(torchmetrics, name.rpartition(".")[2])(**args)
    with torch.no_grad():
        given, targets = outputs_of(trainer.model, built.heldout.inputs), built.heldout.targets
    if data == "tags":
        given = given.movedim(-1, 1)
    expected = metric(given.reshape_as(targets) if data == "values" else given,
                      targets.long() if data == "several" else targets)  # fmt: skip
    assert found == again == pytest.approx(float(expected), rel=1e-5)
    assert built.metric.higher_is_better == (data != "values" or "R2" in name)
    assert built.metric.label == name.rpartition(".")[2]


def test_a_factory_may_give_a_metric_of_the_whole_set(workload):
    own = workload("classes", {"factory": "measured_factories:f1", "higher_is_better": True}, "cross_entropy")
    named = workload("classes", {"name": "torchmetrics.F1Score", "args": MULTICLASS | {"average": "macro"}},
                     "cross_entropy")  # fmt: skip
    assert Trainer(own, 0).evaluate() == Trainer(named, 0).evaluate()


REFUSED = {
    "did you mean.*JaccardIndex": ("torchmetrics.JacardIndex", MULTICLASS),
    "that a config may name": ("torchmetrics.image.FrechetInceptionDistance", {}),
    "num_classes": ("torchmetrics.F1Score", {"task": "multiclass", "num_clases": 4}),
    "does not say which way is better": ("torchmetrics.MeanMetric", {}),
    "must give one number.*set its average": ("torchmetrics.F1Score", MULTICLASS | {"average": None}),
}


@pytest.mark.parametrize("words", REFUSED)
def test_a_metric_that_cannot_be_read_is_refused_with_the_fix(workload, words):
    name, args = REFUSED[words]
    with pytest.raises(ConfigError, match=rf"(?is)metric.*{words}"):
        workload("classes", {"name": name, "args": args}, "cross_entropy")


def test_which_way_is_better_may_be_said_of_a_metric_that_does_not_say_it_itself():
    asked = MetricConfig(name="torchmetrics.MeanMetric", higher_is_better=False)
    assert made_metric(asked).higher_is_better is asked.metric.higher_is_better is False


def test_targets_between_two_classes_are_refused_and_not_rounded():
    whole = WholeSet(torchmetrics.F1Score(task="binary"), "metric")
    outputs, targets = torch.rand(8), torch.tensor([0.0, 1.0] * 4)
    assert whole.fitted(outputs, targets)[1].dtype is torch.long
    with pytest.raises(ConfigError, match="metric: F1Score needs classes, and targets are not whole numbers"):
        whole.fitted(outputs, targets * 0.9)
