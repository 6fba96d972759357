"""Augmentation against the same change written out with slices, and normalisation against numpy."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clrtool.config.components import AugmentConfig
from clrtool.engine.data.transforms import Transform, channel_statistics

ZERO, ONE = torch.zeros(()), torch.ones(())


def changed_by_hand(image, draw, augment):
    """Pad with zeros, cut out the window, flip it, blank the square: with numpy, one image."""
    down, right, flip, row, column = draw
    pad, (height, width) = augment.crop, image.shape[1:]
    padded = np.pad(image, ((0, 0), (pad, pad), (pad, pad)))
    window = padded[:, down : down + height, right : right + width]
    window = (window[:, :, ::-1] if flip else window).copy()
    low, high = augment.cutout // 2, (augment.cutout + 1) // 2
    if augment.cutout:
        window[:, max(0, row - low) : row + high, max(0, column - low) : column + high] = 0
    return window


@given(st.booleans(), st.integers(0, 3), st.integers(0, 5), st.booleans(), st.integers(0, 99))
def test_every_image_is_flipped_cropped_and_cut_out_as_by_hand(flip, crop, cutout, channels_last, seed):
    augment = AugmentConfig(flip=flip, crop=crop, cutout=cutout)
    transform = Transform(ZERO, ONE, augment, channels_last)
    generator = np.random.default_rng(seed)
    images = generator.normal(size=(6, 2, 5, 7)).astype(np.float32)
    draws = transform.draw(generator, 6, torch.Size((2, 5, 7)))
    if draws is None:
        assert (flip, crop, cutout) == (False, 0, 0)
        return
    got = transform(torch.from_numpy(images), torch.from_numpy(draws))
    expected = [changed_by_hand(image, draw, augment) for image, draw in zip(images, draws.tolist(), strict=True)]
    np.testing.assert_array_equal(got, np.stack(expected))


def test_draws_reach_every_offset_and_both_sides():
    transform = Transform(ZERO, ONE, AugmentConfig(flip=True, crop=2))
    draws = transform.draw(np.random.default_rng(0), 1000, torch.Size((3, 8, 8)))
    assert [sorted(set(column)) for column in draws.T[:3].tolist()] == [list(range(5)), list(range(5)), [0, 1]]


def test_uint8_images_have_mean_0_and_deviation_1_in_each_channel_and_their_padding_is_the_mean():
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (50, 3, 8, 8), dtype=np.uint8))
    mean, std = channel_statistics(images)
    values = images.numpy().astype(np.float64)
    np.testing.assert_allclose(mean.flatten(), values.mean((0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(std.flatten(), values.std((0, 2, 3)), rtol=1e-6)
    transform = Transform(mean, std, AugmentConfig(crop=8))
    corner = torch.tensor([[0, 0, 0, 0, 0]])  # the window above and left of the image: nothing but padding
    assert not transform(images[:1], corner).any()


def test_channels_last_changes_where_values_lie_and_not_what_they_are():
    images = torch.randn(4, 3, 6, 6)
    plain, last = (Transform(ZERO, ONE, AugmentConfig(), layout)(images) for layout in (False, True))
    assert torch.equal(plain, last)
    assert last.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("inputs", [torch.zeros(4, 3), torch.zeros(4, 3, dtype=torch.int64)])
def test_what_is_no_image_stays_as_it_is(inputs):
    assert Transform(ZERO, ONE, AugmentConfig(), channels_last=True)(inputs) is inputs
