"""Several optimizers that a config names, each with the parameters whose names fit its patterns."""

import pytest
import torch

from clrtool.config.file import load_config
from clrtool.engine.configured.build import build_workload
from clrtool.engine.rangetest.sweep import run_sweep
from clrtool.engine.training.cuda_graph import why_not_captured
from clrtool.engine.training.trainer import Trainer
from clrtool.errors import ConfigError

HEAD = """
model: {name: mlp, args: {hidden: [16]}}
data: {name: digits, batch_size: 32}
sweep: {epochs: 1, seeds: 1, evaluations: 3}
optimizer:
"""
BOTH = (
    HEAD
    + """
  - {name: Muon, params: ["*.weight"], args: {weight_decay: 0.01}}
  - {name: AdamW, params: ["*"], lr_ratio: 0.015, groups: [{params: ["3.*"], lr_ratio: 2, args: {weight_decay: 0.5}}]}
"""
)


def built(folder, text):
    (folder / "mine.yaml").write_text(text)
    return build_workload(load_config(folder / "mine.yaml"), device="cpu")


def test_several_are_trained_by_the_plain_loop_and_the_reason_is_theirs(tmp_path):
    assert why_not_captured(built(tmp_path, BOTH)) == "several optimizers step together: Muon + AdamW"


def test_each_parameter_steps_as_by_its_own_optimizer_at_its_ratio(tmp_path):
    workload = built(tmp_path, BOTH)
    trainer = Trainer(workload, seed=0)
    model = workload.make_model()
    model.load_state_dict(trainer.model.state_dict())
    weights = [each for each in model.parameters() if each.ndim == 2]
    first, last = (each for each in model.parameters() if each.ndim == 1)
    theirs = [
        torch.optim.Muon(weights, lr=0.02, weight_decay=0.01),
        torch.optim.AdamW([first], lr=0.02 * 0.015),
        torch.optim.AdamW([last], lr=0.02 * 0.015 * 2, weight_decay=0.5),
    ]
    batches = workload.loader.batches(0, 0)
    trainer.train(0, [0.02] * 5)
    for _ in range(5):
        inputs, targets = next(batches)
        model.zero_grad()
        torch.nn.functional.cross_entropy(model(inputs), targets).backward()
        [each.step() for each in theirs]
    for ours, other in zip(trainer.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, other)
    assert sorted(group.lr_ratio for group in workload.groups) == pytest.approx([0.015, 0.03, 1])


def test_a_sweep_and_its_branches_go_on_with_all_of_them(tmp_path):
    workload = built(tmp_path, BOTH)
    assert run_sweep(workload, load_config(tmp_path / "mine.yaml").sweep).curves[0].metric.max() > 0.2
    trainer = Trainer(workload, seed=0)
    trainer.train(0, [0.01] * 3)
    branch = trainer.branch()
    assert branch.train(3, [0.01] * 3) == trainer.train(3, [0.01] * 3)


REFUSED = {
    r"mine.yaml:\d+:.*optimizer: no part trains '1.bias'.*params: \['\*'\]": """
  - {name: Muon, params: ["*.weight"]}
  - {name: AdamW, params: ["3.*"]}""",
    r"mine.yaml:8:.*optimizer.1.params is missing": """
  - {name: Muon, params: ["*.weight"]}
  - {name: AdamW}""",
    r"mine.yaml:7:.*unknown key 'parms' in optimizer.0; did you mean 'params'": """
  - {name: Muon, parms: ["*.weight"], params: ["*"]}
  - {name: AdamW, params: ["*"]}""",
    r"mine.yaml:8:.*optimizer.1.args .*must not hold 'lr'": """
  - {name: Muon, params: ["*.weight"]}
  - {name: AdamW, params: ["*"], args: {lr: 0.1}}""",
    r"mine.yaml:8:.*optimizer.1.name: torch.optim has no 'AdamV'": """
  - {name: Muon, params: ["*.weight"]}
  - {name: AdamV, params: ["*"]}""",
    "must hold at least 2": """
  - {name: SGD, params: ["*"]}""",
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_shared_out_is_refused_at_its_line(tmp_path, message):
    from clrtool.config.file import located

    path = tmp_path / "mine.yaml"
    with pytest.raises(ConfigError, match=message), located(path, []):
        built(tmp_path, HEAD + REFUSED[message])


def test_one_optimizer_is_told_of_in_the_words_of_before(tmp_path):
    with pytest.raises(
        ConfigError, match=r"mine.yaml:\d+:\d+: unknown key 'grups' in optimizer; did you mean 'groups'"
    ):
        built(tmp_path, HEAD.rstrip() + " {name: SGD, grups: []}\n")


@pytest.mark.parametrize("model", ["{name: mlp, args: {hidden: [16]}}", "{name: convnet}"])
def test_muon_over_more_than_matrices_says_to_give_a_list_and_that_list_works(tmp_path, model):
    text = HEAD.replace("{name: mlp, args: {hidden: [16]}}", model)
    with pytest.raises(
        ConfigError, match=r"Muon steps matrices alone, and [\w.]+ has [14] dimensions: give a list"
    ) as error:
        built(tmp_path, f"{text}  {{name: Muon}}\n")
    model = built(tmp_path, f"{text}  {{name: SGD}}\n").make_model()
    matrices = [name for name, each in model.named_parameters() if each.ndim == 2]
    listed = str(error.value).split("give a list, ")[1].replace("PATTERNS OF MATRICES", ", ".join(matrices))
    assert len(built(tmp_path, f"{text}  {listed}\n").groups) == 2
