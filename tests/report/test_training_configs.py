"""Configs of other programs as they lie in repositories: read as the packages that take them do, or refused truly."""

import json

import numpy as np
import pytest
import torch

from clrtool.core.sources import schedule_from
from clrtool.errors import ConfigError
from clrtool.report.trainings.found import Known
from clrtool.report.trainings.read import is_training, read_training
from tests.core.peers import mmengine_rates, peer

DETECTION = """
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=12, val_interval=1)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=50),
    dict(type='MultiStepLR', begin=0, end=12, by_epoch=True, milestones=[8, 11], gamma=0.1)]
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.02, momentum=0.9, weight_decay=0.0001))
"""
SEGMENTATION = """
optimizer = dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=0.0005)
optim_wrapper = dict(type='OptimWrapper', optimizer=optimizer, clip_grad=None)
param_scheduler = [dict(type='PolyLR', eta_min=1e-4, power=0.9, begin=0, end=300, by_epoch=False)]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=300, val_interval=100)
"""
HYDRA = {
    "optimizer": {"_target_": "torch.optim.AdamW", "lr": 0.01, "weight_decay": 0.1},
    "scheduler": {"_target_": "torch.optim.lr_scheduler.CosineAnnealingLR", "T_max": 90, "eta_min": 1e-05},
}
LIGHTNING = {
    "trainer": {"max_epochs": 90},
    "model": {"class_path": "my.Model"},
    "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.5, "momentum": 0.9}},
    "lr_scheduler": {"class_path": "torch.optim.lr_scheduler.StepLR", "init_args": {"step_size": 30, "gamma": 0.1}},
}
TUNE = {
    "optimizer": {"_component_": "torch.optim.AdamW", "lr": 3e-4},
    "lr_scheduler": {
        "_component_": "torchtune.training.lr_schedulers.get_cosine_schedule_with_warmup", "num_warmup_steps": 10,
    },
}  # fmt: skip
LENGTHS = Known(iterations=1200, iterations_per_epoch=100)


def only(folder, text, name="config.py", known=LENGTHS):
    file = folder / name
    file.write_text(text if isinstance(text, str) else json.dumps(text, indent=1))
    (found,) = read_training(file, known)
    return found


@pytest.mark.parametrize(("text", "lr", "steps"), [(DETECTION, 0.02, 1200), (SEGMENTATION, 0.01, 300)])
def test_a_config_of_mmengine_has_the_schedulers_that_mmengine_makes_of_it(tmp_path, text, lr, steps):
    peer("mmengine.optim.scheduler")
    found, names = only(tmp_path, text), {}
    exec(text, names)  # noqa: S102 (the text above, as mmengine reads it)
    theirs = mmengine_rates(names["param_scheduler"], lr, steps, epoch_length=100)
    np.testing.assert_allclose(schedule_from(found.source, found.params)(range(steps)), theirs, rtol=1e-9)
    assert (found.iterations, found.optimizer, found.momentum) == (steps, "SGD", 0.9)


def test_what_a_config_of_mmengine_leaves_to_others_is_asked_for_with_its_line(tmp_path):
    told = "the length of an epoch, which this file does not say: give --iterations-per-epoch"
    with pytest.raises(ConfigError, match=rf"config\.py:3: epoch_length is {told}"):
        only(tmp_path, DETECTION, known=Known())
    with pytest.raises(ConfigError, match=r"config\.py:2: base_lr is the optimizer's .* base_lr=VALUE"):
        only(tmp_path, "_base_ = ['a.py']\nparam_scheduler = dict(type='ExponentialLR', gamma=0.9, by_epoch=False)\n")
    newer = SEGMENTATION.replace("'PolyLR'", "PolyLR")  # which imports the class
    assert only(tmp_path, "from mmengine.optim import PolyLR\n" + newer).params == only(tmp_path, SEGMENTATION).params


