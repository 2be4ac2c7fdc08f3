"""Stand-in for cv_bridge where no ROS 2 is installed: CvBridge for the common encodings, in plain Python.

It is here so that bevdistill_ros runs and is tested against the ROS 2 wheels alone. Where a real cv_bridge is
installed, that one is used.
"""

from cv_bridge.core import CvBridge, CvBridgeError

__all__ = ["CvBridge", "CvBridgeError"]
