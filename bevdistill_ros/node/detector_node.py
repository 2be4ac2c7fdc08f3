"""The detector node: synchronised camera topics in, 3-D boxes out.

Threads
    The executor's thread (one is enough: `rclpy.spin`) receives messages, groups them into sets, answers services;
    none of that takes long. Each finished set goes through a one-slot mailbox, where a newer one takes the place of
    one not yet begun, to the worker thread: it has the images decoded by a small pool (OpenCV releases the GIL), waits
    for transforms, runs the network, publishes. So a slow network delays no subscription, boxes are always of the
    newest images, and transforms arrive while the worker waits for them. A multi-threaded executor works too, but only
    adds the cost of its hand-over to each of a hundred messages a second.

Lifecycle
    configure loads the model and listens to TF; activate subscribes to the cameras; deactivate and cleanup undo them.
    Every transition can be repeated. With `autostart` the node takes the first two by itself.
"""

from __future__ import annotations

import argparse
import array
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import cv2
import message_filters
import numpy as np
import rclpy
import tf2_ros
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy, qos_policy_name_from_kind
from rclpy.validate_full_topic_name import validate_full_topic_name
from rclpy.validate_topic_name import validate_topic_name
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from vision_msgs.msg import Detection3DArray, LabelInfo
from visualization_msgs.msg import MarkerArray

from bevdistill_ros.errors import UserError
from bevdistill_ros.geometry import Boxes, Camera, reference_time, resize_matrix
from bevdistill_ros.msg import DetectedObjectArray, DetectorStatus, StageTime
from bevdistill_ros.node import diagnostics, messages, parameters
from bevdistill_ros.node.calibration import (
    FileCalibration,
    Intrinsics,
    Mount,
    RigPoses,
    TransformSource,
    intrinsics_from_info,
    load_calibration_file,
)
from bevdistill_ros.node.camera_synchroniser import CameraSynchroniser
from bevdistill_ros.node.diagnostics import ERROR, WARN, Health, Trouble
from bevdistill_ros.node.markers import MarkerTracker
from bevdistill_ros.node.parameters import Settings
from bevdistill_ros.synchroniser import AMBIGUOUS, MS, CameraSet, Synchroniser
from bevdistill_ros.visualise import draw_bev, draw_boxes, mosaic

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # Humble's place for it
    from rclpy.qos_event import SubscriptionEventCallbacks

NODE_NAME = "bevdistill_detector"
TF_RETRY_S = 0.004
QUIET_S = 5.0
"""While nothing is published, the log says every so often what is missing."""
STOP_TIMEOUT_S = 10.0

LoadDetector = Callable[[str, str], Any]
"""(checkpoint path, device) -> detector, as ``Detector.from_checkpoint``."""


# ------------------------------------------------------------------------------------------------------------- worker


class Worker:
    """A thread that works on the newest item offered: one slot, in which a newer item takes an older one's place.

    Args:
        work: gets an item and an event, which is set once nobody wants the result any more.
        on_error: gets what ``work`` raises; the thread goes on.
    """

    def __init__(self, work: Callable[[Any, threading.Event], None], on_error: Callable[[Exception], None]) -> None:
        self._work = work
        self._on_error = on_error
        self._condition = threading.Condition()
        self._slot: Any = None
        self.stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="detector", daemon=True)
        self._thread.start()

    def offer(self, item: Any) -> bool:
        """Hand an item over. True if it displaced one that had not been begun."""
        with self._condition:
            displaced, self._slot = self._slot is not None, item
            self._condition.notify()
        return displaced

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> bool:
        """Finish the present item, drop a waiting one, end the thread. True once it has ended. Repeatable."""
        self.stopping.set()
        with self._condition:
            self._slot = None
            self._condition.notify()
        if self._thread is not threading.current_thread():
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._slot is not None or self.stopping.is_set())
                if self.stopping.is_set():
                    return
                item, self._slot = self._slot, None
            try:
                self._work(item, self.stopping)
            except Exception as error:
                self._on_error(error)


# ----------------------------------------------------------------------------------------------------- one set's work


@dataclass
class _Work:
    """A set of images on its way through the worker; what the status and the overlay need of it."""

    camera_set: CameraSet
    t_ref: int
    stages: dict[str, float] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    images: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)  # preprocessed, with K
    intrinsics: dict[str, Intrinsics] = field(default_factory=dict)  # those that the images were preprocessed by
    poses: RigPoses | None = None
    boxes: Boxes | None = None

    @property
    def used(self) -> list[str]:
        """Cameras whose image and pose are known, in the rig's order."""
        known = self.poses.base_T_camera if self.poses else {}
        return [name for name in self.camera_set.cameras if name in self.images and name in known]


@dataclass
class _Counts:
    """Since activation; guarded by the node's lock."""

    sets: int = 0
    partial: int = 0
    superseded: int = 0
    failed: int = 0
    published: int = 0
    unreadable_images: int = 0
    resets: int = 0


