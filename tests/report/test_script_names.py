"""Names in scripts of many shapes stand for what they stand for in Python, or for nothing."""

import pytest

from clrtool.errors import ConfigError
from clrtool.report.trainings.found import Known
from clrtool.report.trainings.read import read_training

HEAD = "import torch\nfrom torch.optim import SGD\nfrom torch.optim.lr_scheduler import StepLR\nopen(MARK, 'w')\n"
STEP = [{"step_size": 7, "gamma": 0.5, "base_lr": 0.1}]
# ruff: noqa: ISC004 (each text is one script)
SCRIPTS = {
    "argparse defaults that a function is passed": (
        "def main(args):\n    lr = args.lr\n    opt = SGD(net(), lr=lr)\n    StepLR(opt, args.step_size, args.gamma)\n"
        "p.add_argument('--lr', default=0.1)\np.add_argument('--step-size', default=7)\n"
        "p.add_argument('--gamma', default=0.5)\nmain(p.parse_args())\n", STEP),
    "a module of Lightning that keeps its arguments": (
        "class Net(L.LightningModule):\n    def __init__(self, lr=0.1, every=7):\n        self.lr = lr\n"
        "        self.save_hyperparameters()\n    def other(self):\n        lr = 5.0\n"
        "    def configure_optimizers(self):\n        opt = SGD(self.parameters(), lr=self.lr)\n"
        "        return [opt], [StepLR(opt, self.hparams.every, gamma=0.5)]\n", STEP),
    "a Trainer beside a function with the same name": (
        "def other():\n    rate = 3.0\n    return rate\ndef main():\n    rate = 2e-5\n"
        "    return TrainingArguments('out', learning_rate=rate, max_steps=100, lr_scheduler_type='linear')\n",
        [{"num_warmup_steps": 0, "num_training_steps": 100, "base_lr": 2e-5}]),
    "a plain loop that binds the same name later in a function": (
        "lr, every = 0.1, 7\nopt = SGD(net(), lr=lr)\nsched = StepLR(opt, every, 0.5)\n"
        "def show():\n    for lr in sched.get_last_lr():\n        print(lr)\n", STEP),
    "accelerate, which wraps the optimizer": (
        "def train(config):\n    lr = config['lr']\n    model = net()\n    opt = SGD(model, lr=lr)\n"
        "    sched = StepLR(opt, step_size=config['every'], gamma=0.5)\n"
        "    model, opt, sched = accelerator.prepare(model, opt, sched)\ntrain({'lr': 0.1, 'every': 7})\n", STEP),
    "constants in a class": (
        "class Config:\n    lr = 0.1\n    every = 7\nclass Other:\n    lr = 9.0\ncfg = Config()\n"
        "opt = SGD(net(), lr=cfg.lr)\nStepLR(opt, Config.every, 0.5)\n", STEP),
    "two functions that use the same names": (
        "def a():\n    lr = 0.1\n    opt = SGD(net(), lr=lr)\n    StepLR(opt, 7, 0.5)\n"
        "def b():\n    lr = 0.2\n    opt = SGD(net(), lr=lr)\n    StepLR(opt, 8, 0.5)\n",
        [*STEP, {"step_size": 8, "gamma": 0.5, "base_lr": 0.2}]),
    "a name of the module that functions say is global and leave as it is": (
        "lr, every = 0.1, 7\ndef show():\n    global lr\n    print(lr)\ndef make():\n    global lr\n    lr_now = lr\n"
        "    return StepLR(SGD(net(), lr=lr_now), every, 0.5)\n", STEP),
    "a name that an inner function sets in the function around it, beside one of the module": (
        "lr = 0.1\ndef run():\n    lr = 3.0\n    def set_up():\n        nonlocal lr\n        lr = 4.0\n    set_up()\n"
        "StepLR(SGD(net(), lr=lr), 7, 0.5)\n", STEP),
    "imports before the values that replace them": (
        "from config import *\nfrom config import lr\nlr2 = 0.1\nStepLR(SGD(net(), lr=lr2), 7, gamma=0.5)\n", STEP),
    "a method that is decorated and one that is passed around": (
        "class Net:\n    def __init__(self, lr=0.1):\n        self.lr = lr\n    @torch.no_grad()\n    def step(self): pass\n"
        "    def make(self):\n        run(self.step)\n        return StepLR(SGD(net(), lr=self.lr), 7, gamma=0.5)\n", STEP),
    "arguments in dicts that are unpacked": (
        "rates, step = {'lr': 0.1}, dict(gamma=0.5)\nopt = SGD(net(), **rates)\nStepLR(opt, step_size=7, **step)\n", STEP),
    "arguments of a Trainer in an entry of a dict": (
        "cfg = {'args': {'learning_rate': 2e-5, 'max_steps': 100}}\nTrainingArguments('out', **cfg['args'])\n",
        [{"num_warmup_steps": 0, "num_training_steps": 100, "base_lr": 2e-5}]),
    "a default that the only call replaces": (
        "def make(lr=5.0, gamma=0.5):\n    opt = SGD(net(), lr=lr)\n    return StepLR(opt, 7, gamma)\nmake(0.1)\n", STEP),
}  # fmt: skip


