"""What the two sides have in common: their command line, precision, and the line of JSON they print."""

import argparse
import json
import sys
from typing import Any

import torch

from benchmarks.stopwatch import Stopwatch, peak_megabytes
from benchmarks.tasks import TASKS

TINY = 20
"""--tiny divides all lengths by this."""


def read_arguments(description: str) -> argparse.Namespace:
    """Reads the command line of a side and sets torch's threads. `rows` are the task's."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("model", help="model folder")
    parser.add_argument("steps", type=int)
    parser.add_argument("threads", type=int)
    parser.add_argument("--checkpointing", action="store_true", help="TRL only: with gradient checkpointing")
    parser.add_argument("--liger", action="store_true", help="TRL only: with Liger's kernels")
    parser.add_argument("--compile", action="store_true", help="rlaif only: with compile: true")
    parser.add_argument("--without-onednn", action="store_true", help="torch's own matrix products")
    parser.add_argument("--tiny", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.task = TASKS[options.task]
    options.rows = options.task.rows(TINY if options.tiny else 1)
    torch.set_num_threads(options.threads)
    if options.without_onednn:
        torch.backends.mkldnn.set_flags(False)  # type: ignore[no-untyped-call]
    return options


def weights_dtype(full: bool) -> torch.dtype:
    """float32 on the CPU; on CUDA bfloat16, but for trained weights, which stay float32 under autocast."""
    return torch.bfloat16 if torch.cuda.is_available() and not full else torch.float32


def print_result(stopwatch: Stopwatch, logs: list[dict[str, Any]], **more: float | list[float]) -> None:
    """Prints the result as one line of JSON."""
    result = {
        "seconds": stopwatch.seconds, "cpu_seconds": stopwatch.cpu_seconds, "peak_mb": peak_megabytes(), "logs": logs, **more,
    }  # fmt: skip
    print(json.dumps(result))
    sys.stdout.flush()
