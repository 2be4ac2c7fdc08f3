"""The packages below ROS 2 are tested where ROS 2 is: without it, nothing here is collected."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("rclpy") else ["test_*.py"]
