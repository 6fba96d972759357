"""Copies of a program's model and optimizer, for training, and the program itself left as it was."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed as dist
from torch import nn
from torch.optim import Optimizer

from clrtool.core.racing.going_on import Start
from clrtool.engine.inprocess.adversarial import WAY_OUT, check_one_loss, two_networks
from clrtool.engine.runtime.factories import AS_IT_IS
from clrtool.engine.runtime.rng import restore_rng_state, rng_state
from clrtool.engine.runtime.sharded import forget_gathered, is_flattened, is_sharded, local_tensors
from clrtool.engine.training.copies import copy_optimizer
from clrtool.engine.training.in_place import copies_of, copy_all
from clrtool.engine.training.joint import JointOptimizer, joined
from clrtool.engine.training.shared_model import SharedModel
from clrtool.engine.training.try_out import check_trains, fresh_model
from clrtool.errors import ConfigError

ModelSource = nn.Module | Callable[[], nn.Module]
OptimizerSource = Optimizer | Callable[[nn.Module], Any]


def check_optimizer(optimizer: Any) -> OptimizerSource:
    """The optimizer or the function as one. Raises ConfigError for what is neither."""
    several = isinstance(optimizer, list | tuple)
    found = joined([*map(unprepared, optimizer)] if several else unprepared(optimizer))
    if not isinstance(found, Optimizer) and not callable(found):
        raise ConfigError(
            "optimizer: must be a torch.optim.Optimizer, a list of them, or a function of the model that returns "
            f"either; it is {type(found).__name__}{two_networks(found)}"
        )
    source: OptimizerSource = found
    return source


def unprepared(optimizer: Any) -> Any:
    """The optimizer in what ``accelerator.prepare`` makes of one: its steps wait for the accelerator's own counts."""
    return optimizer.optimizer if type(optimizer).__module__ == "accelerate.optimizer" else optimizer


def check_follows_rate(optimizer: Optimizer) -> None:
    """Raise ConfigError for an optimizer whose steps do not follow the learning rate that a sweep sets."""
    for each in getattr(optimizer, "optimizers", [optimizer]):
        if isinstance(each, torch.optim.LBFGS):
            raise ConfigError("optimizer: LBFGS scales its steps by the curvature, with lr=1: there is no rate to test")
        if any(group.get("relative_step") for group in each.param_groups):
            raise ConfigError(
                f"optimizer: {type(each).__name__} chooses its own learning rate: there is none to test or to plan. "
                "Give it relative_step=False, scale_parameter=False and an lr to have one"
            )


def check_model(model: Any) -> None:
    if isinstance(model, Mapping) and not isinstance(model, nn.Module):
        raise ConfigError(f"model: is several networks, {', '.join(map(str, model))}: {WAY_OUT}")
    if not isinstance(model, nn.Module) and not callable(model):
        raise ConfigError(
            f"model: must be a torch.nn.Module, or a function that returns one; it is {type(model).__name__}"
        )
    if isinstance(model, nn.Module):
        if is_flattened(model):
            raise ConfigError(
                "model: is in FullyShardedDataParallel, the older FSDP, which a range test cannot branch: shard it by "
                "fully_shard"
            )
        check_trains(model)


def without_wrapper(model: Any) -> Any:
    """The model in a ``DistributedDataParallel``: a range test has gradients averaged by itself.

    Raises:
        ConfigError: it averages over some of the ranks, for the others share each batch.
    """
    if not isinstance(model, nn.parallel.DistributedDataParallel):
        return model
    size, world = model.process_group.size(), dist.get_world_size()
    if size < world:
        raise ConfigError(
            f"model: its DistributedDataParallel averages gradients over {size} of {world} ranks: beside tensor "
            "parallelism give it to fully_shard, with the mesh of the data"
        )
    return model.module


class Lent:
    """A sharded model, which cannot be copied: it is trained itself, and given back as it was.

    Args:
        shared: whose weights it holds.
    """

    def __init__(self, model: nn.Module) -> None:
        self.shared = SharedModel(model)
        self.modes = [module.training for module in model.modules()]
        self._model, self._start = model, copies_of([*local_tensors(model).values()])

    def begin(self) -> nn.Module:
        """The model with the weights with which it was given."""
        self.shared.vacate()
        copy_all(self._start, local_tensors(self._model).values())
        forget_gathered(self._model)
        return self._model

    def give_back(self) -> None:
        """Have it be as it was."""
        self.begin()
        for module, mode in zip(self._model.modules(), self.modes, strict=True):
            module.training = mode


def start_of(model: ModelSource, optimizer: Any) -> Start:
    """Where a training stands. Raises ConfigError for functions, which make one that has not begun."""
    found = joined(optimizer)
    if not isinstance(model, nn.Module) or not isinstance(found, Optimizer):
        raise ConfigError(
            "keep_state: goes on from the model and the optimizer themselves, and a function makes new ones: give both "
            "as they are in training"
        )
    held = sum(isinstance(value, torch.Tensor) for state in found.state.values() for value in state.values())
    return Start("the model as it is", held)


