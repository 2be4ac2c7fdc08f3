"""Message types that the ``rosbags`` library does not know, from the definitions installed on this machine."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from bevdistill_ros.errors import UserError

if TYPE_CHECKING:
    from rosbags.typesys.store import Typestore


def register_installed(store: Typestore, packages: Iterable[str]) -> None:
    """Add to ``store`` those messages of ROS packages that it lacks.

    Raises:
        UserError: a package is not installed, or not sourced.
    """
    from ament_index_python.packages import get_package_share_directory
    from rosbags.typesys import get_types_from_msg

    for package in packages:
        try:
            folder = Path(get_package_share_directory(package)) / "msg"
        except LookupError:
            raise UserError(f"the ROS package {package} is not installed, or its setup file is not sourced") from None
        for path in sorted(folder.glob("*.msg")):
            name = f"{package}/msg/{path.stem}"
            if name not in store.types:
                store.register(get_types_from_msg(path.read_text(encoding="utf-8"), name))
