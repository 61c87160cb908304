"""Online runs beside the plain case: two processes, outages, masks, dynamic sampling, held-out prompts, refusals."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from test_online_run import assert_same_run, lines_of
from test_ranks import in_processes

from rlaif.errors import ConfigError, OutageError
from rlaif.training import dry_run, load_preset, train
from rlaif.training.checkpoints import checkpoints, read_metrics, read_progress
from rlaif.training.logps import temperature_of
from rlaif.training.online.held_out import alarm
from rlaif.training.online.judges import reward_sources
from rlaif.training.policy import load_policy
from rlaif.training.run_folder import check_same_run, start_manifest, write_manifest

NEEDED: dict[str, Any] = {"model": "m", "data": "d.jsonl", "output": "o", "rewards": "valid-json"}


@pytest.mark.parametrize(
    "kind",
    [
        {"method": "grpo"},
        {"method": "ppo"},
        {"method": "ppo", "critic": "head"},
        {"method": "ppo", "full": True, "learning_rate": 1e-3},
        {"method": "nash-md", "group_size": 2, "steps_per_rollout": 1},
    ],
)
def test_two_processes_learn_as_one(online_config: Any, tmp_path: Path, kind: dict[str, Any]) -> None:
    """Each samples its share of the prompts; rewards, advantages, a critic and steps are of all. In float64, to rounding."""
    settings: dict[str, Any] = {
        "dtype": "float64", "beta": 0.1, "steps_per_rollout": 2, "batch_size": 2, "validation": 0.25, "eval_steps": 2,
        **kind,
    }  # fmt: skip
    train(online_config(**settings, output=tmp_path / "one"))
    two = online_config(**settings, output=tmp_path / "two")
    in_processes(2, [two.model_dump(mode="json")])
    one, other = lines_of(tmp_path / "one"), lines_of(tmp_path / "two")
    assert [line.keys() for line in one] == [line.keys() for line in other]
    for left, right in zip(one, other, strict=True):
        for key, value in left.items():
            assert right[key] == pytest.approx(value, rel=1e-5, abs=1e-7), key
    assert (tmp_path / "two/rollouts/process-1/samples.jsonl").is_file()


def test_a_judge_that_stays_away_saves_and_ends_with_status_3(
    online_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fails at the third rollout; when it is back, the same command continues at step 3 and asks about nothing twice."""
    from rlaif.training.online.rewards import RewardSources

    config = online_config(save_steps=100, generate_rows=24)
    own, calls = RewardSources.score, []

    async def away(self: Any, groups: Any) -> Any:
        calls.append(len(groups))
        if len(calls) > 2:
            raise OutageError("the endpoint gave no answer for 10 minutes")
        return await own(self, groups)

    with monkeypatch.context() as patch:
        patch.setattr(RewardSources, "score", away)
        with pytest.raises(OutageError, match=r"saved at step 2, .*the same command continues") as caught:
            train(config)
    assert caught.value.exit_status == 3
    asked = []

    async def back(self: Any, groups: Any) -> Any:
        asked.append(len(groups))
        return await own(self, groups)

    monkeypatch.setattr(RewardSources, "score", back)
    assert train(config).steps == 4
    assert asked == [4, 4]


def test_what_a_judge_can_not_say_is_left_out_and_counted(online_config: Any, tmp_path: Path) -> None:
    """A check that times out on some responses leaves them without a reward: they are not learnt from, and not rewarded 0."""
    judge = tmp_path / "half.yaml"
    pattern = "^(([a-z])+.)+[A-Z]([a-z])+$"
    checks = f"checks:\n  - {{check: regex, pattern: '{pattern}', seconds: 1.0e-6}}\n"
    judge.write_text(f"kind: program\ndescription: Slow.\n{checks}")
    config = online_config(rewards=str(judge), epochs=1)
    train(config)
    lines = read_metrics(config.output / "metrics.jsonl")
    masked = [line["masked"] for line in lines]
    assert max(masked) > 0
    assert [line["rewards/half/missing"] for line in lines] == masked
    rows = [json.loads(line) for line in (config.output / "samples.jsonl").read_text().splitlines()]
    left_out = [row for row in rows if row["reward"] is None]
    assert all(row["advantage"] is None and row["reasons"] for row in left_out)


