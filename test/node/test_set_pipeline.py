"""One set from messages to boxes, without a node: what goes into the network, and what becomes of bad images."""

from __future__ import annotations

import array
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from geometry_msgs.msg import TransformStamped
from sensor_msgs.msg import CameraInfo, CompressedImage
from tf2_ros import Buffer

from bevdistill_ros.config import ImageConfig
from bevdistill_ros.geometry import Boxes, Camera, make_transform
from bevdistill_ros.node import diagnostics
from bevdistill_ros.node.calibration import CalibrationStore, FileCalibration, TransformSource
from bevdistill_ros.node.diagnostics import Health
from bevdistill_ros.node.messages import time_message
from bevdistill_ros.node.parameters import Settings
from bevdistill_ros.node.set_pipeline import SetPipeline
from bevdistill_ros.preprocess import Preprocessor
from bevdistill_ros.synchroniser import CameraSet

T0 = 1_600_000_000_000_000_000
CAMERAS = ("a", "b", "c")
HEIGHT, WIDTH = 8, 16
SCORES = (0.9, 0.6, 0.4)


class Detector:
    """Keeps what it is given and finds a car, a pedestrian and a car."""

    class_names = ("car", "pedestrian")
    config = SimpleNamespace(image=SimpleNamespace(height=HEIGHT, width=WIDTH))
    stage_times = {"network": 2.0, "decode": 1.0}  # noqa: RUF012

    def __init__(self) -> None:
        self.given: list[tuple] = []

    def preprocess(self, source, camera: Camera) -> tuple[np.ndarray, np.ndarray]:
        return Preprocessor(ImageConfig(HEIGHT, WIDTH))(source, camera)

    def __call__(self, images, K, ego_T_cam, mask, score_threshold: float) -> Boxes:
        self.given.append((images, K, ego_T_cam, mask, score_threshold))
        n = len(SCORES)
        return Boxes(
            np.zeros((n, 3)), np.ones((n, 3)), np.zeros(n), np.zeros((n, 2)), np.array(SCORES), np.array([0, 1, 0]),
            self.class_names,
        )  # fmt: skip


def jpeg(grey: int, width: int = WIDTH) -> bytes:
    return cv2.imencode(".jpg", np.full((HEIGHT, width, 3), grey, np.uint8))[1].tobytes()


def camera_set(**pictures: bytes) -> CameraSet:
    messages = {}
    for name, data in pictures.items():
        messages[name] = CompressedImage(format="jpeg", data=array.array("B", data))
        messages[name].header.stamp, messages[name].header.frame_id = time_message(T0), name
    return CameraSet(T0, messages, dict.fromkeys(messages, T0), CAMERAS)


def camera(focal: float) -> Camera:
    return Camera(K=np.array([[focal, 0, 8], [0, focal, 4], [0, 0, 1.0]]), width=WIDTH, height=HEIGHT)


FILE = {
    name: FileCalibration(camera(10.0 + i), make_transform(translation=(i, 0, 1))) for i, name in enumerate(CAMERAS)
}


@pytest.fixture
def bench():
    """``bench(calibration, buffer, **parameters)``: a pipeline with its detector and health."""
    with ThreadPoolExecutor(2) as pool:

        def make(calibration=None, buffer=None, **parameters) -> SimpleNamespace:
            settings = Settings(fixed_frame="", **parameters).for_cameras(CAMERAS)
            detector, health = Detector(), Health(lambda text, level: None)
            health.watch({name: (f"/{name}/image", "") for name in CAMERAS})
            pipeline = SetPipeline(
                settings,
                {name: f"/{name}/image" for name in CAMERAS},
                detector,
                calibration or CalibrationStore(FILE),
                TransformSource(buffer or Buffer(), "base_link", ""),
                health,
                pool,
            )
            run = lambda found, stopping=None: pipeline.run(found, settings, stopping or threading.Event())  # noqa: E731
            return SimpleNamespace(pipeline=pipeline, detector=detector, health=health, run=run)

        yield make


def test_every_camera_has_its_own_place_in_the_network(bench) -> None:
    made = bench()
    result = made.run(camera_set(c=jpeg(200), a=jpeg(50)))
    ((images, K, base_T_camera, mask, _),) = made.detector.given
    assert result.used == ["a", "c"] and mask.tolist() == [True, False, True] and result.t_ref == T0
    assert [round(float(image.mean()), -1) for image in images] == [50, 0, 200]
    assert K[0, 0, 0] == 10 and np.array_equal(K[1], np.eye(3)) and K[2, 0, 0] == 12
    assert np.array_equal(base_T_camera[:, 0, 3], [0, 0, 2]) and np.array_equal(base_T_camera[1], np.eye(4))
    assert list(result.stages) == ["preprocess", "transforms", "network", "decode_boxes"]


