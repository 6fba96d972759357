"""The config: one frozen, validated tree.

The tree below is the only place where a key, its type, its rule and its default are written; the JSON Schema, the
error messages and the config saved with a run all come from it.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    Tag,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError
from ruamel.yaml import YAML

from clrtool.config.strict_yaml import quoted
from clrtool.core.planning.budget import MAX_EPOCHS, MAX_ITERATIONS
from clrtool.core.planning.policies import POLICIES
from clrtool.core.planning.sweep_size import MOST_BUDGET
from clrtool.core.reading.metric import METRICS, Metric, other_metric
from clrtool.words import nearest

Auto = Literal["auto"]
LearningRate = Annotated[float, Field(gt=0, le=1e4, allow_inf_nan=False)]
Epochs = Annotated[float, Field(gt=0, le=MAX_EPOCHS, allow_inf_nan=False)]
Given = TypeVar("Given")
# Unions are tried left to right, so that the message of the more general type comes first.
OrAuto = Annotated[Given | Auto, Field(union_mode="left_to_right")]
FactoryName = Annotated[str, Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$", max_length=200)]
Name = Annotated[str, Field(min_length=1, max_length=200)]
FilePath = Annotated[str, Field(min_length=1, max_length=4096)]
# Patterns of parameter names, as the shell matches file names: '*.bias', 'layer1.*'.
Patterns = Annotated[list[Name], Field(max_length=200)]
Clip = Annotated[float, Field(gt=0, le=1e12, allow_inf_nan=False)]

# Where the name of a metric of torchmetrics begins.
TORCHMETRICS = "torchmetrics."

# A sweep over less has nothing to tell apart.
SHORTEST_SWEEP = 1.5


class _Tree(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Component(_Tree):
    """Something to build.

    Args:
        name: a built-in.
        factory: your own code in its place, pkg.module:callable; it runs only with --allow-import.
        args: its keyword arguments.
    """

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
    """The network.

    Args:
        name: mlp, convnet, resnet, vit, gpt, or a model of torchvision such as torchvision.resnet18.
        weights: a .safetensors or .pt file with the initial weights.
        fresh: name patterns of parameters that start from new random weights in spite of that file.
        freeze: name patterns of parameters that do not train.
    """

    weights: FilePath | None = None
    fresh: Patterns = []
    freeze: Patterns = []


class AugmentConfig(_Tree):
    """Random changes of the training images, different in each epoch.

    Args:
        flip: mirror half of the images.
        crop: shift images by up to this many pixels.
        cutout: side in pixels of a square that is blanked.
    """

    flip: bool = False
    crop: Annotated[int, Field(ge=0, le=256)] = 0
    cutout: Annotated[int, Field(ge=0, le=1024)] = 0


class DataConfig(Component):
    """The training and held-out sets, and how they reach the device.

    Args:
        name: digits, image_folder, npz, text, or a dataset of torchvision such as torchvision.CIFAR10.
        batch_size: samples in one optimizer step; the bounds depend on it.
        heldout: size of the held-out set; auto takes all given samples, or splits some off the training set.
        batch: code that takes a batch apart, pkg.module:callable.
        normalize: auto normalises per channel; mean_image subtracts the mean image and keeps the scale of 0 to 255.
        shuffle: whether each epoch has a different order.
        augment: random changes of the training images.
        placement: device keeps all samples there, loader reads them through a DataLoader; auto decides by size.
        workers: processes that read samples.
        samples_per_epoch: length of an epoch, for an iterable without a length.
        drop_last: whether the last samples of an epoch that do not fill a batch are left out, or are a smaller batch.
    """

    batch_size: Annotated[int, Field(ge=1, le=10**7)] = 128
    heldout: OrAuto[Annotated[int, Field(ge=1, le=10**9)]] = "auto"
    batch: FactoryName | None = None
    normalize: Literal["auto", "mean_image"] = "auto"
    shuffle: bool = True
    augment: AugmentConfig = AugmentConfig()
    placement: Literal["auto", "device", "loader"] = "auto"
    workers: OrAuto[Annotated[int, Field(ge=0, le=64)]] = "auto"
    samples_per_epoch: Annotated[int, Field(ge=1, le=10**12)] | None = None
    drop_last: bool = True

    @model_serializer(mode="wrap")
    def _without_what_is_new(self, as_usual: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Every value but those that are younger than the hashes of older configs, where they say nothing."""
        return {name: value for name, value in as_usual(self).items() if name != "drop_last" or not value}


def _no_lr(args: dict[str, Any]) -> dict[str, Any]:
    if "lr" in args:
        raise PydanticCustomError("rule", "must not hold 'lr': the sweep sets it, times an lr_ratio of a group")
    return args