def test_dynamic_sampling_replaces_groups_of_one_reward(online_config: Any) -> None:
    """Without it some groups teach nothing; with it all that are learnt from differ, and more prompts were used."""
    plain = online_config(group_size=2, epochs=1)
    train(plain)
    assert max(line["frac_reward_zero_std"] for line in read_metrics(plain.output / "metrics.jsonl")) > 0
    dynamic = online_config(group_size=2, epochs=1, dynamic_sampling=4, output=plain.output.with_name("dynamic"))
    train(dynamic)
    lines = read_metrics(dynamic.output / "metrics.jsonl")
    assert all(line["frac_reward_zero_std"] == 0 for line in lines)
    assert sum(line["barren_groups"] for line in lines) > 0
    assert lines[-1]["epoch"] > 1


def test_overlong_responses_can_be_left_out(online_config: Any) -> None:
    config = online_config(overlong="filter", epochs=1)
    train(config)
    rows = [json.loads(line) for line in (config.output / "samples.jsonl").read_text().splitlines()]
    assert {row["advantage"] is None for row in rows if not row["stopped"]} == {True}


def test_held_out_prompts_are_evaluated_before_the_first_step_and_watched(
    online_config: Any, letters_judge: Path
) -> None:
    watch = [{"judge": str(letters_judge), "name": "other"}]
    config = online_config(validation=0.25, eval_steps=2, watch=watch, epochs=2)
    train(config)
    lines = [line for line in read_metrics(config.output / "metrics.jsonl") if "eval/reward" in line]
    assert [line["step"] for line in lines] == [0, 2, 3]
    assert {"eval/watch/other", "eval/relevance", "eval/alarm", "eval/completions/mean_length"} <= lines[0].keys()
    assert all(line["eval/watch/other"] == pytest.approx(line["eval/reward"]) for line in lines)
    asked = [json.loads(line) for line in (config.output / "rollouts/process-0/samples.jsonl").read_text().splitlines()]
    held_out = {row["prompt_id"] for row in asked if row["id"].startswith("held-out")}
    assert len(held_out) == 2
    assert not held_out & {row["prompt_id"] for row in asked if not row["id"].startswith("held-out")}


ALARMS = [
    ({"eval/reward": 0.5}, None),
    ({"eval/reward": 0.7, "eval/watch/w": 0.55, "eval/watch/w_standard_error": 0.05}, None),
    ({"eval/reward": 0.7, "eval/watch/w": 0.4, "eval/watch/w_standard_error": 0.05}, "but w fell from 0.6 to 0.4: "),
    ({"eval/reward": 0.4, "eval/watch/w": 0.4, "eval/watch/w_standard_error": 0.05}, None),
    ({"eval/reward": 0.7, "eval/relevance": 1.85}, None),
    ({"eval/reward": 0.7, "eval/relevance": 1.7}, "relevance .* fell from 2 to 1.7: "),
]


@pytest.mark.parametrize(("now", "said"), ALARMS)
def test_the_alarm_of_reward_hacking(now: dict[str, float], said: str | None) -> None:
    """The reward rose, and a judge that watches fell by more than two standard errors, or relevance by more than a tenth."""
    found = alarm({"eval/reward": 0.5, "eval/watch/w": 0.6, "eval/relevance": 2.0}, now)
    if said is None:
        assert found is None
    else:
        assert found is not None
        assert re.search(said, found)


