"""What judging costs beside the model's own time: python -m benchmarks.judging_throughput

own work: seconds per judgment with an engine that answers at once, and the peak of memory, by number of judgments; each in a
process of its own. endpoint: judgments per second through a stub endpoint that answers after 100 ms, beside the ideal.
"""

import argparse
import json
import multiprocessing
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.stub_endpoint import DELAY_SECONDS, serve

if TYPE_CHECKING:
    from rlaif.engines.base import Engine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--judgments", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--endpoint-judgments", type=int, nargs="+", default=[3200])
    parser.add_argument("--in-flight", type=int, default=16)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(own_work(arguments.one)))
        return
    print("| judgments | ms of own work each | peak memory, MB |\n|---|---|---|")
    for count in arguments.judgments:
        command = [sys.executable, "-m", "benchmarks.judging_throughput", "--one", str(count)]
        found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        print(f"| {count:,} | {found['milliseconds']:.3f} | {found['megabytes']:.0f} |")
    ideal = arguments.in_flight / DELAY_SECONDS
    print(f"\nEndpoint of 100 ms, {arguments.in_flight} in flight, ideal {ideal:.0f}/s")
    print("| judgments | seconds | judgments/s | of the ideal |\n|---|---|---|---|")
    for count in arguments.endpoint_judgments:
        seconds = through_endpoint(count, arguments.in_flight)
        rate = count / seconds
        print(f"| {count:,} | {seconds:.2f} | {rate:.1f} | {rate / ideal:.1%} |")


def write_responses(path: Path, judgments: int) -> None:
    """Two responses a prompt: one comparison, two votes."""
    from rlaif.records import RecordWriter
    from rlaif.types import Message, Prompt, Response

    words = "the answer is written in plain words and says what was asked for and a little more than that "
    with RecordWriter[Response](path) as writer:
        for number in range(judgments // 2):
            prompt = Prompt.from_text(f"Question {number}: {words}")
            for index in range(2):
                text = Message(role="assistant", content=f"{number}.{index} {words * 8}")
                writer.write(
                    Response(
                        id=f"{number}-{index}",
                        prompt=prompt,
                        sample_index=index,
                        messages=(text,),
                        model="m",
                        engine="scripted",
                    )
                )


def own_work(judgments: int) -> dict[str, float]:
    from rlaif import judge

    with tempfile.TemporaryDirectory() as folder:
        responses = Path(folder) / "responses.jsonl"
        write_responses(responses, judgments)
        started = time.process_time()
        result = judge(
            responses, "helpful", models=["m"], output=Path(folder) / "judged.jsonl",
            engines={"helpful": _instant()},
        )  # fmt: skip
        assert result.new_judgments == judgments
        spent = time.process_time() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"milliseconds": 1000 * spent / judgments, "megabytes": peak}


def _instant() -> "Engine":
    """Answers at once, and keeps nothing."""
    from collections.abc import AsyncIterator, Iterable

    from rlaif.engines.base import Capabilities, Completion, Engine, Request, Sample

    class Instant(Engine):
        kind, model = "scripted", "m"
        capabilities = Capabilities(choice_constraint=False, choice_probabilities=False)

        async def complete_many(self, requests: Iterable[Request]) -> AsyncIterator[Completion]:
            for request in requests:
                yield Completion(key=request.key, samples=(Sample(index=0, text="A", finish_reason="stop"),))

    return Instant()


def through_endpoint(judgments: int, in_flight: int) -> float:
    """Seconds from the call of `judge` to its return, imports, connecting and the verdict file included."""
    from rlaif import EngineConfig, judge

    ready = multiprocessing.Queue()  # type: ignore[var-annotated]
    server = multiprocessing.Process(target=serve, args=(ready,), daemon=True)
    server.start()
    port = ready.get(timeout=30)
    engine = EngineConfig(model="stub", base_url=(f"http://127.0.0.1:{port}/v1",), concurrency=in_flight)
    with tempfile.TemporaryDirectory() as folder:
        responses = Path(folder) / "responses.jsonl"
        write_responses(responses, judgments)
        started = time.monotonic()
        judge(responses, "helpful", models=[engine], output=Path(folder) / "judged.jsonl")
        seconds = time.monotonic() - started
    server.terminate()
    return seconds


if __name__ == "__main__":
    main()
