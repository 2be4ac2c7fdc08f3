"""Fixtures that several test modules share."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest

from bevdistill_ros.geometry import make_transform, quaternion_from_rotation, rotation_z

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def load_benchmark() -> Callable[[str], ModuleType]:
    """``load_benchmark(name)``: the program of that name in benchmark/, which is no package, as a module."""

    def load(name: str) -> ModuleType:
        folder = REPOSITORY / "benchmark"
        sys.path.insert(0, str(folder))  # its programs import one another
        try:
            spec = importlib.util.spec_from_file_location(f"benchmark_{name}", folder / f"{name}.py")
            module = importlib.util.module_from_spec(spec)
            sys.modules[spec.name] = module  # dataclasses look their module up
            spec.loader.exec_module(module)
        finally:
            sys.path.remove(str(folder))
        return module

    return load


@pytest.fixture(scope="session")
def keyframe_root() -> Path:
    """Root of the real nuScenes keyframe; tests that ask for it are skipped where it is not there."""
    root = Path(os.environ.get("BEVDISTILL_KEYFRAME", REPOSITORY.parent / "shared" / "nuscenes_keyframe"))
    if not (root / "v1.0-mini" / "sample.json").is_file():
        pytest.skip(f"no real nuScenes keyframe at {root}; BEVDISTILL_KEYFRAME names its root")
    return root


@pytest.fixture(scope="session")
def tiny_nuscenes(tmp_path_factory) -> Path:
    """Root of a small synthetic v1.0-mini, the same in every run. Read it only: all tests share it.

    Two scenes (scene-0061 of mini_train, scene-0103 of mini_val) of four samples, 0.5 s apart. Six cameras of 160x90
    (JPEG noise) that fire up to 42 ms before the sample, LIDAR_TOP at it; an ego that drives a curve at 5 m/s. Tracks
    with constant velocity in all ten detection classes and attributes where nuScenes has them, one track of a single
    sample (no velocity), a box without LiDAR points and one far away (both outside of the evaluation), a category that
    is no detection class.
    """
    root = tmp_path_factory.mktemp("tiny_nuscenes")
    _write_tiny_nuscenes(root)
    return root


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory) -> Path:
    """A checkpoint file of random weights for the six cameras of ``tiny_nuscenes``; it runs in milliseconds."""
    import torch

    from bevdistill_ros.checkpoint import Checkpoint, save_checkpoint
    from bevdistill_ros.config import CLASS_NAMES, ModelConfig
    from bevdistill_ros.models.lss import LSS
    from bevdistill_ros.plain_data import from_dict

    config = from_dict(
        ModelConfig,
        {
            "name": "tiny",
            "classes": CLASS_NAMES,
            "image": {"height": 32, "width": 64},
            "grid": {"x_min": -51.2, "x_max": 51.2, "y_min": -51.2, "y_max": 51.2, "cell": 3.2},
            "backbone": {"depth": 18, "width": 8},
            "lift": {"stride": 8, "bins": 16, "channels": 8, "neck_channels": 8},
            "bev": {"channels": 8, "halvings": 1, "blocks": 1},
            "head": {
                "channels": 8,
                "groups": [CLASS_NAMES],
                "suppression": {name: {} for name in CLASS_NAMES},
                "max_boxes": 100,
            },
        },
        "tiny",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = LSS(config)
    path = tmp_path_factory.mktemp("tiny_checkpoint") / "model.safetensors"
    save_checkpoint(path, Checkpoint(config, network.state_dict(), tuple(TINY_CAMERAS), {}))
    return path


# Channel: (yaw of the optical axis in degrees, position in the base frame in m, microseconds before the sample)
TINY_CAMERAS = {
    "CAM_FRONT": (0.0, (1.7, 0.0, 1.5), 35_000),
    "CAM_FRONT_RIGHT": (-55.0, (1.6, -0.5, 1.5), 28_000),
    "CAM_BACK_RIGHT": (-110.0, (1.0, -0.5, 1.6), 20_000),
    "CAM_BACK": (180.0, (0.0, 0.0, 1.6), 10_000),
    "CAM_BACK_LEFT": (110.0, (1.0, 0.5, 1.6), 500),
    "CAM_FRONT_LEFT": (55.0, (1.5, 0.5, 1.5), 42_000),
}

# Category, attribute, (x, y) in the first ego frame, yaw, speed (m/s), size (width, length, height), LiDAR points,
# samples
TINY_TRACKS = [
    ("vehicle.car", "vehicle.moving", (15.0, 3.0), 0.1, 4.0, (1.9, 4.6, 1.6), 50, 4),
    ("vehicle.car", "vehicle.parked", (8.0, -6.0), 1.5, 0.0, (1.8, 4.4, 1.5), 40, 4),
    ("vehicle.truck", "vehicle.moving", (-18.0, 4.0), 0.0, 3.0, (2.5, 7.0, 2.8), 30, 4),
    ("vehicle.bus.rigid", "vehicle.stopped", (25.0, 10.0), -0.4, 0.0, (2.9, 11.0, 3.4), 30, 4),
    ("vehicle.trailer", "vehicle.parked", (-20.0, -12.0), 2.5, 0.0, (2.5, 10.0, 3.5), 30, 4),
    ("vehicle.construction", "vehicle.parked", (12.0, 18.0), 0.7, 0.0, (2.8, 6.5, 3.2), 20, 4),
    ("human.pedestrian.adult", "pedestrian.moving", (10.0, 5.0), 1.6, 1.3, (0.6, 0.7, 1.75), 9, 4),
    ("human.pedestrian.child", "pedestrian.standing", (6.0, 4.0), -2.0, 0.0, (0.5, 0.5, 1.2), 8, 1),
    ("vehicle.motorcycle", "cycle.with_rider", (20.0, -3.0), 3.0, 5.0, (0.8, 2.1, 1.5), 12, 4),
    ("vehicle.bicycle", "cycle.without_rider", (5.0, 8.0), 0.9, 0.0, (0.6, 1.7, 1.2), 7, 4),
    ("movable_object.trafficcone", None, (7.0, -2.0), 0.0, 0.0, (0.4, 0.4, 1.0), 6, 4),
    ("movable_object.barrier", None, (9.0, 2.0), 1.57, 0.0, (2.5, 0.5, 1.0), 15, 4),
    ("vehicle.car", "vehicle.parked", (-10.0, 9.0), 0.0, 0.0, (1.9, 4.5, 1.6), 0, 4),
    ("vehicle.car", "vehicle.parked", (75.0, 0.0), 0.0, 0.0, (1.9, 4.5, 1.6), 3, 4),
    ("animal", None, (4.0, -8.0), 0.0, 0.0, (0.3, 0.6, 0.5), 5, 4),
]


def _token(*parts: object) -> str:
    return hashlib.md5("/".join(map(str, parts)).encode()).hexdigest()


def _wxyz(rotation: np.ndarray) -> list[float]:
    x, y, z, w = quaternion_from_rotation(rotation)
    return [float(w), float(x), float(y), float(z)]


def _write_tiny_nuscenes(root: Path) -> None:
    rng = np.random.default_rng(0)
    names = (
        "category", "attribute", "visibility", "instance", "sensor", "calibrated_sensor", "ego_pose", "log", "scene",
        "sample", "sample_data", "sample_annotation", "map",
    )  # fmt: skip
    tables: dict[str, list[dict]] = {name: [] for name in names}
    for index, name in enumerate(dict.fromkeys(track[0] for track in TINY_TRACKS)):
        tables["category"].append({"token": _token("category", name), "name": name, "description": "", "index": index})
    for name in dict.fromkeys(track[1] for track in TINY_TRACKS if track[1]):
        tables["attribute"].append({"token": _token("attribute", name), "name": name, "description": ""})
    for index, level in enumerate(("v0-40", "v40-60", "v60-80", "v80-100"), start=1):
        tables["visibility"].append({"token": str(index), "level": level, "description": ""})

    # x right, y down, z forward, for a camera that looks along the base frame's x
    optical = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
    mounts = {
        name: (rotation_z(np.radians(yaw)) @ optical, position) for name, (yaw, position, _) in TINY_CAMERAS.items()
    }
    mounts["LIDAR_TOP"] = (rotation_z(-np.pi / 2), (0.9, 0.0, 1.8))
    for channel, (rotation, position) in mounts.items():
        is_camera = channel in TINY_CAMERAS
        focal = 70.0 if channel == "CAM_BACK" else 110.0
        tables["sensor"].append(
            {"token": _token("sensor", channel), "channel": channel, "modality": "camera" if is_camera else "lidar"}
        )
        tables["calibrated_sensor"].append(
            {
                "token": _token("calibration", channel),
                "sensor_token": _token("sensor", channel),
                "translation": list(position),
                "rotation": _wxyz(rotation),
                "camera_intrinsic": [[focal, 0.0, 79.5], [0.0, focal, 48.0], [0.0, 0.0, 1.0]] if is_camera else [],
            }
        )
        (root / "samples" / channel).mkdir(parents=True)
    for number, scene in enumerate(("scene-0061", "scene-0103")):
        _write_tiny_scene(
            root, tables, rng, scene, start=1_600_000_000_000_000 + number * 60_000_000, heading=0.3 + number
        )

    (root / "maps").mkdir()
    cv2.imwrite(str(root / "maps" / "tiny.png"), np.zeros((8, 8), np.uint8))
    logs = [log["token"] for log in tables["log"]]
    tables["map"].append(
        {"token": _token("map"), "log_tokens": logs, "category": "semantic_prior", "filename": "maps/tiny.png"}
    )
    (root / "v1.0-mini").mkdir()
    for name, rows in tables.items():
        (root / "v1.0-mini" / f"{name}.json").write_text(json.dumps(rows, indent=1))


def _write_tiny_scene(
    root: Path, tables: dict, rng: np.random.Generator, scene: str, start: int, heading: float
) -> None:
    count, period = 4, 500_000
    speed, yaw_rate = 5.0, 0.15

    def global_T_ego(timestamp: int) -> np.ndarray:
        t = (timestamp - start) * 1e-6
        turned = heading + yaw_rate * t
        x = speed / yaw_rate * (np.sin(turned) - np.sin(heading))
        y = -speed / yaw_rate * (np.cos(turned) - np.cos(heading))
        return make_transform(rotation_z(turned), (600.0 + x, 1600.0 + y, 0.0))

    samples = [_token(scene, "sample", i) for i in range(count)]
    tables["log"].append(
        {
            "token": _token(scene, "log"),
            "logfile": scene,
            "vehicle": "tiny",
            "date_captured": "2020-09-13",
            "location": "nowhere",
        }
    )
    tables["scene"].append(
        {"token": _token(scene), "log_token": _token(scene, "log"), "nbr_samples": count, "name": scene,
         "first_sample_token": samples[0], "last_sample_token": samples[-1], "description": "synthetic"}
    )  # fmt: skip

    def neighbours(tokens: list[str], i: int) -> dict[str, str]:
        return {"prev": tokens[i - 1] if i else "", "next": tokens[i + 1] if i + 1 < len(tokens) else ""}

    for i, sample in enumerate(samples):
        timestamp = start + i * period
        tables["sample"].append(
            {"token": sample, "timestamp": timestamp, "scene_token": _token(scene), **neighbours(samples, i)}
        )
        for channel in [*TINY_CAMERAS, "LIDAR_TOP"]:
            is_camera = channel in TINY_CAMERAS
            stamp = timestamp - (TINY_CAMERAS[channel][2] if is_camera else 0)
            filename = f"samples/{channel}/{scene}__{channel}__{stamp}" + (".jpg" if is_camera else ".pcd.bin")
            if is_camera:
                coarse = rng.integers(0, 256, (9, 16, 3), dtype=np.uint8)
                cv2.imwrite(str(root / filename), cv2.resize(coarse, (160, 90), interpolation=cv2.INTER_LINEAR))
            else:
                points = np.concatenate(
                    [rng.uniform((-40, -40, -2, 0), (40, 40, 2, 255), (500, 4)), rng.integers(0, 32, (500, 1))], axis=1
                )
                points.astype(np.float32).tofile(root / filename)
            pose = global_T_ego(stamp)
            token = _token(scene, channel, i)
            tables["ego_pose"].append(
                {
                    "token": token,
                    "timestamp": stamp,
                    "rotation": _wxyz(pose[:3, :3]),
                    "translation": pose[:3, 3].tolist(),
                }
            )
            tables["sample_data"].append(
                {"token": token, "sample_token": sample, "ego_pose_token": token, "timestamp": stamp,
                 "calibrated_sensor_token": _token("calibration", channel), "filename": filename,
                 "fileformat": "jpg" if is_camera else "pcd", "is_key_frame": True,
                 "width": 160 if is_camera else 0, "height": 90 if is_camera else 0,
                 **neighbours([_token(scene, channel, j) for j in range(count)], i)}
            )  # fmt: skip

    first = global_T_ego(start)
    for track, (category, attribute, xy, yaw, speed_over_ground, size, points, length) in enumerate(TINY_TRACKS):
        tokens = [_token(scene, "annotation", track, i) for i in range(length)]
        tables["instance"].append(
            {"token": _token(scene, "instance", track), "category_token": _token("category", category),
             "nbr_annotations": length, "first_annotation_token": tokens[0], "last_annotation_token": tokens[-1]}
        )  # fmt: skip
        rotation = first[:3, :3] @ rotation_z(yaw)
        for i, token in enumerate(tokens):
            origin = (first @ np.array([*xy, size[2] / 2, 1.0]))[:3]
            center = origin + rotation[:, 0] * speed_over_ground * i * period * 1e-6
            tables["sample_annotation"].append(
                {"token": token, "sample_token": samples[i], "instance_token": _token(scene, "instance", track),
                 "attribute_tokens": [_token("attribute", attribute)] if attribute else [], "visibility_token": "4",
                 "translation": center.tolist(), "size": list(size), "rotation": _wxyz(rotation),
                 "num_lidar_pts": points, "num_radar_pts": 0, **neighbours(tokens, i)}
            )  # fmt: skip
