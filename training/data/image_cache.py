"""Preprocessed images of a list of samples in one memory-mapped file, shared by all loader processes and by later trainings.

The file's name is a digest of everything that makes its pixels: the preprocessing and its code, calibrations, and each picture
file's name, size and time. What has changed therefore has another name, and nothing stale is ever read.

Layout of NAME.images: uint8 (samples, cameras, height, width, 3), then float64 (samples, cameras, 3, 3), the images' K. It is
filled as NAME.partial, with a byte a sample in NAME.done, and renamed when complete; an interrupted filling goes on where it was.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from bevdistill_ros import geometry, preprocess
from bevdistill_ros.errors import UserError
from bevdistill_ros.hardware import available_cores
from bevdistill_ros.training.data.nuscenes import NuScenesSamples

CHUNK = 64
"""Samples written between two marks of progress, each of which waits for the disk."""


class ImageCache:
    """A complete file, opened: ``images`` (samples, N, H, W, 3) uint8 and ``K`` (samples, N, 3, 3) float64, read-only.

    Copies in other processes map the file again, so that the pixels are in memory once.
    """

    def __init__(self, path: Path, shape: tuple[int, int, int, int, int]) -> None:
        self.path, self.shape = path, shape
        self.images = np.memmap(path, np.uint8, "r", 0, shape)
        self.K = np.memmap(path, np.float64, "r", _offset_of_K(shape), (*shape[:2], 3, 3))

    def __reduce__(self) -> tuple:
        return ImageCache, (self.path, self.shape)


def open_image_cache(samples: NuScenesSamples, folder: Path, threads: int | None = None) -> ImageCache:
    """The cache of ``samples`` in ``folder``, filled first where it is not yet complete, with a progress bar.

    Another process that needs the same one waits until it is filled.

    Args:
        threads: that decode; None: as many as this process may use cores.

    Raises:
        UserError: a picture cannot be read, or the disk is full.
        OSError: the folder cannot be written; ``filename`` names it.
    """
    config = samples.preprocessor.config
    shape = (len(samples), len(samples.cameras), config.height, config.width, 3)
    name = _digest(samples)
    complete = folder / f"{name}.images"
    if not _is_complete(complete, shape):
        folder.mkdir(parents=True, exist_ok=True)
        with _only_one(folder / f"{name}.lock"):
            if not _is_complete(complete, shape):
                _fill(samples, shape, folder / name, threads or available_cores())
    return ImageCache(complete, shape)


def _offset_of_K(shape: tuple[int, ...]) -> int:
    """First byte of K: after the pixels, at a multiple of 8."""
    return -(-int(np.prod(shape)) // 8) * 8


def _size(shape: tuple[int, ...]) -> int:
    return _offset_of_K(shape) + shape[0] * shape[1] * 9 * 8


def _is_complete(path: Path, shape: tuple[int, ...]) -> bool:
    return path.is_file() and path.stat().st_size == _size(shape)


def _digest(samples: NuScenesSamples) -> str:
    """Name of the cache: whatever changes the pixels, their order or their layout changes it."""
    digest = hashlib.sha256()

    def add(value: object) -> None:
        digest.update(json.dumps(value).encode() + b"\n")

    add([asdict(samples.preprocessor.config), samples.cameras, cv2.__version__])
    for module in (preprocess, geometry):
        digest.update(Path(module.__file__).read_bytes())
    for index in range(len(samples)):
        for camera, record in samples.records(index).items():
            calibration = samples.camera(record)
            path = samples.image_path(record)
            try:
                status = path.stat()
            except OSError as error:
                raise UserError(f"{path}: cannot be read ({error.strerror})") from None
            add([index, camera, record["filename"], status.st_size, status.st_mtime_ns])
            add([calibration.K.tolist(), calibration.width, calibration.height])
    return digest.hexdigest()[:32]


@contextmanager
def _only_one(path: Path) -> Iterator[None]:
    """Hold a lock that the system releases however this process ends."""
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{path.parent}: another process fills the image cache, waiting for it", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fill(samples: NuScenesSamples, shape: tuple[int, int, int, int, int], stem: Path, threads: int) -> None:
    """Make STEM.images, going on with what an interrupted run left."""
    partial, marks = stem.with_suffix(".partial"), stem.with_suffix(".done")
    done = np.zeros(shape[0], np.uint8)
    if partial.is_file() and partial.stat().st_size == _size(shape) and marks.is_file():
        found = np.frombuffer(marks.read_bytes(), np.uint8)
        done = found.copy() if found.shape == done.shape else done
    else:
        marks.unlink(missing_ok=True)
        partial.unlink(missing_ok=True)
    try:
        with open(os.open(partial, os.O_RDWR | os.O_CREAT, 0o644), "r+b", buffering=0) as file:
            _reserve(file.fileno(), _size(shape))
            _fill_file(samples, shape, file.fileno(), marks, done, threads)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            error.filename = error.filename or str(partial)
            raise
        if not done.any():
            partial.unlink(missing_ok=True)
        raise UserError(
            f"{stem.parent}: the disk is full; the images of these {shape[0]} samples need {_size(shape) / 1e9:.1f} GB: "
            "free some, name another folder with --cache-images DIR, or train without"
        ) from None
    os.replace(partial, stem.with_suffix(".images"))
    marks.unlink(missing_ok=True)


def _reserve(file: int, size: int) -> None:
    """Take the whole space now: a full disk is told before the work, not after it."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
    else:
        os.ftruncate(file, size)


def _fill_file(
    samples: NuScenesSamples, shape: tuple[int, ...], file: int, marks: Path, done: np.ndarray, threads: int
) -> None:
    """Write every sample that is not marked in ``done``; pixels are on the disk before their mark is."""
    pixels, K = int(np.prod(shape[1:])), shape[1] * 9 * 8

    def write(index: int) -> None:
        _write_at(file, samples.images(index), index * pixels)
        _write_at(file, samples.intrinsics(index), _offset_of_K(shape) + index * K)

    missing = np.flatnonzero(done == 0)
    # Threads do: decoding and writing run outside of Python's lock.
    with (
        tqdm(
            desc="caching images", total=shape[0], initial=shape[0] - len(missing), unit="sample", disable=None
        ) as bar,
        ThreadPoolExecutor(threads) as pool,
        open(marks, "wb", buffering=0) as marked,
    ):
        marked.write(done.tobytes())
        for start in range(0, len(missing), CHUNK):
            chunk = missing[start : start + CHUNK]
            for _ in pool.map(write, chunk.tolist()):
                bar.update()
            os.fsync(file)
            done[chunk] = 1
            _write_at(marked.fileno(), done, 0)


def _write_at(file: int, array: np.ndarray, offset: int) -> None:
    """Write all of an array: the system may take less at a time, as when the disk becomes full."""
    content = memoryview(np.ascontiguousarray(array)).cast("B")
    while content:
        written = os.pwrite(file, content, offset)
        content, offset = content[written:], offset + written
