"""Optimizers: the class that a config names, its parameter groups, and whether its steps follow the learning rate."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from clrtool.config.components import GroupRule, OptimizerConfig, PartOptimizerConfig
from clrtool.config.schema import RangeTestConfig
from clrtool.core.planning.averaging import DECOUPLED
from clrtool.core.results.record import Group
from clrtool.engine.models.pretrained import matching
from clrtool.engine.runtime.factories import FactoryImport, call
from clrtool.engine.training.joint import JointOptimizer
from clrtool.engine.training.layers import depths
from clrtool.errors import ConfigError
from clrtool.words import nearest


@dataclass(frozen=True)
class OptimizerRecipe:
    """A fresh optimizer for the parameters of a model that train.

    Every group holds ``lr_ratio``: the sweep sets ``group["lr"] = lr * group["lr_ratio"]``.
    """

    build: Callable[..., Optimizer]
    config: OptimizerConfig
    field: str = "optimizer"

    def __call__(self, model: nn.Module, lr: float | Tensor = 1.0, **options: Any) -> Optimizer:
        """Args: ``lr``, which the sweep replaces, and options that make a step faster, not different."""
        return self.of(model, trained_parameters(model), lr, **options)

    def of(
        self, model: nn.Module, trained: Mapping[str, nn.Parameter], lr: float | Tensor = 1.0, **options: Any
    ) -> Optimizer:
        """The optimizer of some of a model's parameters, by their names."""
        self._check_matrices(trained)
        groups = group_parameters(trained, self.config.groups, self.field, self._factors(model))
        build = self.build if self.config.factory else partial(self.build, lr=lr, **options)
        optimizer = call(partial(build, groups), f"{self.field}.args", self.config.args)
        if not isinstance(optimizer, Optimizer):
            raise ConfigError(f"{self.field}: must be a torch.optim.Optimizer, it is {type(optimizer).__name__}")
        first = float(optimizer.param_groups[0].get("lr", 1.0))
        for group in optimizer.param_groups:
            # The ratios of groups that a factory made with rates of their own are kept.
            group.setdefault("lr_ratio", float(group.get("lr", first)) / first if first else 1.0)
        return optimizer

    def _factors(self, model: nn.Module) -> Mapping[str, float]:
        """By which the rates of parameters deep in a model are lower; none without a layer_decay."""
        if (decay := self.config.layer_decay) == 1:
            return {}
        below = depths([name for name, _ in model.named_parameters()])
        if not any(below.values()):
            raise ConfigError(f"{self.field}.layer_decay: the model has a single layer, below which no rate can fall")
        return {name: decay**depth for name, depth in below.items()}

    def _check_matrices(self, trained: Mapping[str, nn.Parameter]) -> None:
        """Raise ConfigError for Muon over anything but matrices, with a list of optimizers that has others for it."""
        other = next((name for name, each in trained.items() if each.ndim != 2), None)
        if self.config.name == "Muon" and other is not None:
            raise ConfigError(
                f"{self.field}: Muon steps matrices alone, and {other} has {trained[other].ndim} dimensions: give a "
                "list, [{name: Muon, params: [PATTERNS OF MATRICES]}, {name: AdamW, params: ['*'], lr_ratio: 0.015}]"
            )

    @property
    def name(self) -> str:
        return str(self.config.name or self.config.factory)

    @property
    def parameters(self) -> frozenset[str]:
        """The names of the arguments of a named class; none of a factory's, which may take them and not obey."""
        return frozenset() if self.config.factory else frozenset(inspect.signature(self.build).parameters)


@dataclass(frozen=True)
class JointRecipe:
    """Several optimizers, each of the parameters whose name fits its patterns before any other's."""

    parts: tuple[tuple[OptimizerRecipe, PartOptimizerConfig], ...]

    def __call__(self, model: nn.Module, lr: float | Tensor = 1.0, **options: Any) -> Optimizer:
        left, made = trained_parameters(model), list[Optimizer]()
        for recipe, part in self.parts:
            fits = {each for pattern in part.params for each in _matching(pattern, left, f"{recipe.field}.params")}
            own = {name: left.pop(name) for name in [*left] if name in fits}
            made.append(recipe.of(model, own, lr, **options))
            for group in made[-1].param_groups:
                group["lr_ratio"] *= part.lr_ratio
        if left:
            raise ConfigError(f"optimizer: no part trains {next(iter(left))!r}: give the last one params: ['*']")
        return JointOptimizer(made)

    @property
    def name(self) -> str:
        return " + ".join(recipe.name for recipe, _ in self.parts)

    @property
    def parameters(self) -> frozenset[str]:
        """None that all of them obey."""
        return frozenset()


