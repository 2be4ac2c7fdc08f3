"""The node in this process with a detector that answers at once; images come over DDS from a rig in another process."""

from __future__ import annotations

import array
import gc
import hashlib
import threading
import time

import cv2
import numpy as np
import pytest
import rclpy
import yaml
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.context import Context
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage
from vision_msgs.msg import Detection3DArray, LabelInfo
from visualization_msgs.msg import Marker, MarkerArray

from bevdistill_ros.errors import UserError
from bevdistill_ros.msg import DetectedObjectArray, DetectorStatus
from bevdistill_ros.node import detector_node
from bevdistill_ros.node.detector_node import DetectorNode
from bevdistill_ros.node.messages import time_message
from bevdistill_ros.stamps import stamp_ns

DEADLINE = 60.0
CAMERAS = ["front", "left", "right"]
OFFSETS = {"camera_offsets_ms": [0.0, 7.0, 14.0]}  # camera_rig.py's
SUCCESS, FAILURE, ERROR = (
    TransitionCallbackReturn.SUCCESS,
    TransitionCallbackReturn.FAILURE,
    TransitionCallbackReturn.ERROR,
)
OUT = "/bevdistill_detector"


# ----------------------------------------------------------------------------------------------------------- lifecycle


def entities(node) -> tuple[int, ...]:
    kinds = (node.subscriptions, node.publishers, node.timers, node.services, node.default_callback_group.entities)
    return tuple(len(list(kind)) for kind in kinds)


def test_transitions_can_be_repeated_without_leaving_anything(make_bench) -> None:
    bench = make_bench(CAMERAS)
    node = bench.node

    def cycle() -> None:
        assert node.trigger_configure() == SUCCESS
        for _ in range(2):
            assert node.trigger_activate() == SUCCESS
            assert node.trigger_deactivate() == SUCCESS
        assert node.trigger_cleanup() == SUCCESS

    cycle()
    before, threads = entities(node), threading.active_count()
    for _ in range(20):
        cycle()
    # What rclpy remembers of entities that are gone is cleared by the next round: it may vary, but not add up.
    *now, remembered = entities(node)
    assert tuple(now) == before[:-1] and remembered < before[-1] + 20 and threading.active_count() == threads
    assert not [s.topic_name for s in node.subscriptions if "cam" in s.topic_name or "/tf" in s.topic_name]
    assert node.trigger_configure() == SUCCESS and node.trigger_activate() == SUCCESS
    assert node.trigger_shutdown() == SUCCESS
    assert threading.active_count() == threads and bench.loaded[-1] == ("fake", "cpu")


def test_the_garbage_collector_passes_over_the_network_while_there_is_one(make_bench) -> None:
    """Going through everything takes it a tenth of a second, in which images wait and sets lose them."""
    node = make_bench(CAMERAS).node
    for _ in range(2):
        assert gc.get_freeze_count() == 0
        assert node.trigger_configure() == SUCCESS
        assert gc.get_freeze_count() > 10_000 and len(gc.get_objects()) < 10_000
        assert node.trigger_cleanup() == SUCCESS


def test_freed_memory_goes_back_to_the_system_while_the_node_runs(make_bench, monkeypatch) -> None:
    given: list[int] = []
    monkeypatch.setattr(detector_node, "give_back", lambda: given.append(1))
    monkeypatch.setattr(detector_node, "GIVE_BACK_S", 0.05)
    bench = make_bench(CAMERAS, warm_up=False, diagnostics_period_s=0.1, **OFFSETS)
    bench.listen(DiagnosticArray, "/diagnostics")
    start(bench)
    given.clear()
    bench.wait(lambda: len(given) >= 3, "memory given back")


