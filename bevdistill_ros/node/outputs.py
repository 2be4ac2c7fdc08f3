"""What the node publishes of a set: boxes in three messages, the classes, and a picture with the boxes drawn in."""

from __future__ import annotations

import array
import time
import traceback
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CompressedImage
from vision_msgs.msg import Detection3DArray, LabelInfo
from visualization_msgs.msg import MarkerArray

from bevdistill_ros.geometry import BevGrid, Camera, resize_matrix
from bevdistill_ros.msg import DetectedObjectArray, DetectorStatus
from bevdistill_ros.node import markers, messages, wire
from bevdistill_ros.node.markers import MarkerTracker
from bevdistill_ros.node.parameters import Settings
from bevdistill_ros.node.refusal import making
from bevdistill_ros.node.set_pipeline import SetResult
from bevdistill_ros.visualise import draw_bev, draw_boxes, mosaic

_KEPT = 30
"""Sets of boxes for which a reliable listener may be held up and still get them all: three seconds at 10 Hz. The depth of his own
queue does not help him beyond that."""


class Outputs:
    """The publishers of results, and what must be remembered from one message to the next.

    They exist while the node is configured, and let messages through while it is active. They are made only for those who
    listen, and arrays of boxes as bytes, which takes a fraction of a millisecond, or milliseconds where that cannot be done.

    Args:
        node: theirs.
        settings: as configured, with all cameras named.
        detector: as ``bevdistill_ros.detector.Detector``, for its classes and the area in which it looks.
    """

    def __init__(self, node: LifecycleNode, settings: Settings, detector: Any) -> None:
        self._node = node
        self._cameras, self._frame = settings.cameras, settings.base_frame
        self._detector = detector
        self._publishers: list[Any] = []
        self._overlay_pool = ThreadPoolExecutor(1, thread_name_prefix="overlay")
        if wire.agrees():
            self._make_detections, self._make_objects, self._make_markers = wire.detections, wire.objects, wire.markers
        else:
            self._make_detections, self._make_objects = messages.detections, messages.objects
            self._make_markers = markers.marker_array
            node.get_logger().info(
                "this middleware's encoding is not known: messages are made one field after the other"
            )
        self.restart()
        try:
            self._detections = self._publisher(Detection3DArray, "~/detections", _KEPT)
            self._objects = self._publisher(DetectedObjectArray, "~/objects", _KEPT)
            latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
            self._labels = self._publisher(LabelInfo, "~/labels", latched)
            self._markers = self._publisher(MarkerArray, "~/markers", 5)
            self.status = self._publisher(DetectorStatus, "~/status", _KEPT)
            """Publisher of what became of every set, also of those without boxes; the node knows what to say."""
            self._overlay = self._publisher(CompressedImage, "~/overlay/compressed", 1)
        except Exception:
            self.close()
            raise

    def _publisher(self, message: type, topic: str, qos: QoSProfile | int) -> Any:
        with making(f"a publisher of {topic}"):
            publisher = self._node.create_lifecycle_publisher(message, topic, qos)
        self._publishers.append(publisher)
        return publisher

    def restart(self) -> None:
        """Forget what was published; for each activation."""
        self._tracker = MarkerTracker()
        self._label_threshold: float | None = None
        self._overlay_future: Future | None = None
        self._overlay_at = 0.0

    def close(self) -> None:
        """Destroy the publishers. Repeatable."""
        self._overlay_pool.shutdown(wait=True, cancel_futures=True)
        publishers, self._publishers = self._publishers, []
        for publisher in publishers:
            self._node.destroy_lifecycle_publisher(publisher)

    def publish_boxes(self, result: SetResult, settings: Settings) -> None:
        """Publish the boxes, and the classes' threshold if ``settings``, the present ones, have a new one."""
        boxes, t_ref = result.boxes, result.t_ref
        assert boxes is not None
        stamps = {name: result.camera_set.stamps[name] for name in result.used}
        if self._detections.get_subscription_count():
            self._detections.publish(self._make_detections(boxes, t_ref, self._frame))
        if self._objects.get_subscription_count():
            self._objects.publish(self._make_objects(boxes, t_ref, self._frame, self._cameras, stamps))
        if not settings.publish_markers or not self._markers.get_subscription_count():
            self._tracker.restart()
        else:
            lifetime, text = settings.marker_lifetime_s, settings.marker_text
            scene = self._tracker.advance(boxes, t_ref, self._frame, lifetime, text)
            self._markers.publish(self._make_markers(scene))
        if settings.score_threshold != self._label_threshold:
            self.publish_labels(settings)

    def publish_labels(self, settings: Settings) -> None:
        """Publish the classes' names, and from which score on boxes are published."""
        self._label_threshold = settings.score_threshold
        stamp = self._node.get_clock().now().nanoseconds
        self._labels.publish(messages.label_info(self._detector.class_names, settings.score_threshold, stamp))

    def clear_markers(self) -> None:
        """Have RViz remove what it shows."""
        self._tracker.restart()
        if self._markers.get_subscription_count():
            self._markers.publish(markers.nothing(self._node.get_clock().now().nanoseconds, self._frame))

    # ---- overlay ----------------------------------------------------------------------------------------------------

    def offer_overlay(self, result: SetResult, settings: Settings) -> None:
        """Have a picture drawn if it is time for one, not by the caller: that is free for the next set at once."""
        busy = self._overlay_future is not None and not self._overlay_future.done()
        now = time.monotonic()
        if busy or now - self._overlay_at < 1 / settings.overlay_rate_hz:
            return
        if not self._overlay.get_subscription_count():
            return
        self._overlay_at = now
        self._overlay_future = self._overlay_pool.submit(self._publish_overlay, result.keep(), settings)

    def _publish_overlay(self, result: SetResult, settings: Settings) -> None:
        try:
            picture = _overlay_picture(result, settings.overlay_width, self._detector.config.grid)
            _, encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, settings.overlay_quality])
            message = CompressedImage(
                header=messages.header(result.t_ref, self._frame), format="bgr8; jpeg compressed bgr8"
            )
            message.data = array.array("B", encoded.tobytes())
            self._overlay.publish(message)
        except Exception:
            if self._node.context.ok():
                self._node.get_logger().error(
                    f"the overlay failed:\n{traceback.format_exc()}", throttle_duration_sec=5.0
                )


def _overlay_picture(result: SetResult, width: int, grid: BevGrid) -> np.ndarray:
    """The network's own input images with the boxes drawn in, enlarged, beside the view from above; ``width``
    pixels wide."""
    assert result.boxes is not None and result.poses is not None
    cell = max(160, width // 5)  # three cameras and the view from above share the width
    pictures: dict[str, np.ndarray | None] = {}
    poses = {}
    for name in result.used:
        image, K = result.images[name]
        scale = max(1, round(cell / image.shape[1]))
        height, wide = image.shape[0] * scale, image.shape[1] * scale
        large = cv2.resize(image, (wide, height), interpolation=cv2.INTER_LINEAR)
        poses[name] = result.poses.base_T_camera[name]
        camera = Camera(K=resize_matrix(scale, scale) @ K, width=wide, height=height)
        pictures[name] = draw_boxes(large, result.boxes, camera, poses[name])
    above = draw_bev(result.boxes, grid_range=(grid.x_min, grid.x_max, grid.y_min, grid.y_max), size_px=600)
    picture = mosaic(pictures, poses, above, cell_width=cell)
    height = max(1, round(picture.shape[0] * width / picture.shape[1]))
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