class GroupRule(_Tree):
    """Options for parameters whose name matches a pattern; where rules overlap, the later one applies.

    Args:
        params: name patterns, such as "*.bias".
        lr_ratio: factor by which the learning rate of the sweep is multiplied for them.
        args: options of the optimizer for them, such as weight_decay.
    """

    params: Annotated[Patterns, Field(min_length=1)]
    lr_ratio: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)] = 1.0
    args: Annotated[dict[str, Any], AfterValidator(_no_lr)] = {}


class OptimizerConfig(Component):
    """The optimizer, whose learning rate the test sets.

    Args:
        name: a class of torch.optim.
        groups: rules for some of the parameters.
    """

    default_name = "SGD"

    args: Annotated[dict[str, Any], AfterValidator(_no_lr)] = {}
    groups: Annotated[list[GroupRule], Field(max_length=200)] = []


class PartOptimizerConfig(OptimizerConfig):
    """One of several optimizers, each of which trains some of the parameters.

    Args:
        params: patterns of the names of those; a parameter belongs to the first that fits, so "*" takes the rest.
        lr_ratio: its learning rate is so many times that of the sweep.
    """

    params: Annotated[Patterns, Field(min_length=1)]
    lr_ratio: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)] = 1.0


# What pydantic calls the members of a union: no keys of a config, and left out of messages.
UNION = ("<one>", "<several>")
Optimizers = Annotated[
    Annotated[OptimizerConfig, Tag(UNION[0])]
    | Annotated[list[PartOptimizerConfig], Field(min_length=2, max_length=20), Tag(UNION[1])],
    Discriminator(lambda value: UNION[isinstance(value, list)]),
]


class LossConfig(Component):
    """The loss that training minimises.

    Args:
        name: cross_entropy, mse, l1, huber, or a class of torch.nn such as NLLLoss.
    """

    default_name = "cross_entropy"


class MetricConfig(Component):
    """The metric that curves show, and that the paper's method reads the bounds from.

    Args:
        name: accuracy, top5, token_accuracy, loss, or a class of torchmetrics such as torchmetrics.F1Score.
        factory: code that returns a function of outputs and targets, pkg.module:callable.
        higher_is_better: whether a larger value of it is better, where torchmetrics does not say it.
    """

    default_name = "accuracy"

    higher_is_better: bool | None = None

    @field_validator("name")
    @classmethod
    def _known(cls, name: str | None) -> str | None:
        if name is not None and name not in METRICS and not name.startswith(TORCHMETRICS):
            raise PydanticCustomError("rule", "is no metric; {nearest}", {"nearest": nearest(name, METRICS)})
        return name

    @model_validator(mode="after")
    def _way_is_stated(self) -> Self:
        if self.factory is not None and self.higher_is_better is None:
            raise PydanticCustomError("section", "with a factory needs 'higher_is_better: true' or 'false'")
        if self.name in METRICS and (self.higher_is_better is not None or self.args):
            rule = "takes 'args' and 'higher_is_better' only with a factory or a class of torchmetrics"
            raise PydanticCustomError("section", rule)
        return self

    @property
    def metric(self) -> Metric:
        """What is read; which way a class of torchmetrics goes that says it itself, is not known here."""
        if self.name in METRICS:
            return METRICS[self.name]
        label = "metric" if self.name is None else self.name.rpartition(".")[2]
        return other_metric(label, higher_is_better=bool(self.higher_is_better))


class TrainingConfig(_Tree):
    """How an optimizer step is taken.

    Args:
        micro_batches: parts in which a batch goes through the model; an optimizer step still uses the whole batch.
        clip_norm: limit for the norm of the gradient.
        clip_value: limit for each element of the gradient.
        layout: memory format of images; auto is channels_last for convolutions.
        compile: use torch.compile.
        fast: allow a GPU to run the whole step as one CUDA graph.
        sync_batch_norm: let batch norm see the batches of all GPUs that train together.
    """

    micro_batches: Annotated[int, Field(ge=1, le=10**6)] = 1
    clip_norm: Clip | None = None
    clip_value: Clip | None = None
    layout: Literal["auto", "contiguous", "channels_last"] = "auto"
    compile: bool = False
    fast: bool = True
    sync_batch_norm: bool = False

    @model_serializer(mode="wrap")
    def _without_what_is_new(self, as_usual: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Every value but those that are younger than the hashes of older configs, where they say nothing."""
        return {name: value for name, value in as_usual(self).items() if name != "sync_batch_norm" or value}


class SweepConfig(_Tree):
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


class PlanConfig(_Tree):
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


class RangeTestConfig(_Tree):
    """The whole config of one range test.

    Args:
        seed: first random seed; further seeds count up from it.
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
