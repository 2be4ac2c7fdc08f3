"""The envelope of the files in benchmark/results: what was run, on which commit, when, where, and what it gave."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from bevdistill_ros.files import write_atomically
from bevdistill_ros.hardware import hardware

REPOSITORY = Path(__file__).resolve().parent.parent


def write_result(path: str | Path, figures: dict[str, Any], command: str | None = None) -> None:
    """Write `figures` (JSON values) with their envelope to `path`, atomically.

    `command`: how the figures are made again, without paths of this machine; by default this process's own command
    line.
    """
    result = {
        "command": command or command_line(),
        "commit": commit(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "hardware": hardware(),
        "figures": figures,
    }
    write_atomically(path, json.dumps(result, indent=2, allow_nan=False) + "\n")


def command_line(arguments: list[str] | None = None) -> str:
    """This process's command: paths inside the repository relative to it, of others the last part, or two of files."""

    def portable(argument: str) -> str:
        option, separator, value = argument.partition("=") if argument.startswith("-") else ("", "", argument)
        if os.path.isabs(value):
            absolute = Path(value)
            inside = absolute.is_relative_to(REPOSITORY)
            kept = 2 if absolute.suffix else 1  # of files their folder, too: many have one name
            value = str(absolute.relative_to(REPOSITORY) if inside else Path(*absolute.parts[-kept:]))
        return option + separator + value

    script, *rest = sys.argv if arguments is None else arguments
    if script.endswith(".py"):
        script = str(Path(script).resolve())
    words = [portable(script), *map(portable, rest)]
    return shlex.join((["python"] if words[0].endswith(".py") else []) + words)


def commit() -> str:
    """The commit checked out, "+changes" where the tree differs from it (results apart); "none" outside of git."""

    def git(*arguments: str) -> str:
        run = subprocess.run(["git", *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=True)
        return run.stdout.strip()

    try:
        head = git("rev-parse", "HEAD")
        changed = git("status", "--porcelain", "--", ".", ":!benchmark/results")
    except (OSError, subprocess.CalledProcessError):
        return "none"
    return head + ("+changes" if changed else "")
