"""The verb ``convert``: recordings from one form into another."""

from bevdistill_ros.training.convert.command import build_parser, main

__all__ = ["build_parser", "main"]
