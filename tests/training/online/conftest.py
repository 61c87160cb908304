"""An online run of the tiny model, rewarded by a program; and the misbehaving endpoint of the engines' tests."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2] / "engines")]


@pytest.fixture
def letters_judge(tmp_path: Path) -> Path:
    """The share of three letters that a response has: a random tiny model has some of them now and then."""
    path = tmp_path / "letters.yaml"
    checks = "".join(f"  - check: regex\n    pattern: '{letter}'\n" for letter in ("[a-h]", "[A-H]", "[0-9]"))
    path.write_text(f"kind: program\ndescription: Has letters.\nscore: mean\nchecks:\n{checks}")
    return path


@pytest.fixture
def prompts_file(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    rows = [{"id": f"p{number}", "prompt": f"Say {number * 7}" + "!" * (number % 3)} for number in range(8)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def online_config(model_folder: Path, prompts_file: Path, letters_judge: Path, tmp_path: Path) -> Callable[..., Any]:
    """Makes the configuration of an online run; keywords replace keys."""
    from rlaif.training import parse_config

    def make(**changes: Any) -> Any:
        base: dict[str, Any] = {
            "method": "grpo", "model": str(model_folder), "data": prompts_file, "output": tmp_path / "run",
            "rewards": str(letters_judge), "batch_size": 4, "group_size": 3, "max_tokens": 12, "learning_rate": 1e-2,
            "lora": {"r": 4, "alpha": 8}, "save_steps": 1, "micro_batch_tokens": 150, "generate_rows": 6,
            "trainer": {"max_grad_norm": 1.0, "lr_scheduler_type": "constant"}, "epochs": 2,
        }  # fmt: skip
        return parse_config({**base, **changes})

    return make


@pytest.fixture
def server(model_folder: Path) -> Iterator[Any]:
    from tiny_vllm import TinyVllm

    with TinyVllm(model_folder) as running:
        yield running


@pytest.fixture
def served_config(online_config: Callable[..., Any]) -> Callable[..., Any]:
    """The configuration of a run by a server; keywords replace keys."""

    def make(url: str, **changes: Any) -> Any:
        base: dict[str, Any] = {
            "rollouts": {"engine": "server", "base_url": url}, "batch_size": 2, "group_size": 2, "epochs": 1,
            "max_tokens": 6, "patience_minutes": 0.02,
        }  # fmt: skip
        return online_config(**{**base, **changes})

    return make
