"""One set from messages to boxes, without a node: what goes into the network, and what becomes of bad images."""

from __future__ import annotations

import array
import gc
import threading
import time
import weakref
from collections.abc import Iterator
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
from bevdistill_ros.node.pictures import Repeats
from bevdistill_ros.node.set_pipeline import SetPipeline
from bevdistill_ros.preprocess import Preprocessor
from bevdistill_ros.synchroniser import CameraSet
from bevdistill_ros.threads import Crew

T0 = 1_600_000_000_000_000_000
CAMERAS = ("a", "b", "c")
HEIGHT, WIDTH = 8, 16
SCORES = (0.9, 0.6, 0.4)


class Detector:
    """Keeps what it is given and finds a car, a pedestrian and a car."""

    class_names = ("car", "pedestrian")
    device = SimpleNamespace(type="cpu")
    config = SimpleNamespace(image=SimpleNamespace(height=HEIGHT, width=WIDTH))
    stage_times = {"network": 2.0, "decode": 1.0}  # noqa: RUF012

    def __init__(self) -> None:
        self.given: list[tuple] = []

    def preprocess(self, source, camera: Camera, out: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return Preprocessor(ImageConfig(HEIGHT, WIDTH))(source, camera, out)

    def __call__(self, images, K, ego_T_cam, mask, score_threshold: float) -> Boxes:
        self.given.append((images.copy(), K, ego_T_cam, mask, score_threshold))
        n = len(SCORES)
        return Boxes(
            np.zeros((n, 3)), np.ones((n, 3)), np.zeros(n), np.zeros((n, 2)), np.array(SCORES), np.array([0, 1, 0]),
            self.class_names,
        )  # fmt: skip


def jpeg(grey: int, width: int = WIDTH) -> bytes:
    return cv2.imencode(".jpg", np.full((HEIGHT, width, 3), grey, np.uint8))[1].tobytes()


def camera_set(after_ns: int = 0, **pictures: bytes) -> CameraSet:
    messages, stamp = {}, T0 + after_ns
    for name, data in pictures.items():
        messages[name] = CompressedImage(format="jpeg", data=array.array("B", data))
        messages[name].header.stamp, messages[name].header.frame_id = time_message(stamp), name
    return CameraSet(stamp, messages, dict.fromkeys(messages, stamp), CAMERAS)


def camera(focal: float) -> Camera:
    return Camera(K=np.array([[focal, 0, 8], [0, focal, 4], [0, 0, 1.0]]), width=WIDTH, height=HEIGHT)


FILE = {
    name: FileCalibration(camera(10.0 + i), make_transform(translation=(i, 0, 1))) for i, name in enumerate(CAMERAS)
}


@pytest.fixture
def bench():
    """``bench(calibration, buffer, **parameters)``: a pipeline with its detector and health."""
    crew = Crew(2)

    def make(calibration=None, buffer=None, **parameters) -> SimpleNamespace:
        settings = Settings(fixed_frame="", **{"frozen_after": 0, **parameters}).for_cameras(CAMERAS)
        detector, health = Detector(), Health(lambda text, level: None)
        health.watch({name: (f"/{name}/image", "") for name in CAMERAS})
        pipeline = SetPipeline(
            settings,
            {name: f"/{name}/image" for name in CAMERAS},
            detector,
            calibration or CalibrationStore(FILE),
            TransformSource(buffer or Buffer(), "base_link", ""),
            health,
            crew,
            repeats := Repeats(),
        )

        def run(found: CameraSet, stopping: threading.Event | None = None):
            for name, message in found.messages.items():
                repeats.see(name, found.stamps[name], message.data)
            return pipeline.run(found, settings, stopping or threading.Event())

        return SimpleNamespace(pipeline=pipeline, detector=detector, health=health, run=run)

    yield make
    crew.close()


def test_every_camera_has_its_own_place_in_the_network(bench) -> None:
    made = bench()
    result = made.run(camera_set(c=jpeg(200), a=jpeg(50)))
    ((images, K, base_T_camera, mask, _),) = made.detector.given
    assert result.used == ["a", "c"] and mask.tolist() == [True, False, True] and result.t_ref == T0
    assert [round(float(image.mean()), -1) for image in images] == [50, 0, 200]
    assert K[0, 0, 0] == 10 and np.array_equal(K[1], np.eye(3)) and K[2, 0, 0] == 12
    assert np.array_equal(base_T_camera[:, 0, 3], [0, 0, 2]) and np.array_equal(base_T_camera[1], np.eye(4))
    assert list(result.stages) == ["preprocess", "transforms", "network", "decode_boxes"]


def test_sets_share_their_memory_and_one_that_is_kept_does_not(bench) -> None:
    """The overlay is drawn while the next set is preprocessed."""
    made = bench()
    first = made.run(camera_set(**dict.fromkeys(CAMERAS, jpeg(50))))
    images, kept = {name: image for name, (image, _) in first.images.items()}, first.keep()
    second = made.run(camera_set(1, **dict.fromkeys(CAMERAS, jpeg(200))))
    for name in CAMERAS:
        assert second.images[name][0] is not images[name]
        assert np.shares_memory(second.images[name][0], images[name]) and images[name].mean() == 200
        assert kept.images[name][0].mean() == 50 and kept.images[name][1] is first.images[name][1]
    assert kept.boxes is first.boxes and kept.t_ref == first.t_ref


def test_a_camera_without_part_is_black_whatever_was_there_before(bench) -> None:
    made = bench()
    made.run(camera_set(**dict.fromkeys(CAMERAS, jpeg(200))))
    made.run(camera_set(1, a=jpeg(50), b=b"no picture", c=jpeg(70)))  # cannot be decoded
    made.run(camera_set(2, b=jpeg(60), c=jpeg(70)))  # did not come
    means = [[round(float(image.mean()), -1) for image in given[0]] for given in made.detector.given]
    assert means == [[200, 200, 200], [50, 0, 70], [0, 60, 70]]


def test_a_fault_of_the_program_is_not_taken_for_a_bad_image(bench, monkeypatch) -> None:
    made = bench()

    def fail(*arguments) -> None:
        raise TypeError("a slip")

    monkeypatch.setattr(made.detector, "preprocess", fail)
    with pytest.raises(TypeError, match="a slip"):
        made.run(camera_set(**dict.fromkeys(CAMERAS, jpeg(90))))
    assert made.pipeline.unusable_images == 0


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
    assert made.pipeline.unusable_images == 1 and result.problems[0].startswith("b: image cannot be used")
    assert any("image on /b/image cannot be used" in trouble.text for trouble in made.health.troubles("b"))
    result = made.run(camera_set(a=jpeg(90), b=jpeg(90, 2 * WIDTH), c=b""))
    assert result.boxes is None and made.pipeline.unusable_images == 3 and len(made.detector.given) == 1
    assert result.problems[0] == "only 1 of the 2 cameras needed can be used" and len(result.problems) == 3
    result = made.run(camera_set(**dict.fromkeys(CAMERAS, jpeg(90))))
    assert result.boxes is not None and not result.problems
    assert not any("cannot be used" in trouble.text for name in CAMERAS for trouble in made.health.troubles(name))


def test_a_camera_without_calibration_takes_no_part(bench) -> None:
    made = bench(CalibrationStore({name: FILE[name] for name in "ab"}))
    result = made.run(camera_set(**dict.fromkeys(CAMERAS, jpeg(90))))
    assert result.used == ["a", "b"] and result.problems == ["c: no usable CameraInfo"]
    assert made.pipeline.unusable_images == 0


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


def test_frozen_camera_has_no_part_whatever_its_stamps_say(bench) -> None:
    made = bench(frozen_after=3)
    for i in range(5):
        result = made.run(camera_set(i, a=jpeg(50), b=jpeg(60 + i), c=jpeg(70 + i)))
        assert result.used == (["a", "b", "c"] if i < 2 else ["b", "c"])
    assert result.problems == ["a: frozen: 5 images in a row hold the same picture"]
    (trouble,) = (t for t in made.health.troubles("a") if "frozen" in t.text)
    assert trouble.level == diagnostics.ERROR and "frozen_after" in trouble.text and made.pipeline.unusable_images == 3
    result = made.run(camera_set(9, a=jpeg(51), b=jpeg(90), c=jpeg(91)))
    assert result.used == ["a", "b", "c"] and not any("frozen" in t.text for t in made.health.troubles("a"))


def test_boxes_that_are_no_numbers_are_never_given_out(bench) -> None:
    made = bench()
    found = type(made.detector).__call__

    class Broken(Detector):
        def __call__(self, *arguments, **named) -> Boxes:
            boxes = found(self, *arguments, **named)
            boxes.centers[1, 2] = np.nan
            return boxes

    made.detector.__class__ = Broken
    with pytest.raises(ValueError, match="1 of 3 boxes of the network are not finite"):
        made.run(camera_set(**dict.fromkeys(CAMERAS, jpeg(90))))


@pytest.fixture
def no_garbage_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("trouble", ["", "no picture", "another size", "no frame", "transform ahead", "network"])
def test_the_images_of_a_set_go_with_it_whatever_was_wrong(bench, no_garbage_collector, trouble) -> None:
    """Not when Python looks for reference cycles: until then a bad camera's images pile up, and going through the process for
    them holds up whatever else is to be done."""
    calibration, buffer = CalibrationStore(FILE), Buffer()
    if trouble in ("no frame", "transform ahead"):
        calibration = CalibrationStore({**FILE, "b": FileCalibration(FILE["b"].camera)})
    if trouble == "transform ahead":
        for behind in (80_000_000, 60_000_000):
            transform = TransformStamped(child_frame_id="b")
            transform.header.frame_id, transform.header.stamp = "base_link", time_message(T0 - behind)
            transform.transform.rotation.w = 1.0
            buffer.set_transform(transform, "test")
    made = bench(calibration, buffer, tf_timeout_ms=10.0, tf_max_age_ms=0.0)

    class Broken(Detector):
        def __call__(self, *arguments, **named) -> Boxes:
            raise RuntimeError("out of memory")

    if trouble == "network":
        made.detector.__class__ = Broken
    picture = {"no picture": b"no picture", "another size": jpeg(90, 2 * WIDTH)}.get(trouble, jpeg(90))
    found = camera_set(a=jpeg(90), b=picture, c=jpeg(90))
    alive = weakref.ref(found)
    try:
        result = made.run(found)
        assert result.used == (["a", "c"] if trouble else list(CAMERAS))
    except RuntimeError:
        assert trouble == "network"
    del found
    result = None
    assert alive() is None
