"""The options of a range test of a program: those of a config by their names, in one level, held against its rules."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypedDict, TypeVar

from pydantic import BaseModel, ValidationError

from clrtool.config.errors import rule
from clrtool.config.schema import PlanConfig, SweepConfig, TrainingConfig
from clrtool.errors import ConfigError
from clrtool.words import nearest, shown

# Where nothing is said of the arithmetic, it is what steps and settings make it.
AS_SET = "as set"
PRECISIONS = ("fp32", "bf16", "fp16")
# The fields of a config by their names here, where all options stand in one level.
SWEEP = {
    name.removeprefix("sweep_"): name
    for name in ("budget", "method", "start_lr", "end_lr", "spacing", "sweep_epochs", "evaluations", "seeds")
}
PLAN = {name: name for name in ("policy", "epochs", "stepsize_epochs", "warmup_epochs")} | {"iterations": "steps"}
TRAINING = {name: name for name in ("clip_norm", "clip_value")}
Tree = TypeVar("Tree", bound=BaseModel)


class Options(TypedDict, total=False):
    """What a range test of a program takes by keyword beside what it is made of.

    Args:
        seed, seeds: of the first sweep, and how many there are.
        budget: what all of it may cost, as a share of the training that is planned.
        method: race or paper; ``auto`` is paper where sweep_epochs are given, else race.
        start_lr, end_lr, spacing, sweep_epochs, evaluations: of a sweep, as ``sweep`` in a config.
        epochs, policy, stepsize_epochs, warmup_epochs: of the training that is planned, as ``plan`` in a config.
        iterations_per_epoch: optimizer steps in one pass, of a train_loader that has no length.
        accumulate: batches of the train_loader for one optimizer step.
        steps: of the training that is planned, in place of epochs; of a train_loader without a length too.
        eval_loss: mode of the model in which the held-out loss is computed, eval or train, there without gradients and
            without a change of statistics. ``auto`` is eval, and none where there is a ``measure`` beside ``step``.
        precision: fp32, bf16 or fp16, in which autocast runs the steps, fp16 with its gradients scaled; None for none
            but what the steps do themselves.
        clip_norm, clip_value: bounds of the gradient's norm, and of each of its numbers.
        deterministic: whether only algorithms may run that give the same numbers each time.
        device: where the copies run, cpu or cuda; None for where the model is.
    """

    seed: int
    seeds: int | str
    budget: float
    method: str
    start_lr: float | str
    end_lr: float | str
    spacing: str
    sweep_epochs: float | str
    evaluations: int | str
    epochs: float
    policy: str
    stepsize_epochs: float | str
    iterations_per_epoch: int | None
    accumulate: int
    steps: int | None
    eval_loss: str
    warmup_epochs: float
    precision: str | None
    clip_norm: float | None
    clip_value: float | None
    deterministic: bool
    device: str | None


@dataclass(frozen=True)
class Settings:
    """The same, checked, with every default."""

    sweep: SweepConfig
    plan: PlanConfig
    training: TrainingConfig
    seed: int = 0
    iterations_per_epoch: int | None = None
    accumulate: int = 1
    deterministic: bool = False
    device: str | None = None
    precision: str = AS_SET
    eval_loss: str = "auto"

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Settings:
        """Raises ConfigError for an option that is unknown or breaks its rule, with all of its section."""
        if unknown := [name for name in options if name not in Options.__annotations__]:
            raise ConfigError(
                *(f"unknown option {shown(name)}; {nearest(name, Options.__annotations__)}" for name in unknown)
            )
        rest = {name: value for name, value in options.items() if name in cls.__annotations__ and value is not None}
        if rest.get("precision", AS_SET) not in (AS_SET, *PRECISIONS):
            raise ConfigError(f"precision = {shown(rest['precision'])} must be one of {', '.join(PRECISIONS)}, or None")
        if rest.get("eval_loss", "auto") not in ("auto", "eval", "train"):
            raise ConfigError(f"eval_loss = {shown(rest['eval_loss'])} must be 'auto', 'eval' or 'train'")
        for name, least in (("seed", 0), ("accumulate", 1), ("iterations_per_epoch", 1)):
            value = rest.get(name)
            if value is not None and not (isinstance(value, int) and least <= value < 2**31):
                raise ConfigError(f"{name} = {shown(value)} must be a whole number of at least {least}")
        return cls(
            sweep=_section(SweepConfig, options, SWEEP),
            plan=_section(PlanConfig, options, PLAN),
            training=_section(TrainingConfig, options, TRAINING),
            **rest,
        )

    def sha256(self) -> str:
        """Hash of what decides the sweep and the plan."""
        options = {"sweep": self.sweep.model_dump(), "plan": self.plan.model_dump()}
        return hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()


def _section(tree: type[Tree], options: Mapping[str, Any], known: Mapping[str, str]) -> Tree:
    """A section of a config, by what its fields are called here."""
    try:
        return tree(**{field: options[name] for field, name in known.items() if options.get(name) is not None})
    except ValidationError as error:
        faults: dict[str, list[str]] = {}
        for each in error.errors(include_url=False):
            if not each["loc"]:
                raise ConfigError("epochs: leave it out beside steps, which is the length too") from None
            faults.setdefault(known[str(each["loc"][0])], []).append(rule(each))
        raise ConfigError(
            *(f"{name} = {shown(options[name])} {' or '.join(dict.fromkeys(rules))}" for name, rules in faults.items())
        ) from None
