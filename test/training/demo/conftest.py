"""The world's fake drive, importable by name in this process and in those that it spawns."""

from __future__ import annotations

import sys
from pathlib import Path

WORLD = str(Path(__file__).resolve().parent.parent / "world")
if WORLD not in sys.path:
    sys.path.append(WORLD)
