"""Verbs of the package as processes of their own, which end with whoever started them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from bevdistill_ros.errors import UserError

TOLD_TO_END_S = 15.0
"""After so long, a program that was told to end is killed."""

LOG_LINES = 15
"""Of a program that failed, so many of its last lines are shown."""

VERB = "import sys; from bevdistill_ros.cli import main; sys.exit(main())"


class Program:
    """``bevdistill VERB ...``, or another program, in a process; a context manager, which ends it.

    Args:
        name: for messages, and of its log file.
        arguments: the verb and what follows. Paths must be absolute: the process runs in ``log_folder``.
        log_folder: NAME.log gets what it prints.
        environment: variables set for it besides our own.
        program: what is run with the arguments; None: ``bevdistill``.
    """

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        log_folder: Path,
        environment: Mapping[str, str] | None = None,
        program: Sequence[str] | None = None,
    ) -> None:
        self.name = name
        self.log = log_folder / f"{name}.log"
        self._command = [*(program or (sys.executable, "-c", VERB)), *arguments]
        self._environment = dict(environment or {})

    def __enter__(self) -> Program:
        with open(self.log, "wb") as log:
            # In the folder of logs, because Python imports from the working directory, where sources may lie.
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.log.parent,
                env={**os.environ, **self._environment, "PYTHONUNBUFFERED": "1"},
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.terminate()
        try:
            self._process.wait(TOLD_TO_END_S)
        except BaseException:  # too late, or we are interrupted once more
            self._process.kill()
            self._process.wait()
            if sys.exc_info()[0] is not subprocess.TimeoutExpired:
                raise

    def has_ended(self) -> bool:
        """Whether it has come to its end well.

        Raises:
            UserError: it has failed. The text has the last lines of its log.
        """
        status = self._process.poll()
        if status:
            how = f"signal {-status}" if status < 0 else f"exit status {status}"
            raise self.failure(f"ended with {how}")
        return status == 0

    def check_running(self) -> None:
        """Raise UserError if it has ended, well or not."""
        if self.has_ended():
            raise self.failure("ended early")

    def failure(self, what: str) -> UserError:
        """An error that says ``what`` the program did, and how its log ends."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:]
        said = "\n".join(f"    {line}" for line in lines) if lines else "    (nothing)"
        return UserError(f"the {self.name} {what}; its log {self.log} ends with\n{said}")
