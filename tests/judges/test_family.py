"""Judges that share a family with what they judge."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rlaif import EngineConfig, judge
from rlaif.engines.scripted import ScriptedEngine
from rlaif.judges.family import families, shared_families
from rlaif.types import Response


@pytest.mark.parametrize(
    ("model", "known"),
    [
        ("HuggingFaceTB/SmolLM2-135M-Instruct", {"SmolLM"}),
        ("meta-llama/Llama-3.2-1B-Instruct", {"Llama"}),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", {"DeepSeek", "Qwen"}),
        ("gpt-5-mini", {"GPT"}),
        ("o3", {"GPT"}),
        ("openai-community/gpt2", set()),
        ("google/gemma-3-270m", {"Gemini and Gemma"}),
        ("my-model", set()),
        ("foo3-large", set()),
        ("microsoft/Phi-4", {"Phi"}),
        ("philosophy", set()),
    ],
)
def test_a_family_is_told_from_a_name(model: str, known: set[str]) -> None:
    assert families(model) == known


def test_an_architecture_is_a_family_only_where_no_name_tells(tmp_path: Path) -> None:
    for name, known in (("SmolLM2-135M", {"SmolLM"}), ("checkpoint-100", {"Llama"})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({"model_type": "llama"}))
        assert families(str(tmp_path / name)) == known


def test_an_adapter_is_of_its_base_models_family(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "Qwen/Qwen3-0.6B"}))
    assert families(str(tmp_path)) == {"Qwen"}
    assert shared_families("qwq-32b", ["gpt-4o", str(tmp_path)]) == {"Qwen"}
    assert not shared_families("gpt-4o", [str(tmp_path)])


@pytest.mark.parametrize(("judging", "is_warned"), [("Qwen/Qwen3-8B", True), ("google/gemma-3-4b-it", False)])
def test_a_judge_of_the_policys_family_is_warned_of(
    judging: str, is_warned: bool, make_response: Callable[..., Response], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [make_response(text, index=index, model="Qwen/Qwen2.5-0.5B") for index, text in enumerate(("one", "two"))]
    engine = ScriptedEngine(lambda request, index: "A")
    judge(rows, "helpful", models=[EngineConfig(model=judging)], engines={"helpful": engine})
    told = capsys.readouterr().err
    assert ("same family" in told) == is_warned
    assert ("helpful" in told and "Qwen" in told) == is_warned
