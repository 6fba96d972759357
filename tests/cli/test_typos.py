"""A slip of the pen in any name is answered by the nearest that there is."""

import pytest

from clrtool.engine.models.builtin import MODELS
from clrtool.report.programs import starter

NUMBERS = ["plan", "--base-lr", "1e-3", "--max-lr", "1e-2", "--iterations-per-epoch", "10"]
TEST = ["rangetest", "digits", "-q", "-o", "run"]


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["rangtest", "digits"], "Did you mean 'rangetest'?"),
        (["rangetest", "digits", "--sede", "3"], "--seeds"),
        (["rangetest", "digit"], "did you mean 'digits'?"),
        (["init", "digts"], "did you mean 'digits'?"),
        (["init", "a.yaml", "--model", "mpl", "--data", "digits"], "did you mean 'mlp'?"),
        (["init", "a.yaml", "--model", "mlp", "--data", "image_foldr"], "did you mean 'image_folder'?"),
        ([*TEST, "modle.name=mlp"], "did you mean 'model'?"),
        ([*TEST, "sweep.epoch=3"], "did you mean 'epochs'?"),
        ([*TEST, "model.name=mpl"], "did you mean 'mlp'?"),
        ([*TEST, "model.name=torchvision.resnt18"], "did you mean 'resnet18'?"),
        ([*TEST, "model.args.hiden=[3]"], "did you mean 'hidden'?"),
        ([*TEST, "data.name=digts"], "did you mean 'digits'?"),
        ([*TEST, "data.name=torchvision.CIFR10"], "did you mean 'CIFAR10'?"),
        ([*TEST, "optimizer.name=Adm"], "did you mean 'Adam'?"),
        ([*TEST, "optimizer.args.momentm=0.9"], "did you mean 'momentum'?"),
        ([*TEST, "loss.name=cross_entrop"], "did you mean 'cross_entropy'?"),
        ([*TEST, "metric.name=acuracy"], "did you mean 'accuracy'?"),
        ([*TEST, "precision=bf61"], "did you mean 'bf16'?"),
        ([*TEST, "plan.policy=triangulr"], "did you mean 'triangular'?"),
        ([*NUMBERS, "--policy", "cosin"], "did you mean 'cosine'?"),
        ([*NUMBERS, "--format", "torh"], "did you mean 'torch'?"),
        (["plan", "--from", "torch:CyclcLR"], "did you mean 'torch:CyclicLR'?"),
        (["plan", "my-ron"], "did you mean 'my-run'?"),
        (["plot", "my-ron"], "did you mean 'my-run'?"),
        (["compare", "digits", "--policies", "fixd"], "did you mean 'fixed'?"),
    ],
)
def test_the_nearest_valid_name_is_offered(cli, tmp_path, monkeypatch, words, meant):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "my-run").mkdir(parents=True)
    (tmp_path / "runs" / "my-run" / "result.json").touch()
    done = cli(*words)
    assert done.code == 2
    assert meant in done.err


def test_the_models_that_init_knows_are_those_that_there_are():
    assert set(starter.MODELS) == set(MODELS)
