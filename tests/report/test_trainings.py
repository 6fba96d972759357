"""Files of trainings as they lie in repositories: what is read off them, held against the systems that run them."""

import inspect
import json
import math
import re

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler

from clrtool.core.sources import SOURCES, schedule_from
from clrtool.errors import ConfigError
from clrtool.report.trainings.found import Known
from clrtool.report.trainings.read import is_training, read_training
from clrtool.report.trainings.scripts import FUNCTIONS, positions

LENGTHS = ["--iterations", "1410", "--iterations-per-epoch", "47"]
ARGUMENTS = {
    "output_dir": "out", "learning_rate": 2e-5, "num_train_epochs": 3.0, "per_device_train_batch_size": 8,
    "lr_scheduler_type": "cosine", "optim": "adamw_torch",
}  # fmt: skip


def deepspeed(scheduler, optimizer=None):
    return {
        "train_batch_size": 8, "zero_optimization": {"stage": 2}, "scheduler": scheduler,
        "optimizer": optimizer or {"type": "AdamW", "params": {"lr": 3e-4, "betas": [0.9, 0.95]}},
    }  # fmt: skip


def written(folder, values, name="config.json", **form):
    file = folder / name
    file.write_text(values if isinstance(values, str) else json.dumps(values, **({"indent": "\t"} | form)))
    return file


def module(body, init="", head=""):
    """A file of a Lightning module whose ``configure_optimizers`` has this body."""
    lines = "".join(f"        {line}\n" for line in body.strip().splitlines())
    return (
        f"import torch\nimport lightning\n{head}\n\nclass Module(lightning.LightningModule):\n"
        f"    def __init__(self{init}):\n        super().__init__()\n        self.save_hyperparameters()\n\n"
        f"    def configure_optimizers(self):\n{lines}"
    )


def only(folder, text, known=Known(), name="module.py"):  # noqa: B008 (frozen)
    (found,) = read_training(written(folder, text, name), known)
    return found


@pytest.mark.parametrize(
    ("arguments", "per_epoch"),
    [
        ({}, 100),
        ({"warmup_ratio": 0.03}, 100),
        ({"warmup_steps": 50}, 100),
        ({"warmup_steps": 0.1}, 77),
        ({"max_steps": 120, "warmup_steps": 7}, 100),
        ({"num_train_epochs": 1.5, "warmup_ratio": 0.101}, 33),
        ({"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr_rate": 0.1}}, 50),
        ({"lr_scheduler_type": "inverse_sqrt", "warmup_steps": 20}, 50),
        ({"lr_scheduler_type": "constant"}, 50),
        ({"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": {"power": 2.0}}, 50),
        ({"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": '{"power": 2.0}'}, 50),
        ({"lr_scheduler_type": "warmup_stable_decay", "lr_scheduler_kwargs": {"num_decay_steps": 30}}, 50),
    ],
)
def test_training_arguments_are_read_as_transformers_trainer_takes_them(tmp_path, arguments, per_epoch):
    transformers = pytest.importorskip("transformers")
    values = ARGUMENTS | arguments
    found = only(tmp_path, values, Known(iterations_per_epoch=per_epoch), "args.json")
    shares = {"warmup_steps": values["warmup_ratio"]} if "warmup_ratio" in values else {}
    names = [name for name in values if name not in ("warmup_ratio", "optim")]
    theirs = transformers.TrainingArguments(**{name: values[name] for name in names} | shares, use_cpu=True)
    steps = theirs.max_steps if theirs.max_steps > 0 else math.ceil(theirs.num_train_epochs * per_epoch)
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=theirs.learning_rate)
    scheduler = transformers.get_scheduler(
        theirs.lr_scheduler_type, optimizer, num_warmup_steps=theirs.get_warmup_steps(steps), num_training_steps=steps,
        scheduler_specific_kwargs=theirs.lr_scheduler_kwargs,
    )  # fmt: skip
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    np.testing.assert_allclose(schedule_from(found.source, found.params)(range(steps)), rates, rtol=1e-9, atol=1e-15)
    assert (found.optimizer, found.iterations or steps) == ("AdamW", steps)


