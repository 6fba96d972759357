"""What a Trainer says of a training: its length, accumulation and clipping; and what of it cannot be tested."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy
from lightning.pytorch.utilities import CombinedLoader

from clrtool.engine.inprocess.length import batches_of
from clrtool.engine.inprocess.ranks import are_under_way
from clrtool.errors import ConfigError

# Strategies that make of a model what only their own steps can train.
_REFUSED = {
    FSDPStrategy: "FSDPStrategy is the older FSDP of torch, whose weights lie in one long tensor",
    DeepSpeedStrategy: "DeepSpeedStrategy keeps weights, gradients and optimizer in an engine of its own",
}
_WAY_OUT = "shard it by fully_shard in configure_model, with ModelParallelStrategy, or use strategy='ddp'"


def usual(trainer: Trainer, train: Any, per_batch: int) -> dict[str, Any]:
    """What the Trainer says of the training, which counts the steps ``per_batch`` of every optimizer."""
    device = str(trainer.strategy.root_device)
    asked: dict[str, Any] = {"accumulate": trainer.accumulate_grad_batches, "device": device}
    if trainer.precision == "16-mixed":  # whose gradients are scaled
        asked["precision"] = "fp16"
    if trainer.gradient_clip_val:
        kind = "clip_value" if str(trainer.gradient_clip_algorithm or "norm").endswith("value") else "clip_norm"
        asked[kind] = float(trainer.gradient_clip_val)
    iterations = _iterations_per_epoch(trainer, train)
    if iterations is not None:
        asked["iterations_per_epoch"] = iterations
    epochs = trainer.max_epochs if trainer.max_epochs is not None and trainer.max_epochs > 0 else None
    steps = math.ceil(trainer.max_steps / per_batch)
    if steps > 0 and (epochs is None or iterations is None or steps < epochs * iterations):
        asked["steps"] = steps
    elif epochs is not None:
        asked["epochs"] = float(epochs)
    return asked


def left(trainer: Trainer, asked: Mapping[str, Any], per_batch: int) -> dict[str, Any]:
    """What is left of the length of a training. Raises ConfigError where nothing is."""
    done = {"epochs": trainer.current_epoch, "steps": trainer.global_step // per_batch}
    rest = {name: asked[name] - done[name] for name in done if name in asked}
    if any(each <= 0 for each in rest.values()):
        raise ConfigError("trainer: its training is over, so there is nothing to plan: a larger max_epochs")
    return rest


def _iterations_per_epoch(trainer: Trainer, train: Any) -> int | None:
    """Optimizer steps of one pass, as far as the Trainer goes in it; None where neither it nor the loader says."""
    batches, limit = batches_of(train), trainer.limit_train_batches
    if isinstance(limit, int):
        batches = limit if batches is None else min(limit, batches)
    elif batches is not None:
        batches = int(batches * limit)
    return None if batches is None else max(1, math.ceil(batches / trainer.accumulate_grad_batches))


def check_loader(train: Any) -> None:
    """Raise ConfigError of several loaders, whose batches a Trainer puts together."""
    several = isinstance(train, Mapping | CombinedLoader)
    if several or (isinstance(train, list | tuple) and train and all(hasattr(each, "dataset") for each in train)):
        raise ConfigError(
            "train_dataloaders: are several, and a range test reads one: give clrtool.range_test a loader of the "
            "batches put together, a step, and a measure of the held-out ones"
        )


def check_trainer(trainer: Trainer) -> None:
    """Raise ConfigError for a Trainer whose processes or arithmetic a range test cannot use."""
    if trainer.world_size > 1:
        _check_ranks(trainer)
    if trainer.precision == "16-true":
        raise ConfigError(
            "trainer: precision '16-true' keeps weights in float16, in which small steps are rounded away: use "
            "'16-mixed', 'bf16-mixed' or 32"
        )


def _check_ranks(trainer: Trainer) -> None:
    """Raise ConfigError for processes that do not run yet, or share a model in a way that cannot be branched."""
    if why := next((why for kind, why in _REFUSED.items() if isinstance(trainer.strategy, kind)), None):
        raise ConfigError(f"trainer: {why}, which a range test cannot branch: {_WAY_OUT}")
    if not are_under_way():
        raise ConfigError(
            f"trainer: its {trainer.world_size} processes begin in fit: give it the callback LRRangeTest, which runs "
            "the range test there"
        )
