"""What is wrong with a rig: pure checks from recorded facts to findings, a table of them, and a picture. Without ROS."""