@pytest.mark.parametrize(
    ("scheduler", "params"),
    [
        ({"type": "WarmupLR", "params": {"warmup_max_lr": 1e-3}}, {"warmup_max_lr": 1e-3}),
        ({"type": "WarmupLR", "params": {"warmup_num_steps": 9}}, {"warmup_num_steps": 9, "base_lr": 3e-4}),
        ({"type": "WarmupCosineLR", "params": {"total_num_steps": 50}}, {"total_num_steps": 50, "base_lr": 3e-4}),
        ({"type": "StepLR", "params": {"step_size": 9}}, {"step_size": 9, "base_lr": 3e-4}),
        (
            {"type": "WarmupDecayLR", "params": dict.fromkeys(["total_num_steps", "warmup_min_lr"], "auto")},
            {"total_num_steps": 1410, "warmup_min_lr": 0},
        ),
    ],
)
def test_a_deepspeed_config_has_the_scheduler_of_its_section_and_the_rate_of_its_optimizer(tmp_path, scheduler, params):
    found = only(tmp_path, deepspeed(scheduler), Known(iterations=1410), "ds_config.json")
    assert found.source.endswith(scheduler["type"])
    assert found.source.split(".")[0] == ("torch" if scheduler["type"] == "StepLR" else "deepspeed")
    assert found.params == params
    assert (found.stepped, found.optimizer) == ("iteration", "AdamW")


def test_positions_and_names_of_arguments_are_those_of_torch_and_transformers():
    transformers = pytest.importorskip("transformers.optimization")
    for source in SOURCES:
        if source.startswith("torch.optim.lr_scheduler."):
            theirs = list(inspect.signature(getattr(lr_scheduler, source.rpartition(".")[2])).parameters)
            ours = positions(source)
            assert ours == theirs[: len(ours)], source
    for function, name in FUNCTIONS.items():
        made = getattr(transformers, function)
        theirs = [word for word in inspect.signature(made).parameters if word != "last_epoch"]
        ours = positions(f"transformers.get_scheduler:{name}")
        assert ours[: len(theirs)] == theirs, function
        assert transformers.TYPE_TO_SCHEDULER_FUNCTION[name] is made


@pytest.mark.parametrize(
    ("text", "source", "params", "stepped"),
    [
        (
            module("optimizer = torch.optim.Adam(self.parameters(), lr=0.02)\n"
                   "scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)\n"
                   "return [optimizer], [scheduler]"),
            "CosineAnnealingLR", {"T_max": 10, "base_lr": 0.02}, "epoch",
        ),
        (
            module("optimizer = torch.optim.SGD(self.parameters(), self.hparams['lr'], momentum=MOMENTUM)\n"
                   "schedule = {'scheduler': lr_scheduler.OneCycleLR(optimizer, self.hparams.lr * 10, 2 * 50),\n"
                   "            'interval': 'step'}\n"
                   "return {'optimizer': optimizer, 'lr_scheduler': schedule}", ", lr=1e-3",
                   "from torch.optim import lr_scheduler\nMOMENTUM = 0.9"),
            "OneCycleLR", {"max_lr": 0.01, "total_steps": 100}, "iteration",
        ),
        (
            module("opt = torch.optim.AdamW(self.parameters(), lr=self.lr)\n"
                   "scheduler = get_linear_schedule_with_warmup(opt, 100, num_training_steps=self.trainer.max_epochs)\n"
                   "return dict(optimizer=opt, lr_scheduler=dict(scheduler=scheduler, interval='epoch'))", ", lr=3e-5",
                   "from transformers import get_linear_schedule_with_warmup"),
            "get_scheduler:linear", {"num_warmup_steps": 100, "num_training_steps": 30, "base_lr": 3e-5}, "epoch",
        ),
        (
            ("def make(model, warmup=5):\n    opt = torch.optim.SGD(model.parameters(), lr=0.1)\n"
            "    rise = LinearLR(opt, 0.1, total_iters=warmup)\n"
            "    return SequentialLR(opt, [rise, ExponentialLR(opt, 0.9)], [warmup])\n"),
            "SequentialLR",
            {"schedulers": [{"type": "torch.optim.lr_scheduler.LinearLR", "start_factor": 0.1, "total_iters": 5},
                            {"type": "torch.optim.lr_scheduler.ExponentialLR", "gamma": 0.9}],
             "milestones": [5], "base_lr": 0.1}, None,
        ),
        (
            ("opt = torch.optim.AdamW(params, lr=1e-4)\n"
            "s = get_scheduler('cosine', optimizer=opt, num_warmup_steps=0, num_training_steps=epochs * 0 + 50)\n"
            "epochs = 3\n"),
            "get_scheduler:cosine", {"num_warmup_steps": 0, "num_training_steps": 50, "base_lr": 1e-4}, None,
        ),
        (
            ("optimizer = optim.SGD(net.parameters(), lr=0.1)\n"
            "scheduler = optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.95 ** epoch)\n"),
            "LambdaLR", {"lr_lambda": "lambda epoch: 0.95 ** epoch", "base_lr": 0.1}, None,
        ),
    ],
)  # fmt: skip
def test_a_script_is_read_and_not_run(tmp_path, text, source, params, stepped):
    found = only(tmp_path, text, Known(iterations=1410, iterations_per_epoch=47))
    assert found.source.endswith(source)
    assert found.params == params
    assert found.stepped == stepped
    schedule_from(found.source, found.params)(range(20))


