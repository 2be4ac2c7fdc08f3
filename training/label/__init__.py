"""The verb ``label``: a trained teacher writes boxes into a dataset that has none."""

from bevdistill_ros.training.label.command import build_parser, main

__all__ = ["build_parser", "main"]
