"""The tasks of the online benchmark: prompts with their responses, rewards, and an adapter, the same in every process.

A step is PROMPTS prompts of 200 random token ids with 8 responses of 64 each. In the learner tasks the responses are given,
random ids too; in `whole` each side samples its own. Needs neither rlaif nor TRL: it is read in both environments.
"""

import argparse
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.rows import id_source
from benchmarks.side import TINY

RANK, ALPHA, LEARNING_RATE, BETA = 16, 32, 1e-5, 0.04
GROUP, PROMPT, RESPONSE = 8, 200, 64
PATTERNS = ("j", "q", "x", "z", "J", "Q", "X", "Z", "ing", "tion", "the", "[0-9]")
"""The reward of a response is the share of these that are found in it: trivial, and of different values in a group."""


@dataclass(frozen=True)
class OnlineTask:
    """One task. samples: whether the sides sample themselves. speedup, memory: what is asked for, in TRL's measures."""

    name: str
    beta: float = 0.0
    samples: bool = False
    speedup: float = 3.0
    memory: float = 0.5


TASKS = {
    task.name: task
    for task in (
        OnlineTask("learner"),
        OnlineTask("learner-kl", beta=BETA),
        OnlineTask("whole", samples=True, speedup=1.5),
    )
}


@dataclass(frozen=True)
class GivenGroup:
    """A prompt and the responses to it, as token ids."""

    prompt: tuple[int, ...]
    responses: tuple[tuple[int, ...], ...]


def given_groups(prompts: int, scale: int = 1) -> list[GivenGroup]:
    """The rows of a step. scale: divides all lengths (smoke tests)."""
    draw = id_source(scale)
    return [GivenGroup(tuple(draw(PROMPT)), tuple(tuple(draw(RESPONSE)) for _ in range(GROUP))) for _ in range(prompts)]


def reward_of(text: str) -> float:
    """The reward of a response."""
    return sum(re.search(pattern, text) is not None for pattern in PATTERNS) / len(PATTERNS)


def judge_yaml() -> str:
    """The same reward as a program judge of rlaif."""
    checks = "".join(f"  - check: regex\n    pattern: '{pattern}'\n" for pattern in PATTERNS)
    return f"kind: program\ndescription: Which of some patterns a response has.\nscore: mean\nchecks:\n{checks}"


def set_adapter(model: Any) -> None:
    """Gives the adapter of a peft model weights that depend on their names only, and are not zero: so that both sides start
    from the same policy, and it is not its own reference."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_A" in name or "lora_B" in name:
                generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
                scale = weight.shape[1] ** -0.5 if "lora_A" in name else 0.02
                weight.copy_(torch.randn(weight.shape, generator=generator) * scale)


def read_arguments(description: str) -> argparse.Namespace:
    """Reads the command line of a side and sets torch's threads. `groups` are the rows of a step."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("model", help="model folder")
    parser.add_argument("prompts", type=int)
    parser.add_argument("steps", type=int)
    parser.add_argument("threads", type=int)
    parser.add_argument("--rows", type=int, help="TRL only: responses in memory at once; else all")
    parser.add_argument("--checkpointing", action="store_true", help="TRL only: with gradient checkpointing")
    parser.add_argument("--tiny", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.task = TASKS[options.task]
    options.groups = given_groups(options.prompts, TINY if options.tiny else 1)
    torch.set_num_threads(options.threads)
    return options


def response_tokens(groups: Sequence[GivenGroup]) -> int:
    """The length of every response."""
    return len(groups[0].responses[0])
