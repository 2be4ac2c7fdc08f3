"""Stand-in for tf2_ros where no ROS 2 is installed: the transform buffer, listener and broadcasters, in plain Python.

It is here so that bevdistill_ros runs and is tested against the ROS 2 wheels alone. Where a real tf2_ros is installed,
that one is used. Names, arguments, defaults, topics, QoS and exceptions are upstream's; the action client and the
registry of transformable types are left out.
"""

from tf2_ros.broadcasters import StaticTransformBroadcaster, TransformBroadcaster
from tf2_ros.buffer import Buffer, BufferInterface
from tf2_ros.exceptions import (
    ConnectivityException,
    ExtrapolationException,
    InvalidArgumentException,
    LookupException,
    TimeoutException,
    TransformException,
)
from tf2_ros.transform_listener import TransformListener

__all__ = [
    "Buffer",
    "BufferInterface",
    "ConnectivityException",
    "ExtrapolationException",
    "InvalidArgumentException",
    "LookupException",
    "StaticTransformBroadcaster",
    "TimeoutException",
    "TransformBroadcaster",
    "TransformException",
    "TransformListener",
]