def test_subscriptions_exist_only_while_active(make_bench) -> None:
    node = make_bench(CAMERAS).node
    topics = {f"/{camera}/image_raw/compressed" for camera in CAMERAS} | {
        f"/{camera}/camera_info" for camera in CAMERAS
    }
    subscribed = lambda: {subscription.topic_name for subscription in node.subscriptions} & topics  # noqa: E731
    node.trigger_configure()
    assert subscribed() == set()
    node.trigger_activate()
    assert subscribed() == topics
    node.trigger_deactivate()
    assert subscribed() == set()


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"model": ""}, "parameter 'model' is empty"),
        ({"reference_camera": "nose"}, "'reference_camera' is 'nose'"),
        ({"class_score_thresholds": ["bus:0.5"]}, "names the class 'bus'"),
        ({"cameras": ["front cam", "b"]}, "camera 'front cam'"),
        ({"image_topic": "{camera}/1st"}, "camera 'front'"),
        ({"calibration_file": "/nowhere.yaml"}, "/nowhere.yaml"),
    ],
)
def test_mistakes_fail_configure_in_one_line_and_can_be_mended(make_bench, values, text) -> None:
    bench = make_bench(CAMERAS, **values)
    assert bench.node.trigger_configure() == FAILURE
    assert text in bench.node.failure and "\n" not in bench.node.failure
    assert not bench.node.start()
    good = {
        "cameras": CAMERAS,
        "image_topic": "",
        "model": "fake",
        "reference_camera": "",
        "class_score_thresholds": ["car:0.5"],
        "calibration_file": "",
    }
    assert all(r.successful for r in bench.node.set_parameters([Parameter(name, value=good[name]) for name in values]))
    assert bench.node.start() and bench.node.failure == ""


def test_unexpected_errors_are_logged_with_their_traceback(make_bench, capfd) -> None:
    bench = make_bench(CAMERAS)
    bench.detector.config = None  # warming up will trip over it
    assert bench.node.trigger_configure() == ERROR
    logged = capfd.readouterr().err
    assert "Traceback" in logged and "_warm_up" in logged and "transition 'configure' failed" in logged
    assert "AttributeError" in bench.node.failure
    assert bench.node.trigger_configure() == ERROR  # back in unconfigured: the same again, not an impossible transition


def test_wrong_parameters_end_the_constructor(ros_domain) -> None:
    context = Context()
    rclpy.init(context=context, args=[])
    overrides = [Parameter("score_threshold", value="high")]
    with pytest.raises(UserError, match="'score_threshold' must be a number"):
        DetectorNode(context=context, use_global_arguments=False, parameter_overrides=overrides)
    context.try_shutdown()


def test_slips_in_parameter_names_are_pointed_out(make_bench, capfd) -> None:
    make_bench(CAMERAS, score_treshold=0.5)
    assert "no parameter 'score_treshold'" in capfd.readouterr().err


def test_parameters_of_a_configured_node(make_bench) -> None:
    node = make_bench(CAMERAS).node
    node.trigger_configure()

    def set_one(name: str, value) -> str:
        (result,) = node.set_parameters([Parameter(name, value=value)])
        assert result.successful == (result.reason == "")
        return result.reason

    assert set_one("score_threshold", 1) == ""
    assert set_one("class_score_thresholds", []) == ""
    assert "unconfigured" in set_one("model", "other")
    assert "'cameras' must be a list" in set_one("cameras", "front")
    assert "knows car, pedestrian" in set_one("class_score_thresholds", ["bus:0.1"])
    assert set_one("autostart", False) != ""
    atomic = node.set_parameters_atomically([Parameter("max_detections", value=5), Parameter("marker_text", value=3)])
    assert not atomic.successful and node.get_parameter("max_detections").value == 200
    node.trigger_cleanup()
    assert set_one("model", "other") == ""


def test_a_change_of_several_parameters_is_taken_over_whole(make_bench) -> None:
    """The worker reads the settings while the executor changes them: it gets one object or the other."""
    node = make_bench(CAMERAS).node
    node.trigger_configure()
    before = node._live
    changes = [Parameter("max_detections", value=7), Parameter("score_threshold", value=0.5)]
    assert node.set_parameters_atomically(changes).successful
    after = node._live
    assert (before.max_detections, before.score_threshold) == (200, 0.3)
    assert (after.max_detections, after.score_threshold) == (7, 0.5)
    assert not node.set_parameters_atomically(
        [Parameter("max_detections", value=9), Parameter("score_threshold", value=7.0)]
    ).successful
    assert node._live is after and node.get_parameter("max_detections").value == 7


