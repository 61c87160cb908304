"""Losses, gradients and weights after one step: rlaif against TRL 1.16 on a tiny model, the same token ids.

python -m benchmarks.parity --trl-python TRL_ENVIRONMENT/bin/python [--folder FOLDER] [--method NAME ...]

With --folder, TRL's half is kept there, and not computed again where it exists.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from safetensors.torch import load_file

from benchmarks.our_side import METHOD_KEYS, our_rows
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
)
from rlaif.training.checkpoints import read_metrics
from rlaif.training.config import load_preset
from rlaif.training.rows import Row
from rlaif.training.session import open_trainer

ROOT = Path(__file__).resolve().parents[1]
LOSS_TOLERANCE, GRADIENT_TOLERANCE, WEIGHT_TOLERANCE = 1e-5, 1e-4, 1e-5
HEAD = """\
| method | loss, TRL | loss, rlaif | relative difference | gradients, relative L2 | weights, relative L2 | |
|---|---|---|---|---|---|---|"""


@dataclass(frozen=True)
class Half:
    """One side's results of one method."""

    loss: float
    gradients: Tensors
    weights: Tensors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trl-python", required=True, help="the Python of an environment with trl==1.16.0")
    parser.add_argument("--folder", type=Path, help="where TRL's half is kept; else a temporary folder")
    parser.add_argument("--method", action="append", choices=METHODS, help="this one; may be repeated; else all")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary) / "task"
        if not (folder / RESULTS).exists():
            compute_trl_half(options.trl_python, folder)
        print(HEAD)
        same = [compare(method, folder, Path(temporary) / method) for method in options.method or METHODS]
    if not all(same):
        sys.exit(3)


def compute_trl_half(python: str, folder: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    command = [python, "-m", "benchmarks.parity_trl_side", str(folder.resolve())]
    subprocess.run(command, cwd=ROOT, env=environment, check=True)


def compare(method: str, folder: Path, output: Path) -> bool:
    """Prints a line of the table; returns whether all differences are within their tolerances."""
    theirs, ours = trl_half(method, folder), our_half(method, folder, output)
    loss = abs(ours.loss - theirs.loss) / abs(theirs.loss)
    gradients = relative_distance(ours.gradients, theirs.gradients)
    weights = relative_distance(ours.weights, theirs.weights)
    same = loss <= LOSS_TOLERANCE and gradients <= GRADIENT_TOLERANCE and weights <= WEIGHT_TOLERANCE
    print(
        f"| {method} | {theirs.loss:.7f} | {ours.loss:.7f} | {loss:.1e} | {gradients:.1e} | {weights:.1e} "
        f"| {'same' if same else 'DIFFERENT'} |"
    )
    return same


def trl_half(method: str, folder: Path) -> Half:
    loss = json.loads((folder / RESULTS).read_text(encoding="utf-8"))[method]["loss"]
    tensors = load_file(folder / TENSORS)
    return Half(loss, _part(tensors, f"{method}/gradient/"), _part(tensors, f"{method}/weight/"))


def _part(tensors: Tensors, prefix: str) -> Tensors:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def our_half(method: str, folder: Path, output: Path) -> Half:
    """rlaif's step, with the mismatched answers of KTO that TRL takes."""
    rows, recorder = parity_rows(method), Gradients()
    config = load_preset(
        method,
        model=str(folder / "model"),
        data="rows",
        output=output,
        learning_rate=LEARNING_RATE,
        batch_size=len(rows),
        lora={"r": RANK, "alpha": ALPHA},
        dtype="float32",
        trainer=dict[str, Any](SGD),
        **METHOD_KEYS[method],
    )
    trainer = open_trainer(config, our_rows(rows), callbacks=[recorder])
    set_adapter(trainer.model, folder, method)
    with patch("rlaif.training.methods.unpaired.rotated", trl_rotation):
        trainer.resume(None)
    weights = {name: weight.detach().clone() for name, weight in trained(trainer.model).items()}
    return Half(read_metrics(output / "metrics.jsonl")[0]["loss"], recorder.gradients, weights)


def trl_rotation(rows: Sequence[Row], order: random.Random) -> list[tuple[Row, Row]]:
    """Each row with the one before it in the data, as TRL pairs them; rlaif's own pairs are drawn at random."""
    in_order = sorted(rows, key=lambda row: int(row.id))
    return [(row, in_order[index - 1]) for index, row in enumerate(in_order)]


def relative_distance(ours: Tensors, theirs: Tensors) -> float:
    """L2 of the difference of all tensors together, relative to the L2 of theirs."""
    assert ours.keys() == theirs.keys(), f"other weights are trained: {sorted(ours.keys() ^ theirs.keys())}"
    difference = sum(float((ours[name].cpu().double() - theirs[name].double()).square().sum()) for name in theirs)
    size = sum(float(value.double().square().sum()) for value in theirs.values())
    return float(torch.tensor(difference / size).sqrt())


if __name__ == "__main__":
    main()
