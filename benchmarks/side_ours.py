"""One process: DPO steps of rlaif on the benchmark's rows. Prints one JSON object as its last line."""

import json
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.dpo_rows import id_rows
from benchmarks.stopwatch import Stopwatch, peak_megabytes
from rlaif.training import TrainConfig
from rlaif.training.arguments import training_arguments
from rlaif.training.checkpoints import read_metrics
from rlaif.training.forward import checked_plan
from rlaif.training.methods import method_loss
from rlaif.training.policy import load_policy
from rlaif.training.reference import AdapterOff
from rlaif.training.rows import Row
from rlaif.training.session import token_budget
from rlaif.training.trainer import PolicyTrainer


def main(model: str, steps: int, threads: int) -> None:
    torch.set_num_threads(threads)
    rows = [
        Row(str(index), tuple(row["prompt_ids"]), (tuple(row["chosen_ids"]), tuple(row["rejected_ids"])))
        for index, row in enumerate(id_rows())
    ]
    with tempfile.TemporaryDirectory() as folder:
        config = TrainConfig.model_validate(
            {
                "method": "dpo", "model": model, "data": "rows", "output": folder, "dtype": "float32",
                "learning_rate": 1e-5, "batch_size": len(rows), "lora": {"r": 16, "alpha": 32}, "save_steps": 10_000,
                "trainer": {"max_steps": steps, "lr_scheduler_type": "constant", "optim": "adamw_torch"},
            }
        )  # fmt: skip
        policy, stopwatch = load_policy(config), Stopwatch()
        arguments = training_arguments(config, Path(folder), autocast=False)
        plan = checked_plan(policy.model, rows, policy.plan, arguments.device)
        trainer = PolicyTrainer(
            policy.model, arguments, rows=rows, method=method_loss(config), reference=AdapterOff(plan), plan=plan,
            budget=token_budget(config, arguments.device), metrics_path=Path(folder) / "metrics.jsonl",
            keep_checkpoints=1, callbacks=[stopwatch],
        )  # fmt: skip
        trainer.resume(None)
        logs = read_metrics(Path(folder) / "metrics.jsonl")
    print(json.dumps({"seconds": stopwatch.seconds, "peak_mb": peak_megabytes(), "logs": logs}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