def test_diagnostics_say_which_model_runs(make_bench, tmp_path) -> None:
    path = tmp_path / "mine.safetensors"
    path.write_bytes(b"weights")
    bench = make_bench(CAMERAS, model=str(path), diagnostics_period_s=0.1)
    bench.detector.training = {"data": "world", "split": "world_train", "steps": 8000, "loss": 1.0}
    health = bench.listen(DiagnosticArray, "/diagnostics")
    start(bench)
    active = lambda: health and {v.key: v.value for v in health[-1].status[0].values}["state"] == "active"  # noqa: E731
    bench.wait(active, "diagnostics")
    values = {v.key: v.value for v in health[-1].status[0].values}
    assert values["model"] == f"{path} on cpu" and values["model file"] == str(path)
    assert values["model sha256"] == hashlib.sha256(b"weights").hexdigest()
    assert (values["trained on: data"], values["trained on: split"]) == ("world", "world_train")
    assert values["training steps"] == "8000"


def test_a_network_that_does_not_come_back_is_told(make_bench, start_rig, monkeypatch) -> None:
    monkeypatch.setattr(detector_node, "QUIET_S", 0.3)
    bench = make_bench(CAMERAS, warm_up=False, diagnostics_period_s=0.1, **OFFSETS)
    health = bench.listen(DiagnosticArray, "/diagnostics")
    bench.detector.gate = threading.Event()
    start(bench)
    start_rig(CAMERAS)
    told = lambda: health and "the network has not come back for" in health[-1].status[0].message  # noqa: E731
    bench.wait(told, "the network's absence")
    bench.detector.gate.set()
    bench.wait(lambda: "the network has not" not in health[-1].status[0].message, "its return")


# ------------------------------------------------------------------------------------------------------- images to boxes


def start(bench) -> None:
    assert bench.node.start()
    bench.spin()


def full(arrays: list) -> DetectedObjectArray | None:
    """The newest array that rests on all cameras."""
    return next((found for found in reversed(arrays) if not found.partial), None)


def test_boxes_are_at_the_reference_time(make_bench, start_rig, rig_module) -> None:
    """The fake detector puts a box at each camera: 1.5 m up, and ahead by what the base has driven since the reference image."""
    bench = make_bench(CAMERAS, reference_camera="left", **OFFSETS)
    objects, status = bench.listen(DetectedObjectArray, f"{OUT}/objects"), bench.listen(DetectorStatus, f"{OUT}/status")
    detections, labels = bench.listen(Detection3DArray, f"{OUT}/detections"), []
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    start(bench)
    start_rig(CAMERAS)

    def whole_set() -> tuple | None:
        """The newest set of all cameras, from all three topics; each is heard from a moment of its own on."""
        for found in reversed(objects):
            others = [next((m for m in kept if m.header == found.header), None) for kept in (detections, status)]
            if not found.partial and None not in others and others[1].motion_compensated:
                return found, *others
        return None

    array, same, told = bench.wait(whole_set, "a set of all cameras")
    stamps = [stamp_ns(stamp) for stamp in array.stamps]
    t_ref = stamp_ns(array.header.stamp)
    assert list(array.cameras) == CAMERAS and all(array.used) and array.header.frame_id == "base_link"
    assert t_ref == stamps[1] and (t_ref - rig_module.OFFSET - rig_module.START) % rig_module.PERIOD == 0
    assert [s - stamps[0] for s in stamps] == [0, rig_module.OFFSET, 2 * rig_module.OFFSET]
    for found, stamp in zip(array.objects, stamps):
        driven = rig_module.SPEED * (stamp - t_ref) / 1e9
        position = found.pose.position
        assert (position.x, position.y, position.z) == pytest.approx((driven, 0.0, 1.5), abs=1e-6)
        assert found.class_name == "car" and found.velocity.x == 3.0

    assert [d.bbox.center for d in same.detections] == [o.pose for o in array.objects]
    assert told.published and not told.partial and not told.problems and told.objects == 3
    assert [stage.name for stage in told.stages] == [
        "preprocess",
        "transforms",
        "network",
        "decode_boxes",
        "publish",
        "total",
    ]
    assert told.sync_spread_ms == pytest.approx(0.0, abs=1e-6)

    labels = bench.listen(LabelInfo, f"{OUT}/labels", latched)  # joins late
    (info,) = bench.wait(lambda: list(labels), "the latched labels")
    assert [c.class_name for c in info.class_map] == ["car", "pedestrian"]


