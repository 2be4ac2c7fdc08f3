"""A synthetic world: drives of a six-camera car with LiDAR through random streets, rendered by MuJoCo."""
