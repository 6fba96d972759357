"""Whole workloads of other people's code: timm, transformers, torchvision, torch.compile."""

import shutil

import pytest
import torch
from torch.utils.data import Dataset

from clrtool.config.schema import RangeTestConfig, SweepConfig
from clrtool.engine.configured.build import build_workload
from clrtool.engine.rangetest.sweep import run_sweep
from tests.engine.workloads import digits

SHORT = SweepConfig(start_lr=1e-4, end_lr=0.1, epochs=1, evaluations=5, seeds=1)


def test_a_model_of_timm_comes_from_its_own_factory():
    args = {"model_name": "resnet10t", "num_classes": 10, "in_chans": 1}
    values = {"model": {"factory": "timm:create_model", "args": args}, "data": {"name": "digits", "batch_size": 200}}
    workload = build_workload(RangeTestConfig.model_validate(values), device="cpu", allow_import=["timm:create_model"])
    assert workload.channels_last
    assert len(run_sweep(workload, SHORT).curves[0].lr) > 3


class Sentences(Dataset):
    """Words 1 and 2 tell the class; sentences are of two lengths, padded, with a mask."""

    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        length, label = 6 + index % 3, index % 2
        words = torch.zeros(8, dtype=torch.int64)
        words[:length] = 3 + torch.arange(length) % 5
        words[index % 5] = 1 + label
        return {"input_ids": words, "attention_mask": (torch.arange(8) < length).long(), "labels": label}


def sentences():
    return Sentences(640), Sentences(100)


def bert(hidden):
    from transformers import BertConfig, BertForSequenceClassification

    sizes = {"hidden_size": hidden, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": hidden}
    return BertForSequenceClassification(BertConfig(vocab_size=10, num_labels=2, **sizes))


def test_a_model_of_transformers_takes_its_inputs_by_name_and_its_logits_are_found():
    values = {
        "model": {"factory": "tests.engine.test_workloads:bert", "args": {"hidden": 32}},
        "data": {"factory": "tests.engine.test_workloads:sentences", "batch_size": 32},
        "optimizer": {
            "name": "AdamW",
            "groups": [{"params": ["*.bias", "*LayerNorm*"], "args": {"weight_decay": 0.0}}],
        },
        "training": {"clip_norm": 1.0},
    }
    workload = build_workload(RangeTestConfig.model_validate(values), device="cpu", allow_import=["tests.*"])
    record = run_sweep(workload, SHORT.model_copy(update={"epochs": 6.0}))
    assert record.curves[0].metric.max() > 0.95
    assert sorted(group.weight_decay for group in record.groups) == [0.0, 0.01]


def test_a_vision_transformer_learns_the_digits():
    workload = digits(model={"name": "vit", "args": {"patch": 2, "depth": 1, "width": 32}}, optimizer={"name": "AdamW"})
    record = run_sweep(workload, SHORT.model_copy(update={"epochs": 6.0, "end_lr": 0.01}))
    assert record.curves[0].metric.max() > 0.7


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_model_gives_the_curve_of_the_plain_one():
    plain, compiled = (run_sweep(digits(training={"compile": wish}), SHORT).curves[0] for wish in (False, True))
    assert compiled.heldout_loss == pytest.approx(plain.heldout_loss, rel=1e-3)
