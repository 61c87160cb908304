"""An online run against a real vLLM server, watched at every step: is the adapter that answers the one just trained?

python -m benchmarks.server_rollouts --model MODEL --vllm-python .venv-vllm/bin/python [--steps 50]

Starts the server (float32, on the CPU), trains by GRPO with a program as reward, and prints for each step:

* gap: the largest difference between the log-probs that came with the sampled tokens and the trainer's own of the same;
* moved: how far the step moved the log-probs of its first response, at most: what a stale adapter would be off by;
* seconds; the server's resident memory, all its processes together; how many adapters it lists when the step's is loaded.

The prompts are longer than a block of vLLM's prefix cache, and each is asked many times.
"""

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from benchmarks.judging_prefill import WORDS
from rlaif.training import parse_config, train
from rlaif.training.online import session
from rlaif.training.online.samples import Sampled, SampleRequest
from rlaif.training.online.server import ServerSampler

START_SECONDS = 600
PROMPT_WORDS = 110
JUDGE = """kind: program
description: Has some of these letters and marks.
score: mean
checks:
"""
Answered = list[tuple[tuple[int, ...], Sampled]]
"""Prompts with a response each."""


class Watched(ServerSampler):
    """Scores every response it gets by the trainer's weights, and prints a line for each step."""

    server_pid = 0

    def __init__(self, *args: Any, **keys: Any) -> None:
        super().__init__(*args, **keys)
        self.answered: Answered = []
        self.worst, self.step = 0.0, 0
        self.started = time.perf_counter()

    async def refresh(self, step: int) -> None:
        if step:
            await self._print()
        self.answered, self.started = [], time.perf_counter()
        self.step = step + 1
        await super().refresh(step)

    async def sample(
        self, requests: Sequence[SampleRequest], known: Collection[str]
    ) -> AsyncIterator[list[tuple[SampleRequest, list[Sampled]]]]:
        async for batch in super().sample(requests, known):
            self.answered += [(request.prompt, one) for request, answers in batch for one in answers]
            yield batch
        self.worst = self._distance(self.answered)

    async def close(self) -> None:
        await self._print()
        await super().close()
        print("adapters on disk after the end:", self.settings.folder.exists(), flush=True)

    def _distance(self, answered: Answered) -> float:
        """The largest difference between the log-probs of responses as they came and by the present weights."""
        pairs = [pair for prompt, one in answered for pair in zip(self._score(prompt, one.ids), one.logps, strict=True)]
        return max(abs(here - there) for here, there in pairs)

    async def _print(self) -> None:
        """The line of the step whose responses are here, once it is done."""
        moved = self._distance(self.answered[:1])
        seconds, memory = time.perf_counter() - self.started, resident_mb(self.server_pid)
        listed = len([name for name in await self.server.loaded() if name.startswith("rlaif-")])
        print(f"| {self.step} | {self.worst:.1e} | {moved:.1e} | {seconds:.1f} | {memory:.0f} | {listed} |", flush=True)


def main() -> None:
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with running_server(arguments, folder / "server.log") as (url, pid):
            Watched.server_pid = pid
            session.ServerSampler = Watched  # type: ignore[misc] # the run makes its sampler by this name
            print("| step | gap | moved | seconds | server MB | adapters |\n|---|---|---|---|---|---|", flush=True)
            train(parse_config(settings(arguments, folder, url)))
            print("served after the end:", ", ".join(served(url)))
            print("prompt tokens found in the prefix cache, of those asked:", cache_hits(url))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=".cache/models/SmolLM2-135M-Instruct")
    parser.add_argument("--vllm-python", default=".venv-vllm/bin/python")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--max-tokens", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    return parser.parse_args()


def settings(arguments: argparse.Namespace, folder: Path, url: str) -> dict[str, Any]:
    words = random.Random(0)
    prompts = [" ".join(words.choices(WORDS, k=PROMPT_WORDS)) + f" Say {number}." for number in range(6)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    marks = ("[A-F]", "[G-M]", "[N-T]", "[xyzv]", "[,;]", "ing")
    checks = "".join(f"  - check: regex\n    pattern: '{mark}'\n" for mark in marks)
    (folder / "letters.yaml").write_text(JUDGE + checks)
    return {
        "method": "grpo", "model": arguments.model, "data": folder / "prompts.jsonl", "output": folder / "run",
        "rewards": str(folder / "letters.yaml"), "batch_size": 1, "group_size": 3, "dtype": "float32",
        "max_tokens": arguments.max_tokens, "learning_rate": arguments.learning_rate, "save_steps": 1000,
        "rollouts": {"engine": "server", "base_url": url}, "logging_steps": 1000,
        "trainer": {"max_steps": arguments.steps, "lr_scheduler_type": "constant"},
    }  # fmt: skip


@contextmanager
def running_server(arguments: argparse.Namespace, log: Path) -> Iterator[tuple[str, int]]:
    """vLLM's server on a free port: its base URL and process id."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [arguments.vllm_python, "-m", "vllm.entrypoints.openai.api_server", "--model", arguments.model]
    command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--max-model-len", "1024"]
    command += ["--enforce-eager", "--no-enable-chunked-prefill", "--enable-lora"]
    variables = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **variables}, start_new_session=True
        )
    try:
        wait_until_ready(process, f"http://127.0.0.1:{port}/v1", log)
        yield f"http://127.0.0.1:{port}/v1", process.pid
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def wait_until_ready(process: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(urllib.error.URLError, OSError):
            served(url)
            return
        time.sleep(1)
    raise SystemExit(f"vLLM's server did not start:\n{log.read_text(errors='replace')[-3000:]}")


def served(url: str) -> list[str]:
    """The models that the server lists."""
    with urllib.request.urlopen(f"{url}/models", timeout=10) as reply:
        return [model["id"] for model in json.load(reply)["data"]]


def cache_hits(url: str) -> str:
    """Hits and queries of its prefix cache, in tokens."""
    with urllib.request.urlopen(f"{url.removesuffix('/v1')}/metrics", timeout=10) as reply:
        lines = reply.read().decode().splitlines()
    names = ("vllm:prefix_cache_hits_total", "vllm:prefix_cache_queries_total")
    return " of ".join(line.rsplit(" ", 1)[1] for name in names for line in lines if line.startswith(name))


def resident_mb(pid: int) -> float:
    """Of a process and all its children."""
    process = psutil.Process(pid)
    total = sum(one.memory_info().rss for one in [process, *process.children(recursive=True)])
    return float(total) / 2**20


if __name__ == "__main__":
    main()
