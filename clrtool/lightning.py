"""The range test for a LightningModule: ``pip install 'clrtool[lightning]'``.

The module's own ``training_step`` runs on copies, outside the Trainer's loops. So the test can be called before or
after a training, or from a callback during one.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from clrtool.api import rangetest
from clrtool.api.rangetest import RangeTest
from clrtool.core.planning.plan import Plan
from clrtool.engine.inprocess.build import metric_of
from clrtool.engine.inprocess.counting import samples_of
from clrtool.engine.inprocess.length import batches_of
from clrtool.engine.inprocess.manual import Manual
from clrtool.engine.inprocess.ranks import are_under_way
from clrtool.engine.training.plateau import Plateau, check_time
from clrtool.engine.training.scheduler import PlanScheduler
from clrtool.errors import ConfigError
from clrtool.report.records.plan_file import to_plan
from clrtool.words import in_python

try:
    from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
    from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy
    from lightning.pytorch.utilities import CombinedLoader
    from lightning.pytorch.utilities.model_helpers import is_overridden
    from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
    from lightning.pytorch.utilities.types import LRSchedulerConfig
except ImportError as error:
    raise ImportError("clrtool.lightning needs Lightning: pip install 'clrtool[lightning]'") from error


class LRRangeTest(Callback):
    """Runs the range test when a fit begins, and lets the training follow the plan, one step per iteration.

    With several processes (``strategy="ddp"``) all of them test together, and follow one plan.

    With ``at_epoch`` or ``when`` it runs later, once, from weights and optimizer state as they are then, and plans the
    rest of the training; until then, and where nothing is changed, the fit goes on bit for bit as it would without. A
    training that resumes from a checkpoint keeps its plan and is not tested again. Where the test finds no bounds, a
    warning says why, and the training goes on with the rates that it has. A module that optimizes manually follows the
    plan batch by batch, if it has no schedulers of its own.

    Args:
        apply: whether the plan replaces the schedulers of ``configure_optimizers``; False only measures.
        monitor, mode: a metric that ``validation_step`` logs, and whether ``"max"`` or ``"min"`` is better. Default:
            the accuracy of ``forward`` if there are classes, otherwise the loss.
        at_epoch: epochs after which to test.
        when: ``"plateau"`` tests before the next epoch once ``monitor`` has not improved for more than ``patience``
            validations, as ``torch.optim.lr_scheduler.ReduceLROnPlateau`` counts them.
        patience, threshold: of a plateau; by less than this share of the best it is no improvement.
        options: the options of ``clrtool.range_test``.

    Attributes:
        result: the RangeTest of the last fit; None before the first.

    Raises:
        ConfigError: both times are given, one is none, or a plateau has no ``monitor``.
    """

    def __init__(
        self,
        *,
        apply: bool = True,
        monitor: str | None = None,
        mode: str = "max",
        at_epoch: int | None = None,
        when: str | None = None,
        patience: int = 10,
        threshold: float = 1e-4,
        **options: Any,
    ) -> None:
        check_time(at_epoch, when)
        if when is not None and monitor is None:
            raise ConfigError("monitor: when='plateau' needs the name of a metric that validation_step logs")
        self.apply = apply
        self.result: RangeTest | None = None
        self._asked = options | {"monitor": monitor, "mode": mode}
        self._at_epoch, self._monitor = at_epoch, str(monitor)
        self._plateau = None if when is None else Plateau(mode, patience, threshold)
        self._plan: Plan | None = None
        self._begun: int | None = None  # the step from which the plan counts, once it was tested
        self._is_resumed = False
        self._driven: PlanScheduler | None = None  # where nobody else steps it

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Test and plan; or go on with the plan of a checkpoint.

        Raises:
            ConfigError: the plan would not be alone in setting the rates of a module that optimizes manually.
        """
        if self.apply and not pl_module.automatic_optimization and trainer.lr_scheduler_configs:
            raise ConfigError(
                "module: steps schedulers by itself, and the plan takes their place: return the optimizers alone from "
                "configure_optimizers, or use LRRangeTest(apply=False)"
            )
        if not self._is_resumed:
            self._begun = None
        self._is_resumed = False
        if self._begun is not None:
            self._follow(trainer)
        elif self._at_epoch is None and self._plateau is None:
            self._run(trainer, pl_module, {})

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Test a training under way, if it is time."""
        is_time = self._plateau.reached if self._plateau is not None else trainer.current_epoch == self._at_epoch
        if is_time and self._begun is None:
            self._run(trainer, pl_module, {"keep_state": True})

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Look whether the metric still improves."""
        if self._plateau is None or trainer.sanity_checking:
            return
        if (value := trainer.callback_metrics.get(self._monitor)) is None:
            logged = ", ".join(trainer.callback_metrics) or "nothing"
            raise ConfigError(f"monitor: validation_step does not log {self._monitor!r}; logged are {logged}")
        self._plateau.see(float(value))

    def _run(self, trainer: Trainer, module: LightningModule, more: dict[str, Any]) -> None:
        loaders = trainer.train_dataloader, trainer.val_dataloaders
        data = getattr(trainer, "datamodule", None)
        self.result = _test(trainer, module, *loaders, trainer.optimizers, self._asked | more, data)
        self._plan, self._begun = self.result.record.plan, trainer.global_step
        if self.apply and self._plan is None:
            warnings.warn(_not_applied(self.result), stacklevel=2)
        self._follow(trainer)

    def _follow(self, trainer: Trainer) -> None:
        """Have the plan in place of the schedulers there are."""
        if self.apply and self._plan is not None and self._begun is not None:
            is_manual = not trainer.lightning_module.automatic_optimization
            # a module that drives its optimizers itself has the steps of every one of them counted
            done = (trainer.global_step - self._begun) // (len(trainer.optimizers) if is_manual else 1)
            scheduler = PlanScheduler(trainer.optimizers, self._plan, last_epoch=done - 1)
            if is_manual:
                self._driven = scheduler
            else:
                trainer.strategy.lr_scheduler_configs = [LRSchedulerConfig(scheduler, interval="step")]

    def on_train_batch_end(self, *_: Any) -> None:
        """Step the plan of a module that optimizes manually: Lightning steps nothing then."""
        if self._driven is not None:
            self._driven.step()

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint: the plan, None where the test found no bounds, and the step from which it counts."""
        plan = None if self._plan is None else self._plan.to_dict()
        seen = None if self._plateau is None else self._plateau.state()
        return {"plan": plan, "begun": self._begun, "plateau": seen}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with a plan."""
        self._plan, self._begun = to_plan(state_dict["plan"]), state_dict.get("begun", 0)
        if self._plateau is not None and state_dict.get("plateau") is not None:
            self._plateau.restore(state_dict["plateau"])
        self._is_resumed = True


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

    return _test(trainer, module, train, heldout, optimizer, options | {"monitor": monitor, "mode": mode}, datamodule)


