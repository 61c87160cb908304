"""Recipes whose training is online: prompts in, a policy out, and no pairs in between; or after stages that learn from them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlaif.errors import ConfigError
from rlaif.recipes.config import load_recipe, recipe_plan
from rlaif.recipes.run import run

GRPO: dict[str, Any] = {
    "method": "grpo", "rewards": "letters.yaml", "group_size": 3, "batch_size": 4, "max_tokens": 12, "dtype": "float32",
    "generate_rows": 12, "lora": {"r": 2}, "learning_rate": 1e-2, "save_steps": 1,
}  # fmt: skip
SAMPLING = {"temperature": 1.0, "max_tokens": 12, "seed": 1}


@pytest.fixture
def recipe(model_folder: Path, prompts_file: Path, letters_judge: Path, tmp_path: Path) -> Callable[..., Path]:
    """Writes a recipe beside its prompts and its judge; keywords replace keys, None takes one out."""
    (tmp_path / "heldout.jsonl").write_text('{"prompt": "Say 99"}\n{"prompt": "Say 98"}\n')

    def write(**changes: Any) -> Path:
        keys = {
            "model": str(model_folder), "output": str(tmp_path / "run"), "prompts": "prompts.jsonl", "train": GRPO,
            "evaluate": {"prompts": "heldout.jsonl", "judge": "letters.yaml", "sampling": SAMPLING, "relevance": False},
            **changes,
        }  # fmt: skip
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump({key: value for key, value in keys.items() if value is not None}))
        return path

    return write


def test_prompts_in_and_a_policy_out(
    recipe: Callable[..., Path], tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    path = recipe()
    monkeypatch.chdir("/")  # files are found beside the recipe
    done = run(path)
    assert list(done.stages) == ["train", "evaluate"]
    assert (tmp_path / "run/train/adapter_model.safetensors").is_file()
    assert not (tmp_path / "run/generate").exists()
    assert "| reward |" in done.summary
    assert "preference pairs" not in done.summary
    assert list(run(path).stages) == ["train", "evaluate"]
    assert capsys.readouterr().err.count("done before, not run again") == 2
    rows = [json.loads(line) for line in (tmp_path / "prompts.jsonl").read_text().splitlines()]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:4]))
    assert run(path).stages["train"]["rows"] == 4  # other prompts: trained anew
    assert recipe_plan(*load_recipe(str(path))[:1], tmp_path)["prompts"] == 4


def test_after_pairs_it_goes_on_with_the_same_prompts(recipe: Callable[..., Path], tmp_path: Path) -> None:
    path = recipe(
        prompts=None, evaluate=None, generate={"prompts": "prompts.jsonl", "n": 3, "sampling": SAMPLING},
        judge={"judge": "letters.yaml"}, pairs={"keep_truncated": True, "min_margin": 0.0},
        train=[{"method": "dpo", "dtype": "float32", "lora": {"r": 2}}, GRPO],
    )  # fmt: skip
    done = run(path)
    assert [stage["method"] for stage in done.stages["train"]["stages"]] == ["dpo", "grpo"]
    assert done.stages["train"]["rows"] == 8
    assert (tmp_path / "run/train/2-grpo/rollouts").is_dir()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": None}, r"missing key 'generate' \(or 'prompts'"),
        ({"judge": {"judge": "letters.yaml"}}, "judge is about sampled responses, and there is no 'generate'"),
        ({"pairs": {"min_pairs": 3}}, "pairs is about sampled responses"),
        ({"train": {"method": "dpo"}}, "dpo learns from pairs, and without generate and judge"),
        ({"generate": {"prompts": "prompts.jsonl"}, "judge": {"judge": "letters.yaml"}}, "grpo answers prompts itself"),
        (
            {"generate": {"prompts": "p"}, "judge": {"judge": "letters.yaml"}, "train": {"method": "dpo"}},
            "no stage is online, so 'prompts' is not used",
        ),
        ({"train": {**GRPO, "rewards": "no-such-judge"}}, "no-such-judge"),
    ],
)
def test_what_can_not_be_is_refused(recipe: Callable[..., Path], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_recipe(str(recipe(**changes)))


def test_held_out_prompts_are_not_trained_on(recipe: Callable[..., Path]) -> None:
    from rlaif.errors import DataError

    evaluate = {"prompts": "prompts.jsonl", "judge": "letters.yaml"}
    with pytest.raises(DataError, match="also trained on"):
        run(recipe(evaluate=evaluate))


def test_held_out_prompts_are_told_apart_without_their_system_prompt(recipe: Callable[..., Path]) -> None:
    from rlaif.errors import DataError

    evaluate = {"prompts": "prompts.jsonl", "judge": "letters.yaml", "system": "Be brief."}
    with pytest.raises(DataError, match="also trained on"):
        run(recipe(evaluate=evaluate))


def test_the_model_and_files_are_named_wherever_a_stage_may_name_them(
    recipe: Callable[..., Path], model_folder: Path, tmp_path: Path
) -> None:
    from rlaif.recipes.config import train_configs

    (tmp_path / "answers.jsonl").write_text("")
    rewards = [
        {"judge": "letters.yaml"},
        {"judge": "helpful", "engine": {"model": "{model}"}, "comparisons": "baseline", "baseline": "answers.jsonl"},
    ]
    config, path = load_recipe(str(recipe(train={**GRPO, "rewards": rewards, "judge_model": {"model": "{model}"}})))
    (stage,) = train_configs(config, path.parent)
    assert stage.judge_model.model == str(model_folder)  # type: ignore[attr-defined]
    assert stage.rewards[1].engine.model == str(model_folder)  # type: ignore[attr-defined]
    assert stage.rewards[1].baseline == str(tmp_path / "answers.jsonl")  # type: ignore[attr-defined]


@pytest.mark.parametrize("key", [{"limit": 2}, {"system": "Be brief."}])
def test_what_generate_does_to_its_prompts_is_not_dropped_for_online_stages(
    recipe: Callable[..., Path], key: dict[str, Any]
) -> None:
    path = recipe(
        prompts=None, evaluate=None, generate={"prompts": "prompts.jsonl", **key}, judge={"judge": "letters.yaml"},
        train=[{"method": "dpo"}, GRPO],
    )  # fmt: skip
    with pytest.raises(ConfigError, match=r"is not applied to the prompts of grpo; name its prompts under 'prompts'"):
        load_recipe(str(path))
