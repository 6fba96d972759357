"""A program's own objects with another value of an option of its optimizer, its batch size, or what it names itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, RandomSampler

from clrtool.engine.inprocess.clone import OptimizerCloner, check_optimizer
from clrtool.engine.training.layers import depths
from clrtool.errors import ConfigError
from clrtool.words import nearest, shown

BATCH_SIZE = "batch_size"
# The factor by which the rate of an optimizer's groups falls from block to block.
LAYER_DECAY = "layer_decay"


def with_value(
    arguments: Mapping[str, Any], name: str, value: Any, replaced: Mapping[str, Any] | Any | None
) -> dict[str, Any]:
    """The arguments of a range test with a value of a name.

    Args:
        arguments: ``model``, ``optimizer``, ``train_loader`` and ``heldout_loader``.
        replaced: those that the value stands for, or a loader for a batch size; None to find out by the name.

    Raises:
        ConfigError: there is no such option, or no such loader can be made.
    """
    if isinstance(replaced, Mapping):
        return {**arguments, **replaced}
    if name == BATCH_SIZE:
        loader = _loader(arguments["train_loader"], value) if replaced is None else replaced
        return {**arguments, "train_loader": loader}
    if replaced is not None:
        raise ConfigError(f"values[{name!r}]: each must be a mapping of arguments, it has {shown(replaced)}")
    return {**arguments, "optimizer": _optimizer(arguments["model"], arguments["optimizer"], name, value)}


def _loader(loader: Any, batch_size: Any) -> DataLoader[Any]:
    """A loader like this one with batches of another size."""
    if not isinstance(loader, DataLoader) or loader.batch_size is None:
        raise ConfigError(
            "values['batch_size']: train_loader is no DataLoader with a batch_size: give the loaders, "
            "{'batch_size': {32: loader_32, 128: loader_128}}"
        )
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ConfigError(f"values['batch_size']: must be whole numbers of at least 1, not {shown(batch_size)}")
    shuffles = isinstance(loader.sampler, RandomSampler)
    return DataLoader(loader.dataset, batch_size, shuffle=shuffles, num_workers=loader.num_workers,
                      collate_fn=loader.collate_fn, drop_last=True, pin_memory=loader.pin_memory)  # fmt: skip


def _optimizer(model: Any, optimizer: Any, name: str, value: Any) -> Callable[[nn.Module], Optimizer]:
    """A function that makes the optimizer with an option in every one of its groups."""
    make = OptimizerCloner(check_optimizer(optimizer), model)

    def made(own: nn.Module) -> Optimizer:
        found = make(own)
        if name == LAYER_DECAY:
            found.param_groups = _by_depth(own, found, value)
            return found
        for group in found.param_groups:
            if name not in group or name in ("params", "lr"):
                options = {*group} - {"params", "lr", "lr_ratio", "initial_lr"}
                raise ConfigError(f"values: the optimizer has no option {name!r} to vary; {nearest(name, options)}")
            group[name] = value
        return found

    return made


def _by_depth(model: nn.Module, optimizer: Optimizer, decay: Any) -> list[dict[str, Any]]:
    """The groups of an optimizer, each split by how deep its parameters lie, those of the head first."""
    if not isinstance(decay, int | float) or not 0 < decay <= 1:
        raise ConfigError(f"values['{LAYER_DECAY}']: must be above 0 and at most 1, not {shown(decay)}")
    named = dict(model.named_parameters())
    below = {id(named[name]): depth for name, depth in depths([*named]).items()}
    split = []
    for group in optimizer.param_groups:
        for depth in sorted({below[id(each)] for each in group["params"]}):
            parameters = [each for each in group["params"] if below[id(each)] == depth]
            rates = {key: group[key] * decay**depth for key in ("lr", "initial_lr") if key in group}
            split.append((depth, group | rates | {"params": parameters}))
    return [group for _, group in sorted(split, key=lambda each: each[0])]