@pytest.mark.parametrize("shape", SCRIPTS)
def test_a_name_is_that_of_the_function_that_uses_it(tmp_path, shape):
    text, params = SCRIPTS[shape]
    mark, file = tmp_path / "mark", tmp_path / "train.py"
    file.write_text(HEAD.replace("MARK", repr(str(mark))) + text)
    assert [dict(each.params) for each in read_training(file, Known())] == params
    assert not mark.exists()


@pytest.mark.parametrize(
    "text",
    [
        "lr = 0.1\nif big:\n    lr = 0.2\nStepLR(SGD(net(), lr=lr), 7)\n",
        "lr = 0.5\ndef make(lr):\n    return StepLR(SGD(net(), lr=lr), 7)\n",
        "def other():\n    lr = 0.1\ndef make():\n    return StepLR(SGD(net(), lr=lr), 7)\n",
        "lr = 0.5\ndef make():\n    for lr in rates:\n        StepLR(SGD(net(), lr=lr), 7)\n",
        "class Net:\n    lr = 0.5\n    def make(self):\n        return StepLR(SGD(net(), lr=lr), 7)\n",
        "class A:\n    lr = 0.5\nclass Net:\n    def make(self):\n        return StepLR(SGD(net(), lr=self.lr), 7)\n",
        "def make(lr=0.1):\n    return StepLR(SGD(net(), lr=lr), 7)\nmake(0.2)\nmake(0.3)\n",
        "lr = 0.5\ndef set_up():\n    global lr\n    lr = 0.1\nStepLR(SGD(net(), lr=lr), 7)\n",
        "lr = 0.5\ndef set_up():\n    global lr\n    lr = 0.1\n    StepLR(SGD(net(), lr=lr), 7)\nset_up()\n",
        "lr = 0.5\nfrom config import lr\nStepLR(SGD(net(), lr=lr), 7)\n",
        "lr = 0.5\nimport config.lr as lr\nStepLR(SGD(net(), lr=lr), 7)\n",
        "lr = 0.5\nfrom config import *\nStepLR(SGD(net(), lr=lr), 7)\n",
        "lr = 0.5\ndef lr():\n    return 0.1\nStepLR(SGD(net(), lr=lr), 7)\n",
        "lr = 0.5\nclass lr: pass\nStepLR(SGD(net(), lr=lr), 7)\n",
        "lr = 0.5\ntry: go()\nexcept E as lr: pass\nStepLR(SGD(net(), lr=lr), 7)\n",
        "lr = 0.5\nmatch x:\n    case lr: pass\nStepLR(SGD(net(), lr=lr), 7)\n",
        "lr = 0.5\nmatch x:\n    case [_, *lr]: pass\nStepLR(SGD(net(), lr=lr), 7)\n",
        "lr = 0.5\nmatch x:\n    case {'a': 1, **lr}: pass\nStepLR(SGD(net(), lr=lr), 7)\n",
        "lr = 0.5\ndel lr\nStepLR(SGD(net(), lr=lr), 7)\n",
        "lr = 0.5\nlr *= 2\nStepLR(SGD(net(), lr=lr), 7)\n",
        "rates = {'lr': 0.5}\nif big:\n    rates['lr'] = 0.1\nStepLR(SGD(net(), lr=rates['lr']), 7)\n",
        "rates = {'lr': 0.5}\nrates.update(lr=0.1)\nStepLR(SGD(net(), lr=rates['lr']), 7)\n",
        "rates = {'lr': 0.5}\ndef more():\n    rates.update(lr=0.1)\nmore()\nStepLR(SGD(net(), lr=rates['lr']), 7)\n",
        "rates = {'lr': 0.5}\nother = rates\nother['lr'] = 0.1\nStepLR(SGD(net(), lr=rates['lr']), 7)\n",
        "rates = {'lr': 0.5}\nother = again = rates\nagain.update(lr=0.1)\nStepLR(SGD(net(), lr=rates['lr']), 7)\n",
        "rates = {'lr': 0.5}\ndef more(r):\n    r['lr'] = 0.1\nmore(rates)\nStepLR(SGD(net(), lr=rates['lr']), 7)\n",
        "rates = {'lr': 0.5}\nclass A:\n    def __init__(self):\n        self.kw = rates\n        self.kw.update(lr=0.1)\n"
        "StepLR(SGD(net(), lr=rates['lr']), 7)\n",
        "class C:\n    lr = 0.5\nc = C()\nif big:\n    c.lr = 0.1\nStepLR(SGD(net(), lr=c.lr), 7)\n",
        "def make(lr=0.5):\n    return StepLR(SGD(net(), lr=lr), 7)\nother = make\nother(0.1)\n",
        "def make(lr=0.5):\n    return StepLR(SGD(net(), lr=lr), 7)\nfunctools.partial(make, lr=0.1)()\n",
        "@click.command()\n@click.option('--lr', default=0.1)\ndef make(lr=0.5):\n    return StepLR(SGD(net(), lr=lr), 7)\nmake()\n",
        "p.add_argument('--lr', default=0.5)\np.set_defaults(lr=0.1)\nargs = p.parse_args()\nStepLR(SGD(net(), lr=args.lr), 7)\n",
        "def run():\n    lr = 0.5\n    def set_up():\n        nonlocal lr\n        lr = 0.1\n    StepLR(SGD(net(), lr=lr), 7)\n",
    ],
)
def test_a_name_with_several_values_or_of_another_scope_or_changed_in_another_way_is_asked_for(tmp_path, text):
    file = tmp_path / "train.py"
    file.write_text(text)
    with pytest.raises(ConfigError, match="base_lr=VALUE"):
        read_training(file, Known())


