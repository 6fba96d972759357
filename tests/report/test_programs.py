"""Every printed program is run in its real framework, and its learning rate compared with the plan at every iteration.

DeepSpeed and Caffe are not run: their texts are held against their documented formulas. What is printed in the words of
timm, ignite and others, DeepSpeed among them, is run in test_other_words.py.
"""

import json
import os
import re
import warnings

import numpy as np
import pytest
import torch

from clrtool.core.planning.make import make_plan, plan_stages
from clrtool.core.planning.plan import plan_from
from clrtool.core.planning.policies import POLICIES
from clrtool.errors import ConfigError
from clrtool.report.programs.formula import functions
from clrtool.report.programs.program import to_code

os.environ.setdefault("KERAS_BACKEND", "torch")

MOMENTUM = {"momentum": (0.85, 0.95)}
PLANS = {
    **{name: make_plan(0.001, 0.006, 5, epochs=13, policy=name) for name in POLICIES if name != "stages"},
    "with a warm-up": make_plan(0.001, 0.006, 5, epochs=13, warmup_epochs=1),
    "with momentum": make_plan(0.001, 0.006, 5, epochs=13, **MOMENTUM),
    "with momentum and a warm-up": make_plan(0.001, 0.006, 5, epochs=13, warmup_epochs=1, **MOMENTUM),
    "smith with momentum": make_plan(0.001, 0.006, 5, epochs=13, policy="one_cycle_smith", **MOMENTUM),
    "one cycle with momentum": make_plan(0.001, 0.006, 5, epochs=13, policy="one_cycle", anneal="linear", **MOMENTUM),
    "restarts with momentum": make_plan(0.001, 0.006, 5, epochs=13, policy="cosine_restarts", m_mul=0.5, **MOMENTUM),
    "three phases": make_plan(0.001, 0.006, 5, epochs=13, policy="one_cycle", three_phase=True),
    "both bounds decay": make_plan(0.001, 0.006, 5, epochs=13, policy="exp_range", decay_base=True),
    "a sine": make_plan(0.001, 0.006, 5, epochs=13, policy="cyclical", scale="0.5 * (1 + sin(x * pi / 2))"),
    "a scale of the iteration": make_plan(0.001, 0.006, 5, policy="cyclical", scale="1 / (5 ** (x * 0.01))", per="iteration"),
    "unequal halves": make_plan(0.001, 0.006, 5, stepsize_epochs=2, stepsize_down=4),
    "stages": plan_stages([(0.001, 0.005, 10, 40), (0.0001, 0.0005, 5, 60), (1e-5, 5e-5, 3, 78)]),
    "restarts of Keras": plan_from("keras:CosineDecayRestarts", {"initial_learning_rate": 0.1, "first_decay_steps": 7, "m_mul": 0.8, "alpha": 0.1}, iterations=70),
    "restarts of Keras, longer by half": plan_from("keras:CosineDecayRestarts", {"initial_learning_rate": 0.1, "first_decay_steps": 7, "t_mul": 1.5}, iterations=70),
    "restarts of Keras, hardly longer": plan_from("keras:CosineDecayRestarts", {"initial_learning_rate": 0.1, "first_decay_steps": 2, "t_mul": 1.01}, iterations=70),
    "restarts of transformers": plan_from("transformers:cosine_with_restarts", {"base_lr": 0.1, "num_warmup_steps": 4, "num_training_steps": 54, "num_cycles": 6}),
    "polynomial of Keras, again and again": plan_from("keras:PolynomialDecay", {"initial_learning_rate": 0.1, "decay_steps": 7, "cycle": True}, iterations=40),
    "exponential of optax": plan_from("optax:exponential_decay", {"init_value": 0.1, "transition_steps": 5, "decay_rate": 0.5, "staircase": True, "end_value": 0.01, "transition_begin": 9}, iterations=40),
    "cosine of transformers": plan_from("transformers:cosine", {"base_lr": 0.1, "num_warmup_steps": 9, "num_training_steps": 60}),
    "warmup-stable-decay of transformers": plan_from("transformers:warmup_stable_decay", {"base_lr": 0.1, "num_warmup_steps": 9, "num_training_steps": 60, "num_decay_steps": 20, "decay_type": "1-sqrt"}),
    "one cycle of torch": plan_from("torch:OneCycleLR", {"max_lr": 0.1, "total_steps": 50}),
    "steps of torch": plan_from("torch:MultiStepLR", {"milestones": [10, 30], "base_lr": 0.5}, iterations=40),
    "no rise": plan_from("torch:OneCycleLR", {"max_lr": 0.1, "total_steps": 50, "pct_start": 0.0}),
}  # fmt: skip
each_plan = pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)


