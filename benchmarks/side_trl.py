"""One process: DPO steps of TRL on the benchmark's rows. Prints one JSON object as its last line.

TRL's own defaults, except where they would slow it down here (gradient checkpointing) or differ from the task
(float32, batch size). It is given token ids, so that both sides train on exactly the same ones.
"""

import json
import sys
import tempfile

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer

from benchmarks.dpo_rows import id_rows
from benchmarks.stopwatch import Stopwatch, peak_megabytes


class IdDPOTrainer(DPOTrainer):
    """TRL's trainer on rows that are token ids already."""

    def _prepare_dataset(self, dataset: Dataset, *args: object, **kwargs: object) -> Dataset:
        return dataset


def main(model: str, steps: int, threads: int, checkpointing: bool) -> None:
    torch.set_num_threads(threads)
    rows = id_rows()
    stopwatch = Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        trainer = IdDPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32),
            args=DPOConfig(
                output_dir=folder, per_device_train_batch_size=len(rows), learning_rate=1e-5, max_steps=steps,
                lr_scheduler_type="constant", optim="adamw_torch", bf16=False, gradient_checkpointing=checkpointing,
                logging_steps=1, save_strategy="no", report_to="none", disable_tqdm=True, beta=0.1,
            ),
            train_dataset=Dataset.from_list([dict(row) for row in rows]),
            processing_class=AutoTokenizer.from_pretrained(model),
            peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
            callbacks=[stopwatch],
        )  # fmt: skip
        trainer.train()
        logs = [line for line in trainer.state.log_history if "loss" in line]
    print(json.dumps({"seconds": stopwatch.seconds, "peak_mb": peak_megabytes(), "logs": logs}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "checkpointing")
