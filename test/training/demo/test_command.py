"""The verb `demo` as users run it, but for the drive, which is drawn by hand: real processes, over DDS."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import cv2
import fake_drive
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("rosbags")

from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from bevdistill_ros.errors import UserError
from bevdistill_ros.training.demo import make, run
from bevdistill_ros.training.demo.command import main

SHORT = ("--duration", "1", "--image-width", "160", "--score", "0", "--device", "cpu")


def demo(output: Path, *options: object, backend=fake_drive.no_backend) -> int:
    return main(["--output", str(output), *SHORT, *map(str, options)], fake_drive.simulate, backend)


def contents(bag: Path) -> dict[str, list[tuple[int, bytes]]]:
    with Reader(bag) as reader:
        found = {connection.topic: [] for connection in reader.connections}
        for connection, stamp, data in reader.messages():
            found[connection.topic].append((stamp, bytes(data)))
    return found


def test_a_drive_becomes_pictures_a_bag_and_figures(tmp_path, tiny_checkpoint, capsys, monkeypatch):
    monkeypatch.setenv("ROS_DOMAIN_ID", "60")
    before = dict(os.environ)
    assert demo(tmp_path, "--model", tiny_checkpoint, "--json", tmp_path / "copy.json") == 0
    assert dict(os.environ) == before
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary == json.loads((tmp_path / "copy.json").read_text())
    drive, result = contents(tmp_path / "bags" / "demo-0-0000"), contents(tmp_path / "result_bag")

    # What was played, and what came of it.
    assert summary["frames"] == len(drive["/cam_front/image_raw/compressed"]) == 18
    assert 1 <= summary["sets"] <= summary["frames"] and summary["failed_sets"] == 0
    assert summary["sets"] + summary["superseded_sets"] <= summary["frames"]
    assert summary["latency_ms"]["total"]["p50"] <= summary["latency_ms"]["total"]["p99"]
    assert summary["latency_ms"]["end_to_end"]["p50"] <= summary["latency_ms"]["end_to_end"]["p99"]
    assert summary["ap_2m"]["car"] is not None and summary["ap_2m"]["bus"] is None
    assert summary["detections"] > 0 and summary["model"]["name"] == str(tiny_checkpoint)
    assert set(summary["seconds"]) == {"drive", "start", "play", "bag", "figures", "total"}
    assert f"{summary['sets']} sets of 18 frames" in capsys.readouterr().out

    # The bag: all of the drive as it was, and the detector's messages, which anybody can read.
    assert all(result[topic] == messages for topic, messages in drive.items())
    own = {topic for topic in result if topic not in drive}
    assert own == {f"/bevdistill_detector/{name}" for name in ("detections", "objects", "labels", "markers", "status")}
    assert len(result["/bevdistill_detector/objects"]) == summary["sets"]
    ((labels_at, _),) = result["/bevdistill_detector/labels"]
    times = [at for messages in drive.values() for at, _ in messages]
    started, ended = min(times), max(times) + 10 * 10**9
    assert labels_at == started  # sent before there was a clock
    store = get_typestore(Stores.EMPTY)
    with Reader(tmp_path / "result_bag") as reader:
        connection = next(c for c in reader.connections if c.topic == "/bevdistill_detector/objects")
        store.register(get_types_from_msg(connection.msgdef.data, connection.msgtype))
        for stamp, data in result[connection.topic]:
            message = store.deserialize_cdr(data, connection.msgtype)
            t_ref = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
            assert t_ref in {at for at, _ in drive["/cam_front/image_raw/compressed"]}
            assert started <= stamp <= ended  # on the drive's clock, which may lag behind the images on a busy machine
            assert len(message.objects) > 0

    # A mosaic a keyframe.
    pictures = sorted((tmp_path / "pictures").iterdir())
    assert len(pictures) == summary["keyframes"] == 3
    assert cv2.imread(str(pictures[0])).shape[1] > 640

    # Once more: the drive is kept, the rest made anew.
    assert demo(tmp_path, "--model", tiny_checkpoint, "--rate", 2) == 0
    assert "0 drives made, 1 kept" in capsys.readouterr().out
    again = json.loads((tmp_path / "summary.json").read_text())
    assert again["rate"] == 2 and again["frames"] == summary["frames"]


def test_a_detector_that_dies_is_an_error_with_its_last_words(tmp_path, tiny_checkpoint):
    with pytest.raises(UserError) as error:
        demo(tmp_path, "--model", tiny_checkpoint, "--device", "cuda:99", "--rate", 1)
    assert "the detector ended with exit status 1" in str(error.value) and "device 'cuda:99'" in str(error.value)
    assert not (tmp_path / "summary.json").exists()


def test_a_detector_that_is_not_ready_in_time_is_an_error_and_is_ended(tmp_path, tiny_checkpoint, monkeypatch):
    monkeypatch.setattr(run, "START_LIMIT_S", 0.0)
    with pytest.raises(UserError, match="the detector was not ready within 0 s; its log"):
        demo(tmp_path, "--model", tiny_checkpoint)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_being_told_to_end_runs_the_clean_up(monkeypatch, number):
    cleaned = []

    def pretend(*_: object) -> int:
        try:
            os.kill(os.getpid(), number)
            signal.pause()
        finally:
            cleaned.append(True)

    monkeypatch.setattr(make, "make_demo", pretend)
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as error:
        main([])
    assert cleaned and error.value.code == 128 + number and signal.getsignal(number) == before


def test_mistakes_are_told_before_anything_is_drawn(tmp_path, tiny_checkpoint):
    with pytest.raises(UserError, match="no shipped weights of this name"):
        demo(tmp_path, "--model", "nobody_ships_this")
    with pytest.raises(UserError, match="no such checkpoint file"):
        demo(tmp_path, "--model", tmp_path / "lost.safetensors")
    assert not list(tmp_path.iterdir())


def test_nothing_to_draw_with_is_told(tmp_path, tiny_checkpoint):
    def refuse() -> str:
        raise UserError("nothing can draw here")

    with pytest.raises(UserError, match="nothing can draw here"):
        demo(tmp_path, "--model", tiny_checkpoint, backend=refuse)


@pytest.mark.parametrize("options", [["--rate", "0"], ["--score", "1.1"], ["--seed", "-1"]])
def test_wrong_options_are_bad_usage(tmp_path, options):
    with pytest.raises(SystemExit) as error:
        demo(tmp_path, *options)
    assert error.value.code == 2
