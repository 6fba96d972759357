"""Config -> problem: load the data, look up what the config names, and try one batch before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from clrtool.config import Component, DataConfig, RangeTestConfig
from clrtool.engine import datasets
from clrtool.engine.imports import blamed_on, call, import_factory
from clrtool.engine.learner import Learner
from clrtool.engine.models import MODELS
from clrtool.engine.problem import Loss, Problem, find_device
from clrtool.engine.samples import Split, channel_statistics, check_data, sha256
from clrtool.errors import ConfigError
from clrtool.words import nearest

FactoryImport = Callable[[Component, str], Callable[..., Any]]


def build_problem(
    config: RangeTestConfig,
    *,
    device: str = "auto",
    allow_import: Iterable[str] = (),
    download: bool = False,
    folder: Path | None = None,
) -> Problem:
    """Load the data and prepare the recipes that a config names.

    Args:
        device: ``auto`` (CUDA if there is any), ``cpu``, ``cuda`` or ``cuda:N``.
        allow_import: patterns of the user code that may be imported.
        download: whether torchvision may fetch a dataset.
        folder: where the config lies; factories may stand there.

    Raises:
        ConfigError: a name or an argument is unknown, or the pieces do not fit together.
        MachineError: the device or the dataset is missing.
    """
    place = find_device(device)

    def factory(part: Component, field: str) -> Callable[..., Any]:
        assert part.factory is not None
        return import_factory(part.factory, f"{field}.factory", allow_import, folder or Path.cwd())

    train, heldout = _load_data(config.data, config.seed, download, factory)
    num_classes = check_data(train, heldout, config.data.batch_size)
    mean, std = channel_statistics(train.inputs)
    problem = Problem(
        train=train.to(place),
        heldout=heldout.to(place),
        batch_size=config.data.batch_size,
        mean=mean.to(place),
        std=std.to(place),
        make_model=_model_recipe(config.model, tuple(train.inputs.shape[1:]), num_classes, factory),
        make_optimizer=_optimizer_recipe(config.optimizer, factory),
        loss=_make_loss(config.loss, factory),
        device=place,
        precision=config.precision,
        data_sha256=sha256(train, heldout),
    )
    _try_out(problem, num_classes)
    return problem


def _load_data(data: DataConfig, seed: int, download: bool, factory: FactoryImport) -> Split:
    if data.name is None:
        return datasets.from_factory(call(factory(data, "data"), "data.args", data.args))
    if data.name.startswith("torchvision."):
        name = data.name.removeprefix("torchvision.")
        load = partial(datasets.torchvision_dataset, name, seed, download)
        return call(load, "data.args", data.args)
    if data.name not in datasets.DATASETS:
        known = [*datasets.DATASETS, "torchvision.CIFAR10", "torchvision.MNIST"]
        raise ConfigError(f"data.name: unknown dataset {data.name!r}; {nearest(data.name, known)}")
    return call(partial(datasets.DATASETS[data.name], seed), "data.args", data.args)


def _model_recipe(
    model: Component, input_shape: tuple[int, ...], num_classes: int, factory: FactoryImport
) -> Callable[[], nn.Module]:
    if model.name is None:
        build: Callable[..., nn.Module] = factory(model, "model")
    elif model.name.startswith("torchvision."):
        build = partial(_torchvision_model(model.name.removeprefix("torchvision.")), num_classes=num_classes)
    elif model.name in MODELS:
        build = partial(MODELS[model.name], input_shape, num_classes)
    else:
        known = [*MODELS, "torchvision.resnet18"]
        raise ConfigError(f"model.name: unknown model {model.name!r}; {nearest(model.name, known)}")
    return lambda: call(build, "model.args", model.args)


def _torchvision_model(name: str) -> Callable[..., nn.Module]:
    from torchvision import models

    names = models.list_models(module=models)
    if name not in names:
        raise ConfigError(f"model.name: torchvision has no model {name!r}; {nearest(name, names)}")
    builder: Callable[..., nn.Module] = models.get_model_builder(name)
    return builder


def _optimizer_recipe(optimizer: Component, factory: FactoryImport) -> Callable[[Iterable[nn.Parameter]], Optimizer]:
    if optimizer.name is None:
        build: Callable[..., Optimizer] = factory(optimizer, "optimizer")
        return lambda params: call(partial(build, params), "optimizer.args", optimizer.args)
    if optimizer.name == "LBFGS":
        raise ConfigError("optimizer.name: LBFGS searches along a line, so its steps do not follow the learning rate")
    classes = {name: kind for name, kind in vars(torch.optim).items() if isinstance(kind, type)}
    known = [
        name for name, kind in classes.items() if issubclass(kind, Optimizer) and name not in ("Optimizer", "LBFGS")
    ]
    if optimizer.name not in known:
        raise ConfigError(f"optimizer.name: torch.optim has no {optimizer.name!r}; {nearest(optimizer.name, known)}")
    kind: Callable[..., Optimizer] = getattr(torch.optim, optimizer.name)
    # The sweep sets the learning rate of every iteration; the constructor only wants one that it accepts.
    return lambda params: call(partial(kind, params, lr=1.0), "optimizer.args", optimizer.args)


def _make_loss(loss: Component, factory: FactoryImport) -> Loss:
    if loss.name not in (None, "cross_entropy"):
        raise ConfigError(f"loss.name: unknown loss {loss.name!r}; {nearest(str(loss.name), ['cross_entropy'])}")
    build: Callable[..., Loss] = nn.CrossEntropyLoss if loss.name else factory(loss, "loss")
    return call(build, "loss.args", loss.args)


def _try_out(problem: Problem, num_classes: int) -> None:
    """Train and evaluate a fresh model for a moment, so that pieces that do not fit are a message now."""
    with problem.on_device():
        models = problem.make_model(), problem.make_model()
        for model in models:
            if not isinstance(model, nn.Module):
                raise ConfigError(f"model: must be a torch.nn.Module, the factory returned {type(model).__name__}")
        if not any(each.requires_grad for each in models[0].parameters()):
            raise ConfigError("model: has no parameter to train")
        if {*map(id, models[0].parameters())} & {*map(id, models[1].parameters())}:
            raise ConfigError("model.factory: must return a fresh model each time, it returned the same weights twice")
        learner = Learner(problem, seed=0)
        if not isinstance(learner.optimizer, Optimizer):
            raise ConfigError(f"optimizer: must be a torch.optim.Optimizer, it is {type(learner.optimizer).__name__}")
        _check_outputs(problem, learner.model, num_classes)
        learner.train(0, [1e-9, 1e-9])  # two steps, for some optimizers use an argument in the second only
        learner.evaluate()


def _check_outputs(problem: Problem, model: nn.Module, num_classes: int) -> None:
    inputs, targets = problem.batch(problem.train, slice(0, problem.batch_size))
    with blamed_on(f"model: a batch of shape {tuple(inputs.shape)}, {inputs.dtype}"):
        outputs = model(inputs)
    if not isinstance(outputs, Tensor) or outputs.ndim != 2 or len(outputs) != len(inputs):
        shape = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise ConfigError(f"model: outputs must be ({len(inputs)}, classes) for {len(inputs)} samples, got {shape}")
    if isinstance(problem.loss, nn.CrossEntropyLoss) and outputs.shape[1] < num_classes:
        raise ConfigError(f"model: has {outputs.shape[1]} outputs for the {num_classes} classes of the data")
    with blamed_on("loss"):
        loss = problem.loss(outputs, targets)
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        raise ConfigError(f"loss: must give one number, got {loss!r:.100}")
