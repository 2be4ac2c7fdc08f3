"""The image cache: the same pixels as without, filled once, never stale, whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import os
import pickle
import shutil
import threading
from dataclasses import replace

import cv2
import numpy as np
import pytest

from bevdistill_ros.config import CLASS_NAMES, ImageConfig
from bevdistill_ros.errors import UserError
from bevdistill_ros.preprocess import Preprocessor
from bevdistill_ros.training.data import image_cache
from bevdistill_ros.training.data.image_cache import open_image_cache
from bevdistill_ros.training.data.nuscenes import NuScenesSamples, choose_samples, open_nuscenes


@pytest.fixture(scope="module")
def nusc(tiny_nuscenes):
    return open_nuscenes(tiny_nuscenes)


def dataset(nusc, image: ImageConfig | None = None, split: str | None = None, cameras=None) -> NuScenesSamples:
    config = image or ImageConfig(32, 64)
    return NuScenesSamples(nusc, choose_samples(nusc, split), CLASS_NAMES, Preprocessor(config), cameras)


@pytest.fixture
def decoded(monkeypatch) -> list[int]:
    """A number for every picture that is decoded from now on."""
    calls: list[int] = []
    original = NuScenesSamples._image

    def counting(self, record):
        calls.append(len(calls))
        return original(self, record)

    monkeypatch.setattr(NuScenesSamples, "_image", counting)
    return calls


def names(folder) -> set[str]:
    return {path.suffix for path in folder.iterdir()}


def test_cached_samples_are_the_samples(nusc, tmp_path, decoded) -> None:
    plain = dataset(nusc)
    expected = [plain[i] for i in range(len(plain))]
    cached = plain.with_images(open_image_cache(dataset(nusc), tmp_path))
    count = len(decoded)
    for i, sample in enumerate(expected):
        found = cached[i]
        assert np.array_equal(found.images, sample.images) and np.array_equal(found.K, sample.K)
        assert np.array_equal(found.ego_T_cam, sample.ego_T_cam) and found.token == sample.token
        found.images[:] = 0  # a caller's own: the cache is not written to
        assert np.array_equal(cached.geometry(i).K, sample.K) and cached.geometry(i).images.size == 0
        assert np.array_equal(cached[i].images, sample.images)
    assert len(decoded) == count  # no picture was opened again
    # A second training finds it filled.
    again = plain.with_images(open_image_cache(dataset(nusc), tmp_path))
    assert len(decoded) == count and np.array_equal(again[3].images, expected[3].images)
    assert names(tmp_path) == {".images", ".lock"}


def test_a_missing_camera_is_black(nusc, tmp_path) -> None:
    plain = dataset(nusc)
    data = nusc.get("sample", plain.tokens[2])["data"]
    removed = data.pop("CAM_BACK")
    try:
        expected, found = plain[2], plain.with_images(open_image_cache(plain, tmp_path))[2]
    finally:
        data["CAM_BACK"] = removed
    assert np.array_equal(found.images, expected.images) and np.array_equal(found.mask, expected.mask)
    assert not found.images[~found.mask].any() and np.array_equal(found.K, expected.K)


def test_another_configuration_choice_or_picture_is_another_cache(tiny_nuscenes, tmp_path) -> None:
    root, folder = tmp_path / "data", tmp_path / "cache"
    shutil.copytree(tiny_nuscenes, root)
    nusc = open_nuscenes(root)
    variants = [
        dataset(nusc),
        dataset(nusc, ImageConfig(32, 96)),
        dataset(nusc, ImageConfig(32, 64, interpolation="nearest")),
        dataset(nusc, split="mini_val"),
        dataset(nusc, cameras=["CAM_BACK", "CAM_FRONT"]),
        dataset(nusc, cameras=["CAM_FRONT", "CAM_BACK"]),
    ]
    assert len({open_image_cache(samples, folder).path for samples in variants}) == len(variants)

    samples = dataset(nusc)
    before = open_image_cache(samples, folder)
    path = samples.image_path(samples.records(1)["CAM_FRONT"])
    status = path.stat()
    cv2.imwrite(str(path), np.full((90, 160, 3), 200, np.uint8))
    # Even one of the same size in bytes, at another time.
    path.write_bytes(path.read_bytes().ljust(status.st_size, b"\0")[: status.st_size])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000))
    after = open_image_cache(samples, folder)
    assert after.path != before.path and not np.array_equal(after.images[1, 0], before.images[1, 0])
    assert np.array_equal(after.images[1, 0], samples[1].images[0])
    # Another calibration with the same pictures.
    record = nusc.get("calibrated_sensor", samples.records(0)["CAM_FRONT"]["calibrated_sensor_token"])
    record["camera_intrinsic"][0][0] += 1.0
    assert open_image_cache(samples, folder).path != after.path


def test_an_interrupted_filling_goes_on_where_it_was(nusc, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(image_cache, "CHUNK", 2)
    samples, original, seen = dataset(nusc), NuScenesSamples.images, []

    def interrupted(self, index):
        seen.append(index)
        if len(seen) == 6:
            raise KeyboardInterrupt
        return original(self, index)

    with monkeypatch.context() as patch:
        patch.setattr(NuScenesSamples, "images", interrupted)
        with pytest.raises(KeyboardInterrupt):
            open_image_cache(samples, tmp_path, threads=1)
    assert names(tmp_path) == {".partial", ".done", ".lock"}

    def counted(self, index):
        seen.append(index)
        return original(self, index)

    seen.clear()
    with monkeypatch.context() as patch:
        patch.setattr(NuScenesSamples, "images", counted)
        cache = open_image_cache(samples, tmp_path, threads=1)
    assert seen == [4, 5, 6, 7]  # two chunks of two were finished
    assert all(np.array_equal(cache.images[i], samples[i].images) for i in range(len(samples)))
    assert names(tmp_path) == {".images", ".lock"}


def test_a_damaged_file_is_made_anew(nusc, tmp_path) -> None:
    samples = dataset(nusc)
    cache = open_image_cache(samples, tmp_path)
    expected = np.array(cache.images)
    os.truncate(cache.path, 1000)
    cache.path.with_suffix(".done").write_bytes(b"\1" * len(samples))  # marks without the file they are of
    assert np.array_equal(open_image_cache(samples, tmp_path).images, expected)


@pytest.mark.parametrize("call", ["posix_fallocate", "pwrite"])
def test_a_full_disk_is_one_clear_line(nusc, tmp_path, monkeypatch, call: str) -> None:
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(
            UserError, match=r"the disk is full; the images of these 8 samples need 0\.0 GB.*--cache-images DIR"
        ):
            open_image_cache(dataset(nusc), tmp_path)
    assert not list(tmp_path.glob("*.images")) and not list(tmp_path.glob("*.partial"))
    open_image_cache(dataset(nusc), tmp_path)


def test_a_bad_picture_is_named(tiny_nuscenes, tmp_path) -> None:
    root = tmp_path / "data"
    shutil.copytree(tiny_nuscenes, root)
    samples = dataset(open_nuscenes(root))
    path = samples.image_path(samples.records(5)["CAM_BACK"])
    path.write_bytes(b"hi")
    with pytest.raises(UserError, match=f"{path.name}.*can be decoded"):
        open_image_cache(samples, tmp_path / "cache")
    path.unlink()
    with pytest.raises(UserError, match=f"{path.name}: cannot be read"):
        open_image_cache(samples, tmp_path / "cache")


def test_a_second_process_waits_and_finds_it_filled(nusc, tmp_path, decoded, capsys, monkeypatch) -> None:
    samples = dataset(nusc)
    cache = open_image_cache(samples, tmp_path)
    hidden = cache.path.with_suffix(".hidden")
    os.rename(cache.path, hidden)  # as if still being filled by the one who holds the lock
    count, found, waits, original = len(decoded), [], threading.Event(), fcntl.flock

    def flock(file, operation):
        if operation == fcntl.LOCK_EX:  # the one that blocks
            waits.set()
        original(file, operation)

    with open(cache.path.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        monkeypatch.setattr(fcntl, "flock", flock)
        other = threading.Thread(target=lambda: found.append(open_image_cache(samples, tmp_path)))
        other.start()
        assert waits.wait(10) and not found
        os.rename(hidden, cache.path)
    other.join(10)
    assert not other.is_alive() and np.array_equal(found[0].images, cache.images) and len(decoded) == count
    assert "another process fills the image cache" in capsys.readouterr().err


def test_copies_for_other_processes_map_the_file(nusc, tmp_path) -> None:
    samples = dataset(nusc)
    cache = open_image_cache(samples, tmp_path)
    content = pickle.dumps(cache)
    assert len(content) < 2000 and np.array_equal(pickle.loads(content).images, cache.images)
    assert replace(samples.with_images(cache)[0]).images.flags.writeable
