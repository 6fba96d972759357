"""Images less their mean image, and in the order of the file: the input as Caffe has it."""

import numpy as np
import pytest
import torch

from clrtool.config.schema import RangeTestConfig
from clrtool.engine.configured.build import build_workload
from clrtool.errors import ConfigError


def arrays(tmp_path, **changes):
    """A workload of 95 images for training and 20 held out, and its images as numpy has them."""
    generator = np.random.default_rng(3)
    x, y = generator.integers(0, 256, (115, 8, 8, 3), dtype=np.uint8), np.arange(115) % 5
    np.savez(tmp_path / "a.npz", x_train=x[:95], y_train=y[:95], x_test=x[95:], y_test=y[95:])
    data = {"name": "npz", "args": {"path": str(tmp_path / "a.npz")}, "batch_size": 10, "workers": 0} | changes
    config = RangeTestConfig.model_validate({"model": {"name": "convnet"}, "data": data})
    return build_workload(config, device="cpu"), x.transpose(0, 3, 1, 2).astype(np.float64)


@pytest.mark.parametrize("placement", ["device", "loader"])
def test_both_sets_are_pixels_less_the_mean_image_of_the_training_set(tmp_path, placement):
    workload, images = arrays(tmp_path, normalize="mean_image", shuffle=False, placement=placement)
    mean = images[:95].mean(0)
    assert mean.std() > 5  # it is no mean of channels
    np.testing.assert_allclose(workload.heldout.inputs, images[95:] - mean, atol=1e-4)
    np.testing.assert_allclose(next(workload.loader.batches(0, 0))[0], images[:10] - mean, atol=1e-4)


@pytest.mark.parametrize("placement", ["device", "loader"])
def test_without_shuffling_samples_come_in_the_order_of_the_file_over_and_over(tmp_path, placement):
    workload, images = arrays(tmp_path, normalize="mean_image", shuffle=False, placement=placement)
    batches = workload.loader.batches(7, 0)
    seen = torch.cat([next(batches)[0] for _ in range(28)])  # 9 batches an epoch, 5 samples left over
    expected = np.concatenate([images[:95]] * 3)[:280] - images[:95].mean(0)
    np.testing.assert_allclose(seen, expected, atol=1e-4)
    assert torch.equal(next(workload.loader.batches(0, 21))[0], seen[210:220])


def test_images_in_file_order_are_still_changed_at_random_by_seed_and_epoch(tmp_path):
    workload, images = arrays(tmp_path, normalize="mean_image", shuffle=False, augment={"flip": True})
    plain = images[:10] - images[:95].mean(0)
    seen = [next(workload.loader.batches(seed, start))[0].numpy() for seed, start in ((0, 0), (0, 0), (1, 0))]
    assert np.array_equal(seen[0], seen[1])
    flips = [[not np.allclose(one, two, atol=1e-4) for one, two in zip(batch, plain, strict=True)] for batch in seen]
    assert flips[0] != flips[2]
    for batch, flipped in zip(seen, flips, strict=True):
        assert 0 < sum(flipped) < 10
        expected = [image[:, :, ::-1] if flip else image for image, flip in zip(plain, flipped, strict=True)]
        np.testing.assert_allclose(batch, expected, atol=1e-4)


def sorted_images(samples):
    """Two classes, one after the other."""
    return torch.zeros(samples, 1, 8, 8, dtype=torch.uint8), torch.arange(samples) * 2 // samples


class Read:
    """A dataset that is read when it is needed."""

    def __len__(self):
        return 400

    def __getitem__(self, index):
        return torch.full((1, 8, 8), index % 7, dtype=torch.uint8), index % 2


def read_images():
    return Read(), Read()


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        ({"factory": "sorted_images", "args": {"samples": 60}, "shuffle": False}, "which here is class by class"),
        ({"factory": "read_images", "placement": "loader", "workers": 0}, "256 of 400 samples were read"),
        ({"factory": "float_images"}, "needs uint8 images"),
    ],
)
def test_an_order_or_a_mean_image_that_cannot_be_had_is_refused(data, rule):
    data = data | {
        "factory": f"tests.engine.test_mean_image:{data['factory']}",
        "normalize": "mean_image",
        "batch_size": 20,
    }
    config = RangeTestConfig.model_validate({"model": {"name": "mlp"}, "data": data})
    with pytest.raises(ConfigError, match=rule):
        build_workload(config, device="cpu", allow_import=["tests.*"])


def float_images():
    images, labels = sorted_images(60)
    return images.float(), labels
