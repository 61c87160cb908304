"""Ends the processes that an engine started, even when this process is killed and can not do it itself (Linux)."""

import os
import subprocess
import sys
import uuid
from typing import Self

MARKER = "RLAIF_ENGINE"

WATCH = """
import os, signal, sys
marker = sys.argv[1].encode()
sys.stdin.read()
for folder in os.listdir("/proc"):
    if folder.isdigit() and int(folder) != os.getpid():
        try:
            with open(f"/proc/{folder}/environ", "rb") as file:
                marked = marker in file.read().split(b"\\0")
            if marked:
                os.kill(int(folder), signal.SIGKILL)
        except OSError:
            pass
"""
"""Reads its standard input, which ends when the owner closes it or dies, and then kills every marked process."""


class ProcessGuard:
    """Processes started inside `with guard:` live until `end()`, and no longer than this process."""

    def __init__(self) -> None:
        self._mark = uuid.uuid4().hex
        self._watcher = subprocess.Popen(
            [sys.executable, "-S", "-c", WATCH, f"{MARKER}={self._mark}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # so that Ctrl-C in the terminal does not end it first
        )

    def __enter__(self) -> Self:
        """Marks what is started from here on: children inherit the environment."""
        os.environ[MARKER] = self._mark
        return self

    def __exit__(self, *error: object) -> None:
        os.environ.pop(MARKER, None)

    def end(self) -> None:
        """Kills what is left of the marked processes."""
        if self._watcher.stdin is not None:
            self._watcher.stdin.close()
        self._watcher.wait()
