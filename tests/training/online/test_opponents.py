"""Methods over fresh pairs and against opponents: XPO, Nash-MD, online SimPO and KTO."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from test_online_run import assert_same_run, kill, lines_of
from test_online_step import exact_model as exact_model
from test_online_step import plain_logps, trainer_of

from rlaif.errors import ConfigError
from rlaif.training import load_preset, train
from rlaif.training.checkpoints import read_metrics
from rlaif.training.logps import adapter_off
from rlaif.training.objectives.opponents import preference

EXACT: dict[str, Any] = {"dtype": "float64", "micro_batch_tokens": 90, "group_size": 2}


def of_a_side(config: Any, model: Any, row: Any, side: int, *, adapter: bool = True) -> torch.Tensor:
    """The summed log-prob of a completion, from the model's own forward on this one sequence."""
    from dataclasses import replace

    alone = replace(row, completions=(row.completions[side],))
    return plain_logps(model, alone, config.temperature, adapter=adapter).sum()


def plain_pair_loss(config: Any, model: Any, rows: list[Any]) -> torch.Tensor:
    loss = torch.zeros((), dtype=torch.float64)
    for row in rows:
        chosen, rejected = (of_a_side(config, model, row, side) for side in (0, 1))
        if config.method == "online-simpo":
            lengths = [len(completion) for completion in row.completions]
            margin = chosen / lengths[0] - rejected / lengths[1]
            loss = loss - torch.nn.functional.logsigmoid(config.beta * (margin - config.gamma_beta_ratio))
            continue
        refs = [of_a_side(config, model, row, side, adapter=False) for side in (0, 1)]
        loss = loss - torch.nn.functional.logsigmoid(config.beta * (chosen - refs[0] - rejected + refs[1]))
        if config.method == "xpo":
            loss = loss + config.alpha * (chosen, rejected)[row.opponent]
    return loss / len(rows)


def plain_nash_loss(config: Any, model: Any, rows: list[Any]) -> torch.Tensor:
    loss = torch.zeros((), dtype=torch.float64)
    for row in rows:
        own, ref = of_a_side(config, model, row, 0), of_a_side(config, model, row, 0, adapter=False)
        loss = loss - (row.preference - 0.5 - config.beta * float(own - ref)) * own
    return loss / len(rows)


@pytest.mark.parametrize(
    ("method", "more"), [("online-simpo", {}), ("xpo", {"alpha": 0.3}), ("nash-md", {"beta": 0.2}), ("online-dpo", {})]
)
def test_a_step_is_what_plain_loops_say(
    online_config: Any,
    exact_model: Path,
    method: str,
    more: dict[str, Any],
) -> None:
    config = online_config(model=str(exact_model), method=method, batch_size=8, generate_rows=8, **EXACT, **more)
    with trainer_of(config) as trainer:
        model = trainer.model
        found = trainer.training_step(model, {})
        rows = trainer.sampled
        assert len(rows) > 2
        own = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
        model.zero_grad()
        model.eval()
        expected = (plain_nash_loss if method == "nash-md" else plain_pair_loss)(config, model, rows)
        expected.backward()
        assert float(found) == pytest.approx(float(expected.detach()), abs=1e-6)
        for name, weight in model.named_parameters():
            if weight.grad is not None:
                torch.testing.assert_close(own[name], weight.grad, rtol=1e-5, atol=1e-7, msg=name)


def test_responses_above_the_mean_are_desirable(online_config: Any, exact_model: Path) -> None:
    config = online_config(model=str(exact_model), method="online-kto", **(EXACT | {"group_size": 4}))
    with trainer_of(config) as trainer:
        trainer.training_step(trainer.model, {})
        groups = {group.index: group.rewards for group in trainer.rollouts.collect(0).groups}
        assert trainer.sampled
        for row in trainer.sampled:
            rewards = list(groups.values())[row.group]
            mean = sum(rewards) / len(rewards)
            assert row.answer.reward != mean
            assert row.label == (row.answer.reward > mean)
        left_out = sum(reward == sum(each) / len(each) for each in groups.values() for reward in each)
        assert len(trainer.sampled) + left_out == 16


def reference_logits(model: Any, ids: tuple[int, ...]) -> torch.Tensor:
    with torch.no_grad(), adapter_off(model):
        return model(input_ids=torch.tensor([ids])).logits[0, -1]


@pytest.mark.parametrize(("method", "share"), [("xpo", 1.0), ("nash-md", 0.3)])
def test_the_opponent_is_who_it_should_be(
    online_config: Any,
    exact_model: Path,
    method: str,
    share: float,
) -> None:
    """What its tokens were drawn from is the reference, or the mixture, told by the log-probs that came with them."""
    more = {"mixture": share} if method == "nash-md" else {}
    config = online_config(model=str(exact_model), method=method, temperature=0.8, **EXACT, **more)
    with trainer_of(config) as trainer:
        groups = trainer.rollouts.collect(0).groups
        model = trainer.model.eval()
        for group in groups:
            mine, theirs = group.answers
            assert (mine.by_opponent, theirs.by_opponent) == (False, True)
            prompt = trainer.rollouts.rows.rows[group.index].prompt
            for answer, part in ((mine, 0.0), (theirs, share)):
                for place, (token, logp) in enumerate(zip(answer.sampled.ids, answer.sampled.logps, strict=True)):
                    ids = (*prompt, *answer.sampled.ids[:place])
                    with torch.no_grad():
                        own = model(input_ids=torch.tensor([ids])).logits[0, -1]
                    mixed = own * (1 - part) + reference_logits(model, ids) * part
                    expected = float((mixed / 0.8).log_softmax(-1)[token])
                    assert logp == pytest.approx(expected, abs=1e-6)


