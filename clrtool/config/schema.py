"""The config: one frozen, validated tree.

This tree, with the parts of :mod:`~clrtool.config.components`, is the only place where a key, its type, its rule and
its default are written; the JSON Schema, the error messages and the config saved with a run all come from it.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError
from ruamel.yaml import YAML

from clrtool.config.components import (
    Auto,
    Component,
    DataConfig,
    FilePath,
    LossConfig,
    MetricConfig,
    ModelConfig,
    OptimizerConfig,
    Optimizers,
    OrAuto,
    Tree,
)
from clrtool.config.strict_yaml import quoted
from clrtool.core.planning.budget import MAX_EPOCHS, MAX_ITERATIONS
from clrtool.core.planning.policies import POLICIES
from clrtool.core.planning.sweep_size import MOST_BUDGET

LearningRate = Annotated[float, Field(gt=0, le=1e4, allow_inf_nan=False)]
Epochs = Annotated[float, Field(gt=0, le=MAX_EPOCHS, allow_inf_nan=False)]
Clip = Annotated[float, Field(gt=0, le=1e12, allow_inf_nan=False)]


# A sweep over less has nothing to tell apart.
SHORTEST_SWEEP = 1.5


class TrainingConfig(Tree):
    """How an optimizer step is taken.

    Args:
        micro_batches: parts in which a batch goes through the model; an optimizer step still uses the whole batch.
        clip_norm: limit for the norm of the gradient.
        clip_value: limit for each element of the gradient.
        layout: memory format of images; auto is channels_last for convolutions.
        compile: use torch.compile.
        fast: allow a GPU to run the whole step as one CUDA graph.
        sync_batch_norm: let batch norm see the batches of all GPUs that train together.
        shard: how ranks hold a model; auto gives each a part of every block (fully_shard), none all of it.
    """

    micro_batches: Annotated[int, Field(ge=1, le=10**6)] = 1
    clip_norm: Clip | None = None
    clip_value: Clip | None = None
    layout: Literal["auto", "contiguous", "channels_last"] = "auto"
    compile: bool = False
    fast: bool = True
    sync_batch_norm: bool = False
    shard: Literal["none", "auto"] = "none"

    @model_serializer(mode="wrap")
    def _without_what_is_new(self, as_usual: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Every value but those that are younger than the hashes of older configs, where they say nothing."""
        new = {"sync_batch_norm": False, "shard": "none"}
        return {name: value for name, value in as_usual(self).items() if name not in new or value != new[name]}


class SweepConfig(Tree):
    """The LR range test.

    Args:
        method: race compares short runs, paper reads the sweeps alone; auto is paper if epochs are given, else race.
        budget: cost of a race with its sweep, as a share of the planned training; at least 500 iterations.
        start_lr: first learning rate of the sweep; auto finds it with a scout of at most 100 iterations.
        end_lr: last learning rate; auto stops where the metric breaks.
        spacing: how the learning rate rises; auto is exponential, or linear within a decade.
        epochs: length of one seed's sweep; auto is about 4 for the paper's method, a part of the budget for a race.
        evaluations: held-out evaluations in a sweep; auto is 12 to 60, a fifth of the time.
        seeds: number of seeds; auto is 2 or 3, and 1 for the sweep before a race.
    """

    method: Literal["auto", "race", "paper"] = "auto"
    budget: Annotated[float, Field(gt=0, le=MOST_BUDGET, allow_inf_nan=False)] = 0.25
    start_lr: OrAuto[LearningRate] = "auto"
    end_lr: OrAuto[LearningRate] = "auto"
    spacing: Literal["auto", "linear", "exponential"] = "auto"
    epochs: OrAuto[Epochs] = "auto"
    evaluations: OrAuto[Annotated[int, Field(ge=2, le=100_000)]] = "auto"
    seeds: OrAuto[Annotated[int, Field(ge=1, le=1000)]] = "auto"

    @property
    def races(self) -> bool:
        """Whether short runs choose max_lr, after the sweep."""
        return self.method == "race" or (self.method == "auto" and self.epochs == "auto")

    @field_validator("end_lr")
    @classmethod
    def _rising(cls, end_lr: float | Auto, before: ValidationInfo) -> float | Auto:
        start_lr = before.data.get("start_lr", "auto")
        if "auto" not in (start_lr, end_lr) and end_lr < SHORTEST_SWEEP * start_lr:
            rule = {"factor": SHORTEST_SWEEP, "start_lr": start_lr}
            raise PydanticCustomError("rule", "must be at least {factor} times sweep.start_lr = {start_lr}", rule)
        return end_lr


if TYPE_CHECKING:
    PolicyName = str
else:  # every policy but stages, which have bounds of their own
    PolicyName = Literal[tuple(name for name in POLICIES if name != "stages")]


