"""Training and evaluation; installed as ``bevdistill_ros.training``."""
