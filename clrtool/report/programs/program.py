"""A plan as a program or a config of the framework in use, short and complete."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from clrtool.core.planning.plan import Plan
from clrtool.errors import ConfigError
from clrtool.report.programs.falls import COMPOSER, TIMM
from clrtool.report.programs.formula import functions
from clrtool.report.programs.ignite import IGNITE
from clrtool.report.programs.mmengine import MMENGINE
from clrtool.report.programs.sections import DEEPSPEED, to_caffe
from clrtool.report.programs.words import header, same, say
from clrtool.words import nearest

_TORCH = "torch.optim.lr_scheduler."
_TORCH_IMPORTS = ("import numpy as np", "import torch")
_SCHEDULER = '''class Scheduler(torch.optim.lr_scheduler.LambdaLR):
    """A LambdaLR that moves the momentum too."""

    def get_lr(self):
        value = float(momentum(self.last_epoch))
        for group in self.optimizer.param_groups:
            if "betas" in group:
                group["betas"] = (value, *group["betas"][1:])
            else:
                group["momentum"] = value
        return super().get_lr()'''


def to_code(plan: Plan, framework: str) -> str:
    """The plan as text of a framework, a key of ``FRAMEWORKS``.

    What is said in the words of another system, torch among them, is read back and held against the plan first.

    Raises:
        ConfigError: that framework has no such schedule and cannot be given a function of the step.
    """
    if framework not in FRAMEWORKS:
        raise ConfigError(f"no program is known for {framework!r}; {nearest(framework, FRAMEWORKS)}")
    return FRAMEWORKS[framework](plan).rstrip() + "\n"


def _torch(plan: Plan) -> str:
    return _program(plan, _TORCH_IMPORTS, *_make_scheduler(plan))


def _lightning(plan: Plan) -> str:
    module = f"""class ScheduledModule(lightning.LightningModule):
    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr={_optimizer_lr(plan)}, momentum=0.9)
        # Lightning steps a scheduler once per epoch unless it is told otherwise.
        scheduler = {{"scheduler": make_scheduler(optimizer), "interval": "step"}}
        return {{"optimizer": optimizer, "lr_scheduler": scheduler}}"""
    trainer = f"""def make_trainer(**arguments):
    return lightning.Trainer(max_steps={plan.iterations}, **arguments)"""
    return _program(plan, ("import lightning", *_TORCH_IMPORTS), *_make_scheduler(plan), module, trainer)


def _transformers(plan: Plan) -> str:
    trainer = f"""def make_trainer(model, train_dataset, output_dir="output", **arguments):
    optimizer = torch.optim.AdamW(model.parameters(), lr={_optimizer_lr(plan)})
    return transformers.Trainer(
        model=model,
        args=transformers.TrainingArguments(output_dir, max_steps={plan.iterations}, **arguments),
        train_dataset=train_dataset,
        optimizers=(optimizer, make_scheduler(optimizer)),
    )"""
    return _program(plan, (*_TORCH_IMPORTS, "import transformers"), *_make_scheduler(plan), trainer)


def _keras(plan: Plan) -> str:
    schedule = """class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    def __call__(self, step):
        return lr(ops.cast(step, "int32"))

    def get_config(self):
        return {}"""
    optimizer = """def make_optimizer():
    return keras.optimizers.SGD(learning_rate=Schedule(), momentum=0.9)"""
    if plan.schedule.cycles_momentum:
        optimizer = optimizer.replace("    return", "    # Keras fixes the momentum when training begins.\n    return")
    return _program(plan, ("import keras", "from keras import ops"), functions(plan, "ops"), schedule, optimizer)


def _optax(plan: Plan) -> str:
    sgd, momentum = "optax.sgd(learning_rate=lr, momentum=0.9)", []
    if plan.schedule.cycles_momentum:
        sgd = "optax.inject_hyperparams(optax.sgd)(learning_rate=lr, momentum=momentum)"
        momentum = [functions(plan, "jnp", "momentum")]
    optimizer = f"def make_optimizer():\n    return {sgd}"
    return _program(plan, ("import jax.numpy as jnp", "import optax"), functions(plan, "jnp"), *momentum, optimizer)


def _make_scheduler(plan: Plan) -> list[str]:
    """torch's own scheduler where there is one, else a function of the step."""
    own = _torch_words(plan)
    if own is not None:
        name, params = own
        arguments = "".join(f"        {word}={_literal(value)},\n" for word, value in params.items())
        made, before = f"{_TORCH}{name}(\n        optimizer,\n{arguments}    )", []
    else:
        kind = "Scheduler" if plan.schedule.cycles_momentum else f"{_TORCH}LambdaLR"
        made, before = f"{kind}(optimizer, lambda step: float(lr(step)))", [functions(plan, "np")]
        if plan.schedule.cycles_momentum:
            before += [functions(plan, "np", "momentum"), _SCHEDULER]
    return [*before, f'def make_scheduler(optimizer):\n    """{_how(plan)}"""\n    return {made}']


