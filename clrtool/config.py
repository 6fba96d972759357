"""The config: one frozen, validated tree.

The tree below is the only place where a key, its type, its rule and its default are written; the JSON Schema, the
error messages and the config saved with a run all come from it.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError
from ruamel.yaml import YAML

from clrtool.core.budget import MAX_EPOCHS
from clrtool.core.metric import METRICS, Metric
from clrtool.strict_yaml import quoted
from clrtool.words import nearest

Auto = Literal["auto"]
LearningRate = Annotated[float, Field(gt=0, le=1e4, allow_inf_nan=False)]
Epochs = Annotated[float, Field(gt=0, le=MAX_EPOCHS, allow_inf_nan=False)]
# Unions are tried left to right, so that the message of the more general type comes first.
AutoLearningRate = Annotated[LearningRate | Auto, Field(union_mode="left_to_right")]
AutoEpochs = Annotated[Epochs | Auto, Field(union_mode="left_to_right")]
FactoryName = Annotated[str, Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$", max_length=200)]
Name = Annotated[str, Field(min_length=1, max_length=200)]
FilePath = Annotated[str, Field(min_length=1, max_length=4096)]
# Patterns of parameter names, as the shell matches file names: '*.bias', 'layer1.*'.
Patterns = Annotated[list[Name], Field(max_length=200)]
Clip = Annotated[float, Field(gt=0, le=1e12, allow_inf_nan=False)]

AutoEvaluations = Annotated[Annotated[int, Field(ge=2, le=100_000)] | Auto, Field(union_mode="left_to_right")]
AutoSeeds = Annotated[Annotated[int, Field(ge=1, le=1000)] | Auto, Field(union_mode="left_to_right")]

# A sweep over less has nothing to tell apart.
SHORTEST_SWEEP = 1.5


class _Tree(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Component(_Tree):
    """Something to build: a built-in by ``name``, or ``factory: "pkg.module:callable"``; ``args`` by keyword."""

    default_name: ClassVar[str | None] = None

    name: Name | None = None
    factory: FactoryName | None = None
    args: dict[str, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _fill_name(cls, values: Any) -> Any:
        if isinstance(values, str) and cls.default_name:
            return {"name": values}
        if isinstance(values, dict) and cls.default_name and not {"name", "factory"} & set(values):
            return {"name": cls.default_name} | values
        return values

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.name is None) == (self.factory is None):
            raise PydanticCustomError("section", "needs exactly one of 'name' and 'factory'")
        return self


class ModelConfig(Component):
    """The network, with weights from a file for those that are not drawn anew, and the parts that do not train."""

    weights: FilePath | None = None
    fresh: Patterns = []
    freeze: Patterns = []


class AugmentConfig(_Tree):
    """Random changes of the training images, other ones in each epoch, in pixels."""

    flip: bool = False
    crop: Annotated[int, Field(ge=0, le=256)] = 0
    cutout: Annotated[int, Field(ge=0, le=1024)] = 0


class DataConfig(Component):
    """The training and held-out sets, the samples per optimizer step, and how they reach the device."""

    batch_size: Annotated[int, Field(ge=1, le=10**7)] = 128
    heldout: Annotated[Annotated[int, Field(ge=1, le=10**9)] | Auto, Field(union_mode="left_to_right")] = "auto"
    batch: FactoryName | None = None
    normalize: Literal["auto", "mean_image"] = "auto"
    shuffle: bool = True
    augment: AugmentConfig = AugmentConfig()
    placement: Literal["auto", "device", "loader"] = "auto"
    workers: Annotated[Annotated[int, Field(ge=0, le=64)] | Auto, Field(union_mode="left_to_right")] = "auto"
    samples_per_epoch: Annotated[int, Field(ge=1, le=10**12)] | None = None


def _no_lr(args: dict[str, Any]) -> dict[str, Any]:
    if "lr" in args:
        raise PydanticCustomError("rule", "must not hold 'lr': the sweep sets it, times an lr_ratio of a group")
    return args


class GroupRule(_Tree):
    """Options for the parameters whose name fits a pattern; where rules meet, the later one wins."""

    params: Annotated[Patterns, Field(min_length=1)]
    lr_ratio: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)] = 1.0
    args: Annotated[dict[str, Any], AfterValidator(_no_lr)] = {}


class OptimizerConfig(Component):
    """Any ``torch.optim`` class or ``caffe_sgd`` by name; its learning rate is what the sweep sets."""

    default_name = "SGD"

    args: Annotated[dict[str, Any], AfterValidator(_no_lr)] = {}
    groups: Annotated[list[GroupRule], Field(max_length=200)] = []


class LossConfig(Component):
    """What is minimised."""

    default_name = "cross_entropy"


class MetricConfig(Component):
    """What the bounds are read from: a built-in by name, or a factory of a function of outputs and targets."""

    default_name = "accuracy"

    higher_is_better: bool | None = None

    @field_validator("name")
    @classmethod
    def _known(cls, name: str | None) -> str | None:
        if name is not None and name not in METRICS:
            raise PydanticCustomError("rule", "is no metric; {nearest}", {"nearest": nearest(name, METRICS)})
        return name

    @model_validator(mode="after")
    def _way_is_stated(self) -> Self:
        if self.factory is not None and self.higher_is_better is None:
            raise PydanticCustomError("section", "with a factory needs 'higher_is_better: true' or 'false'")
        if self.name is not None and (self.higher_is_better is not None or self.args):
            raise PydanticCustomError("section", "takes 'args' and 'higher_is_better' only with a factory")
        return self

    @property
    def metric(self) -> Metric:
        if self.name is not None:
            return METRICS[self.name]
        return Metric("metric", "metric", higher_is_better=bool(self.higher_is_better))


class TrainingConfig(_Tree):
    """How an optimizer step is taken. ``clip_norm`` and ``clip_value`` bound the gradient before it."""

    micro_batches: Annotated[int, Field(ge=1, le=10**6)] = 1
    clip_norm: Clip | None = None
    clip_value: Clip | None = None
    layout: Literal["auto", "contiguous", "channels_last"] = "auto"
    compile: bool = False
    fast: bool = True


class SweepConfig(_Tree):
    """The LR range test."""

    start_lr: AutoLearningRate = "auto"
    end_lr: AutoLearningRate = "auto"
    spacing: Literal["auto", "linear", "exponential"] = "auto"
    epochs: AutoEpochs = "auto"
    evaluations: AutoEvaluations = "auto"
    seeds: AutoSeeds = "auto"

    @field_validator("end_lr")
    @classmethod
    def _rising(cls, end_lr: float | Auto, before: ValidationInfo) -> float | Auto:
        start_lr = before.data.get("start_lr", "auto")
        if "auto" not in (start_lr, end_lr) and end_lr < SHORTEST_SWEEP * start_lr:
            rule = {"factor": SHORTEST_SWEEP, "start_lr": start_lr}
            raise PydanticCustomError("rule", "must be at least {factor} times sweep.start_lr = {start_lr}", rule)
        return end_lr


PolicyName = Literal[
    "triangular",
    "triangular2",
    "exp_range",
    "cyclical",
    "decay",
    "cosine_restarts",
    "one_cycle",
    "one_cycle_smith",
    "fixed",
    "linear",
    "cosine",
    "polynomial",
    "exponential",
    "step",
    "multistep",
    "piecewise",
    "inverse_time",
    "inverse_sqrt",
    "inv",
    "sigmoid",
    "warmup_stable_decay",
]


class PlanConfig(_Tree):
    """The schedule planned from the bounds."""

    policy: PolicyName = "triangular2"
    epochs: Epochs = 30
    stepsize_epochs: AutoEpochs = "auto"

    @field_validator("stepsize_epochs")
    @classmethod
    def _one_cycle_fits(cls, stepsize_epochs: float | Auto, before: ValidationInfo) -> float | Auto:
        epochs = before.data.get("epochs", math.inf)
        if stepsize_epochs != "auto" and 2 * stepsize_epochs > epochs:
            rule = {"epochs": epochs}
            raise PydanticCustomError(
                "rule", "must be at most half of plan.epochs = {epochs}: one cycle has to fit", rule
            )
        return stepsize_epochs


class RangeTestConfig(_Tree):
    """The whole config of one range test."""

    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    model: ModelConfig
    data: DataConfig
    optimizer: OptimizerConfig = OptimizerConfig(name="SGD", args={"momentum": 0.9})
    loss: LossConfig = LossConfig(name="cross_entropy")
    metric: MetricConfig = MetricConfig(name="accuracy")
    precision: Literal["fp32", "tf32", "bf16", "fp16"] = "fp32"
    training: TrainingConfig = TrainingConfig()
    sweep: SweepConfig = SweepConfig()
    plan: PlanConfig = PlanConfig()

    def sha256(self) -> str:
        """Hash of the resolved config: equal for equal values, whatever the file looked like."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def to_yaml(self) -> str:
        """The resolved config, every default written out, loadable again."""
        stream = io.StringIO()
        yaml = YAML()
        yaml.width = 120
        yaml.dump(quoted(self.model_dump(mode="json", exclude_none=True)), stream)
        return stream.getvalue()


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a config, for editors and other checkers."""
    return RangeTestConfig.model_json_schema()
