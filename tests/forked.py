"""Processes that start at once: each is forked from one that has imported what training needs, and has computed nothing.

Those imports take longer than most tests. What hangs on the start itself (imports, torchrun, signals) is tested in processes
started the ordinary way.
"""

import atexit
import gc
import multiprocessing
import os
import runpy
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "matplotlib.backends.backend_agg", "matplotlib.figure", "peft", "rlaif.cli", "rlaif.engines.transformers",
        "rlaif.recipes.run", "rlaif.training.online.session", "rlaif.training.session", "torch.utils.tensorboard",
        "transformers.data", "transformers.models.llama.modeling_llama", "transformers.trainer",
    ]
)  # fmt: skip
PRINTED = ("out", "err")
LONGEST_SECONDS = 240.0
GRACE_SECONDS = 5.0
"""What the others of a group have to end by themselves once one of them has failed."""


class Forked:
    """A process, and what it prints."""

    def __init__(self, process: BaseProcess, arguments: Sequence[str], printed: Path) -> None:
        self.process, self.arguments, self.printed = process, arguments, printed

    @property
    def returncode(self) -> int | None:
        """As of a Popen: None while it runs, negative after a signal."""
        return self.process.exitcode

    def kill(self) -> None:
        self.process.kill()

    def ended(self, seconds: float = LONGEST_SECONDS) -> "CompletedProcess[str]":
        """Waits for its end. Raises AssertionError with what it printed, and kills it, if that takes too long."""
        self.process.join(seconds)
        out, err = (self.printed.joinpath(name).read_text(errors="replace") for name in PRINTED)
        shutil.rmtree(self.printed)
        if self.process.exitcode is None:
            self.process.kill()
            raise AssertionError(
                f"{self.arguments} has not ended in {seconds:g} seconds:\n{out[-2000:]}\n{err[-6000:]}"
            )
        return CompletedProcess(self.arguments, self.process.exitcode, out, err)


def start(*arguments: str, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Forked:
    """Starts `python *arguments`, of the form -c CODE ... or -m MODULE ...; env: variables beside those of this process."""
    printed = Path(tempfile.mkdtemp(prefix="forked-"))
    for name in PRINTED:
        (printed / name).touch()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **(env or {})}
    process = CONTEXT.Process(target=_enter, args=(arguments, environment, str(cwd or Path.cwd()), str(printed)))
    process.start()
    atexit.register(process.kill)  # whatever a failed test leaves
    return Forked(process, arguments, printed)


def run(*arguments: str, **places: Any) -> "CompletedProcess[str]":
    """As `start`, and waits for the end."""
    return start(*arguments, **places).ended()


def run_group(count: int, *arguments: str, env: Mapping[str, str] | None = None) -> "CompletedProcess[str]":
    """Runs the same in `count` processes that torch.distributed knows as one group, as torchrun does.

    If one fails, or they take too long, those that are left are killed. Gives the first status that is not 0, and what all of
    them printed.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    group = {
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    members = [
        start(*arguments, env={**(env or {}), **group, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(count)
    ]
    deadline = time.monotonic() + LONGEST_SECONDS
    while any(member.returncode is None for member in members) and time.monotonic() < deadline:
        if any(member.returncode for member in members):
            deadline = min(deadline, time.monotonic() + GRACE_SECONDS)
        time.sleep(0.02)
    failed = [member.returncode for member in members if member.returncode]
    for member in members:
        member.kill()
    done = [member.ended() for member in members]
    status = next((status for status in (*failed, *(one.returncode for one in done)) if status), 0)
    return CompletedProcess(arguments, status, "".join(one.stdout for one in done), "".join(one.stderr for one in done))


def _enter(arguments: Sequence[str], environment: Mapping[str, str], cwd: str, printed: str) -> None:
    """The work of the new process."""
    for descriptor, name in enumerate(PRINTED, start=1):
        os.dup2(os.open(os.path.join(printed, name), os.O_WRONLY | os.O_APPEND), descriptor)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    if "torch" in sys.modules and (threads := environment.get("OMP_NUM_THREADS")):
        sys.modules["torch"].set_num_threads(int(threads))
    kind, what, *rest = arguments
    sys.argv = [kind, *rest]
    gc.freeze()  # training collects garbage often: not what was imported
    if kind == "-c" and (training := sys.modules.get("rlaif.training.run")) is not None:
        vars(training)["draw_curves"] = lambda *given: None  # as in the processes of the tests themselves
    try:
        if kind == "-m":
            runpy.run_module(what, run_name="__main__", alter_sys=True)
        else:
            exec(compile(what, "<forked>", "exec"), {"__name__": "__main__"})
    finally:
        atexit._run_exitfuncs()  # type: ignore[attr-defined] # which a forked process leaves out
