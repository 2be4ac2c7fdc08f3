"""Where the files that the package ships lie, however it was installed."""

from __future__ import annotations

from pathlib import Path

from bevdistill_ros.errors import UserError

PACKAGE = "bevdistill_ros"


def share_directory() -> Path:
    """The folder that holds `config/`.

    It is looked for beside the module (`pip install`), in the ament index (colcon), and at the root of the source
    tree (`pip install -e`). Raises UserError where none of them has it.
    """
    module = Path(__file__).absolute().parent
    candidates = [module / "share"]
    try:
        from ament_index_python.packages import get_package_share_directory

        candidates.append(Path(get_package_share_directory(PACKAGE)))
    except (ImportError, LookupError, OSError):
        pass  # no ROS 2 here, or its environment does not hold this package
    if (module.parent / "package.xml").is_file():
        candidates.append(module.parent)
    for candidate in candidates:
        if (candidate / "config").is_dir():
            return candidate
    tried = ", ".join(str(candidate / "config") for candidate in candidates)
    raise UserError(
        f"the configuration files of {PACKAGE} are missing (looked for {tried}): install the package again, "
        "or source the workspace's install/setup.bash"
    )