class _Laps:
    """Milliseconds by stage."""

    def __init__(self) -> None:
        self.start = self._last = time.perf_counter()

    def lap(self) -> float:
        now = time.perf_counter()
        elapsed, self._last = (now - self._last) * 1e3, now
        return elapsed

    def total(self) -> float:
        return (time.perf_counter() - self.start) * 1e3


class DetectorNode(LifecycleNode):
    """The node. ``load_detector`` stands in for ``Detector.from_checkpoint`` in tests.

    Raises:
        UserError: a parameter given at the start is wrong.
    """

    def __init__(self, load_detector: LoadDetector | None = None, **node_arguments: Any) -> None:
        super().__init__(NODE_NAME, **node_arguments)
        self._load_detector = load_detector or _load_detector
        self._lock = threading.Lock()
        self._destroyed = False
        self.failure = ""
        """Why the last transition failed; empty if it did not."""
        try:
            settings = parameters.declare(self)
        except UserError:
            self.destroy_node()
            raise
        self.autostart = settings.autostart
        self._settings = settings
        self.add_on_set_parameters_callback(self._on_parameters)
        self._health = Health(self._log_trouble)
        self._counts = _Counts()
        # What the transitions make and undo.
        self._detector: Any = None
        self._model_name = ""
        self._file: dict[str, FileCalibration] = {}
        self._transforms: TransformSource | None = None
        self._tf_listener: Any = None
        self._pool: ThreadPoolExecutor | None = None
        self._overlay_pool: ThreadPoolExecutor | None = None
        self._worker: Worker | None = None
        self._synchroniser: CameraSynchroniser | None = None
        self._subscriptions_made: list[Any] = []
        self._lifecycle_publishers: list[Any] = []
        self._reset_transient()
        # The buffer lives as long as the node: it offers a service and follows the node's clock.
        self._tf_buffer = tf2_ros.Buffer(node=self)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        # On a steady clock: it must speak also while simulated time stands still.
        self._timer = self.create_timer(
            settings.diagnostics_period_s, self._on_timer, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )
        self._warn_of_unknown_parameters()

    def _reset_transient(self) -> None:
        """State of one activation."""
        self._infos: dict[str, tuple[Any, Intrinsics | None]] = {}  # last CameraInfo and what it means
        self._info_frames: dict[str, str] = {}
        self._markers = MarkerTracker()
        self._label_threshold: float | None = None
        self._overlay_future: Future | None = None
        self._overlay_at = 0.0
        self._published_at = self._told_at = time.monotonic()
        self._last_status: DetectorStatus | None = None
        self._arrivals: list[float] = []

    # ---- transitions ------------------------------------------------------------------------------------------------

    def start(self) -> bool:
        """Configure and activate. True if the node is active; else ``failure`` says why."""
        for transition in (self.trigger_configure, self.trigger_activate):
            if transition() != TransitionCallbackReturn.SUCCESS:
                return False
        return True

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._transition("configure", self._configure, self._release)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._transition("activate", lambda: self._activate(state), self._stop_work)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._transition("deactivate", lambda: self._deactivate(state), self._stop_work)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._transition("cleanup", self._release, None)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._transition("shutdown", self._release, None)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """After a transition failed unexpectedly: give everything back, so that configure can be tried again."""
        reason = self.failure
        result = self._transition("error processing", self._release, None)
        self.failure = reason
        return result

    def _transition(
        self, name: str, do: Callable[[], None], undo: Callable[[], None] | None
    ) -> TransitionCallbackReturn:
        """Run a transition. rclpy drops exceptions of transition callbacks without a word, so none may leave here.

        A UserError is a FAILURE: the node returns to the state it came from. Anything else is an ERROR, logged with its
        traceback.
        """
        self.failure = ""
        try:
            do()
            result = TransitionCallbackReturn.SUCCESS
        except Exception as error:
            expected = isinstance(error, UserError)
            self.failure = str(error) if expected else f"{type(error).__name__}: {error}"
            if self.context.ok():  # else the process is being ended, and failures are its echo
                text = (
                    self.failure
                    if expected
                    else "".join(traceback.format_exception(type(error), error, error.__traceback__))
                )
                self.get_logger().error(f"transition '{name}' failed: {text}")
            self._health.report("", diagnostics.MODEL, f"transition '{name}' failed: {self.failure}", log=False)
            result = TransitionCallbackReturn.FAILURE if expected else TransitionCallbackReturn.ERROR
        if result == TransitionCallbackReturn.SUCCESS:
            if name != "error processing":
                self._health.clear("", diagnostics.MODEL)
        elif undo is not None:
            try:
                undo()
            except Exception:
                self.get_logger().error(f"undoing '{name}' failed:\n{traceback.format_exc()}")
                result = TransitionCallbackReturn.ERROR
        return result

    def _configure(self) -> None:
        self._release()
        settings = parameters.read(self)
        if not settings.model:
            raise UserError(
                "parameter 'model' is empty: give the path of a checkpoint, as model:=/path/to/model.safetensors"
            )
        device = _device(settings.device)
        if settings.torch_threads:
            import torch

            torch.set_num_threads(settings.torch_threads)
        detector = self._load_detector(settings.model, device)
        settings = settings.for_cameras(detector.cameras)
        settings.thresholds(detector.class_names)
        for name in settings.cameras:
            for topic in (settings.image_topic_of(name), settings.camera_info_topic_of(name)):
                self._check_topic(name, topic)
        self._file = load_calibration_file(settings.calibration_file) if settings.calibration_file else {}
        strangers = [name for name in self._file if name not in settings.cameras]
        if strangers:
            self.get_logger().warning(
                f"{settings.calibration_file}: of no use for {', '.join(strangers)}: the cameras are "
                f"{', '.join(settings.cameras)}"
            )
        self._settings, self._detector = settings, detector
        self._model_name = f"{settings.model} on {device}"
        self._pool = ThreadPoolExecutor(settings.decode_threads, thread_name_prefix="decode")
        self._overlay_pool = ThreadPoolExecutor(1, thread_name_prefix="overlay")
        self._tf_listener = tf2_ros.TransformListener(self._tf_buffer, self)
        self._transforms = TransformSource(self._tf_buffer, settings.base_frame, settings.fixed_frame)
        self._make_publishers()
        if settings.warm_up:
            self._warm_up()
        self.get_logger().info(
            f"model {self._model_name}; cameras {', '.join(settings.cameras)}; boxes in {settings.base_frame}"
        )

    def _check_topic(self, camera: str, topic: str) -> None:
        try:
            validate_topic_name(topic)
            validate_full_topic_name(self.resolve_topic_name(topic))
        except Exception as error:  # several kinds, of which not all are exported
            text = " ".join(str(error).split())
            raise UserError(f"camera '{camera}': '{topic}' is no topic name: {text}") from None

    def _make_publishers(self) -> None:
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)

        def make(message: type, topic: str, qos: QoSProfile | int) -> Any:
            publisher = self.create_lifecycle_publisher(message, topic, qos)
            self._lifecycle_publishers.append(publisher)
            return publisher

        self._pub_detections = make(Detection3DArray, "~/detections", 5)
        self._pub_objects = make(DetectedObjectArray, "~/objects", 5)
        self._pub_labels = make(LabelInfo, "~/labels", latched)
        self._pub_markers = make(MarkerArray, "~/markers", 5)
        self._pub_status = make(DetectorStatus, "~/status", 5)
        self._pub_overlay = make(CompressedImage, "~/overlay/compressed", 1)

    def _warm_up(self) -> None:
        """Once through the network with black images of a plausible rig: its first run is slow."""
        count, image = len(self._settings.cameras), self._detector.config.image
        K = np.array([[image.width / 2, 0, image.width / 2], [0, image.width / 2, image.height / 2], [0, 0, 1.0]])
        forward = np.array([[0, 0, 1, 1.5], [-1, 0, 0, 0], [0, -1, 0, 1.5], [0, 0, 0, 1.0]])
        images = np.zeros((count, image.height, image.width, 3), np.uint8)
        self._detector(
            images, np.stack([K] * count), np.stack([forward] * count), np.ones(count, bool), score_threshold=1.0
        )

    def _activate(self, state: LifecycleState) -> None:
        settings = self._settings
        offsets = None
        if settings.camera_offsets_ms:
            offsets = {name: round(ms * MS) for name, ms in zip(settings.cameras, settings.camera_offsets_ms)}
        policy = Synchroniser(
            settings.cameras,
            offsets,
            tolerance_ns=round(settings.tolerance_ms * MS),
            deadline_ns=round(settings.deadline_ms * MS),
            min_cameras=settings.min_cameras or None,
        )
        self._stop_work()
        super().on_activate(state)  # opens the publishers
        with self._lock:
            self._counts = _Counts()
            self._reset_transient()
        given = {name for name, entry in self._file.items() if entry.camera is not None}
        self._health.watch(
            {
                name: (
                    self.resolve_topic_name(settings.image_topic_of(name)),
                    "" if name in given else self.resolve_topic_name(settings.camera_info_topic_of(name)),
                )
                for name in settings.cameras
            }
        )
        for aspect in (diagnostics.MOTION, diagnostics.NETWORK):
            self._health.clear("", aspect)
        self._publish_labels(settings)
        self._worker = Worker(self._process, self._on_work_error)
        self._subscribe(settings, policy, given)

    def _subscribe(self, settings: Settings, policy: Synchroniser, given: set[str]) -> None:
        reliability = (
            ReliabilityPolicy.BEST_EFFORT if settings.reliability == "best_effort" else ReliabilityPolicy.RELIABLE
        )
        qos = QoSProfile(depth=settings.queue_depth, history=HistoryPolicy.KEEP_LAST, reliability=reliability)
        image_type = CompressedImage if settings.image_transport == "compressed" else Image
        filters = {}
        for name in settings.cameras:
            if name not in given:
                topic = settings.camera_info_topic_of(name)
                subscription = self.create_subscription(
                    CameraInfo,
                    topic,
                    lambda message, name=name: self._on_info(name, message),
                    qos,
                    event_callbacks=self._qos_events(name, topic),
                )
                self._subscriptions_made.append(subscription)
            topic = settings.image_topic_of(name)
            filters[name] = message_filters.Subscriber(
                self, image_type, topic, qos_profile=qos, event_callbacks=self._qos_events(name, topic)
            )
            self._subscriptions_made.append(filters[name].sub)
            # Registered before the synchroniser, so that an image is seen before its set is worked on.
            filters[name].registerCallback(self._on_image, name)
        self._synchroniser = CameraSynchroniser(self, filters, policy)
        self._synchroniser.registerCallback(self._on_set)

    def _qos_events(self, camera: str, topic: str) -> SubscriptionEventCallbacks:
        resolved = self.resolve_topic_name(topic)

        def incompatible(event: Any) -> None:
            policy = qos_policy_name_from_kind(event.last_policy_kind)
            advice = (
                "set the parameter reliability to best_effort"
                if "RELIABILITY" in str(policy)
                else "change the publisher"
            )
            self._health.report(
                camera,
                diagnostics.QOS,
                f"a publisher of {resolved} offers incompatible QoS ({policy}), nothing comes of it: {advice}",
            )

        return SubscriptionEventCallbacks(incompatible_qos=incompatible)

    def _deactivate(self, state: LifecycleState) -> None:
        self._stop_work()
        if self._pub_markers.get_subscription_count():
            self._pub_markers.publish(
                self._markers.clear(self.get_clock().now().nanoseconds, self._settings.base_frame)
            )
        super().on_deactivate(state)  # closes the publishers
        self._health.watch({})

    def _stop_work(self) -> None:
        """Undo _activate: no image, set or box after this. Repeatable."""
        synchroniser, self._synchroniser = self._synchroniser, None
        if synchroniser is not None:
            synchroniser.destroy()
        made, self._subscriptions_made = self._subscriptions_made, []
        for subscription in made:
            self.destroy_subscription(subscription)
        worker, self._worker = self._worker, None
        if worker is not None and not worker.stop():
            self.get_logger().error(
                f"the network has not come back within {STOP_TIMEOUT_S:.0f} s: its result will be ignored"
            )

    def _release(self) -> None:
        """Undo everything but what the constructor made. Repeatable."""
        self._stop_work()
        pools = [pool for pool in (self._pool, self._overlay_pool) if pool is not None]
        self._pool = self._overlay_pool = None
        for pool in pools:
            pool.shutdown(wait=True, cancel_futures=True)
        listener, self._tf_listener = self._tf_listener, None
        if listener is not None:
            listener.unregister()
        publishers, self._lifecycle_publishers = self._lifecycle_publishers, []
        for publisher in publishers:
            self.destroy_lifecycle_publisher(publisher)
        self._detector = self._transforms = None
        self._model_name, self._file = "", {}
        self._health.watch({})
        if not self._destroyed:
            self._tf_buffer.clear()

    def destroy_node(self) -> None:
        """Repeatable."""
        if self._destroyed:
            return
        self._destroyed = True
        if hasattr(self, "_tf_buffer"):
            self._release()
        super().destroy_node()

    # ---- the executor's thread --------------------------------------------------------------------------------------

    def _on_parameters(self, changed: Sequence[Any]) -> SetParametersResult:
        detector = self._detector
        unconfigured = detector is None
        current = parameters.read(self)
        names = None if detector is None else detector.class_names
        reason = parameters.refusal(current, {p.name: p.value for p in changed}, unconfigured, names)
        return SetParametersResult(successful=not reason, reason=reason)

    def _warn_of_unknown_parameters(self) -> None:
        """ROS ignores parameters that no node declares, so a slip of the pen would go unseen."""
        for name in getattr(self, "_parameter_overrides", {}):
            if not self.has_parameter(name) and not name.startswith("qos_overrides."):
                self.get_logger().warning(f"there is no parameter '{name}': the value given for it is ignored")

    def _on_info(self, camera: str, info: CameraInfo) -> None:
        self._health.info_seen(camera)
        with self._lock:
            last = self._infos.get(camera)
        key = (
            info.width,
            info.height,
            tuple(info.k),
            tuple(info.p),
            tuple(info.d),
            info.distortion_model,
            info.binning_x,
            info.binning_y,
        )
        key += (info.roi.x_offset, info.roi.y_offset, info.roi.width, info.roi.height)
        if last is None or last[0] != key:
            try:
                intrinsics = intrinsics_from_info(info, self._settings.rectified)
            except ValueError as error:
                topic = self.resolve_topic_name(self._settings.camera_info_topic_of(camera))
                self._health.report(camera, diagnostics.CAMERA_INFO, f"CameraInfo on {topic} is unusable: {error}")
                intrinsics = None
            else:
                self._health.clear(camera, diagnostics.CAMERA_INFO)
                if last is not None:
                    self.get_logger().info(f"{camera}: the calibration has changed")
            with self._lock:
                self._infos[camera] = (key, intrinsics)
        with self._lock:
            self._info_frames[camera] = info.header.frame_id

    def _on_image(self, message: Any, camera: str) -> None:
        self._health.image_seen(camera)
        if message.header.stamp.sec == 0 and message.header.stamp.nanosec == 0:
            topic = self.resolve_topic_name(self._settings.image_topic_of(camera))
            self._health.report(
                camera,
                diagnostics.STAMP,
                f"images on {topic} have a zero header.stamp and cannot be used: the driver must fill it",
            )
        else:
            self._health.clear(camera, diagnostics.STAMP)

    def _on_set(self, camera_set: CameraSet) -> None:
        worker, synchroniser = self._worker, self._synchroniser
        if worker is None or synchroniser is None:
            return
        resets = synchroniser.policy.counters.resets
        with self._lock:
            jumped = resets != self._counts.resets
            self._counts.resets = resets
        if jumped:  # what TF knows is of another time
            self.get_logger().warning("the image stamps have jumped back: transforms heard so far are forgotten")
            self._tf_buffer.clear()
        displaced = worker.offer(camera_set)
        with self._lock:
            self._counts.sets += 1
            self._counts.partial += not camera_set.complete
            self._counts.superseded += displaced

    # ---- the worker's thread ----------------------------------------------------------------------------------------

    def _on_work_error(self, error: Exception) -> None:
        if not self.context.ok():
            return  # the process is being ended
        with self._lock:
            self._counts.failed += 1
        text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        self.get_logger().error(f"a set of images failed:\n{text}", throttle_duration_sec=5.0)
        self._health.report("", diagnostics.NETWORK, f"a set of images failed: {type(error).__name__}: {error}")

    def _process(self, camera_set: CameraSet, stopping: threading.Event) -> None:
        """A set of images to published boxes."""
        # Only what may change at any time is taken from here; names and topics stay as configured.
        settings = parameters.read(self)
        cameras = self._settings.cameras
        work = _Work(camera_set, reference_time(camera_set.stamps, self._settings.reference_camera))
        laps = _Laps()
        self._preprocess(work)
        work.stages["preprocess"] = laps.lap()
        self._place(work, settings, stopping)
        work.stages["transforms"] = laps.lap()
        used = work.used
        needed = self._settings.min_cameras or len(cameras) // 2 + 1
        if len(used) >= needed:
            self._detect(work, settings)
            laps.lap()
        else:
            work.problems.insert(0, f"only {len(used)} of the {needed} cameras needed can be used")
        if stopping.is_set():
            return
        if work.boxes is not None:
            self._publish_boxes(work, settings)
            work.stages["publish"] = laps.lap()
        work.stages["total"] = laps.total()
        self._publish_status(work)
        if work.boxes is not None:
            self._offer_overlay(work, settings)

    def _intrinsics(self, camera: str) -> Intrinsics | None:
        entry = self._file.get(camera)
        if entry is not None and entry.camera is not None:
            return Intrinsics(entry.camera, np.eye(4))  # a file gives the pose of the camera itself
        with self._lock:
            known = self._infos.get(camera)
        return known[1] if known else None

    def _preprocess(self, work: _Work) -> None:
        """Decode and warp all images of the set, in parallel; troubles are reported by camera."""
        assert self._pool is not None
        futures = {}
        for name, message in work.camera_set.messages.items():
            intrinsics = self._intrinsics(name)
            if intrinsics is None:
                work.problems.append(f"{name}: no usable CameraInfo")
            else:
                work.intrinsics[name] = intrinsics
                futures[name] = self._pool.submit(self._preprocess_one, message, intrinsics.camera)
        for name, future in futures.items():
            try:
                work.images[name] = future.result()
            except ValueError as error:
                topic = self.resolve_topic_name(self._settings.image_topic_of(name))
                self._health.report(name, diagnostics.IMAGE, f"image on {topic} cannot be used: {error}")
                work.problems.append(f"{name}: image cannot be used: {error}")
                with self._lock:
                    self._counts.unreadable_images += 1
            else:
                self._health.clear(name, diagnostics.IMAGE)

    def _preprocess_one(self, message: Any, camera: Camera) -> tuple[np.ndarray, np.ndarray]:
        try:
            source, size = messages.image_source(message)
            if size is not None and size != (camera.width, camera.height):
                raise ValueError(
                    f"it is {size[0]}x{size[1]} pixels, but its calibration is for {camera.width}x{camera.height} "
                    "(binning and region of interest counted): calibrate for this size, or publish the right CameraInfo"
                )
            return self._detector.preprocess(source, camera)
        except cv2.error as error:
            raise ValueError(f"OpenCV cannot decode it: {' '.join(str(error).split())}") from None

    def _place(self, work: _Work, settings: Settings, stopping: threading.Event) -> None:
        """Poses of the cameras at the reference time; waits for transforms a little if they are late."""
        assert self._transforms is not None
        mounts = {}
        for name in work.images:
            entry = self._file.get(name, FileCalibration())
            with self._lock:
                info_frame = self._info_frames.get(name, "")
            frame = entry.frame_id or work.camera_set.messages[name].header.frame_id or info_frame
            mounts[name] = Mount(work.camera_set.stamps[name], frame, entry.base_T_camera)
        max_age_ns = round(settings.tf_max_age_ms * MS)
        give_up = time.monotonic() + settings.tf_timeout_ms / 1e3
        poses = None
        while poses is None:
            last = stopping.is_set() or time.monotonic() >= give_up
            poses = self._transforms.attempt(mounts, work.t_ref, max_age_ns, last)
            if poses is None:
                stopping.wait(TF_RETRY_S)
        work.poses = poses
        for name in mounts:
            text = poses.problems.get(name)
            if text is None:
                self._health.clear(name, diagnostics.TRANSFORM)
            else:
                level = WARN if name in poses.base_T_camera else ERROR
                self._health.report(name, diagnostics.TRANSFORM, text, level)
                work.problems.append(f"{name}: {text}")
        if poses.motion_problem:
            self._health.report("", diagnostics.MOTION, poses.motion_problem, WARN)
            work.problems.append(poses.motion_problem)
        else:
            self._health.clear("", diagnostics.MOTION)

    def _detect(self, work: _Work, settings: Settings) -> None:
        assert work.poses is not None
        detector, cameras = self._detector, self._settings.cameras
        image = detector.config.image
        images = np.zeros((len(cameras), image.height, image.width, 3), np.uint8)
        K = np.tile(np.eye(3), (len(cameras), 1, 1))
        base_T_camera = np.tile(np.eye(4), (len(cameras), 1, 1))
        mask = np.zeros(len(cameras), bool)
        for name in work.used:
            i = cameras.index(name)
            images[i], K[i] = work.images[name]
            base_T_camera[i] = work.poses.base_T_camera[name] @ work.intrinsics[name].frame_T_image
            mask[i] = True
        thresholds = np.array(settings.thresholds(detector.class_names))
        boxes = detector(images, K, base_T_camera, mask, score_threshold=float(thresholds.min()))
        for name, milliseconds in detector.stage_times.items():
            # The detector's "decode" is of boxes; beside image decoding that would be ambiguous.
            work.stages["decode_boxes" if name == "decode" else name] = milliseconds
        work.boxes = boxes[boxes.scores >= thresholds[boxes.labels]][: settings.max_detections]
        self._health.clear("", diagnostics.NETWORK)

    def _publish_boxes(self, work: _Work, settings: Settings) -> None:
        boxes, t_ref, frame = work.boxes, work.t_ref, self._settings.base_frame
        assert boxes is not None
        stamps = {name: work.camera_set.stamps[name] for name in work.used}
        # Messages of a hundred boxes take milliseconds to build: only for those who listen.
        if self._pub_detections.get_subscription_count():
            self._pub_detections.publish(messages.detections(boxes, t_ref, frame))
        if self._pub_objects.get_subscription_count():
            self._pub_objects.publish(messages.objects(boxes, t_ref, frame, self._settings.cameras, stamps))
        if not settings.publish_markers or not self._pub_markers.get_subscription_count():
            self._markers.restart()
        else:
            self._pub_markers.publish(
                self._markers.update(boxes, t_ref, frame, settings.marker_lifetime_s, settings.marker_text)
            )
        if settings.score_threshold != self._label_threshold:
            self._publish_labels(settings)

    def _publish_labels(self, settings: Settings) -> None:
        self._label_threshold = settings.score_threshold
        stamp = self.get_clock().now().nanoseconds
        self._pub_labels.publish(messages.label_info(self._detector.class_names, settings.score_threshold, stamp))

    def _publish_status(self, work: _Work) -> None:
        camera_set, poses, synchroniser = work.camera_set, work.poses, self._synchroniser
        now = time.monotonic()
        published, used = work.boxes is not None, work.used
        with self._lock:
            counts = self._counts
            counts.published += published
            counts.failed += not published
            if published:
                self._published_at = now
                self._arrivals = [*self._arrivals[-19:], now]
            status = DetectorStatus(
                sets=counts.sets,
                partial_sets=counts.partial,
                superseded_sets=counts.superseded,
                failed_sets=counts.failed,
                dropped_images=counts.unreadable_images,
            )
        if synchroniser is not None:
            status.dropped_images += sum(sum(by.values()) for by in synchroniser.policy.counters.dropped.values())
            status.superseded_sets += synchroniser.superseded
        status.header = messages.header(work.t_ref, self._settings.base_frame)
        status.published = published
        status.objects = len(work.boxes) if work.boxes is not None else 0
        status.cameras = list(camera_set.cameras)
        status.used = [name in used for name in camera_set.cameras]
        status.partial = len(used) < len(camera_set.cameras)
        status.motion_compensated = published and poses is not None and poses.motion_compensated
        status.sync_spread_ms = camera_set.skew_ns / MS
        status.latency_ms = (self.get_clock().now().nanoseconds - work.t_ref) / MS
        status.stages = [StageTime(name=name, milliseconds=float(value)) for name, value in work.stages.items()]
        missing = [f"{name}: no image in this set" for name in camera_set.missing]
        status.problems = [*work.problems, *missing]
        self._last_status = status
        self._pub_status.publish(status)

    # ---- overlay ----------------------------------------------------------------------------------------------------

    def _offer_overlay(self, work: _Work, settings: Settings) -> None:
        """Have a picture drawn, not by the worker: that is free for the next set at once."""
        busy = self._overlay_future is not None and not self._overlay_future.done()
        now = time.monotonic()
        if busy or self._overlay_pool is None or now - self._overlay_at < 1 / settings.overlay_rate_hz:
            return
        if not self._pub_overlay.get_subscription_count():
            return
        self._overlay_at = now
        grid = self._detector.config.grid
        self._overlay_future = self._overlay_pool.submit(self._publish_overlay, work, settings, grid)

    def _publish_overlay(self, work: _Work, settings: Settings, grid: Any) -> None:
        try:
            picture = overlay_picture(work, settings.overlay_width, grid)
            _, encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, settings.overlay_quality])
            message = CompressedImage(
                header=messages.header(work.t_ref, self._settings.base_frame), format="bgr8; jpeg compressed bgr8"
            )
            message.data = array.array("B", encoded.tobytes())
            self._pub_overlay.publish(message)
        except Exception:
            if self.context.ok():
                self.get_logger().error(f"the overlay failed:\n{traceback.format_exc()}", throttle_duration_sec=5.0)

    # ---- diagnostics ------------------------------------------------------------------------------------------------

    def _log_trouble(self, text: str, level: bytes) -> None:
        if level == ERROR:
            self.get_logger().error(text)
        else:
            self.get_logger().warning(text)

    def _on_timer(self) -> None:
        try:
            self._tell()
        except Exception:  # what leaves a callback ends rclpy.spin
            if self.context.ok():
                self.get_logger().error(f"diagnostics failed:\n{traceback.format_exc()}", throttle_duration_sec=10.0)

    def _tell(self) -> None:
        """Publish /diagnostics; while no boxes come, say in the log what is missing, one line a camera."""
        now = time.monotonic()
        active = self._worker is not None
        state = "active" if active else "unconfigured" if self._detector is None else "inactive"
        with self._lock:
            quiet = now - self._published_at
            counts, arrivals, status = self._counts, list(self._arrivals), self._last_status
            values = {
                "state": state,
                "model": self._model_name,
                "sets": str(counts.sets),
                "partial sets": str(counts.partial),
                "superseded sets": str(counts.superseded),
                "failed sets": str(counts.failed),
                "published": str(counts.published),
            }
        if len(arrivals) > 1 and arrivals[-1] > arrivals[0] and quiet < QUIET_S:
            values["rate (Hz)"] = f"{(len(arrivals) - 1) / (arrivals[-1] - arrivals[0]):.2f}"
        if status is not None:
            values["latency (ms)"] = f"{status.latency_ms:.1f}"
            values["motion compensated"] = str(status.motion_compensated)
            values.update({f"{stage.name} (ms)": f"{stage.milliseconds:.1f}" for stage in status.stages})
        troubles = [*self._health.troubles(""), *self._offset_troubles()]
        if not active and not troubles:
            troubles = [Trouble(WARN, f"the node is {state}, not active")]
        elif active and quiet > QUIET_S:
            troubles.insert(0, Trouble(ERROR, f"no boxes for {quiet:.0f} s{self._clock_hint()}"))
        elif active and not counts.published:
            troubles.insert(0, Trouble(WARN, "waiting for the first set of images"))
        elif active and status is not None and status.partial:
            lacking = [name for name, used in zip(status.cameras, status.used) if not used]
            troubles.append(Trouble(WARN, f"without {', '.join(lacking)}"))
        name = self.get_fully_qualified_name().lstrip("/")
        statuses = [diagnostics.status_message(f"{name}: detector", "", troubles, "boxes are being published", values)]
        lines = []
        for camera in self._health.cameras:
            found = self._health.troubles(camera, self.count_publishers)
            values = self._health.camera_values(camera)
            statuses.append(
                diagnostics.status_message(f"{name}: {camera}", "", found, "images and calibration arrive", values)
            )
            lines.append(f"  {camera}: " + ("; ".join(trouble.text for trouble in found) or "ok"))
        self._diagnostics.publish(diagnostics.diagnostic_array(self.get_clock().now().to_msg(), statuses))
        if active and quiet > QUIET_S and now - self._told_at >= QUIET_S:
            self._told_at = now
            head = "; ".join(trouble.text for trouble in troubles)
            self.get_logger().warning("\n".join([head, *lines]))

    def _offset_troubles(self) -> list[Trouble]:
        """Why the synchroniser emits nothing, if it does not know the cameras' time offsets."""
        synchroniser = self._synchroniser
        if synchroniser is None or not synchroniser.policy.offset_reason:
            return []
        policy = synchroniser.policy
        if policy.offset_state == AMBIGUOUS:
            return [Trouble(ERROR, f"give camera_offsets_ms, they cannot be learnt: {policy.offset_reason}")]
        return [Trouble(WARN, f"the cameras' time offsets are being learnt: {policy.offset_reason}")]

    def _clock_hint(self) -> str:
        clock = self.get_clock()
        simulated = self.has_parameter("use_sim_time") and self.get_parameter("use_sim_time").value
        return (
            "; use_sim_time is set, but no time has come on /clock"
            if simulated and clock.now().nanoseconds == 0
            else ""
        )


