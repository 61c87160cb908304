"""Every judge, template, preset, recipe and example that ships is loaded, and every template rendered."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from rlaif import EngineConfig, resources
from rlaif.inputs import read_prompts
from rlaif.judges.ensemble import compares, load_ensemble
from rlaif.judges.judge import Item
from rlaif.judges.request import judge_request
from rlaif.recipes.config import load_recipe, recipe_plan, training_prompts
from rlaif.records import read_records
from rlaif.revision.constitution import load_constitution
from rlaif.types import Judgment, PreferencePair, Response, Verdict

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
MODEL = (EngineConfig(model="m"),)


@pytest.mark.parametrize("name", resources.names("judges"))
def test_every_judge_loads_and_shows_what_it_judges(name: str, make_response: Callable[..., Response]) -> None:
    programs_only = "kind: program" in resources.find("judges", name).read_text()
    ensemble = load_ensemble(name, models=() if programs_only else MODEL)
    known = {"reference": "the reference answer", "checklist": ["Is it short?"]}
    first = make_response("the first answer", index=0, metadata=known)
    second = make_response("the second answer", index=1, metadata=known)
    for llm in ensemble.llms:
        item = Item((first, second) if compares(llm) else (first,))
        text = judge_request(llm, item, 0, None).messages[-1].content
        assert all(response.text in text for response in item.responses)
        assert "question" in text
        assert "{{" not in text


def test_every_template_belongs_to_a_judge_or_a_constitution() -> None:
    used = {
        match[1]
        for name in resources.names("judges")
        for match in re.finditer(r"(?m)^ *prompt: ([\w-]+)$", resources.find("judges", name).read_text())
    }
    for name in resources.names("constitutions"):
        config = load_constitution(name).config
        used |= {config.critique_prompt, config.revision_prompt}
    assert used == set(resources.names("prompts"))


def test_every_shipped_yaml_says_in_its_first_line_what_it_is_for() -> None:
    for kind in ("judges", "constitutions", "train", "accelerate", "recipes"):
        for name in resources.names(kind):  # type: ignore[arg-type]
            first = resources.find(kind, name).read_text().splitlines()[0]  # type: ignore[arg-type]
            assert first.startswith("# "), f"{kind}/{name}"
            assert first.endswith("."), f"{kind}/{name}"


@pytest.mark.parametrize("name", resources.names("recipes"))
def test_every_recipe_loads_and_its_held_out_prompts_are_others(name: str) -> None:
    config, path = load_recipe(name)
    plan = recipe_plan(config, path.parent)
    assert int(plan["prompts"]) > 0
    train = read_prompts(path.parent / training_prompts(config))
    assert config.evaluate is not None
    held_out = read_prompts(path.parent / config.evaluate.prompts)
    texts = {prompt.messages[-1].content for prompt in train.prompts}
    assert not texts & {prompt.messages[-1].content for prompt in held_out.prompts}
    assert train.duplicates == held_out.duplicates == []


def test_the_quickstart_prompts_are_varied() -> None:
    config, path = load_recipe("quickstart")
    prompts = read_prompts(path.parent / training_prompts(config)).prompts
    systems = [prompt for prompt in prompts if prompt.messages[0].role == "system"]
    turns = [prompt for prompt in prompts if any(message.role == "assistant" for message in prompt.messages)]
    assert len(prompts) == 64
    assert 10 <= len(systems) <= 50
    assert 5 <= len(turns) <= 30


@pytest.mark.parametrize("preset", resources.names("train"))
def test_every_preset_loads(preset: str) -> None:
    from rlaif.training.config import load_preset

    method = {"self-rewarding": "online-dpo"}.get(preset, preset)
    assert load_preset(preset, model="m", data="d.jsonl", output="o").method == method


def test_the_examples_are_what_they_say() -> None:
    ids = {
        tuple(p.messages[-1].content for p in read_prompts(EXAMPLES / f"prompts.{kind}").prompts)
        for kind in ("txt", "csv")
    }
    assert all(len(entry) == 2 for entry in ids)
    assert len(read_prompts(EXAMPLES / "prompts.jsonl").prompts) == 6
    assert list(read_records(EXAMPLES / "responses.jsonl", Response))
    assert list(read_records(EXAMPLES / "judgments.jsonl", Judgment))
    assert list(read_records(EXAMPLES / "judged.jsonl", Verdict))
    assert list(read_records(EXAMPLES / "preferences.jsonl", PreferencePair))
    assert load_ensemble(str(EXAMPLES / "my-panel.yaml")).llms[0].config.offer(2).choices == ("A", "B", "C")
    config, path = load_recipe(str(EXAMPLES / "my-recipe.yaml"))
    assert recipe_plan(config, path.parent)["responses"] == 24
    for line in (EXAMPLES / "preferences.jsonl").read_text().splitlines():
        assert {"prompt", "chosen", "rejected"} <= set(json.loads(line))
