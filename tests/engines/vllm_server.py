"""vLLM's own OpenAI-compatible server on a free port of this machine, for the tests."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

START_SECONDS = 300


def start_server(
    model: str, log: Path, *arguments: str, variables: Mapping[str, str] | None = None
) -> tuple[subprocess.Popen[bytes], str]:
    """The server's process and base URL. It is not ready yet: see wait_until_ready. variables: of its environment."""
    port = _free_port()
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model]
    command += ["--served-model-name", "policy", "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"]
    command += ["--max-model-len", "1024", "--enforce-eager", *arguments]
    command += [
        "--no-enable-chunked-prefill"
    ]  # in vLLM 0.32 seeds and prompts computed in pieces do not mix on the CPU
    environment = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", **os.environ, **(variables or {})}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
    return process, f"http://127.0.0.1:{port}/v1"


def wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with contextlib.suppress(urllib.error.URLError, OSError), urllib.request.urlopen(f"{url}/models", timeout=5):
            return
        time.sleep(0.5)
    raise RuntimeError(f"vLLM's server did not start:\n{log.read_text(errors='replace')[-4000:]}")


@contextlib.contextmanager
def stopping(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Ends the server and the processes it started, whatever happens inside."""
    try:
        yield
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