def overlay_picture(work: _Work, width: int, grid: Any) -> np.ndarray:
    """The network's own input images with the boxes drawn in, enlarged, beside the view from above; ``width``
    pixels wide."""
    assert work.boxes is not None and work.poses is not None
    cell = max(160, width // 5)  # three cameras and the view from above share the width
    pictures: dict[str, np.ndarray | None] = {}
    poses = {}
    for name in work.used:
        image, K = work.images[name]
        scale = max(1, round(cell / image.shape[1]))
        height, wide = image.shape[0] * scale, image.shape[1] * scale
        large = cv2.resize(image, (wide, height), interpolation=cv2.INTER_LINEAR)
        poses[name] = work.poses.base_T_camera[name]
        camera = Camera(K=resize_matrix(scale, scale) @ K, width=wide, height=height)
        pictures[name] = draw_boxes(large, work.boxes, camera, poses[name])
    above = draw_bev(work.boxes, grid_range=(grid.x_min, grid.x_max, grid.y_min, grid.y_max), size_px=600)
    picture = mosaic(pictures, poses, above, cell_width=cell)
    height = max(1, round(picture.shape[0] * width / picture.shape[1]))
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)


# --------------------------------------------------------------------------------------------------------------- main


def _load_detector(path: str, device: str) -> Any:
    from bevdistill_ros.detector import Detector

    return Detector.from_checkpoint(path, device)