def test_lost_camera_gives_flagged_partial_sets_and_returns(make_bench, start_rig) -> None:
    bench = make_bench(CAMERAS, **OFFSETS)
    objects, health = bench.listen(DetectedObjectArray, f"{OUT}/objects"), bench.listen(DiagnosticArray, "/diagnostics")
    start(bench)
    rig = start_rig(CAMERAS)
    bench.wait(lambda: full(objects), "a set of all cameras")
    rig.tell("mute front")  # the reference camera
    partial = bench.wait(lambda: next((o for o in objects if o.partial), None), "a partial set")
    assert list(partial.used) == [False, True, True] and len(partial.objects) == 2
    assert stamp_ns(partial.stamps[0]) == 0
    assert partial.header.stamp == partial.stamps[1]  # the (lower) middle one of those present

    def names_front() -> bool:
        newest = {s.name.split(": ")[1]: s for s in health[-1].status} if health else {}
        front = newest.get("front")
        return front is not None and front.level == DiagnosticStatus.ERROR and "no image for" in front.message

    bench.wait(names_front, "a diagnostic that names the camera")
    count = len(objects)
    rig.tell("unmute front")
    bench.wait(lambda: full(objects[count:]), "all cameras again")


def test_nothing_found_is_published_too(make_bench, start_rig) -> None:
    bench = make_bench(CAMERAS, score_threshold=0.9, **OFFSETS)
    detections = bench.listen(Detection3DArray, f"{OUT}/detections")
    start(bench)
    start_rig(CAMERAS)
    bench.wait(lambda: len(detections) >= 3, "empty arrays")
    assert all(d.detections == [] and stamp_ns(d.header.stamp) > 0 for d in detections)
    count = len(detections)
    (result,) = bench.node.set_parameters([Parameter("class_score_thresholds", value=["car:0.5"])])
    assert result.successful
    bench.wait(lambda: any(d.detections for d in detections[count:]), "boxes after the threshold was lowered")


def test_without_odometry_boxes_come_and_say_so(make_bench, start_rig) -> None:
    bench = make_bench(CAMERAS, **OFFSETS)
    objects, status = bench.listen(DetectedObjectArray, f"{OUT}/objects"), bench.listen(DetectorStatus, f"{OUT}/status")
    start(bench)
    start_rig(CAMERAS, "--without", "odom")
    array = bench.wait(lambda: full(objects), "boxes")
    assert [o.pose.position.x for o in array.objects] == pytest.approx([0.0] * 3)
    told = bench.wait(lambda: status and status[-1], "status")
    assert not told.motion_compensated and any("odom" in problem for problem in told.problems)


def test_missing_transforms_are_named_and_nothing_is_published(make_bench, start_rig) -> None:
    bench = make_bench(CAMERAS, diagnostics_period_s=0.2, **OFFSETS)
    status, health = bench.listen(DetectorStatus, f"{OUT}/status"), bench.listen(DiagnosticArray, "/diagnostics")
    objects = bench.listen(DetectedObjectArray, f"{OUT}/objects")
    start(bench)
    start_rig(CAMERAS, "--without", "tf_static")
    told = bench.wait(lambda: status and status[-1], "status")
    assert not told.published and any("base_link <- front_optical" in problem for problem in told.problems)

    def all_named() -> bool:
        if not health:
            return False
        newest = {s.name.split(": ")[1]: s for s in health[-1].status}
        return all(f"base_link <- {camera}_optical" in newest[camera].message for camera in CAMERAS if camera in newest)

    bench.wait(all_named, "diagnostics that name the frames")
    assert not objects