def test_the_pose_is_that_of_the_camera_whose_k_is_used(bench) -> None:
    """A rectified camera's P may belong to a camera beside the frame that the message names."""
    calibration = CalibrationStore(
        {name: FileCalibration(None, entry.base_T_camera) for name, entry in FILE.items()}, rectified=True
    )
    for name in CAMERAS:
        info = CameraInfo(width=WIDTH, height=HEIGHT)
        info.p = [10.0, 0.0, 8.0, -5.0, 0.0, 10.0, 4.0, 0.0, 0.0, 0.0, 1.0, 0.0]
        calibration.hear(name, info)
    made = bench(calibration)
    made.run(camera_set(**dict.fromkeys(CAMERAS, jpeg(90))))
    assert np.allclose(made.detector.given[0][2][:, 0, 3], [0.5, 1.5, 2.5])  # 5 / 10 m to the right


def test_thresholds_and_the_limit_choose_the_boxes(bench) -> None:
    found = camera_set(**dict.fromkeys(CAMERAS, jpeg(90)))
    made = bench(score_threshold=0.5, class_score_thresholds=("pedestrian:0.7",))
    assert made.run(found).boxes.scores.tolist() == [0.9] and made.detector.given[0][4] == 0.5
    assert bench(score_threshold=0.1, max_detections=2).run(found).boxes.scores.tolist() == [0.9, 0.6]


def test_bad_images_are_named_and_counted_and_the_others_go_on(bench) -> None:
    made = bench()
    result = made.run(camera_set(a=jpeg(90), b=b"no picture", c=jpeg(90)))
    assert result.used == ["a", "c"] and len(result.boxes) == 3
    assert made.pipeline.unreadable_images == 1 and result.problems[0].startswith("b: image cannot be used")
    assert any("image on /b/image cannot be used" in trouble.text for trouble in made.health.troubles("b"))
    result = made.run(camera_set(a=jpeg(90), b=jpeg(90, 2 * WIDTH), c=b""))
    assert result.boxes is None and made.pipeline.unreadable_images == 3 and len(made.detector.given) == 1
    assert result.problems[0] == "only 1 of the 2 cameras needed can be used" and len(result.problems) == 3
    result = made.run(camera_set(**dict.fromkeys(CAMERAS, jpeg(90))))
    assert result.boxes is not None and not result.problems
    assert not any("cannot be used" in trouble.text for name in CAMERAS for trouble in made.health.troubles(name))


def test_a_camera_without_calibration_takes_no_part(bench) -> None:
    made = bench(CalibrationStore({name: FILE[name] for name in "ab"}))
    result = made.run(camera_set(**dict.fromkeys(CAMERAS, jpeg(90))))
    assert result.used == ["a", "b"] and result.problems == ["c: no usable CameraInfo"]
    assert made.pipeline.unreadable_images == 0


def test_late_transforms_are_waited_for_but_not_when_nobody_wants_the_set(bench) -> None:
    def move(time_ns: int) -> None:
        transform = TransformStamped(child_frame_id="a")
        transform.header.frame_id, transform.header.stamp = "base_link", time_message(time_ns)
        transform.transform.rotation.w = 1.0
        buffer.set_transform(transform, "test")

    calibration = CalibrationStore({**FILE, "a": FileCalibration(FILE["a"].camera)})
    buffer, stopping = Buffer(), threading.Event()
    for behind in (80_000_000, 60_000_000):  # a moving mount, heard until shortly before the image
        move(T0 - behind)
    made = bench(calibration, buffer, tf_timeout_ms=5000.0, tf_max_age_ms=0.0)
    stopping.set()
    begun = time.monotonic()
    result = made.run(camera_set(**dict.fromkeys(CAMERAS, jpeg(90))), stopping)
    assert time.monotonic() - begun < 4 and result.used == ["b", "c"]
    assert any(
        trouble.level == diagnostics.ERROR for trouble in made.health.troubles("a") if "base_link" in trouble.text
    )
    threading.Timer(0.05, move, [T0 + 10_000_000]).start()
    result = made.run(camera_set(**dict.fromkeys(CAMERAS, jpeg(90))))
    assert result.used == list(CAMERAS) and not result.problems
