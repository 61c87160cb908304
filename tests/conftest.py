"""Shared by all tests: where the real model is, and small records."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # before any library reads it: no test reaches for a hub
if os.environ.get("RLAIF_TEST_DEVICE", "cpu") == "cpu":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # tests are written for the CPU; make test-gpu runs those for CUDA

sys.path.append(str(Path(__file__).parent))

from rlaif.types import Message, Prompt, Response, Sampling

REPOSITORY = Path(__file__).resolve().parent.parent
MODEL = Path(os.environ.get("RLAIF_MODEL", REPOSITORY / ".cache/models/SmolLM2-135M-Instruct"))
GOLD = os.environ.get("RLAIF_GOLD")


@pytest.fixture(scope="session")
def model_path() -> str:
    """The folder of the real chat model."""
    if not (MODEL / "config.json").is_file():
        pytest.skip("the real model is not there; run: make model")
    return str(MODEL)


@pytest.fixture
def make_response() -> Callable[..., Response]:
    """Makes a response: make_response("answer", prompt="question", index=0, model="m", finish_reason="stop")."""

    def make(
        text: str,
        *,
        prompt: str = "question",
        index: int = 0,
        model: str = "m",
        finish_reason: str | None = "stop",
        metadata: dict[str, object] | None = None,
    ) -> Response:
        asked = Prompt.from_messages((Message(role="user", content=prompt),), metadata=metadata)
        return Response.model_validate(
            {
                "id": f"{prompt}-{model}-{index}",
                "prompt": asked,
                "sample_index": index,
                "messages": ({"role": "assistant", "content": text},),
                "model": model,
                "engine": "scripted",
                "sampling": Sampling(),
                "finish_reason": finish_reason,
                "completion_tokens": len(text.split()),
            }
        )

    return make
