"""Two real processes (gloo) against one: the same trajectory, and a fair division of the rows."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import random_row, write_pairs

from rlaif.errors import TrainError
from rlaif.training import train
from rlaif.training.checkpoints import read_metrics
from rlaif.training.rows import Row
from rlaif.training.steps import StepSampler, shares

CASES: dict[str, dict[str, Any]] = {
    "dpo": {"method": "dpo", "validation": 0.3, "eval_steps": 1},
    "aot": {"method": "dpo", "loss": "aot"},
    "kto": {"method": "kto"},
    "bco": {"method": "bco", "full": True, "validation": 0.3},
    "sft": {"method": "sft", "full": True},
    "tdpo": {"method": "tdpo"},
}


def in_processes(count: int, configs: list[dict[str, Any]]) -> None:
    """Trains each configuration in `count` processes that torchrun starts."""
    code = (
        "import sys, json\nfrom rlaif.training import parse_config, train\n"
        "for config in json.loads(sys.argv[1]): train(parse_config(config))"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(count), "--no-python"]
    done = subprocess.run(
        [*command, sys.executable, "-c", code, json.dumps(configs, default=str)],
        env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]


def test_processes_give_the_trajectory_of_one(train_config: Any, tmp_path: Path) -> None:
    """8 rows at once, in micro-batches, and in two processes (float64: rounding only)."""
    data = write_pairs(tmp_path / "sure.jsonl", 14)
    configs = {}
    for name, keys in CASES.items():
        shared = {"data": data, "batch_size": 8, "dtype": "float64", "learning_rate": 1e-3, **keys}
        train(train_config(**shared, output=tmp_path / f"{name}-1x8", micro_batch_tokens=100_000))
        train(train_config(**shared, output=tmp_path / f"{name}-4x2", micro_batch_tokens=60))
        two = train_config(**shared, output=tmp_path / f"{name}-ranks", micro_batch_tokens=60)
        configs[name] = two.model_dump(mode="json")
    in_processes(2, list(configs.values()))
    for name in CASES:
        whole = read_metrics(tmp_path / f"{name}-1x8/metrics.jsonl")
        for other in ("4x2", "ranks"):
            lines = read_metrics(tmp_path / f"{name}-{other}/metrics.jsonl")
            for left, right in zip(whole, lines, strict=True):
                assert right.keys() == left.keys()
                for key, value in left.items():
                    assert right[key] == pytest.approx(value, rel=1e-6, abs=1e-9), (name, other, key)
        assert json.loads((tmp_path / f"{name}-ranks/manifest.json").read_text())["finished"]


def test_a_mistake_in_one_process_stops_all(train_config: Any, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/notes.txt").write_text("x")
    config = train_config(output=tmp_path / "taken").model_dump(mode="json")
    with pytest.raises(AssertionError, match="holds no training run"):
        in_processes(2, [config])


def test_sharded_training_is_refused(train_config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(TrainError, match="accelerate was told to use FSDP, which is not supported yet"):
        train(train_config())


def test_rows_of_a_prompt_stay_together_and_tokens_are_spread() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = [random_row(generator, str(i), 5 + 3 * (i % 7), 4, 6) for i in range(20)]
    rows += [Row(f"twin {i}", rows[i].prompt, rows[i + 1].completions) for i in range(3)]
    parts = shares(rows, range(len(rows)), 4)
    assert sorted(index for part in parts for index in part) == list(range(23))
    homes = {rows[index].prompt: number for number, part in enumerate(parts) for index in part}
    assert all(homes[rows[index].prompt] == number for number, part in enumerate(parts) for index in part)
    loads = [sum(len(rows[i].prompt) + rows[i].completion_tokens for i in part) for part in parts]
    assert max(loads) < 1.3 * min(loads)


def test_every_epoch_shuffles_anew_and_uses_every_row_once() -> None:
    sampler = StepSampler(11, 4, seed=3)
    epochs = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        steps = list(sampler)
        assert list(map(len, steps)) == [4, 4, 3]
        assert sorted(index for step in steps for index in step) == list(range(11))
        epochs.append(steps)
    assert epochs[0] != epochs[1]
    assert list(StepSampler(11, 4, seed=3)) == epochs[0]