@dataclass(frozen=True, eq=False)
class ModelCloner:
    """Copies of a model as it is, or fresh ones of a function that makes them.

    Args:
        lent: the model itself, where it is one that cannot be copied.
    """

    source: ModelSource
    lent: Lent | None = None

    @classmethod
    def of(cls, source: ModelSource) -> ModelCloner:
        """The copies of a model, or itself where it is sharded."""
        is_lent = isinstance(source, nn.Module) and is_sharded(source)
        return cls(source, Lent(source) if is_lent and isinstance(source, nn.Module) else None)

    def __call__(self) -> nn.Module:
        if self.lent is not None:
            return self.lent.begin()
        if not isinstance(self.source, nn.Module):
            model = self.source()
            if not isinstance(model, nn.Module):
                raise ConfigError(f"model: must be a torch.nn.Module, or return one; it is {type(model).__name__}")
            return model
        try:
            return copy.deepcopy(self.source)
        except AS_IT_IS:
            raise
        except Exception as error:
            raise ConfigError(
                f"model: cannot be copied ({type(error).__name__}: {error}): give functions, model=lambda: ... and "
                "optimizer=lambda model: ..., which make fresh ones"
            ) from error

    def give_back(self) -> None:
        """Have a model that was lent be as it was."""
        if self.lent is not None:
            self.lent.give_back()

    def device(self) -> torch.device:
        """Where the model is. Raises ConfigError for a function that makes the same weights each time."""
        model = self.source
        if not isinstance(model, nn.Module):
            model = fresh_model(self, "model: the function must make a fresh model, it returned the same weights twice")
            check_model(model)
        device = next((each.device for each in model.parameters()), torch.device("cpu"))
        if device.type not in ("cpu", "cuda"):
            raise ConfigError(f"model: is on {device}; a range test runs on cpu or cuda: device='cpu'")
        return device

    @property
    def modes(self) -> list[bool] | None:
        """Training or evaluation mode of every module, of a model that is source in training mode."""
        if not isinstance(self.source, nn.Module):
            return None
        modes = [each.training for each in self.source.modules()] if self.lent is None else self.lent.modes
        return modes if modes[0] else None


@dataclass(frozen=True, eq=False)
class OptimizerCloner:
    """Copies of an optimizer with its state, over the parameters of a copied model, or fresh ones of a function.

    Every group holds ``lr_ratio``, its learning rate over that of the first group, as :class:`PlanScheduler` has it.
    """

    source: OptimizerSource
    model: ModelSource

    @property
    def name(self) -> str:
        if isinstance(self.source, JointOptimizer):
            return " and ".join(type(each).__name__ for each in self.source.optimizers)
        return type(self.source).__name__ if isinstance(self.source, Optimizer) else "the optimizer"

    def __call__(self, model: nn.Module, **options: Any) -> Optimizer:  # noqa: ARG002 (those that make a step faster)
        made = self._copy(self.source, model) if isinstance(self.source, Optimizer) else self.source(model)
        optimizer = joined(made)
        if not isinstance(optimizer, Optimizer):
            raise ConfigError(
                "optimizer: must be a torch.optim.Optimizer, a list of them, or a function of the model that returns "
                f"either; it gave {type(optimizer).__name__}{two_networks(optimizer)}"
            )
        check_follows_rate(optimizer)
        check_one_loss(model, optimizer)
        parameters = set(map(id, model.parameters()))
        if foreign := sum(id(each) not in parameters for group in optimizer.param_groups for each in group["params"]):
            raise ConfigError(
                f"optimizer: holds {foreign} parameters that are not the model's: give the module that has them all, "
                "or functions, model=lambda: ... and optimizer=lambda model: ..."
            )
        rates = [float(group.get("initial_lr", group.get("lr", 1.0))) for group in optimizer.param_groups]
        if not rates[0] > 0:
            raise ConfigError(
                f"optimizer: the lr of its first group must be above 0, because the others follow it: {rates}"
            )
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr_ratio"] = rate / rates[0]
        return optimizer

    def _copy(self, source: Optimizer, model: nn.Module) -> Optimizer:
        if not isinstance(self.model, nn.Module):
            raise ConfigError(
                "optimizer: a model that a function makes needs a function too: optimizer=lambda model: ..."
            )
        parameters = dict(zip(self.model.parameters(), model.parameters(), strict=True))
        try:
            copied = copy_optimizer(source, parameters)
            if any(old.device != new.device for old, new in parameters.items()):
                copied.load_state_dict(copied.state_dict())  # which brings it to where the parameters are
        except AS_IT_IS:
            raise
        except Exception as error:
            raise ConfigError(
                f"optimizer: cannot be copied ({type(error).__name__}: {error}): give a function of the model, "
                "optimizer=lambda model: ..."
            ) from error
        return copied


@contextmanager
def preserved(model: ModelSource) -> Iterator[None]:
    """Put back the generators of all devices, and the gradients of a model, which a step may reach by mistake."""
    host = rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    if isinstance(model, nn.Module):
        forget_gathered(model)
    parameters = list(model.parameters()) if isinstance(model, nn.Module) else []
    gradients = [parameter.grad for parameter in parameters]
    try:
        for parameter in parameters:
            parameter.grad = None
        with torch.inference_mode(mode=False), torch.enable_grad():
            yield
    finally:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        restore_rng_state(host)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)
