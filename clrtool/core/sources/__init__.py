"""Schedules in the words of torch, Keras, optax, transformers, DeepSpeed, timm, ignite, mmengine and others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clrtool.core.schedules import Schedule
from clrtool.core.schedules.base import build

# importing them enters their readers into SOURCES
from clrtool.core.sources import (  # noqa: F401
    from_caffe,
    from_composer,
    from_deepspeed,
    from_fastai,
    from_ignite,
    from_keras,
    from_mmengine,
    from_optax,
    from_others,
    from_paddle,
    from_timm,
    from_torch,
    from_transformers,
)
from clrtool.core.sources.groups import groups_of as groups_of
from clrtool.core.sources.registry import SOURCES as SOURCES
from clrtool.core.sources.registry import bind as bind
from clrtool.core.sources.registry import find_source as find_source
from clrtool.core.sources.registry import takes as takes


def schedule_from(source: str, params: Mapping[str, Any]) -> Schedule:
    """Read a schedule in another system's words.

    Args:
        source: its full name there (``torch.optim.lr_scheduler.CyclicLR``, ``transformers.get_scheduler:cosine``) or
            a short one (``torch:CyclicLR``). ``SOURCES`` lists them.
        params: its parameters by that system's names; what is left out has that system's default. torch and
            transformers take the learning rate from the optimizer: here it is ``base_lr``. A ``scale_fn`` is a Python
            function, or the text of one in x, which is read and never evaluated as code.

    Returns:
        ``schedule(iterations)`` gives the learning rates, ``schedule.momentum(iterations)`` the momenta or None.

    Raises:
        ValueError: the source or a parameter is unknown, missing, or breaks its rule.

    >>> schedule_from("torch:CyclicLR", {"base_lr": 0.1, "max_lr": 0.5, "step_size_up": 2})([0, 1, 2, 3])
    array([0.1, 0.3, 0.5, 0.3])
    >>> schedule_from("tfa:CyclicalLearningRate", {"initial_learning_rate": 0.0, "maximal_learning_rate": 1.0,
    ...               "step_size": 10, "scale_fn": "lambda x: 1 / 2. ** (x - 1)"})([10, 30])
    array([1. , 0.5])
    """
    full = find_source(source)
    return build(SOURCES[full], bind(full, params), full)
