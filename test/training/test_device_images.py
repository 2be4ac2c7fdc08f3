"""Augmentation on the device is augmentation on the host: the same draws, the same pixels within interpolation's rounding."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from bevdistill_ros.errors import UserError
from bevdistill_ros.training import augmentation, device_images
from bevdistill_ros.training.augmentation import PixelChange, draw_augmentation
from bevdistill_ros.training.config import AugmentationConfig
from bevdistill_ros.training.data.image_cache import ImageCache
from bevdistill_ros.training.device_images import DeviceImages
from bevdistill_ros.training.loader import _stack

SHAPE = (2, 3, 32, 48, 3)
SIZE = (48, 32)


def pictures(smooth: bool = True) -> np.ndarray:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (*SHAPE[:2], 4, 6, 3), dtype=np.uint8)
    if not smooth:
        return rng.integers(0, 256, SHAPE, dtype=np.uint8)
    return np.stack([[cv2.resize(image, SIZE, interpolation=cv2.INTER_LINEAR) for image in images] for images in noise])


def both(images: np.ndarray, config: AugmentationConfig, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The batch's images by OpenCV and by torch, from the same draws."""
    rng = np.random.default_rng(seed)
    changes = [draw_augmentation(config, np.ones(SHAPE[1], bool), SIZE, rng).pixels for _ in images]
    host = np.stack([augmentation.change_pixels(i, change) for i, change in zip(images, changes)])
    batch = PixelChange(*(_stack(values) for values in zip(*changes)))
    return host, device_images.change_pixels(torch.from_numpy(images), batch).numpy()


@pytest.mark.parametrize(
    "config",
    [
        AugmentationConfig(),
        AugmentationConfig(flip=0.5),
        AugmentationConfig(camera_drop=0.5, brightness=(-40, 40)),
        AugmentationConfig(camera_drop=0.5, flip=0.5, brightness=(-40, 40), grid_mask=0.7),
        AugmentationConfig(
            contrast=(0.5, 2), brightness=(-40, 40), camera_contrast=(0.8, 1.2), camera_brightness=(-9, 9)
        ),
    ],
)
def test_what_does_not_interpolate_is_the_same_to_the_bit(config: AugmentationConfig) -> None:
    for seed in range(5):
        host, device = both(pictures(smooth=False), config, seed)
        assert np.array_equal(host, device)


def test_grey_is_the_same_up_to_the_rounding_of_the_luma() -> None:
    host, device = both(pictures(smooth=False), AugmentationConfig(grayscale=1.0), 0)
    assert np.abs(host.astype(int) - device).max() <= 1 and (np.ptp(device, axis=-1) == 0).all()


@pytest.mark.parametrize(
    "config",
    [
        AugmentationConfig(saturation=(0.5, 1.5), hue_deg=(-36, 36)),
        AugmentationConfig(camera_saturation=(0, 3), camera_hue_deg=(-180, 180), grayscale=0.5, flip=0.5, grid_mask=0.5),
        AugmentationConfig(
            camera_saturation=(0.5, 1.5), camera_hue_deg=(-36, 36), camera_contrast=(0.5, 1.5), camera_brightness=(-32, 32),
            camera_drop=0.5,
        ),
    ],
)  # fmt: skip
def test_colours_are_the_same_up_to_their_rounding(config: AugmentationConfig) -> None:
    images = pictures(smooth=False)
    for seed in range(5):
        host, device = both(images, config, seed)
        difference = np.abs(host.astype(int) - device)
        assert difference.max() <= 1 and difference.mean() < 0.1
        assert np.abs(host.astype(int) - images).mean() > 5  # so it is of colours that were changed


@pytest.mark.parametrize(
    "config",
    [
        AugmentationConfig(image_scale=(0.8, 1.25)),
        AugmentationConfig(image_rotation_deg=(-30, 30)),
        AugmentationConfig(image_shift=(-0.2, 0.2)),
        AugmentationConfig(
            flip=0.5, image_scale=(0.9, 1.1), image_rotation_deg=(-5, 5), image_shift=(-0.1, 0.1), brightness=(-30, 30),
            contrast=(0.8, 1.2), grayscale=0.5, camera_drop=0.2,
        ),
        AugmentationConfig(
            image_scale=(0.9, 1.1), camera_saturation=(0.5, 1.5), camera_hue_deg=(-36, 36), camera_contrast=(0.8, 1.2)
        ),
    ],
)  # fmt: skip
def test_what_interpolates_is_the_same_within_its_rounding(config: AugmentationConfig) -> None:
    """OpenCV takes source pixels to 1/32: on pictures without sharp edges that is a grey level or two, but at the black border."""
    for seed in range(5):
        host, device = both(pictures(), config, seed)
        difference = np.abs(host.astype(int) - device)
        assert np.percentile(difference, 99) <= 3 and difference.mean() < 0.6


@pytest.fixture
def cache(tmp_path) -> ImageCache:
    path = Path(tmp_path) / "x.images"
    path.write_bytes(pictures().tobytes() + np.zeros((2, 3, 3, 3)).tobytes())
    return ImageCache(path, SHAPE)


def test_a_batch_is_gathered_by_index(cache) -> None:
    still = draw_augmentation(AugmentationConfig(), np.ones(3, bool), SIZE, np.random.default_rng(0)).pixels
    change = PixelChange(*(_stack([value] * 3) for value in still))
    images = DeviceImages(cache, torch.device("cpu")).gather(torch.tensor([1, 0, 1]), change)
    assert images.dtype == torch.uint8 and np.array_equal(images.numpy(), pictures()[[1, 0, 1]])


def test_images_that_do_not_fit_the_gpu_are_told(cache, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1 << 30, 2 << 30))
    with pytest.raises(UserError, match=r"--dataset-on-device: the images take 0\.0 GB.*1\.1 GB of the GPU are free"):
        DeviceImages(cache, torch.device("cuda"))
