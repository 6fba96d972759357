"""Running a model: its inputs by position or by keyword, and the tensor in what it returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from clrtool.engine.runtime.sharded import whole
from clrtool.errors import ConfigError


def call_model(model: Callable[..., Any], inputs: Any) -> Any:
    """What a model returns for one input, several by position (tuple, list), or several by keyword (mapping)."""
    if isinstance(inputs, Tensor):
        return model(inputs)
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple | list) else model(inputs)


def logits(outputs: Any) -> Any:
    """The tensor in a model's outputs: themselves, their ``logits``, or the first of several; each rank gets all."""
    if isinstance(outputs, Mapping):
        return whole(outputs.get("logits", outputs))
    found = outputs if isinstance(outputs, Tensor) else getattr(outputs, "logits", outputs)
    return whole(found[0] if isinstance(found, tuple) and found else found)


def outputs_of(model: Callable[..., Any], inputs: Any) -> Tensor:
    """The tensor that a model returns. Raises ConfigError if there is none in it."""
    outputs = logits(call_model(model, inputs))
    if not isinstance(outputs, Tensor):
        raise ConfigError(
            f"model: must return a tensor, or something with logits; it returned {type(outputs).__name__}"
        )
    return outputs
