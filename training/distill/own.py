"""A user's distillation method: one Python file."""

from __future__ import annotations

import importlib.util
import inspect
import sys
import traceback
from pathlib import Path

from bevdistill_ros.errors import UserError
from bevdistill_ros.models.bev_network import BevNetwork
from bevdistill_ros.training.distill.config import OwnMethodConfig
from bevdistill_ros.training.distill.method import Method

MODULE = "bevdistill_own_method"
"""Name that the file has as a module."""


def load_own_method(config: OwnMethodConfig, student: BevNetwork, teacher: BevNetwork) -> Method:
    """Make the ``Method`` that a file defines, as ``TheClass(settings, student, teacher)``.

    Raises:
        UserError: there is no such file, it does not define one such class, or making it failed.
    """
    where = f"training.distill.own.file {config.file}"
    if not Path(config.file).is_file():
        raise UserError(f"{where}: no such file")
    spec = importlib.util.spec_from_file_location(MODULE, config.file)
    if spec is None or spec.loader is None:
        raise UserError(f"{where}: is no Python file; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[MODULE] = module  # dataclasses in the file look it up
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(f"{where}: {_what(error, config.file)}") from error
    own = [
        value
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, Method) and value.__module__ == MODULE
    ]
    if len(own) != 1:
        found = f"{', '.join(c.__name__ for c in own)}" if own else "none"
        raise UserError(f"{where}: must define one class that derives from {Method.__module__}.Method; it has {found}")
    try:
        return own[0](config.settings, student, teacher)
    except Exception as error:
        raise UserError(f"{where}: {_what(error, config.file)}") from error


def _what(error: Exception, file: str) -> str:
    """The error in one line, with the line of the file where it happened."""
    text = f"{type(error).__name__}: {' '.join(str(error).split())}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f"line {lines[-1]}: {text}" if lines else text