def _test(
    trainer: Trainer,
    module: LightningModule,
    train: Any,
    heldout: Any,
    optimizer: Any,
    options: dict[str, Any],
    datamodule: Any = None,
) -> RangeTest:
    _check(trainer)
    if isinstance(heldout, list | tuple):
        heldout = heldout[0] if heldout else None
    _check_one(train)
    driven = _driven(module, optimizer)
    clips = bool({"clip_norm", "clip_value"} & set(options))
    if is_overridden("configure_gradient_clipping", module) and not clips:
        raise ConfigError(
            "module: clips gradients by itself in configure_gradient_clipping, and the range test has to do the same: "
            "give it clip_norm=N or clip_value=N"
        )
    steps = _Steps(trainer, datamodule, driven, clips)
    monitor, mode = options.pop("monitor"), options.pop("mode")
    if mode not in ("max", "min"):
        raise ConfigError(f"mode = {mode!r} must be 'max' or 'min'")
    if monitor is not None:
        measured = {"measure": steps.monitored(monitor), "metric": monitor, "higher_is_better": mode == "max"}
    else:
        measured = {} if {"measure", "metric"} & set(options) else {"metric": metric_of(module, heldout)}
    asked = _usual(trainer, train, per_batch=max(1, len(driven)))
    if options.get("keep_state"):
        asked |= _left(trainer, asked, per_batch=max(1, len(driven)))
    asked |= measured | options
    try:
        return rangetest.range_test(module, optimizer, train, heldout, step=steps.train, **asked)
    finally:
        steps.give_back(module)


def _check_one(train: Any) -> None:
    """Raise ConfigError of several loaders, whose batches a Trainer puts together."""
    several = isinstance(train, Mapping | CombinedLoader)
    if several or (isinstance(train, list | tuple) and train and all(hasattr(each, "dataset") for each in train)):
        raise ConfigError(
            "train_dataloaders: are several, and a range test reads one: give clrtool.range_test a loader of the "
            "batches put together, a step, and a measure of the held-out ones"
        )


def _driven(module: LightningModule, optimizer: Any) -> list[Any]:
    """The optimizers of a module that steps them itself; none of one that leaves it to Lightning."""
    if module.automatic_optimization:
        return []
    made = optimizer(copy.deepcopy(module)) if callable(optimizer) else optimizer
    return [*made] if isinstance(made, list | tuple) else [made]


def _usual(trainer: Trainer, train: Any, per_batch: int) -> dict[str, Any]:
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