@pytest.mark.parametrize(
    "text",
    [
        "StepLR(opt, 7, **json.load(file))\n",
        "def make(**more):\n    return StepLR(opt, 7, **more)\n",
        "more = (7, 0.5)\nStepLR(opt, *more)\n",
        "more = {'gamma': 0.5}\nmore['gamma'] = 0.1\nStepLR(opt, 7, **more)\n",
        "more = {'gamma': 0.5}\nmore.update(gamma=0.1)\nStepLR(opt, 7, **more)\n",
        "more = {'gamma': 0.5}\nother = more\nother['gamma'] = 0.1\nStepLR(opt, 7, **more)\n",
        "more = {'gamma': 0.5}\ndef change(m):\n    del m['gamma']\nchange(more)\nStepLR(opt, 7, **more)\n",
        "more = {**other, 'gamma': 0.5}\nStepLR(opt, 7, **more)\n",
        "more = {'gamma': 0.5} if big else {}\nStepLR(opt, 7, **more)\n",
        "class A:\n    def __init__(self):\n        self.kw = {'gamma': 0.5}\n        self.kw['gamma'] = 0.1\n"
        "    def make(self):\n        return StepLR(opt, 7, **self.kw)\n",
        "TrainingArguments('out', max_steps=9, **vars(args))\n",
        "get_scheduler('cosine', opt, 1, 9, scheduler_specific_kwargs=more)\n",
        "get_scheduler('cosine', opt, 1, 9, more)\n",
    ],
)
def test_arguments_that_are_unpacked_from_what_the_file_does_not_say_are_never_taken_to_be_defaults(tmp_path, text):
    file = tmp_path / "train.py"
    file.write_text("opt = SGD(net(), lr=0.1)\n" + text)
    with pytest.raises(ConfigError, match=r"is given arguments by .*--from"):
        read_training(file, Known())


@pytest.mark.parametrize(
    "change",
    ["steps.append(9)", "steps.extend([9])", "steps[0] = 9", "del steps[0]", "steps += [9]", "a = steps\na.pop()"],
)
def test_a_list_that_is_changed_is_asked_for(tmp_path, change):
    file = tmp_path / "train.py"
    file.write_text(f"steps = [5, 8]\nsched = MultiStepLR(SGD(net(), lr=0.1), steps)\n{change}\n")
    with pytest.raises(ConfigError, match="milestones=VALUE"):
        read_training(file, Known())


def test_a_dict_whose_other_name_is_only_read_is_read_too(tmp_path):
    file = tmp_path / "train.py"
    file.write_text(
        "rates = {'lr': 0.5}\nother = rates\nother = rates\nprint(other['lr'], other.get('lr'))\n"
        "StepLR(SGD(net(), lr=rates['lr']), 7)\n"
    )
    assert [dict(each.params) for each in read_training(file, Known())] == [{"step_size": 7, "base_lr": 0.5}]
