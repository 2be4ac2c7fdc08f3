"""Where the files that the package ships lie, however it was installed."""

from __future__ import annotations

from pathlib import Path

from bevdistill_ros.errors import UsageError, UserError

PACKAGE = "bevdistill_ros"
DEFAULT_MODEL = "nano"
"""The shipped weights that are used where nothing else is asked for."""


def share_directory() -> Path:
    """The folder that holds `config/` and `weights/`.

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


def model_path(model: str | Path) -> Path:
    """The checkpoint file that is meant: a bare word, as `nano`, names weights that the package ships; anything else is a path.

    A word is bare without a folder and without a suffix: a file of that name is given as `./nano`.

    Raises:
        UserError: there is no such file.
        UsageError: no such weights were shipped; the text says which were.
    """
    text = str(model)
    if text == "." or "/" in text or Path(text).suffix:
        if not Path(text).is_file():
            raise UserError(f"{text}: no such checkpoint file")
        return Path(text)
    folder = share_directory() / "weights"
    path = folder / f"{text}.safetensors"
    if path.is_file():
        return path
    shipped = sorted(file.stem for file in folder.glob("*.safetensors"))
    held = (
        f"shipped are {', '.join(shipped)}"
        if shipped
        else f"{folder} holds none: this installation came without weights"
    )
    raise UsageError(f"model '{text}': no shipped weights of this name ({held}); give the path of a checkpoint file")


def large_segment() -> dict[str, str]:
    """Environment for a process that publishes images: room for six at once in Fast DDS's shared memory."""
    return _fastdds_profile("fastdds_large_segment.xml")


def small_queues() -> dict[str, str]:
    """Environment for a process that subscribes to images: Fast DDS frees what their queues took once they are taken."""
    return {"RMW_FASTRTPS_USE_QOS_FROM_XML": "1", **_fastdds_profile("fastdds_small_queues.xml")}


def _fastdds_profile(file: str) -> dict[str, str]:
    """Each version of Fast DDS has a variable of its own."""
    profile = str(share_directory() / "config" / file)
    return {"FASTRTPS_DEFAULT_PROFILES_FILE": profile, "FASTDDS_DEFAULT_PROFILES_FILE": profile}