def test_silence_is_explained(make_bench, capfd) -> None:
    bench = make_bench(CAMERAS, diagnostics_period_s=0.2)
    health = bench.listen(DiagnosticArray, "/diagnostics")
    bench.node.start()
    bench.node._published_at = bench.node._told_at = time.monotonic() - 100  # a while ago
    bench.spin()

    def explained() -> bool:
        newest = {s.name.split(": ")[1]: s for s in health[-1].status} if health else {}
        return (
            "detector" in newest
            and newest["detector"].level == DiagnosticStatus.ERROR
            and "no boxes for" in newest["detector"].message
            and "no image has come on /left/image_raw/compressed (nobody" in newest["left"].message
        )

    bench.wait(explained, "the reason")
    logged = capfd.readouterr().err
    assert "no boxes for" in logged
    assert all(f"  {camera}: no image has come on /{camera}/image_raw/compressed" in logged for camera in CAMERAS)


def test_calibration_file_stands_in_for_camera_info_and_tf(make_bench, start_rig, tmp_path, rig_module) -> None:
    width, height, focal = rig_module.WIDTH, rig_module.HEIGHT, rig_module.FOCAL
    entry = {
        "width": width,
        "height": height,
        "K": [focal, 0, width / 2, 0, focal, height / 2, 0, 0, 1],
        "base_T_camera": {"translation": [0.0, 0.5, 2.0], "rotation": [-0.5, 0.5, -0.5, 0.5]},
    }
    path = tmp_path / "rig.yaml"
    path.write_text(yaml.safe_dump({"cameras": dict.fromkeys(CAMERAS, entry)}))
    bench = make_bench(CAMERAS, calibration_file=str(path), fixed_frame="", **OFFSETS)
    objects = bench.listen(DetectedObjectArray, f"{OUT}/objects")
    start(bench)
    start_rig(CAMERAS, "--without", "camera_info", "tf_static", "odom")
    array = bench.wait(lambda: full(objects), "boxes")
    assert [(o.pose.position.y, o.pose.position.z) for o in array.objects] == [(0.5, 2.0)] * 3


def test_raw_images(make_bench, start_rig) -> None:
    bench = make_bench(CAMERAS, image_transport="raw", queue_depth=2, **OFFSETS)
    objects = bench.listen(DetectedObjectArray, f"{OUT}/objects")
    start(bench)
    start_rig(CAMERAS, "--raw")
    assert len(bench.wait(lambda: next((o for o in objects if o.objects), None), "boxes").objects) >= 2


def test_markers_and_overlay_are_made_for_those_who_look(make_bench, start_rig) -> None:
    bench = make_bench(CAMERAS, overlay_width=640, overlay_rate_hz=30.0, **OFFSETS)
    markers, overlay = (
        bench.listen(MarkerArray, f"{OUT}/markers"),
        bench.listen(CompressedImage, f"{OUT}/overlay/compressed"),
    )
    start(bench)
    start_rig(CAMERAS)
    shown = bench.wait(lambda: markers and markers[-1], "markers").markers
    assert Marker.CUBE in [m.type for m in shown] and {m.ns for m in shown if m.action == Marker.ADD} == {"car"}
    message = bench.wait(lambda: overlay and overlay[-1], "an overlay")
    picture = cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape[1] == 640 and picture.std() > 5 and message.header.frame_id == "base_link"


def test_slow_network_drops_old_sets_not_new_ones(make_bench, start_rig, rig_module) -> None:
    bench = make_bench(CAMERAS, warm_up=False, **OFFSETS)
    status = bench.listen(DetectorStatus, f"{OUT}/status")
    bench.detector.gate = threading.Event()
    start(bench)
    start_rig(CAMERAS)
    deadline = time.monotonic() + DEADLINE
    while bench.node._counts.superseded < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    bench.detector.gate.set()

    def published() -> list[int]:
        return [stamp_ns(s.header.stamp) for s in status if s.published]

    bench.wait(lambda: len(published()) >= 2, "two sets")
    first, second = published()[:2]
    assert second - first >= 4 * rig_module.PERIOD  # the one begun, then the newest
    assert status[-1].superseded_sets >= 3 and status[-1].sets >= 5


