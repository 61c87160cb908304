"""Whole online runs of a tiny model: what is written, resume after a kill anywhere, and that it learns."""

import json
import signal
from pathlib import Path
from typing import Any

import forked
import pytest
import torch

from rlaif.errors import RlaifError
from rlaif.models import load_model
from rlaif.training import train
from rlaif.training.checkpoints import read_metrics

METRICS = {
    "step", "epoch", "loss", "grad_norm", "learning_rate", "num_tokens", "reward", "reward_std", "frac_reward_zero_std",
    "masked", "barren_groups", "completions/mean_length", "completions/min_length", "completions/max_length",
    "completions/clipped_ratio", "rewards/letters/mean", "rewards/letters/std", "rewards/letters/missing", "entropy",
    "sampling/stale_steps", "sampling/importance_sampling_ratio/mean", "sampling/sampling_logp_difference/mean",
    "approx_kl", "clip_ratio/low_mean", "clip_ratio/high_mean", "clip_ratio/region_mean",
    "time/rollout_seconds", "time/learn_seconds",
}  # fmt: skip


def lines_of(folder: Path) -> list[dict[str, float]]:
    """metrics.jsonl without what a clock says."""
    return [
        {name: value for name, value in line.items() if not name.startswith("time/")}
        for line in read_metrics(folder / "metrics.jsonl")
    ]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "adapter_model.safetensors")


def assert_same_run(left: Path, right: Path) -> None:
    """Bit for bit: the weights, every metric, and the tables of samples."""
    assert lines_of(left) == lines_of(right)
    assert all(torch.equal(value, weights(right)[name]) for name, value in weights(left).items())
    assert (left / "samples.jsonl").read_text() == (right / "samples.jsonl").read_text()


def test_a_run_folder_holds_everything(online_config: Any) -> None:
    config = online_config()
    result = train(config)
    lines = read_metrics(config.output / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert set(lines[0]) - {"completions/mean_terminated_length"} == METRICS
    assert [line["epoch"] for line in lines] == [0.5, 1, 1.5, 2]
    assert (result.steps, result.rows, result.skipped) == (4, 8, 0)
    assert max(line["sampling/sampling_logp_difference/mean"] for line in lines) < 1e-4
    samples = [json.loads(line) for line in (config.output / "samples.jsonl").read_text().splitlines()]
    assert len(samples) == 4 * 3
    assert {"step", "prompt", "response", "reward", "rewards", "advantage", "tokens"} <= set(samples[0])
    assert "rlaif train grpo" in (config.output / "README.md").read_text()
    assert "letters" in (config.output / "README.md").read_text()
    load_model(str(config.output))


def test_the_reward_rises(online_config: Any) -> None:
    """Of a tiny random model that is rewarded for letters: from about 0.4 to above 0.8 of the three kinds."""
    config = online_config(epochs=16, group_size=6, generate_rows=24, save_steps=100, learning_rate=3e-2)
    train(config)
    rewards = [line["reward"] for line in read_metrics(config.output / "metrics.jsonl")]
    first, last = sum(rewards[:4]) / 4, sum(rewards[-4:]) / 4
    assert last > first + 0.25


KILLER = """
import json, os, signal, sys
from rlaif.training import parse_config, train
from rlaif.training.online import decode, rewards
from rlaif.training.trainer import PolicyTrainer
where, left = sys.argv[2], int(sys.argv[3])
def deadly(owner, name, after):
    own = getattr(owner, name)
    def call(*args, **kwargs):
        global left
        left -= 1
        if left < 0 and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = own(*args, **kwargs)
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    setattr(owner, name, call)
import torch
owner, name, after = {
    "sampling": (decode.Decoder, "sample", True),
    "judging": (rewards.RewardSources, "score", False),
    "learning": (PolicyTrainer, "learn", True),
    "optimiser": (torch.optim.AdamW, "step", True),
    "checkpoint": (PolicyTrainer, "_save_optimizer_and_scheduler", True),
}[where]
deadly(owner, name, after)
train(parse_config(json.loads(sys.argv[1])))
"""


def kill(config: Any, where: str, calls: int) -> None:
    """Runs a configuration in a process that is killed at such a call."""
    child = forked.run("-c", KILLER, config.model_dump_json(), where, str(calls))
    assert child.returncode == -signal.SIGKILL, child.stderr


@pytest.mark.parametrize(
    ("where", "calls"), [("sampling", 5), ("judging", 3), ("learning", 2), ("optimiser", 2), ("checkpoint", 2)]
)
def test_a_run_that_was_killed_anywhere_ends_as_if_it_was_not(
    online_config: Any, tmp_path: Path, where: str, calls: int
) -> None:
    settings: dict[str, Any] = {"beta": 0.1, "steps_per_rollout": 2, "batch_size": 2, "sample_steps": 2}
    whole = online_config(**settings, output=tmp_path / "whole")
    killed = online_config(**settings, output=tmp_path / "killed")
    kill(killed, where, calls)
    train(whole)
    train(killed)
    assert_same_run(whole.output, killed.output)


@pytest.mark.parametrize(("critic", "where", "calls"), [("model", "optimiser", 5), ("head", "checkpoint", 2)])
def test_a_killed_run_with_a_critic_ends_as_if_it_was_not(
    online_config: Any, tmp_path: Path, critic: str, where: str, calls: int
) -> None:
    """Critic, its optimizer state and the KL weight are in the checkpoint."""
    settings: dict[str, Any] = {"method": "ppo", "critic": critic, "kl_target": 0.01, "kl_horizon": 50}
    whole = online_config(**settings, output=tmp_path / "whole")
    killed = online_config(**settings, output=tmp_path / "killed")
    kill(killed, where, calls)
    train(whole)
    train(killed)
    assert len({line.get("beta") for line in lines_of(whole.output)}) > 2
    assert_same_run(whole.output, killed.output)
    if critic == "model":
        left, right = weights(whole.output / "critic"), weights(killed.output / "critic")
        assert all(torch.equal(value, right[name]) for name, value in left.items())


def test_a_rollout_that_is_written_down_is_not_sampled_again(
    online_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after the first rollout was judged and before its step: the same command samples only the second."""
    from rlaif.training.online.decode import Decoder
    from rlaif.training.trainer import PolicyTrainer

    config = online_config(epochs=1)
    with monkeypatch.context() as patch:
        patch.setattr(PolicyTrainer, "learn", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train(config)
    sampled = []
    own = Decoder.sample
    monkeypatch.setattr(Decoder, "sample", lambda self, batch: sampled.extend(batch) or own(self, batch))
    train(config)
    assert sorted(request.key for request in sampled) == ["4", "5", "6", "7"]


def test_an_unknown_judge_is_refused_before_anything_is_written(online_config: Any) -> None:
    config = online_config(rewards="no-such-judge")
    with pytest.raises(RlaifError, match="no-such-judge"):
        train(config)
    assert not config.output.exists()
