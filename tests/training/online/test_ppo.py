"""PPO: a step with its critic against plain loops in float64, what a critic starts from and leaves behind."""

from pathlib import Path
from typing import Any

import pytest
import torch
from test_online_step import exact_model as exact_model
from test_online_step import plain_logps, trainer_of

from rlaif.errors import ConfigError, TrainError
from rlaif.models import load_trained_reward_model
from rlaif.training import train
from rlaif.training.checkpoints import read_metrics
from rlaif.training.online.learning import SampledRow
from rlaif.training.online.rollouts import Rollout


def shaken(critic: Any) -> None:
    """Weights that are not what they begin with, so that values differ from token to token."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in critic.parameters:
            weight.copy_(torch.randn(weight.shape, generator=generator, dtype=torch.float64) * 0.3)


def plain_values(critic: Any, model: Any, row: SampledRow) -> torch.Tensor:
    """What the critic says of the text before each token, from a forward of this one sequence."""
    ids = torch.tensor([[*row.prompt, *row.completions[0].ids]])
    before = slice(len(row.prompt) - 1, -1)
    if critic.reads_policy:
        hidden = model(input_ids=ids, output_hidden_states=True).hidden_states[-1][0, before]
        return critic.module(hidden)[:, 0]
    hidden = critic.module.get_base_model().model(input_ids=ids).last_hidden_state[0, before]
    return critic.module.get_base_model().score(hidden)[:, 0]


def plain_ppo(config: Any, model: Any, critic: Any, rows: list[SampledRow]) -> torch.Tensor:
    """The first step of a rollout: ratios are 1, values are those of the rollout, both with a gradient."""
    logps = [plain_logps(model, row, config.temperature) for row in rows]
    reference = [plain_logps(model, row, config.temperature, adapter=False) for row in rows]
    values = [plain_values(critic, model, row) for row in rows]
    advantages, returns = [], []
    for row, own, ref, value in zip(rows, logps, reference, values, strict=True):
        rewards = -config.beta * (own - ref).detach()
        rewards[-1] += row.answer.reward  # type: ignore[union-attr]
        known, found = [*value.detach().tolist(), 0.0], [0.0]
        for t in reversed(range(len(own))):
            delta = float(rewards[t]) + config.discount * known[t + 1] - known[t]
            found.insert(0, delta + config.discount * config.gae_lambda * found[0])
        advantages.append(torch.tensor(found[:-1], dtype=torch.float64))
        returns.append(advantages[-1] + value.detach())
    flat = torch.cat(advantages)
    tokens = len(flat)
    loss = torch.zeros((), dtype=torch.float64)
    for own, value, advantage, wanted in zip(logps, values, advantages, returns, strict=True):
        scaled = (advantage - flat.mean()) / (flat.var(unbiased=True) + 1e-8).sqrt()
        ratio = (own - own.detach()).exp()
        loss = loss - (ratio * scaled).sum() / tokens
        loss = loss + config.value_weight * ((value - wanted) ** 2 / 2).sum() / tokens
    return loss


@pytest.mark.parametrize("critic", ["model", "head"])
def test_a_step_is_what_plain_loops_say(online_config: Any, exact_model: Path, critic: str) -> None:
    config = online_config(
        model=str(exact_model), dtype="float64", micro_batch_tokens=90, method="ppo", critic=critic, passes=1, beta=0.1,
        group_size=2, gae_lambda=0.9, discount=0.98, value_weight=0.4,
    )  # fmt: skip
    with trainer_of(config) as trainer:
        shaken(trainer.critic)
        model, critic_of = trainer.model, trainer.critic
        found = trainer.training_step(model, {})
        named = [*model.named_parameters(), *critic_of.module.named_parameters(prefix="critic")]
        own = {name: weight.grad.clone() for name, weight in named if weight.grad is not None}
        model.zero_grad()
        critic_of.forget_gradients()
        model.eval()
        expected = plain_ppo(config, model, critic_of, trainer.sampled)
        expected.backward()
        assert float(found) == pytest.approx(float(expected.detach()), abs=1e-6)
        shown = trainer.progress.means()
        total = shown["policy_loss"] + config.value_weight * shown["value_loss"]
        assert total == pytest.approx(float(found), abs=1e-6)
        assert any(name.startswith("critic") for name in own)
        for name, weight in named:
            if weight.grad is not None:
                torch.testing.assert_close(own[name], weight.grad, rtol=1e-5, atol=1e-7, msg=name)


@pytest.mark.parametrize("critic", ["model", "head"])
def test_a_fresh_critic_expects_nothing_and_then_learns(online_config: Any, critic: str) -> None:
    """Values begin at 0, so the first advantages are the rewards'; the critic then comes nearer to what was earned."""
    config = online_config(
        method="ppo", critic=critic, epochs=12, batch_size=8, group_size=2, generate_rows=16, critic_learning_rate=3e-2,
        learning_rate=1e-4, value_clip=None, save_steps=100, beta=0.0, value_weight=1.0,
    )  # fmt: skip
    train(config)
    lines = read_metrics(config.output / "metrics.jsonl")
    assert lines[0]["values"] == 0
    assert lines[0]["explained_variance"] == 0
    assert lines[-1]["value_loss"] < 0.6 * lines[0]["value_loss"]
    assert lines[-1]["values"] == pytest.approx(lines[-1]["returns"], abs=0.15)


