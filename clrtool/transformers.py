"""The range test for a ``transformers.Trainer``: ``pip install 'clrtool[transformers]'``."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from clrtool.api import rangetest
from clrtool.api.rangetest import RangeTest
from clrtool.core.planning.plan import Plan
from clrtool.core.reading.metric import METRICS
from clrtool.engine.inprocess.build import metric_of
from clrtool.engine.inprocess.ranks import dealt
from clrtool.engine.inprocess.trainer_metrics import computed
from clrtool.engine.runtime.sharded import is_sharded
from clrtool.engine.training.plateau import Plateau, check_time
from clrtool.engine.training.scheduler import PlanScheduler, check_groups
from clrtool.errors import ConfigError
from clrtool.words import in_python

try:
    from transformers import TrainerCallback
except ImportError as error:
    raise ImportError("clrtool.transformers needs transformers: pip install 'clrtool[transformers]'") from error

if TYPE_CHECKING:
    from transformers import Trainer

_IN_TRAINING = "add the callback clrtool.transformers.LRRangeTest(trainer, at_epoch=0), which tests there"


def range_test(trainer: Trainer, **options: Any) -> RangeTest:
    """Run the range test with the model, optimizer, datasets and ``compute_loss`` of a Trainer.

    The Trainer is left as it was. Of several ``eval_dataset`` the first is read. Length of training, accumulation and
    clipping come from its arguments unless ``options`` override them. The metric is ``metric_for_best_model`` if its
    arguments name one, otherwise the accuracy if each sample has one class as its label, otherwise the evaluation loss.
    Under torchrun every rank calls this, and all get the same result. ``fsdp`` shards the model in ``train()``: there
    ``LRRangeTest(trainer, at_epoch=0)`` calls this.

    Args:
        options: the options of ``clrtool.range_test``; ``metric`` may also be a name that the Trainer's
            ``compute_metrics`` gives, such as ``"eval_f1"``.

    Raises:
        ConfigError: the Trainer's model is not sharded yet, or in a way that cannot be branched, one process spreads
            batches over GPUs, or ``compute_metrics`` gives no such metric.
    """
    _check(trainer)
    apart = copy.copy(trainer)
    apart.accelerator = _Unprepared(trainer.accelerator)
    apart._eval_dataloaders = {}  # where a Trainer keeps those that it has prepared
    args, alone = trainer.args, copy.copy(trainer.args)
    alone.average_tokens_across_devices = False
    place = args.process_index, args.world_size, args.train_batch_size, args.seed
    train = dealt(apart.get_train_dataloader(), *place)
    heldout = None if trainer.eval_dataset is None else apart.get_eval_dataloader(_first(trainer.eval_dataset))

    def step(model: Any, batch: Any) -> Any:
        mine = _for(apart, model)
        mine.args = args if model.training else alone  # of held-out batches another rank may have fewer
        _, items = mine.get_batch_samples(iter([batch]), 1, trainer.args.device)  # by which some losses are divided
        with trainer.accelerator.autocast():
            # of a copy: many take the labels out of what they are given, and held-out batches are read again
            return mine.compute_loss(model, copy.copy(batch), num_items_in_batch=items)

    asked = _measured(apart, heldout, options) | _usual(trainer) | options
    return rangetest.range_test(trainer.model, _optimizer(apart), train, heldout, step=step, **asked)


def apply_plan(trainer: Trainer, plan: Plan) -> None:
    """Let a Trainer follow a plan: call this before ``trainer.train()``.

    Creates the Trainer's optimizer if there is none yet, and gives it a scheduler, which the Trainer's checkpoints save
    and restore.
    """
    optimizer = trainer.optimizer or trainer.create_optimizer()
    trainer.lr_scheduler = PlanScheduler(getattr(optimizer, "optimizer", optimizer), plan)  # type: ignore[assignment]


class PlanCallback(TrainerCallback):
    """Sets the learning rate of a plan before every step of a Trainer, in place of its scheduler.

    Use it where you can pass callbacks and nothing else. The Trainer still logs the rate of its own scheduler. The rate
    follows the Trainer's step count, so a training that resumes from a checkpoint continues in the plan. Parameter
    groups keep their ratios to the first, or follow each its own of a plan's ``groups``.

    Args:
        begin: the Trainer's step from which the plan counts.
    """

    def __init__(self, plan: Plan, begin: int = 0) -> None:
        self._plan, self._begin = plan, begin
        self._ratios: list[float] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **known: Any) -> None:  # noqa: ARG002
        """Remember the ratios between the groups before any scheduler has changed them."""
        check_groups(self._plan, known["optimizer"])
        rates = [group.get("initial_lr", group["lr"]) for group in known["optimizer"].param_groups]
        self._ratios = [rate / rates[0] for rate in rates]

    def on_step_begin(self, args: Any, state: Any, control: Any, **known: Any) -> None:  # noqa: ARG002
        """Set the learning rates of the next step."""
        t = max(0, state.global_step - self._begin)
        rates = [float(group.lr([t])[0]) for group in self._plan.groups]
        rates = rates if len(rates) > 1 else [rates[0] * ratio for ratio in self._ratios]
        for group, rate in zip(known["optimizer"].param_groups, rates, strict=True):
            group["lr"] = rate


class LRRangeTest(TrainerCallback):
    """Runs the range test in a Trainer's training, once, and lets the rest follow the plan.

    It begins from weights and optimizer state as they are then; until then, and where nothing is changed, the training
    goes on bit for bit as it would without. ``trainer.add_callback(LRRangeTest(trainer, at_epoch=2))`` adds it. Where
    the test finds no bounds, a warning says why, and the training goes on with the rates that it has. The plan is not
    in the Trainer's checkpoints: to resume from one, give ``PlanCallback(callback.result.plan, callback.begun)`` in its
    place.

    Args:
        trainer: the Trainer that it is added to.
        apply: whether the rest follows the plan; False only measures.
        at_epoch: epochs after which to test; 0 for the first step, where ``fsdp`` has sharded the model.
        when: ``"plateau"`` tests before the next epoch once ``monitor`` has not improved for more than ``patience``
            evaluations, as ``torch.optim.lr_scheduler.ReduceLROnPlateau`` counts them.
        monitor, mode: what ``evaluate`` gives, and whether ``"min"`` or ``"max"`` of it is better.
        patience, threshold: of a plateau; by less than this share of the best it is no improvement.
        options: the options of :func:`range_test`.

    Attributes:
        result: the RangeTest; None before it.
        begun: the step from which the plan counts; None before.

    Raises:
        ConfigError: not one of both times is given, or it is none.
    """

    def __init__(
        self,
        trainer: Trainer,
        *,
        apply: bool = True,
        at_epoch: int | None = None,
        when: str | None = None,
        monitor: str = "eval_loss",
        mode: str = "min",
        patience: int = 10,
        threshold: float = 1e-4,
        **options: Any,
    ) -> None:
        check_time(at_epoch, when, mode)
        if at_epoch is None and when is None:
            raise ConfigError("LRRangeTest: needs at_epoch=N or when='plateau'; before a training call range_test")
        self._trainer, self._apply, self._options, self._monitor = trainer, apply, options, monitor
        self._at_epoch = at_epoch
        self._plateau = None if when is None else Plateau(mode, patience, threshold)
        self._rates: PlanCallback | None = None
        self.result: RangeTest | None = None
        self.begun: int | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **known: Any) -> None:  # noqa: ARG002
        """Forget the test of an earlier training."""
        self._rates, self.begun = None, None

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **known: Any) -> None:
        """Test, if it is time."""
        is_time = self._plateau.reached if self._plateau is not None else round(state.epoch or 0) == self._at_epoch
        if not is_time or self.begun is not None:
            return
        left = {"steps": args.max_steps - state.global_step} if args.max_steps > 0 else {
            "epochs": args.num_train_epochs - (state.epoch or 0)}  # fmt: skip
        self.result = range_test(self._trainer, **left | self._options, keep_state=state.global_step > 0)
        self.begun = state.global_step
        if self._apply and self.result.plan is not None:
            self._rates = PlanCallback(self.result.plan, self.begun)
            self._rates.on_train_begin(args, state, control, **known)
        elif self._apply:
            why = in_python(self.result.bounds.advice[0].value)
            warnings.warn(
                f"the range test found no bounds, so the training keeps the rates it has: {why}", stacklevel=2
            )

    def on_evaluate(self, args: Any, state: Any, control: Any, **known: Any) -> None:  # noqa: ARG002
        """Look whether the metric still improves."""
        if self._plateau is None:
            return
        metrics = known["metrics"]
        if self._monitor not in metrics:
            raise ConfigError(f"monitor: evaluate gives no {self._monitor!r}; it gives {', '.join(metrics)}")
        self._plateau.see(float(metrics[self._monitor]))

    def on_step_begin(self, args: Any, state: Any, control: Any, **known: Any) -> None:
        """Set the learning rates of the next step, once there is a plan."""
        if self._rates is not None:
            self._rates.on_step_begin(args, state, control, **known)


class _Unprepared:
    """An accelerator that leaves loaders as they are: those that it prepares it keeps."""

    def __init__(self, accelerator: Any) -> None:
        self._accelerator = accelerator

    def prepare(self, loader: Any) -> Any:
        return loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._accelerator, name)


def _for(trainer: Trainer, model: Any) -> Trainer:
    """A Trainer of another model."""
    apart = copy.copy(trainer)
    apart.model = apart.model_wrapped = model
    return apart


def _optimizer(trainer: Trainer) -> Any:
    """The optimizer that there is, or how a model gets one."""
    if trainer.optimizer is not None:
        return getattr(trainer.optimizer, "optimizer", trainer.optimizer)

    def make(model: Any) -> Any:
        return _for(trainer, model).create_optimizer()

    return make


def _usual(trainer: Trainer) -> dict[str, Any]:
    """What the arguments of a Trainer say of the training."""
    args = trainer.args
    asked: dict[str, Any] = {"accumulate": args.gradient_accumulation_steps}
    if args.max_grad_norm:
        asked["clip_norm"] = float(args.max_grad_norm)
    if args.fp16:  # whose gradients are scaled
        asked["precision"] = "fp16"
    if args.max_steps > 0:
        asked["steps"] = args.max_steps
    else:
        asked["epochs"] = float(args.num_train_epochs)
    return asked


def _first(datasets: Any) -> str | None:
    """The name of the first of several sets; None of one, as a Trainer's method has it."""
    return next(iter(datasets), None) if isinstance(datasets, dict) else None


