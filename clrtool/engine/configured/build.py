"""Config -> workload: load the data and look up what the config names."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clrtool.config.components import ModelConfig
from clrtool.config.schema import PlanConfig, RangeTestConfig
from clrtool.core.reading.metric import Metric
from clrtool.engine.configured.losses import make_loss, make_measure
from clrtool.engine.configured.sources import source_hashes
from clrtool.engine.configured.trial import tried_out
from clrtool.engine.configured.workload import ConfiguredWorkload
from clrtool.engine.data.load import Data, load_data
from clrtool.engine.data.loader import StreamedLoader, has_even_batches
from clrtool.engine.data.streaming import IterableStream
from clrtool.engine.models.batch_norm import synced
from clrtool.engine.models.builtin import MODELS
from clrtool.engine.models.checkpoint import Checkpoint, read_checkpoint
from clrtool.engine.models.pretrained import with_weights
from clrtool.engine.runtime.device import environment, find_device
from clrtool.engine.runtime.factories import FactoryImport, call, import_factory
from clrtool.engine.runtime.hardware import memory_of
from clrtool.engine.runtime.ranks import SINGLE_PROCESS, Ranks
from clrtool.engine.runtime.rng import fork_rng
from clrtool.engine.training.going_on import ContinuedOptimizer, continued_model, epochs_left, start_of
from clrtool.engine.training.losses import Measure
from clrtool.engine.training.optimizers import make_optimizers_recipe
from clrtool.engine.training.whole_set import WholeSet
from clrtool.errors import ConfigError
from clrtool.words import nearest

# Of the environment, what has to be alike on all machines that train together.
_ALIKE = ("clrtool", "torch")
# What torch says to a view of a tensor whose memory is in another order, and what is made of it.
_NOT_A_VIEW = "view size is not compatible"
_CONTIGUOUS = (
    "The model takes a view that images in channels_last do not allow, and runs contiguous: training.layout=contiguous "
    "says so from the start, and .flatten(1) or .reshape in place of .view allows the faster layout."
)


def build_workload(  # noqa: PLR0913 (all but the config by keyword)
    config: RangeTestConfig,
    *,
    device: str = "auto",
    allow_import: Iterable[str] = (),
    download: bool = False,
    folder: Path | None = None,
    deterministic: bool = False,
    micro_batches: int | None = None,
    epochs: float | None = None,
    ranks: Ranks = SINGLE_PROCESS,
) -> ConfiguredWorkload:
    """Load the data and prepare the recipes that a config names.

    Args:
        device: ``auto`` (CUDA if there is any), ``cpu``, ``cuda`` or ``cuda:N``.
        allow_import: patterns for the user code that may be imported.
        download: whether torchvision may fetch a dataset.
        folder: the folder of the config, in which modules of factories are looked for.
        deterministic: whether to use only algorithms that give the same numbers every time.
        micro_batches: parts of a batch, if memory has no room for larger ones. Default: the config's.
        epochs: length of a training, compared to which evaluations must be cheap. Default: that of the config's sweep.
        ranks: the processes that train together, each of which calls this function.

    Raises:
        ConfigError: a name or an argument is unknown, or the pieces do not fit together.
        MachineError: the device or the dataset is missing.
    """
    folder = folder or Path.cwd()
    factory, place = partial(import_factory, allowed=tuple(allow_import), folder=folder), find_device(device)
    sources = source_hashes(config, folder)  # before it runs, for it may change while data is read
    with ranks.in_turn():
        data = load_data(config, place, download=download, factory=factory)
    make_model = _model_recipe(config.model, data, factory)
    checkpoint = None if config.start is None else read_checkpoint(Path(config.start))
    if checkpoint is not None:
        make_model = continued_model(make_model, checkpoint)
    channels_last, warnings = _wants_channels_last(config, place, make_model), tuple[str, ...]()
    make_model = synced(make_model) if config.training.sync_batch_norm and ranks.world > 1 else make_model
    given = {"make_model": make_model, "deterministic": deterministic, "sources": sources, "ranks": ranks}
    while True:
        workload = _assembled(config, data, place, factory, channels_last=channels_last, warnings=warnings, **given)
        workload = workload if checkpoint is None else _continued(workload, checkpoint, config.plan)
        _check_ranks(workload, config)
        try:
            return tried_out(_in_micro_batches(workload, micro_batches), config, data.num_outputs, epochs)
        except ConfigError as error:
            if not channels_last or config.training.layout != "auto" or _NOT_A_VIEW not in str(error):
                raise
        channels_last, warnings = False, (_CONTIGUOUS,)


def _assembled(
    config: RangeTestConfig,
    data: Data,
    place: torch.device,
    factory: FactoryImport,
    *,
    channels_last: bool,
    **given: Any,
) -> ConfiguredWorkload:
    """The workload in one layout, with what does not depend on that as it is given."""
    loader, heldout = data.loader(config.data, place, channels_last=channels_last)
    ranks: Ranks = given["ranks"]
    measure = make_measure(config.metric, data.first.task, factory)
    return ConfiguredWorkload(
        loader=replace(loader, rank=ranks.rank, world=ranks.world),
        heldout=heldout,
        make_optimizer=make_optimizers_recipe(config, factory),
        loss=make_loss(config.loss, data.first.task, factory, place),
        device=place,
        precision=config.precision, channels_last=channels_last,
        data_sha256=data.sha256(),
        training=config.training,
        plan_epochs=config.plan.length(loader.iterations_per_epoch),
        metric=_metric(config, measure),
        measure=measure,
        **given,
    )  # fmt: skip


def _continued(workload: ConfiguredWorkload, checkpoint: Checkpoint, plan: PlanConfig) -> ConfiguredWorkload:
    """The workload that goes on from a checkpoint, for the epochs that are left."""
    start = start_of(checkpoint, workload.iterations_per_epoch)
    if checkpoint.optimizers:
        optimizer = ContinuedOptimizer(workload.make_optimizer, checkpoint)
        with fork_rng(), memory_of("model.args"):
            optimizer.check(workload.make_model())
        workload = replace(workload, make_optimizer=optimizer)
    left = epochs_left(plan, workload.iterations_per_epoch, start)
    return replace(workload, start=start, plan_epochs=left)


def _metric(config: RangeTestConfig, measure: Measure | WholeSet | None) -> Metric:
    """The metric of a config, which goes the way that a class of torchmetrics says of itself."""
    if not isinstance(measure, WholeSet) or measure.higher_is_better is None:
        return config.metric.metric
    return replace(config.metric.metric, higher_is_better=measure.higher_is_better)


def data_sha256(config: RangeTestConfig, *, device: str, download: bool) -> str:
    """Hash of the data as it is now, of a config that names no code for it."""
    factory = partial(import_factory, allowed=(), folder=Path.cwd())
    return load_data(config, find_device(device), download=download, factory=factory).sha256()


def _check_ranks(workload: ConfiguredWorkload, config: RangeTestConfig) -> None:
    """Raise ConfigError for what several ranks cannot share, or if they do not have the same inputs."""
    ranks = workload.ranks
    if ranks.world == 1:
        return
    if isinstance(workload.loader, StreamedLoader) and isinstance(workload.loader.split, IterableStream):
        raise ConfigError(
            f"data: an iterable cannot be split over {ranks.world} ranks: give a dataset with a length, or run in "
            "one process"
        )
    if not has_even_batches(workload.loader):
        raise ConfigError(
            f"data.drop_last = false: {ranks.world} ranks do not share the last, smaller batch: leave it true, or run "
            "in one process"
        )
    if isinstance(workload.measure, WholeSet):
        raise ConfigError(
            f"metric: {workload.metric.label} needs the whole held-out set, but each of {ranks.world} ranks has only a "
            "part of it: run in one process, or use accuracy or loss"
        )
    if config.training.sync_batch_norm and workload.device.type != "cuda":
        raise ConfigError("training.sync_batch_norm: torch has it on CUDA only; leave it out, or run in one process")
    if workload.is_spread and workload.precision == "fp16":
        raise ConfigError("training.shard: fp16 scales losses, which a sharded model does not allow: precision: bf16")
    hashes = {"config": config.sha256(), "data": workload.data_sha256, "code or weights": str(workload.sources)}
    now = {name: str(value) for name, value in environment(workload.device).items() if name in _ALIKE}
    if other := ranks.differing(hashes | now | {"kind of device": workload.device.type}):
        raise ConfigError(f"the ranks do not have the same {', '.join(other)}")


def _in_micro_batches(workload: ConfiguredWorkload, micro_batches: int | None) -> ConfiguredWorkload:
    """A workload whose batches are taken in this many micro-batches; it says so if the config does not."""
    if micro_batches is None or micro_batches == workload.training.micro_batches:
        return workload
    size = -(-workload.batch_size // micro_batches)
    warning = (
        f"Out of memory: batches of {workload.batch_size} were split into {micro_batches} micro-batches of {size}, "
        f"which is the same step, but batch norm sees {size} samples at a time: training.micro_batches={micro_batches} "
        "does so from the start."
    )
    training = workload.training.model_copy(update={"micro_batches": micro_batches})
    return replace(workload, training=training, warnings=(*workload.warnings, warning))


def _model_recipe(model: ModelConfig, data: Data, factory: FactoryImport) -> Callable[[], nn.Module]:
    if model.factory is not None:
        build: Callable[..., nn.Module] = factory(model.factory, "model.factory")
    elif model.name is not None and model.name.startswith("torchvision."):
        if fetched := {name for name in model.args if name.startswith("weights")}:
            raise ConfigError(f"model.args.{min(fetched)}: torchvision would fetch them; give model.weights a file")
        build = partial(_torchvision_model(model.name.removeprefix("torchvision.")), num_classes=data.num_outputs)
    elif model.name in MODELS:
        if not isinstance(data.first.inputs, Tensor):
            raise ConfigError(f"model.name: {model.name} takes one input, the data gives several; use a factory")
        build = partial(MODELS[model.name], tuple(data.first.inputs.shape[1:]), data.num_outputs)
    else:
        known = [*MODELS, "torchvision.resnet18"]
        raise ConfigError(f"model.name: unknown model {model.name!r}; {nearest(str(model.name), known)}")
    return with_weights(lambda: call(build, "model.args", model.args), model)


def _torchvision_model(name: str) -> Callable[..., nn.Module]:
    from torchvision import models

    names = models.list_models(module=models)
    if name not in names:
        raise ConfigError(f"model.name: torchvision has no model {name!r}; {nearest(name, names)}")
    builder: Callable[..., nn.Module] = models.get_model_builder(name)
    return builder


def _wants_channels_last(config: RangeTestConfig, device: torch.device, make_model: Callable[[], nn.Module]) -> bool:
    """``auto`` is channels_last for models with convolutions of images, unless a GPU runs them in plain float32."""
    if config.training.layout != "auto":
        return config.training.layout == "channels_last"
    if device.type == "cuda" and config.precision == "fp32":
        return False
    with torch.random.fork_rng(devices=[]), memory_of("model.args"):
        return any(isinstance(module, nn.Conv2d) for module in make_model().modules())
