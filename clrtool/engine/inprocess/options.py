"""The options of ``clrtool.range_test``: the names of a config in one level, checked by the rules of a config."""

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
    """The options of ``clrtool.range_test``, given by keyword.

    Args:
        epochs: length of the planned training in passes over ``train_loader``, 30 by default.
        steps: the same in optimizer steps, in place of ``epochs``; needed if ``train_loader`` has no length.
        iterations_per_epoch: optimizer steps in one pass, if ``train_loader`` has no length.
        budget: cost of the test as a share of the planned training, 0.25 by default, and at least 500 iterations.
        method: ``race``, ``paper``, or ``auto``: paper if ``sweep_epochs`` is given, otherwise race.
        seed, seeds: the first random seed, and how many seeds there are.
        policy: schedule family of the plan, ``triangular2`` by default.
        stepsize_epochs: half a cycle of the plan in epochs, 2 to 10 by default.
        warmup_epochs: length of a linear warm-up before the plan, in epochs.
        start_lr, end_lr: ends of the sweep; found automatically by default.
        spacing: ``exponential`` or ``linear``, how the sweep raises the learning rate.
        sweep_epochs: length of a sweep in epochs.
        evaluations: number of held-out evaluations in a sweep.
        accumulate: batches of ``train_loader`` in one optimizer step.
        clip_norm, clip_value: limits for the norm of the gradient, and for each of its elements.
        precision: fp32, bf16 or fp16, for autocast around the steps; fp16 scales gradients. Default: no autocast.
        eval_loss: ``eval`` or ``train``, the mode of the model in which the held-out loss is computed; in train mode
            without gradients, and without updates of statistics. ``auto``: eval, and no held-out loss if both
            ``measure`` and ``step`` are given.
        keep_state: whether a training under way goes on, from weights, statistics and optimizer state as they are, for
            the ``epochs`` or ``steps`` that are left: a rate is recommended only where it beats stopping, and the
            result says whether it needs a warm-up. ``clrtool guide under-way``.
        deterministic: whether to use only algorithms that give the same numbers every time.
        device: where the copies run, cpu or cuda. Default: where the model is.
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
    keep_state: bool
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
    keep_state: bool = False
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
        sweep = _section(SweepConfig, options, SWEEP)
        if not isinstance(rest.get("keep_state", False), bool):
            raise ConfigError(f"keep_state = {shown(rest['keep_state'])} must be True or False")
        if rest.get("keep_state") and not sweep.races:
            raise ConfigError(
                "keep_state: compares rates with stopping, which a race does: leave out sweep_epochs, or give "
                "method='race'"
            )
        return cls(
            sweep=sweep,
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