class Driver:
    """Publishes single images of one camera from this process, well or badly."""

    def __init__(self, bench, reliability=ReliabilityPolicy.RELIABLE) -> None:
        qos = QoSProfile(depth=5, reliability=reliability)
        self.images = bench.listener.create_publisher(CompressedImage, "/front/image_raw/compressed", qos)
        self.infos = bench.listener.create_publisher(CameraInfo, "/front/camera_info", qos)
        self.bench, self.stamp = bench, 1_600_000_000_000_000_000
        deadline = time.monotonic() + DEADLINE
        while not (self.images.get_subscription_count() and self.infos.get_subscription_count()):
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def send(
        self, data: bytes, width: int = 64, height: int = 32, focal: float = 50.0, stamp: int | None = None
    ) -> None:
        self.stamp += 100_000_000
        info = CameraInfo(width=width, height=height, distortion_model="plumb_bob")
        info.k = [focal, 0.0, width / 2, 0.0, focal, height / 2, 0.0, 0.0, 1.0]
        info.header.frame_id = "base_link"  # a camera in the base frame itself: TF knows it without any publisher
        info.header.stamp = time_message(self.stamp if stamp is None else stamp)
        self.infos.publish(info)
        self.images.publish(CompressedImage(header=info.header, format="jpeg", data=array.array("B", data)))


def jpeg(width: int = 64, height: int = 32) -> bytes:
    return cv2.imencode(".jpg", np.full((height, width, 3), 90, np.uint8))[1].tobytes()


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        ({"data": jpeg(128, 64)}, "it is 128x64 pixels, but its calibration is for 64x32"),
        ({"data": jpeg(96, 32)}, "it is 96x32 pixels"),
        ({"data": jpeg()[:200]}, "cannot be used"),
        ({"data": b"no picture at all"}, "cannot be used"),
        ({"data": b""}, "empty"),
        ({"data": jpeg(), "focal": 0.0}, "field k"),
    ],
    ids=["double size", "wide", "cut off", "no picture", "empty", "zero focal length"],
)
def test_bad_input_is_named_and_good_input_goes_on(make_bench, bad, text) -> None:
    bench = make_bench(["front"], camera_offsets_ms=[0.0], diagnostics_period_s=0.1)
    status, health = bench.listen(DetectorStatus, f"{OUT}/status"), bench.listen(DiagnosticArray, "/diagnostics")
    start(bench)
    driver = Driver(bench)

    def until(condition, **arguments):
        """Send such images, a few a second, until the condition holds."""
        deadline = time.monotonic() + DEADLINE
        while time.monotonic() < deadline:
            driver.send(**arguments)
            with bench.changed:
                if bench.changed.wait_for(condition, 0.1):
                    return
        raise AssertionError(f"not seen; problems: {[list(s.problems) for s in status[-3:]]}")

    until(lambda: status and status[-1].published, data=jpeg())
    until(lambda: status and not status[-1].published and status[-1].failed_sets > 0, **bad)
    said = lambda: health and any(text in s.message for s in health[-1].status if s.level == DiagnosticStatus.ERROR)  # noqa: E731
    until(said, **bad)
    until(lambda: status[-1].published, data=jpeg())
    until(lambda: health and all(text not in s.message for s in health[-1].status), data=jpeg())


def test_zero_stamps_are_named(make_bench) -> None:
    bench = make_bench(["front"], camera_offsets_ms=[0.0], diagnostics_period_s=0.1)
    health = bench.listen(DiagnosticArray, "/diagnostics")
    start(bench)
    driver = Driver(bench)
    driver.send(jpeg(), stamp=0)
    bench.wait(lambda: health and any("zero header.stamp" in s.message for s in health[-1].status), "the advice")


