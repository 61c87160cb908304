"""TRL's half of the parity check: losses, gradients and the weights after one step of SGD, for each method.

python -m benchmarks.parity_trl_side OUT_FOLDER

Writes the task (see parity_task) and TRL's results: trl.json holds what TRL logs, trl.safetensors the tensors
METHOD/gradient/NAME and METHOD/weight/NAME.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer

from benchmarks.models import load_base, lora_config
from benchmarks.parity_task import (
    ALPHA,
    LEARNING_RATE,
    METHODS,
    RANK,
    RESULTS,
    SGD,
    TENSORS,
    Gradients,
    Tensors,
    parity_rows,
    set_adapter,
    trained,
    write_task,
)
from benchmarks.trl_trainers import build_trainer


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_task(folder)
    logs: dict[str, Any] = {}
    tensors: Tensors = {}
    for method in METHODS:
        logs[method], gradients, weights = one_step(method, folder)
        tensors.update({f"{method}/gradient/{name}": value for name, value in gradients.items()})
        tensors.update({f"{method}/weight/{name}": value for name, value in weights.items()})
    (folder / RESULTS).write_text(json.dumps(logs, indent=1) + "\n", encoding="utf-8")
    save_file(tensors, folder / TENSORS)


def one_step(method: str, folder: Path) -> tuple[dict[str, float], Tensors, Tensors]:
    """What TRL logs, the gradients, and the weights after the step."""
    rows, recorder = parity_rows(method), Gradients()
    with tempfile.TemporaryDirectory() as output:
        trainer = build_trainer(
            method,
            load_base(folder / "model", method, torch.float32),
            AutoTokenizer.from_pretrained(folder / "model"),
            rows,
            lora_config(method, RANK, ALPHA),
            [recorder],
            output_dir=output,
            learning_rate=LEARNING_RATE,
            per_device_train_batch_size=len(rows),
            bf16=False,
            use_cpu=True,
            **SGD,
        )
        set_adapter(trainer.model, folder, method)
        trainer.train()
    weights = {name: weight.detach().clone() for name, weight in trained(trainer.model).items()}
    return trainer.state.log_history[0], recorder.gradients, weights


if __name__ == "__main__":
    main(Path(sys.argv[1]))
