"""Sizes of the built-in models' arguments, and the shape of an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from clrtool.errors import ConfigError

Shape = tuple[int, ...]
Size = Annotated[int, Field(ge=1, le=100_000)]
# The deepest network of the papers has 1,202 layers.
Depth = Annotated[int, Field(ge=1, le=2000)]
Rate = Annotated[float, Field(ge=0, lt=1)]
Sizes = Annotated[Sequence[Size], Field(max_length=2000)]


def image_shape(input_shape: Shape) -> Shape:
    """(channels, height, width), or ConfigError for inputs that are no images."""
    if len(input_shape) != 3:
        raise ConfigError(f"model: needs images (channels, height, width), the data gives shape {input_shape}")
    return input_shape
