"""Models and optimizers that begin where a checkpoint stands, and how much is left of a training."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from clrtool.config.schema import PlanConfig
from clrtool.core.racing.going_on import Start
from clrtool.engine.models.checkpoint import FIELD, Checkpoint
from clrtool.engine.models.pretrained import Weights, load
from clrtool.engine.training.joint import JointOptimizer
from clrtool.engine.training.workload import OptimizerFactory
from clrtool.errors import ConfigError
from clrtool.words import count


def continued_model(make_model: Callable[[], nn.Module], checkpoint: Checkpoint) -> Callable[[], nn.Module]:
    """The recipe of a model that begins with the weights of a checkpoint."""

    def make() -> nn.Module:
        model = make_model()
        load(model, _named_for(model, checkpoint.weights), (), str(checkpoint.path), FIELD)
        return model

    return make


def _named_for(model: nn.Module, weights: Weights) -> Weights:
    """Weights by the names of the model, which another module may have held under a name of its own."""
    names = [*model.state_dict()]
    if not names or names[0] in weights:
        return weights
    held = (name.removesuffix(names[0]) for name in weights if name.endswith(f".{names[0]}"))
    prefix = next((each for each in held if all(each + name in weights for name in names)), "")
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


@dataclass(frozen=True, eq=False)
class ContinuedOptimizer:
    """A recipe whose optimizers begin with the state of a checkpoint; groups and their options are the recipe's."""

    recipe: OptimizerFactory
    checkpoint: Checkpoint

    @property
    def name(self) -> str:
        return self.recipe.name

    def __call__(self, model: nn.Module, **options: Any) -> Optimizer:
        optimizer = self.recipe(model, **options)
        for each, saved in zip(_parts(optimizer), self.checkpoint.optimizers, strict=True):
            state = dict(zip(_places(saved["param_groups"]), _places(each.state_dict()["param_groups"]), strict=True))
            # torch would take the tensors themselves
            kept = {state[place]: copy.deepcopy(value) for place, value in saved["state"].items()}
            each.load_state_dict({"state": kept, "param_groups": each.state_dict()["param_groups"]})
        return optimizer

    def check(self, model: nn.Module) -> None:
        """Raise ConfigError for the state of another optimizer, of other groups or of other shapes."""
        own, saved, path = _parts(self.recipe(model)), self.checkpoint.optimizers, self.checkpoint.path
        if len(own) != len(saved):
            raise ConfigError(
                f"{FIELD}: {path} holds the state of {count(len(saved), 'optimizer')}, and the config has {len(own)}"
            )
        for optimizer, state in zip(own, saved, strict=True):
            # only of groups that fit is the state a state of these parameters
            if fault := _other_groups(optimizer, state) or _other_state(optimizer, state, self.recipe.name):
                raise ConfigError(f"{FIELD}: {path} {fault}")


def _parts(optimizer: Optimizer) -> Sequence[Optimizer]:
    return optimizer.optimizers if isinstance(optimizer, JointOptimizer) else (optimizer,)


def _places(groups: Sequence[Mapping[str, Any]]) -> list[Any]:
    """The numbers by which a state knows its parameters, in their order."""
    return [*itertools.chain.from_iterable(group["params"] for group in groups)]


def _other_groups(optimizer: Optimizer, saved: Mapping[str, Any]) -> str | None:
    """What is to be said of groups of other numbers of parameters."""
    held = [len(group["params"]) for group in saved["param_groups"]]
    mine = [len(group["params"]) for group in optimizer.param_groups]
    if held == mine:
        return None
    return (
        f"holds an optimizer's state of {_told(held)}, and the config's optimizer has {_told(mine)}: give "
        "optimizer.groups and model.freeze as they were in the training"
    )


def _told(sizes: Sequence[int]) -> str:
    return f"{count(len(sizes), 'group')} of {', '.join(map(str, sizes))} tensors"


def _other_state(optimizer: Optimizer, saved: Mapping[str, Any], name: str) -> str | None:
    """What is to be said of a state that this optimizer does not keep: held against what a step makes of it."""
    parameters = [*itertools.chain.from_iterable(group["params"] for group in optimizer.param_groups)]
    for group in optimizer.param_groups:
        group["lr"] = torch.zeros_like(group["lr"]) if isinstance(group.get("lr"), Tensor) else 0.0
    for each in parameters:
        each.grad = torch.zeros_like(each)
    try:
        optimizer.step()
    except (TypeError, RuntimeError, ValueError):  # one that takes a closure
        return None
    places = dict(zip(_places(saved["param_groups"]), parameters, strict=True))
    for place, state in saved["state"].items():
        if place not in places:
            return f"holds a state of parameter {place!r}, which none of its groups has"
        made = optimizer.state[places[place]]
        if lacking := sorted(str(each) for each in made.keys() - state.keys()):
            return (
                f"holds {', '.join(map(str, state)) or 'nothing'} of each parameter, and {name} keeps {lacking[0]}: "
                "give the optimizer that it was trained with"
            )
        for key, value in made.items():
            if isinstance(value, Tensor) and (not isinstance(state[key], Tensor) or state[key].shape != value.shape):
                shape = tuple(getattr(state[key], "shape", ()))
                return f"holds {key} of parameter {place} as {shape}, and {name} keeps {tuple(value.shape)}"
    return None


def start_of(checkpoint: Checkpoint, iterations_per_epoch: int) -> Start:
    """Where the training of a checkpoint stands: by its steps where it says how many, else by its epochs."""
    epochs, is_sure = _epochs_done(checkpoint, iterations_per_epoch)
    held = sum(
        isinstance(value, Tensor)
        for saved in checkpoint.optimizers for state in saved["state"].values() for value in state.values()
    )  # fmt: skip
    return Start(str(checkpoint.path), held, epochs, is_sure)


def _epochs_done(checkpoint: Checkpoint, iterations_per_epoch: int) -> tuple[float | None, bool]:
    """How many epochs are done, and whether that is sure.

    A loop counts its epochs from 0 or from 1. What optimizer and scheduler have counted tells which.
    """
    if checkpoint.steps is not None:
        return checkpoint.steps / iterations_per_epoch, True
    stepped = None if checkpoint.stepped is None else checkpoint.stepped / iterations_per_epoch
    if (said := checkpoint.epochs) is None:
        return stepped, True
    scheduled = checkpoint.scheduled
    for counted in (stepped, scheduled, None if scheduled is None else scheduled / iterations_per_epoch):
        for epochs in (said, said + 1):
            if counted is not None and abs(counted - epochs) < 0.5:  # of batches that the config may cut otherwise
                return epochs, True
    return said, False


def epochs_left(plan: PlanConfig, iterations_per_epoch: int, start: Start | None) -> float:
    """The epochs of a plan, or what is left of them. Raises ConfigError where nothing is."""
    whole = plan.length(iterations_per_epoch)
    done = 0.0 if start is None or start.epochs is None else start.epochs
    if done >= whole:
        raise ConfigError(
            f"plan.epochs = {whole:g} is the whole training, and {done:.4g} of them are done in "
            f"{'' if start is None else start.source}: plan.epochs={done + 10:.0f} goes on for 10 more"
        )
    return whole - done
