"""The ROS 2 side: everything here needs rclpy; nothing outside of this folder does."""