REFUSED = [
    ("grpo", {"discount": 0.9}, "discount belongs to advantage: whitened, and advantage is group-normalized"),
    ("grpo", {"cispo_cap": 3}, "cispo_cap belongs to surrogate: cispo"),
    ("grpo", {"surrogate": "sapo", "dual_clip": 3}, "dual_clip belongs to surrogate: clip"),
    ("spo", {"tracker": "global", "first_samples": 2}, "first_samples belongs to tracker: prompt"),
    ("online-dpo", {"stop_kl": 0.1}, "online-dpo estimates no KL divergence"),
    (
        "online-dpo",
        {"rollouts": {"engine": "server", "base_url": "http://x/v1", "ahead": True}},
        "the loss of online-dpo does not correct for older responses",
    ),
    ("grpo", {"top_p": 0.9}, "top_p is impossible in training rollouts"),
    ("grpo", {"group_size": 1}, "compares the responses to one prompt, and group_size is 1"),
    ("grpo", {"max_tokens": 4000}, "leaves no room for a prompt"),
    ("grpo", {"overlong": "punish", "overlong_cache": 300}, "overlong_cache is at most max_tokens"),
    ("grpo", {"watch": ["helpful"]}, "watch asks about held-out prompts, and there are none"),
    ("grpo", {"per_reward": True, "advantage": "group-mean"}, "per_reward normalises in groups"),
    ("grpo", {"group_size": 128}, "generate_rows .64. is less than group_size"),
    ("grpo", {"reference": "cached"}, "the responses are new in every step"),
    ("grpo", {"reference": "none", "beta": 0.1}, "reference: none leaves nothing to hold the policy to"),
    ("grpo", {"rollouts": {"engine": "server"}}, "server needs rollouts.base_url"),
    ("grpo", {"rollouts": {"ahead": True}}, "what is in this process can not sample while the policy learns"),
    ("grpo", {"rollouts": {"base_url": "http://x/v1"}}, "belongs to rollouts.engine: server"),
    ("grpo", {"rollouts": {"engine": "server", "base_url": "http://x:8000/api"}}, "ends in /v1"),
    ("grpo", {"rollouts": {"engine": "server", "base_url": "http://x/v1"}, "lora": {"dora": True}}, "vLLM serves no DoRA"),
    ("grpo", {"rewards": [{"judge": "helpful", "weight": 0}]}, "would be asked for nothing"),
    ("rloo", {"kl_ratio": True}, "kl_ratio weighs a term of the loss"),
    ("reinforce++", {"dynamic_sampling": 2}, "advantage: whitened learns from them too"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "keys", "said"), REFUSED)
