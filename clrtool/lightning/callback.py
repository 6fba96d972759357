"""The range test within a fit, and the plan that the fit follows from there on."""

from __future__ import annotations

import warnings
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.types import LRSchedulerConfig

from clrtool.api.rangetest import RangeTest
from clrtool.core.planning.plan import Plan
from clrtool.engine.training.plateau import Plateau, check_time
from clrtool.engine.training.scheduler import PlanScheduler
from clrtool.errors import ConfigError
from clrtool.lightning.module import Data, run
from clrtool.report.records.plan_file import to_plan
from clrtool.words import in_python


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
        # ranks have to agree, and what a module logs without sync_dist each has of its own batches
        self._plateau.see(float(trainer.strategy.reduce(value.detach().clone(), reduce_op="mean")))

    def _run(self, trainer: Trainer, module: LightningModule, more: dict[str, Any]) -> None:
        data = Data.of(trainer.train_dataloader, trainer.val_dataloaders, getattr(trainer, "datamodule", None))
        self.result = run(trainer, module, data, trainer.optimizers, self._asked | more)
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


def _not_applied(found: RangeTest) -> str:
    why = in_python(found.bounds.advice[0].value)
    return f"the range test found no bounds, so the training keeps the rates of configure_optimizers: {why}"