def _measured(trainer: Trainer, heldout: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """What the bounds are read from, as options: a metric of the Trainer's own, or what its model's outputs allow."""
    args = trainer.args
    name = str(options.get("metric", args.metric_for_best_model or ""))
    if "measure" in options or name in METRICS:
        return {}
    if heldout is None or trainer.compute_metrics is None or name.removeprefix("eval_") in ("", "loss"):
        return {} if "metric" in options else {"metric": metric_of(trainer.model, heldout)}
    asked: dict[str, Any] = {"measure": computed(trainer, name), "metric": name, "eval_loss": "eval"}
    if name == args.metric_for_best_model and args.greater_is_better is not None:
        asked["higher_is_better"] = args.greater_is_better
    return asked


def _check(trainer: Trainer) -> None:
    args = trainer.args
    if args.n_gpu > 1:
        raise ConfigError(
            "trainer: one process runs several devices: start one for each by torchrun, or set CUDA_VISIBLE_DEVICES"
        )
    if trainer.model is None or trainer.train_dataset is None:
        raise ConfigError("trainer: a range test needs a model and a train_dataset")
    if trainer.is_deepspeed_enabled:
        raise ConfigError(
            "trainer: DeepSpeed keeps weights, gradients and optimizer in an engine of its own, which a range test "
            f"cannot branch: fsdp=True shards them as well; then {_IN_TRAINING}"
        )
    if not trainer.is_fsdp_enabled:
        return
    if trainer.accelerator.state.fsdp_plugin.fsdp_version == 1:
        raise ConfigError(
            "trainer: version 1 of its FSDP keeps weights in one long tensor, which a range test cannot branch: "
            f"fsdp_config={{'version': 2}} shards them one by one; then {_IN_TRAINING}"
        )
    if not is_sharded(trainer.model):
        raise ConfigError(f"trainer: shards its model in train(), and a range test comes after that: {_IN_TRAINING}")
