"""File names out of tables, kept inside the folder that they are for."""

from __future__ import annotations

from pathlib import Path, PurePosixPath, PureWindowsPath

from bevdistill_ros.errors import UserError, brief


def inside(root: str | Path, name: object, where: str) -> Path:
    """``root / name``, for a relative name without '..' as tables have them.

    Links in the dataset's folder are its owner's own, and are followed.

    Args:
        where: what gives the name, for the message, e.g. "v1.0-mini/sample_data.json: filename".

    Raises:
        UserError: the name leads elsewhere, or is none.
    """
    if isinstance(name, str) and name and name.isprintable():
        parts = PurePosixPath(name).parts
        if (
            parts
            and not name.startswith("/")
            and ".." not in parts
            and not PureWindowsPath(name).drive
            and "\\" not in name
        ):
            return Path(root) / name
    raise UserError(f"{where} {brief(name)}: must be the name of a file inside of {root}, without '..'")


def plain_name(name: object, where: str) -> str:
    """A name that is to be part of a file's name.

    Raises:
        UserError: it would lead to another folder, or is none; ``where`` as of ``inside``.
    """
    if (
        isinstance(name, str)
        and 0 < len(name) <= 200
        and name.isprintable()
        and not set(name) & set("/\\")
        and name not in (".", "..")
    ):
        return name
    raise UserError(f"{where} {brief(name)}: must be a plain name, without '/', as files are named after it")
