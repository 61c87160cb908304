"""Fixtures of the training tests; what they are made of is in tiny.py."""

import gc
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that tests start, as `one_thread` for this one

import torch

sys.path.insert(0, str(Path(__file__).parent))

from tiny import build_llama, build_tokenizer, random_row, write_pairs

from rlaif.training.rows import Row


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny tensors: threads only wait for each other, most of all on a busy machine. And a run is the same bit for bit
    only with as many threads, so this process must have as many as those that it starts, whoever loaded torch first."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", autouse=True)
def imported() -> None:
    """Training collects garbage often: not what was imported."""
    import rlaif.training.online.session  # noqa: F401

    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def no_picture(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """No curves of a run but where they are looked at: they take longer to draw than a tiny model to train."""
    if "pictures" not in request.keywords:
        monkeypatch.setattr("rlaif.training.run.draw_curves", lambda *given: None)


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return build_tokenizer()


@pytest.fixture
def rows() -> list[Row]:
    """Six pairs of mixed lengths; rows 1 and 2 share a prompt, and row 2's rejected answer is row 1's chosen one."""
    generator = torch.Generator().manual_seed(1)
    made = [
        random_row(generator, "a", 9, 7, 4),
        random_row(generator, "b", 12, 5, 8),
        random_row(generator, "c", 3, 6, 2),
        random_row(generator, "d", 15, 1, 3),
        random_row(generator, "e", 5, 11, 10),
        random_row(generator, "f", 2, 2, 2),
    ]
    made[2] = Row("c", made[1].prompt, (made[2].completions[0], made[1].completions[0]))
    return made


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved tiny float32 Llama with its tokenizer."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    build_llama(torch.float32).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def pairs_file(tmp_path: Path) -> Path:
    return write_pairs(tmp_path / "pairs.jsonl", 11)


@pytest.fixture
def train_config(model_folder: Path, pairs_file: Path, tmp_path: Path) -> Callable[..., Any]:
    """Makes a TrainConfig for the tiny model; keywords replace keys."""
    from rlaif.training import TrainConfig, parse_config

    def make(**changes: Any) -> TrainConfig:
        base: dict[str, Any] = {
            "method": "dpo", "model": str(model_folder), "data": pairs_file, "output": tmp_path / "run", "batch_size": 4,
            "learning_rate": 1e-2, "lora": {"r": 4, "alpha": 8}, "save_steps": 2, "micro_batch_tokens": 120,
        }  # fmt: skip
        return parse_config({**base, **changes})

    return make


@pytest.fixture(scope="session")
def real_model_folder() -> Path:
    """SmolLM2-135M-Instruct, or the test is skipped."""
    default = Path(__file__).resolve().parents[2] / ".cache/models/SmolLM2-135M-Instruct"
    folder = Path(os.environ.get("RLAIF_MODEL") or default)
    if not (folder / "config.json").is_file():
        pytest.skip(f"no model in {folder}; get it with: make model")
    return folder
