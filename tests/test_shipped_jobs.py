"""The shipped examples of jobs that are no classification of images: each is run, and does what its first line says."""

import json

import pytest
import torch
from torch import nn

from clrtool.config.file import find_config, load_config
from clrtool.engine.configured.build import build_workload
from clrtool.engine.training.trainer import Trainer

JOBS = ("lstm", "autoencoder", "multilabel", "siamese")
ALLOWED = "job_factories:*"


def built(name):
    path = find_config(name)
    return build_workload(load_config(path), device="cpu", allow_import=[ALLOWED], folder=path.parent)


@pytest.mark.parametrize("name", JOBS)
def test_an_example_finds_rates_that_learn(cli, tmp_path, name):
    assert cli("rangetest", name, "--allow-import", ALLOWED, "-q", "-o", tmp_path).code == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert 0 < result["bounds"]["base_lr"] < result["bounds"]["max_lr"]
    first, *rest = (line.split(",") for line in (tmp_path / "curve.csv").read_text().splitlines())
    losses = [float(row[first.index("heldout_loss")]) for row in rest]
    assert min(losses) < 0.9 * losses[0]


def test_the_state_of_the_lstm_goes_on_from_batch_to_batch_as_its_streams_do():
    workload = built("lstm")
    trainer = Trainer(workload, seed=0)
    batches = workload.loader.batches(0, 0)
    (first, _), (second, known), _ = (next(batches) for _ in range(3))
    # the same network without a memory of its own, over both parts of each stream at once
    trainer.model.train()
    with torch.no_grad():
        whole, _ = trainer.model.lstm(torch.cat([first, second], 1))
        parts = [trainer.model(each) for each in (first, second)]
    torch.testing.assert_close(torch.cat(parts, 1), trainer.model.head(whole))
    silent = second[:, 0, 0] == 1  # nothing is set in the first place: the answer lies in the part before
    events = first[..., 1:].flip(1).sum(-1)
    latest = first.flip(1)[torch.arange(len(first)), events.argmax(1)].argmax(-1) - 1
    seen = silent & (events.sum(1) > 0)
    assert seen.sum() > 5
    assert known[seen, 0].tolist() == latest[seen].tolist()


def test_the_autoencoder_has_its_inputs_as_targets_and_fewer_numbers_inside():
    workload = built("autoencoder")
    model = workload.make_model()
    assert min(each.out_features for each in model if isinstance(each, nn.Linear)) == 6
    mean, std = workload.loader.transform.mean, workload.loader.transform.std
    inputs = workload.heldout.inputs * std + mean
    torch.testing.assert_close(inputs, workload.heldout.targets, rtol=1e-4, atol=1e-4)


def test_the_pairs_are_of_one_class_half_of_the_time_and_their_metric_is_that_of_the_distances():
    workload = built("siamese")
    trainer = Trainer(workload, seed=0)
    _, metric = trainer.evaluate()
    (first, second), same = workload.heldout.inputs, workload.heldout.targets
    with torch.no_grad():
        distances = (trainer.model.net(first) - trainer.model.net(second)).pow(2).sum(1).sqrt()
    assert metric == pytest.approx(float(((distances < 1) == same.bool()).double().mean()))
    assert 0.4 < float(same.mean()) < 0.75