def run(plan, framework):
    """The names that the printed program defines."""
    names = {}
    exec(to_code(plan, framework), names)  # noqa: S102 (it is our own program)
    return names


def assert_agrees(plan, rates, rtol=1e-9):
    """From the first iteration to the last: a training of n iterations uses those from 0 to n - 1."""
    assert len(rates) == plan.iterations
    np.testing.assert_allclose(rates, plan.lr(range(plan.iterations)), rtol=rtol, atol=rtol * plan.max_lr)


def first_lr(plan):
    """What the program says that the optimizer must be made with; where it says nothing it does not matter."""
    said = re.search(r"make it with lr=([^ \n]+)\.\n", to_code(plan, "torch"))
    return float(said[1]) if said else 0.123


@each_plan
def test_torch(plan):
    names = run(plan, "torch")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=first_lr(plan), momentum=0.9)
    scheduler = names["make_scheduler"](optimizer)
    rates, momenta = [], []
    for _ in range(plan.iterations):
        rates.append(optimizer.param_groups[0]["lr"])
        momenta.append(optimizer.param_groups[0]["momentum"])
        optimizer.step()
        scheduler.step()
    assert_agrees(plan, rates)
    moved = plan.momentum(range(plan.iterations))
    np.testing.assert_allclose(momenta, 0.9 if moved is None else moved, rtol=1e-9)


@pytest.mark.short(8)
@each_plan
def test_lightning(plan, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Lightning, about loggers, workers and devices
        names = run(plan, "lightning")
        rates = []

        class Module(names["ScheduledModule"]):
            def __init__(self):
                super().__init__()
                self.layer = torch.nn.Linear(1, 1)

            def training_step(self, batch, _):
                rates.append(self.optimizers().param_groups[0]["lr"])
                return self.layer(batch[0]).sum()

        data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.ones(6, 1)), batch_size=1)
        quiet = {
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
        }
        names["make_trainer"](accelerator="cpu", **quiet).fit(Module(), data)
    assert_agrees(plan, rates)


