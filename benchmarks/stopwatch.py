"""What both sides measure with: seconds of whole optimiser steps, and the process's peak resident memory."""

import resource
import time
from typing import Any

import torch
from transformers import TrainerCallback


class Stopwatch(TrainerCallback):
    """Seconds from the start of each step to its end, the optimiser's update included: by the clock, and of processor time
    (of all threads together), which other processes on the machine change less."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.cpu_seconds: list[float] = []
        self._started = self._cpu_started = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._started, self._cpu_started = _now(), time.process_time()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seconds.append(_now() - self._started)
        self.cpu_seconds.append(time.process_time() - self._cpu_started)


def on_gpu() -> bool:
    return torch.cuda.is_available()


def _now() -> float:
    if on_gpu():
        torch.cuda.synchronize()
    return time.perf_counter()


def peak_megabytes() -> float:
    """Peak GPU memory of this process where there is a GPU, else its peak resident memory, in MB (10**6 bytes)."""
    if on_gpu():
        return torch.cuda.max_memory_allocated() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