def _how(plan: Plan) -> str:
    """How the scheduler is used: CyclicLR and OneCycleLR set the learning rate, all others multiply it."""
    when = "Call scheduler.step() after every optimizer.step(), once per iteration and not per epoch."
    own = _torch_words(plan)
    if own is not None and own[0] in ("CyclicLR", "OneCycleLR"):
        return when
    return f"{when}\n\n    It multiplies the optimizer's learning rate: make it with lr={_optimizer_lr(plan)}.\n    "


def _torch_words(plan: Plan) -> tuple[str, dict[str, Any]] | None:
    """A scheduler of torch and its arguments; None if torch has none that follows the plan."""
    if plan.warmup:
        return None
    if plan.policy.startswith(_TORCH):
        return _own_words(plan)
    found = _one_cycle(plan) if plan.policy == "one_cycle" else _cyclic(plan)
    return found if found is not None and same(plan, _TORCH + found[0], found[1]) else None


def _own_words(plan: Plan) -> tuple[str, dict[str, Any]] | None:
    """A plan that was read in torch's words, in the same words."""
    name = plan.policy.removeprefix(_TORCH)
    too_short = name == "OneCycleLR" and plan.iterations > plan.schedule.preview  # torch raises after its end
    made_of_others = {"scale_fn", "lr_lambda", "schedulers"} & set(plan.params)
    if made_of_others or too_short:
        return None
    params = {word: value for word, value in plan.params.items() if word != "base_lr" or name == "CyclicLR"}
    if "pct_start" in params:
        params["pct_start"] = float(params["pct_start"])  # torch refuses a whole number
    return name, params


def _cyclic(plan: Plan) -> tuple[str, dict[str, Any]] | None:
    try:
        return "CyclicLR", plan.torch_kwargs()
    except ValueError:
        return None


def _one_cycle(plan: Plan) -> tuple[str, dict[str, Any]] | None:
    params, end_lr = plan.params, float(plan.lr(plan.iterations))
    if not end_lr:
        return None
    momentum = params.get("momentum")
    return "OneCycleLR", {
        "max_lr": plan.max_lr,
        "total_steps": plan.iterations,
        "pct_start": float(params.get("pct_start", 0.3)),
        "anneal_strategy": "linear" if params.get("anneal") == "linear" else "cos",
        "three_phase": params.get("three_phase", False),
        "div_factor": plan.max_lr / plan.base_lr,
        "final_div_factor": plan.base_lr / end_lr,
        "cycle_momentum": momentum is not None,
    } | ({"base_momentum": momentum[0], "max_momentum": momentum[1]} if momentum else {})


def _optimizer_lr(plan: Plan) -> str:
    """What the optimizer is made with: LambdaLR multiplies it, torch's other schedulers replace or start from it."""
    if _torch_words(plan) is None:
        return "1.0"
    return repr(plan.params.get("base_lr", plan.base_lr))


def _program(plan: Plan, imports: Sequence[str], *definitions: str) -> str:
    """A header, the imports that are used, and definitions two lines apart."""
    text = "\n\n\n".join(definitions)
    used = [line for line in imports if f"{line.split()[-1]}." in text]
    return f"{header(plan)}{chr(10).join(used)}\n\n\n{text}"


def _literal(value: Any) -> str:
    return json.dumps(value) if isinstance(value, str) else repr(value)


FRAMEWORKS: dict[str, Callable[[Plan], str]] = {
    "torch": _torch,
    "lightning": _lightning,
    "transformers": _transformers,
    "keras": _keras,
    "optax": _optax,
    "timm": partial(say, language=TIMM),
    "ignite": partial(say, language=IGNITE),
    "mmengine": partial(say, language=MMENGINE),
    "composer": partial(say, language=COMPOSER),
    "deepspeed": partial(say, language=DEEPSPEED),
    "caffe": to_caffe,
}
