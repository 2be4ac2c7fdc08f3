"""The LiDAR teacher, trained: it finds a box, and the same verbs train, resume, validate and evaluate it."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bevdistill_ros.checkpoint import load_checkpoint
from bevdistill_ros.cli import main
from bevdistill_ros.config import PillarsConfig, SecondConfig
from bevdistill_ros.geometry import BevGrid, Boxes, make_transform, rotation_z, transform_points
from bevdistill_ros.paths import share_directory
from bevdistill_ros.training.config import load_config
from bevdistill_ros.training.module import DetectionModule
from bevdistill_ros.training.pictures import POINT_GREY, draw_points

TEACHER = share_directory() / "config" / "models" / "teacher_nano.yaml"

SMALL = [
    "model.grid.cell=3.2", "model.pillars={cell: 1.6, channels: [8]}", "model.head.channels=16",
    "model.second={strides: [2, 2], layers: [1, 1], channels: [16, 16], channels_out: 16}", "training.batch_size=2",
    "training.warmup_steps=1", "training.learning_rate=4e-3",
]  # fmt: skip


def scene(rng: np.random.Generator) -> tuple[torch.Tensor, Boxes]:
    """Ground, clutter, and a car somewhere whose sides have echoes."""
    ground = np.column_stack([rng.uniform(-16, 16, (800, 2)), rng.normal(0, 0.02, 800)])
    pole = np.column_stack([rng.uniform(-15, 15, 2) + rng.normal(0, 0.1, (30, 2)), rng.uniform(0, 3, 30)])
    yaw, size = rng.uniform(-math.pi / 2, math.pi / 2), np.array([4.4, 1.8, 1.6])
    center = np.array([*rng.uniform(-12, 12, 2), 0.8])
    faces = rng.uniform(-0.5, 0.5, (150, 3))
    faces[np.arange(150), rng.integers(0, 2, 150)] = rng.choice([-0.5, 0.5], 150)
    car = transform_points(make_transform(rotation_z(yaw), center), faces * size)
    xyz = np.concatenate([ground, pole, car])
    points = np.column_stack([xyz, np.full(len(xyz), 50.0), np.zeros(len(xyz))])
    boxes = Boxes(center[None], size[None], [yaw], [[0.0, 0.0]], [1.0], [0], load_config(TEACHER).model.classes)
    return torch.from_numpy(points).float(), boxes


def test_a_box_is_found_where_its_points_are() -> None:
    """Learnt on random scenes, found in others: nothing to know by heart."""
    config = load_config(TEACHER)
    model = replace(
        config.model,
        grid=BevGrid(-16.0, 16.0, -16.0, 16.0, 1.6),
        pillars=PillarsConfig(cell=0.8, channels=(16,)),
        second=SecondConfig((2, 2), (2, 2), (24, 32), 32),
        head=replace(config.model.head, channels=32),
    )
    torch.manual_seed(0)
    module = DetectionModule(replace(config, model=model))
    optimizer = torch.optim.AdamW(module.network.parameters(), 4e-3)
    rng = np.random.default_rng(0)
    for _ in range(80):
        points, boxes = zip(*(scene(rng) for _ in range(4)), strict=True)
        optimizer.zero_grad()
        sum(module.losses({"points": points, "boxes": list(boxes), "doubtful": []}).values()).backward()
        optimizer.step()
    network = module.network.eval()
    errors = []
    for _ in range(20):
        points, truth = scene(rng)
        with torch.no_grad():
            (found,) = network.decode(network([points]))
        assert found.names[0] == "car"
        errors.append(float(np.linalg.norm(found.centers[0] - truth.centers[0])))
    assert np.median(errors) < 0.5 and np.mean(np.array(errors) < 1.0) >= 0.9


def train(data, output, steps: int, *more: str) -> int:
    config = [] if "--resume" in more else ["--config", "teacher_nano"]
    overrides = [f"--set={o}" for o in (*SMALL, f"training.steps={steps}")]
    common = ["--data", str(data), "--version", "v1.0-mini", "--output", str(output), "--device", "cpu"]
    return main(["train", *config, *common, *overrides, *more])


def test_the_same_verbs_train_resume_validate_and_evaluate_it(tiny_nuscenes, tmp_path, capsys) -> None:
    options = [
        "--split=mini_train",
        "--val-split=mini_val",
        "--set=training.pictures_every=2",
        "--set=training.log_every=1",
    ]
    assert train(tiny_nuscenes, tmp_path / "whole", 4, *options) == 0
    assert "step 4: mAP " in capsys.readouterr().err
    assert train(tiny_nuscenes, tmp_path / "parts", 2, *options, "--set=training.schedule=constant") == 0
    assert train(tiny_nuscenes, tmp_path / "whole_constant", 4, *options, "--set=training.schedule=constant") == 0
    again = ["--split=mini_train", "--val-split=mini_val", "--set=training.schedule=constant"]
    assert train(tiny_nuscenes, tmp_path / "parts", 4, "--resume", *again) == 0
    whole, parts = (load_checkpoint(tmp_path / run / "model.safetensors") for run in ("whole_constant", "parts"))
    assert all(torch.allclose(whole.state[name], parts.state[name], atol=1e-6) for name in whole.state)
    assert whole.config == parts.config and whole.config.name == "teacher_nano" and whole.cameras[0] == "CAM_FRONT"
    events = EventAccumulator(str(tmp_path / "whole" / "log"))
    events.Reload()
    picture = cv2.imdecode(np.frombuffer(events.Images("sample")[0].encoded_image_string, np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == (800, 800, 3) and picture.std() > 5

    capsys.readouterr()
    checkpoint, file, pictures = (
        tmp_path / "whole" / "model.safetensors",
        tmp_path / "figures.json",
        tmp_path / "pictures",
    )
    data = ["--data", str(tiny_nuscenes), "--split", "mini_val", "--device", "cpu"]
    more = ["--rig-yaw-deg", "0", "90", "--json", str(file), "--pictures", str(pictures), "--pictures-every", "4"]
    assert main(["evaluate", str(checkpoint), *data, *more]) == 0
    report = json.loads(file.read_text())
    assert report["complete"] and [run["samples"] for run in report["checkpoints"][0]["runs"]] == [4, 4]
    assert all(cv2.imread(str(path)).shape == (800, 800, 3) for path in pictures.iterdir())


def test_points_are_drawn_where_they_are() -> None:
    """Of a map 40 m high and 20 m wide in 400 x 200 pixels: x forward is up, y left is left."""
    picture = np.zeros((400, 200, 3), np.uint8)
    picture[0, 0] = 200
    points = np.zeros((6, 5), np.float32)
    points[:, :2] = [[19.96, 9.96], [-19.96, -9.96], [0.04, 0.04], [30, 0], [0, 10.2], [math.nan, 0]]
    draw_points(picture, points, (-20.0, 20.0, -10.0, 10.0))
    assert np.argwhere(picture[..., 0]).tolist() == [[0, 0], [199, 99], [399, 199]]
    assert picture[0, 0, 0] == 200 and picture[199, 99, 0] == POINT_GREY  # never darker


def test_options_for_images_are_refused(tiny_nuscenes, tmp_path, capsys) -> None:
    for option in ("--cache-images", "--dataset-on-device", "--black-images"):
        assert train(tiny_nuscenes, tmp_path / "run", 1, option) == 1
        assert f"{option}: teacher_nano is a LiDAR model, which sees no images" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert train(tiny_nuscenes, tmp_path / "run", 1) == 0
    checkpoint = tmp_path / "run" / "model.safetensors"
    for option in (["--black-images"], ["--drop-cameras", "CAM_BACK"]):
        assert main(["evaluate", str(checkpoint), "--data", str(tiny_nuscenes), *option]) == 1
        assert f"{option[0]}: {checkpoint} holds a LiDAR model" in capsys.readouterr().err


def test_a_bad_file_is_one_line_from_a_worker_too(tiny_nuscenes, tmp_path, capsys) -> None:
    root = tmp_path / "data"
    shutil.copytree(tiny_nuscenes, root)
    for file in (root / "samples" / "LIDAR_TOP").iterdir():
        file.write_bytes(b"hi")
    assert train(root, tmp_path / "run", 1, "--set=training.workers=1") == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "LIDAR_TOP" in errors[0] and "2 bytes" in errors[0]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_it_learns_in_either_precision(tiny_nuscenes, tmp_path, precision: str) -> None:
    options = [f"--set=training.precision={precision}", "--set=training.augmentation={}", "--set=training.log_every=1"]
    assert train(tiny_nuscenes, tmp_path / "run", 40, "--split=mini_train", *options) == 0
    events = EventAccumulator(str(tmp_path / "run" / "log"))
    events.Reload()
    losses = [event.value for event in events.Scalars("loss")]
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:3])
