"""The range test for a ``transformers.Trainer``: ``pip install 'clrtool[transformers]'``."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from clrtool.api import rangetest
from clrtool.api.rangetest import RangeTest
from clrtool.core.planning.plan import Plan
from clrtool.core.reading.metric import METRICS
from clrtool.engine.inprocess.build import metric_of
from clrtool.engine.inprocess.ranks import dealt
from clrtool.engine.inprocess.trainer_metrics import computed
from clrtool.engine.training.scheduler import PlanScheduler, check_groups
from clrtool.errors import ConfigError

try:
    from transformers import TrainerCallback
except ImportError as error:
    raise ImportError("clrtool.transformers needs transformers: pip install 'clrtool[transformers]'") from error

if TYPE_CHECKING:
    from transformers import Trainer


def range_test(trainer: Trainer, **options: Any) -> RangeTest:
    """Run the range test with the model, optimizer, datasets and ``compute_loss`` of a Trainer.

    The Trainer is left as it was. Of several ``eval_dataset`` the first is read. Length of training, accumulation and
    clipping come from its arguments unless ``options`` override them. The metric is ``metric_for_best_model`` if its
    arguments name one, otherwise the accuracy if each sample has one class as its label, otherwise the evaluation loss.
    Under torchrun every rank calls this, and all get the same result.

    Args:
        options: the options of ``clrtool.range_test``; ``metric`` may also be a name that the Trainer's
            ``compute_metrics`` gives, such as ``"eval_f1"``.

    Raises:
        ConfigError: the Trainer shards its model or spreads batches over GPUs by one process, or ``compute_metrics``
            gives no such metric.
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
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._ratios: list[float] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **known: Any) -> None:  # noqa: ARG002
        """Remember the ratios between the groups before any scheduler has changed them."""
        check_groups(self._plan, known["optimizer"])
        rates = [group.get("initial_lr", group["lr"]) for group in known["optimizer"].param_groups]
        self._ratios = [rate / rates[0] for rate in rates]

    def on_step_begin(self, args: Any, state: Any, control: Any, **known: Any) -> None:  # noqa: ARG002
        """Set the learning rates of the next step."""
        rates = [float(group.lr([state.global_step])[0]) for group in self._plan.groups]
        rates = rates if len(rates) > 1 else [rates[0] * ratio for ratio in self._ratios]
        for group, rate in zip(known["optimizer"].param_groups, rates, strict=True):
            group["lr"] = rate


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
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        raise ConfigError(
            "trainer: shards its model in train(), after the range test: shard it by fully_shard and give it to "
            "clrtool.range_test with the loaders"
        )
    if trainer.model is None or trainer.train_dataset is None:
        raise ConfigError("trainer: a range test needs a model and a train_dataset")
