"""From stored samples to what a model takes, on the device: normalised, changed at random, in the right layout."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clrtool.config.components import AugmentConfig
from clrtool.engine.data.nested import map_nested
from clrtool.engine.data.tensors import Inputs
from clrtool.errors import ConfigError

# Columns of the draws: offsets of the crop, whether to flip, centre of the cutout.
DRAWS = 5


@dataclass(frozen=True, eq=False)
class Transform:
    """What happens to a batch of inputs. Only a single tensor of images is changed; other inputs stay as they are.

    Args:
        mean, std: per channel or per pixel, applied to uint8 images as ``(x - mean) / std``.
        augment: random changes; pixels that they bring in from outside are 0, the mean.
        channels_last: whether images are laid out as NHWC in memory.
    """

    mean: Tensor
    std: Tensor
    augment: AugmentConfig
    channels_last: bool = False

    @property
    def is_random(self) -> bool:
        return self.augment != AugmentConfig()

    def normalize(self, inputs: Inputs) -> Inputs:
        """uint8 images as float32 with mean 0, and standard deviation 1 but for ``mean_image``."""
        if isinstance(inputs, Tensor) and inputs.dtype == torch.uint8:
            return (inputs.float() - self.mean) / self.std
        return inputs

    def __call__(self, inputs: Inputs, draws: Tensor | None = None) -> Inputs:
        inputs = self.normalize(inputs)
        if draws is not None and isinstance(inputs, Tensor):
            inputs = self._change(inputs, draws)
        laid_out: Inputs = map_nested(self.lay_out, inputs)
        return laid_out

    def lay_out(self, inputs: Tensor) -> Tensor:
        """The same values, as channels_last if images are wanted so. No copy where they lie so already."""
        if self.channels_last and inputs.ndim == 4:
            return inputs.contiguous(memory_format=torch.channels_last)
        return inputs

    def draw(self, generator: np.random.Generator, size: int, image: torch.Size) -> NDArray[np.int16] | None:
        """The random numbers of ``size`` samples, (size, DRAWS), or None where nothing is random."""
        if not self.is_random:
            return None
        height, width = image[-2:]
        highest = (2 * self.augment.crop + 1, 2 * self.augment.crop + 1, 1 + self.augment.flip, height, width)
        return generator.integers(0, highest, (size, DRAWS), dtype=np.int16)

    def _change(self, images: Tensor, draws: Tensor) -> Tensor:
        """Crop, flip and cutout of a batch (N, C, H, W) as one gather of fixed shape."""
        height, width = images.shape[-2:]
        down, right, flip, row, column = draws.long().unbind(1)
        y, x = (torch.arange(size, device=images.device)[None] for size in (height, width))
        rows = y + down[:, None] - self.augment.crop
        columns = torch.where(flip[:, None] == 1, width - 1 - x, x) + right[:, None] - self.augment.crop
        inside = _within(rows, height)[:, :, None] & _within(columns, width)[:, None, :]
        if self.augment.cutout:
            # A square of cutout pixels a side; where it is even, the centre is its lower right one of four.
            low, high = self.augment.cutout // 2, (self.augment.cutout - 1) // 2
            cut_rows = (y >= row[:, None] - low) & (y <= row[:, None] + high)
            cut_columns = (x >= column[:, None] - low) & (x <= column[:, None] + high)
            inside = inside & ~(cut_rows[:, :, None] & cut_columns[:, None, :])
        rows, columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
        places = (rows[:, :, None] * width + columns[:, None, :]).flatten(1)[:, None].expand(-1, images.shape[1], -1)
        changed = images.flatten(2).gather(2, places).view_as(images)
        return changed * inside[:, None]


def _within(places: Tensor, size: int) -> Tensor:
    return (places >= 0) & (places < size)


def channel_statistics(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel of uint8 images, shaped to broadcast over (N, C, H, W)."""
    if not isinstance(inputs, Tensor) or inputs.dtype != torch.uint8 or inputs.ndim != 4:
        return torch.zeros(()), torch.ones(())
    # From a count of each value, 256 a channel: exact, and no float copy of the images.
    values = torch.arange(256, dtype=torch.float64)
    counts = torch.stack([torch.bincount(channel.flatten(), minlength=256) for channel in inputs.transpose(0, 1)])
    frequencies = counts.double() / counts.sum(1, keepdim=True)
    mean = frequencies @ values
    std = (frequencies @ values.square() - mean.square()).clamp(min=0).sqrt()
    std[std == 0] = 1  # a channel of one value carries nothing, and 0 / 0 would
    return mean.float()[:, None, None], std.float()[:, None, None]


def mean_image(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Mean of each pixel of uint8 images, (C, H, W), and a deviation of 1: the scale of 0 to 255 stays.

    Source: Caffe, compute_image_mean.cpp and data_transformer.cpp.
    """
    if not isinstance(inputs, Tensor) or inputs.dtype != torch.uint8 or inputs.ndim != 4:
        raise ConfigError("data.normalize = mean_image needs uint8 images (channels, height, width); set it to auto")
    # In whole numbers, so exact, and in chunks, for torch widens all that it adds up at once.
    sums = [inputs[start : start + 1000].sum(0, dtype=torch.int64) for start in range(0, len(inputs), 1000)]
    return (torch.stack(sums).sum(0).double() / len(inputs)).float(), torch.ones(())


STATISTICS = {"auto": channel_statistics, "mean_image": mean_image}