def test_calibration_changes_are_followed(make_bench) -> None:
    bench = make_bench(["front"], camera_offsets_ms=[0.0])
    status, seen = bench.listen(DetectorStatus, f"{OUT}/status"), []
    answer = bench.detector.__class__.__call__

    def watch(images, K, ego_T_cam, mask, score_threshold):
        seen.append(K[0, 0, 0])
        return answer(bench.detector, images, K, ego_T_cam, mask, score_threshold)

    bench.node._load_detector = lambda path, device: _with_call(bench.detector, watch)
    start(bench)
    driver = Driver(bench)
    for focal in (50.0, 70.0):
        deadline = time.monotonic() + DEADLINE
        while (not seen or seen[-1] != focal) and time.monotonic() < deadline:
            driver.send(jpeg(), focal=focal)
            with bench.changed:
                bench.changed.wait_for(lambda: seen and seen[-1] == focal, 0.1)  # noqa: B023
        assert seen[-1] == focal  # the image has the network's size already, so K is the camera's
    assert status


def _with_call(detector, call):
    """The detector, with another __call__."""

    class Watched(type(detector)):
        def __call__(self, *arguments, **named):
            return call(*arguments, **named)

    detector.__class__ = Watched
    return detector


def test_time_that_jumps_back_is_followed(make_bench) -> None:
    """A bag that starts over without simulated time."""
    bench = make_bench(["front"], camera_offsets_ms=[0.0])
    status = bench.listen(DetectorStatus, f"{OUT}/status")
    start(bench)
    driver = Driver(bench)
    for first in (1_700_000_000_000_000_000, 1_600_000_000_000_000_000):
        driver.stamp, deadline = first, time.monotonic() + DEADLINE
        published = lambda: status and status[-1].published and 0 < stamp_ns(status[-1].header.stamp) - first < 10**11  # noqa: B023, E731
        while not published() and time.monotonic() < deadline:
            driver.send(jpeg())
            with bench.changed:
                bench.changed.wait_for(published, 0.1)
        assert published()


def test_incompatible_qos_is_named(make_bench) -> None:
    bench = make_bench(["front"], camera_offsets_ms=[0.0], reliability="reliable", diagnostics_period_s=0.1)
    health = bench.listen(DiagnosticArray, "/diagnostics")
    start(bench)
    qos = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
    bench.listener.create_publisher(CompressedImage, "/front/image_raw/compressed", qos)
    bench.wait(
        lambda: (
            health and any("incompatible QoS" in s.message and "best_effort" in s.message for s in health[-1].status)
        ),
        "the advice",
    )


def test_failing_network_is_survived(make_bench, capfd) -> None:
    bench = make_bench(["front"], camera_offsets_ms=[0.0], diagnostics_period_s=0.1, warm_up=False)
    status, health = bench.listen(DetectorStatus, f"{OUT}/status"), bench.listen(DiagnosticArray, "/diagnostics")
    good, broken = bench.detector.__class__, threading.Event()
    broken.set()

    def sometimes(*arguments, **named):
        if broken.is_set():
            raise RuntimeError("out of memory")
        return good.__call__(bench.detector, *arguments, **named)

    _with_call(bench.detector, sometimes)
    start(bench)
    driver = Driver(bench)
    for expected, condition in (
        ("the failure", lambda: health and any("out of memory" in s.message for s in health[-1].status)),
        ("boxes again", lambda: status and status[-1].published),
    ):
        deadline, seen = time.monotonic() + DEADLINE, False
        while not seen and time.monotonic() < deadline:
            driver.send(jpeg())
            with bench.changed:
                seen = bool(bench.changed.wait_for(condition, 0.1))
        assert seen, expected
        broken.clear()
    assert status[-1].failed_sets > 0 and "out of memory" in capfd.readouterr().err
    told = next(s for s in status if not s.published)  # also a set that failed is answered for
    assert told.problems[0] == "the network failed: RuntimeError: out of memory" and not told.used[0]
