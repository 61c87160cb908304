"""The policy as its own judge: what it says is what its weights say, as they are."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from test_online_run import assert_same_run, kill
from test_online_step import trainer_of

from rlaif.engines import EngineConfig
from rlaif.errors import ConfigError
from rlaif.models import load_tokenizer
from rlaif.training import train
from rlaif.training.checkpoints import read_metrics
from rlaif.training.config.rewards import RewardSourceConfig
from rlaif.training.online.rewards import RewardSources
from rlaif.training.online.rollouts import Rollouts


@pytest.fixture
def rating(tmp_path: Path) -> Path:
    """A judge whose ratings are read from the probabilities of its labels, so that any model has one."""
    (tmp_path / "rating.j2").write_text("{{ prompt }}\n{{ response }}\nRate from {{ scale[0] }} to {{ scale[1] }}:")
    path = tmp_path / "rating.yaml"
    path.write_text("kind: pointwise\ndescription: A rating.\nprompt: rating.j2\nscale: [1, 5]\n")
    return path


@pytest.fixture
def self_config(online_config: Any, rating: Path) -> Any:
    def make(**changes: Any) -> Any:
        return online_config(**({"rewards": str(rating), "judge_model": "policy"} | changes))

    return make


def asked_afresh(trainer: Any, config: Any, folder: Path) -> list[dict[str, float | None]]:
    """What the same judge says of the first rollout's responses with the adapter saved and loaded again."""
    trainer.model.save_pretrained(folder)
    load_tokenizer(config.model).save_pretrained(folder)
    rollouts: Rollouts = trainer.rollouts
    chosen = rollouts.stream.take(0, config.prompts_per_rollout)

    async def written() -> list[Any]:
        return [rollouts._responses(rollouts._key(position, ""), position, index) for position, index in chosen]

    responses = rollouts._background.run(written())
    engine = EngineConfig(model=str(folder), engine="transformers", dtype="float32")
    sources = RewardSources(
        [RewardSourceConfig(judge=config.rewards[0].judge, engine=engine)], folder / "judgments", patience_minutes=1
    )

    async def ask() -> Any:
        async with sources:
            return await sources.score(responses)

    return [{name: one.value for name, one in answer.items()} for group in asyncio.run(ask()) for answer in group]


def test_its_rewards_are_those_of_its_present_weights(self_config: Any, tmp_path: Path) -> None:
    """Before any step and after one, which changes them: as the adapter that is saved then and loaded afresh."""
    found = []
    for steps in (0, 1):
        config = self_config(dtype="float32", learning_rate=1.0, output=tmp_path / f"run-{steps}")
        with trainer_of(config) as trainer:
            if steps:
                for name, weight in trainer.model.named_parameters():
                    if "lora_B" in name:
                        weight.data.mul_(3)
            groups = trainer.rollouts.collect(0).groups
            own = [answer.values for group in groups for answer in group.answers]
            fresh = asked_afresh(trainer, config, tmp_path / f"saved-{steps}")
            assert [one["rating"] for one in own] == pytest.approx([one["rating"] for one in fresh], abs=1e-4)
            found.append([one["rating"] for one in own])
    assert len(set(found[0])) > 6
    assert found[0] != pytest.approx(found[1], abs=1e-3)


def test_control_tokens_of_the_policy_are_escaped(self_config: Any, model_folder: Path) -> None:
    """A response can not end its turn in the judge's prompt, although the judge's model is called policy."""
    from dataclasses import replace

    from rlaif.judges.defences import own_control_tokens

    own = own_control_tokens(str(model_folder))
    assert "<|im_end|>" in own
    with trainer_of(self_config()) as trainer:
        (judge,) = trainer.rollouts.sources.judges
        assert own_control_tokens(judge.reader) == own
        assert own_control_tokens(replace(judge, read_by="").reader) == ()


@pytest.mark.parametrize("method", ["grpo", "online-dpo"])
def test_a_run_judges_itself_and_says_so(self_config: Any, method: str, capsys: pytest.CaptureFixture[str]) -> None:
    config = self_config(method=method)
    train(config)
    lines = read_metrics(config.output / "metrics.jsonl")
    assert all(line["rewards/rating/missing"] == 0 for line in lines)
    said = capsys.readouterr().err
    assert "rating: the policy judges itself" in said
    assert "set validation and watch" in said


def test_a_killed_run_ends_as_if_it_was_not(self_config: Any, tmp_path: Path) -> None:
    whole, killed = self_config(output=tmp_path / "whole"), self_config(output=tmp_path / "killed")
    kill(killed, "learning", 2)
    train(whole)
    train(killed)
    assert_same_run(whole.output, killed.output)


def test_a_server_s_rollouts_and_reward_models_are_refused(self_config: Any) -> None:
    server = {"engine": "server", "base_url": "http://localhost:1/v1"}
    with pytest.raises(ConfigError, match=r"its model is the policy itself.*use rollouts\.engine: transformers"):
        train(self_config(rollouts=server))
    with pytest.raises(ConfigError, match="judge_model: no judge asks policy: they are programs"):
        train(self_config(rewards="valid-json"))
    with pytest.raises(ConfigError, match="is no reward model"):
        train(self_config(rewards=[{"judge": "reward", "model": "policy"}]))


def test_a_model_that_an_endpoint_serves_as_policy_is_not_the_policy(self_config: Any) -> None:
    served = {"model": "policy", "base_url": "http://localhost:1/v1"}
    with trainer_of(self_config(judge_model=served)) as trainer:
        (judge,) = trainer.rollouts.sources.judges
        assert judge.read_by == ""
        assert [engine.endpoint for engine in trainer.rollouts.sources._engines.values()] != [None]


def test_the_policy_does_not_watch_itself(self_config: Any, rating: Path) -> None:
    watch = [{"judge": str(rating), "name": "outsider"}]
    with pytest.raises(ConfigError, match=r"^watch: '.*' would be the policy itself"):
        train(self_config(watch=watch, validation=0.25))
