"""Whole runs of all weights whose rollouts a server answers: what it is given at each step, and what it does wrong.

The server is a stand-in that holds the tiny model (tiny_vllm.py); tests/engines/test_vllm_rollouts.py has the real one.
"""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import killing
import pytest
import torch
from runs import in_process
from tiny import build_llama, build_tokenizer
from tiny_vllm import TinyVllm

from rlaif.errors import EngineError
from rlaif.models import load_model
from rlaif.training import train
from rlaif.training.checkpoints import read_metrics
from rlaif.training.online import session, vllm_weights
from rlaif.training.policy import load_policy


@pytest.fixture
def full_config(served_config: Callable[..., Any]) -> Callable[..., Any]:
    """The configuration of a run of all weights by a server; keywords replace keys."""
    return lambda url, **changes: served_config(url, **{"full": True, "learning_rate": 1e-3, **changes})


def kinds(events: list[str]) -> list[str]:
    """What happened, and to the weights of which step, each once in a row."""
    short = [f"{event.split()[0]} {event.rsplit('-', 1)[1] if 'rlaif-' in event else 'own'}" for event in events]
    return [one for number, one in enumerate(short) if number == 0 or short[number - 1] != one]


def test_each_step_s_weights_are_read_named_and_checked(full_config: Any, server: TinyVllm, model_folder: Path) -> None:
    """4 rollouts, of the policy after 0, 1, 2 and 3 steps; at the end the server has its own weights again."""
    config = full_config(server.url)
    train(config)
    steps = [f"{verb} {step}" for step in range(4) for verb in ("read", "name", "sample")]
    assert kinds(server.events)[:-2] == steps
    assert server.events[-2:] == [f"read {model_folder}", "name default"]
    lines = read_metrics(config.output / "metrics.jsonl")
    assert len(lines) == 4
    assert max(line["sampling/policy_gap"] for line in lines) < 1e-4
    assert max(line["sampling/sampling_logp_difference/mean"] for line in lines) < 1e-4
    assert not (config.output / "weights").exists()
    trained, before = load_model(str(config.output), "float32", "cpu"), load_model(str(model_folder), "float32", "cpu")
    key = "model.layers.0.mlp.down_proj.weight"
    assert not trained.state_dict()[key].equal(before.state_dict()[key])


def test_a_server_that_was_started_anew_is_given_the_weights_again(full_config: Any, server: TinyVllm) -> None:
    """Its own weights answer in the middle of step 1's rollout, and say so: nothing of theirs is learnt from."""
    own, forgot = server.weights, []

    def forget(choice: Any) -> None:
        if (
            server.version.endswith("-1")
            and len(server.events) > 1
            and server.events[-2] == server.events[-1]
            and not forgot
        ):
            server.version, server.weights = "default", own
            forgot.append(True)

    server.spoil = forget
    config = full_config(server.url, rollouts={"engine": "server", "base_url": server.url, "concurrency": 1})
    train(config)
    assert forgot
    assert [one for one in kinds(server.events) if one.startswith("read")] == [
        "read 0", "read 1", "read 1", "read 2", "read 3", "read own",
    ]  # fmt: skip
    lines = read_metrics(config.output / "metrics.jsonl")
    assert max(line["sampling/sampling_logp_difference/mean"] for line in lines) < 1e-4


def test_answers_of_other_weights_are_never_learnt_from(full_config: Any, server: TinyVllm) -> None:
    """Another run names its weights all the time."""
    server.spoil = lambda choice: choice["weight_versions"][0].update(version="rlaif-other-3")
    config = full_config(server.url)
    with pytest.raises(EngineError, match=r"takes the policy .* does not answer with it; does another run use it\?"):
        train(config)
    assert not (config.output / "rollouts/process-0/samples.jsonl").read_text()