@pytest.mark.filterwarnings("ignore")  # Lightning's own
def test_what_a_module_returns_is_stepped_as_lightning_steps_it(tmp_path):
    lightning = pytest.importorskip("lightning")
    for interval in (None, "step", "epoch"):
        entry = "" if interval is None else f", 'interval': '{interval}'"
        text = module("optimizer = torch.optim.SGD(self.parameters(), lr=0.5)\n"
                      "made = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)\n"
                      f"return {{'optimizer': optimizer, 'lr_scheduler': {{'scheduler': made{entry}}}}}")  # fmt: skip
        names = {}
        exec(text, names)  # noqa: S102 (the text above: Lightning has to run it)
        net = names["Module"]()
        net.layer, seen = torch.nn.Linear(1, 1), []
        net.training_step = lambda batch, index, net=net, seen=seen: (
            seen.append(net.optimizers().param_groups[0]["lr"]) or net.layer(batch).sum()
        )
        trainer = lightning.Trainer(max_epochs=3, accelerator="cpu", logger=False, enable_checkpointing=False,
                                    enable_progress_bar=False, enable_model_summary=False)  # fmt: skip
        trainer.fit(net, torch.utils.data.DataLoader(torch.ones(4, 1)))
        found = only(tmp_path, text)
        steps = np.arange(12) // (4 if found.stepped == "epoch" else 1)
        np.testing.assert_allclose(schedule_from(found.source, found.params)(steps), seen)


@pytest.mark.parametrize(
    ("name", "text", "line", "words"),
    [
        ("a.json", ARGUMENTS | {"lr_scheduler_type": "reduce_lr_on_plateau"}, 6, "follows a metric"),
        ("a.yaml", "learning_rate: 1e-4\nwarmup_steps: 9\nlr_scheduler: cosine\n", 3, "a config of another program"),
        ("a.py", "lr = 1\nStepLR(torch.optim.SGD(p, lr=cfg.lr), 9)\n", 2, "base_lr is cfg.lr"),
        ("a.json", ARGUMENTS | {"lr_scheduler_type": "cosinus"}, 6, "no schedule is known"),
        ("a.json", ARGUMENTS, 6, "--iterations-per-epoch"),
        ("a.json", ARGUMENTS | {"max_steps": 9, "warmup_steps": -1}, 9, "warmup_steps must be a number from 0 on"),
        ("a.json", deepspeed({"type": "WarmupLR", "params": {"warmup_max_lr": "auto"}}), 9, "warmup_max_lr=VALUE"),
        ("a.json", deepspeed({"type": "Warmup"}), 7, "no schedule is known"),
        ("a.py", "x = 1\ndef f(:\n", 2, "not valid Python"),
        ("a.py", module("o = SGD(p, lr=1)\nreturn o, ReduceLROnPlateau(o)"), 12, "ReduceLROnPlateau follows a metric"),
        ("a.py", module("o = torch.optim.SGD(p, lr=1)\nreturn StepLR(o, self.hparams.every)"), 12, "step_size=VALUE"),
        ("a.py", module("o = torch.optim.SGD(p, lr=lr)\nreturn StepLR(o, 9)"), 11, "base_lr=VALUE"),
        ("a.py", module("return StepLR(o, self.trainer.max_epochs // 2)"), 11, "give --iterations and"),
        (
            "a.py",
            module("s = StepLR(o, 9)\nreturn [o], [{'scheduler': s,\n'frequency': 2}]"),
            13,
            "frequency must be 1",
        ),
        ("a.py", "n = 1\nn += 1\nStepLR(torch.optim.SGD(p, lr=1), n)\n", 3, "step_size is n,"),
    ],
)
def test_what_a_file_does_not_say_is_asked_for_with_its_line(tmp_path, name, text, line, words):
    file = written(tmp_path, text, name)
    with pytest.raises(ConfigError) as caught:
        read_training(file, Known())
    faults = [fault for fault in caught.value.faults if words in fault]
    assert faults, caught.value
    assert faults[0].startswith(f"{file}:{line}:")