def make_optimizers_recipe(config: RangeTestConfig, factory: FactoryImport) -> OptimizerRecipe | JointRecipe:
    """Raises ConfigError for an optimizer that torch does not have or that no learning rate can be swept with."""
    if isinstance(config.optimizer, OptimizerConfig):
        return make_optimizer_recipe(config.optimizer, factory)
    parts = zip(config.optimizers(), config.optimizer, strict=True)
    return JointRecipe(tuple((make_optimizer_recipe(part, factory, field), part) for field, part in parts))


def make_optimizer_recipe(config: OptimizerConfig, factory: FactoryImport, field: str = "optimizer") -> OptimizerRecipe:
    """Raises ConfigError for an optimizer that torch does not have or that no learning rate can be swept with."""
    if config.factory is not None:
        return OptimizerRecipe(factory(config.factory, f"{field}.factory"), config, field)
    if config.name == "LBFGS":
        raise ConfigError(f"{field}.name: LBFGS scales its steps by the curvature, with lr=1: there is no rate to test")
    known = {
        name: kind
        for name, kind in vars(torch.optim).items()
        if isinstance(kind, type) and issubclass(kind, Optimizer) and name not in ("Optimizer", "LBFGS")
    }
    if config.name not in known:
        raise ConfigError(f"{field}.name: torch.optim has no {config.name!r}; {nearest(str(config.name), known)}")
    recipe = OptimizerRecipe(known[config.name], config, field)
    for place, rule in enumerate(config.groups):
        group, valid = f"{field}.groups.{place}.args", recipe.parameters - {"params", "lr"}
        for name in rule.args:  # torch takes any key of a group, and follows those that it knows
            if name not in valid:
                raise ConfigError(f"{group}: unknown argument {name!r}; {nearest(name, valid)}")
        # and it checks the values of its constructor's arguments alone
        call(partial(recipe.build, [nn.Parameter(torch.zeros(1, 1))], lr=1.0), group, config.args | rule.args)
    return recipe


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that train, by their names."""
    return {name: each for name, each in model.named_parameters() if each.requires_grad}


def group_parameters(
    trained: Mapping[str, nn.Parameter], rules: Sequence[GroupRule], field: str, factors: Mapping[str, float]
) -> list[Any]:
    """The parameters that train, in one group for each set of options that the rules give them.

    A rule adds its options to the parameters that fit one of its patterns; where rules meet, the later one wins.

    Args:
        factors: of the ratios of some parameters, whatever the rules say.
    """
    if not rules and not factors:
        return list(trained.values())
    options: dict[str, dict[str, Any]] = {name: {"lr_ratio": 1.0} for name in trained}
    for place, rule in enumerate(rules):
        extra = rule.args | ({"lr_ratio": rule.lr_ratio} if "lr_ratio" in rule.model_fields_set else {})
        for pattern in rule.params:
            for name in _matching(pattern, trained, f"{field}.groups.{place}.params"):
                options[name] |= extra
    groups: dict[str, dict[str, Any]] = {}
    for name, wanted in options.items():
        wanted["lr_ratio"] *= factors.get(name, 1.0)
        groups.setdefault(repr(sorted(wanted.items())), wanted | {"params": []})["params"].append(trained[name])
    return list(groups.values())


def _matching(pattern: str, trained: Mapping[str, Any], field: str) -> list[str]:
    """The names that a pattern fits of what is left to train: what is frozen or of an earlier part is not there."""
    return matching(pattern, trained, field, "parameter that is left to train")


def describe_groups(optimizer: Optimizer) -> tuple[Group, ...]:
    """The groups of an optimizer, for the record."""
    parts = optimizer.optimizers if isinstance(optimizer, JointOptimizer) else (optimizer,)
    return tuple(
        Group(
            lr_ratio=float(group["lr_ratio"]),
            weight_decay=float(group["weight_decay"]) if "weight_decay" in group else None,
            tensors=len(group["params"]),
            parameters=sum(each.numel() for each in group["params"]),
            decoupled=_is_decoupled(part, group),
        )
        for part in parts
        for group in part.param_groups
    )


def _is_decoupled(optimizer: Optimizer, group: Mapping[str, Any]) -> bool:
    """Whether a decay follows the rate and not the gradient: a group says so, or the class is known for it."""
    said = group.get("decoupled_weight_decay")
    is_known = any(each.__name__ in DECOUPLED for each in type(optimizer).__mro__)
    return bool(group.get("weight_decay")) and (is_known if said is None else bool(said))