def test_impossible_settings_are_refused(method: str, keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_preset(method, **{**NEEDED, **keys})


def test_a_run_without_a_reward_is_refused(online_config: Any) -> None:
    with pytest.raises(ConfigError, match="name at least one judge by --reward"):
        train(online_config(rewards=[]))


def test_a_dry_run_counts_what_would_be_sampled(online_config: Any) -> None:
    found = dry_run(online_config(epochs=2, steps_per_rollout=2, batch_size=2, passes=2))
    assert (found.rows, found.steps, found.responses) == (8, 16, 48)


def test_prompts_without_room_are_listed(online_config: Any) -> None:
    config = online_config(max_length=60, epochs=1)
    with config.data.open("a") as file:
        file.write(json.dumps({"id": "long", "prompt": "x" * 100}) + "\n")
        file.write(json.dumps({"id": "p0", "prompt": "Say 0"}) + "\n")
    assert train(config).skipped == 2
    lines = [json.loads(line) for line in (config.output / "skipped.jsonl").read_text().splitlines()]
    assert {line["id"]: line["reason"].split(":")[0] for line in lines} == {
        "p0": "repeats a prompt",
        "long": "too long",
    }


def test_rollouts_one_ahead_are_of_the_policy_before(online_config: Any, model_folder: Path) -> None:
    """Four rollouts of one step: the first is of the present policy, each other of the one before; samples of steps 0, 0, 1, 2.
    Off its policy by one step, a token's weight is no longer 1."""
    from tiny_vllm import TinyVllm

    with TinyVllm(model_folder) as server:
        rollouts = {"engine": "server", "base_url": server.url, "ahead": True}
        config = online_config(rollouts=rollouts, batch_size=2, group_size=3, epochs=1)
        train(config)
        assert not server.served
    lines = read_metrics(config.output / "metrics.jsonl")
    assert [line["sampling/stale_steps"] for line in lines] == [0, 1, 1, 1]
    groups = (config.output / "rollouts/process-0/samples.jsonl").read_text().splitlines()
    assert [json.loads(line)["policy_step"] for line in groups] == [0, 0, 0, 0, 1, 1, 2, 2]
    gaps = [line["sampling/sampling_logp_difference/mean"] for line in lines]
    assert gaps[0] < 1e-4 < 1e-3 < max(gaps[1:])
    assert lines[0]["sampling/importance_sampling_ratio/mean"] == pytest.approx(1, abs=1e-4)


def test_online_dpo_learns_from_the_best_and_the_worst_response(online_config: Any) -> None:
    """At the first step the policy is the reference, so the loss is ln 2; groups of one reward make no pair."""
    config = online_config(method="online-dpo", group_size=4, epochs=8, learning_rate=3e-2, beta=0.1, save_steps=100)
    train(config)
    lines = read_metrics(config.output / "metrics.jsonl")
    assert lines[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert lines[0]["rewards/margins"] == pytest.approx(0, abs=1e-6)
    rewards = [line["reward"] for line in lines]
    assert sum(rewards[-4:]) / 4 > sum(rewards[:4]) / 4 + 0.1


def test_spo_tracks_what_each_prompt_is_worth(online_config: Any) -> None:
    """The first responses begin the trackers (p = (sum + 1/2) / (n + 1)), and a continued run has them."""
    config = online_config(method="spo", group_size=1, first_samples=3, batch_size=4, epochs=2)
    train(config)
    journal = [
        json.loads(line) for line in (config.output / "rollouts/process-0/rewards.jsonl").read_text().splitlines()
    ]
    first = {
        row["id"]: [value["letters"] for value in row["values"]] for row in journal if row["id"].startswith("first")
    }
    assert len(first) == 8
    assert {len(values) for values in first.values()} == {3}
    state = read_progress(checkpoints(config.output / "checkpoints")[-1][1]).method["learner"]
    assert len(state["trackers"]["counts"]) == 8
    assert state["last"]


def test_spo_with_one_tracker_for_all_is_minimind_s(online_config: Any) -> None:
    """Its baseline begins in the middle of the range: the first advantages are the rewards less that."""
    config = online_config(
        method="spo", group_size=1, tracker="global", surrogate="none", normalization="sequence", beta=0.02,
        reward_range=[-3.0, 3.0], batch_size=4, epochs=1,
    )  # fmt: skip
    train(config)
    rows = [json.loads(line) for line in (config.output / "samples.jsonl").read_text().splitlines()]
    assert all(row["advantage"] == pytest.approx(row["reward"] - 0.0) for row in rows)


@pytest.mark.parametrize("method", ["spo", "online-dpo"])
def test_what_a_method_remembers_is_in_its_checkpoints(online_config: Any, tmp_path: Path, method: str) -> None:
    """Interrupted in the third of four rollouts and continued, it ends with the weights of an uninterrupted run."""
    from rlaif.training.online.trainer import OnlineTrainer

    own = {"group_size": 1, "first_samples": 2} if method == "spo" else {"group_size": 3}
    whole, broken = (online_config(method=method, **own, output=tmp_path / name) for name in ("whole", "broken"))
    train(whole)
    step, calls = OnlineTrainer.training_step, []

    def failing(self: Any, *args: Any, **keys: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return step(self, *args, **keys)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OnlineTrainer, "training_step", failing)
        with pytest.raises(KeyboardInterrupt):
            train(broken)
    train(broken)
    assert_same_run(whole.output, broken.output)


def test_the_judge_model_is_of_judges_that_name_none(online_config: Any, letters_judge: Path) -> None:
    """Beside a program, which takes no model, and one that names its own."""
    own = {"judge": "helpful-score", "name": "own", "model": "mine"}
    config = online_config(rewards=[str(letters_judge), "helpful-score", own], judge_model="theirs")
    sources, _ = reward_sources(config)
    models = [[judge.model for judge in source.ensemble.judges] for source in sources._sources]
    assert models == [["program"], ["theirs"], ["mine"]]
    with pytest.raises(
        ConfigError, match=r"names no model; give one with --model .--judge-model where a policy is trained"
    ):
        reward_sources(online_config(rewards="helpful-score"))


WRONG_JUDGES = [
    ({"method": "spo", "group_size": 1, "rewards": "helpful"}, "rewards: 'helpful' compares the responses to a prompt"),
    (
        {"validation": 0.25, "watch": "helpful"},
        "watch: 'helpful' compares the responses to a prompt, and each has one here",
    ),
    (
        {"rewards": "valid-json", "validation": 0.25, "watch": "valid-json"},
        "watch: 'valid-json' is the name of a reward too",
    ),
]


@pytest.mark.parametrize(("keys", "said"), WRONG_JUDGES)
def test_judges_that_would_have_nothing_to_say_are_refused(online_config: Any, keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        train(online_config(judge_model="m", **keys))


def test_judges_that_watch_are_asked_about_held_out_prompts_only(online_config: Any, letters_judge: Path) -> None:
    """Not about the first responses of SPO either: 2 held-out prompts at steps 0 and 2."""
    watch = [{"judge": str(letters_judge), "name": "other"}]
    config = online_config(
        method="spo", group_size=1, first_samples=2, batch_size=3, epochs=1, validation=0.25, eval_steps=2, watch=watch
    )
    train(config)
    journal = [
        json.loads(line) for line in (config.output / "rollouts/process-0/rewards.jsonl").read_text().splitlines()
    ]
    watched = {row["id"] for row in journal if "other" in row["values"][0]}
    assert watched == {f"held-out {step} {position}" for step in (0, 2) for position in (0, 1)}
    assert sum(row["id"].startswith("first") for row in journal) == 6


def test_a_run_that_begins_again_has_each_evaluation_once(
    online_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted before its first checkpoint, when it had evaluated the policy it starts with."""
    from rlaif.training.trainer import PolicyTrainer

    settings: dict[str, Any] = {"validation": 0.25, "epochs": 1, "eval_steps": 1}
    whole, broken = online_config(**settings), online_config(**settings, output=tmp_path / "broken")
    train(whole)
    with monkeypatch.context() as patch:
        patch.setattr(PolicyTrainer, "learn", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train(broken)
    train(broken)
    assert_same_run(whole.output, broken.output)


def test_what_changes_the_samples_can_not_change_in_a_run(online_config: Any) -> None:
    """Where the server is may change; whether rollouts are one ahead may not."""
    config = online_config(rollouts={"engine": "server", "base_url": "http://a/v1"})
    moved = online_config(rollouts={"engine": "server", "base_url": "http://b/v1"})
    ahead = online_config(rollouts={"engine": "server", "base_url": "http://a/v1", "ahead": True})
    write_manifest(config.output, start_manifest(config, "hash"))
    checkpoint = config.output / "checkpoints/checkpoint-1"
    checkpoint.mkdir(parents=True)
    (checkpoint / "complete.json").write_text("{}")
    assert check_same_run(config.output, moved, "hash") is not None
    with pytest.raises(ConfigError, match=r"rollouts: was .*false.*, now .*true"):
        check_same_run(config.output, ahead, "hash")


def test_log_probs_have_the_temperature_of_rollouts_and_of_nothing_else(online_config: Any, train_config: Any) -> None:
    """SPIN samples at a temperature too, and its loss is of the policy as it is."""
    assert temperature_of(load_policy(online_config(temperature=0.7)).model) == 0.7
    assert temperature_of(load_policy(train_config(method="spin", temperature=0.7)).model) == 1.0