@pytest.mark.parametrize(
    "text",
    [
        "-" * 100_000 + "1",
        "+".join(["1"] * 100_000),
        "(" * 100_000,
        "x = 1\0",
        "x = " + "9" * 5000,
        f"x = 0x{'f' * 5000}",
    ],
)
def test_a_script_that_no_parser_takes_is_a_fault_of_the_script_and_not_of_the_machine(tmp_path, cli, text):
    (tmp_path / "a.py").write_text(text)
    done = cli("plan", tmp_path / "a.py")
    assert done.code == 2, done.err
    assert re.search(r"a\.py(:1)?: not valid Python: \w", done.err)
    assert not re.search("sys.set_int|maximum recursion", done.err), "the words of the parser for its programmers"


def test_a_deepspeed_config_without_a_scheduler_and_a_script_without_one_say_so(tmp_path):
    with pytest.raises(ConfigError, match="without a scheduler section keeps the optimizer's"):
        read_training(written(tmp_path, {"zero_optimization": {"stage": 1}}), Known())
    with pytest.raises(ConfigError, match="makes no scheduler of torch or transformers"):
        read_training(written(tmp_path, "print(1)\n", "a.py"), Known())


def test_defaults_of_a_command_line_are_read_and_lists_are_a_schedule_for_each_group(cli, tmp_path):
    text = (
        "parser.add_argument('-l', '--learning-rate', type=float, default=0.1)\nargs = parser.parse_args()\n"
        "opt = torch.optim.SGD(p, lr=args.learning_rate)\n"
        "OneCycleLR(opt, max_lr=[args.learning_rate, 1.0], total_steps=100)\n"
    )
    file = written(tmp_path, text, "a.py")
    (found,) = read_training(file, Known())
    assert (found.place, found.params) == (f"{file}:4", {"max_lr": [0.1, 1.0], "total_steps": 100})
    linted = cli("plan", "--lint", file, "--iterations", "100", "--max-lr", "0.5", "--format", "json")
    (finding,) = (each for each in json.loads(linted.out)["findings"] if each["rule"] == "outside the bounds")
    assert finding["place"] == f"{file}:4, group 2"
    assert cli("plan", file, "--format", "csv").out.startswith("iteration,lr_1,lr_2,")


def test_a_script_is_never_run(tmp_path):
    mark = tmp_path / "mark"
    text = f"open({str(mark)!r}, 'w')\nStepLR(torch.optim.SGD(p, lr=9 ** 9 ** 9 ** 9), 10 ** 14 * 10 ** 14)\n"
    with pytest.raises(ConfigError, match="base_lr=VALUE"):
        read_training(written(tmp_path, text, "a.py"), Known())
    assert not mark.exists()


def test_values_of_the_user_fill_and_replace_those_of_the_file_and_others_are_refused(tmp_path):
    file = written(tmp_path, deepspeed({"type": "WarmupLR", "params": {"warmup_max_lr": "auto"}}))
    (found,) = read_training(file, Known(values={"warmup_max_lr": 0.1, "warmup_type": "linear"}))
    assert found.params == {"warmup_max_lr": 0.1, "warmup_type": "linear"}
    with pytest.raises(ConfigError, match=r"warmup_maxlr=\.\.\.: no schedule of this file takes it; did you mean"):
        read_training(file, Known(values={"warmup_maxlr": 0.1}))


def test_the_files_of_clrtool_are_no_trainings(tmp_path, cli):
    for name in ("plan.json", "plan.yaml"):
        cli("plan", "--base-lr", "1e-3", "--max-lr", "1e-2", "--iterations-per-epoch", "47", "-o", tmp_path / name)
        assert (tmp_path / name).exists()
        assert not is_training(tmp_path / name)
    cli("init", "digits", tmp_path / "config.yaml")
    assert (tmp_path / "config.yaml").exists()
    assert not is_training(tmp_path / "config.yaml")


def test_the_command_lints_a_file_and_names_the_line_of_every_finding(cli, tmp_path):
    body = (
        "optimizer = torch.optim.AdamW(self.parameters(), lr=1e-3)\n"
        "scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=30)\n"
        "return {'optimizer': optimizer, 'lr_scheduler': {'scheduler': scheduler, 'interval': 'step'}}"
    )
    file = written(tmp_path, module(body), "module.py")
    found = cli("plan", "--lint", file, *LENGTHS, "--format", "json")
    (finding,) = json.loads(found.out)["findings"]
    assert (found.code, finding["rule"], finding["place"]) == (1, "counted in epochs", f"{file}:12")
    assert "read as --from torch.optim.lr_scheduler.CosineAnnealingLR T_max=30 base_lr=0.001" in found.err
    file.write_text(module(body.replace("'step'", "'epoch'")))
    assert cli("plan", "--lint", file, *LENGTHS).code == 0
    file.write_text(module(body.replace("'step'", "'epoch'").replace("30", "self.trainer.max_epochs")))
    assert cli("plan", "--lint", file, *LENGTHS).code == 0