def _left(trainer: Trainer, asked: Mapping[str, Any], per_batch: int) -> dict[str, Any]:
    """What is left of the length of a training. Raises ConfigError where nothing is."""
    done = {"epochs": trainer.current_epoch, "steps": trainer.global_step // per_batch}
    left = {name: asked[name] - done[name] for name in done if name in asked}
    if any(each <= 0 for each in left.values()):
        raise ConfigError("trainer: its training is over, so there is nothing to plan: a larger max_epochs")
    return left


def _iterations_per_epoch(trainer: Trainer, train: Any) -> int | None:
    """Optimizer steps of one pass, as far as the Trainer goes in it; None where neither it nor the loader says."""
    batches, limit = batches_of(train), trainer.limit_train_batches
    if isinstance(limit, int):
        batches = limit if batches is None else min(limit, batches)
    elif batches is not None:
        batches = int(batches * limit)
    return None if batches is None else max(1, math.ceil(batches / trainer.accumulate_grad_batches))


def _check(trainer: Trainer) -> None:
    if trainer.world_size > 1:
        _check_ranks(trainer)
    if trainer.precision == "16-true":
        raise ConfigError(
            "trainer: precision '16-true' keeps weights in float16, in which small steps are rounded away: use "
            "'16-mixed', 'bf16-mixed' or 32"
        )


def _check_ranks(trainer: Trainer) -> None:
    """Raise ConfigError for processes that do not run yet, or share a model in a way that cannot be branched."""
    if isinstance(trainer.strategy, FSDPStrategy | DeepSpeedStrategy):
        raise ConfigError(
            f"trainer: a range test cannot branch what {type(trainer.strategy).__name__} makes of a model: shard it by "
            "fully_shard in configure_model, with ModelParallelStrategy, or use strategy='ddp'"
        )
    if not are_under_way():
        raise ConfigError(
            f"trainer: its {trainer.world_size} processes begin in fit: give it the callback LRRangeTest, which runs "
            "the range test there"
        )


def _not_applied(found: RangeTest) -> str:
    why = in_python(found.bounds.advice[0].value)
    return f"the range test found no bounds, so the training keeps the rates of configure_optimizers: {why}"


def _optimizers(made: Any) -> Any:
    """The optimizer, or all of them, in what ``configure_optimizers`` returns."""
    if isinstance(made, Mapping):
        return made["optimizer"]
    if isinstance(made, tuple) and made and isinstance(made[0], list | tuple):  # and the schedulers
        made = made[0]
    return [_optimizers(each) for each in made] if isinstance(made, list | tuple) else made


class _Steps:
    """The steps of a module, called on its copies; what they log goes nowhere."""

    def __init__(self, trainer: Trainer, datamodule: Any, driven: Sequence[Any], clips: bool) -> None:
        self._datamodule = datamodule
        self._trainer, self._logged, self._calls = trainer, dict[str, Any](), 0
        self._manual = Manual(driven, clips) if driven else None

    def train(self, module: LightningModule, batch: Any) -> Any:
        """The loss, or None for a batch to be skipped."""
        made = self._call(module, "training_step", batch)
        if self._manual is not None:
            return self._manual.loss()
        return made.get("loss") if isinstance(made, Mapping) else made

    def monitored(self, name: str) -> Any:
        """A measure: what ``validation_step`` logs by a name, the mean over the samples."""

        def measure(module: LightningModule, batch: Any) -> tuple[float, int]:
            self._logged.clear()
            self._call(module, "validation_step", batch)
            if name not in self._logged:
                logged = ", ".join(self._logged) or "nothing"
                raise ConfigError(f"monitor: validation_step does not log {name!r}; it logs {logged}")
            value = self._logged[name]
            number = samples_of(batch) or 1
            return float(value.compute() if hasattr(value, "compute") else value) * number, number

        return measure

    def _call(self, module: LightningModule, name: str, batch: Any) -> Any:
        if "log" not in vars(module):
            self._take_over(module)
        function = getattr(module, name)
        self._calls += 1
        for hook in ("on_before_batch_transfer", "on_after_batch_transfer"):  # in which batches are augmented
            batch = getattr(self._hooks_of(module, hook), hook)(batch, 0)
        # by position, as its loops do, whatever the second argument is called
        places = (batch, self._calls) if is_param_in_hook_signature(function, "batch_idx", min_args=2) else (batch,)
        with self._trainer.precision_plugin.forward_context():
            return function(*places)

    def give_back(self, module: LightningModule) -> None:
        """Let a module log again, where it was trained itself and no copy of it."""
        for part in module.modules():
            for name in ("log", "log_dict"):
                if getattr(vars(part).get(name), "__module__", None) == __name__:
                    delattr(part, name)
        if self._manual is not None:
            self._manual.give_back(module)

    def _hooks_of(self, module: LightningModule, hook: str) -> Any:
        """Whose hook it is: a datamodule's goes before the module's own, as in a Trainer."""
        data = self._datamodule
        return data if data is not None and is_overridden(hook, data) else module

    def _take_over(self, module: LightningModule) -> None:
        """Let a copy know its Trainer, and log into a dictionary: the Trainer's loops, which log, do not run."""
        module.trainer = self._trainer

        def log(name: str, value: Any, *_: Any, **__: Any) -> None:
            self._logged[name] = value

        def log_dict(values: Mapping[str, Any], *_: Any, **__: Any) -> None:
            self._logged.update(values)

        for part in module.modules():
            if isinstance(part, LightningModule):
                part.log, part.log_dict = log, log_dict  # type: ignore[method-assign, assignment]
        if self._manual is not None:
            self._manual.replace_in(module)
