"""One process: steps of TRL's GRPOTrainer. Prints one JSON object as its last line.

TRL's own defaults, except for precision, batch size, KL, and gradient checkpointing, which would slow it down. Prompts are
given as token ids, in the learner tasks responses too; everything after that is TRL's.

python -m benchmarks.online_trl_side TASK MODEL PROMPTS STEPS THREADS [--rows ROWS]
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset, disable_progress_bars
from transformers import AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

from benchmarks.models import load_base, lora_config
from benchmarks.online_tasks import (
    ALPHA,
    GROUP,
    LEARNING_RATE,
    RANK,
    GivenGroup,
    read_arguments,
    response_tokens,
    reward_of,
    set_adapter,
)
from benchmarks.side import print_result
from benchmarks.stopwatch import Stopwatch

disable_progress_bars()


class IdGRPOTrainer(GRPOTrainer):
    """Prompts are numbers of groups. Times the sampling; with `given`, the groups' responses stand in for it."""

    def __init__(self, groups: Sequence[GivenGroup], given: bool, **arguments: Any) -> None:
        self.groups, self.given = groups, given
        self.sampling: list[float] = []
        super().__init__(**arguments)

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return [list(self.groups[int(number)].prompt) for number in prompts], None, {}

    def _generate_single_turn(self, prompt_ids: list[list[int]], *rest: Any, **named: Any) -> Any:
        started = time.perf_counter()
        found = self._given(prompt_ids) if self.given else super()._generate_single_turn(prompt_ids, *rest, **named)
        self.sampling.append(time.perf_counter() - started)
        return found

    def _given(self, prompt_ids: list[list[int]]) -> tuple[list[list[int]], None]:
        """The responses of each group in turn: TRL repeats a prompt as often as it is to be answered."""
        left = {group.prompt: iter(group.responses) for group in self.groups}
        return [list(next(left[tuple(ids)])) for ids in prompt_ids], None


def rewards(completions: list[str], **_: Any) -> list[float]:
    return [reward_of(text) for text in completions]


def main(options: argparse.Namespace) -> None:
    stopwatch, total = Stopwatch(), options.prompts * GROUP
    rows, length = options.rows or total, response_tokens(options.groups)
    with tempfile.TemporaryDirectory() as folder:
        arguments = GRPOConfig(
            output_dir=folder,
            beta=options.task.beta,
            num_generations=GROUP,
            max_completion_length=length,
            generation_kwargs={"min_new_tokens": length},
            per_device_train_batch_size=rows,
            gradient_accumulation_steps=total // rows,
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="constant",
            optim="adamw_torch",
            max_steps=options.steps,
            gradient_checkpointing=options.checkpointing,
            bf16=torch.cuda.is_available(),
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer = IdGRPOTrainer(
            options.groups,
            not options.task.samples,
            model=load_base(options.model, "grpo", torch.float32),
            reward_funcs=rewards,
            args=arguments,
            train_dataset=Dataset.from_dict({"prompt": [str(number) for number in range(options.prompts)]}),
            processing_class=AutoTokenizer.from_pretrained(options.model),
            peft_config=lora_config("grpo", RANK, ALPHA),
            callbacks=[stopwatch],
        )
        set_adapter(trainer.model)
        trainer.train()
    logs = [line for line in trainer.state.log_history if "loss" in line]
    print_result(stopwatch, logs, sampling=trainer.sampling)


if __name__ == "__main__":
    main(read_arguments(__doc__.splitlines()[0]))