def test_the_policy_learns_by_its_critic(online_config: Any) -> None:
    config = online_config(
        method="ppo", epochs=16, batch_size=8, group_size=3, generate_rows=24, save_steps=100, learning_rate=3e-2,
        critic_learning_rate=1e-2, beta=0.0,
    )  # fmt: skip
    train(config)
    rewards = [line["reward"] for line in read_metrics(config.output / "metrics.jsonl") if "reward" in line]
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.2


def test_the_critic_of_a_run_is_where_the_next_one_starts(
    online_config: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = online_config(method="ppo", output=tmp_path / "first", critic_learning_rate=0.1)
    train(first)
    folder = first.output / "critic"
    load_trained_reward_model(str(folder))  # nothing of it is drawn at random
    second = online_config(method="ppo", output=tmp_path / "second", critic_model=str(folder))
    train(second)
    assert "values of 0" not in capsys.readouterr().err.rsplit("the critic is", 1)[-1]
    before, after = (read_metrics(run.output / "metrics.jsonl") for run in (first, second))
    assert before[0]["values"] == 0
    assert abs(after[0]["values"]) > 0.05


def test_a_critic_of_other_tokens_is_refused(online_config: Any, tmp_path: Path) -> None:
    from tiny import build_llama, build_tokenizer

    other = tmp_path / "other"
    build_llama(torch.float32).save_pretrained(other)
    tokenizer = build_tokenizer()
    tokenizer.add_tokens(["<more>"])
    tokenizer.save_pretrained(other)
    with pytest.raises(TrainError, match="different tokenizers"):
        train(online_config(method="ppo", critic_model=str(other)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"critic": "head", "critic_model": "m"}, "critic_model belongs to critic: model"),
        ({"kl_target": 0.1, "beta": 0.0}, "kl_target changes beta from where it begins"),
        ({"kl_horizon": 5}, "kl_horizon belongs to kl_target"),
        ({"critic_learning_rate": 0.0}, "critic_learning_rate must be greater than 0"),
        ({"per_reward": True}, "per_reward normalises in groups"),
        ({"advantage": "whitened"}, "gae"),
    ],
)
def test_what_can_not_be_is_refused(online_config: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        online_config(method="ppo", **changes)


def test_a_step_without_rows_leaves_the_critic_alone(online_config: Any) -> None:
    """Trainer forgets the gradients of the policy only: a former step's must not be applied to the critic once more."""
    config = online_config(method="ppo", passes=1)
    with trainer_of(config) as trainer:
        trainer.training_step(trainer.model, {})
        assert any(weight.grad is not None for weight in trainer.critic.parameters)
        trainer.rollouts.collect = lambda cursor: Rollout((), cursor)
        trainer.state.global_step = 1
        trainer.training_step(trainer.model, {})
        assert all(weight.grad is None for weight in trainer.critic.parameters)


def test_one_response_is_compared_with_the_critic(online_config: Any) -> None:
    config = online_config(method="ppo", batch_size=1, group_size=1, epochs=0.25)
    assert train(config).steps == 4


def test_the_critic_s_folder_is_not_deleted_by_the_run_that_starts_from_it(online_config: Any, tmp_path: Path) -> None:
    (tmp_path / "run/critic").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"--overwrite would delete .*critic_model"):
        train(online_config(method="ppo", critic_model=str(tmp_path / "run/critic")), overwrite=True)


@pytest.mark.parametrize(("more", "said"), [({}, True), ({"kl_ratio": True}, False), ({"kl": "k3"}, False)])
def test_a_kl_term_that_holds_nothing_is_said(
    online_config: Any, more: dict[str, Any], said: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    train(online_config(method="ppo", kl_in="loss", epochs=0.5, **more))
    assert ("beta holds the policy to nothing" in capsys.readouterr().err) == said
