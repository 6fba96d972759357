"""What a config names to be built: model, data, optimizer, loss and metric, with their keys, rules and defaults."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    Tag,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from clrtool.core.reading.metric import METRICS, Metric, other_metric
from clrtool.words import nearest

Auto = Literal["auto"]
Given = TypeVar("Given")
# Unions are tried left to right, so that the message of the more general type comes first.
OrAuto = Annotated[Given | Auto, Field(union_mode="left_to_right")]
FactoryName = Annotated[str, Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$", max_length=200)]
Name = Annotated[str, Field(min_length=1, max_length=200)]
FilePath = Annotated[str, Field(min_length=1, max_length=4096)]
# Patterns of parameter names, as the shell matches file names: '*.bias', 'layer1.*'.
Patterns = Annotated[list[Name], Field(max_length=200)]

# Where the name of a metric of torchmetrics begins.
TORCHMETRICS = "torchmetrics."


class Tree(BaseModel):
    """A section of a config."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Component(Tree):
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


class AugmentConfig(Tree):
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


class GroupRule(Tree):
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
        layer_decay: factor by which the rate falls from block to block, from the head down.
    """

    default_name = "SGD"

    args: Annotated[dict[str, Any], AfterValidator(_no_lr)] = {}
    groups: Annotated[list[GroupRule], Field(max_length=200)] = []
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0

    @model_serializer(mode="wrap")
    def _without_what_is_new(self, as_usual: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """As of the data."""
        return {name: value for name, value in as_usual(self).items() if name != "layer_decay" or value < 1}


class PartOptimizerConfig(OptimizerConfig):
    """One of several optimizers, each of which trains some of the parameters.

    Args:
        params: patterns of the names of those; a parameter belongs to the first that fits, so "*" takes the rest.
        lr_ratio: its learning rate, as a multiple of the rate of the sweep.
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
