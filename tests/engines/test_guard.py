"""Processes that an engine starts do not outlive it, nor a killed owner."""

import subprocess
import sys
import time

import pytest

from rlaif.engines.guard import ProcessGuard

SLEEP = [sys.executable, "-S", "-c", "import time; time.sleep(60)"]

OWNER = f"""
import subprocess, time
from rlaif.engines.guard import ProcessGuard
guard = ProcessGuard()
with guard:
    child = subprocess.Popen({SLEEP!r}, start_new_session=True)
print(child.pid, flush=True)
time.sleep(60)
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def test_ending_kills_what_was_started_inside_and_nothing_else():
    guard = ProcessGuard()
    with guard:
        inside = subprocess.Popen(SLEEP)
    outside = subprocess.Popen(SLEEP)
    time.sleep(0.2)
    guard.end()
    assert inside.wait(5) == -9
    assert outside.poll() is None
    outside.kill()
    outside.wait()


def test_a_killed_owner_takes_its_processes_along():
    owner = subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True)
    child = int(owner.stdout.readline())
    assert _is_running(child)
    owner.kill()
    owner.wait()
    owner.stdout.close()
    deadline = time.monotonic() + 10
    while _is_running(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _is_running(child)


def _is_running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
