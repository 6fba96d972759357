"""The range test of a module as it stands, with its Trainer, its optimizers and its loaders."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple

from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden

from clrtool.api import rangetest
from clrtool.api.rangetest import RangeTest
from clrtool.engine.inprocess.build import metric_of
from clrtool.errors import ConfigError
from clrtool.lightning.steps import Steps
from clrtool.lightning.trainer import check_loader, check_trainer, left, usual


class Data(NamedTuple):
    """The loaders of a fit, the first of several held-out ones, and the datamodule that they come from."""

    train: Any
    heldout: Any
    module: LightningDataModule | None

    @classmethod
    def of(cls, train: Any, heldout: Any, module: Any) -> Data:
        if isinstance(heldout, list | tuple):
            heldout = heldout[0] if heldout else None
        return cls(train, heldout, module)


def range_test(
    trainer: Trainer,
    module: LightningModule,
    datamodule: LightningDataModule | None = None,
    *,
    train_dataloaders: Any = None,
    val_dataloaders: Any = None,
    monitor: str | None = None,
    mode: str = "max",
    **options: Any,
) -> RangeTest:
    """Run the range test of a module with its ``training_step``, its optimizer and its dataloaders.

    Trainer and module are afterwards as they were. The length of the training, accumulation and clipping are the
    Trainer's, if ``options`` do not say otherwise.

    Args:
        datamodule, train_dataloaders, val_dataloaders: as ``trainer.fit`` takes them; else the module's own. A
            datamodule is prepared and set up.
        monitor, mode: as of :class:`LRRangeTest`.
        options: of ``clrtool.range_test``.

    Raises:
        ConfigError: the module optimizes manually by more than one loss, or the Trainer's processes have not begun: use
            LRRangeTest.
    """
    if datamodule is not None:
        datamodule.prepare_data()
        datamodule.setup("fit")
    source = datamodule or module
    train = train_dataloaders if train_dataloaders is not None else source.train_dataloader()
    has_heldout = is_overridden("val_dataloader", source) and trainer.limit_val_batches != 0
    heldout = val_dataloaders if val_dataloaders is not None or not has_heldout else source.val_dataloader()

    def optimizer(copied: LightningModule) -> Any:
        copied.trainer = trainer
        return _optimizers(copied.configure_optimizers())

    data = Data.of(train, heldout, datamodule)
    return run(trainer, module, data, optimizer, options | {"monitor": monitor, "mode": mode})


def run(trainer: Trainer, module: LightningModule, data: Data, optimizer: Any, options: dict[str, Any]) -> RangeTest:
    """Run the range test with the loaders as a Trainer has them, and the optimizers or what makes them.

    Args:
        options: with ``monitor`` and ``mode``.
    """
    check_trainer(trainer)
    check_loader(data.train)
    driven = _driven(module, optimizer)
    clips = bool({"clip_norm", "clip_value"} & set(options))
    if is_overridden("configure_gradient_clipping", module) and not clips:
        raise ConfigError(
            "module: clips gradients by itself in configure_gradient_clipping, and the range test has to do the same: "
            "give it clip_norm=N or clip_value=N"
        )
    steps = Steps(trainer, data.module, driven, clips)
    measured = _measured(steps, module, data.heldout, options)
    asked = usual(trainer, data.train, per_batch=max(1, len(driven)))
    if options.get("keep_state"):
        asked |= left(trainer, asked, per_batch=max(1, len(driven)))
    asked |= measured | {name: each for name, each in options.items() if name not in ("monitor", "mode")}
    try:
        return rangetest.range_test(module, optimizer, data.train, data.heldout, step=steps.train, **asked)
    finally:
        steps.give_back(module)


def _measured(steps: Steps, module: LightningModule, heldout: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """What the bounds are read from, as options."""
    monitor, mode = options["monitor"], options["mode"]
    if mode not in ("max", "min"):
        raise ConfigError(f"mode = {mode!r} must be 'max' or 'min'")
    if monitor is not None:
        return {"measure": steps.monitored(monitor), "metric": monitor, "higher_is_better": mode == "max"}
    return {} if {"measure", "metric"} & set(options) else {"metric": metric_of(module, heldout)}


def _driven(module: LightningModule, optimizer: Any) -> list[Any]:
    """The optimizers of a module that steps them itself; none of one that leaves it to Lightning."""
    if module.automatic_optimization:
        return []
    made = optimizer(copy.deepcopy(module)) if callable(optimizer) else optimizer
    return [*made] if isinstance(made, list | tuple) else [made]


def _optimizers(made: Any) -> Any:
    """The optimizer, or all of them, in what ``configure_optimizers`` returns."""
    if isinstance(made, Mapping):
        return made["optimizer"]
    if isinstance(made, tuple) and made and isinstance(made[0], list | tuple):  # and the schedulers
        made = made[0]
    return [_optimizers(each) for each in made] if isinstance(made, list | tuple) else made
