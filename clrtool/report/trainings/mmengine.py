"""The ``param_scheduler`` of a config of mmengine, mmdetection and others, which is a Python file."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clrtool.core.planning.finding import OPTIMIZERS
from clrtool.report.trainings.found import Found, Known, Open
from clrtool.report.trainings.names import Names


def find_param_scheduler(tree: ast.Module, names: Names, file: Path, known: Known) -> Found | None:
    """The schedulers of a list, or the only one; None if the file has none."""
    made = _assigned(tree, "param_scheduler")
    listed = None if made is None else names.value(made)
    schedulers = [listed] if isinstance(listed, Mapping) else listed
    if made is None or not isinstance(schedulers, list) or not all(isinstance(each, Mapping) for each in schedulers):
        return None
    rates = [_typed(each) for each in schedulers if not str(_typed(each).get("type")).endswith("Momentum")]
    optimizer = _optimizer(tree, names)
    base_lr = optimizer.get("lr", Open("the optimizer's learning rate", made.lineno))
    params: dict[str, Any] = {"schedulers": rates, "base_lr": base_lr}
    if any(each.get("by_epoch", True) for each in rates):
        missing = Open("the length of an epoch", made.lineno, "--iterations-per-epoch")
        params["epoch_length"] = known.iterations_per_epoch or missing
    kind = optimizer.get("type")
    decay, momentum = (optimizer.get(name) for name in ("weight_decay", "momentum"))
    return Found(place=f"{file}:{made.lineno}", source="mmengine.param_scheduler", params=params,
                 iterations=_length(tree, names, known), optimizer=kind if kind in OPTIMIZERS else None,
                 momentum=momentum if isinstance(momentum, int | float) else 0.0,
                 weight_decay=decay if isinstance(decay, int | float) else 0.0)  # fmt: skip


def _assigned(tree: ast.Module, name: str) -> ast.expr | None:
    """What the module says that a name is, last."""
    return next(
        (
            node.value
            for node in reversed(tree.body)
            if isinstance(node, ast.Assign) and any(isinstance(to, ast.Name) and to.id == name for to in node.targets)
        ),
        None,
    )


def _typed(scheduler: Mapping[str, Any]) -> dict[str, Any]:
    """Newer configs name the class itself in place of its name."""
    kind = scheduler.get("type")
    return {**scheduler, "type": kind.text.rpartition(".")[2]} if isinstance(kind, Open) else {**scheduler}


def _optimizer(tree: ast.Module, names: Names) -> Mapping[str, Any]:
    """The arguments of the optimizer, which may be those of a config that this one goes on from."""
    wrapper = _assigned(tree, "optim_wrapper")
    inside = names.value(wrapper) if wrapper is not None else None
    optimizer = inside.get("optimizer") if isinstance(inside, Mapping) else None
    return _typed(optimizer) if isinstance(optimizer, Mapping) else {}


def _length(tree: ast.Module, names: Names, known: Known) -> int | None:
    """The iterations of the training."""
    loop = _assigned(tree, "train_cfg")
    told = names.value(loop) if loop is not None else None
    if not isinstance(told, Mapping):
        return None
    most, epochs = told.get("max_iters"), told.get("max_epochs")
    if isinstance(epochs, int) and known.iterations_per_epoch is not None:
        return epochs * known.iterations_per_epoch
    return most if isinstance(most, int) else None