class Toy(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def forward(self, x):
        return {"loss": self.layer(x).sum()}


@pytest.mark.short(4)
@each_plan
def test_transformers(plan, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        names = run(plan, "transformers")
        quiet = {
            "report_to": [],
            "disable_tqdm": True,
            "save_strategy": "no",
            "use_cpu": True,
            "logging_strategy": "no",
        }
        data = [{"x": torch.ones(1)} for _ in range(6)]
        trainer = names["make_trainer"](Toy(), data, output_dir=str(tmp_path), per_device_train_batch_size=1, **quiet)
        rates = []
        step = trainer.optimizer.step
        trainer.optimizer.step = lambda *words, **options: (
            rates.append(trainer.optimizer.param_groups[0]["lr"]),
            step(*words, **options),
        )[1]
        trainer.train()
    assert_agrees(plan, rates)


@pytest.mark.short(8)
@each_plan
def test_keras(plan):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optimizer = run(plan, "keras")["make_optimizer"]()
        import keras

        variable = keras.Variable(np.zeros(1, dtype="float32"))
        optimizer.build([variable])
        rates = []
        for _ in range(plan.iterations):
            rates.append(float(optimizer.learning_rate))
            optimizer.apply([torch.ones(1)])
    # Keras computes in float32, where a power 1.01 ** 30 is good to a few units of the seventh digit
    assert_agrees(plan, rates, rtol=4e-6 if plan.params.get("t_mul") == 1.01 else 1e-6)


@pytest.mark.short(8)
@each_plan
def test_optax(plan):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import jax

        names = run(plan, "optax")
        optimizer = names["make_optimizer"]()
        state = optimizer.init({"w": jax.numpy.zeros(1)})
        update = jax.jit(optimizer.update)
        rates, momenta, velocity = [], [], 0.0
        for _ in range(plan.iterations):
            if "momentum" in names:  # inject_hyperparams shows what it used
                updates, state = update({"w": jax.numpy.ones(1)}, state)
                rates.append(float(state.hyperparams["learning_rate"]))
                momenta.append(float(state.hyperparams["momentum"]))
            else:
                updates, state = update({"w": jax.numpy.ones(1)}, state)
                velocity = 1.0 + 0.9 * velocity
                rates.append(float(-updates["w"][0]) / velocity)
    assert_agrees(plan, rates, rtol=2e-6)
    if momenta:
        np.testing.assert_allclose(momenta, plan.momentum(range(plan.iterations)), rtol=1e-6)


def deepspeed_one_cycle(params, iteration):
    """The documented formula of DeepSpeed's OneCycle, which is stepped after each batch."""
    first, second = params["cycle_first_step_size"], params["cycle_second_step_size"]
    if iteration > first + second:
        return params["cycle_min_lr"]
    x = iteration / (first + second)
    ratio = first / (first + second)
    height = x / ratio if x <= ratio else (x - 1) / (ratio - 1)
    return params["cycle_min_lr"] + (params["cycle_max_lr"] - params["cycle_min_lr"]) * height


@pytest.mark.parametrize("extra", [{}, {"momentum": (0.8, 0.9)}, {"stepsize_down": 7}])
def test_deepspeed(extra):
    plan = make_plan(0.001, 0.006, 5, cycles=1, stepsize_epochs=3, policy="triangular", **extra)
    section = json.loads(to_code(plan, "deepspeed"))["scheduler"]
    assert section["type"] == "OneCycle"
    assert_agrees(plan, [deepspeed_one_cycle(section["params"], t) for t in range(plan.iterations)])
    assert section["params"]["cycle_momentum"] is ("momentum" in extra)


def test_deepspeed_says_what_it_cannot_do():
    with pytest.raises(ConfigError, match="--policy triangular --cycles 1"):
        to_code(PLANS["triangular2"], "deepspeed")


def caffe(text, t):
    """Caffe's documented formulas, and those of the paper's Appendix A."""
    pairs = [line.split(": ") for line in text.splitlines() if not line.startswith("#")]
    policy = dict(pairs)["lr_policy"].strip('"')
    steps = np.array([int(value) for name, value in pairs if name == "stepvalue"])
    p = {
        name: int(value) if name in ("stepsize", "max_iter") else float(value)
        for name, value in pairs
        if name not in ("lr_policy", "stepvalue")
    }
    base = p["base_lr"]
    if policy in ("triangular", "triangular2"):
        cycle = t // (2 * int(p["stepsize"]))
        height = 1 - abs((t - (2 * cycle + 1) * p["stepsize"]) / p["stepsize"])
        return base + (p["max_lr"] - base) * max(0, height / 2 ** (cycle if policy == "triangular2" else 0))
    return {
        "fixed": lambda: base,
        "step": lambda: base * p["gamma"] ** (t // p["stepsize"]),
        "exp": lambda: base * p["gamma"] ** t,
        "inv": lambda: base * (1 + p["gamma"] * t) ** -p["power"],
        "multistep": lambda: base * p["gamma"] ** np.sum(t >= steps),
        "poly": lambda: base * (1 - t / p["max_iter"]) ** p["power"],
        "sigmoid": lambda: base / (1 + np.exp(-p["gamma"] * (t - p["stepsize"]))),
    }[policy]()


POLY = plan_from("torch:PolynomialLR", {"total_iters": 60, "power": 1.5, "base_lr": 0.1})
IN_CAFFE = (
    "triangular",
    "triangular2",
    "fixed",
    "step",
    "multistep",
    "piecewise",
    "exponential",
    "inv",
    "inverse_time",
    "inverse_sqrt",
    "sigmoid",
)


@pytest.mark.parametrize(
    "plan", [*(PLANS[name] for name in IN_CAFFE), POLY, PLANS["steps of torch"]], ids=lambda plan: plan.policy
)
def test_caffe(plan):
    text = to_code(plan, "caffe")
    assert_agrees(plan, [caffe(text, t) for t in range(plan.iterations)])
    assert f"max_iter: {plan.iterations}" in text


def test_caffe_says_what_it_has():
    for name in ("cosine", "with a warm-up", "unequal halves"):
        with pytest.raises(ConfigError, match="Caffe has no"):
            to_code(PLANS[name], "caffe")


def test_torchs_own_scheduler_is_used_where_there_is_one_and_always_says_what_it_does_to_the_momentum():
    for name, constructor in (
        ("triangular2", "CyclicLR("), ("unequal halves", "CyclicLR("), ("one_cycle", "OneCycleLR("), ("steps of torch", "MultiStepLR("),
    ):  # fmt: skip
        text = to_code(PLANS[name], "torch")
        assert constructor in text
        assert "LambdaLR" not in text
        if constructor != "MultiStepLR(":
            assert "cycle_momentum=False" in text
    assert "cycle_momentum=True" in to_code(PLANS["with momentum"], "torch")
    assert "LambdaLR" in to_code(PLANS["cosine"], "torch")


def test_a_program_is_short_formatted_and_without_a_name_that_is_not_used():
    import subprocess
    import sys

    for framework in ("torch", "lightning", "transformers", "keras", "optax"):
        for name in ("triangular2", "smith with momentum", "stages", "a sine"):
            text = to_code(PLANS[name], framework)
            assert len(text.splitlines()) <= 75
            ruff = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "E,F,I,W", "--ignore", "E501", "-"]
            checked = subprocess.run(ruff, input=text, capture_output=True, text=True, check=False)
            assert checked.returncode == 0, checked.stdout + text


@pytest.mark.parametrize("per", ["cycle", "iteration"])
@pytest.mark.parametrize(
    "scale",
    [
        "1 - (x - (3 - x)) % 2 / 4",
        "0.5 * ((x + 1) // 3 % 2 / 2)",
        "0.5 * ((x + 2.9) % 5 * 0.1)",
        "0.25 + 0.75 * (-0.25) ** (x % 2)",
        "0.9 ** -(-x // 2)",
        "2 ** -x ** 0.5",
        "(0.9 ** 2) ** x - 0 * x",
        "max(0, min(1, 1 - -x / -200))",
        "abs(cos(-x * pi)) / (1 + sqrt(x))",
        "1",
    ],
)
def test_a_scale_is_written_down_with_the_brackets_that_it_needs(scale, per):
    plan = make_plan(0.001, 0.006, 5, policy="cyclical", scale=scale, per=per)
    names = {"np": np}
    exec(functions(plan, "np"), names)  # noqa: S102 (it is our own program)
    assert_agrees(plan, [names["lr"](step) for step in range(plan.iterations)])


def test_a_python_function_cannot_be_written_down():
    plan = make_plan(0.001, 0.006, 5, policy="cyclical", scale=lambda x: 0.5**x)
    with pytest.raises(ConfigError, match="give it as an expression in x"):
        to_code(plan, "optax")


def test_a_one_cycle_that_is_too_short_for_its_training_does_not_raise():
    plan = plan_from("torch:OneCycleLR", {"max_lr": 0.1, "total_steps": 10}, iterations=25)
    test_torch(plan)


def test_past_its_end_a_program_holds_the_last_value():
    names = run(PLANS["with a warm-up"], "torch")
    plan = PLANS["with a warm-up"]
    assert names["lr"](plan.iterations + 7) == pytest.approx(float(plan.lr(plan.iterations)))
    assert re.search(r"np\.minimum\(step, \d+\)", to_code(plan, "torch"))


@pytest.mark.parametrize(
    ("source", "params"),
    [
        ("torch:SequentialLR", {"schedulers": [{"type": "LinearLR"}, {"type": "StepLR", "step_size": 9}], "milestones": [6]}),
        ("torch:ChainedScheduler", {"schedulers": [{"type": "LinearLR"}, {"type": "ExponentialLR", "gamma": 0.9}]}),
        ("torch:LambdaLR", {"lr_lambda": "lambda x: 1 if x < 3 else 0.5"}),
        ("deepspeed:WarmupDecayLR", {"total_num_steps": 30, "warmup_num_steps": 9}),
        ("deepspeed:WarmupCosineLR", {"total_num_steps": 30, "warmup_num_steps": 9}),
        ("timm:CosineLRScheduler", {"t_initial": 20, "warmup_t": 5, "cycle_limit": 2, "cycle_mul": 1.5, "k_decay": 2.0}),
        ("timm:TanhLRScheduler", {"t_initial": 20}),
        ("ignite:LinearCyclicalScheduler", {"start_value": 1.0, "end_value": 0.1, "cycle_size": 8}),
        ("transformers:warmup_stable_decay",
         {"base_lr": 0.1, "num_warmup_steps": 5, "num_decay_steps": 8, "num_training_steps": 30, "warmup_type": "1-sqrt"}),
        ("ignite:CosineAnnealingScheduler", {"start_value": 1.0, "end_value": 0.1, "cycle_size": 8, "end_value_mult": 0.9}),
        ("timm:PolyLRScheduler", {"t_initial": 7, "cycle_limit": 5000, "cycle_decay": 0.99}),
        ("mmengine:param_scheduler", {"epoch_length": 7, "schedulers": [{"type": "LinearLR", "by_epoch": False, "end": 9},
                                                                        {"type": "StepLR", "step_size": 2}]}),
    ],
)  # fmt: skip
def test_a_program_of_a_composed_schedule_is_the_schedule(source, params):
    plan = plan_from(source, params, iterations=40)
    names = {}
    exec(to_code(plan, "torch"), names)  # noqa: S102 (it was just written)
    sgd = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = names["make_scheduler"](sgd)
    theirs = []
    for _ in range(40):
        theirs.append(sgd.param_groups[0]["lr"])
        sgd.step()
        scheduler.step()
    np.testing.assert_allclose(theirs, plan.lr(range(40)), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("source", "params", "iterations"),
    [
        ("torch:MultiplicativeLR", {"lr_lambda": "0.99"}, 40),
        ("torch:ChainedScheduler", {"schedulers": [{"type": "LinearLR"}, {"type": "MultiplicativeLR", "lr_lambda": "0.9"}]}, 40),
    ],
)  # fmt: skip
def test_what_no_program_can_say_is_refused(source, params, iterations):
    with pytest.raises(ConfigError, match="written"):
        to_code(plan_from(source, params, iterations=iterations), "optax")