class PlanConfig(Tree):
    """The schedule planned from the bounds.

    Args:
        policy: how the learning rate moves between base_lr and max_lr.
        epochs: length of the training that you plan.
        iterations: the same in optimizer steps, in place of epochs.
        stepsize_epochs: half a cycle in epochs; auto is 2 to 10, chosen for 4 cycles.
        warmup_epochs: length of a linear rise from 0 at the beginning, included in the training.
    """

    policy: PolicyName = "triangular2"
    epochs: Epochs = 30
    iterations: Annotated[int, Field(ge=1, le=MAX_ITERATIONS)] | None = None
    stepsize_epochs: OrAuto[Epochs] = "auto"
    warmup_epochs: Annotated[float, Field(ge=0, le=MAX_EPOCHS, allow_inf_nan=False)] = 0.0

    def length(self, iterations_per_epoch: int) -> float:
        """The length of the training in epochs; of a number of iterations as many as are no fewer by rounding."""
        if self.iterations is None:
            return self.epochs
        epochs = self.iterations / iterations_per_epoch
        return epochs if int(epochs * iterations_per_epoch) >= self.iterations else math.nextafter(epochs, math.inf)

    @model_serializer(mode="wrap")
    def _without_what_is_new(self, as_usual: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Every value but those that say nothing: the length that is not taken, and what older configs do not have."""
        silent = {name for name in ("iterations", "warmup_epochs") if not getattr(self, name)}
        silent |= {"epochs"} if self.iterations is not None else set()
        return {name: value for name, value in as_usual(self).items() if name not in silent}

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if self.iterations is not None and "epochs" in self.model_fields_set:
            raise PydanticCustomError("section", "takes one of 'epochs' and 'iterations'")
        return self

    @field_validator("stepsize_epochs")
    @classmethod
    def _one_cycle_fits(cls, stepsize_epochs: float | Auto, before: ValidationInfo) -> float | Auto:
        epochs = before.data.get("epochs", math.inf) if before.data.get("iterations") is None else math.inf
        if stepsize_epochs != "auto" and 2 * stepsize_epochs > epochs:
            message = "must be at most half of plan.epochs = {epochs}: one cycle has to fit"
            raise PydanticCustomError("rule", message, {"epochs": epochs})
        return stepsize_epochs


class RangeTestConfig(Tree):
    """The whole config of one range test.

    Args:
        seed: first random seed; further seeds count up from it.
        start: checkpoint of a training under way, from which all seeds go on for what is left of plan.epochs.
        precision: number format of the model; bf16 is faster on a GPU.
        training: how an optimizer step is taken.
    """

    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    model: ModelConfig
    data: DataConfig
    optimizer: Optimizers = OptimizerConfig(name="SGD", args={"momentum": 0.9})
    loss: LossConfig = LossConfig(name="cross_entropy")
    metric: MetricConfig = MetricConfig(name="accuracy")
    precision: Literal["fp32", "tf32", "bf16", "fp16"] = "fp32"
    training: TrainingConfig = TrainingConfig()
    sweep: SweepConfig = SweepConfig()
    plan: PlanConfig = PlanConfig()
    start: FilePath | None = None

    @model_serializer(mode="wrap")
    def _without_what_is_new(self, as_usual: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Every value but those that are younger than the hashes of older configs, where they say nothing."""
        return {name: value for name, value in as_usual(self).items() if name != "start" or value is not None}

    @model_validator(mode="after")
    def _one_start(self) -> Self:
        if self.start is not None and self.model.weights is not None:
            raise PydanticCustomError("section", "takes one of 'start' and 'model.weights', for start has weights too")
        if self.start is not None and not self.sweep.races:
            rule = "with 'start' compares rates with stopping, which needs a race: leave out sweep.epochs"
            raise PydanticCustomError("section", rule)
        return self

    def sha256(self) -> str:
        """Hash of the resolved config: equal for equal values, whatever the file looked like."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def optimizers(self) -> dict[str, OptimizerConfig]:
        """The optimizer, or each of several, by its place in the config."""
        if isinstance(self.optimizer, OptimizerConfig):
            return {"optimizer": self.optimizer}
        return {f"optimizer.{place}": part for place, part in enumerate(self.optimizer)}

    def factories(self) -> dict[str, str]:
        """Every field that names code, with that name."""
        parts: dict[str, Component] = {name: getattr(self, name) for name in ("model", "data", "loss", "metric")}
        named = {f"{name}.factory": part.factory for name, part in (parts | self.optimizers()).items()}
        named["data.batch"] = self.data.batch
        return {field: factory for field, factory in named.items() if factory is not None}

    def to_yaml(self) -> str:
        """The resolved config, every default written out, loadable again."""
        stream = io.StringIO()
        yaml = YAML()
        yaml.width = 120
        yaml.dump(quoted(self.model_dump(mode="json", exclude_none=True)), stream)
        return stream.getvalue()
