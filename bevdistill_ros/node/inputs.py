"""What the node hears of its cameras: CameraInfos for the calibration, images for sets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import message_filters
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy, qos_policy_name_from_kind
from rclpy.validate_full_topic_name import validate_full_topic_name
from rclpy.validate_topic_name import validate_topic_name
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from bevdistill_ros.errors import UserError
from bevdistill_ros.node import diagnostics
from bevdistill_ros.node.calibration import CalibrationStore
from bevdistill_ros.node.camera_synchroniser import CameraSynchroniser
from bevdistill_ros.node.diagnostics import Health
from bevdistill_ros.node.parameters import Settings
from bevdistill_ros.node.pictures import Repeats
from bevdistill_ros.node.refusal import making
from bevdistill_ros.stamps import header_ns
from bevdistill_ros.synchroniser import CameraSet, Synchroniser

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # Humble's place for it
    from rclpy.qos_event import SubscriptionEventCallbacks


def check_topics(node: Node, settings: Settings) -> None:
    """See to it that the parameters give topic names.

    Raises:
        UserError: one is none. The text names the camera.
    """
    for camera in settings.cameras:
        for topic in (settings.image_topic_of(camera), settings.camera_info_topic_of(camera)):
            try:
                validate_topic_name(topic)
                validate_full_topic_name(node.resolve_topic_name(topic))
            except Exception as error:  # several kinds, of which not all are exported
                text = " ".join(str(error).split())
                raise UserError(f"camera '{camera}': '{topic}' is no topic name: {text}") from None


class CameraInputs:
    """The subscriptions to all cameras, and the grouping of their images into sets.

    Args:
        node: theirs.
        settings: as configured, with all cameras named.
        topics: full names by camera, for the texts of troubles: (image, CameraInfo or '' where none is needed).
        policy: which images make a set; its counters and offset state are there for diagnostics.
        calibration: gets the CameraInfos.
        health: gets the arrivals and the troubles.
        repeats: sees every image.
        on_set: gets every set, in the executor's thread.
    """

    def __init__(
        self,
        node: Node,
        settings: Settings,
        topics: Mapping[str, tuple[str, str]],
        policy: Synchroniser,
        calibration: CalibrationStore,
        health: Health,
        repeats: Repeats,
        on_set: Callable[[CameraSet], None],
    ) -> None:
        self._node = node
        self._settings = settings
        self._topics = topics
        self.policy = policy
        self._calibration = calibration
        self._health = health
        self._repeats = repeats
        self._on_set = on_set
        self._subscriptions: list[Any] = []
        self._synchroniser: CameraSynchroniser | None = None

    @property
    def superseded(self) -> int:
        """Sets dropped because ``on_set`` was still busy with older ones."""
        return self._synchroniser.superseded if self._synchroniser else 0

    def open(self) -> None:
        """Subscribe. If that fails midway, ``close`` undoes what there is."""
        settings = self._settings
        reliability = (
            ReliabilityPolicy.BEST_EFFORT if settings.reliability == "best_effort" else ReliabilityPolicy.RELIABLE
        )
        qos = QoSProfile(depth=settings.queue_depth, history=HistoryPolicy.KEEP_LAST, reliability=reliability)
        image_type = CompressedImage if settings.image_transport == "compressed" else Image
        filters = {}
        # Names are given as the parameters have them: rclpy resolves them, and would remap full ones a second time.
        for name, (image_topic, info_topic) in self._topics.items():
            if info_topic:
                with making(f"a subscription of {info_topic}"):
                    subscription = self._node.create_subscription(
                        CameraInfo,
                        settings.camera_info_topic_of(name),
                        lambda message, name=name: self._on_info(name, message),
                        qos,
                        event_callbacks=self._qos_events(name, info_topic),
                    )
                self._subscriptions.append(subscription)
            with making(f"a subscription of {image_topic}"):
                filters[name] = message_filters.Subscriber(
                    self._node,
                    image_type,
                    settings.image_topic_of(name),
                    qos_profile=qos,
                    event_callbacks=self._qos_events(name, image_topic),
                )
            self._subscriptions.append(filters[name].sub)
            # Registered before the synchroniser, so that an image is seen before its set is worked on.
            filters[name].registerCallback(self._on_image, name)
        self._synchroniser = CameraSynchroniser(self._node, filters, self.policy)
        self._synchroniser.registerCallback(self._on_set)

    def close(self) -> None:
        """No image or set after this. Repeatable."""
        synchroniser, self._synchroniser = self._synchroniser, None
        if synchroniser is not None:
            synchroniser.destroy()
        subscriptions, self._subscriptions = self._subscriptions, []
        for subscription in subscriptions:
            self._node.destroy_subscription(subscription)

    def _qos_events(self, camera: str, topic: str) -> SubscriptionEventCallbacks:
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
                f"a publisher of {topic} offers incompatible QoS ({policy}), nothing comes of it: {advice}",
            )

        return SubscriptionEventCallbacks(incompatible_qos=incompatible)

    def _on_info(self, camera: str, info: CameraInfo) -> None:
        self._health.info_seen(camera)
        try:
            changed = self._calibration.hear(camera, info)
        except ValueError as error:
            topic = self._topics[camera][1]
            self._health.report(camera, diagnostics.CAMERA_INFO, f"CameraInfo on {topic} is unusable: {error}")
            return
        if changed:
            self._health.clear(camera, diagnostics.CAMERA_INFO)
            self._node.get_logger().info(f"{camera}: the calibration has changed")

    def _on_image(self, message: Any, camera: str) -> None:
        self._health.image_seen(camera)
        self._repeats.see(camera, header_ns(message), message.data)
        if message.header.stamp.sec == 0 and message.header.stamp.nanosec == 0:
            topic = self._topics[camera][0]
            self._health.report(
                camera,
                diagnostics.STAMP,
                f"images on {topic} have a zero header.stamp and cannot be used: the driver must fill it",
            )
        else:
            self._health.clear(camera, diagnostics.STAMP)
