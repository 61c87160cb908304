"""One process: GRPO steps of rlaif. Prints one JSON object as its last line.

python -m benchmarks.online_our_side TASK MODEL PROMPTS STEPS THREADS
"""

import argparse
import tempfile
from collections.abc import AsyncIterator, Collection, Sequence
from pathlib import Path
from typing import Any

from benchmarks.online_tasks import (
    ALPHA,
    GROUP,
    LEARNING_RATE,
    RANK,
    GivenGroup,
    judge_yaml,
    read_arguments,
    response_tokens,
    set_adapter,
)
from benchmarks.side import print_result
from benchmarks.stopwatch import Stopwatch
from rlaif.training.checkpoints import read_metrics
from rlaif.training.config import load_preset
from rlaif.training.online.decode import Decoder
from rlaif.training.online.local import LocalSampler
from rlaif.training.online.prompts import PromptRows
from rlaif.training.online.samples import Sampled, Sampler, SampleRequest
from rlaif.training.online.session import opened_trainer
from rlaif.training.policy import load_policy
from rlaif.training.rows import Row
from rlaif.types import Prompt


def main(options: argparse.Namespace) -> None:
    stopwatch = Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        logs = run(options, Path(folder), stopwatch)
    sampling = [line["time/rollout_seconds"] if options.task.samples else 0.0 for line in logs]
    print_result(stopwatch, logs, sampling=sampling)


def run(options: argparse.Namespace, folder: Path, stopwatch: Stopwatch) -> list[dict[str, Any]]:
    """Runs the steps; gives back the lines of metrics.jsonl."""
    config = grpo_config(options, folder)
    policy = load_policy(config)
    set_adapter(policy.model)
    rows = prompt_rows(options.groups)
    with opened_trainer(config, policy, rows, [stopwatch]) as trainer:
        trainer.rollouts.sampler = sampler(options, policy.model)
        trainer.resume(None)
    return read_metrics(folder / "metrics.jsonl")


def grpo_config(options: argparse.Namespace, folder: Path) -> Any:
    """The shipped preset, with the benchmark's optimiser and shapes."""
    judge = folder / "patterns.yaml"
    judge.write_text(judge_yaml(), encoding="utf-8")
    return load_preset(
        "grpo",
        model=options.model,
        data="prompts",
        output=folder,
        rewards=str(judge),
        beta=options.task.beta,
        kl_ratio=True,  # as TRL by default (use_bias_correction_kl)
        batch_size=options.prompts,
        group_size=GROUP,
        max_tokens=response_tokens(options.groups),
        learning_rate=LEARNING_RATE,
        lora={"r": RANK, "alpha": ALPHA},
        save_steps=10_000,
        trainer={
            "max_steps": options.steps, "lr_scheduler_type": "constant", "optim": "adamw_torch", "warmup_steps": 0,
        },
    )  # fmt: skip


def prompt_rows(groups: Sequence[GivenGroup]) -> PromptRows:
    """The prompts as rows. What judges are shown of them is a number."""
    prompts = {str(number): Prompt.from_text(f"prompt {number}") for number in range(len(groups))}
    return PromptRows(rows=[Row(str(number), group.prompt, ()) for number, group in enumerate(groups)], prompts=prompts)


def sampler(options: argparse.Namespace, model: Any) -> Sampler:
    """What a rollout takes its responses from: the given ones, or the policy with no token that would end a response."""
    if not options.task.samples:
        return GivenSampler(options.groups)
    return LocalSampler(Decoder(model, (), temperature=1.0, max_tokens=response_tokens(options.groups), most_rows=64))


class GivenSampler(Sampler):
    """Answers each prompt with the responses that are given."""

    def __init__(self, groups: Sequence[GivenGroup]) -> None:
        self._responses = {group.prompt: group.responses for group in groups}

    async def sample(
        self, requests: Sequence[SampleRequest], known: Collection[str]
    ) -> AsyncIterator[list[tuple[SampleRequest, list[Sampled]]]]:
        yield [
            (request, [Sampled(ids, (0.0,) * len(ids), False) for ids in self._responses[request.prompt]])
            for request in requests
        ]


if __name__ == "__main__":
    main(read_arguments(__doc__.splitlines()[0]))