def test_a_deepspeed_config_as_its_makers_write_it_has_nothing_wrong(cli, tmp_path):
    params = {"total_num_steps": "auto", "warmup_min_lr": "auto", "warmup_max_lr": "auto", "warmup_num_steps": 100}
    file = written(tmp_path, deepspeed({"type": "WarmupDecayLR", "params": params}))
    assert cli("plan", "--lint", file, *LENGTHS, "warmup_max_lr=1e-4").code == 0
    short = cli("plan", "--lint", file, *LENGTHS, "warmup_max_lr=1e-4", "total_num_steps=30", "warmup_num_steps=3")
    assert (short.code, "counted in epochs" in short.out) == (1, True)


def test_a_file_of_a_training_becomes_a_plan(cli, tmp_path):
    file = written(tmp_path, ARGUMENTS | {"max_steps": 90, "warmup_steps": 10})
    rows = cli("plan", file, "--format", "csv").out.splitlines()
    assert (rows[11], len(rows)) == ("10,2e-05", 91)
    assert "has no meaning" in cli("plan", file, "--policy", "triangular").err


def test_a_warm_up_that_is_longer_than_the_training_of_a_deepspeed_config_is_found(cli, tmp_path):
    params = {"warmup_min_lr": 0, "warmup_max_lr": 3e-5, "warmup_num_steps": 500, "total_num_steps": 100}
    (tmp_path / "ds.json").write_text(json.dumps({"scheduler": {"type": "WarmupDecayLR", "params": params}}))
    shown = cli("plan", "--lint", "ds.json")
    assert shown.code == 1
    assert "never reached" in " ".join(shown.out.split())


def test_a_config_of_clrtool_is_not_taken_for_arguments_of_a_trainer(tmp_path):
    text = "model: {factory: mine:net, args: {learning_rate: 3}}\ndata: digits\n"
    (tmp_path / "mine.yaml").write_text(text)
    assert not is_training(tmp_path / "mine.yaml")
    (tmp_path / "args.yaml").write_text("learning_rate: 3e-4\nmax_steps: 100\n")
    assert is_training(tmp_path / "args.yaml")


PARTS = {"milestones": [5], "base_lr": 0.1, "schedulers": [{"LinearLR": {}}, {"ExponentialLR": {"gamma": 0.9}}]}


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("parts.json", {"type": "SequentialLR"} | PARTS),
        ("parts.json", {"_target_": "torch.optim.lr_scheduler.SequentialLR"} | PARTS),
        ("parts.yaml", {"schedule": "torch:SequentialLR"} | PARTS),
        ("one.yaml", {"type": "optax:exponential_decay", "init_value": 0.5, "transition_steps": 5, "decay_rate": 0.5}),
        ("joined.json", {"type": "optax:join_schedules", "boundaries": [5], "schedules": [
            {"type": "linear_schedule", "init_value": 0.0, "end_value": 1.0, "transition_steps": 5},
            {"type": "constant_schedule", "value": 1.0}]}),
    ],
)  # fmt: skip
def test_a_schedule_that_is_written_out_in_a_file_is_planned_and_linted(cli, tmp_path, name, written):
    file = tmp_path / name
    file.write_text(json.dumps(written, indent=1))
    (found,) = read_training(file, Known())
    params = dict(written)
    source = next(params.pop(key) for key in ("type", "_target_", "schedule") if key in params)
    theirs = schedule_from(source, params)(range(20))
    rows = cli("plan", file, "--iterations", "20", "--format", "csv").out.splitlines()[1:]
    assert [float(row.split(",")[1]) for row in rows] == theirs.tolist()
    assert cli("plan", "--lint", file, "--iterations", "20").code in (0, 1)
    assert found.place == f"{file}:2"


def test_a_schedule_that_is_written_out_under_an_unknown_name_is_refused_with_its_line(tmp_path):
    file = tmp_path / "parts.json"
    file.write_text(json.dumps({"type": "torch:SequentielLR"} | PARTS, indent=1))
    with pytest.raises(ConfigError, match=r"parts.json:2: no schedule is known as 'torch:SequentielLR'"):
        read_training(file, Known())
