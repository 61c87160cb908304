"""The tasks of the benchmark: rows, method, and what both sides must agree on at step 0."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from benchmarks.rows import IdRow, answer_rows, mixed_rows, pair_rows, shared_rows, unpaired_rows

LEARNING_RATE = 1e-5
RANK, ALPHA = 16, 32
BETA = {"dpo": 0.1, "kto": 0.1, "orpo": 0.1, "simpo": 2.0}
SIMPO_GAMMA = 1.0


@dataclass(frozen=True)
class Task:
    """One task. rows: given `scale`, the rows of one optimiser step.

    trl_rows_on_cpu: rows TRL has in memory at once on the CPU, where all of them are too many. peer: False where only
    our side is measured.
    """

    name: str
    method: str
    rows: Callable[[int], list[IdRow]]
    full: bool = False
    cached: bool = False
    trl_rows_on_cpu: int | None = None
    peer: bool = True


@dataclass(frozen=True)
class Agreement:
    """What is checked at step 0. expected: values both sides must log; equal: keys of which the values must agree."""

    expected: dict[str, float]
    equal: tuple[str, ...]


TASKS = {
    task.name: task
    for task in (
        Task("dpo", "dpo", pair_rows),
        Task("dpo-cached", "dpo", pair_rows, cached=True),
        Task("dpo-mixed", "dpo", mixed_rows, trl_rows_on_cpu=2),
        Task("dpo-full", "dpo", partial(pair_rows, pairs=2), full=True),
        Task("shared", "dpo", shared_rows),
        Task("kto", "kto", unpaired_rows),
        Task("orpo", "orpo", pair_rows),
        Task("simpo", "simpo", pair_rows),
        Task("sft", "sft", answer_rows),
        Task("rm", "rm", pair_rows),
        Task("dpo-16", "dpo", partial(pair_rows, pairs=16, prompt=512, completion=256)),
        Task("dpo-16-full", "dpo", partial(pair_rows, pairs=16, prompt=512, completion=256), full=True),
        Task("memory-long-prompts", "dpo", partial(pair_rows, prompt=400, completion=50), peer=False),
        Task("memory-long-answers", "dpo", partial(pair_rows, prompt=100, completion=200), peer=False),
    )
}
DEFAULT_TASKS = tuple(name for name in TASKS if name not in ("rm", "dpo-16", "dpo-16-full"))
"""Reward models are compared by benchmarks.parity; their speed, and steps that fill a GPU, only when asked for."""
MEMORY_TASKS = ("memory-long-answers", "memory-long-prompts")

_NO_REWARD = {"rewards/chosen": 0.0, "rewards/rejected": 0.0, "rewards/margins": 0.0}
_LOGPS = ("logps/chosen", "logps/rejected")
AGREEMENTS = {
    "dpo": Agreement({"loss": math.log(2), **_NO_REWARD}, _LOGPS),
    "kto": Agreement({"loss": 0.5, "kl": 0.0, **_NO_REWARD}, _LOGPS),
    # The losses differ: TRL's NLL is over prompt and completion, ours over the completion.
    "orpo": Agreement({}, ("log_odds_ratio", *_LOGPS)),
    "simpo": Agreement({}, ("loss", *_LOGPS)),
    "sft": Agreement({}, ("loss",)),
    "rm": Agreement({}, ("loss",)),
}
"""By method. An adapter starts at zero, so the policy is its own reference at step 0."""