@pytest.mark.parametrize(
    ("config", "lr", "stepped", "optimizer"), [(HYDRA, 0.01, None, "AdamW"), (LIGHTNING, 0.5, "epoch", "SGD")]
)
def test_a_section_makes_the_scheduler_of_torch_that_its_class_is(tmp_path, config, lr, stepped, optimizer):
    found = only(tmp_path, config, "config.json")
    section = next(config[word] for word in ("scheduler", "lr_scheduler") if word in config)
    given = section.get("init_args") or {name: value for name, value in section.items() if name != "_target_"}
    sgd = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    name = (section.get("_target_") or section["class_path"]).rpartition(".")[2]
    theirs, rates = getattr(torch.optim.lr_scheduler, name)(sgd, **given), []
    for _ in range(90):
        rates.append(sgd.param_groups[0]["lr"])
        sgd.step()
        theirs.step()
    np.testing.assert_allclose(schedule_from(found.source, found.params)(range(90)), rates, rtol=1e-9, atol=1e-15)
    assert (found.stepped, found.optimizer) == (stepped, optimizer)


def test_the_length_that_a_program_counts_is_asked_for(tmp_path):
    assert only(tmp_path, TUNE, "tune.json").params["num_training_steps"] == 1200
    with pytest.raises(ConfigError, match=r"tune\.json:7: num_training_steps is .* give --iterations"):
        only(tmp_path, TUNE, "tune.json", Known())


def test_a_schedule_that_is_stepped_once_an_epoch_is_as_many_epochs_long_where_no_length_is_given(tmp_path, cli):
    (tmp_path / "lightning.json").write_text(json.dumps(LIGHTNING | {"lr_scheduler": {
        "class_path": "torch.optim.lr_scheduler.CosineAnnealingLR", "init_args": {"T_max": 90}}}))  # fmt: skip
    done = cli("plan", "--lint", tmp_path / "lightning.json", "--iterations-per-epoch", "100")
    assert (done.code, "nothing found" in done.err) == (0, True)
    short = cli("plan", "--lint", tmp_path / "lightning.json", "--iterations-per-epoch", "100", "--iterations", "3000")
    assert "its length is 90 steps, the training takes 30" in " ".join(short.out.split())


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("training_args.bin", "PK", "a pickle, which may run any code"),
        ("a.ipynb", "{}", "a notebook: save its code"),
        ("a.toml", "learning_rate = 1\n", "in TOML, which is not read"),
        ("a.yaml", "deepspeed_config:\n  deepspeed_config_file: ds.json\n", "a.yaml:1: a config of accelerate.*ds.json"),
        ("a.yaml", "deepspeed_config:\n  zero_stage: 2\n", "a.yaml:1: a config of accelerate.*made by its script"),
        ("a.yaml", "scheduler:\n  name: cosine_with_warmup\n  t_warmup: 9ba\n", "a.yaml:2: .*'cosine_with_warmup', and no"),
        ("a.yaml", "sched: cosine\nlr: 0.1\nepochs: 300\n", "a.yaml:1: sched is a word of timm.*timm:CosineLRScheduler"),
        ("a.yaml", "lr: 1\nnum_epochs: 3\nlr_scheduler: cosine\n", "a.yaml:3: .*another program.*--from transformers:cosine"),
        ("a.yaml", "learning_rate: 1\nlr_scheduler: rex\n", "a.yaml:2: .*another program; give its schedule with --from$"),
        ("a.py", "x = 1\ns = CosineLRScheduler(o, t_initial=9)\n", "a.py:2: CosineLRScheduler is not.*--from timm:"),
        ("a.py", "learn.fit_one_cycle(5)\n", "a.py:1: fit_one_cycle is not .*--from fastai:fit_one_cycle"),
        ("a.py", "TrainingArguments(max_steps=9, lr_scheduler_kwargs=more)\n", "a.py:1: lr_scheduler_kwargs must .*more"),
        ("a.json", {"learning_rate": 1, "max_steps": 9, "lr_scheduler_kwargs": "{"}, "a.json:4: lr_scheduler_kwargs must"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_read_is_refused_for_its_true_reason(tmp_path, name, text, words):
    with pytest.raises(ConfigError, match=words):
        only(tmp_path, text, name)
    assert is_training(tmp_path / name)
