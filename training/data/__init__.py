"""Datasets: the nuScenes schema, and what is converted to and from it."""
