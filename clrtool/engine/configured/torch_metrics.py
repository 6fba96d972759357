"""A metric that a config takes from torchmetrics by its name."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from clrtool.config.components import MetricConfig
from clrtool.engine.runtime.factories import call
from clrtool.engine.training.whole_set import WholeSet
from clrtool.errors import ConfigError
from clrtool.words import nearest

# The parts of it whose metrics are of outputs and targets alone: those of other parts may fetch networks to judge by.
PARTS = ("torchmetrics", "torchmetrics.classification", "torchmetrics.regression", "torchmetrics.segmentation")


def made_metric(config: MetricConfig) -> WholeSet:
    """The metric of a config's name, such as ``torchmetrics.JaccardIndex``.

    Raises:
        ConfigError: torchmetrics is missing, has no such metric, or does not say which way is better.
    """
    part, _, name = str(config.name).rpartition(".")
    known = _metrics_of(part) if part in PARTS else {}
    if name not in known:
        hint = nearest(name, known) if known else f"metrics are in {', '.join(PARTS)}"
        raise ConfigError(f"metric.name: torchmetrics has no metric {config.name!r} that a config may name; {hint}")
    whole = WholeSet(call(known[name], "metric.args", config.args), "metric")
    if config.higher_is_better is None and whole.higher_is_better is None:
        raise ConfigError(
            f"metric: {config.name} does not say which way is better: add higher_is_better: true or false"
        )
    if config.higher_is_better is not None:
        whole.higher_is_better = config.higher_is_better
    return whole


def _metrics_of(part: str) -> dict[str, Any]:
    """The classes of metrics in a part of torchmetrics."""
    try:
        module, metric = import_module(part), import_module("torchmetrics").Metric
    except ImportError as error:
        raise ConfigError("metric.name: needs torchmetrics: pip install 'clrtool[metrics]'") from error
    return {
        name: kind
        for name, kind in vars(module).items()
        if isinstance(kind, type) and issubclass(kind, metric) and kind is not metric
    }
