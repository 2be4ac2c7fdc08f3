"""Short names that tell several checkpoint files apart."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from bevdistill_ros.errors import UserError


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """As much of the end of each path, without its suffix, as no other has: `a/model` and `b/model`, or `nano` and `small`.

    Raises:
        UserError: a file is named twice.
    """
    parts = [Path(os.path.abspath(path)).with_suffix("").parts[1:] for path in paths]
    for index, path in enumerate(paths):
        if any(path.samefile(other) for other in paths[:index]):
            raise UserError(f"{path}: this checkpoint is named twice")
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(own[-length:]) for own in parts]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]  # they differ in their suffix alone