def test_with_all_weights_the_opponent_is_the_frozen_copy(online_config: Any) -> None:
    config = online_config(method="nash-md", full=True, learning_rate=1e-2, group_size=2)
    train(config)
    lines = read_metrics(config.output / "metrics.jsonl")
    assert all(math.isfinite(line["loss"]) for line in lines)
    assert abs(lines[-1]["kl"]) > 0
    assert "opponent/reward" in lines[0]


@pytest.mark.parametrize("method", ["xpo", "nash-md", "online-kto"])
def test_a_killed_run_ends_as_if_it_was_not(online_config: Any, tmp_path: Path, method: str) -> None:
    whole = online_config(method=method, group_size=2, output=tmp_path / "whole")
    killed = online_config(method=method, group_size=2, output=tmp_path / "killed")
    kill(killed, "sampling", 3)
    train(whole)
    train(killed)
    assert_same_run(whole.output, killed.output)


def test_what_the_opponent_earned_is_not_the_reward(online_config: Any) -> None:
    config = online_config(method="xpo", group_size=2)
    train(config)
    lines = lines_of(config.output)
    rewards = [(line["reward"], line["opponent/reward"]) for line in lines]
    assert any(own != theirs for own, theirs in rewards)
    assert all(line["rewards/letters/mean"] == pytest.approx(line["reward"]) for line in lines)


@pytest.mark.parametrize("method", ["nash-md", "online-simpo", "online-kto"])
def test_the_reward_rises(online_config: Any, method: str) -> None:
    size = 2 if method == "nash-md" else 6
    config = online_config(
        method=method, epochs=20, batch_size=8, group_size=size, generate_rows=48, save_steps=100, learning_rate=3e-2,
        beta={"nash-md": 0.01, "online-simpo": 2.0}.get(method, 0.1),
    )  # fmt: skip
    train(config)
    rewards = [line["reward"] for line in read_metrics(config.output / "metrics.jsonl")]
    assert sum(rewards[-4:]) / 4 > sum(rewards[:4]) / 4 + 0.15


def test_preferences() -> None:
    own, other = torch.tensor([2.0, 1.0, 0.0]), torch.tensor([1.0, 1.0, 3.0])
    assert preference(own, other, "order").tolist() == [1.0, 0.5, 0.0]
    assert preference(own, other, "sigmoid").tolist() == pytest.approx(
        [1 / (1 + math.exp(-1)), 0.5, 1 / (1 + math.exp(3))]
    )
    margins = torch.tensor([1.0, 0.5, -1.0])
    assert preference(margins, -margins, "margin").tolist() == [1.0, 0.75, 0.0]


@pytest.mark.parametrize(
    ("method", "changes", "message"),
    [
        ("xpo", {"group_size": 4}, "group_size"),
        (
            "xpo",
            {"rollouts": {"engine": "server", "base_url": "http://x/v1"}},
            "the opponent has the reference's weights",
        ),
        (
            "nash-md",
            {"rollouts": {"engine": "server", "base_url": "http://x/v1"}},
            "the opponent has the reference's weights",
        ),
        ("nash-md", {"reference": "none"}, "nash-md answers against it"),
        ("xpo", {"reference": "none"}, "xpo answers against it"),
        ("nash-md", {"passes": 2}, "leave both at 1"),
        ("nash-md", {"dynamic_sampling": 2}, "learns from equal rewards too"),
        ("online-simpo", {"reference_model": "m"}, "reference_model"),
        ("online-simpo", {"reference_cache": "m"}, "has no reference"),
        ("online-kto", {"use_confidence": True}, "no calibrated confidence"),
        ("online-kto", {"stop_kl": 0.1}, "online-kto estimates no KL"),
    ],
)
def test_what_can_not_be_is_refused(online_config: Any, method: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        online_config(method=method, **({"group_size": 2} | changes))


def test_equal_rewards_are_no_labels_whatever_their_rounding() -> None:
    """The mean of seven times 0.7 is not 0.7 in floating point."""
    from rlaif.training.online.answers import Answer
    from rlaif.training.online.learning import SampledRow, labelled_rows
    from rlaif.training.online.samples import Sampled
    from rlaif.training.rows import Completion

    config = load_preset("online-kto", model="m", data="d", output="o", rewards="valid-json", group_size=7)
    answers = [Answer(str(n), "", Sampled((1,), (0.0,), True), {}, {}, 0.7) for n in range(7)]
    rows = [SampledRow(one.id, (1,), (Completion((1,)),), group=0, answer=one) for one in answers]
    assert labelled_rows(rows, config) == []
