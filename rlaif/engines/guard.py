"""Ends the processes that an engine started, even when this process is killed and can not do it itself (Linux)."""

import os
import subprocess
import sys
import uuid
from typing import Self

MARKER = "RLAIF_ENGINE"

WATCH = """
import os, signal, sys, time
marker = sys.argv[1].encode()

def kill_marked():
    starting = False
    for folder in os.listdir("/proc"):
        if folder.isdigit() and int(folder) != os.getpid():
            try:
                with open(f"/proc/{folder}/environ", "rb") as file:
                    environment = file.read()
                if marker in environment.split(b"\\0"):
                    os.kill(int(folder), signal.SIGKILL)
                elif not environment:
                    starting = bool(os.readlink(f"/proc/{folder}/exe")) or starting
            except OSError:
                pass
    return starting

sys.stdin.read()
for _ in range(100):
    if not kill_marked():
        break
    time.sleep(0.01)
"""
"""Reads its standard input, which ends when the owner closes it or dies, and then kills every marked process.

A process that is just being started has a program and no environment yet, and is looked at again, for a second at most.
"""


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
