"""One process: steps of TRL on a task's rows. Prints one JSON object as its last line.

TRL's own defaults, except for precision, batch size and gradient checkpointing, which would slow it down. It is given
token ids, so that both sides train on exactly the same ones.

python -m benchmarks.trl_side TASK MODEL STEPS THREADS
"""

import argparse
import tempfile

import torch
from transformers import AutoTokenizer

from benchmarks.models import load_base, lora_config
from benchmarks.side import print_result, read_arguments, weights_dtype
from benchmarks.stopwatch import Stopwatch
from benchmarks.tasks import ALPHA, LEARNING_RATE, RANK, Task
from benchmarks.trl_trainers import build_trainer


def main(options: argparse.Namespace) -> None:
    task: Task = options.task
    stopwatch, on_gpu = Stopwatch(), torch.cuda.is_available()
    rows_at_once = len(options.rows) if on_gpu or task.trl_rows_on_cpu is None else task.trl_rows_on_cpu
    cached = {"precompute_ref_log_probs": True} if task.cached else {}
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(
            task.method,
            load_base(options.model, task.method, weights_dtype(task.full)),
            AutoTokenizer.from_pretrained(options.model),
            options.rows,
            None if task.full else lora_config(task.method, RANK, ALPHA),
            [stopwatch],
            output_dir=folder,
            learning_rate=LEARNING_RATE,
            max_steps=options.steps,
            per_device_train_batch_size=rows_at_once,
            gradient_accumulation_steps=len(options.rows) // rows_at_once,
            gradient_checkpointing=options.checkpointing,
            optim="adamw_torch",
            bf16=on_gpu,
            use_liger_kernel=options.liger,
            **cached,
        )
        trainer.train()
    logs = [line for line in trainer.state.log_history if "loss" in line]
    print_result(stopwatch, logs, precompute_seconds=getattr(trainer, "precompute_seconds", 0.0))


if __name__ == "__main__":
    main(read_arguments(__doc__.splitlines()[0]))