def _device(name: str) -> str:
    if name != "auto":
        return name
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _ros_arguments(call: Callable[[], Any]) -> Any:
    """What ``call`` returns; a mistake in the ROS arguments, of an exception that rclpy does not export, as UserError."""
    try:
        return call()
    except Exception as error:
        raise UserError(f"ROS arguments: {' '.join(str(error).split())}") from None


def main(argv: Sequence[str] | None = None, load_detector: LoadDetector | None = None) -> int:
    """Run the node until it is told to end: exit status 0.

    Raises:
        UserError: it could not start.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="bevdistill detector",
        description="The ROS 2 node: six (or any number of) camera topics in, 3-D boxes out. "
        "Parameters are given the ROS way.",
        epilog="example: bevdistill detector --ros-args -p model:=model.safetensors -p fixed_frame:=odom "
        "(every parameter is explained in config/detector.yaml)",
    )
    parser.parse_args(_ros_arguments(lambda: rclpy.utilities.remove_ros_args([parser.prog, *argv]))[1:])

    # rclpy's handlers end the context, which ends spin(). Python's own would raise KeyboardInterrupt as well,
    # anywhere: a second Ctrl-C in the middle of the clean-up. rclpy chains to what it finds, so ours come first.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    node = None
    try:
        _ros_arguments(lambda: rclpy.init(args=argv))
        node = DetectorNode(load_detector)
        if node.autostart and not node.start():
            if rclpy.ok():
                raise UserError(node.failure)
            return 0
        rclpy.spin(node)
    except ExternalShutdownException:
        pass
    except Exception:
        if rclpy.ok():
            raise
        # Told to end in the middle of a transition: whatever it tried then could not be done any more.
    finally:
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()
        # The process is ending; signals that come while the interpreter takes itself apart would only spoil its exit
        # status.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
    return 0
