"""A plan as a program or a config of the framework in use, short and complete."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from clrtool.core.planning.plan import Plan
from clrtool.errors import ConfigError
from clrtool.report.programs.falls import COMPOSER, TIMM
from clrtool.report.programs.formula import functions
from clrtool.report.programs.ignite import IGNITE
from clrtool.report.programs.mmengine import MMENGINE
from clrtool.report.programs.sections import DEEPSPEED, to_caffe
from clrtool.report.programs.torch_scheduler import make_scheduler, optimizer_lr
from clrtool.report.programs.words import header, say
from clrtool.words import nearest

_TORCH_IMPORTS = ("import numpy as np", "import torch")
# The formats whose programs leave the optimizer, and so its parameter groups, to whoever uses them.
_OF_GROUPS = ("torch",)


def to_code(plan: Plan, framework: str) -> str:
    """The plan as text of a framework, a key of ``FRAMEWORKS``.

    What is said in the words of another system, torch among them, is read back and held against the plan first.

    Raises:
        ConfigError: that framework has no such schedule and cannot be given a function of the step.
    """
    if framework not in FRAMEWORKS:
        raise ConfigError(f"no program is known for {framework!r}; {nearest(framework, FRAMEWORKS)}")
    if len(plan.groups) > 1 and framework not in _OF_GROUPS:
        raise ConfigError(
            f"what --format {framework} prints is for one parameter group, and {plan.policy} has {len(plan.groups)} "
            f"here: take --format torch, or one of them, group=1 to group={len(plan.groups)}"
        )
    return FRAMEWORKS[framework](plan).rstrip() + "\n"


def _torch(plan: Plan) -> str:
    return _program(plan, _TORCH_IMPORTS, *make_scheduler(plan))


def _lightning(plan: Plan) -> str:
    module = f"""class ScheduledModule(lightning.LightningModule):
    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr={optimizer_lr(plan)}, momentum=0.9)
        # Lightning steps a scheduler once per epoch unless it is told otherwise.
        scheduler = {{"scheduler": make_scheduler(optimizer), "interval": "step"}}
        return {{"optimizer": optimizer, "lr_scheduler": scheduler}}"""
    trainer = f"""def make_trainer(**arguments):
    return lightning.Trainer(max_steps={plan.iterations}, **arguments)"""
    return _program(plan, ("import lightning", *_TORCH_IMPORTS), *make_scheduler(plan), module, trainer)


def _transformers(plan: Plan) -> str:
    trainer = f"""def make_trainer(model, train_dataset, output_dir="output", **arguments):
    optimizer = torch.optim.AdamW(model.parameters(), lr={optimizer_lr(plan)})
    return transformers.Trainer(
        model=model,
        args=transformers.TrainingArguments(output_dir, max_steps={plan.iterations}, **arguments),
        train_dataset=train_dataset,
        optimizers=(optimizer, make_scheduler(optimizer)),
    )"""
    return _program(plan, (*_TORCH_IMPORTS, "import transformers"), *make_scheduler(plan), trainer)


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


def _program(plan: Plan, imports: Sequence[str], *definitions: str) -> str:
    """A header, the imports that are used, and definitions two lines apart."""
    text = "\n\n\n".join(definitions)
    used = [line for line in imports if f"{line.split()[-1]}." in text]
    return f"{header(plan)}{chr(10).join(used)}\n\n\n{text}"


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