def test_old_weights_under_a_new_version_are_noticed(
    full_config: Any, server: TinyVllm, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tiny_vllm

    own = server.weights
    monkeypatch.setattr(tiny_vllm, "load_model", lambda *given: own)
    with pytest.raises(EngineError, match=r"answers with other log-probs .* must serve a model of the shape"):
        train(full_config(server.url))


def test_a_cache_that_is_in_use_is_waited_for_and_not_forever(
    full_config: Any, server: TinyVllm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_weights, "FIRST_PAUSE_SECONDS", 0.01)
    server.busy = 3
    train(full_config(server.url))
    server.busy = 10**9
    with pytest.raises(EngineError, match="can not empty its prefix cache"):
        train(full_config(server.url, patience_minutes=0.001, output=full_config(server.url).output.with_name("other")))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda choice: choice.pop("weight_versions"), "can not be read"),
        (lambda choice: choice.update(weight_versions=None), r"does not say which weights .*vLLM 0\.32 or newer"),
        (lambda choice: choice.update(logprobs=None), "can not be read"),
        (lambda choice: choice["token_ids"].append(5), "can not be read"),
        (lambda choice: choice.update(finish_reason="abort"), "can not be read"),
    ],
)
def test_an_answer_without_what_is_learnt_from_is_one_message(
    full_config: Any, server: TinyVllm, spoil: Any, message: str
) -> None:
    server.spoil = spoil
    with pytest.raises(EngineError, match=message):
        train(full_config(server.url))


def test_weights_are_written_in_the_format_they_are_used_in(
    full_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In bfloat16, computed over float32 weights: head and embeddings, which are one, once."""
    tied = tmp_path / "tied"
    build_llama(torch.float32, tie_word_embeddings=True).save_pretrained(tied)
    build_tokenizer().save_pretrained(tied)
    from safetensors.torch import load_file

    seen = []
    own = session.save_weights

    def watched(policy: Any, folder: Path) -> None:
        own(policy, folder)
        seen.append(load_file(folder / "model.safetensors"))

    monkeypatch.setattr(session, "save_weights", watched)
    with TinyVllm(tied) as server:
        train(full_config(server.url, model=str(tied), dtype="bfloat16"))
    assert len(seen) == 4
    for weights in seen:
        assert "model.embed_tokens.weight" in weights
        assert "lm_head.weight" not in weights
        assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}


def test_a_server_that_was_given_nothing_keeps_its_weights_unasked(
    full_config: Any, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with TinyVllm(model_folder, loads=False) as server, pytest.raises(EngineError):
        train(full_config(server.url))
    assert "still has weights" not in capsys.readouterr().err


def test_vllm_in_the_run_starts_with_the_base_of_an_adapter(online_config: Any, tmp_path: Path) -> None:
    """Trained whole from an adapter, the policy is given to vLLM, which can not start with an adapter."""
    first = online_config(output=tmp_path / "first", trainer={"max_steps": 1})
    train(first)
    config = online_config(model=str(tmp_path / "first"), full=True, rollouts={"engine": "vllm"})
    vllm = session._vllm(config, load_policy(config))
    assert vllm.model == str(Path(first.model).resolve())


def test_a_server_that_does_not_answer_by_tokens_is_told_how_to_start(full_config: Any, server: TinyVllm) -> None:
    server.by_tokens = False
    with pytest.raises(EngineError, match=r"does not answer by tokens \(HTTP 403\); start it with --enable-scale-out"):
        train(full_config(server.url))


def test_a_server_that_takes_no_weights_is_told_how_to_start(full_config: Any, model_folder: Path) -> None:
    with (
        TinyVllm(model_folder, loads=False) as server,
        pytest.raises(EngineError, match=r"VLLM_SERVER_DEV_MODE=1 \(vLLM 0\.32 or newer\)$"),
    ):
        train(full_config(server.url, patience_minutes=60))


def test_a_killed_run_goes_on_with_a_server_that_has_its_old_weights(full_config: Any, server: TinyVllm) -> None:
    config = full_config(server.url)
    done = in_process(config, killing.AT_STEP_2 + "train(config)\n")
    assert done.returncode == -signal.SIGKILL, done.stderr[-3000:]
    assert server.version.endswith("-2")
    server.events.clear()
    train(config)
    assert [one for one in kinds(server.events) if one.startswith("read")] == ["read 2", "read 3", "read own"]
    assert [line["step"] for line in read_metrics(config.output / "metrics.jsonl")] == [1, 2, 3, 4]
